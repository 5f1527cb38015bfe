"""Asks something that may hang, in a thread that nobody has to wait for."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Asker(ABC, Generic[Answer]):
    """Asks the same again and again, one question at a time.

    Args:
        name: what is asked, for people.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked_at = 0.0
        self._thread: threading.Thread | None = None
        self._answer: Answer | None = None

    @abstractmethod
    def ask(self) -> Answer:
        """Ask, however long it takes; called in a thread."""

    @abstractmethod
    def silent(self, seconds: float) -> Answer:
        """Give the answer that stands for none, after some seconds."""

    @property
    def is_open(self) -> bool:
        """Whether a question waits for its answer."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self) -> None:
        """Ask, unless the last question is still open."""
        if self.is_open:
            return
        self._answer, self.asked_at = None, time.monotonic()
        # Nothing that hangs may keep the command from ending.
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def finish(self, until: float) -> Answer:
        """Give the answer, or `silent` if there is none at a moment of the monotonic clock."""
        assert self._thread is not None
        self._thread.join(max(0.0, until - time.monotonic()))
        found = None if self.is_open else self._answer
        return self.silent(time.monotonic() - self.asked_at) if found is None else found

    def _run(self) -> None:
        self._answer = self.ask()
