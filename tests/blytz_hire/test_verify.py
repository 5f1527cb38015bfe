"""Verification: what it proves, what it finds, and what it reports when it can't compare."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from psycopg import sql

from demo.project import SERVICES_BY_NAME
from pgsplit.base.errors import DataDiffers, NotReady
from pgsplit.postgres import row_diff as compare
from pgsplit.postgres.row_diff import Comparison
from pgsplit.prove import verify
from pgsplit.prove.verify import Verified
from pgsplit.state.ledger import State, open_ledger, state
from tests.support.split import Split

PAYMENTS = SERVICES_BY_NAME["payments_db"]
FIRST_REVIEW = "id = (select min(id) from payments_db.reviews)"
PAYMENT = "(select min(id) from payments_db.payments)"


def check(split: Split, table: str | None = None) -> Verified:
    with open_ledger(split.connections) as ledger:
        return verify.verify(PAYMENTS, split.connections, ledger, table)


@contextmanager
def corrupted(split: Split, table: str, *statements: str) -> Iterator[None]:
    """Corrupt a service's table unnoticed for the block, then restore it."""
    relation = sql.Identifier("payments_db", table)
    with split.service("payments_db") as database:
        database.execute("set session_replication_role = replica")
        database.execute(sql.SQL("create temp table saved as table {}").format(relation))
        try:
            for statement in statements:
                assert database.execute(statement.encode()).rowcount, "nothing was corrupted"
            yield
        finally:
            database.execute(sql.SQL("delete from {}").format(relation))
            database.execute(sql.SQL("insert into {} table saved").format(relation))


def test_untouched_service_is_proven_and_the_proof_is_recorded(living: Split) -> None:
    verified = check(living)
    assert verified.proven
    assert {"payments", "refunds", "disputes", "reviews", "shared_users"} == set(verified.tables)
    assert all(found.identical == found.rows > 0 for found in verified.tables.values())
    with open_ledger(living.connections) as ledger, living.service("payments_db") as database:
        assert ledger.state(PAYMENTS) == State.VERIFIED
        assert verify.outdated(ledger, database, PAYMENTS) == []
        kept = ledger.connection.execute(
            "select table_name, result, finished_at > now() - interval '1 minute'"
            " from split.verifications where is_proven"
        ).fetchall()
    assert {name: Comparison.of(result) for name, result, _ in kept} == verified.tables
    assert all(is_recent for *_, is_recent in kept)


@pytest.mark.parametrize(
    ("column", "change", "of"),
    [
        ("payments.status", "status = chr(ascii(status) # 1) || substr(status, 2)", "true"),
        (
            "payments.sender_id receiver_id",
            "sender_id = receiver_id, receiver_id = sender_id",
            "sender_id <> receiver_id",
        ),
        ("reviews.comment", "comment = left(comment, -1)", "comment <> ''"),
        ("payments.created_at", "created_at = created_at + interval '8 hours'", "true"),
        (
            "payments.created_at",
            "created_at = date_trunc('second', created_at)",
            "created_at <> date_trunc('second', created_at)",
        ),
        ("payments.amount", "amount = round(amount)", "amount <> round(amount)"),
        ("payments.amount", "amount = amount::numeric(20, 4)", "true"),
        ("reviews.comment", "comment = null", "comment = ''"),
        ("reviews.comment", "comment = ''", "comment is null"),
        ("payments.metadata", """metadata = metadata || '{"x": null}'""", "metadata is not null"),
    ],
    ids=[
        "bit",
        "swapped columns",
        "truncated text",
        "time zone",
        "milliseconds",
        "rounded money",
        "scale of money",
        "null for empty",
        "empty for null",
        "document",
    ],
)
def test_altered_value_is_found_with_its_column(
    living: Split, column: str, change: str, of: str
) -> None:
    table, _, column = column.partition(".")
    relation = f"payments_db.{table}"
    one = f"update {relation} set {change} where id = (select min(id) from {relation} where {of})"
    with corrupted(living, table, one):
        found = check(living, table).tables[table]
    assert (found.modified, found.missing, found.extra) == (1, 0, 0)
    assert set(found.columns) == set(column.split())
    (sample,) = found.samples
    assert set(sample.values) == set(column.split())
    assert all(expected != actual for expected, actual in sample.values.values())


