"""Applications that write all the time, and know of each row what it must be in the end.

Each row belongs to one client. A write is acknowledged, refused, or unknown: its connection died
before the answer came. The client never writes a row again of which it does not know what it is;
so in the end a row has its last acknowledged value, or that of the one unknown write after it.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
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

Connection = psycopg.Connection[Any]

CONNECT_SECONDS = 2
# A statement on a frozen link gets no answer; its connection is given up, and it is unknown.
GIVE_UP_SECONDS = 2.0
SHOWN = 3  # rows of a client that are wrong


@dataclass(frozen=True)
class Table:
    """How a client writes one table of a service on both sides; a row has an id and a number."""

    role: str
    insert: Mapping[Side, str]
    update: Mapping[Side, str]
    delete: Mapping[Side, str]
    read: Mapping[Side, str]


def _both(monolith: str, service: str) -> dict[Side, str]:
    return {Side.MONOLITH: monolith, Side.SERVICE: service}


SHOP_TABLES = (
    Table(
        "ordering",
        _both(
            "insert into shop.orders values (%(id)s, 'customer-1', %(number)s, now())",
            "insert into ordering.orders (id, customer_id, total_cents, placed_at)"
            " values (%(id)s, 'customer-1', %(number)s, now())",
        ),
        _both(
            'update shop.orders set "totalCents" = %(number)s where id = %(id)s',
            "update ordering.orders set total_cents = %(number)s where id = %(id)s",
        ),
        _both(
            "delete from shop.orders where id = %(id)s",
            "delete from ordering.orders where id = %(id)s",
        ),
        _both(
            'select id, "totalCents" from shop.orders where id like %(ids)s',
            "select id, total_cents from ordering.orders where id like %(ids)s",
        ),
    ),
    Table(
        "accounts",
        _both(
            "insert into shop.customers values (%(id)s, %(number)s::text, %(id)s)",
            "insert into accounts.customers (id, full_name, email)"
            " values (%(id)s, %(number)s::text, %(id)s)",
        ),
        _both(
            'update shop.customers set "fullName" = %(number)s::text where id = %(id)s',
            "update accounts.customers set full_name = %(number)s::text where id = %(id)s",
        ),
        _both(
            "delete from shop.customers where id = %(id)s",
            "delete from accounts.customers where id = %(id)s",
        ),
        _both(
            'select id, "fullName"::integer from shop.customers where id like %(ids)s',
            "select id, full_name::integer from accounts.customers where id like %(ids)s",
        ),
    ),
)

BLYTZ_HIRE_TABLES = (
    Table(
        "payments",
        _both(
            'insert into blytz_hire.payments (id, "userId", "receiverId",'
            ' "stripePaymentIntentId", amount, status, method, "updatedAt")'
            " select %(id)s, (select min(id) from blytz_hire.users), 'nobody', %(id)s,"
            " %(number)s, 'paid', 'card', now()",
            "insert into payments_db.payments (id, sender_id, receiver_id,"
            " stripe_payment_intent_id, amount, status, method, updated_at)"
            " select %(id)s, (select min(sender_id) from payments_db.payments), 'nobody',"
            " %(id)s, %(number)s::numeric / 100, 'paid', 'card', now()",
        ),
        _both(
            "update blytz_hire.payments set amount = %(number)s where id = %(id)s",
            "update payments_db.payments set amount = %(number)s::numeric / 100 where id = %(id)s",
        ),
        _both(
            "delete from blytz_hire.payments where id = %(id)s",
            "delete from payments_db.payments where id = %(id)s",
        ),
        _both(
            "select id, amount from blytz_hire.payments where id like %(ids)s",
            "select id, (amount * 100)::integer from payments_db.payments where id like %(ids)s",
        ),
    ),
    Table(
        "communication",
        _both(
            'insert into blytz_hire.notifications (id, "userId", type, title, message)'
            " select %(id)s, (select min(id) from blytz_hire.users), 'note', 'A note',"
            " %(number)s::text",
            "insert into communication_db.notifications (id, user_id, type, title, message)"
            " select %(id)s, (select min(user_id) from communication_db.notifications), 'note',"
            " 'A note', %(number)s::text",
        ),
        _both(
            "update blytz_hire.notifications set message = %(number)s::text where id = %(id)s",
            "update communication_db.notifications set message = %(number)s::text"
            " where id = %(id)s",
        ),
        _both(
            "delete from blytz_hire.notifications where id = %(id)s",
            "delete from communication_db.notifications where id = %(id)s",
        ),
        _both(
            "select id, message::integer from blytz_hire.notifications where id like %(ids)s",
            "select id, message::integer from communication_db.notifications where id like %(ids)s",
        ),
    ),
)


@dataclass
class Row:
    """What a client knows of a row: its value (None: it is not there), and what it may be too.

    One that was written to a server whose standby had no news is `excused`.
    """

    value: int | None = None
    unknown: list[int | None] = field(default_factory=list)
    excused: bool = False

    def may_be(self, found: int | None) -> bool:
        """Tell whether the row may have this value."""
        return self.excused or found == self.value or found in self.unknown


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

    def excuse(self, side: str, since: float, until: float) -> int:
        """Expect nothing of the rows that a server acknowledged and its standby never had.

        Args:
            side: the server's side.
            since: when the standby stopped to have news.
            until: when it took over.

        Returns:
            How many writes these were.
        """
        lost = 0
        for at, written_at, outcome, writes, _ in self.log:
            if written_at == side and outcome != "refused" and since <= at <= until:
                lost += 1
                for _, key, _ in writes:
                    self.rows[key].excused = True
        return lost

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
        outcome = "acknowledged"
        try:
            with Watch(connection):
                if len(statements) == 1:
                    text, key, number = statements[0]
                    connection.execute(text, {"id": key, "number": number})
                else:
                    with connection.transaction():
                        for text, key, number in statements:
                            connection.execute(text, {"id": key, "number": number})
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
        else:
            why = ""
        self._learn(writes, outcome)
        self.log.append((time.time(), side.value, outcome, writes, why))
        self.counts[outcome] += 1
        if outcome == "acknowledged":
            self.written_at[side] += 1
        elif outcome == "refused":
            self._stop.wait(0.02)
        return outcome == "acknowledged"

    def _choose(self) -> list[tuple[str, str, int]]:
        self.number += 1
        mine = [key for key, row in self.rows.items() if row.value is not None and not row.unknown]
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

    def _learn(self, writes: Sequence[tuple[str, str, int]], outcome: str) -> None:
        for kind, key, number in writes:
            row = self.rows.setdefault(key, Row())
            value = None if kind == "delete" else number
            if outcome == "acknowledged":
                row.value = value
            elif outcome == "unknown":
                row.unknown.append(value)
        if outcome == "unknown" and len(writes) > 1:
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


def account(
    clients: Sequence[Client], connections: Connections, states: Mapping[str, str]
) -> Iterator[str]:
    """Compare every row that clients have written with what is there, on both sides.

    Args:
        clients: they write no more.
        connections: where the servers are; all that was written has arrived everywhere.
        states: where each service stands, by its role.

    Yields:
        A line for each row that is wrong.
    """
    for client in clients:
        stands = states[client.service.role]
        sides = []
        if stands != "completed":
            sides.append(Side.MONOLITH)
        if stands in ("built", "verified", "switched", "completed"):
            sides.append(Side.SERVICE)
        for side in sides:
            target = connections.monolith if side is Side.MONOLITH else client.service.database
            with connections.connect(target) as connection:
                found: dict[str, int] = dict(
                    connection.execute(
                        client.table.read[side], {"ids": f"{client.tag}-%"}
                    ).fetchall()
                )
            wrong = list(_judge(client, side, found))
            yield from wrong[:SHOWN]
            if len(wrong) > SHOWN:
                yield f"and {len(wrong) - SHOWN} more rows of client {client.tag}"


def _judge(client: Client, side: Side, found: Mapping[str, int]) -> Iterator[str]:
    where = f"{client.service.database} on the {side.value} side"
    for key in sorted(found.keys() - client.rows.keys()):
        yield f"{where}: {key} = {found[key]} was never written"
    for key, row in client.rows.items():
        if not row.may_be(found.get(key)):
            yield (
                f"{where}: {key} is {found.get(key)}, and must be {row.value}"
                + (f" or one of {row.unknown}" if row.unknown else "")
            )
    for new, old in client.pairs:
        if client.rows[new].excused or client.rows[old].excused:
            continue
        halves = (found.get(new) is not None, found.get(old) in client.rows[old].unknown)
        if halves[0] is not halves[1]:
            yield f"{where}: of one transaction with {new} and {old}, only one half is there"
