"""References between services: where they lead, and how orphans are reconciled."""

from __future__ import annotations

import json
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import yaml

from demo.project import PROJECT, ROOT, select
from pgsplit.base.errors import BuildFailed, DataDiffers, NotReady
from pgsplit.prove import parity as parity_module
from pgsplit.prove.parity import parity
from pgsplit.prove.reconcile import reconcile
from pgsplit.replication.sync import sync
from pgsplit.state.ledger import open_ledger
from tests.support.following import first_payment
from tests.support.sharing import (
    Followers,
    delete_company,
    delete_from_marketplace,
    errors,
)
from tests.support.split import Split
from tests.support.waiting import until

PAYMENTS, MARKETPLACE, USERS = select(("payments", "marketplace", "users"))
PATIENT = ("--no-backup", "--max-pause", "30s", "--wait-for-write", "0")
PAYMENTS_TABLES = ("payments", "reviews", "refunds", "disputes")

# Columns that follow one with a key: who the company or profile belongs to, or the match's profile.
FOLLOW_A_KEY = {
    ("contracts", "client_id"),
    ("contracts", "va_id"),
    ("file_metadata", "owner_id"),
    ("match_votes", "va_profile_id"),
}
# Either is whom a message went to, who had a key, or who sent it, who had none.
EITHER = {("conversations", "participant_one"), ("conversations", "participant_two")}

KEY = re.compile(
    r'foreign key \("?(?P<column>\w+)"?\)\s+references blytz_hire\.(?P<parent>\w+)\(id\)'
    r"\s+on update (?P<on_update>\w+) on delete (?P<on_delete>restrict|cascade|set null)"
)


def crossing_keys() -> dict[tuple[str, str, str], tuple[str, str]]:
    """Read the monolith's foreign keys between tables of two services from demo/keys.sql.

    Gives the actions on delete and on update by table, column and parent.
    """
    text = (ROOT / "demo" / "keys.sql").read_text("utf-8")
    tables, found = PROJECT.tables, {}
    for statement in text.split(";"):
        child = re.search(r"alter table blytz_hire\.(\w+)", statement)
        for key in KEY.finditer(statement):
            assert child
            if tables[child[1]].owner != tables[key["parent"]].owner:
                found[child[1], key["column"], key["parent"]] = (key["on_delete"], key["on_update"])
    assert (
        text.count("foreign key") == len(KEY.findall(text)) + 1
    )  # one of two columns: match_votes
    return found


def parity_tests() -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Give the parity tests in the models' yml by table, column and owner table."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for path in sorted((ROOT / "models").glob("*_db/*.yml")):
        for model in yaml.safe_load(path.read_text("utf-8"))["models"]:
            for column in model["columns"]:
                for test in column.get("data_tests", []):
                    if isinstance(test, dict) and "pgsplit.parity" in test:
                        arguments = test["pgsplit.parity"]["arguments"]
                        place = (model["name"], column["name"], arguments["owner"])
                        found.setdefault(place, []).append(test["pgsplit.parity"])
    return found


def source_columns() -> dict[tuple[str, str], set[tuple[str, str]]]:
    """Give the monolith's columns that each service table's column came from."""
    found: dict[tuple[str, str], set[tuple[str, str]]] = {}
    lines = (ROOT / "seeds" / "column_ownership.csv").read_text("utf-8").splitlines()
    names = lines[0].split(",")
    for line in lines[1:]:
        row = dict(zip(names, line.split(","), strict=False))
        place = (row["service_table"], row["service_column"])
        found.setdefault(place, set()).add((row["monolith_table"], row["monolith_column"]))
    return found


def test_every_cross_service_key_has_a_parity_test_with_its_action() -> None:
    keys, origins, left = crossing_keys(), source_columns(), set(crossing_keys())
    assert len(keys) == 22
    assert {on_update for _, on_update in keys.values()} == {"cascade"}
    for (table, column, owner), tests in parity_tests().items():
        places = {
            (monolith_table, monolith_column, owner)
            for monolith_table, monolith_column in origins[table, column]
        } & keys.keys()
        for test in tests:
            had_key = test.get("config", {}).get("severity", "error") == "error"
            is_keyed = bool(places) or (table, column) in FOLLOW_A_KEY
            assert had_key == is_keyed or (table, column) in EITHER, (table, column)
            on_delete = test["arguments"].get("on_delete", "restrict")
            assert {keys[place][0] for place in places} <= {on_delete}, (table, column)
        left -= places
    assert left == set()


