"""Keeps a service's tables in step with the living monolith.

Replication keeps the mirror current; `split.sync()`, which dbt has made in the service's database,
carries over what has changed. A heartbeat, a row written in the monolith and replicated like any
other, tells how far both have got, by the monolith's own clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from threading import Event
from typing import Any, TypeVar

import psycopg
from psycopg import errors

from migration import catalog, preflight
from migration.connections import Connections, describe, explained
from migration.errors import BuildFailed, ConnectionFailed, NotReady, SplitError
from migration.ledger import State, state
from migration.replication import Link
from migration.services import MONOLITH, SERVICES_BY_NAME, Service

PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 1.0
TROUBLE_SECONDS = 3.0
RETRIES = 10
LOCK_TIMEOUT = "10s"

Found = TypeVar("Found")


class Busy(NotReady):
    """Somebody else's writes or locks keep a sync from ending."""


@dataclass(frozen=True)
class Synced:
    """What a sync did: rows by table, seconds, and the moment of the monolith that is there now."""

    upserted: Mapping[str, int]
    deleted: Mapping[str, int]
    seconds: float
    as_of: datetime | None

    @property
    def rows(self) -> int:
        """Rows written, of all tables."""
        return sum(self.upserted.values()) + sum(self.deleted.values())


@dataclass(frozen=True)
class Tick:
    """How a follower stands: rows written since it began, and how far it is behind.

    `lag_seconds` is the age of what the service's tables show, `lag_bytes` the WAL that is still on
    its way, `pending` the changes that have arrived since the last sync.
    """

    service: Service
    rows: int = 0
    rows_per_second: float = 0.0
    lag_seconds: float | None = None
    lag_bytes: int | None = None
    pending: int | None = None
    trouble: str = ""


def built(connections: Connections) -> list[Service]:
    """Find the services that have been built, in phase order.

    Args:
        connections: where the monolith is, whose ledger knows.

    Raises:
        NotReady: there is none.
    """
    with connections.connect(MONOLITH) as monolith:
        found = [s for s in SERVICES_BY_NAME.values() if state(monolith, s).reached(State.BUILT)]
    if not found:
        raise NotReady(
            "No service has been built, so there is nothing to keep in step.",
            where=describe(connections.urls[MONOLITH]),
            mend="runner.py run",
        )
    return found


def sync(service: Service, connections: Connections) -> Synced:
    """Bring a service's tables to where the monolith stands now.

    Args:
        service: a service that has been built.
        connections: where the servers are.

    Returns:
        Rows upserted and deleted by table, and seconds.

    Raises:
        NotReady: the service has not been built; subscription or slot is gone; replication has
            stopped.
        SourceMismatch: the monolith's tables are no longer those that have landed.
        BuildFailed: rows break a rule of the service's tables. Nothing was changed; the changes are
            kept.
    """
    started = time.monotonic()
    with ready(service, connections) as link:
        arrive(link)
        done = carry_over(link.database)
    return Synced(done.upserted, done.deleted, time.monotonic() - started, done.as_of)


def follow(
    service: Service,
    connections: Connections,
    stop: Event,
    on_tick: Callable[[Tick], None],
    interval: float,
) -> None:
    """Keep a service's tables in step until told to stop.

    A server that goes away is waited for. What stops replication, or rows that break a rule, is
    shown and tried again, since it is mended elsewhere. Two followers of a service take turns.

    Args:
        service: a service that has been built.
        connections: where the servers are.
        stop: set to end; a sync that is under way is finished first.
        on_tick: called after every look.
        interval: seconds between two looks.

    Raises:
        SplitError: it can't begin (see `sync`), or a part of the way is gone for good.
    """
    rows, begun = 0, False
    while not stop.is_set():
        try:
            with ready(service, connections) as link:
                begun = True
                # What a crash would lose is then still among the changes, and is done again.
                link.database.execute("set synchronous_commit = off")
                for tick in _look_and_carry_over(link, rows, stop, interval):
                    rows = tick.rows
                    on_tick(tick)
        except (ConnectionFailed, BuildFailed, Busy) as error:
            if not begun:
                raise
            on_tick(Tick(service, rows, trouble=str(error)))
            stop.wait(TROUBLE_SECONDS)