def test_missing_and_extra_rows_are_found(living: Split) -> None:
    statements = (
        "insert into payments_db.payments"
        " select (jsonb_populate_record(one, jsonb_build_object('id', id || '!',"
        " 'stripe_payment_intent_id', 'extra'))).*"
        f" from payments_db.payments as one where id = {PAYMENT}",
        f"delete from payments_db.payments where id = {PAYMENT}",
    )
    with corrupted(living, "payments", *statements):
        found = check(living, "payments").tables["payments"]
    assert (found.modified, found.missing, found.extra) == (0, 1, 1)
    assert {sample.kind for sample in found.samples} == {"missing", "extra"}
    assert found.identical == found.rows - 1


def test_rows_that_exchanged_values_are_found(living: Split) -> None:
    swap = (
        "update payments_db.payments as one set amount = other.amount, status = other.id"
        " from payments_db.payments as other where one.id <> other.id"
        f" and {PAYMENT} in (one.id, other.id)"
        " and (select max(id) from payments_db.payments) in (one.id, other.id)"
    )
    with corrupted(living, "payments", swap):
        assert check(living, "payments").tables["payments"].modified == 2


def test_difference_between_monolith_and_mirror_is_found(living: Split) -> None:
    """The mirror and the service agree with each other, but both are wrong."""
    with living.monolith() as monolith:
        row = monolith.execute("select min(id) from blytz_hire.reviews").fetchone()
    assert row is not None
    change = "update blytz_hire.reviews set rating = rating + %s where id = %s"
    living.replicate("payments_db", change, 1, row[0])
    try:
        found = check(living, "reviews").tables["reviews"]
        assert (found.modified, found.columns) == (1, {"rating": 1})
    finally:
        living.replicate("payments_db", change, -1, row[0])
    assert check(living).proven


def test_all_differing_rows_are_counted_though_only_some_are_reread(
    living: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "BATCH", 7)
    monkeypatch.setattr(compare, "READ_AGAIN", 10)
    with corrupted(living, "reviews", "update payments_db.reviews set helpful = helpful + 1"):
        found = check(living, "reviews").tables["reviews"]
    assert found.modified == found.rows == found.columns["helpful"]
    assert 0 < found.seen_once < found.rows
    assert len(found.samples) == compare.MOST_SAMPLES


def test_difference_revokes_the_proof_until_the_next_clean_verify(living: Split) -> None:
    with corrupted(living, "reviews", "update payments_db.reviews set helpful = helpful + 1"):
        assert not check(living).proven
        with living.monolith() as monolith:
            assert state(monolith, PAYMENTS) == State.BUILT
        with open_ledger(living.connections) as ledger, living.service("payments_db") as database:
            assert verify.outdated(ledger, database, PAYMENTS) == ["reviews"]
    assert check(living).proven
    with living.monolith() as monolith:
        assert state(monolith, PAYMENTS) == State.VERIFIED


@pytest.mark.slow
def test_changed_model_outdates_the_proof_of_its_table(living: Split) -> None:
    assert check(living).proven
    change = "update split.service_tables set definition = %s || definition where table_name = %s"
    with living.service("payments_db") as database:
        database.execute(change, (" ", "refunds"))
        with open_ledger(living.connections) as ledger:
            assert verify.outdated(ledger, database, PAYMENTS) == ["refunds"]
    built = living.runner("build", "payments")  # records the model's SQL as it is
    assert built.returncode == 0, built.stderr
    with open_ledger(living.connections) as ledger, living.service("payments_db") as database:
        assert verify.outdated(ledger, database, PAYMENTS) == []


def test_interrupted_verify_continues_where_it_stopped(living: Split) -> None:
    seen: list[str] = []

    def stop_at_payments(name: str) -> None:
        seen.append(name)
        if name == "payments":
            raise KeyboardInterrupt

    with open_ledger(living.connections) as ledger:
        with pytest.raises(KeyboardInterrupt):
            verify.verify(PAYMENTS, living.connections, ledger, on_table=stop_at_payments)
        resumed = verify.verify(PAYMENTS, living.connections, ledger)
        whole = verify.verify(PAYMENTS, living.connections, ledger)
    assert seen == ["disputes", "payments"]
    assert resumed.earlier == ("disputes",)
    assert resumed.proven
    assert set(resumed.tables) == set(whole.tables)
    assert whole.earlier == ()


def test_interrupted_verify_does_not_reuse_proofs_older_than_an_hour(living: Split) -> None:
    def stop_at_payments(name: str) -> None:
        if name == "payments":
            raise KeyboardInterrupt

    with open_ledger(living.connections) as ledger:
        with pytest.raises(KeyboardInterrupt):
            verify.verify(PAYMENTS, living.connections, ledger, on_table=stop_at_payments)
        for table in ("ledger", "verifications"):
            ledger.connection.execute(
                f"update split.{table} set started_at = started_at - interval '61 minutes'".encode()
            )
        assert verify.verify(PAYMENTS, living.connections, ledger).earlier == ()


