"""A sync brings a service's tables to where the living monolith stands.

Replication keeps the mirror current. `split.sync()`, which dbt has made in the service's database,
applies what has changed to the service's tables. A heartbeat, a row that is written in the monolith
and replicated like any other, tells how far both are, by the monolith's own clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

import psycopg
from psycopg import Error, errors

from pgsplit.base.errors import BuildFailed, Busy, ConnectionFailed, NotReady, SplitError
from pgsplit.postgres import holders
from pgsplit.postgres.connect import describe
from pgsplit.postgres.retry import CONFLICTS, EXHAUSTED, retrying
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import continuity
from pgsplit.replication.independent import Sources, on_their_own, open_streams
from pgsplit.replication.own_changes import Harm, own_changes
from pgsplit.replication.session import lock_syncs
from pgsplit.replication.shared import SharedStream
from pgsplit.replication.slot import Connection
from pgsplit.replication.stream import BaseStream, Stream
from pgsplit.replication.upstreams import Upstreams
from pgsplit.state.control import open_control
from pgsplit.state.ledger import State, state

# How often a sync is tried, and the first pause, which doubles: five seconds in all.
SYNC_TRIES = 10
FIRST_PAUSE_SECONDS = 0.01

Found = TypeVar("Found")


@dataclass(frozen=True)
class Synced:
    """What a sync did: rows by table, seconds, and the monolith's time that the tables show.

    `quarantined` counts by table of the schema audit the rows that were copied there before they
    were replaced. `warnings` name streams that prove nothing any more.
    """

    upserted: Mapping[str, int]
    deleted: Mapping[str, int]
    seconds: float
    as_of: datetime | None
    quarantined: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Rows written, of all tables."""
        return sum(self.upserted.values()) + sum(self.deleted.values())


def built(connections: Connections) -> list[Service]:
    """Find the services that have been built, in phase order.

    Args:
        connections: where the control database is, which knows. Without it, the services' own
            databases know, once all of them are independent.

    Raises:
        ConnectionFailed: it can't be reached, and a service may need the monolith.
        NotReady: there is none.
    """
    services = connections.project.services.values()
    try:
        with open_control(connections) as monolith:
            found = [s for s in services if state(monolith, s).reached(State.BUILT)]
    except ConnectionFailed as error:
        found = on_their_own(services, connections)
        if len(found) < len(services):
            raise _some_need(found, error) from error
    if not found:
        raise NotReady(
            "No service has been built, so there is nothing to sync.",
            where=describe(connections.control_url),
            hint="runner.py run",
        )
    return found


def _some_need(found: Sequence[Service], error: ConnectionFailed) -> ConnectionFailed:
    """Say that the monolith can't be reached, and which services don't need it."""
    if not found:
        return error
    names = " ".join(one.role for one in found)
    return ConnectionFailed(
        f"{error.what}\nThe others need it, or can't be reached either; these don't: {names}.",
        where=error.where,
        hint=f"{error.hint}\nor name those that don't need it: {names}",
        **error.fields,
    )


def sync(service: Service, connections: Connections) -> Synced:
    """Bring a service's tables to where the monolith stands now.

    Args:
        service: a service that has been built.
        connections: where the servers are.

    Returns:
        Rows upserted and deleted by table, and seconds.

    Raises:
        NotReady: the service has not been built, a stream has lost a part, or replication has
            stopped.
        SourceMismatch: the monolith's tables are no longer those that have landed.
        BuildFailed: rows break a rule of the service's tables. Nothing was changed, and no change
            is lost.
    """
    started = time.monotonic()
    with open_streams(service, connections) as found:
        done = bring_up(found)
        if isinstance(found, Upstreams):
            if found.back:
                found.back.arrive()
            warnings = tuple(str(breach.error()) for breach in found.breaches)
            done = replace(done, warnings=warnings)
    return replace(done, seconds=time.monotonic() - started)


def bring_up(found: Upstreams | Sources) -> Synced:
    """Bring a service's tables to where the databases stand that its data come from.

    Args:
        found: its streams.

    Raises:
        SplitError: see `sync`.
    """
    if isinstance(found, Sources):
        return _from_owners(found)
    arrive(found)
    return apply_changes(found.database)