def test_docs_list_every_cross_service_key_with_its_action() -> None:
    text = (ROOT / "docs" / "consistency.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| `(\w+)` \| ([a-z ]+?) \|", text, re.MULTILINE)
    documented = {(table, column, parent): action for table, column, parent, action in rows}
    assert documented == {place: on_delete for place, (on_delete, _) in crossing_keys().items()}


def switched(split: Split, role: str) -> None:
    """Switch a service."""
    ran = split.runner("switch", role, *PATIENT)
    assert ran.returncode == 0, ran.stderr


def column(split: Split, database: str, query: str, *parameters: object) -> list[Any]:
    """Give the first column of what a query finds."""
    with split.service(database) as connection:
        return [row[0] for row in connection.execute(query, parameters)]


def test_orphan_of_a_column_that_never_had_a_key_is_shown_but_is_no_error(six: Split) -> None:
    ran = six.runner("parity", "payments", "--json")
    assert ran.returncode == 0, ran.stderr
    found = {
        (one["table"], one["column"], one["owner_table"]): one
        for one in json.loads(ran.stdout)["references"]
    }
    assert len(found) == len(
        {place for place in parity_tests() if place[0] in ("payments", "reviews")}
    )
    odd = found["payments", "receiver_id", "users"]
    assert not odd["had_key"]
    assert odd["orphans"] == len(odd["samples"]) == 1
    assert odd["owner"] == "users_db"
    assert found["payments", "job_id", "jobs"]["on_delete"] == "set null"
    held = column(six, "payments_db", f"select receiver_id from {odd['stored_in']}")
    assert held == [odd["samples"][0]["receiver_id"]]


@pytest.mark.slow
def test_dbt_and_the_parity_command_find_the_same_rows(living: Split) -> None:
    """Both store what they find in the same table, even in a database built by an older version."""
    questions = "select stored_schema || '.' || stored_table from split.parity_tests order by 1"
    with living.service("payments_db") as database:
        database.execute(  # what none of the monolith's keys would let happen
            "update payments_db.payments set job_id = 'no job' where id = %s",
            (first_payment(living),),
        )
        tables = [table for (table,) in database.execute(questions).fetchall()]
        assert len(tables) == sum(
            len(tests) for place, tests in parity_tests().items() if place[0] in PAYMENTS_TABLES
        )
        ran = living.dbt("test", "--target", "payments_db", "--select", "tag:parity")
        assert ran.returncode == 1, ran.stdout
        by_dbt = {table: database.execute(f"table {table}").fetchall() for table in tables}
        assert sum(map(len, by_dbt.values())) == 4
        for table in tables:
            database.execute(f"drop table {table}")

        database.execute("drop table split.parity_tests")  # as built by an older version
        # One of them is not all: what it alone would keep, the command would take for the whole.
        ran = living.dbt("test", "--target", "payments_db", "--select", "reviews")
        assert ran.returncode == 0, ran.stdout
        found = parity([PAYMENTS], living.connections)
        assert {one.stored_in for one in found.references} == set(tables)
        assert errors(found) == {"payments.job_id": 1}
        assert {table: database.execute(f"table {table}").fetchall() for table in tables} == by_dbt
        database.execute("update split.parity_tests set definition = 'select 1/0 as id'")
        found = living.runner("parity", "payments")
        assert found.returncode == BuildFailed.exit_code
        said = " ".join(found.stderr.split())
        test = "pgsplit_parity_payments_contract_id__set_null__contracts"
        assert f"The test {test} can't run: " in said
        assert "division by zero" in said
        assert "dbt test --target payments_db --select pgsplit_parity_payments_contract_id" in said


def test_parity_can_run_several_times_at_once(living: Split) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: parity([PAYMENTS], living.connections), range(8)))
    orphans = [sorted((one.stored_in, one.orphans) for one in each.references) for each in found]
    assert orphans == [orphans[0]] * 8


@pytest.mark.slow
def test_parity_test_removed_from_the_project_is_forgotten(living: Split) -> None:
    with living.service("payments_db") as database:
        recorded = "select name, definition, orphans, checked_at < now() from split.parity_tests"
        before = database.execute(recorded).fetchall()
        assert all(orphans is not None and is_dated for *_, orphans, is_dated in before)
        database.execute(
            "insert into split.parity_tests select 'gone', table_name, column_name, owner_table,"
            " on_delete, severity, stored_schema, 'gone', definition"
            " from split.parity_tests limit 1"
        )
        # One model's tests are run, and the others' are still known.
        ran = living.dbt("test", "--target", "payments_db", "--select", "reviews,tag:parity")
        assert ran.returncode == 0, ran.stdout
        assert sorted(database.execute(recorded).fetchall()) == sorted(before)


