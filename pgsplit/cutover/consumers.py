"""What a completion does with the services that share columns of the completed one's tables."""

from __future__ import annotations

from collections.abc import Iterator

from pgsplit.base.errors import NotReady
from pgsplit.cutover import later
from pgsplit.cutover.locks import patiently
from pgsplit.cutover.preflight import PreflightReport
from pgsplit.replication import reach, requirements, shared
from pgsplit.replication.session import Session
from pgsplit.replication.sharing import read_through
from pgsplit.replication.stream import Stream
from pgsplit.replication.subscription import drop_tables
from pgsplit.replication.sync import apply_changes
from pgsplit.state.ledger import Ledger, State


def check(session: Session, ledger: Ledger, found: PreflightReport) -> None:
    """Check that consumers are built, and that there is room for shared streams to all of them."""
    service, connections = session.service, session.connections
    servers: list[tuple[str, int]] = []  # of those before
    for consumer in shared.consumers(service):
        if not ledger.state(consumer).reached(State.BUILT):
            found.add(
                f"{consumer.database} shares columns of its tables and has not been built:"
                " it could not land any more",
                f"runner.py run {consumer.role}",
            )
            continue
        with connections.connect(consumer.database) as database:
            server = (database.info.host, database.info.port)
            promised = (len(servers), servers.count(server))
            servers.append(server)
            try:
                requirements.shared_stream(
                    session.database, database, service, consumer, promised=promised
                )
                stream = shared.SharedStream(
                    consumer, session.monolith, database, service, session.database
                )
                later.try_slot(stream)
                reach.require_reachable(stream, connections)
            except NotReady as error:
                found.add(error.what, error.hint, error.where)


def reparent(session: Session) -> Iterator[str]:
    """Let consumers get what they share from the service; idempotent.

    Yields:
        The database of each, once it does.
    """
    for consumer in shared.consumers(session.service):
        with session.connections.connect(consumer.database) as database:
            stream = Stream(consumer, session.monolith, database)
            apply_changes(session.database)
            shared.reparent(session, consumer, stream, session.connections)
        yield consumer.database


def unpublish(session: Session) -> None:
    """Let the monolith publish the service's tables to nobody; idempotent.

    One that was restored may publish its old tables once more.
    """
    for consumer in shared.consumers(session.service):
        tables = list(shared.shared(session.service, consumer))
        drop_tables(session.monolith, consumer.replication, consumer.mirror, tables)


def end_streams(session: Session, ledger: Ledger) -> list[str]:
    """Remove the streams from the monolith that nothing arrives by any more; idempotent.

    Returns:
        Warnings of services that can't read through to the completed one.
    """
    service, connections = session.service, session.connections
    for one in {service, *shared.consumers(service)}:
        if not shared.needs_monolith(session.monolith, one):
            with connections.connect(one.database) as database:
                stream = Stream(one, session.monolith, database)
                patiently(stream.remove, stream.monolith, stream.database)
                database.execute("delete from split.heartbeats where service = %s", (one.database,))
    if service in read_through.owners(service.project):
        return list(read_through.reconnect_all(connections, ledger))
    return []
