"""Shared streams: once an owner is completed, its consumers get what they share from it.

As long as the monolith has an owner's tables, services that share columns of them get them from
there. When the owner is completed they are re-parented: to a publication of the owner's mirror,
whose tables have the same names and columns. The mirror stands still for that moment, so no change
is lost and none arrives twice. No writer has to wait.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import continuity, forgotten
from pgsplit.replication.session import Session, lock_syncs
from pgsplit.replication.slot import Connection
from pgsplit.replication.stream import BaseStream, Stream
from pgsplit.replication.subscription import drop_tables, published
from pgsplit.state.ledger import State, state


@dataclass(frozen=True)
class SharedStream(BaseStream):
    """The stream from an owner's mirror to the mirror of a service that shares columns of it.

    `monolith` is None for a service that works without it; see `independent`.
    """

    service: Service
    monolith: Connection | None
    database: Connection
    owner: Service
    owner_database: Connection

    @property
    def control(self) -> Connection | None:
        """Where ledger and states are; None for a service that works without them."""
        return self.monolith

    @property
    def name(self) -> str:
        """The name of publication, slot and subscription."""
        return stream_name(self.service, self.owner)

    @property
    def source(self) -> Connection:
        """The database that publishes and keeps the slot."""
        return self.owner_database

    @property
    def source_name(self) -> str:
        """The source's target name, by which its URL is known."""
        return self.owner.database

    @property
    def heartbeat_key(self) -> str:
        """The key of its row in `split.heartbeats`, at source and target."""
        return f"{self.service.database} from {self.owner.database}"

    @property
    def labels(self) -> tuple[str, str]:
        """Source and target by name, for people."""
        return self.owner.database, self.service.database

    @property
    def fixed_by(self) -> str:
        """The command that fixes a stream that has lost a part."""
        return f"runner.py repair {self.service.role}"


def stream_name(consumer: Service, owner: Service) -> str:
    """Name the shared stream from an owner to a service that shares its columns."""
    return f"{consumer.replication}_from_{owner.database}"


def shared(owner: Service, consumer: Service) -> dict[str, tuple[str, ...]]:
    """Name an owner's tables that a service shares columns of, and those columns."""
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
    """Name the services whose tables a service shares columns of."""
    return [one for one in consumer.project.services.values() if shared(one, consumer)]


def completed_owners(monolith: Connection, consumer: Service) -> list[Service]:
    """Name those of its owners that are completed: their tables come by shared streams."""
    return [one for one in owners(consumer) if state(monolith, one) is State.COMPLETED]


def require_owners_remembered(
    monolith: Connection, consumer: Service, connections: Connections
) -> None:
    """Refuse a service if the monolith has forgotten a cutover of one whose tables it shares.

    Its rows in the monolith, or the stream that they come by, may be the wrong ones.

    Args:
        monolith: a connection to it.
        consumer: the service that is about to compare or copy what it shares.
        connections: where the owners' databases are.

    Raises:
        ConnectionFailed: an owner's database can't be reached.
        NotReady: see `forgotten.problem`.
    """
    for owner in owners(consumer):
        if state(monolith, owner).reached(State.LANDED):
            with connections.connect(owner.database) as database:
                if forgotten.forgotten(owner, monolith, database) in forgotten.BY_MONOLITH:
                    forgotten.require_remembered(owner, monolith, database)


def needs_monolith(monolith: Connection, service: Service) -> bool:
    """Tell whether a service still gets anything from the monolith."""
    if state(monolith, service) is not State.COMPLETED:
        return True
    return any(state(monolith, one) is not State.COMPLETED for one in owners(service))


def reparent(session: Session, consumer: Service, stream: Stream, connections: Connections) -> None:
    """Let a consumer get an owner's tables from the owner instead of the monolith; idempotent.

    No change is lost and none arrives twice. Under the sync lock the owner's mirror stands still.
    All of it has arrived from the monolith before the new slot is created, and the monolith no
    longer publishes the tables when the lock is released.

    Args:
        session: the session of the owner, which is switched.
        consumer: the service that shares.
        stream: its stream from the monolith.
        connections: where the owner's database is, as the consumer's server reaches it.

    Raises:
        NotReady: a stream is broken, or the consumer's server can't reach the owner's.
    """
    tables = shared(session.service, consumer)
    shared_stream = SharedStream(
        consumer, stream.monolith, stream.database, session.service, session.database
    )
    if published(stream.monolith, stream.name) & set(tables):
        shared_stream.remove()
        # A separate connection for the lock: the others commit at once what they write meanwhile.
        with connections.connect(session.service.database) as holder, holder.transaction():
            lock_syncs(holder)
            session.reverse.arrive()
            stream.arrive()
            shared_stream.create(tables, connections)
            shared_stream.create_slot()
            with stream.monolith.transaction():
                drop_tables(stream.monolith, stream.name, consumer.mirror, list(tables))
    # An interrupted run that is resumed here finds everything created, and only enables it.
    shared_stream.enable()
    shared_stream.arrive()
    continuity.look(shared_stream)
