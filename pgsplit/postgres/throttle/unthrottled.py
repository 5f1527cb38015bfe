"""What every operation knows of the throttle: who may ask it to wait, and how its sessions differ.

Most operations run without one, so nothing here loads what only a throttle needs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

Connection = psycopg.Connection[Any]

AT_WORK = "pgsplit at work"  # what sessions call themselves that the throttle slows
# Parallel workers are processes of the server's own, and keep their priority.
ONE_PROCESS_SETTINGS = {
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
}
ONE_PROCESS = "; ".join(f"set {name} = {value}" for name, value in ONE_PROCESS_SETTINGS.items())


@dataclass(frozen=True)
class Place:
    """A database that the throttle has a session in."""

    name: str
    connect: Callable[..., Connection]


class Unthrottled:
    """No throttle: work goes on at full speed."""

    is_on = False

    def wait(self, stop: threading.Event | None = None) -> None:
        """Return once work may go on: at once."""

    def stop(self) -> None:
        """Have everybody who waits raise InterruptedError: the work is to end."""

    def join(self, place: Place) -> None:
        """Note that work goes on in a database, too."""

    def paced(self, place: Place, query: sql.Composable) -> sql.Composable:
        """Give a query with the same rows that waits between some of them while work shall rest."""
        return query

    def started(self, process: int) -> None:
        """Note that a process of ours has started."""
