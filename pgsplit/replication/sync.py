"""Keeps a service's tables in step with the living monolith.

Replication keeps the mirror current; `split.sync()`, which dbt has made in the service's database,
carries over what has changed. A heartbeat, a row written in the monolith and replicated like any
other, tells how far both have got, by the monolith's own clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from threading import Event
from typing import Any, TypeVar

import psycopg
from psycopg import errors

from pgsplit.base.errors import BuildFailed, ConnectionFailed, NotReady, SourceMismatch, SplitError
from pgsplit.postgres.connect import describe, explained
from pgsplit.project import drift
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import requirements
from pgsplit.replication.reverse import ReverseStream
from pgsplit.replication.shared import SharedStream, completed_owners, needs_monolith
from pgsplit.replication.stream import LOOK_SECONDS, PATIENCE_SECONDS, Stream
from pgsplit.state.ledger import State, completed, state
from pgsplit.state.saga import left_unfinished

# How long a follower waits before it tries again: at first, and at most, as trouble goes on.
FIRST_TROUBLE_SECONDS = 0.1
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
    with connections.connect(connections.monolith) as monolith:
        found = [
            s
            for s in connections.project.services.values()
            if state(monolith, s).reached(State.BUILT)
        ]
    if not found:
        raise NotReady(
            "No service has been built, so there is nothing to keep in step.",
            where=describe(connections.monolith_url),
            hint="runner.py run",
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
    with open_upstreams(service, connections) as upstreams:
        arrive(upstreams)
        done = apply_changes(upstreams.database)
        if upstreams.back:
            upstreams.back.arrive()
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
    rows, begun, is_lost, pause = 0, False, False, FIRST_TROUBLE_SECONDS
    while not stop.is_set():
        try:
            with open_upstreams(service, connections) as upstreams:
                begun = True
                # What a crash would lose is then still among the changes, and is done again.
                upstreams.database.execute("set synchronous_commit = off")
                for tick in _look_and_carry_over(upstreams, rows, stop, interval):
                    rows, is_lost, pause = tick.rows, False, FIRST_TROUBLE_SECONDS
                    on_tick(tick)
        except (ConnectionFailed, BuildFailed, NotReady, SourceMismatch) as error:
            trouble = str(error)
            if not isinstance(error, (ConnectionFailed, BuildFailed, Busy)):
                moved = _being_moved(connections)
                if not moved and is_lost:  # twice: it was no passing state of a switch
                    raise
                is_lost, trouble = not moved, moved or trouble
            if not begun:
                raise
            on_tick(Tick(service, rows, trouble=trouble))
            # A passing state of a switch is given its time: a second loss ends the follower.
            stop.wait(TROUBLE_SECONDS if is_lost else pause)
            pause = min(pause * 2, TROUBLE_SECONDS)


def _being_moved(connections: Connections) -> str:
    """Say which services are between two states, if any: their ways are in pieces meanwhile."""
    try:
        with connections.connect(connections.monolith) as monolith:
            left = left_unfinished(monolith)
    except ConnectionFailed as error:
        return str(error)
    return ", ".join(
        f"the {entry.detail['operation']} of {database} is under way"
        for database, entry in left.items()
    )


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


@dataclass(frozen=True)
class Upstreams(Stream):
    """All ways into a service's mirror, and the way back if it is switched.

    `incoming` is the way from the monolith, as long as anything comes by it, and a feed from each
    completed owner of what the service shares.
    """

    incoming: tuple[Stream, ...] = ()
    back: ReverseStream | None = None

    @property
    def streams(self) -> tuple[Stream, ...]:
        """All of them."""
        return (*self.incoming, self.back) if self.back else self.incoming


def _look_and_carry_over(
    upstreams: Upstreams, rows: int, stop: Event, interval: float
) -> Iterator[Tick]:
    started, rows_before = time.monotonic(), rows
    looked, stopped_at, trouble = 0.0, None, ""
    while not stop.is_set():
        if time.monotonic() - looked >= LOOK_SECONDS:
            looked = time.monotonic()
            if _leads_elsewhere(upstreams):
                return  # switched, rolled back, or handed over: who follows begins anew
            still = None
            for stream in upstreams.streams:
                stream.beat()
                stream.require_unbroken()
                found = stream.subscription()
                assert found is not None
                if not found.running or found.blockers:
                    # A server takes its time to start workers, one after the other.
                    patience = 0.0 if found.stops_for_a_reason else PATIENCE_SECONDS
                    still = (stream, patience)
            if still is None:
                stopped_at, trouble = None, ""
            else:
                stopped_at = looked if stopped_at is None else stopped_at
                if looked - stopped_at > still[1]:
                    trouble = str(_why_it_stopped(upstreams, still[0]))
        if _has_news(upstreams):
            rows += apply_changes(upstreams.database).rows
        pending, lag = how_far(upstreams)
        slots = [stream.slot() for stream in upstreams.incoming]
        yield Tick(
            upstreams.service,
            rows,
            (rows - rows_before) / max(time.monotonic() - started, interval),
            lag,
            sum(slot.behind_bytes for slot in slots if slot) if any(slots) else None,
            pending,
            trouble,
        )
        stop.wait(interval)


@contextmanager
def open_upstreams(service: Service, connections: Connections) -> Iterator[Upstreams]:
    """Connect to all ends of a service that can follow.

    Raises:
        NotReady: the service has not been built, or a part of a way is gone.
        SourceMismatch: the monolith's tables are no longer those that have landed.
    """
    with (
        ExitStack() as opened,
        connections.connect(connections.monolith) as monolith,
        explained(connections.monolith_url, connections.monolith),
        _locks_told(connections.urls[service.database]),
    ):
        monolith.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")
        stands = state(monolith, service)
        if not stands.reached(State.BUILT):
            raise NotReady(
                f"{service.database} has not been built since it last landed, so it has no tables"
                " to look at.",
                where=describe(connections.urls[service.database]),
                hint=f"runner.py run {service.role}",
            )
        database = opened.enter_context(connections.connect(service.database))
        opened.enter_context(
            explained(connections.urls[service.database], service.database, database)
        )
        requirements.provisioned(database, service)
        drift.drift(monolith, database, service, completed(monolith))
        incoming: list[Stream] = []
        if needs_monolith(monolith, service):
            incoming.append(Stream(service, monolith, database))
        for owner in completed_owners(monolith, service):
            there = opened.enter_context(connections.connect(owner.database))
            incoming.append(SharedStream(service, monolith, database, owner, there))
        back = ReverseStream(service, monolith, database) if stands is State.SWITCHED else None
        upstreams = Upstreams(service, monolith, database, tuple(incoming), back)
        for stream in upstreams.streams:
            stream.require_unbroken()
        yield upstreams


def _leads_elsewhere(upstreams: Upstreams) -> bool:
    """Tell whether the service's ways are others by now than when they were opened."""
    feeds = {stream.owner for stream in upstreams.incoming if isinstance(stream, SharedStream)}
    return set(completed_owners(upstreams.monolith, upstreams.service)) != feeds or (
        state(upstreams.monolith, upstreams.service) is State.SWITCHED
    ) != (upstreams.back is not None)