def follow_all(
    services: Sequence[Service],
    connections: Connections,
    on_tick: Callable[[Tick], None],
    interval: float,
) -> None:
    """Follow with several services at once, a thread each, until one fails or Ctrl-C.

    Args:
        services: services that have been built.
        connections: where the servers are.
        on_tick: called after every look, from several threads.
        interval: seconds between two looks.

    Raises:
        SplitError: see `follow`; the others are stopped first.
    """
    stop = Event()
    with ThreadPoolExecutor(len(services)) as pool:
        followers = [
            pool.submit(follow, service, connections, stop, on_tick, interval)
            for service in services
        ]
        try:
            wait(followers, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
    for follower in followers:
        follower.result()


def _look_and_carry_over(link: Link, rows: int, stop: Event, interval: float) -> Iterator[Tick]:
    started, rows_before = time.monotonic(), rows
    looked, stopped_at, trouble = 0.0, None, ""
    while not stop.is_set():
        if time.monotonic() - looked >= LOOK_SECONDS:
            looked = time.monotonic()
            link.beat()
            link.require_unbroken()
            found = link.subscription()
            assert found is not None
            if found.running and not found.blockers:
                stopped_at, trouble = None, ""
            else:
                # A server takes its time to start workers, one after the other; a look is too few.
                patience = 0.0 if found.stops_for_a_reason else PATIENCE_SECONDS
                stopped_at = looked if stopped_at is None else stopped_at
                if looked - stopped_at > patience:
                    trouble = str(_why_it_stopped(link))
        if _has_news(link):
            rows += carry_over(link.database).rows
        pending, lag = how_far(link)
        slot = link.slot()
        yield Tick(
            link.service,
            rows,
            (rows - rows_before) / max(time.monotonic() - started, interval),
            lag,
            slot.behind_bytes if slot else None,
            pending,
            trouble,
        )
        stop.wait(interval)


@contextmanager
def ready(service: Service, connections: Connections) -> Iterator[Link]:
    """Connect to both ends of a service that can follow.

    Raises:
        NotReady: the service has not been built, or a part of the way is gone.
        SourceMismatch: the monolith's tables are no longer those that have landed.
    """
    with (
        connections.connect(MONOLITH) as monolith,
        explained(connections.urls[MONOLITH], MONOLITH),
        _locks_told(connections.urls[service.database]),
    ):
        monolith.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")
        if not state(monolith, service).reached(State.BUILT):
            raise NotReady(
                f"{service.database} has not been built since it last landed, so it has no tables"
                " to look at.",
                where=describe(connections.urls[service.database]),
                mend=f"runner.py run {service.role}",
            )
        with (
            connections.connect(service.database) as database,
            explained(connections.urls[service.database], service.database, database),
        ):
            preflight.provisioned(database, service)
            catalog.drift(monolith, database, service)
            link = Link(service, monolith, database)
            link.require_unbroken()
            yield link


@contextmanager
def _locks_told(url: str) -> Iterator[None]:
    try:
        yield
    except errors.LockNotAvailable as error:
        raise Busy(
            f"Somebody holds a lock that keeps everybody out: {str(error).strip()}",
            where=f"the monolith, or {describe(url)}",
            mend="Wait for them, or see who it is: select pid, relation::regclass from pg_locks"
            " where mode = 'AccessExclusiveLock' and granted;",
        ) from error


def arrive(link: Link) -> None:
    """Wait until all that is committed in the monolith now is in the mirror.

    Args:
        link: the way to a service that has been built.

    Raises:
        NotReady: replication is paused or broken, or nothing has moved for a minute.
        SourceMismatch: it stopped because the monolith's tables have changed.
    """
    beat, before = link.beat(), link.subscription()
    errors_before = before.errors if before else 0
    moved = looked = time.monotonic()
    wait = 0.01
    while not link.has_arrived(beat):
        time.sleep(wait)
        wait = min(wait * 1.5, 0.2)
        if time.monotonic() - looked < LOOK_SECONDS:
            continue
        looked = time.monotonic()
        link.require_unbroken()
        found = link.subscription()
        if found and found.running and not found.blockers:
            moved = looked
        failed = found is not None and (found.errors > errors_before or not found.enabled)
        if failed or looked - moved > PATIENCE_SECONDS:
            raise _why_it_stopped(link)


def _why_it_stopped(link: Link) -> SplitError:
    try:
        catalog.drift(link.monolith, link.database, link.service)
    except SplitError as error:
        return error
    return link.stopped()


def carry_over(database: psycopg.Connection[Any]) -> Synced:
    """Run `split.sync()` once; see `carry_over_and_look`."""
    return carry_over_and_look(database, lambda inside: None)[0]


def carry_over_and_look(
    database: psycopg.Connection[Any], look: Callable[[psycopg.Connection[Any]], Found]
) -> tuple[Synced, Found]:
    """Run `split.sync()` once, and look at what is there; again, if somebody wrote the same rows.

    Args:
        database: an autocommit connection to a service's database.
        look: called in the same transaction, to which mirror and tables are in one state. No other
            sync runs meanwhile.

    Returns:
        Rows upserted and deleted by table, and seconds; and what `look` has found.

    Raises:
        BuildFailed: rows break a rule of the service's tables. Nothing was changed; the changes are
            kept.
        Busy: somebody else was in the way, ten times in ten seconds.
    """
    started = time.monotonic()
    for attempt in range(RETRIES):
        try:
            with database.transaction():
                database.execute("set transaction isolation level repeatable read")
                database.execute("set local lock_timeout = 0")  # the one before may take long
                # Before the snapshot, which so contains what the caller before this one has done.
                database.execute("lock table split.turn in exclusive mode")
                rows = database.execute("select * from split.sync()").fetchall()
                as_of = database.execute("select as_of from split.service").fetchone()
                synced = Synced(
                    {table: upserted for table, upserted, _ in rows},
                    {table: deleted for table, _, deleted in rows},
                    time.monotonic() - started,
                    as_of[0] if as_of else None,
                )
                return synced, look(database)
        except (errors.SerializationFailure, errors.DeadlockDetected) as error:
            if attempt == RETRIES - 1:
                raise Busy(
                    f"A sync did not come through, {RETRIES} times: {error.diag.message_primary}",
                    where=describe(database.info.dsn),
                    mend="Try again when what it says is over. Nothing was changed.",
                ) from error
            time.sleep(0.01 * 2**attempt)
        except (errors.IntegrityError, errors.DataError, errors.ProgramLimitExceeded) as error:
            said = filter(None, (error.diag.message_primary, error.diag.message_detail))
            raise BuildFailed(
                "Rows of the monolith break a rule of a service's table: " + "\n  ".join(said),
                where=describe(database.info.dsn),
                mend="Mend the rows in the monolith, or loosen the rule in the model's yml and in"
                " the table. Nothing was changed, and what has changed in the monolith is kept for"
                " the next sync.",
            ) from error
    raise AssertionError("the last attempt returns or raises")


def _has_news(link: Link) -> bool:
    row = link.database.execute(
        "select exists (select from split.changes)"
        " or exists (select from split.service_tables where is_stale)"
        " or (select max(at) from split.heartbeats where service = %s) is distinct from as_of"
        " from split.service",
        (link.beats_as,),
    ).fetchone()
    return row == (True,)


def how_far(link: Link) -> tuple[int, float | None]:
    """Tell how far a service's tables are behind.

    Args:
        link: the way to a service that has been built.

    Returns:
        Captured changes that its tables do not show yet, and the age of what they show, in
        seconds by the monolith's clock; None before the first sync.
    """
    row = link.database.execute(
        "select (select count(*) from split.changes), as_of from split.service"
    ).fetchone()
    assert row is not None
    age = link.monolith.execute(
        "select extract(epoch from clock_timestamp() - %s::timestamptz)::float", (row[1],)
    ).fetchone()
    return int(row[0]), age[0] if age else None
