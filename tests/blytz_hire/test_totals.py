"""Totals: what they catch, which cause they name, and no false alarms from a live monolith."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from demo.project import PROJECT, SERVICES, SERVICES_BY_NAME
from pgsplit.base.errors import DataDiffers, NotReady
from pgsplit.project.ownership import KINDS, comparisons, key_column, pairs
from pgsplit.prove import totals as totalling
from pgsplit.prove.totals import Totals, Verdict
from pgsplit.replication.stream import Stream
from pgsplit.replication.sync import Synced, sync
from pgsplit.state.ledger import open_ledger
from tests.support.following import PAYMENTS, Follower, add_payments, assert_in_step
from tests.support.sharing import add_users
from tests.support.split import Split

FIRST = "(select min(id) from payments_db.reviews)"
LAST = "(select max(id) from payments_db.reviews)"
REVIEWS = {f"reviews.{column}" for column in PROJECT.tables["reviews"].columns}


@pytest.fixture
def living(living: Split) -> Split:
    """Give a monolith that payments_db follows, with a review of every kind of text."""
    with living.monolith() as monolith:
        monolith.execute(
            "update blytz_hire.reviews as r set comment = case number % 3"
            " when 0 then '' when 1 then 'wörds of ' || r.id else null end"
            " from (select id, row_number() over (order by id) as number"
            " from blytz_hire.reviews) as n where r.id = n.id"
        )
        monolith.execute(
            "update blytz_hire.reviews set comment = 'of ' || id where id in"
            " ((select min(id) from blytz_hire.reviews),"
            " (select max(id) from blytz_hire.reviews))"
        )
    sync(PAYMENTS, living.connections)
    return living


def look(split: Split) -> Totals:
    with open_ledger(split.connections) as ledger:
        return totalling.totals(PAYMENTS, split.connections, ledger)


def differing(found: Totals) -> dict[str, str]:
    """Give the columns that differ, each with its cause."""
    return {
        f"{one.table}.{one.column}": one.caused_by
        for one in found.compared
        if one.verdict is Verdict.DIFFERS
    }


def put_back(split: Split) -> None:
    """Compare every table with its model in full, and check that nothing differs any more."""
    with split.service("payments_db") as database:
        database.execute("update split.service_tables set is_stale = true")
    sync(PAYMENTS, split.connections)
    assert_in_step(split)
    assert {one.verdict for one in look(split).compared} == {Verdict.AGREES}


def test_every_seed_line_has_a_known_total_or_a_reason() -> None:
    for pair in pairs(PROJECT):
        assert pair.total in KINDS or (not pair.total and pair.reason), pair
    assert {pair.total for pair in pairs(PROJECT)} == {*KINDS, ""}


def test_every_monolith_column_is_compared_in_its_owning_service() -> None:
    compared = {
        (one.table, one.column)
        for service in SERVICES_BY_NAME.values()
        for table, found in comparisons(service).items()
        for one in found
        if PROJECT.tables[table].owner == service.database
    }
    assert compared == {(t.name, column) for t in PROJECT.tables.values() for column in t.columns}


@pytest.mark.parametrize("database", SERVICES)
def test_compared_columns_are_in_the_mirror_with_their_row_key(database: str) -> None:
    service = SERVICES_BY_NAME[database]
    for table, found in comparisons(service).items():
        held = service.landed_tables[table]
        assert {"id", *(one.column for one in found)} <= set(held)
        for one in found:
            assert all(key_column(PROJECT, pair) for pair in one.pairs)
            assert one.kind.adds_up or len(one.pairs) == 1


@pytest.mark.parametrize(
    ("statement", "columns"),
    [
        pytest.param(
            "update payments_db.reviews set target_id = chr(ascii(target_id) # 1)"
            f" || substr(target_id, 2) where id = {FIRST}",
            {"reviews.targetId"},
            id="one bit of a text",
        ),
        pytest.param(
            f"delete from payments_db.reviews where id = {FIRST}",
            REVIEWS,
            id="a missing row",
        ),
        pytest.param(
            'insert into payments_db.reviews select (jsonb_populate_record(r, \'{"id": "more"}\'))'
            f".* from payments_db.reviews as r where id = {FIRST}",
            REVIEWS,
            id="a row too many",
        ),
        pytest.param(
            "update payments_db.payments set sender_id = receiver_id, receiver_id = sender_id",
            {"payments.userId", "payments.receiverId"},
            id="two columns swapped",
        ),
        pytest.param(
            "update payments_db.payments set sender_id = receiver_id, receiver_id = sender_id"
            " where id = (select min(id) from payments_db.payments where sender_id <> receiver_id)",
            {"payments.userId", "payments.receiverId"},
            id="two columns swapped in one row",
        ),
        pytest.param(
            f"update payments_db.reviews as r set comment = other.comment"
            f" from payments_db.reviews as other where (r.id = {FIRST} and other.id = {LAST})"
            f" or (r.id = {LAST} and other.id = {FIRST})",
            {"reviews.comment"},
            id="two rows' values exchanged",
        ),
        pytest.param(
            "update payments_db.reviews set comment = left(comment, 4)",
            {"reviews.comment"},
            id="texts cut off",
        ),
        pytest.param(
            "update payments_db.reviews set comment = null where comment = ''",
            {"reviews.comment"},
            id="null for an empty text",
        ),
        pytest.param(
            "update payments_db.payments"
            " set created_at = created_at at time zone 'utc' at time zone 'Asia/Kolkata'",
            {"payments.createdAt"},
            id="another time zone",
        ),
        pytest.param(
            "update payments_db.payments set created_at = date_trunc('second', created_at)",
            {"payments.createdAt"},
            id="milliseconds lost",
        ),
        pytest.param(
            "update payments_db.payments set amount = round(amount)",
            {"payments.amount"},
            id="money rounded",
        ),
        pytest.param(
            "update payments_db.payments set amount = amount / 10 where amount % 1 = 0",
            {"payments.amount"},
            id="a model that divides once too often",
        ),
        pytest.param(
            "update payments_db.payments set stripe_fee = coalesce(stripe_fee, 0)",
            {"payments.stripeFee"},
            id="a model that takes null for nothing",
        ),
        pytest.param(
            "update payments_db.payments set metadata = metadata || '{\"extra\": null}'",
            {"payments.metadata"},
            id="a document with a key too many",
        ),
        pytest.param(
            "update payments_db.refunds set payment_id = (select min(id) from payments_db.payments"
            " where id not in (select payment_id from payments_db.refunds)) where payment_id ="
            ' (select min(id) from blytz_hire.payments where "refundAmount" is not null'
            ' and "refundedAt" is not null)',
            {"payments.refundAmount", "payments.refundedAt"},
            id="a refund of another payment",
        ),
        pytest.param(
            "set session_replication_role = replica;"
            "update payments_db.disputes set payment_id = 'nobody' || payment_id",
            {"payments.id"},
            id="disputes over payments that do not exist",
        ),
    ],
)
def test_error_in_a_service_table_is_caught(
    living: Split, statement: str, columns: set[str]
) -> None:
    with living.service("payments_db") as database:
        database.execute(statement)
    assert differing(look(living)) == dict.fromkeys(columns, "model")
    put_back(living)


def test_difference_is_reported_with_its_cause_and_a_hint(living: Split) -> None:
    with living.service("payments_db") as database:
        database.execute(
            "update payments_db.payments set amount = amount / 10 where amount % 1 = 0"
        )
        database.execute(f"delete from payments_db.reviews where id = {FIRST}")
    ran = living.runner("totals", "payments")
    assert ran.returncode == DataDiffers.exit_code == 9
    rows, _, rest = ran.stdout.partition("differs:")
    assert all(len(line) <= 80 for line in rows.splitlines())
    assert "payments.amount → payments_db.payments.amount\n" in rest
    assert " in the mirror, " in rest and " in the service\n" in rest
    assert "The tables of payments_db differ from its mirror" in rest
    assert "payments: 10 not compared: " in " ".join(rest.split())
    assert f"totals differ from the monolith's: {1 + len(REVIEWS)}." in ran.stderr
    assert "hint:  runner.py verify payments\n" in ran.stderr

    ran = living.runner("totals", "payments", "--json")
    assert ran.returncode == DataDiffers.exit_code
    report = json.loads(ran.stdout)["services"]["payments_db"]
    assert (report["differs"], report["moving"]) == (1 + len(REVIEWS), 0)
    (amount,) = [c for c in report["columns"] if c["column"] == "amount"]
    assert amount["monolith"] == amount["mirror"] == amount["expected"]
    assert float(amount["service"]["sum"]) < float(amount["mirror"]["sum"])
    assert amount["service"]["count"] == amount["mirror"]["count"] > 0
    (created,) = [c for c in report["columns"] if c["column"] == "processedAt"]
    assert created["service"]["least"] < created["service"]["most"]
    with living.monolith() as monolith:
        step, detail = monolith.execute(
            "select outcome, detail from split.ledger where step = 'totals'"
            " order by id desc limit 1"
        ).fetchall()[0]
    assert step == "failed"
    assert detail["error"] == f"columns whose totals differ: {1 + len(REVIEWS)}"
    assert detail["differs"] == len(detail["differences"]) == 1 + len(REVIEWS)
    put_back(living)


def lose_a_value(split: Split) -> set[str]:
    split.replicate(
        "payments_db", f"update blytz_hire.reviews set comment = 'spoilt' where id = {FIRST}"
    )
    return {"reviews.comment"}


def lose_a_row(split: Split) -> set[str]:
    split.replicate("payments_db", f"delete from blytz_hire.reviews where id = {FIRST}")
    return REVIEWS


@pytest.mark.slow
@pytest.mark.parametrize("lose", [lose_a_row, lose_a_value])
def test_loss_in_replication_is_not_blamed_on_the_model(
    living: Split, lose: Callable[[Split], set[str]]
) -> None:
    living.replicate("payments_db", "create table public.kept as table blytz_hire.reviews")
    columns = lose(living)
    found = look(living)
    assert differing(found) == dict.fromkeys(columns, "replication")
    assert all(one.expected == one.service for one in found.compared)
    ran = living.runner("totals", "payments")
    assert ran.returncode == DataDiffers.exit_code
    places = "in the monolith, .* in the mirror|between the monolith and the mirror"
    assert re.search(places, ran.stdout)
    assert "runner.py land payments --recopy && runner.py build payments" in ran.stderr
    living.replicate("payments_db", "delete from blytz_hire.reviews")
    living.replicate("payments_db", "insert into blytz_hire.reviews table public.kept")
    living.replicate("payments_db", "drop table public.kept")
    put_back(living)


def test_deleted_user_is_no_difference(living: Split) -> None:
    add_users(living, "short-lived")
    sync(PAYMENTS, living.connections)
    with living.monolith() as monolith:
        monolith.execute("delete from blytz_hire.users where id = 'short-lived'")
    sync(PAYMENTS, living.connections)
    with living.service("payments_db") as database:
        kept = "select deleted_at is not null from payments_db.shared_users where id = %s"
        assert database.execute(kept, ("short-lived",)).fetchall() == [(True,)]
    assert differing(look(living)) == {}


@pytest.mark.slow
def test_writers_and_a_follower_cause_no_false_alarm(living: Split) -> None:
    stop, written = threading.Event(), [0]

    def write() -> None:
        while not stop.is_set():
            written[0] += 1
            add_payments(living, 3, f"busy-{written[0]}-")
            with living.monolith() as monolith:
                monolith.execute(
                    "update blytz_hire.payments set amount = amount + 1, status = %s"
                    " where id like 'busy-%%' and random() < 0.5",
                    (f"status {written[0]}",),
                )
                monolith.execute("delete from blytz_hire.payments where id like 'busy-%-3'")

    writer = threading.Thread(target=write)
    with Follower(living):
        writer.start()
        try:
            looks = [look(living) for _ in range(3)]
        finally:
            stop.set()
            writer.join()
    assert written[0] > 3
    for found in looks:
        assert differing(found) == {}
        assert all(one.expected == one.service for one in found.compared)
    put_back(living)


def write_around_the_mirror(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[], None], after: Callable[[], None]
) -> None:
    """Write in the monolith after the first look at it, and again before the second."""
    arrive, apply_changes_and_look = totalling.arrive, totalling.apply_changes_and_look

    def write_and_arrive(stream: Stream) -> None:
        before()
        arrive(stream)

    def look_and_write(
        database: psycopg.Connection[Any], look: Callable[[psycopg.Connection[Any]], Any]
    ) -> tuple[Synced, Any]:
        found = apply_changes_and_look(database, look)
        after()
        return found

    monkeypatch.setattr(totalling, "arrive", write_and_arrive)
    monkeypatch.setattr(totalling, "apply_changes_and_look", look_and_write)


@pytest.mark.slow
def test_column_that_changes_at_every_look_is_reported_as_moving(
    living: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves = [0]

    def move() -> None:
        moves[0] += 1
        with living.monolith() as monolith:
            monolith.execute(
                "update blytz_hire.reviews set comment = %s"
                " where id = (select min(id) from blytz_hire.reviews)",
                (f"move {moves[0]}",),
            )

    write_around_the_mirror(monkeypatch, move, move)
    found = look(living)
    moved = {f"{c.table}.{c.column}" for c in found.compared if c.verdict is Verdict.MOVING}
    assert moved == {"reviews.comment"}
    assert differing(found) == {}
    assert all(one.expected == one.service for one in found.compared)
    assert totalling.difference([found]) is None
    monkeypatch.undo()
    put_back(living)


def test_row_that_exists_only_between_two_looks_is_no_difference(
    living: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [0]

    def come() -> None:
        times[0] += 1
        if times[0] == 1:
            add_payments(living, 1, "came-")

    def go() -> None:
        with living.monolith() as monolith:
            monolith.execute("delete from blytz_hire.payments where id like 'came-%'")

    write_around_the_mirror(monkeypatch, come, go)
    assert {one.verdict for one in look(living).compared} == {Verdict.AGREES}
    assert times[0] == len(comparisons(PAYMENTS)) + 1
    monkeypatch.undo()
    put_back(living)


@pytest.mark.slow
def test_totals_are_refused_if_replication_is_paused_or_service_is_switched(living: Split) -> None:
    with living.service("payments_db") as database:
        database.execute("alter subscription split_payments_db disable")
        with pytest.raises(NotReady, match="Somebody has paused replication"):
            look(living)
        database.execute("alter subscription split_payments_db enable")
        database.execute("update split.service set switched_at = now()")
        with pytest.raises(NotReady, match="has been switched since"):
            look(living)
        database.execute("update split.service set switched_at = null")
    put_back(living)
