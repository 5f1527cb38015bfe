"""Complete: it can't be undone, so it has its own monolith."""

from __future__ import annotations

import json

from pgsplit.base.errors import NotReady
from pgsplit.routing import env_file
from pgsplit.routing.env_file import Side
from tests.support.split import Split
from tests.support.switching import (
    NEW_PAYMENT,
    OWNED,
    PAYMENTS,
    as_service,
    one,
    ran,
    stands,
    unchanged,
)


def test_completed_service_is_independent_of_the_monolith(switched: Split) -> None:
    with as_service(switched) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "last"})
        ran(switched, "sync", "payments")
    with switched.monolith() as monolith:
        counted = {
            table: one(monolith, f"select count(*) from blytz_hire.{table}") for table in OWNED
        }
    with unchanged(switched):
        planned = ran(switched, "complete", "payments", "--dry-run")
    assert (
        "payments_db is ready. Nothing was changed. A completion can't be undone; it will:"
        in planned
    )
    assert "- retire in the monolith: payments, reviews" in planned
    assert '- drop blytz_hire.payments "payments_userId_fkey"' in planned
    done = switched.runner("complete", "payments", "--json")
    assert done.returncode == 0, done.stderr
    completed = json.loads(done.stdout)["services"]["payments_db"]
    assert completed["retired"] == list(OWNED)
    assert any('blytz_hire.payments "payments_userId_fkey"' in d for d in completed["detached"])
    assert stands(switched) == "completed"
    assert "Nothing is missing." in ran(switched, "check", "payments"), "its tables are retired"
    with switched.monolith() as monolith, switched.service("payments_db") as database:
        assert counted == {
            table: one(monolith, f"select count(*) from blytz_hire_retired.{table}")
            for table in OWNED
        }
        last = "select status from blytz_hire_retired.payments where id = 'last'"
        assert one(monolith, last) == "paid"
        bound = (
            "select count(*) from pg_constraint where contype = 'f' and (conrelid = any(%(all)s"
            "::regclass[])) <> (confrelid = any(%(all)s::regclass[]))"
        )
        retired = [f"blytz_hire_retired.{table}" for table in OWNED]
        assert monolith.execute(bound, {"all": retired}).fetchall() == [(0,)]
        for connection, question in (
            (monolith, "select count(*) from pg_subscription where subname = %s"),
            (database, "select count(*) from pg_publication where pubname = %s"),
            (database, "select count(*) from pg_replication_slots where slot_name = %s"),
        ):
            assert one(connection, question, PAYMENTS.reverse_replication) == 0
        assert (
            one(
                database,
                "select count(*) from pg_constraint where conname like '%%fits\\_monolith'",
            )
            == 0
        )
        triggers = "select count(*) from pg_trigger where tgname like 'split\\_guard%%'"
        assert one(monolith, triggers) == 0
    with as_service(switched) as service:
        service.execute("update payments_db.payments set currency = 'EUR' where id = 'last'")
    assert env_file.sides(PAYMENTS, switched.connections) == (Side.SERVICE, Side.SERVICE)
    listed = json.loads(switched.runner("backups", "--json").stdout)["backups"]
    assert (listed[0]["phase"], listed[0]["path"]) == ("complete", completed["backup"]["path"])
    for command in ("rollback", "switch"):
        said = ran(switched, command, "payments", code=NotReady.exit_code)
        assert "payments_db is completed: there is no rollback any more" in said
        assert "runner.py backups" in said
    said = ran(switched, "abort", "payments", code=NotReady.exit_code)
    assert "payments_db is completed: it holds rows that nobody else has." in said
    said = ran(switched, "land", "payments", "--recopy", code=NotReady.exit_code)
    assert "payments_db is completed: it holds the only copy of its rows" in said
    assert "runner.py repair payments" in said
