"""Whoever holds a lock, wherever and whenever: a cutover is done, or undone, and never half-way.

A blocker is put in front of each step, on each table that a switch or a rollback touches, in both
databases. To run all of them: make test-faults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import product

import psycopg
import pytest

from pgsplit.base.errors import SplitError
from pgsplit.cutover.rollback import rollback
from pgsplit.cutover.switch import switch
from pgsplit.state.ledger import open_ledger
from pgsplit.state.saga import Unfinished, unfinished
from tests.support.split import Split
from tests.support.switching import (
    PAYMENTS,
    both_ends,
    move,
    stands,
    takes_writes,
    words,
)

STEPS = ("prepare", "catch up", "close", "drain", "decide", "open", "point", "finish", "measure")
BEFORE = {"switch": "verified", "rollback": "switched"}
AFTER = {"switch": "switched", "rollback": "verified"}
# As VACUUM, ANALYZE and CREATE INDEX CONCURRENTLY take it; as CREATE INDEX; as ALTER TABLE.
MODES = ("share update exclusive", "share", "access exclusive")
TABLES = {
    "blytz_hire": (
        "blytz_hire.payments",
        "blytz_hire.reviews",
        "split.ledger",
        "split.gates",
        "split.heartbeats",
        "split.states",
    ),
    "payments_db": (
        "blytz_hire.payments",
        "payments_db.payments",
        "payments_db.refunds",
        "split.service",
        "split.turn",
        "split.gates",
        "split.changes",
        "split.heartbeats",
        "split.service_tables",
    ),
}
BLOCKERS = [
    (database, table, mode)
    for database, tables in TABLES.items()
    for table, mode in product(tables, MODES)
]
ALWAYS = {
    ("switch", "drain", "payments_db", "blytz_hire.payments", "share update exclusive"),
    ("switch", "decide", "blytz_hire", "blytz_hire.payments", "share update exclusive"),
    ("rollback", "drain", "blytz_hire", "blytz_hire.payments", "share update exclusive"),
    ("rollback", "decide", "blytz_hire", "split.ledger", "share"),
    ("rollback", "open", "blytz_hire", "blytz_hire.payments", "access exclusive"),
}


@contextmanager
def blocking(split: Split, database: str) -> Iterator[Callable[..., None]]:
    """Give a function that locks a table, if it can be had, until the block ends."""
    with split.connections.connect(database) as holder:
        holder.execute("set lock_timeout = '300ms'")

        def block(table: str, mode: str) -> None:
            holder.execute("begin")
            with suppress(psycopg.errors.LockNotAvailable):
                holder.execute(f"lock table {table} in {mode} mode")

        yield block
        holder.rollback()


def moved(split: Split, operation: str, on_step: Callable[[str], None]) -> str:
    """Switch or roll back with a small pause; give what it said if it was refused or undone."""
    do = {"switch": switch, "rollback": rollback}[operation]
    more = {"wait_for_write": 0.0} if operation == "switch" else {}
    with open_ledger(split.connections) as ledger:
        try:
            do(PAYMENTS, split.connections, ledger, 0.8, on_step, with_backup=False, **more)
        except SplitError as error:
            assert not isinstance(error, Unfinished), error
            return words(str(error))
    return ""


def assert_done_or_undone(
    split: Split, operation: str, step: str, database: str, table: str, mode: str
) -> str:
    """Run an operation with a blocker in front of a step; check that it is whole."""
    with blocking(split, database) as block:

        def on_step(name: str) -> None:
            if name == step:
                block(table, mode)

        said = moved(split, operation, on_step)
        with both_ends(split) as session:
            # Somebody's writes are let in while the blocker is still there.
            assert session.monolith_fence.is_open() is not takes_writes(session)
    with open_ledger(split.connections) as ledger:
        assert not unfinished(ledger)
    assert stands(split) == (BEFORE if said else AFTER)[operation], said
    assert not said or "was undone: everything is as it was before" in said
    return said


def go_back(split: Split, operation: str) -> None:
    if stands(split) == AFTER[operation]:
        move(split, {"switch": "rollback", "rollback": "switch"}[operation])


def matrix() -> list[object]:
    """Give each operation, step and blocker; mark those that only `make test-faults` runs."""
    return [
        pytest.param(
            operation,
            step,
            *blocker,
            id="-".join((operation, step, *blocker)),
            marks=[]
            if (operation, step, *blocker) in ALWAYS
            else [pytest.mark.faults, pytest.mark.slow],
        )
        for operation, step, blocker in product(BEFORE, STEPS, BLOCKERS)
    ]
