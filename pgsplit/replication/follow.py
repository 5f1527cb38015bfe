"""A follower keeps services' tables in step with the living monolith until told to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event

from pgsplit.base.errors import BuildFailed, ConnectionFailed, NotReady, SourceMismatch
from pgsplit.postgres.retry import EXHAUSTED
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import requirements
from pgsplit.replication.independent import Sources, open_own, sources
from pgsplit.replication.rhythm import Rhythm
from pgsplit.replication.slot import Connection
from pgsplit.replication.sync import apply_changes, exhausted, how_far
from pgsplit.replication.upstreams import Upstreams, locks_explained, open_upstreams
from pgsplit.replication.watches import Look, Watch, incomplete, watched

# How long a follower waits before it tries again: at first, and at most if the trouble goes on.
FIRST_TROUBLE_SECONDS = 0.1
TROUBLE_SECONDS = 3.0


@dataclass(frozen=True)
class Tick:
    """How a follower stands: rows written since it began, and how far it is behind.

    `lag_seconds` is the age of what the service's tables show. `lag_bytes` is the WAL that has not
    arrived yet. `pending` counts the changes that have arrived since the last sync.
    """

    service: Service
    rows: int = 0
    rows_per_second: float = 0.0
    lag_seconds: float | None = None
    lag_bytes: int | None = None
    pending: int | None = None
    trouble: str = ""


def follow(
    service: Service,
    connections: Connections,
    stop: Event,
    on_tick: Callable[[Tick], None],
    interval: float,
    *,
    beside_others: bool = False,
) -> None:
    """Keep a service's tables in step until told to stop.

    Once it has begun nothing ends it. It waits for a server that goes away or has no room. If
    replication stops, a part of a stream is gone, or rows break a rule, it shows that and tries
    again, since people fix that elsewhere. Two followers of one service take turns.

    As long as the monolith is the source of truth, it waits for the monolith. From the switch on it
    waits for the service's own database only: any other server in trouble keeps only its own
    streams from going on. That of an independent service asks neither the monolith nor the ledger.

    Args:
        service: a service that has been built.
        connections: where the servers are.
        stop: set it to end; a sync that is running finishes first.
        on_tick: called after each sync, and at least once a second if the interval allows it; every
            three seconds if there has been nothing to apply for ten.
        interval: seconds between two looks.
        beside_others: wait for servers that it needs to begin, since others follow meanwhile.

    Raises:
        SplitError: it can't begin; see `sync`.
    """
    rows, begun, pause = 0, False, FIRST_TROUBLE_SECONDS
    while not stop.is_set():
        try:
            with _opened(service, connections, is_built=begun) as found:
                begun = True
                # A crash may lose a commit, but then its changes are still there to be applied.
                found.database.execute("set synchronous_commit = off")
                try:
                    for tick in _ticks(found, connections, rows, stop, interval):
                        rows, pause = tick.rows, FIRST_TROUBLE_SECONDS
                        on_tick(tick)
                except EXHAUSTED as error:  # of either server, such as at a heartbeat
                    raise exhausted(error, found.database) from error
        except (ConnectionFailed, BuildFailed, NotReady, SourceMismatch) as error:
            if not begun and not (beside_others and isinstance(error, ConnectionFailed)):
                raise
            passes = isinstance(error, (ConnectionFailed, BuildFailed))
            trouble = str(error) if passes else incomplete(error, connections)
            on_tick(Tick(service, rows, trouble=trouble))
            stop.wait(pause)
            pause = min(pause * 2, TROUBLE_SECONDS)


def follow_all(
    services: Sequence[Service],
    connections: Connections,
    on_tick: Callable[[Tick], None],
    interval: float,
) -> None:
    """Follow with several services, a thread each, until one can't begin or Ctrl-C.

    A server that is down keeps only those from beginning that need it.

    Args:
        services: services that have been built.
        connections: where the servers are.
        on_tick: see `follow`; called from several threads.
        interval: seconds between two looks.

    Raises:
        SplitError: see `follow`; the others are stopped first.
    """
    stop, beside = Event(), len(services) > 1

    def begin(service: Service) -> None:
        follow(service, connections, stop, on_tick, interval, beside_others=beside)

    with ThreadPoolExecutor(len(services)) as pool:
        followers = [pool.submit(begin, one) for one in services]
        try:
            wait(followers, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
    for follower in followers:
        follower.result()


@contextmanager
def _opened(
    service: Service, connections: Connections, *, is_built: bool
) -> Iterator[Upstreams | Sources]:
    """Connect to a service's database, and to the monolith if that is the source of truth."""
    with open_own(service, connections, is_built=is_built) as database:
        found = sources(service, connections, database)
        if found is None:
            with open_upstreams(service, connections, database, with_owners=False) as upstreams:
                yield upstreams
            return
        requirements.provisioned(database, service)
        with locks_explained([database]):
            yield found