class Writers:
    """Clients that change payments in the monolith: of every four, never the 2nd, often the 3rd."""

    def __init__(self, split: Split) -> None:
        self.split, self.stop, self.commits = split, threading.Event(), 0
        self.threads = [threading.Thread(target=self._write, args=(n,)) for n in range(2)]

    def _write(self, number: int) -> None:
        with self.split.monolith() as monolith:
            while not self.stop.is_set():
                self.commits += 1
                monolith.execute(
                    "update blytz_hire.payments set status = %s where id in (select id from"
                    " (select id, row_number() over (order by id) as n from blytz_hire.payments)"
                    " as numbered where n %% 4 = %s)",
                    (f"{number}-{self.commits}", self.commits % 2 if number else 3),
                )
                time.sleep(0.02)

    def __enter__(self) -> Writers:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()


@pytest.mark.slow
def test_verify_proves_a_table_under_writes_and_finds_a_real_difference(living: Split) -> None:
    change = (
        "update payments_db.payments set method = method || '!' where id ="
        " (select id from payments_db.payments order by id offset 1 limit 1)"
    )
    with Writers(living) as writers:
        for _ in range(3):
            found = check(living, "payments").tables["payments"]
            assert found.proven, found
        with living.service("payments_db") as database:
            database.execute(change.encode())
            found = check(living, "payments").tables["payments"]
            database.execute("update payments_db.payments set method = rtrim(method, '!')")
    assert (found.modified, found.missing, found.extra, found.unsettled) == (1, 0, 0, 0), found
    assert found.columns == {"method": 1}
    assert writers.commits > 20
    assert check(living).proven


@pytest.mark.slow
def test_row_that_keeps_changing_is_in_flux_and_not_proven(
    living: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "MOST_READS", 3)
    restless = (
        "update blytz_hire.reviews set helpful = helpful + 1"
        " where id = (select min(id) from blytz_hire.reviews)"
    )

    def catch_up(stream: Any) -> None:
        with living.monolith() as monolith:
            monolith.execute(restless)

    worse = (
        "update payments_db.reviews set verified = not verified"
        " where id = (select min(id) from payments_db.reviews)"
    )
    with corrupted(living, "reviews", worse):
        monkeypatch.setattr(verify, "_catch_up", catch_up)
        found = check(living, "reviews").tables["reviews"]
        monkeypatch.undo()
    assert (found.unsettled, found.differing, found.proven) == (1, 0, False)
    with living.service("payments_db") as database:
        database.execute("update split.service_tables set is_stale = true")
    assert check(living).proven


@pytest.mark.slow
def test_verify_command_shows_differences_and_exits_with_9(living: Split) -> None:
    change = (
        "update payments_db.payments set status = 'x[red]y', amount = amount + 1"
        f" where id = {PAYMENT}"
    )
    with corrupted(living, "payments", change):
        shown = living.runner("verify", "payments")
        data = living.runner("verify", "payments", "--json")
    assert shown.returncode == data.returncode == DataDiffers.exit_code
    assert "modified columns: status 1, amount 1" in shown.stdout
    assert ", found 'x[red]y'" in shown.stdout
    assert "./runner.py land payments --recopy && ./runner.py run payments" in shown.stdout
    assert all(len(line) <= 80 for line in shown.stdout.splitlines())
    table = json.loads(data.stdout)["services"]["payments_db"]["tables"]["payments"]
    assert table["modified"] == 1
    assert table["identical"] == table["rows"] - 1
    again = living.runner("verify", "payments")
    assert again.returncode == 0, again.stderr
    assert "Proven:" in again.stdout


@pytest.mark.slow
def test_verify_reports_why_it_cannot_compare(living: Split) -> None:
    with pytest.raises(NotReady) as unknown:
        check(living, "payment")
    assert "payments_db has no table payment" in str(unknown.value)
    assert "Choose from: disputes, payments, refunds, reviews, shared_users" in str(unknown.value)
    absent = living.runner("verify", "users")
    assert absent.returncode == NotReady.exit_code
    assert "users_db has not been built" in absent.stderr
    assert "runner.py run users" in absent.stderr
    with living.service("payments_db") as database:
        database.execute("alter subscription split_payments_db disable")
        try:
            with pytest.raises(NotReady, match="Somebody has paused replication"):
                check(living)
        finally:
            database.execute("alter subscription split_payments_db enable")
    assert check(living).proven


