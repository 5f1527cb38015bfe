"""Holds back what opens the new side, so that only its commit is left to do."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import psycopg

from pgsplit.cutover.locks import Watches
from pgsplit.cutover.moved import Moved
from pgsplit.postgres.retry import LOCKED
from pgsplit.replication.fence import Fence
from pgsplit.replication.slot import Connection

# After the commit nobody can write on either side, so each try to open may wait for longer.
OPEN_SECONDS = 1.0
BETWEEN_OPEN_TRIES_SECONDS = 0.1


class Holding(ABC):
    """The part of a cutover that opens the new side."""

    result: Moved
    watches: Watches
    say: Callable[[str], None]
    is_held = False

    @property
    @abstractmethod
    def new(self) -> Fence:
        """The fence of the side that becomes the source of truth."""

    @abstractmethod
    def hold(self, seconds: float) -> None:
        """Do what `open` commits, and hold it back, uncommitted; wait so long for each lock.

        Nothing that can wait may be left to `open`.
        """

    @abstractmethod
    def held(self) -> Sequence[Connection]:
        """Name the connections whose transactions `hold` begins."""

    def hold_at_last(self) -> None:
        """Hold what `open` commits, after the point of no return: try until it succeeds.

        Nobody can write on either side, so vacuums that are in the way are cancelled, and whoever
        else is gets named.
        """
        while True:
            try:
                return self.hold(OPEN_SECONDS)
            except LOCKED as error:
                self.release()
                self.watches.cancel_vacuums()
                refusal = self.watches.refusal(error)
                self.say(
                    f"It waits, and goes on by itself. {refusal.what}\n  hint:  {refusal.hint}"
                )
                time.sleep(BETWEEN_OPEN_TRIES_SECONDS)

    def release(self) -> None:
        """Roll back what is held; nothing if all of it was committed."""
        self.is_held = False
        for connection in self.held():
            with suppress(psycopg.OperationalError):  # a server that is gone holds nothing
                connection.rollback()

    def open(self) -> Mapping[str, Any] | None:
        """Let writers in on the new side: commit what is held; idempotent."""
        if not self.is_held:
            return None  # resumed: it was committed before
        self.new.database.commit()
        self.is_held = False
        self.result.opened_at = self.new.clock()
        return {"opened_at": self.result.opened_at.isoformat()}
