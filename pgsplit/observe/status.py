"""The state of each service, and how far it is behind the monolith."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from psycopg import errors, sql

from pgsplit.base.errors import ConnectionFailed, SplitError
from pgsplit.cutover import retire
from pgsplit.observe import complaints, lag
from pgsplit.observe.complaints import FOLLOWER_IS_AT_WORK_SECONDS, NO_FOLLOWER
from pgsplit.postgres.connect import SHORT_TIMEOUT_SECONDS, explained
from pgsplit.project import drift
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import continuity, forgotten, login, requirements, triggers
from pgsplit.replication.own_changes import Harm, can_tell_of_completed, own_changes
from pgsplit.replication.reverse import ReverseStream
from pgsplit.replication.session import Session
from pgsplit.replication.shared import SharedStream, completed_owners, needs_monolith
from pgsplit.replication.slot import Connection, slot
from pgsplit.replication.stream import BaseStream, Stream
from pgsplit.replication.sync import how_far
from pgsplit.routing import env_file, faults
from pgsplit.routing.env_file import Side
from pgsplit.routing.routes import load
from pgsplit.state import throttled
from pgsplit.state.control import open_control
from pgsplit.state.ledger import State, completed, state
from pgsplit.state.saga import left_unfinished

PROBE_SECONDS = 2.0
PROBE_INTERVAL_SECONDS = 0.02

ROWS = """
    select class.relname, greatest(class.reltuples, 0)::bigint
    from split.service_tables as tables
    inner join pg_class as class on class.oid = tables.table_oid
    order by class.relname
"""
SYNCED = """
    select
        synced_at,
        exists (select from split.service_tables where is_stale)
        or exists (select from split.mirror_tables where is_stale)
    from split.service
"""
# Null while a sync is under way, however long it takes.
LAST_SYNC = """
    select extract(epoch from clock_timestamp() - synced_at)::float
    from split.service
    where not exists (
        select from pg_locks where relation = 'split.turn'::regclass and granted
    )
"""
FAILED_SYNC = """
    select failed_at::timestamptz(0)::text, failure from split.service where failed_at is not null
"""
QUARANTINED = """
    select current_database() || '.audit.' || kept_in, rows from split.quarantined
    where to_regclass(format('audit.%I', kept_in)) is not null
    order by kept_in
"""
# An unused sequence has the same last_value as after its first number; is_called tells them apart.
CACHE = """
    select hits.last_value + hits.is_called::integer, misses.last_value + misses.is_called::integer
    from {hits} as hits, {misses} as misses
