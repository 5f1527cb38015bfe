"""References between services: where they lead, and what is done about those that lead nowhere."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import yaml

from migration import catalog
from migration import parity as following
from migration import reconcile as reconciling
from migration.errors import DataDiffers, NotReady
from migration.ledger import open_ledger
from migration.parity import Parity, parity
from migration.reconcile import reconcile
from migration.services import ROOT, SERVICES_BY_NAME, select
from migration.sync import sync
from tests.runner.conftest import Server, Split, make_split
from tests.runner.sharing import Followers, add_users
from tests.runner.test_sync import until

MARKETPLACE, PAYMENTS, USERS = select(("marketplace", "payments", "users"))
PATIENT = ("--no-backup", "--max-pause", "30s")

# What foreign keys of the monolith a test of the services' own tables stands for, where a key is
# spread over tables or a test follows more than a key. The rest goes by seeds/column_ownership.csv.
FOLLOWS_ANOTHER = {
    ("contracts", "client_id"): "companies.userId",
    ("contracts", "va_id"): "va_profiles.userId",
    ("file_metadata", "user_id"): "va_profiles.userId",
    ("file_metadata", "va_profile_id"): "portfolio_items.vaProfileId",
    ("match_votes", "va_profile_id"): "matches.vaProfileId",
}

KEY = re.compile(
    r'foreign key \("?(?P<column>\w+)"?\)\s+references blytz_hire\.(?P<parent>\w+)\(id\)'
    r"\s+on update (?P<on_update>\w+) on delete (?P<on_delete>restrict|cascade|set null)"
)


def crossing_keys() -> dict[tuple[str, str, str], tuple[str, str]]:
    """Give the monolith's foreign keys between tables of two services, with what they do.

    From demo/keys.sql: by table, column and parent, the actions on delete and on update.
    """
    text = (ROOT / "demo" / "keys.sql").read_text("utf-8")
    tables, found = catalog.expected(), {}
    for statement in text.split(";"):
        child = re.search(r"alter table blytz_hire\.(\w+)", statement)
        for key in KEY.finditer(statement):
            assert child
            if tables[child[1]].owner != tables[key["parent"]].owner:
                found[child[1], key["column"], key["parent"]] = (key["on_delete"], key["on_update"])
    assert text.count("foreign key") == len(KEY.findall(text)) + 1  # one of two columns: match_votes
    return found


def tested() -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Give the parity tests of the models' yml by table, column and owner of what it names."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for path in sorted((ROOT / "models").glob("*_db/*.yml")):
        for model in yaml.safe_load(path.read_text("utf-8"))["models"]:
            for column in model["columns"]:
                for test in column.get("data_tests", []):
                    if isinstance(test, dict) and "parity" in test:
                        arguments = test["parity"]["arguments"]
                        place = (model["name"], column["name"], arguments["owner"])
                        found.setdefault(place, []).append(test["parity"])
    return found


def came_from() -> dict[tuple[str, str], set[tuple[str, str]]]:
    """Give by service table and column the monolith's columns that it came from."""
    found: dict[tuple[str, str], set[tuple[str, str]]] = {}
    lines = (ROOT / "seeds" / "column_ownership.csv").read_text("utf-8").splitlines()
    names = lines[0].split(",")
    for line in lines[1:]:
        row = dict(zip(names, line.split(","), strict=False))
        place = (row["service_table"], row["service_column"])
        found.setdefault(place, set()).add((row["monolith_table"], row["monolith_column"]))
    return found


def test_every_key_between_services_has_a_test_that_knows_what_it_did() -> None:
    keys, origins, left = crossing_keys(), came_from(), set(crossing_keys())
    assert len(keys) == 22
    assert {on_update for _, on_update in keys.values()} == {"cascade"}
    for (table, column, owner), tests in tested().items():
        places = {
            (monolith_table, monolith_column, owner)
            for monolith_table, monolith_column in origins[table, column]
        } & keys.keys()
        for test in tests:
            had_key = test.get("config", {}).get("severity", "error") == "error"
            is_keyed = bool(places) or (table, column) in FOLLOWS_ANOTHER
            assert had_key == is_keyed, (table, column)
            on_delete = test["arguments"].get("on_delete", "restrict")
            assert {keys[place][0] for place in places} <= {on_delete}, (table, column)
        left -= places
    assert left == set()


def test_the_documented_table_has_every_key_and_what_it_did() -> None:
    text = (ROOT / "docs" / "consistency.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| `(\w+)` \| ([a-z ]+?) \|", text, re.MULTILINE)
    documented = {(table, column, parent): action for table, column, parent, action in rows}
    assert documented == {place: on_delete for place, (on_delete, _) in crossing_keys().items()}


