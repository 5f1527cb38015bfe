"""The status of a service as far as its own database tells: the control database is down."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import errors

from pgsplit.base.errors import ConnectionFailed, SplitError
from pgsplit.observe import lag
from pgsplit.observe.status import (
    Status,
    connected,
    look_at_records,
    look_at_shared,
    look_at_tables,
)
from pgsplit.postgres.refusals import NO_DATABASE
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import requirements
from pgsplit.replication.independent import Sources, sources
from pgsplit.replication.slot import Connection
from pgsplit.replication.sync import how_far
from pgsplit.state.ledger import State

STANDS = """
    select
        case
            when completed_at is not null then 'completed'
            when switched_at is not null then 'switched'
            when exists (select from split.service_tables) then 'built'
            else 'provisioned'
        end
    from split.service
"""


def own_statuses(
    services: Sequence[Service],
    connections: Connections,
    unreached: ConnectionFailed,
    max_lag: float | None = None,
) -> tuple[list[Status], ConnectionFailed]:
    """Ask services' own databases how they stand, and the owners that they follow.

    Args:
        services: the services.
        connections: where the servers are.
        unreached: why the control database can't be reached.
        max_lag: the lag in seconds to warn above; by default the project's.

    Returns:
        The status of each service that tells, without what only the ledger or the monolith knows;
        and the error, which also names the databases that can't be reached either.
    """
    found, said = [], [unreached.what]
    for service in services:
        try:
            if one := _own_status(service, connections, max_lag or connections.max_lag_seconds):
                found.append(one)
        except SplitError as error:
            if error.what.startswith(NO_DATABASE):
                continue  # not provisioned yet
            said.append(f"Also: {error.what} ({error.where})")
    if found:
        said.insert(1, "What services' own databases tell is shown; the ledger knows more.")
    whole = ConnectionFailed(
        "\n".join(said), where=unreached.where, hint=unreached.hint, **unreached.fields
    )
    return found, whole


def _own_status(service: Service, connections: Connections, limit: float) -> Status | None:
    with connected(connections, service.database) as database:
        requirements.provisioned(database, service)
        try:
            row = database.execute(STANDS).fetchone()
        except (errors.UndefinedTable, errors.UndefinedColumn):
            return None  # not provisioned, or by an earlier version
        if row is None:
            return None
        found = Status(service, State(row[0]))
        if found.state.reached(State.BUILT):
            _look(found, connections, database, limit)
        return found


def _look(found: Status, connections: Connections, database: Connection, limit: float) -> None:
    service = found.service
    known = sources(service, connections, database)
    for owner in known.owners if known else ():
        look_at_shared(owner, connections, None, database, found)
    if known is None or known.needs_monolith:
        found.replication = "unknown"
    around = known or Sources(service, connections, database, (), True)
    look_at_tables(database, found, how_far(around))
    look_at_records(database, None, found)
    found.warnings += lag.warnings(
        service,
        limit,
        mirror=found.mirror_lag_seconds,
        tables=None if around.needs_monolith else found.lag_seconds,
        pending=found.pending,
        monolith=None,
    )
