"""Applications that write all the time, and know of each row what it must be in the end.

Each row belongs to one client. A write is acknowledged, refused, or unknown: its connection died
before the answer came. The client never writes a row again of which it does not know what it is;
so in the end a row has its last acknowledged value, or that of the one unknown write after it.
What may have become of a row whose server was lost is judged in `accounting`.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psycopg

from pgsplit.base.errors import SplitError
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.routing import env_file
from pgsplit.routing.env_file import Side
from tests.support.client_tables import Table

Connection = psycopg.Connection[Any]

CONNECT_SECONDS = 2
# A statement on a frozen link gets no answer; its connection is given up, and it is unknown.
GIVE_UP_SECONDS = 2.0


class RowMissing(Exception):
    """A row that its client has written is not there when it writes it again."""


@dataclass(frozen=True)
class Write:
    """One write of a row: when it was sent and answered, where, and what the row became by it."""

    begun: float
    ended: float
    side: Side
    is_acknowledged: bool
    value: int | None


@dataclass
class Row:
    """What a client knows of a row: its value (None: it is not there), and what it may be too.

    `writes` are all that may have reached a server. It is `missing` if the client did not find it.
    """

    value: int | None = None
    unknown: list[int | None] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    missing: bool = False

    def may_be(self, found: int | None) -> bool:
        """Tell whether the row may have this value."""
        return found == self.value or found in self.unknown

    @property
    def last(self) -> Write | None:
        """The last write that was acknowledged."""
        return next((one for one in reversed(self.writes) if one.is_acknowledged), None)


class Client:
    """An application of one service; it writes where the service's routes lead.

    With the URL of a `pool` it writes wherever PgBouncer leads.
    """

    def __init__(
        self,
        table: Table,
        service: Service,
        connections: Connections,
        tag: str,
        random: Random,
        pool: str = "",
    ) -> None:
        self.pool = pool
        self.table, self.service, self.connections = table, service, connections
        self.tag, self.random, self.number = tag, random, 0
        self.rows: dict[str, Row] = {}
        # Rows of one transaction each, whose outcome is unknown: all of them, or none.
        self.pairs: list[tuple[str, ...]] = []
        self.counts: Counter[str] = Counter()
        self.written_at: Counter[Side] = Counter()
        self.log: list[tuple[Any, ...]] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write no more."""
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a client hangs"

    def save(self, folder: Path) -> None:
        """Keep what it did in a file."""
        with (folder / f"{self.tag}.jsonl").open("w") as file:
            file.writelines(json.dumps(one, default=str) + "\n" for one in self.log)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._connected()
        except Exception as error:  # noqa: BLE001 whatever it is, the cycle is to show it
            self.failures.append(f"client {self.tag}: {type(error).__name__}: {error}")

    def _route(self) -> tuple[str, Side]:
        if self.pool:
            return self.pool, Side.MONOLITH  # which side it is, `_connected` asks
        try:
            routes = env_file.read(self.service, self.connections)
        except SplitError:
            return self.connections.monolith_url, Side.MONOLITH
        return routes.write, routes.writes_at

    def _connected(self) -> None:
        """Write on one connection until it is lost or the routes lead elsewhere."""
        url, side = self._route()
        try:
            connection = psycopg.connect(
                url,
                autocommit=True,
                connect_timeout=CONNECT_SECONDS,
                application_name=f"client {self.tag}",
                prepare_threshold=None,
            )
            if self.pool:
                side = self._side(connection)
        except psycopg.Error:
            self.counts["not connected"] += 1
            self._stop.wait(0.05)
            return
        with closing(connection):
            while not self._stop.is_set() and self._written(connection, side):
                self._stop.wait(self.random.uniform(0.005, 0.03))
                if self._route()[0] != url:
                    return

    def _side(self, connection: Connection) -> Side:
        with Watch(connection):
            row = connection.execute("select current_database()").fetchone()
        return Side.SERVICE if row == (self.service.database,) else Side.MONOLITH

    def _written(self, connection: Connection, side: Side) -> bool:
        """Do one write; tell whether the connection is good for another one."""
        writes = self._choose()
        statements = [
            (getattr(self.table, kind)[side], key, number) for kind, key, number in writes
        ]
        begun, why, outcome = time.time(), "", "acknowledged"
        try:
            as_one = connection.transaction() if len(statements) > 1 else nullcontext()
            with Watch(connection), as_one:
                for text, key, number in statements:
                    done = connection.execute(text, {"id": key, "number": number})
                    if not done.rowcount:
                        raise RowMissing(key)
        except RowMissing as error:
            outcome, why = "missing", str(error)
            self.rows[why].missing = True
        except psycopg.Error as error:
            why = str(error)
            is_known = isinstance(error, REFUSALS) or not isinstance(
                error, psycopg.OperationalError
            )
            if connection.broken or not is_known:
                outcome = "unknown"
            else:
                outcome = "refused"
                if not isinstance(error, REFUSALS) and NO_ROOM not in why:
                    self.failures.append(f"client {self.tag}: {type(error).__name__}: {why}")
        ended = time.time()
        if outcome in ("acknowledged", "unknown"):
            self._learn(writes, outcome == "acknowledged", begun, ended, side)
        self.log.append((begun, ended, side.value, outcome, writes, why))
        self.counts[outcome] += 1
        if outcome == "acknowledged":
            self.written_at[side] += 1
        elif outcome == "refused":
            self._stop.wait(0.02)
        return outcome in ("acknowledged", "missing")

    def _choose(self) -> list[tuple[str, str, int]]:
        self.number += 1
        mine = [
            key
            for key, row in self.rows.items()
            if row.value is not None and not row.unknown and not row.missing
        ]
        choice = self.random.random()
        new = ("insert", f"{self.tag}-{self.number}", self.number)
        if not mine or choice < 0.45:
            return [new]
        old = self.random.choice(mine)
        if choice < 0.75:
            return [("update", old, self.number)]
        if choice < 0.85:
            return [("delete", old, self.number)]
        return [new, ("update", old, self.number)]

    def _learn(
        self,
        writes: Sequence[tuple[str, str, int]],
        is_acknowledged: bool,
        begun: float,
        ended: float,
        side: Side,
    ) -> None:
        for kind, key, number in writes:
            row = self.rows.setdefault(key, Row())
            value = None if kind == "delete" else number
            row.writes.append(Write(begun, ended, side, is_acknowledged, value))
            if is_acknowledged:
                row.value = value
            else:
                row.unknown.append(value)
        if not is_acknowledged and len(writes) > 1:
            self.pairs.append(tuple(key for _, key, _ in writes))


class Watch:
    """Breaks a connection if what is done in the block gets no answer in time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._timer = threading.Timer(GIVE_UP_SECONDS, self._give_up)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _give_up(self) -> None:
        with (
            suppress(OSError, psycopg.Error),
            socket.socket(fileno=os.dup(self._connection.fileno())) as same,
        ):
            same.shutdown(socket.SHUT_RDWR)


# What a server says whose files may not get longer, as on a full disk.
NO_ROOM = "File too large"
REFUSALS = (
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedTable,  # retired while a client still had the old route
    psycopg.errors.DiskFull,
)
