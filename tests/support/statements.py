"""Counts the SQL statements of a process, and kills it after one of them.

All that psycopg sends goes through a few methods of its libpq wrapper. These are replaced in the
process that calls `watch`, and nowhere else.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import psycopg


class _Watch:
    """Counts statements of all threads; after statement `number` the process dies."""

    def __init__(self, number: int, listing: str) -> None:
        self.number, self.count, self.lock = number, 0, threading.Lock()
        self.listing = open(listing, "w", buffering=1) if listing else None  # noqa: SIM115

    def around(self, execute: Callable[..., Any]) -> Callable[..., Any]:
        """Give a generator function that counts what this one executes."""

        def counted(owner: Any, *arguments: Any, **options: Any) -> Any:
            said = next((one for one in arguments if _is_text(one)), "")
            mine = self._begin(said)
            try:
                return (yield from execute(owner, *arguments, **options))
            finally:
                self._end(mine)

        return counted

    def _begin(self, said: Any) -> int:
        with self.lock:
            self.count += 1
            if self.listing:
                self.listing.write(f"{self.count}\t{_shown(said)}\n")
            return self.count

    def _end(self, mine: int) -> None:
        if mine == self.number:
            os.kill(os.getpid(), signal.SIGKILL)


def watch(number: int, listing: str = "") -> None:
    """Kill this process after its statement of this number; 0 kills nothing.

    Args:
        number: counted from 1, over all connections and threads.
        listing: a file for the statements, one a line; none if empty.
    """
    watch = _Watch(number, listing)
    for owner, name in (
        (psycopg.Cursor, "_execute_gen"),
        (psycopg.Cursor, "_executemany_gen_pipeline"),
        (psycopg.Cursor, "_executemany_gen_no_pipeline"),
        (psycopg.Cursor, "_start_copy_gen"),
        (psycopg.Connection, "_exec_command"),  # begin, commit, rollback
    ):
        setattr(owner, name, watch.around(getattr(owner, name)))


def _is_text(one: Any) -> bool:
    return isinstance(one, (str, bytes, psycopg.sql.Composable))


def _shown(said: Any) -> str:
    if isinstance(said, psycopg.sql.Composable):
        said = said.as_string(None)
    if isinstance(said, bytes):
        said = said.decode(errors="replace")
    return " ".join(str(said).split())[:300]