def test_monolith_keys_keep_references_valid_before_a_switch(six: Split) -> None:
    """The monolith's keys still refuse, set to null and rename; the services follow."""
    with six.monolith() as monolith:
        (user,) = monolith.execute('select min("userId") from blytz_hire.payments').fetchall()[0]
        with pytest.raises(psycopg.errors.IntegrityError):
            monolith.execute("delete from blytz_hire.users where id = %s", (user,))
        (match,) = monolith.execute('select min("matchId") from blytz_hire.payments').fetchall()[0]
        monolith.execute("update blytz_hire.matches set id = 'renamed' where id = %s", (match,))
    query = "select match_id from payments_db.payments where match_id = any(%s)"
    sync(PAYMENTS, six.connections)
    assert set(column(six, "payments_db", query, ["renamed", match])) == {"renamed"}
    with six.monolith() as monolith:
        monolith.execute(
            "delete from blytz_hire.match_votes as vote using blytz_hire.matches where ("
            'vote."jobPostingId", vote."vaProfileId") = (matches."jobPostingId",'
            " matches.\"vaProfileId\") and matches.id = 'renamed'"
        )
        monolith.execute("delete from blytz_hire.matches where id = 'renamed'")
    sync(PAYMENTS, six.connections)
    sync(MARKETPLACE, six.connections)
    assert column(six, "payments_db", query, ["renamed", match]) == []
    found = parity([PAYMENTS], six.connections)
    assert errors(found) == {}
    assert parity_module.difference(found) is None


def test_monolith_key_cannot_cascade_into_a_switched_service(six: Split) -> None:
    """Nothing in the monolith writes the service's rows any more, not even a cascade."""
    switched(six, "payments")
    with six.monolith() as monolith:
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
        with six.service("payments_db") as database:
            database.execute(
                "update payments_db.payments set match_id = null where match_id = %s", (match,)
            )
        sync(PAYMENTS, six.connections)
        monolith.execute("delete from blytz_hire.matches where id = %s", (match,))


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