DUPLICATES = (
    "create table payments_db.more () inherits (payments_db.payments);"
    " insert into payments_db.more select * from only payments_db.payments"
    " order by id limit 3"
)


def test_duplicate_rows_are_found(living: Split) -> None:
    with living.service("payments_db") as database:
        database.execute(DUPLICATES.encode())
        try:
            found = check(living, "payments").tables["payments"]
        finally:
            database.execute("drop table payments_db.more")
    assert (found.modified, found.missing, found.extra) == (0, 0, 3)
    assert {sample.kind for sample in found.samples} == {"extra"}


@pytest.mark.parametrize(
    ("change", "back", "said"),
    [
        (
            "alter table payments_db.disputes rename to disputed",
            "alter table payments_db.disputed rename to disputes",
            "The table payments_db.disputes is called payments_db.disputed now",
        ),
        (
            "alter table payments_db.disputes set schema public",
            "alter table public.disputes set schema payments_db",
            "The table payments_db.disputes is called public.disputes now",
        ),
        (
            "alter table payments_db.refunds drop constraint refunds_pkey",
            "alter table payments_db.refunds add primary key (payment_id)",
            "The table payments_db.refunds no longer has a primary key of one column",
        ),
        (
            "alter table payments_db.disputes rename reason to reasons",
            "alter table payments_db.disputes rename reasons to reason",
            "reason is missing where the model gives text",
        ),
        (
            "alter table payments_db.reviews alter comment type varchar",
            "alter table payments_db.reviews alter comment type text",
            "comment is varchar where the model gives text",
        ),
    ],
    ids=["renamed", "moved", "no key", "column renamed", "type changed"],
)
def test_table_altered_since_it_was_built_is_never_proven(
    living: Split, change: str, back: str, said: str
) -> None:
    with living.service("payments_db") as database:
        database.execute(change.encode())
        try:
            result = living.runner("verify", "payments")
        finally:
            database.execute(back.encode())
    assert result.returncode == NotReady.exit_code, result.stdout
    assert said in result.stderr
    with living.monolith() as monolith:
        assert state(monolith, PAYMENTS) == State.BUILT


@pytest.mark.slow
def test_value_that_stays_while_the_monolith_toggles_it_is_not_proven(
    living: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "MOST_READS", 4)
    one = "id = (select min(id) from blytz_hire.reviews)"

    def toggle(stream: Any) -> None:
        with living.monolith() as monolith:
            monolith.execute(f"update blytz_hire.reviews set rating = 6 - rating where {one}")

    with living.monolith() as monolith:
        row = monolith.execute(f"select rating from blytz_hire.reviews where {one}").fetchone()
        assert row is not None
        monolith.execute(f"update blytz_hire.reviews set rating = 1 where {one}")
    assert check(living, "reviews").proven
    monkeypatch.setattr(verify, "_catch_up", toggle)
    found = check(living, "reviews").tables["reviews"]
    monkeypatch.undo()
    assert (found.unsettled, found.differing, found.proven) == (1, 0, False)
    with living.monolith() as monolith:
        monolith.execute(f"update blytz_hire.reviews set rating = %s where {one}", row)
    assert check(living).proven


def test_verify_gives_up_waiting_for_a_lock(living: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "LOCK_TIMEOUT", "50ms")
    with living.service("payments_db") as database, database.transaction():
        database.execute("lock table payments_db.disputes in access exclusive mode")
        with pytest.raises(NotReady, match="Somebody holds a lock") as caught:
            check(living, "disputes")
    assert "select pg_terminate_backend(" in caught.value.hint


def test_long_value_is_shown_shortened(living: Split) -> None:
    long = (
        f"update payments_db.reviews set comment = repeat('x', 100000) || '!' where {FIRST_REVIEW}"
    )
    with corrupted(living, "reviews", long):
        (sample,) = check(living, "reviews").tables["reviews"].samples
    shown = sample.values["comment"][1]
    assert shown is not None
    assert len(shown) < 300
    assert "… (100001, md5 " in shown


def test_unknown_option_still_gives_a_json_error(living: Split) -> None:
    mistyped = living.runner("verify", "payments", "--json", "--bogus")
    assert mistyped.returncode == 2
    assert "No such option" in json.loads(mistyped.stdout)["error"]["what"]
