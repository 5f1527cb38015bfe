"""Looks at streams in threads of their own, one for each server that a service's data come from.

So a server that is down, frozen or slow keeps nobody waiting but its own streams: what comes from
the others is applied meanwhile, and what the service itself writes goes on its way.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import Event, Thread
from typing import cast

import psycopg

from pgsplit.base.errors import Busy, NotReady, SourceMismatch, SplitError
from pgsplit.postgres.connect import explained
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import continuity
from pgsplit.replication.independent import Sources
from pgsplit.replication.slot import Connection
from pgsplit.replication.stream import LOOK_SECONDS, PATIENCE_SECONDS, BaseStream
from pgsplit.replication.upstreams import open_upstreams
from pgsplit.state.saga import left_unfinished

# How long a watch waits before it connects again: at first, and at most if the trouble goes on.
FIRST_PAUSE_SECONDS = 0.1
PAUSE_SECONDS = 3.0
# A server that has not answered for so long counts as frozen.
SILENT_SECONDS = 10.0

AHEAD = "select extract(epoch from clock_timestamp() - %s::timestamptz)::float"


class Look:
    """Looks at some streams again and again, and knows what is wrong with them."""

    def __init__(
        self, streams: Sequence[BaseStream], why_stopped: Callable[[BaseStream], SplitError]
    ) -> None:
        self.streams, self.why_stopped = streams, why_stopped
        self.stopped_at: float | None = None
        self.trouble = ""

    def look(self) -> None:
        """Look once, and write the heartbeats.

        Raises:
            NotReady: a part of a stream is gone.
        """
        stopped, breach = None, ""
        for stream in self.streams:
            if found_breach := continuity.look(stream):
                breach = str(found_breach.error())
            stream.require_unbroken()
            stream.beat()
            found = stream.subscription()
            assert found is not None
            if not found.running or found.blockers:
                # A server takes its time to start workers, one after the other.
                patience = 0.0 if found.stops_for_a_reason else PATIENCE_SECONDS
                stopped = (stream, patience)
        self.trouble = self._said(stopped) or breach

    def beat(self) -> None:
        """Write the heartbeats alone."""
        for stream in self.streams:
            stream.beat()

    def _said(self, stopped: tuple[BaseStream, float] | None) -> str:
        if stopped is None:
            self.stopped_at = None
            return ""
        stream, patience = stopped
        now = time.monotonic()
        self.stopped_at = now if self.stopped_at is None else self.stopped_at
        if now - self.stopped_at < patience:
            return self.trouble
        return str(self.why_stopped(stream))


class Watch(Thread, ABC):
    """Looks at the streams from or to one server until told to stop; connects again after trouble.

    `behind` counts the bytes that are on their way to the service, and `ahead` tells how many
    seconds that server's clock is ahead of the service's.
    """

    def __init__(self, found: Sources, name: str) -> None:
        # A thread that hangs at a frozen server must not keep the command from ending.
        super().__init__(daemon=True, name=f"{found.service.database} and {name}")
        self.found, self.watched = found, name
        self.stop, self.answered_at = Event(), time.monotonic()
        self.said = ""
        self.behind: int | None = None
        self.ahead = 0.0

    @property
    def trouble(self) -> str:
        """What is wrong now; nothing if all is well."""
        if not self.said and time.monotonic() - self.answered_at > SILENT_SECONDS:
            return f"{self.watched} has not answered for more than {SILENT_SECONDS:.0f} s"
        return self.said

    @abstractmethod
    def opened(self, opened: ExitStack) -> Callable[[], bool]:
        """Connect; give what looks once, and tells whether the streams are still the same."""

    def run(self) -> None:
        """Look about once a second."""
        pause = FIRST_PAUSE_SECONDS
        while not self.stop.is_set():
            try:
                with ExitStack() as opened:
                    look = self.opened(opened)
                    while not self.stop.is_set() and look():
                        self.answered_at, pause = time.monotonic(), FIRST_PAUSE_SECONDS
                        self.stop.wait(LOOK_SECONDS)
            except (SplitError, psycopg.Error) as error:
                self.said, self.behind = self.why(error), None
                self.answered_at = time.monotonic()
            self.stop.wait(pause)
            pause = min(pause * 2, PAUSE_SECONDS)

    def why(self, error: SplitError | psycopg.Error) -> str:
        """Say what is wrong."""
        if self.found.needs_monolith and isinstance(error, (NotReady, SourceMismatch)):
            return incomplete(error, self.found.connections)
        return str(error).strip()


class OwnerWatch(Watch):
    """Writes the heartbeats of the stream from one owner, and knows what is wrong with it."""

    def __init__(self, found: Sources, owner: Service) -> None:
        super().__init__(found, owner.database)
        self.owner = owner

    def opened(self, opened: ExitStack) -> Callable[[], bool]:
        """Connect to both ends."""
        service, connections = self.found.service, self.found.connections
        # The follower's own connection is in a transaction while it applies changes.
        here = opened.enter_context(connections.connect(service.database))
        url = connections.urls[service.database]
        opened.enter_context(explained(url, service.database, here))
        here.execute("set synchronous_commit = off")
        stream = opened.enter_context(self.found.stream_from(self.owner, here))
        streams = Look([stream], lambda stream: stream.stopped())

        def look() -> bool:
            streams.look()
            slot = stream.slot()
            self.said, self.behind = streams.trouble, slot.behind_bytes if slot else None
            return True

        return look


class MonolithWatch(Watch):
    """Looks at a switched service's streams from and to the monolith."""

    def __init__(self, found: Sources) -> None:
        super().__init__(found, found.connections.control)

    def opened(self, opened: ExitStack) -> Callable[[], bool]:
        """Connect to both ends."""
        service, connections = self.found.service, self.found.connections
        upstreams = opened.enter_context(open_upstreams(service, connections, with_owners=False))
        upstreams.database.execute("set synchronous_commit = off")
        streams = Look(upstreams.streams, upstreams.why_stopped)

        def look() -> bool:
            if upstreams.have_changed():
                return False
            streams.look()
            self.ahead = ahead(upstreams.monolith, upstreams.database)
            slots = [stream.slot() for stream in upstreams.incoming]
            self.behind = sum(slot.behind_bytes for slot in slots if slot)
            self.said = streams.trouble
            return True

        return look


def ahead(one: Connection, other: Connection) -> float:
    """Tell how many seconds a server's clock is ahead of another's, about."""
    row = other.execute("select clock_timestamp()").fetchone()
    found = one.execute(AHEAD, row).fetchone()
    assert found is not None
    return cast(float, found[0])


def incomplete(error: SplitError, connections: Connections) -> str:
    """Say what is wrong with a stream, and which operation leaves it so for a while, if any."""
    if isinstance(error, Busy):
        return str(error)
    try:
        with connections.connect(connections.control) as monolith:
            left = left_unfinished(monolith)
    except SplitError as unknown:
        return f"{error}\n{unknown}"
    under_way = ", ".join(
        f"the {entry.detail['operation']} of {database}" for database, entry in left.items()
    )
    return f"Under way: {under_way}. Until it has ended: {error}" if under_way else str(error)


@contextmanager
def watched(found: Sources, *, with_monolith: bool) -> Iterator[list[Watch]]:
    """Watch the streams between a service and its owners, and the monolith, during the block."""
    watches: list[Watch] = [OwnerWatch(found, owner) for owner in found.owners]
    if with_monolith:
        watches.append(MonolithWatch(found))
    for one in watches:
        one.start()
    try:
        yield watches
    finally:
        for one in watches:
            one.stop.set()