@pytest.fixture(scope="module")
def apart(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Split]:
    """Give a monolith with payments_db and marketplace_db, of which neither is switched yet."""
    folder = tmp_path_factory.mktemp("apart")
    for split in make_split(server, folder, tmp_path_factory.getbasetemp() / "dbt"):
        for command in ("run", "verify"):
            ran = split.runner(command, "payments", "marketplace")
            assert ran.returncode == 0, ran.stderr
        yield split


def switched(split: Split, role: str) -> None:
    """Switch a service, unless it is."""
    (service,) = select((role,))
    with open_ledger(split.connections) as ledger:
        stands = ledger.state(service).value
    if stands != "switched":
        ran = split.runner("switch", role, *PATIENT)
        assert ran.returncode == 0, ran.stderr


def errors(found: Parity) -> dict[str, int]:
    """Give the orphans of references that had a key, by where they are."""
    return {f"{one.table}.{one.column}": one.orphans for one in found.broken if one.had_key}


def column(split: Split, database: str, query: str, *parameters: object) -> list[Any]:
    """Give the first column of what a query finds."""
    with split.service(database) as connection:
        return [row[0] for row in connection.execute(query, parameters)]


def test_what_never_had_a_key_is_shown_and_is_no_error(apart: Split) -> None:
    ran = apart.runner("parity", "payments", "--json")
    assert ran.returncode == 0, ran.stderr
    found = {
        (one["table"], one["column"], one["owner_table"]): one
        for one in json.loads(ran.stdout)["references"]
    }
    assert len(found) == len({place for place in tested() if place[0] in ("payments", "reviews")})
    odd = found["payments", "receiver_id", "users"]
    assert not odd["had_key"]
    assert odd["orphans"] == len(odd["samples"]) == 1
    assert odd["owner"] == "users_db"
    assert found["payments", "job_id", "jobs"]["on_delete"] == "set null"
    held = column(apart, "payments_db", f"select receiver_id from {odd['stored_in']}")
    assert held == [odd["samples"][0]["receiver_id"]]


def test_before_a_switch_the_monoliths_keys_see_to_it(apart: Split) -> None:
    """Owner in the monolith: what it refuses is refused, what it empties and renames follows."""
    with apart.monolith() as monolith:
        (user,) = monolith.execute('select min("userId") from blytz_hire.payments').fetchall()[0]
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            monolith.execute("delete from blytz_hire.users where id = %s", (user,))
        (match,) = monolith.execute('select min("matchId") from blytz_hire.payments').fetchall()[0]
        monolith.execute("update blytz_hire.matches set id = 'renamed' where id = %s", (match,))
    query = "select match_id from payments_db.payments where match_id = any(%s)"
    sync(PAYMENTS, apart.connections)
    assert set(column(apart, "payments_db", query, ["renamed", match])) == {"renamed"}
    with apart.monolith() as monolith:
        monolith.execute(
            'delete from blytz_hire.match_votes as vote using blytz_hire.matches where ('
            'vote."jobPostingId", vote."vaProfileId") = (matches."jobPostingId",'
            " matches.\"vaProfileId\") and matches.id = 'renamed'"
        )
        monolith.execute("delete from blytz_hire.matches where id = 'renamed'")
    sync(PAYMENTS, apart.connections)
    sync(MARKETPLACE, apart.connections)
    assert column(apart, "payments_db", query, ["renamed", match]) == []
    found = parity([PAYMENTS], apart.connections)
    assert errors(found) == {}
    assert following.difference(found) is None


def test_a_switched_dependant_refuses_what_the_monolith_would_do_to_it(apart: Split) -> None:
    """Its rows in the monolith are not written there any more, not even by a cascade."""
    switched(apart, "payments")
    with apart.monolith() as monolith:
        ((match, posting, profile),) = monolith.execute(
            'select id, "jobPostingId", "vaProfileId" from blytz_hire.matches'
            ' where id in (select "matchId" from blytz_hire.payments) limit 1'
        ).fetchall()
        monolith.execute(
            'delete from blytz_hire.match_votes where ("jobPostingId", "vaProfileId") = (%s, %s)',
            (posting, profile),
        )
        for statement in (
            "delete from blytz_hire.matches where id = %s",
            "update blytz_hire.matches set id = 'renamed' where id = %s",
        ):
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as caught:
                monolith.execute(statement, (match,))
            assert "payments is written in the database payments_db now" in str(caught.value)
        with apart.service("payments_db") as database:
            database.execute(
                "update payments_db.payments set match_id = null where match_id = %s", (match,)
            )
        sync(PAYMENTS, apart.connections)
        monolith.execute("delete from blytz_hire.matches where id = %s", (match,))


