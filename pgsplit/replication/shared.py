"""Feeds: what services share, once its owner is completed, from the owner's database.

As long as the monolith has an owner's tables, who shares columns of them gets them from there. When
the owner is completed they are handed over: to a publication of the owner's mirror, whose tables
bear the same names and columns. The mirror stands still for the moment of it, so that no change is
lost and none comes twice; nobody who writes is kept waiting.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication.reverse import (
    carry_no_more,
    create_slot,
    publish_and_subscribe,
    published,
)
from pgsplit.replication.session import Session
from pgsplit.replication.stream import Connection, Stream
from pgsplit.state.ledger import State, state


@dataclass(frozen=True)
class SharedStream(Stream):
    """The way from an owner's mirror to that of a service which shares columns of it."""

    owner: Service
    owner_database: Connection

    @property
    def name(self) -> str:
        """The name of publication, slot and subscription."""
        return f"{self.service.replication}_from_{self.owner.database}"

    @property
    def source(self) -> Connection:
        """The end that publishes, and keeps the slot."""
        return self.owner_database

    @property
    def heartbeat_key(self) -> str:
        """The key of its row in `split.heartbeats`, on either end."""
        return f"{self.service.database} from {self.owner.database}"

    @property
    def labels(self) -> tuple[str, str]:
        """Source and target by name, for people."""
        return self.owner.database, self.service.database

    @property
    def fixed_by(self) -> str:
        """What mends a way that has lost a part."""
        return f"runner.py repair {self.service.role}"


def shared(owner: Service, consumer: Service) -> dict[str, tuple[str, ...]]:
    """Name the tables of an owner of which a service has columns, and those columns."""
    return {
        table.name: table.columns_for(consumer.database)
        for table in owner.project.tables.values()
        if table.owner == owner.database != consumer.database
        and table.columns_for(consumer.database)
    }


def consumers(owner: Service) -> list[Service]:
    """Name the services that share columns of an owner's tables."""
    return [one for one in owner.project.services.values() if shared(owner, one)]


def owners(consumer: Service) -> list[Service]:
    """Name the services of whose tables a service has columns."""
    return [one for one in consumer.project.services.values() if shared(one, consumer)]


def completed_owners(monolith: Connection, consumer: Service) -> list[Service]:
    """Name those among them that are completed: their tables come by feeds."""
    return [one for one in owners(consumer) if state(monolith, one) is State.COMPLETED]


def needs_monolith(monolith: Connection, service: Service) -> bool:
    """Tell whether anything that a service has still comes from the monolith."""
    if state(monolith, service) is not State.COMPLETED:
        return True
    return any(state(monolith, one) is not State.COMPLETED for one in owners(service))


def reparent(session: Session, consumer: Service, stream: Stream, connections: Connections) -> None:
    """Hand what a service shares of an owner's tables over from the monolith to the owner.

    Idempotent. No change is lost and none comes twice: under the lock that every sync takes, the
    owner's mirror stands still; all of it has arrived by way of the monolith before the new slot is
    made, and the monolith publishes the tables no more before the lock is let go.

    Args:
        ends: both ends of the owner, which is switched.
        consumer: the service that shares.
        link: its way from the monolith.
        connections: where the owner's database is, as the consumer's server reaches it.

    Raises:
        NotReady: a way is broken, or the consumer's server can't reach the owner's.
    """
    tables = shared(session.service, consumer)
    shared_stream = SharedStream(
        consumer, stream.monolith, stream.database, session.service, session.database
    )
    if published(stream.monolith, stream.name) & set(tables):
        shared_stream.remove()
        # A connection of its own: what is written by the others meanwhile is committed at once.
        with connections.connect(session.service.database) as turn, turn.transaction():
            turn.execute("lock table split.turn in exclusive mode")
            session.reverse.arrive()
            stream.arrive()
            url = connections.for_servers(session.service.database)
            publish_and_subscribe(shared_stream, tables, url)
            create_slot(shared_stream)
            with stream.monolith.transaction():
                carry_no_more(stream.monolith, stream.name, consumer.mirror, list(tables))
    # From here on a run that was cut short finds all made, and only has to let it go on.
    shared_stream.enable()
    shared_stream.arrive()
