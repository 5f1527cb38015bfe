"""Streams that broke after a switch: re-created, with differing rows applied."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from demo.project import select
from pgsplit.cutover import repair as repairing
from pgsplit.postgres import row_hashes as hashing
from pgsplit.state.ledger import open_ledger
from tests.support.split import Split

(PAYMENTS,) = select(("payments",))
OWNED = ("payments", "reviews")


def drop_slot(split: Split, name: str) -> None:
    """Drop a slot, as an operator who needs its disk space would."""
    slot = f"from pg_replication_slots where slot_name = '{name}'"
    for _ in range(100):
        # Its subscriber comes back at once.
        split.server.execute(f"select pg_terminate_backend(active_pid) {slot} and active")
        with suppress(psycopg.errors.ObjectInUse):
            if split.server.execute(f"select pg_drop_replication_slot(slot_name) {slot}"):
                return
    pytest.fail(f"{name} stayed in use")


def assert_alike(split: Split) -> None:
    """Compare the monolith's tables with the mirror's, row by row."""
    with split.monolith() as monolith, split.service("payments_db") as database:
        for table in OWNED:
            query = f"select md5(t::text) from blytz_hire.{table} as t order by 1"
            assert monolith.execute(query).fetchall() == database.execute(query).fetchall(), table


def write_after_losing_reverse_stream(split: Split, *statements: str) -> None:
    """Drop the reverse stream's slot, then let the service write and sync its mirror."""
    drop_slot(split, "split_payments_db_back")
    with split.service("payments_db") as database, database.transaction():
        database.execute("set transaction isolation level repeatable read")
        database.execute("lock table split.turn in exclusive mode")
        for statement in statements:
            database.execute(statement)
        database.execute("select * from split.sync()")


def test_reverse_stream_that_lost_its_slot_is_reported_and_recreated(switched: Split) -> None:
    drop_slot(switched, "split_payments_db_back")
    with switched.service("payments_db") as database:
        # What nothing carries any more: an update, a delete, an insert.
        database.execute(
            "update payments_db.payments set status = 'in the gap' where id in"
            " (select id from payments_db.payments order by id limit 3)"
        )
        database.execute(
            "delete from payments_db.reviews where id = (select max(id) from payments_db.reviews)"
        )
        database.execute(
            'insert into payments_db.reviews select (jsonb_populate_record(r, \'{"id": "new"}\')).*'
            " from (select r from payments_db.reviews as r order by id limit 1) as one"
        )
    ran = switched.runner("sync", "payments")
    assert ran.returncode == 4
    assert "The slot split_payments_db_back is gone from payments_db" in ran.stderr
    assert "runner.py repair payments" in ran.stderr

    ran = switched.runner("repair", "payments", "--json")
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(ran.stdout)["services"]["payments_db"]
    assert rows["split_payments_db_back"]["rows"] == {"payments": 0, "reviews": 0}
    ran = switched.runner("sync", "payments")
    assert ran.returncode == 0, ran.stderr
    assert_alike(switched)


def test_repair_applies_rows_that_differ_when_recreating_a_stream(switched: Split) -> None:
    write_after_losing_reverse_stream(
        switched,
        "update payments_db.payments set status = 'synced' where id in"
        " (select id from payments_db.payments order by id limit 3)",
        "delete from payments_db.reviews where id = (select min(id) from payments_db.reviews)",
    )
    ran = switched.runner("repair", "payments", "--json")
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(ran.stdout)["services"]["payments_db"]
    assert rows["split_payments_db_back"]["rows"] == {"payments": 3, "reviews": 1}
    assert_alike(switched)


def test_repair_applies_rows_that_swapped_unique_values(switched: Split) -> None:
    swap = (
        "update payments_db.payments set stripe_payment_intent_id = 'third' where id = '{0}'",
        "update payments_db.payments set stripe_payment_intent_id = (select"
        " \"stripePaymentIntentId\" from blytz_hire.payments where id = '{0}') where id = '{1}'",
        "update payments_db.payments set stripe_payment_intent_id = (select"
        " \"stripePaymentIntentId\" from blytz_hire.payments where id = '{1}') where id = '{0}'",
    )
    with switched.service("payments_db") as database:
        ids = database.execute(
            'select id from blytz_hire.payments where "stripePaymentIntentId" is not null'
            " order by id limit 2"
        ).fetchall()
    names = [id for (id,) in ids]
    write_after_losing_reverse_stream(switched, *(one.format(*names) for one in swap))
    ran = switched.runner("repair", "payments", "--json")
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(ran.stdout)["services"]["payments_db"]
    assert rows["split_payments_db_back"]["rows"] == {"payments": 2, "reviews": 0}
    assert_alike(switched)


