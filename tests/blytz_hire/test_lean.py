"""A completed service's mirror keeps what others share, and gives the rest of its disk back."""

from __future__ import annotations

import json
from typing import Any

import psycopg

from demo.project import select
from pgsplit.replication.sync import sync
from pgsplit.state.saga import Kind
from tests.support.split import Split
from tests.support.switching import one, ran

(CONTRACTS,) = select(("contracts",))
SIZE = "select pg_relation_size('blytz_hire.{}')"
UNSHARED = "select count(*) from blytz_hire.users where preferences is not null"
SHARED = "select md5(string_agg(concat(id, email, role), '' order by id)) from blytz_hire.users"
READER = "create view public.old_reviews as select id from blytz_hire.reviews"


def looked_at(split: Split, service: str) -> dict[str, Any]:
    done = split.runner("status", service, "--json")
    return dict(json.loads(done.stdout)["services"][f"{service}_db"])


def steps(monolith: psycopg.Connection[Any], step: str) -> list[dict[str, Any]]:
    rows = monolith.execute("select detail from split.ledger where step = %s", (step,))
    return [row[0] for row in rows]


def test_mirror_that_nobody_needs_is_emptied(switched: Split) -> None:
    """`complete` names who needs a table, and empties it once nobody does."""
    with switched.service("payments_db") as database, switched.monolith() as monolith:
        database.execute(READER)
        rows = one(database, "select count(*) from payments_db.payments")
        said = ran(switched, "complete", "payments", "--no-backup")
        assert "The mirror gave back" in said and "payments " in said
        kept = "the mirror of reviews stays as it is: the view public.old_reviews needs it"
        assert kept in said
        assert one(database, SIZE.format("payments")) == 0 < one(database, SIZE.format("reviews"))
        (recorded,) = steps(monolith, Kind.COMPLETE.entry("empty mirror"))
        assert recorded["emptied"]["payments"] > 0 and recorded["kept"] == [kept]

        database.execute("drop view public.old_reviews")
        planned = ran(switched, "complete", "payments", "--dry-run")
        assert "It would empty" in planned and "reviews" in planned
        assert one(database, SIZE.format("reviews")) > 0
        again = json.loads(switched.runner("complete", "payments", "--json").stdout)
        assert list(again["services"]["payments_db"]["emptied"]) == ["reviews"]
        assert one(database, SIZE.format("reviews")) == 0
        assert "holds nothing that nobody needs" in ran(switched, "complete", "payments")

        built = switched.dbt("build", "--target", "payments_db")
        assert built.returncode == 0 and "ERROR=0 SKIP=0" in built.stdout, built.stdout
        for command in ("sync", "verify", "parity", "backup", "history"):
            ran(switched, command, "payments")
        assert "payments_db" in ran(switched, "repair", "payments", "--full")
        assert looked_at(switched, "payments")["warnings"] == []
        assert one(database, "select count(*) from payments_db.payments") == rows
        assert one(database, SIZE.format("payments")) == one(database, SIZE.format("reviews")) == 0
        assert one(database, "select count(*) from split.changes") == 0


def test_mirror_that_others_share_keeps_what_they_share(users_completed: Split) -> None:
    """Its other columns are given back, and the streams that read it prove what they did."""
    with users_completed.service("users_db") as database:
        assert one(database, UNSHARED) == 0
        assert one(database, "select count(*) from users_db.users where preferences is not null")
        before = one(database, SHARED)
        database.execute(
            "update users_db.users set email = 'lean@example.com' where id = %s",
            (one(database, "select min(id) from users_db.users"),),
        )
        sync(CONTRACTS, users_completed.connections)
        assert one(database, SHARED) != before and one(database, UNSHARED) == 0
    with users_completed.service("contracts_db") as database:
        followed = "select count(*) from contracts_db.shared_users where email = %s"
        assert one(database, followed, "lean@example.com") == 1
    for service in ("users", "contracts"):
        assert looked_at(users_completed, service)["warnings"] == []
    built = users_completed.dbt("build", "--target", "users_db")
    assert built.returncode == 0 and "ERROR=0 SKIP=0" in built.stdout, built.stdout
    ran(users_completed, "verify", "users", "contracts")
    assert "holds nothing that nobody needs" in ran(users_completed, "complete", "users")