def delete_from_marketplace(split: Split) -> dict[str, str]:
    """Delete a job, a match and a proposal that other services refer to, and a posting's own."""
    with split.service("marketplace_db") as database, split.service("payments_db") as payments:
        ((job,),) = payments.execute("select min(job_id) from payments_db.payments").fetchall()
        ((match,),) = payments.execute(
            "select min(match_id) from payments_db.payments"
        ).fetchall()
        with database.transaction():
            database.execute(
                "update marketplace_db.proposals set job_id = null where job_id = %s", (job,)
            )
            database.execute("delete from marketplace_db.jobs where id = %s", (job,))
            database.execute(
                "delete from marketplace_db.match_votes as vote using marketplace_db.matches where"
                " (vote.job_posting_id, vote.va_profile_id) = (matches.job_posting_id,"
                " matches.va_profile_id) and matches.id = %s",
                (match,),
            )
            database.execute("delete from marketplace_db.matches where id = %s", (match,))
    return {"job": job, "match": match}


def referring(split: Split, gone: dict[str, str]) -> dict[str, list[Any]]:
    """Give the payments that refer to what was deleted."""
    return {
        what: column(
            split,
            "payments_db",
            f"select id from payments_db.payments where {what}_id = %s order by id",
            key,
        )
        for what, key in gone.items()
    }


def test_what_would_have_been_emptied_is_found_emptied_and_filled_again(apart: Split) -> None:
    switched(apart, "payments")
    switched(apart, "marketplace")
    gone = delete_from_marketplace(apart)
    before = referring(apart, gone)
    assert all(before.values())

    ran = apart.runner("parity", "payments")
    assert ran.returncode == DataDiffers.exit_code
    orphans = sum(map(len, before.values()))
    assert f"References that had a foreign key in the monolith and lead nowhere: {orphans}." in (
        " ".join(ran.stderr.split())
    )
    assert re.search(rf"payments_db +marketplace_db +\d+ +{orphans} +0", ran.stdout)
    assert "of payments_db.payments.match_id not in matches; all of them: table audit." in (
        ran.stdout
    )
    assert f"    {before['match'][0]}: {gone['match']}" in ran.stdout

    planned = apart.runner("reconcile", "payments")
    assert planned.returncode == 9
    assert "empty payments_db.payments.job_id of" in planned.stdout
    assert "To do it: ./runner.py reconcile payments --apply" in planned.stdout
    assert referring(apart, gone) == before

    done = apart.runner("reconcile", "payments", "--apply", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [one["kind"] for one in told["actions"]] == ["empty", "empty"]
    assert not any(referring(apart, gone).values())
    sync(PAYMENTS, apart.connections)  # and so it reaches the monolith
    with apart.monolith() as monolith:
        row = monolith.execute(
            'select count(*) from blytz_hire.payments where "jobId" = %s', (gone["job"],)
        ).fetchone()
    assert row == (0,)

    with apart.service("payments_db") as database:  # somebody has written one of them since
        database.execute(
            "update payments_db.payments set job_id = (select min(id) from blytz_hire.jobs)"
            " where id = %s",
            (before["job"][0],),
        )
    for number in told["applied"]:
        undone = apart.runner("reconcile", "--undo", str(number))
        assert undone.returncode == 0, undone.stderr
        assert "Taken back: empty payments_db.payments." in undone.stdout
    assert referring(apart, gone) == {"match": before["match"], "job": before["job"][1:]}
    with open_ledger(apart.connections) as ledger:
        again = reconcile([PAYMENTS], apart.connections, ledger, apply=True)
        assert len(again.actions) == len(again.applied) == 2
    assert not any(referring(apart, gone).values())
    history = apart.runner("history", "--json").stdout
    assert "reconcile: undo" in history


def test_what_would_have_been_refused_is_brought_back(apart: Split) -> None:
    """A posting with its job and company is not to be deleted while a contract refers to it.

    contracts_db is not there; what refers is made up: a payment whose key refuses.
    """
    switched(apart, "marketplace")
    switched(apart, "payments")
    with apart.service("marketplace_db") as database:
        ((job, posting, kept),) = database.execute(
            "select job.id, job.job_posting_id, to_jsonb(job) from marketplace_db.jobs as job"
            " where id in (select job_id from payments_db_jobs())"
        ).fetchall() if False else database.execute(
            "select id, job_posting_id, to_jsonb(job) from marketplace_db.jobs as job"
            " order by id desc limit 1"
        ).fetchall()
        assert posting
    with apart.service("payments_db") as payments:
        payments.execute(
            "update payments_db.payments set job_id = %s where id = (select max(id) from"
            " payments_db.payments)",
            (job,),
        )
    sync(PAYMENTS, apart.connections)
    with apart.service("marketplace_db") as database, database.transaction():
        database.execute("update marketplace_db.proposals set job_id = null where job_id = %s", (job,))
        database.execute("delete from marketplace_db.jobs where id = %s", (job,))
    assert kept