def _ticks(
    found: Upstreams | Sources, connections: Connections, rows: int, stop: Event, interval: float
) -> Iterator[Tick]:
    """Apply what arrives, until told to stop or the service has other streams.

    Nothing here waits for another server than the service's own, and the monolith's as long as that
    is the source of truth.
    """
    started, rows_before, look = time.monotonic(), rows, None
    looked_at = beat_at = ticked_at = 0.0
    rhythm = Rhythm(interval, connections.max_lag_seconds)
    around = found
    if isinstance(found, Upstreams):
        look = Look(found.streams, found.why_stopped)
        around = Sources(found.service, connections, found.database, found.owners, True)
    assert isinstance(around, Sources)
    with watched(around, with_monolith=look is None and around.needs_monolith) as watches:
        while not stop.is_set():
            if time.monotonic() - looked_at > rhythm.look_seconds:
                looked_at = beat_at = time.monotonic()
                if found.have_changed():
                    return
                if look:
                    look.look()
            elif look and time.monotonic() - beat_at > rhythm.beat_seconds:
                beat_at = time.monotonic()
                look.beat()
            applied = 0
            has_news = _has_news(found.database)
            if has_news:
                applied = apply_changes(found.database).rows
                rows += applied
            if has_news or time.monotonic() - ticked_at > rhythm.look_seconds:
                ticked_at = time.monotonic()
                pending, lag = how_far(found, sum(one.ahead for one in watches))
                troubles = [look.trouble] if look else []
                troubles += [one.trouble for one in watches]
                if applied or pending or any(troubles):
                    rhythm.note_work()
                yield Tick(
                    found.service,
                    rows,
                    (rows - rows_before) / max(ticked_at - started, interval),
                    lag,
                    _behind(found, watches),
                    pending,
                    "\n".join(dict.fromkeys(filter(None, troubles))),
                )
            _rest(found.database, stop, interval, rhythm.pause_seconds)


def _behind(found: Upstreams | Sources, watches: Sequence[Watch]) -> int | None:
    """Count the bytes that are on their way; None if one of the servers doesn't tell."""
    behind = [one.behind for one in watches]
    if isinstance(found, Upstreams):
        slots = [stream.slot() for stream in found.incoming]
        behind += [slot.behind_bytes if slot else None for slot in slots]
    known = [one for one in behind if one is not None]
    return sum(known) if len(known) == len(behind) else None


def _rest(database: Connection, stop: Event, interval: float, pause: float) -> None:
    """Wait for an interval, or until there is news; ask for it every `pause` seconds."""
    ends = time.monotonic() + interval
    while not stop.wait(pause):
        if time.monotonic() >= ends or _has_news(database):
            return


def _has_news(database: Connection) -> bool:
    row = database.execute(
        "select exists (select from split.changes)"
        " or exists (select from split.service_tables where is_stale)"
        " or exists (select from split.mirror_tables where is_stale)"
        " or split.mirror_as_of() is distinct from as_of from split.service"
    ).fetchone()
    return row == (True,)
