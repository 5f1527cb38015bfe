"""Lets landings that run side by side take their snapshots first, one after the other.

A slot starts only when every transaction that was writing on its server has ended. Services may
live on the monolith's server, so a copy or a build of one would hold back the slot of the next.
"""

from __future__ import annotations

from threading import Condition


class Snapshots:
    """The snapshots of some landings, which are numbered in the order in which they begin."""

    def __init__(self, landings: int) -> None:
        self.landings, self.taken, self.is_stopped = landings, 0, False
        self.changed = Condition()

    def wait_for_turn(self, number: int) -> None:
        """Wait until all landings before this one have theirs, or need none."""
        self._wait_until(number)

    def has_taken(self, number: int) -> None:
        """Let the next landing begin: this one has its snapshot, or needs none. Idempotent."""
        with self.changed:
            self.taken = max(self.taken, number + 1)
            self.changed.notify_all()

    def wait_for_all(self) -> None:
        """Wait until nobody needs a snapshot any more."""
        self._wait_until(self.landings)

    def stop(self) -> None:
        """Interrupt all landings, as soon as they wait or look."""
        with self.changed:
            self.is_stopped = True
            self.changed.notify_all()

    def require_not_stopped(self) -> None:
        """Raise InterruptedError if the landings are to stop."""
        if self.is_stopped:
            raise InterruptedError("the run was interrupted")

    def _wait_until(self, taken: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.taken >= taken or self.is_stopped)
        self.require_not_stopped()
