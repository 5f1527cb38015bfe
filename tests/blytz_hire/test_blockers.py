"""Whoever holds a lock, wherever and whenever: a cutover is done, or undone, and never half-way.

A blocker is put in front of each step, on a table that a switch or a rollback touches, in either
database. `make test-faults` draws some of all that are possible, BLOCKERS_EACH for each step.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import product
from typing import Any

import psycopg
import pytest

from pgsplit.base.errors import NotReady, SplitError
from pgsplit.cutover import locks
from pgsplit.cutover.complete import complete
from pgsplit.cutover.resume import resume
from pgsplit.cutover.rollback import rollback
from pgsplit.cutover.switch import switch
from pgsplit.postgres import embedded
from pgsplit.state.ledger import open_ledger
from pgsplit.state.saga import Stopped, Unfinished, unfinished
from tests.blytz_hire.test_switch_faults import kill_at
from tests.support.split import Split
from tests.support.stage import Stage
from tests.support.switching import (
    PAYMENTS,
    assert_agreed,
    assert_alike,
    both_ends,
    move,
    one,
    ran,
    stands,
    takes_writes,
    words,
)
from tests.support.waiting import until

STEPS = ("prepare", "catch up", "close", "drain", "decide", "open", "point", "finish", "measure")
BEFORE = {"switch": "verified", "rollback": "switched"}
AFTER = {"switch": "switched", "rollback": "verified"}
# As a SELECT takes it; as a transaction that has written; as VACUUM, ANALYZE and CREATE INDEX
# CONCURRENTLY; as CREATE INDEX; as ALTER TABLE.
MODES = ("access share", "row exclusive", "share update exclusive", "share", "access exclusive")
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
BLOCKERS_EACH = int(os.environ.get("BLOCKERS_EACH", "2"))
# Whether such a blocker undoes the operation: what is held already waits for nobody.
ALWAYS = {
    ("switch", "drain", "payments_db", "blytz_hire.payments", "share update exclusive"): True,
    ("switch", "decide", "blytz_hire", "blytz_hire.payments", "share update exclusive"): True,
    ("switch", "open", "payments_db", "blytz_hire.payments", "access exclusive"): False,
    ("rollback", "drain", "blytz_hire", "blytz_hire.payments", "share update exclusive"): True,
    ("rollback", "drain", "payments_db", "split.turn", "share update exclusive"): True,
    ("rollback", "decide", "blytz_hire", "split.ledger", "share"): False,
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


@pytest.mark.parametrize("case", ALWAYS, ids="-".join)
def test_blocker_in_front_of_a_step_undoes_the_operation_or_is_passed(
    request: pytest.FixtureRequest, case: tuple[str, str, str, str, str]
) -> None:
    operation, _, _, table, _ = case
    split = request.getfixturevalue(BEFORE[operation])
    said = assert_done_or_undone(split, *case)
    assert bool(said) is ALWAYS[case]
    if said:
        assert f"Somebody holds a lock on {table}: process " in said
        assert "select pg_terminate_backend(" in said
    assert assert_agreed(split) == (BEFORE if said else AFTER)[operation]
    assert_alike(split)


@pytest.mark.faults
@pytest.mark.parametrize(("operation", "step"), list(product(BEFORE, STEPS)))
def test_any_blocker_in_front_of_any_step_leaves_nothing_half_done(
    request: pytest.FixtureRequest, operation: str, step: str
) -> None:
    split = request.getfixturevalue(BEFORE[operation])
    for blocker in random.sample(BLOCKERS, BLOCKERS_EACH):
        print(operation, step, *blocker)
        assert_done_or_undone(split, operation, step, *blocker)
        go_back(split, operation)
    assert_alike(split)


@pytest.mark.faults
@pytest.mark.parametrize(("operation", "step"), list(product(BEFORE, STEPS)))
def test_interrupt_in_front_of_any_step_is_undone_or_resumed(
    request: pytest.FixtureRequest, operation: str, step: str
) -> None:
    split = request.getfixturevalue(BEFORE[operation])

    def on_step(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGINT)

    do = {"switch": switch, "rollback": rollback}[operation]
    is_committed = STEPS.index(step) >= STEPS.index("decide")
    with (
        open_ledger(split.connections) as ledger,
        pytest.raises(Unfinished if is_committed else Stopped),
    ):
        do(PAYMENTS, split.connections, ledger, 5.0, on_step, with_backup=False)
    if is_committed:
        ran(split, "resume")
    assert assert_agreed(split) == (AFTER if is_committed else BEFORE)[operation]
    assert_alike(split)


@pytest.mark.slow
def test_completion_that_cannot_retire_names_the_reader_and_is_resumed(
    switched: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "DEFINITION_TRIES", 2)
    with switched.monolith() as reader:
        pid = reader.info.backend_pid

        def on_step(name: str) -> None:
            if name == "retire":
                reader.execute("begin; lock table blytz_hire.reviews in access share mode")

        with (
            open_ledger(switched.connections) as ledger,
            pytest.raises(Unfinished, match=f"blytz_hire.reviews: process {pid}") as caught,
        ):
            complete(PAYMENTS, switched.connections, ledger, on_step, with_backup=False)
        assert f"select pg_terminate_backend({pid});" in str(caught.value)
        assert "kept out" not in str(caught.value)
    assert "It is completed now." in ran(switched, "resume")
    assert stands(switched) == "completed"


@contextmanager
def slow_vacuum(split: Split, database: str, table: str) -> Iterator[None]:
    """Vacuum a table, as slowly as PostgreSQL can, until the block ends."""
    with (
        split.connections.connect(database) as worker,
        split.connections.connect(database) as other,
    ):
        worker.execute("set vacuum_cost_delay = 100; set vacuum_cost_limit = 1")
        thread = threading.Thread(target=ends_somehow, args=(worker, f"vacuum (freeze) {table}"))
        thread.start()
        until(lambda: holds(other, worker, table))
        yield
        other.execute("select pg_cancel_backend(%s)", (worker.info.backend_pid,))
        thread.join()


@contextmanager
def index_being_built(split: Split, database: str, table: str) -> Iterator[None]:
    """Build an index concurrently, which waits for a transaction, until the block ends."""
    with (
        split.connections.connect(database) as writer,
        split.connections.connect(database) as worker,
    ):
        writer.execute("begin isolation level repeatable read")
        writer.execute(f"select 1 from {table} limit 1")
        statement = f"create index concurrently being_built on {table} (id)"
        thread = threading.Thread(target=ends_somehow, args=(worker, statement))
        thread.start()
        with split.connections.connect(database) as other:
            until(lambda: holds(other, worker, table))
        yield
        writer.rollback()
        thread.join()


@contextmanager
def prepared_transaction(split: Split, database: str, table: str) -> Iterator[None]:
    """Leave a prepared transaction that has altered a table until the block ends."""
    with split.connections.connect(database) as holder:
        holder.execute(f"begin; comment on table {table} is 'x'; lock table {table} in share mode")
        holder.execute("prepare transaction 'it''s forgotten'")
        yield
        holder.execute("rollback prepared 'it''s forgotten'")


def ends_somehow(connection: psycopg.Connection[Any], statement: str) -> None:
    with suppress(psycopg.errors.QueryCanceled):
        connection.execute(statement)


def holds(other: psycopg.Connection[Any], who: psycopg.Connection[Any], table: str) -> bool:
    question = (
        "select count(*) > 0 from pg_locks where pid = %s and granted and relation = %s::regclass"
        " and mode = 'ShareUpdateExclusiveLock'"
    )
    return bool(one(other, question, who.info.backend_pid, table))


REAL = {"vacuum": slow_vacuum, "index": index_being_built}


@pytest.mark.slow
@pytest.mark.parametrize("kind", REAL)
def test_rollback_is_undone_while_somebody_maintains_a_table_of_the_monolith(
    switched: Split, kind: str
) -> None:
    with ExitStack() as stack:

        def on_step(name: str) -> None:
            if name == "close":
                stack.enter_context(REAL[kind](switched, "blytz_hire", "blytz_hire.payments"))

        said = moved(switched, "rollback", on_step)
    assert "Somebody holds a lock on blytz_hire.payments: process " in said
    assert "The rollback was undone: everything is as it was before." in said
    assert assert_agreed(switched) == "switched"
    assert_alike(switched)


def test_prepared_transaction_is_named_before_anything_is_changed(
    switched: Split, stage: Stage
) -> None:
    embedded.stop(stage.root)
    embedded.start(stage.root, {**stage.settings, "max_prepared_transactions": "5"})
    with prepared_transaction(switched, "blytz_hire", "blytz_hire.payments"):
        for arguments in ((), ("--dry-run",)):
            said = ran(switched, "rollback", "payments", *arguments, code=NotReady.exit_code)
            assert (
                "the prepared transaction 'it's forgotten' has locked blytz_hire.payments" in said
            )
            assert "rollback prepared 'it''s forgotten';" in said


@pytest.mark.slow
@pytest.mark.parametrize("how", ["lock", "vacuum"])
def test_resume_waits_for_whoever_is_in_the_way_and_ends_by_itself(
    switched: Split, how: str
) -> None:
    """The rollback was killed between its two commits; a vacuum is cancelled, others are named."""
    kill_at(switched, "rollback: decide", "recorded", "rollback", "payments", "--no-backup")
    said = list[str]()
    with switched.monolith() as holder, ExitStack() as stack:
        if how == "vacuum":
            stack.enter_context(slow_vacuum(switched, "blytz_hire", "blytz_hire.payments"))
        else:
            holder.execute("begin; lock table blytz_hire.payments in access exclusive mode")

        def run() -> None:
            with open_ledger(switched.connections) as ledger:
                resume(PAYMENTS, "rollback", switched.connections, ledger, said.append)

        thread = threading.Thread(target=run)
        thread.start()
        if how == "lock":
            pid = holder.info.backend_pid
            until(lambda: any(f"process {pid} (pgsplit)" in words(line) for line in said))
            assert f"select pg_terminate_backend({pid});" in " ".join(said)
            holder.rollback()
        thread.join()
    assert assert_agreed(switched) == "verified"
    assert_alike(switched)
