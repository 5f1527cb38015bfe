"""Looks at the streams from an independent service's owners, each in a thread of its own.

So an owner that is down, frozen or slow keeps nobody waiting but its own stream: what comes from
the others is applied meanwhile, and what the service itself writes goes on its way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import psycopg

from pgsplit.base.errors import SplitError
from pgsplit.postgres.connect import explained
from pgsplit.project.project import Service
from pgsplit.replication import continuity
from pgsplit.replication.independent import Independent
from pgsplit.replication.shared import SharedStream
from pgsplit.replication.stream import LOOK_SECONDS, PATIENCE_SECONDS

# How long a watch waits before it connects again: at first, and at most if the trouble goes on.
FIRST_PAUSE_SECONDS = 0.1
PAUSE_SECONDS = 3.0
# A server that has not answered for so long counts as frozen.
SILENT_SECONDS = 10.0


class OwnerWatch(Thread):
    """Writes the heartbeats of the stream from one owner, and knows what is wrong with it."""

    def __init__(self, found: Independent, owner: Service) -> None:
        # A thread that hangs at a frozen server must not keep the command from ending.
        super().__init__(daemon=True, name=f"{found.service.database} from {owner.database}")
        self.found, self.owner = found, owner
        self.stop, self.answered_at = Event(), time.monotonic()
        self.stopped_at: float | None = None
        self.said = ""
        self.behind: int | None = None

    @property
    def trouble(self) -> str:
        """What is wrong now; nothing if all is well."""
        silent = time.monotonic() - self.answered_at
        if silent > SILENT_SECONDS and not self.said:
            return f"{self.owner.database} has not answered for {silent:.0f} s"
        return self.said

    def run(self) -> None:
        """Look about once a second until told to stop; connect again after trouble."""
        service, connections = self.found.service, self.found.connections
        pause = FIRST_PAUSE_SECONDS
        while not self.stop.is_set():
            try:
                with (
                    # The follower's own connection is in a transaction while it applies changes.
                    connections.connect(service.database) as here,
                    explained(connections.urls[service.database], service.database, here),
                    self.found.stream_from(self.owner, here) as stream,
                ):
                    here.execute("set synchronous_commit = off")
                    while not self.stop.is_set():
                        self.look(stream)
                        pause = FIRST_PAUSE_SECONDS
                        self.stop.wait(LOOK_SECONDS)
            except (SplitError, psycopg.Error) as error:
                self.said, self.behind = str(error).strip(), None
                self.answered_at = time.monotonic()
            self.stop.wait(pause)
            pause = min(pause * 2, PAUSE_SECONDS)

    def look(self, stream: SharedStream) -> None:
        """Look at the stream once, and write its heartbeat.

        Raises:
            NotReady: a part of it is gone.
        """
        breach = continuity.look(stream)
        stream.require_unbroken()
        stream.beat()
        subscription, slot = stream.subscription(), stream.slot()
        assert subscription is not None
        now = time.monotonic()
        if subscription.running and not subscription.blockers:
            self.stopped_at = None
        elif self.stopped_at is None:
            self.stopped_at = now
        # A server takes its time to start workers, one after the other.
        patience = 0.0 if subscription.stops_for_a_reason else PATIENCE_SECONDS
        if self.stopped_at is not None and now - self.stopped_at > patience:
            self.said = str(stream.stopped())
        else:
            self.said = str(breach.error()) if breach else ""
        self.behind, self.answered_at = slot.behind_bytes if slot else None, time.monotonic()


@contextmanager
def watched(found: Independent) -> Iterator[list[OwnerWatch]]:
    """Watch the streams from all owners of an independent service during the block."""
    watches = [OwnerWatch(found, owner) for owner in found.owners]
    for one in watches:
        one.start()
    try:
        yield watches
    finally:
        for one in watches:
            one.stop.set()