@contextmanager
def _locks_told(url: str) -> Iterator[None]:
    try:
        yield
    except errors.LockNotAvailable as error:
        raise Busy(
            f"Somebody holds a lock that keeps everybody out: {str(error).strip()}",
            where=f"the monolith, or {describe(url)}",
            hint="Wait for them, or see who it is: select pid, relation::regclass from pg_locks"
            " where mode = 'AccessExclusiveLock' and granted;",
        ) from error


def arrive(upstreams: Upstreams) -> None:
    """Wait until all that is committed where a service's data come from is in its mirror.

    Args:
        route: the ways of a service that has been built.

    Raises:
        NotReady: replication is paused or broken, or nothing has moved for a minute.
        SourceMismatch: it stopped because the monolith's tables have changed.
    """
    for stream in upstreams.incoming:
        if isinstance(
            stream, SharedStream
        ):  # what its owner's tables hold has to be in the owner's mirror
            apply_changes(stream.source)
        try:
            stream.arrive()
        except NotReady as error:
            raise _why_it_stopped(upstreams, stream, error) from error


def _why_it_stopped(
    upstreams: Upstreams, stream: Stream, otherwise: NotReady | None = None
) -> SplitError:
    try:
        drift.drift(
            upstreams.monolith, upstreams.database, upstreams.service, completed(upstreams.monolith)
        )
    except SplitError as error:
        return error
    return otherwise or stream.stopped()


def apply_changes(database: psycopg.Connection[Any]) -> Synced:
    """Run `split.sync()` once; see `carry_over_and_look`."""
    return apply_changes_and_look(database, lambda inside: None)[0]


def apply_changes_and_look(
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
                    hint="Try again when what it says is over. Nothing was changed.",
                ) from error
            time.sleep(0.01 * 2**attempt)
        except (errors.IntegrityError, errors.DataError, errors.ProgramLimitExceeded) as error:
            said = filter(None, (error.diag.message_primary, error.diag.message_detail))
            raise BuildFailed(
                "Rows of the monolith break a rule of a service's table: " + "\n  ".join(said),
                where=describe(database.info.dsn),
                hint="Mend the rows in the monolith, or loosen the rule in the model's yml and in"
                " the table. Nothing was changed, and what has changed in the monolith is kept for"
                " the next sync.",
            ) from error
    raise AssertionError("the last attempt returns or raises")


def _has_news(upstreams: Upstreams) -> bool:
    row = upstreams.database.execute(
        "select exists (select from split.changes)"
        " or exists (select from split.service_tables where is_stale)"
        " or exists (select from split.mirror_tables where is_stale)"
        " or split.mirror_as_of() is distinct from as_of from split.service"
    ).fetchone()
    return row == (True,)


def how_far(stream: Stream) -> tuple[int, float | None]:
    """Tell how far a service's tables are behind.

    Args:
        link: the way to a service that has been built.

    Returns:
        Captured changes that its tables do not show yet, and the age of what they show, in
        seconds by the monolith's clock; None before the first sync.
    """
    row = stream.database.execute(
        "select (select count(*) from split.changes), as_of from split.service"
    ).fetchone()
    assert row is not None
    age = stream.monolith.execute(
        "select extract(epoch from clock_timestamp() - %s::timestamptz)::float", (row[1],)
    ).fetchone()
    return int(row[0]), age[0] if age else None