def interrupt(source: object, target: object, *rest: object, makes_way: bool) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("how", ["writing", "reading"])
def test_interrupted_repair_must_be_repeated(
    switched: Split, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    write_after_losing_reverse_stream(switched, f"update payments_db.payments set status = '{how}'")
    merge = hashing._merge

    def merge_then_fail(*streams: Any) -> Iterator[Any]:
        """Fail while both sides are being read."""
        yield next(merge(*streams))
        raise psycopg.OperationalError("gone")

    with monkeypatch.context() as patched, open_ledger(switched.connections) as ledger:
        if how == "writing":
            patched.setattr(repairing, "_write", interrupt)
        else:
            patched.setattr(hashing, "_merge", merge_then_fail)
        with pytest.raises((KeyboardInterrupt, psycopg.OperationalError)):
            repairing.repair(PAYMENTS, switched.connections, ledger, lambda step: None)
    ran = switched.runner("status", "payments")
    assert ran.returncode == 4
    assert "The subscription split_payments_db_back is incomplete" in ran.stdout
    assert "runner.py repair payments" in ran.stdout
    for command in ("rollback", "complete"):
        ran = switched.runner(command, "payments", "--no-backup")
        assert ran.returncode == 4
        assert "is incomplete" in ran.stderr
    ran = switched.runner("repair", "payments", "--json")
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(ran.stdout)["services"]["payments_db"]
    assert rows["split_payments_db_back"]["rows"]["payments"] > 0
    assert_alike(switched)


def test_switched_service_that_lost_its_monolith_slot_follows_after_repair(
    switched: Split,
) -> None:
    drop_slot(switched, "split_payments_db")
    with switched.monolith() as monolith:
        monolith.execute(
            "update blytz_hire.users set email = 'gap-' || email where id in"
            " (select id from blytz_hire.users order by id limit 2)"
        )
    ran = switched.runner("sync", "payments")
    assert ran.returncode == 4
    assert "The slot split_payments_db is gone from the monolith" in ran.stderr
    assert "runner.py repair payments" in ran.stderr
    ran = switched.runner("repair", "payments")
    assert ran.returncode == 0, ran.stderr
    assert "users 2" in ran.stdout
    assert switched.runner("sync", "payments").returncode == 0
    with switched.service("payments_db") as database:
        row = database.execute(
            "select count(*) from payments_db.shared_users where email like 'gap-%'"
        ).fetchone()
    assert row == (2,)

    ran = switched.runner("rollback", "payments", "--no-backup")
    assert ran.returncode == 0, ran.stderr
    with switched.monolith() as monolith:
        monolith.execute(
            "update blytz_hire.payments set status = 'after' where id ="
            " (select min(id) from blytz_hire.payments)"
        )
    assert switched.runner("sync", "payments").returncode == 0
    with switched.service("payments_db") as database:
        row = database.execute(
            "select count(*) from payments_db.payments where status = 'after'"
        ).fetchone()
    assert row == (1,)


@pytest.mark.slow
def test_repair_leaves_healthy_streams_alone_and_refuses_unswitched_services(
    switched: Split,
) -> None:
    ran = switched.runner("rollback", "payments", "--no-backup")
    assert ran.returncode == 0, ran.stderr
    refused = switched.runner("repair", "payments")
    assert refused.returncode == 4
    assert "land payments --recopy" in refused.stderr
    ran = switched.runner("verify", "payments")
    assert ran.returncode == 0, ran.stderr
    ran = switched.runner("switch", "payments", "--no-backup")
    assert ran.returncode == 0, ran.stderr
    ran = switched.runner("repair", "payments")
    assert ran.returncode == 0, ran.stderr
    assert "Nothing is broken." in ran.stdout