def test_reconcile_sets_orphans_to_null_and_can_undo_it(six: Split) -> None:
    switched(six, "payments")
    switched(six, "marketplace")
    gone = delete_from_marketplace(six)
    before = referring(six, gone)
    assert all(before.values())

    ran = six.runner("parity", "payments")
    assert ran.returncode == DataDiffers.exit_code
    orphans = sum(map(len, before.values()))
    assert f"Broken references that had a foreign key in the monolith: {orphans}." in (
        " ".join(ran.stderr.split())
    )
    assert re.search(rf"payments_db +marketplace_db +\d+ +{orphans} +0", ran.stdout)
    assert "of payments_db.payments.match_id not in matches; list them all: table audit." in (
        ran.stdout
    )
    assert f"    {before['match'][0]}: {gone['match']}" in ran.stdout

    planned = six.runner("reconcile", "payments")
    assert planned.returncode == 9
    assert "empty payments_db.payments.job_id of" in planned.stdout
    assert "Repair it: ./runner.py reconcile payments --apply" in planned.stdout
    assert referring(six, gone) == before

    done = six.runner("reconcile", "payments", "--apply", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [one["kind"] for one in told["actions"]] == ["empty", "empty"]
    assert not any(referring(six, gone).values())
    sync(PAYMENTS, six.connections)  # and so it reaches the monolith
    with six.monolith() as monolith:
        row = monolith.execute(
            'select count(*) from blytz_hire.payments where "jobId" = %s', (gone["job"],)
        ).fetchone()
    assert row == (0,)

    with six.service("payments_db") as database:  # somebody has written one of them since
        database.execute(
            "update payments_db.payments set job_id = (select min(id) from blytz_hire.jobs)"
            " where id = %s",
            (before["job"][0],),
        )
    for number in told["applied"]:
        undone = six.runner("reconcile", "--undo", str(number))
        assert undone.returncode == 0, undone.stderr
        assert "Undone: empty payments_db.payments." in undone.stdout
    assert referring(six, gone) == {"match": before["match"], "job": before["job"][1:]}
    with open_ledger(six.connections) as ledger:
        again = reconcile([PAYMENTS], six.connections, ledger, apply=True)
        assert len(again.actions) == len(again.applied) == 2
    assert not any(referring(six, gone).values())
    history = six.runner("history", "--json").stdout
    assert "reconcile: undo" in history


def rows_in_users_db(split: Split) -> dict[str, list[Any]]:
    """Give all that users_db holds of users and companies."""
    return {
        table: column(split, "users_db", f"select to_jsonb(t)::text from users_db.{table} as t")
        for table in ("users", "companies", "company_details")
    }


def test_reconcile_restores_deleted_rows_that_others_refer_to(six: Split) -> None:
    for role in ("users", "marketplace"):
        switched(six, role)
    with six.service("users_db") as database:  # numbers that Python would round
        database.execute(
            "update users_db.company_details"
            """ set social_links = '{"n": 12345678901234567890.50, "much": 1e400}'"""
        )
    before = rows_in_users_db(six)
    company = delete_company(six)
    assert [len(rows) for rows in rows_in_users_db(six).values()] == [
        len(rows) - 1 for rows in before.values()
    ]
    with open_ledger(six.connections) as ledger:
        planned = reconcile([MARKETPLACE], six.connections, ledger)
        assert set(errors(planned.parity)) == {"job_postings.company_id", "jobs.company_id"}
        (action,) = planned.actions
        assert (action.kind, action.place, action.table) == ("restore", "users_db", "companies")
        assert list(action.rows["companies"]) == [company]
        assert {table: len(rows) for table, rows in action.rows.items()} == {
            "companies": 1,
            "company_details": 1,
            "users": 1,  # a company's user was kept by the key of the company
        }
        done = reconcile([MARKETPLACE], six.connections, ledger, apply=True)
        assert done.unrepairable == ()
    assert {table: sorted(rows) for table, rows in rows_in_users_db(six).items()} == {
        table: sorted(rows) for table, rows in before.items()
    }

    undone = six.runner("reconcile", "--undo", str(done.applied[0]))
    assert undone.returncode == 0, undone.stderr
    assert "Undone: restore 1 row(s) of users_db.companies" in undone.stdout
    assert len(rows_in_users_db(six)["users"]) == len(before["users"]) - 1
    ran = six.runner("reconcile", "marketplace", "--apply")
    assert ran.returncode == 0, ran.stderr
    assert "Each change can be undone: ./runner.py reconcile --undo NUMBER" in ran.stdout
    assert len(rows_in_users_db(six)["users"]) == len(before["users"])
    with six.monolith() as monolith:
        row = monolith.execute(
            "select count(*) from blytz_hire.companies where id = %s", (company,)
        ).fetchone()
    assert row == (1,)
    assert errors(parity([MARKETPLACE], six.connections)) == {}


def test_reconcile_leaves_conflicting_and_unrepairable_rows_to_a_person(six: Split) -> None:
    for role in ("users", "marketplace"):
        switched(six, role)
    before = rows_in_users_db(six)
    delete_company(six)
    with six.service("users_db") as database:
        ((user, kept),) = database.execute(
            "select row ->> 'email', to_jsonb(one) from split.deleted_rows as one"
            " where table_name = 'users' order by deleted_at desc limit 1"
        ).fetchall()
        database.execute(
            "insert into users_db.users (id, email, role, last_seen_at) values"
            " ('taker', %s, 'va', now())",
            (user,),
        )
        refused = six.runner("reconcile", "marketplace", "--apply")
        assert refused.returncode == NotReady.exit_code
        said = " ".join(refused.stderr.split())
        assert "can't be changed: duplicate key value violates unique constraint" in said
        assert f"Key (email)=({user}) already exists." in said
        assert "Nothing was changed." in said

        database.execute("delete from users_db.users where id = 'taker'")
        database.execute("delete from split.deleted_rows where key = %s", (kept["key"],))
        helpless = six.runner("reconcile", "marketplace", "--apply")
        assert helpless.returncode == 9, helpless.stderr
        assert "refer to rows that users_db.companies does not have. No copy of those is left" in (
            helpless.stdout
        )
        database.execute(
            "insert into split.deleted_rows select (jsonb_populate_record("
            "null::split.deleted_rows, %s)).*",
            (json.dumps(kept),),
        )
    with open_ledger(six.connections) as ledger:
        reconcile([MARKETPLACE], six.connections, ledger, apply=True)
    assert len(rows_in_users_db(six)["users"]) == len(before["users"])


def test_references_to_a_deleted_user_lead_to_a_tombstone(six: Split) -> None:
    switched(six, "users")
    switched(six, "payments")
    add_to_owner = (
        "insert into users_db.users (id, email, role, last_seen_at)"
        " values ('buried', 'buried@example.com', 'va', now())"
    )
    with six.service("users_db") as owner:
        owner.execute(add_to_owner)
        sync(USERS, six.connections)
        sync(PAYMENTS, six.connections)
        with six.service("payments_db") as payments:
            ((payment, before),) = payments.execute(
                "select id, sender_id from payments_db.payments order by id limit 1"
            ).fetchall()
            payments.execute(
                "update payments_db.payments set sender_id = 'buried' where id = %s", (payment,)
            )
            owner.execute("delete from users_db.users where id = 'buried'")
            assert errors(parity([PAYMENTS], six.connections)) == {}
            row = payments.execute(
                "select email, deleted_at is not null from payments_db.shared_users"
                " where id = 'buried'"
            ).fetchone()
            assert row == ("buried@example.com", True)
            payments.execute(
                "update payments_db.payments set sender_id = %s where id = %s", (before, payment)
            )


def test_ids_that_other_services_may_refer_to_cannot_change(six: Split) -> None:
    """The monolith's keys cascaded such a change; across databases nothing does."""
    for role in ("users", "marketplace"):
        switched(six, role)
    for database, tables in (
        ("users_db", ("users", "va_profiles", "companies")),
        ("marketplace_db", ("job_postings", "jobs", "proposals", "matches")),
    ):
        with six.service(database) as connection:
            for table in tables:
                with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
                    connection.execute(f"update {database}.{table} set id = id || '!'")
                assert f"Other services may refer to this row of {database}.{table} by its id" in (
                    str(caught.value)
                )
                connection.execute(f"update {database}.{table} set id = id")


def test_rows_still_being_replicated_are_no_orphans(six: Split) -> None:
    """Services write owner and dependant, and only parity itself syncs them."""
    for role in ("users", "marketplace"):
        switched(six, role)
    stop, written = threading.Event(), list[int]()

    def write() -> None:
        with six.service("users_db") as owner, six.service("marketplace_db") as dependant:
            while not stop.is_set():
                key = f"way-{len(written)}"
                with owner.transaction():
                    owner.execute(
                        "insert into users_db.users (id, email, role, last_seen_at)"
                        " values (%s, %s, 'company', now())",
                        (key, key),
                    )
                    owner.execute(
                        "insert into users_db.companies (id, user_id, name, country, updated_at)"
                        " values (%s, %s, 'On its way', 'DE', now())",
                        (key, key),
                    )
                dependant.execute(
                    "insert into marketplace_db.job_postings (id, company_id, title, description,"
                    " salary_range, updated_at)"
                    " values (%s, %s, 'Work', 'Work', '{\"raw\": \"10\"}', now())",
                    (key, key),
                )
                written.append(1)
                stop.wait(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until(lambda: len(written) > 10 or not writer.is_alive())
        found = parity([MARKETPLACE], six.connections)
    finally:
        stop.set()
        writer.join()
    assert errors(found) == {}
    (reference,) = [
        one
        for one in found.references
        if one.column == "company_id" and one.table == "job_postings"
    ]
    assert column(six, "marketplace_db", f"select id from {reference.stored_in}") == []
    for service in (USERS, MARKETPLACE):
        sync(service, six.connections)


def test_next_reconcile_finishes_what_a_killed_one_left(six: Split) -> None:
    for role in ("marketplace", "payments"):
        switched(six, role)
    gone = delete_from_marketplace(six)
    before = referring(six, gone)
    with six.service("payments_db") as holder, holder.transaction():
        # Of the two, the job comes first; the match has to wait.
        holder.execute(
            "select from payments_db.payments where id = any(%s) for update", (before["match"],)
        )
        with six.start("reconcile", "payments", "--apply") as killed:
            until(lambda: not referring(six, gone)["job"] or killed.poll() is not None)
            killed.send_signal(signal.SIGKILL)
            killed.wait()
    assert referring(six, gone) == {"job": [], "match": before["match"]}
    with open_ledger(six.connections) as ledger:
        done = reconcile([PAYMENTS], six.connections, ledger, apply=True)
    assert [action.column for action in done.actions] == ["match_id"]
    assert referring(six, gone) == {"job": [], "match": []}


def test_undo_of_an_unknown_compensation_is_refused(six: Split) -> None:
    for number in ("1", "999999"):
        ran = six.runner("reconcile", "--undo", number)
        assert ran.returncode == NotReady.exit_code
        assert f"The ledger has no compensation {number}." in ran.stderr


def test_reconcile_says_when_nothing_was_left_behind(six: Split) -> None:
    with Followers(six, [PAYMENTS, MARKETPLACE, USERS]):
        ran = six.runner("reconcile", "payments")
    assert ran.returncode == 0, ran.stderr
    assert "Nothing was left behind." in ran.stdout