"""


@dataclass
class Status:
    """The status of a service; a field that does not apply to its state is None.

    `mirror_lag_seconds` is the time that a row needs from the monolith to the mirror, or the age of
    the mirror if the row doesn't arrive. `lag_seconds` is the age of the service's tables, and
    `pending` counts the captured changes that are not yet applied to them. `rows` are the planner's
    estimates. `way_back` is the status of a switched service's reverse stream, with the same
    measures. `caches` counts by entity how often a shared row was found here, and how often its
    owner was asked. `quarantined` counts rows by the table that keeps them.
    """

    service: Service
    state: State
    replication: str = ""
    lag_bytes: int | None = None
    mirror_lag_seconds: float | None = None
    lag_seconds: float | None = None
    pending: int | None = None
    synced_at: datetime | None = None
    wal_kept_bytes: int | None = None
    wal_limit_bytes: int | None = None
    way_back: str = ""
    way_back_lag_seconds: float | None = None
    way_back_kept_bytes: int | None = None
    reads_at: str = ""
    writes_at: str = ""
    feeds: dict[str, float | None] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    caches: dict[str, tuple[int, int]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    quarantined: dict[str, int] = field(default_factory=dict)


def status(service: Service, connections: Connections, max_lag: float | None = None) -> Status:
    """Check one service on both sides.

    Writes only heartbeats, to time replication.

    Args:
        service: the service.
        connections: where the servers are.
        max_lag: the lag in seconds to warn above; by default the project's.

    Returns:
        The service's status, with a warning and a fix for each problem.

    Raises:
        ConnectionFailed: the control database can't be reached. If the service's own server can't,
            that is a warning.
    """
    with open_control(connections) as monolith:
        found = Status(service, state(monolith, service))
        found.notes += retire.notes(monolith, connections)
        if said := throttled.says(monolith):
            found.notes.append(f"The running operation's throttle: {said}")
        if not found.state.reached(State.PROVISIONED):
            _look_for_strange_file(found, connections)
            return found
        if service.database in (left := left_unfinished(monolith)):
            operation = left[service.database].detail["operation"]
            blocks_writers = operation in ("switch", "rollback")
            found.warnings.append(
                f"The last {operation} of {service.database} was interrupted, or is under way."
                + blocks_writers * " Until it is finished, writers may be blocked on both sides."
                + "\n  hint:  runner.py resume"
            )
            routes = []
        else:
            routes = _look_at_routes(found, connections, monolith)
        if not found.state.reached(State.LANDED):
            _look_for_half_landed(monolith, found)
            _warn_of_faults(found, routes)
            return found
        is_needed = needs_monolith(monolith, service)
        if is_needed:
            _look_at_slot(monolith, found)
        try:
            with connected(connections, service.database) as database:
                requirements.provisioned(database, service)
                stream = Stream(service, monolith, database)
                if is_needed:
                    _look(stream, found)
                    found.notes += login.notes_of(stream, connections)
                for owner in completed_owners(monolith, service):
                    look_at_shared(owner, connections, monolith, database, found)
                _look_at_triggers(stream, found)
                back = ReverseStream(service, monolith, database)
                _look_at_reverse(back, found)
                found.notes += login.notes_of(back, connections)
                if found.state.reached(State.BUILT):
                    pending, lags = how_far(stream)
                    # Nothing comes to a completed service that shares nothing.
                    lags = lags if is_needed or found.feeds else None
                    look_at_tables(database, found, (pending, lags))
                    look_at_records(database, monolith if found.way_back else None, found)
                    if found.reads_at == Side.SERVICE.value or found.state.reached(State.SWITCHED):
                        _warn_of_no_follower(stream, found)
                    if problem := forgotten.problem(service, monolith, database):
                        routes = []  # what puts it right writes them, too
                        found.warnings.append(str(problem).replace(" Nothing was changed.", ""))
                    _look_at_own_changes(database, found)
                    _look_at_fences(Session(service, connections, monolith, database), found)
                found.warnings += lag.warnings(
                    service,
                    max_lag or connections.max_lag_seconds,
                    mirror=found.mirror_lag_seconds,
                    tables=None if NO_FOLLOWER in "".join(found.warnings) else found.lag_seconds,
                    pending=found.pending,
                    monolith=found.way_back_lag_seconds,
                )
        except SplitError as error:
            found.replication = found.replication or "unknown"
            found.warnings.append(str(error))
        _warn_of_faults(found, routes)
    return found


def _look_at_routes(
    found: Status, connections: Connections, monolith: Connection
) -> list[faults.Fault]:
    """Tell a service's routes; give what leads its applications astray."""
    service, is_switched = found.service, found.state.reached(State.SWITCHED)
    if wrong := faults.of_file(service, connections, monolith):
        return wrong
    reads, writes = env_file.sides(service, connections)
    found.reads_at, found.writes_at = reads.value, writes.value
    return faults.wrong_sides(service, connections, monolith, is_switched=is_switched)


def _look_for_strange_file(found: Status, connections: Connections) -> None:
    """Warn of a file that is there before its service, such as one of the demo."""
    try:
        if routes := load(found.service, connections):
            _warn_of_faults(found, faults.strange(found.service, connections, routes))
    except SplitError as error:
        found.warnings.append(str(error))


def _warn_of_faults(found: Status, wrong: list[faults.Fault]) -> None:
    for what, hint in wrong:
        hint = hint.replace("\n", "\n         ")
        found.warnings.append(f"{what}.\n  hint:  {hint}")