def arrive(upstreams: Upstreams) -> None:
    """Wait until a service's mirror has everything that is committed where its data come from.

    Args:
        upstreams: the streams of a service that has been built.

    Raises:
        NotReady: replication is paused or broken, or nothing has moved for a minute.
        SourceMismatch: it stopped because the monolith's tables have changed.
    """
    for stream in upstreams.incoming:
        try:
            _arrive(stream)
        except NotReady as error:
            raise upstreams.why_stopped(stream, error) from error


def _arrive(stream: BaseStream) -> None:
    if isinstance(stream, SharedStream):
        apply_changes(stream.source)  # to the owner's mirror, from which the stream reads
    stream.arrive()


def _from_owners(found: Sources) -> Synced:
    """Bring an independent service to where its owners stand; an owner that is down keeps no other.

    Raises:
        SplitError: an owner's rows could not arrive; all that had arrived was applied.
    """
    failed, warnings = [], []
    for owner in found.owners:
        try:
            with found.stream_from(owner, found.database) as stream:
                if breach := continuity.look_if_due(stream):
                    warnings.append(str(breach.error()))
                stream.require_unbroken()
                _arrive(stream)
        except SplitError as error:
            failed.append(error)
    done = apply_changes(found.database)
    if failed:
        first, *others = failed
        name = found.service.database
        said = [first.what, f"{name} has applied all that has arrived; the rest waits there."]
        said += [f"Also: {other.what} ({other.where})" for other in others]
        raise type(first)(
            "\n".join(said), where=first.where, hint=first.hint, **first.fields
        ) from first
    return replace(done, warnings=tuple(warnings))


def apply_changes(database: Connection, within_seconds: float = 0.0) -> Synced:
    """Run `split.sync()` once; see `apply_changes_and_look`."""
    return apply_changes_and_look(database, lambda inside: None, within_seconds)[0]


def apply_changes_and_look(
    database: Connection, look: Callable[[Connection], Found], within_seconds: float = 0.0
) -> tuple[Synced, Found]:
    """Run `split.sync()` once and look at the result; retried if somebody wrote the same rows.

    Args:
        database: an autocommit connection to a service's database.
        look: called in the same transaction, which sees mirror and tables in one state. No other
            sync runs meanwhile.

    Returns:
        Rows upserted and deleted by table, and seconds; and what `look` has found.

    Raises:
        BuildFailed: rows break a rule of the service's tables, or these are no longer as they were
            made. Nothing was changed, and no change is lost.
        Busy: somebody else was in the way at every try, has locked a table, or the server has no
            room.
        psycopg.errors.LockNotAvailable: somebody else had a lock for longer than `within_seconds`.
    """
    started = time.monotonic()

    def is_over() -> bool:
        return bool(within_seconds) and time.monotonic() - started > within_seconds

    try:
        with _failure_recorded(database):
            return retrying(
                CONFLICTS,
                tries=SYNC_TRIES,
                seconds=FIRST_PAUSE_SECONDS,
                doubles=True,
                until=is_over,
            )(_apply_once, database, look, started, within_seconds)
    except errors.LockNotAvailable as error:
        if within_seconds:
            raise
        found = holders.refusal([database], error)
        raise Busy(found.what, where=found.where, hint=found.hint) from error
    except CONFLICTS as error:
        raise Busy(
            f"A sync failed {SYNC_TRIES} times: {error.diag.message_primary}",
            where=describe(database.info.dsn),
            hint="Nothing was changed. Try again when that is over.",
        ) from error
    except EXHAUSTED as error:
        raise exhausted(error, database) from error
    except (errors.IntegrityError, errors.DataError, errors.ProgramLimitExceeded) as error:
        said = filter(None, (error.diag.message_primary, error.diag.message_detail))
        raise BuildFailed(
            "Rows of the monolith break a rule of a service's table: " + "\n  ".join(said),
            where=describe(database.info.dsn),
            hint="Fix the rows in the monolith, or loosen the rule in the model's yml and in the"
            " table. Nothing was changed, and what has changed in the monolith is kept for the"
            " next sync.",
        ) from error
    except (errors.ProgrammingError, errors.RaiseException) as error:
        raise _changed(database, error) from error


