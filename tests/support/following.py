"""Helpers for following: followers, new payments, and comparisons."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from demo.project import ROOT, SERVICES_BY_NAME, select
from pgsplit.base.errors import SplitError
from pgsplit.project.project import Service
from pgsplit.replication.follow import Tick, follow
from pgsplit.replication.sync import sync
from tests.support.split import Split
from tests.support.waiting import until

(PAYMENTS,) = select(("payments",))
SHOWN = 3

Connection = psycopg.Connection[Any]


def first_payment(split: Split) -> str:
    with split.monolith() as monolith:
        row = monolith.execute("select min(id) from blytz_hire.payments").fetchone()
    assert row is not None
    return str(row[0])


def add_payments(split: Split, count: int, prefix: str) -> None:
    """Commit copies of an existing payment, in one transaction."""
    with split.monolith() as monolith:
        columns = [
            row[0]
            for row in monolith.execute(
                "select quote_ident(attname) from pg_attribute where attnum > 0"
                " and attrelid = 'blytz_hire.payments'::regclass"
                " and not attisdropped and attname not in ('id', 'stripePaymentIntentId')"
            )
        ]
        monolith.execute(
            f'insert into blytz_hire.payments (id, "stripePaymentIntentId", {", ".join(columns)})'
            f" select %s || n, %s || n, {', '.join(columns)}"
            " from generate_series(1, %s) as n,"
            ' (select * from blytz_hire.payments where "refundAmount" is null'
            ' and "refundedAt" is null order by id limit 1) as one',
            (prefix, prefix, count),
        )


def count(split: Split, ids: str) -> int:
    """Count payments in the service's table by their ids' pattern."""
    with split.service("payments_db") as database:
        row = database.execute(
            "select count(*) from payments_db.payments where id like %s", (ids,)
        ).fetchone()
    assert row is not None
    return int(row[0])


def assert_in_step(split: Split, service: Service = PAYMENTS) -> None:
    """Compare each table with what its model's SQL gives on the monolith itself."""
    with split.service(service.database) as database, split.monolith() as monolith:
        tables = database.execute(
            "select table_name, definition, coalesce(quote_ident(tombstone) || ' is null', 'true')"
            " from split.service_tables"
        )
        for table, definition, lives in tables.fetchall():
            here = (
                f"select md5(t::text) from {service.database}.{table} as t where {lives} order by 1"
            )
            there = f"select md5(t::text) from ({definition}) as t order by 1"
            assert database.execute(here).fetchall() == monolith.execute(there).fetchall(), table
        assert database.execute("select count(*) from split.changes").fetchone() == (0,)


class Follower:
    """A follower in a thread: what it said last, and what it raised."""

    def __init__(self, split: Split, interval: float = 0.05) -> None:
        self.stop, self.ticks = threading.Event(), list[Tick]()
        self.raised: BaseException | None = None
        self.arguments = (PAYMENTS, split.connections, self.stop, self.ticks.append, interval)
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            follow(*self.arguments)
        except (SplitError, psycopg.Error) as error:
            self.raised = error

    def __enter__(self) -> Follower:
        self.thread.start()
        until(lambda: bool(self.ticks) or not self.thread.is_alive())
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        assert self.raised is None

    def says(self, words: str) -> bool:
        return words in self.ticks[-1].trouble


@contextmanager
def following(split: Split, said: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a follower of all six services for the block."""
    with (
        said.open("w") as out,
        subprocess.Popen(
            [sys.executable, str(ROOT / "runner.py"), "sync", "--follow", "--interval", "0.2"],
            env=dict(split.environ),
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
        ) as follower,
    ):
        try:
            yield follower
        finally:
            follower.send_signal(signal.SIGINT)
            follower.wait(60)


def sync_and_compare(split: Split, monolith: Connection) -> list[str]:
    """Sync all six services with the monolith, and name what differs."""
    wrong = []
    for service in SERVICES_BY_NAME.values():
        sync(service, split.connections)
        wrong += differences(split, service, monolith)
    return wrong


def differences(split: Split, service: Service, monolith: Connection) -> list[str]:
    """Compare a service's tables with their models, run on the mirror and on the monolith.

    The other way round, what the reverse models yield is compared with the mirror.
    """
    wrong = []
    with split.service(service.database) as database:
        rest = database.execute("select * from split.changes limit 3").fetchall()
        if rest:
            wrong.append(f"{service.database}: split.changes still holds {rest}")
        for (mirror,) in database.execute("select table_name from split.mirror_tables").fetchall():
            otherwise = database.execute(
                "select * from split.way_back_differs(%s) limit %s", (mirror, SHOWN)
            ).fetchall()
            wrong += [f"{service.database}: reverse models differ in {one}" for one in otherwise]
        for table, definition, is_stale, gone in database.execute(
            "select table_name, definition, is_stale, quote_ident(tombstone) || ' is null'"
            " from split.service_tables order by 1"
        ).fetchall():
            name = f"{service.database}.{table}"
            if is_stale:
                wrong.append(f"{name} is stale")
            columns = database.execute(
                "select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute"
                " where attrelid = %s::regclass and attnum > 0",
                (name,),
            ).fetchone()
            row = f"row({columns[0] if columns else ''})::text"
            model = f"select {row} from ({definition}) as model"
            actual = rows(database, f"select {row} from {name}{' where ' + gone if gone else ''}")
            for where, expected in (
                ("mirror", rows(database, model)),
                ("monolith", rows(monolith, model)),
            ):
                for what, found in (("lacks", expected - actual), ("has also", actual - expected)):
                    wrong += [
                        f"{name} {what}, by the {where}: {text[:1000]}"
                        for text in sorted(found)[:SHOWN]
                    ]
    return wrong


def rows(connection: Connection, query: str) -> Counter[str]:
    """Give a query's rows as text, with doubles and times at full precision."""
    return Counter(text for (text,) in connection.execute(query).fetchall())