def _look(stream: Stream, found: Status) -> None:
    try:
        found.notes += drift.drift(
            stream.monolith, stream.database, stream.service, completed(stream.monolith)
        )
    except SplitError as error:
        found.warnings.append(str(error))
    found.replication, found.mirror_lag_seconds = _look_at_stream(stream, found)


def _look_at_stream(stream: BaseStream, found: Status) -> tuple[str, float | None]:
    """Tell a stream's status in a word, and a heartbeat's time; warn of problems."""
    breach = continuity.look(stream)
    try:
        continuity.require_parts(stream, breach)
    except SplitError as error:
        found.warnings.append(str(error))
        return "broken", None
    if breach:
        found.warnings.append(str(breach.error()))
    subscription = stream.subscription()
    assert subscription is not None
    if not subscription.enabled:
        if found.state.reached(State.BUILT):
            found.warnings.append(str(stream.stopped()))
        return "paused", None
    took = _probe(stream)
    if took is not None:
        return "unproven" if breach else "follows", took
    if subscription.running or subscription.stops_for_a_reason:
        found.warnings.append(str(stream.stopped()))
        return "stopped", None
    return "starting", None


@contextmanager
def connected(connections: Connections, target: str) -> Iterator[Connection]:
    """Connect to a database, not waiting long for it; say which it is if it can't be reached."""
    with (
        connections.connect(target, connect_timeout=SHORT_TIMEOUT_SECONDS) as database,
        explained(connections.url(target), target, database),
    ):
        yield database


def look_at_shared(
    owner: Service,
    connections: Connections,
    monolith: Connection | None,
    database: Connection,
    found: Status,
) -> None:
    """Tell how a service follows a completed owner; one that is down is a warning.

    Args:
        owner: the owner.
        connections: where it is.
        monolith: a connection to it; None if it is not needed, or can't be reached.
        database: a connection to the service's database.
        found: the service's status.
    """
    how, took = "unknown", None
    try:
        with connected(connections, owner.database) as there:
            stream = SharedStream(found.service, monolith, database, owner, there)
            how, took = _look_at_stream(stream, found)
    except ConnectionFailed as error:
        found.warnings.append(str(error))
    found.feeds[owner.database] = took
    found.replication = how if found.replication in ("", "follows") else found.replication
    if found.mirror_lag_seconds is None:
        found.mirror_lag_seconds = took


def _look_at_reverse(stream: ReverseStream, found: Status) -> None:
    if found.state is not State.SWITCHED:
        return
    found.way_back, found.way_back_lag_seconds = _look_at_stream(stream, found)
    if held := stream.slot():
        found.way_back_kept_bytes = held.kept_bytes
        found.warnings += complaints.kept(
            stream.name, held.kept_bytes, held.limit_bytes, found.service.database
        )


def _look_at_triggers(stream: Stream, found: Status) -> None:
    """Warn of what fires where replication writes: in the mirror, and in the monolith's tables."""
    service, sides = stream.service, [(stream.database, stream.service.landed_tables)]
    if found.state is State.SWITCHED:
        sides.append((stream.monolith, service.owned_tables))
    for database, tables in sides:
        names = [f"{service.mirror}.{name}" for name in (*tables,)]
        found.warnings += triggers.warnings(database, names, database.info.dbname)


def _look_at_own_changes(database: Connection, found: Status) -> None:
    """Say what the service has changed of our tables; of a completed one, what others share."""
    if found.state is State.COMPLETED and not can_tell_of_completed(database):
        return
    for change in own_changes(database):
        said = found.notes if change.harm is Harm.NONE else found.warnings
        said.append(str(change))