def _changed(database: Connection, error: psycopg.Error) -> BuildFailed:
    """Say what a table is like now that a sync can't work with, or that a trigger refuses."""
    changed = []
    with suppress(NotReady):  # somebody has locked a table; what failed counts
        changed = own_changes(database)
    fixes = [one.hint for one in changed if one.harm not in (Harm.NONE, Harm.LATER)]
    said = [error.diag.message_primary or str(error).strip()]
    said += [one.what for one in changed if fixes or "trigger" in one.what]
    return BuildFailed(
        "A sync failed: " + "\n  ".join(dict.fromkeys(said)),
        where=describe(database.info.dsn),
        hint="\n".join(fixes)
        or error.diag.message_hint
        or "Fix the cause. Nothing was changed, and no change is lost.",
    )


@contextmanager
def _failure_recorded(database: Connection) -> Iterator[None]:
    """Record why a sync fails, for `status`; the next one that succeeds removes it."""
    try:
        yield
    except Error as error:
        # Not if the server is gone, nor in a schema of an older version.
        with suppress(Error):
            database.execute(
                "update split.service"
                " set failed_at = coalesce(failed_at, clock_timestamp()), failure = %s",
                (error.diag.message_primary or str(error),),
            )
        raise


def exhausted(error: psycopg.Error, database: Connection) -> Busy:
    """Give the error for a server that has no room, memory or connection left."""
    return Busy(
        f"The server can't take it now: {error.diag.message_primary or error}",
        where=describe(database.info.dsn),
        hint="Make room there: a larger disk, or less on it. No change is lost: it waits where it"
        " came from.",
    )


def _apply_once(
    database: Connection, look: Callable[[Connection], Found], started: float, within_seconds: float
) -> tuple[Synced, Found]:
    with database.transaction():
        database.execute("set transaction isolation level repeatable read")
        if within_seconds:  # else without a limit: the sync before this one may take long
            database.execute(f"set local lock_timeout = {holders.milliseconds(within_seconds)}")
        # The lock comes before the snapshot, which so contains what the sync before has done.
        lock_syncs(database)
        if not within_seconds:  # but who has locked a table of the service's is named
            database.execute(f"set local lock_timeout = '{holders.PATIENCE}'")
        rows = database.execute("select * from split.sync()").fetchall()
        as_of = database.execute("select as_of from split.service").fetchone()
        kept = {table: rows for table, rows, _ in rows if table.startswith("audit.")}
        synced = Synced(
            {table: upserted for table, upserted, _ in rows if table not in kept},
            {table: deleted for table, _, deleted in rows if table not in kept},
            time.monotonic() - started,
            as_of[0] if as_of else None,
            kept,
        )
        return synced, look(database)


def how_far(found: Stream | Sources, ahead_seconds: float = 0.0) -> tuple[int, float | None]:
    """Tell how far a service's tables are behind.

    Args:
        found: the streams to a service that has been built.
        ahead_seconds: how far the monolith's clock is ahead of the service's, if only that of the
            service is asked.

    Returns:
        How many captured changes its tables do not show yet, and how old what they show is, in
        seconds by the monolith's clock, or by its own if it is independent; None before the first
        sync.
    """
    row = found.database.execute(
        "select (select count(*) from split.changes), as_of from split.service"
    ).fetchone()
    assert row is not None
    if isinstance(found, Sources) and not found.owners and not found.needs_monolith:
        return int(row[0]), 0.0
    clock = found.database if isinstance(found, Sources) else found.monolith
    age = clock.execute(
        "select extract(epoch from clock_timestamp() - %s::timestamptz)::float", (row[1],)
    ).fetchone()
    if age is None or age[0] is None:
        return int(row[0]), None
    return int(row[0]), max(age[0] + ahead_seconds, 0.0)
