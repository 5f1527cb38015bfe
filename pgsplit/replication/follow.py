"""A follower keeps services' tables in step with the living monolith until told to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event

from pgsplit.base.errors import BuildFailed, Busy, ConnectionFailed, NotReady, SourceMismatch
from pgsplit.postgres.retry import EXHAUSTED
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import continuity
from pgsplit.replication.independent import Independent, is_independent, open_streams
from pgsplit.replication.owner_watch import watched
from pgsplit.replication.slot import Connection
from pgsplit.replication.stream import LOOK_SECONDS, PATIENCE_SECONDS, BaseStream
from pgsplit.replication.sync import apply_changes, exhausted, how_far
from pgsplit.replication.upstreams import Upstreams
from pgsplit.state.saga import left_unfinished

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
) -> None:
    """Keep a service's tables in step until told to stop.

    It waits for a server that goes away or has no room. If replication stops, or rows break a
    rule, it shows that and tries again, since people fix that elsewhere. Two followers of one
    service take turns. That of an independent service asks neither the monolith nor the ledger, and
    an owner in trouble keeps only its own stream from going on.

    Args:
        service: a service that has been built.
        connections: where the servers are.
        stop: set it to end; a sync that is running finishes first.
        on_tick: called after every look.
        interval: seconds between two looks.

    Raises:
        SplitError: it can't begin (see `sync`), or a part of a stream is gone for good.
    """
    rows, begun, is_lost, pause = 0, False, False, FIRST_TROUBLE_SECONDS
    is_independent = False
    while not stop.is_set():
        try:
            with open_streams(service, connections, is_built=begun) as found:
                begun, is_independent = True, isinstance(found, Independent)
                # A crash may lose a commit, but then its changes are still there to be applied.
                found.database.execute("set synchronous_commit = off")
                try:
                    for tick in _ticks(found, rows, stop, interval):
                        rows, is_lost, pause = tick.rows, False, FIRST_TROUBLE_SECONDS
                        on_tick(tick)
                except EXHAUSTED as error:  # of either server, such as at a heartbeat
                    raise exhausted(error, found.database) from error
        except (ConnectionFailed, BuildFailed, NotReady, SourceMismatch) as error:
            trouble = str(error)
            passes = is_independent or isinstance(error, (ConnectionFailed, BuildFailed, Busy))
            if not passes:
                under_way = _operations_under_way(connections)
                if not under_way and is_lost:  # twice: no passing state of a cutover
                    raise
                is_lost, trouble = not under_way, under_way or trouble
            if not begun:
                raise
            on_tick(Tick(service, rows, trouble=trouble))
            # A passing state of a cutover gets some time: a second loss ends the follower.
            stop.wait(TROUBLE_SECONDS if is_lost else pause)
            pause = min(pause * 2, TROUBLE_SECONDS)


def follow_all(
    services: Sequence[Service],
    connections: Connections,
    on_tick: Callable[[Tick], None],
    interval: float,
) -> None:
    """Follow with several services, a thread each, until one fails or Ctrl-C.

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


def _operations_under_way(connections: Connections) -> str:
    """Say which operations are under way, if any: they leave streams incomplete for a while."""
    try:
        with connections.connect(connections.control) as monolith:
            left = left_unfinished(monolith)
    except ConnectionFailed as error:
        return str(error)
    return ", ".join(
        f"the {entry.detail['operation']} of {database} is under way"
        for database, entry in left.items()
    )


class _Watch:
    """Looks at a follower's streams about once a second, and knows what is wrong with them."""

    def __init__(self, upstreams: Upstreams) -> None:
        self.upstreams = upstreams
        self.looked_at = 0.0
        self.stopped_at: float | None = None
        self.trouble = self.breach = ""

    def look(self) -> bool:
        """Look, if it is time; False if the service has other streams by now."""
        if time.monotonic() - self.looked_at < LOOK_SECONDS:
            return True
        self.looked_at = time.monotonic()
        if self.upstreams.have_changed() or self._needs_no_monolith():
            return False
        stopped, self.breach = None, ""
        for stream in self.upstreams.streams:
            if breach := continuity.look(stream):
                self.breach = str(breach.error())
            stream.require_unbroken()
            stream.beat()
            found = stream.subscription()
            assert found is not None
            if not found.running or found.blockers:
                # A server takes its time to start workers, one after the other.
                patience = 0.0 if found.stops_for_a_reason else PATIENCE_SECONDS
                stopped = (stream, patience)
        self._note(stopped)
        return True

    def _needs_no_monolith(self) -> bool:
        return is_independent(self.upstreams.service, self.upstreams.database)

    def _note(self, stopped: tuple[BaseStream, float] | None) -> None:
        if stopped is None:
            self.stopped_at, self.trouble = None, ""
            return
        stream, patience = stopped
        self.stopped_at = self.looked_at if self.stopped_at is None else self.stopped_at
        if self.looked_at - self.stopped_at > patience:
            self.trouble = str(self.upstreams.why_stopped(stream))


def _ticks(
    found: Upstreams | Independent, rows: int, stop: Event, interval: float
) -> Iterator[Tick]:
    """Apply what arrives, until told to stop or the service has other streams."""
    if isinstance(found, Independent):
        yield from _independent_ticks(found, rows, stop, interval)
        return
    started, rows_before, watch = time.monotonic(), rows, _Watch(found)
    while not stop.is_set():
        if not watch.look():
            return
        if _has_news(found.database):
            rows += apply_changes(found.database).rows
        pending, lag = how_far(found)
        slots = [stream.slot() for stream in found.incoming]
        yield Tick(
            found.service,
            rows,
            (rows - rows_before) / max(time.monotonic() - started, interval),
            lag,
            sum(slot.behind_bytes for slot in slots if slot) if any(slots) else None,
            pending,
            watch.trouble or watch.breach,
        )
        stop.wait(interval)


def _independent_ticks(
    found: Independent, rows: int, stop: Event, interval: float
) -> Iterator[Tick]:
    """Apply what arrives; nothing here waits for an owner's server."""
    started, rows_before, looked_at = time.monotonic(), rows, time.monotonic()
    with watched(found) as watches:
        while not stop.is_set():
            if time.monotonic() - looked_at > LOOK_SECONDS:
                looked_at = time.monotonic()
                if found.have_changed():
                    return
            if _has_news(found.database):
                rows += apply_changes(found.database).rows
            pending, lag = how_far(found)
            behind = [one.behind for one in watches if one.behind is not None]
            yield Tick(
                found.service,
                rows,
                (rows - rows_before) / max(time.monotonic() - started, interval),
                lag,
                sum(behind) if len(behind) == len(watches) else None,
                pending,
                "\n".join(one.trouble for one in watches if one.trouble),
            )
            stop.wait(interval)


def _has_news(database: Connection) -> bool:
    row = database.execute(
        "select exists (select from split.changes)"
        " or exists (select from split.service_tables where is_stale)"
        " or exists (select from split.mirror_tables where is_stale)"
        " or split.mirror_as_of() is distinct from as_of from split.service"
    ).fetchone()
    return row == (True,)