def look_at_tables(database: Connection, found: Status, far: tuple[int, float | None]) -> None:
    """Tell how far a service's tables are, their rows, and how its caches do.

    Args:
        database: a connection to the service's database.
        found: its status.
        far: see `how_far`.
    """
    found.pending, found.lag_seconds = far
    row = database.execute(SYNCED).fetchone()
    found.synced_at, is_stale = row if row else (None, True)
    if not found.pending and not is_stale and found.mirror_lag_seconds is not None:
        # All that has arrived is applied, whoever did it: the tables are as old as the mirror.
        found.lag_seconds = found.mirror_lag_seconds
    found.rows = dict(database.execute(ROWS).fetchall())
    for model in found.service.project.shared_models:
        hits, misses = (f"{model.entity}_cache_{kind}" for kind in ("hits", "misses"))
        there = database.execute("select to_regclass(%s)", (f"split.{misses}",)).fetchone()
        if there != (None,):
            query = sql.SQL(CACHE).format(
                hits=sql.Identifier("split", hits), misses=sql.Identifier("split", misses)
            )
            if counted := database.execute(query).fetchone():
                found.caches[model.entity] = counted


def _look_at_fences(session: Session, found: Status) -> None:
    fences = session.monolith_fence, session.service_fence
    found.notes += filter(None, [fence.outdated() for fence in fences])


def look_at_records(database: Connection, monolith: Connection | None, found: Status) -> None:
    """Warn of a sync that fails, and tell where rows are quarantined.

    Args:
        database: a connection to the service's database.
        monolith: a connection to it, if it has rows of the service's quarantined.
        found: the service's status.
    """
    try:
        failed = database.execute(FAILED_SYNC).fetchone()
        kept = database.execute(QUARANTINED).fetchall()
        kept += monolith.execute(QUARANTINED).fetchall() if monolith else []
    except (errors.UndefinedColumn, errors.UndefinedTable):
        return  # the schema is of an older version
    if failed:
        found.warnings.append(complaints.failing(found.service, *failed))
    found.quarantined = dict(kept)
    if kept:
        rows = ", ".join(f"{name} ({rows:,} row(s))" for name, rows in kept)
        found.notes.append(f"{found.service.role}: rows that were replaced are kept in {rows}")


def _warn_of_no_follower(stream: Stream, found: Status) -> None:
    row = stream.database.execute(LAST_SYNC).fetchone()
    if found.pending and row and row[0] and row[0] > FOLLOWER_IS_AT_WORK_SECONDS:
        found.warnings.append(complaints.no_follower(found.service, found.pending, row[0]))


def _probe(stream: BaseStream) -> float | None:
    """Give a heartbeat's time to the mirror in seconds; None if the stream has stopped.

    A worker that is busy with a big transaction takes longer, but has not stopped. Then this gives
    the age of the last heartbeat that arrived.
    """
    beat, started = stream.beat(), time.monotonic()
    while not stream.has_arrived(beat):
        if time.monotonic() - started > PROBE_SECONDS:
            subscription = stream.subscription()
            if not subscription or not subscription.running or subscription.blockers:
                return None
            row = stream.target.execute(
                "select max(at) from split.heartbeats where service = %s", (stream.heartbeat_key,)
            ).fetchone()
            return (beat - row[0]).total_seconds() + PROBE_SECONDS if row and row[0] else None
        time.sleep(PROBE_INTERVAL_SECONDS)
    return time.monotonic() - started


def _look_at_slot(monolith: Connection, found: Status) -> None:
    held = slot(monolith, found.service.replication)
    if held is None:
        return  # require_unbroken reports it
    found.lag_bytes = held.behind_bytes
    found.wal_kept_bytes, found.wal_limit_bytes = held.kept_bytes, held.limit_bytes
    found.warnings += complaints.kept(
        found.service.replication, held.kept_bytes, held.limit_bytes, "the monolith"
    )


def _look_for_half_landed(monolith: Connection, found: Status) -> None:
    """Warn of the slot of a landing that was interrupted: nobody reads it."""
    service = found.service
    if held := slot(monolith, service.replication):
        found.wal_kept_bytes = held.kept_bytes
        found.warnings.append(complaints.half_landed(service))
