"""Building: the real models on the sample monolith, and what a build refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

from demo.project import ROOT, select
from pgsplit.base.errors import BuildFailed, NotReady
from pgsplit.load.build import Built, build, check_monolith
from pgsplit.load.land import land
from pgsplit.load.provision import provision
from pgsplit.postgres.connect import connect, with_database
from pgsplit.project import dbt
from pgsplit.project.project import Service
from pgsplit.routing.env_file import read_url
from pgsplit.state.ledger import State, open_ledger
from tests.support.split import Split
from tests.support.switching import NEW_PAYMENT, Side, as_service, one, ran

(PAYMENTS,) = select(("payments",))


def prepare(split: Split, name: str) -> Service:
    """Provision and land a service."""
    (service,) = select((name,))
    with open_ledger(split.connections) as ledger:
        provision(service, split.connections, ledger)
        land(service, split.connections, ledger)
    return service


def build_service(split: Split, service: Service) -> Built:
    with open_ledger(split.connections) as ledger:
        return build(service, split.connections, ledger)


def versions(split: Split, service: Service) -> dict[str, list[tuple[object, ...]]]:
    """Give the identity of every row version of a service: it changes when a row is written."""
    with split.service(service.database) as database:
        tables = database.execute(
            "select relname from pg_class where relkind = 'r' and relnamespace = %s::regnamespace",
            (service.database,),
        ).fetchall()
        return {
            table: database.execute(
                f'select ctid::text, xmin::text, xmax::text from {service.database}."{table}"'
                " order by 1"
            ).fetchall()
            for (table,) in tables
        }


@pytest.mark.slow
def test_second_build_changes_no_row_whether_by_dbt_or_the_runner(living: Split) -> None:
    before = versions(living, PAYMENTS)
    ran = living.dbt("build", "--target", "payments_db", "--full-refresh")
    assert ran.returncode == 0, ran.stdout
    assert versions(living, PAYMENTS) == before
    built = build_service(living, PAYMENTS)
    assert versions(living, PAYMENTS) == before
    assert built.tests.failed == 0
    assert built.tables == {table: len(before[table]) for table in built.tables}
    assert built.tables["payments"] == built.mirror["payments"] > 0


@pytest.mark.slow
def test_next_build_applies_what_changed_in_the_mirror(living: Split) -> None:
    first = versions(living, PAYMENTS)
    living.replicate(
        "payments_db",
        "update blytz_hire.payments set amount = 1234"
        " where id = (select min(id) from blytz_hire.payments)",
    )
    living.replicate("payments_db", "delete from blytz_hire.reviews where rating = 1")
    before = versions(living, PAYMENTS)
    second = build_service(living, PAYMENTS)
    after = versions(living, PAYMENTS)
    assert second.tables["reviews"] == second.mirror["reviews"] < len(first["reviews"])
    changed = {t: len(set(after[t]) - set(before[t])) for t in after}
    assert changed["payments"] == 1
    assert changed["reviews"] == 0
    with living.service("payments_db") as database:
        row = database.execute(
            "select amount from payments_db.payments order by id limit 1"
        ).fetchone()
    assert row is not None and str(row[0]) == "12.34"


def test_what_a_switched_service_has_just_written_fails_no_count(
    switched: Split, tmp_path: Path
) -> None:
    """Such rows are on neither side of a count until a sync has brought them to the mirror."""
    counting = ["--select", "test_name:accounts_for", "--target-path", str(tmp_path)]
    made = switched.dbt("compile", "--target", "payments_db", *counting)
    assert made.returncode == 0, made.stdout
    nodes = json.loads((tmp_path / "manifest.json").read_text())["nodes"].values()
    tests = [one for one in nodes if one.get("test_metadata", {}).get("name") == "accounts_for"]
    counts = [one["compiled_code"] for one in tests if one.get("compiled_code")]
    assert len(counts) >= 3
    with as_service(switched) as service, switched.service("payments_db") as database:
        for number in range(3):
            service.execute(NEW_PAYMENT[Side.SERVICE], {"id": f"just written {number}"})
        service.execute(
            "delete from payments_db.reviews"
            ' where id = (select max(id collate "C") from payments_db.reviews)'
        )
        pending = "select count(*) from split.changes where changed_table ~ '^payments_db'"
        assert one(database, pending) >= 4
        assert [database.execute(query).fetchall() for query in counts] == [[]] * len(counts)
        ran(switched, "sync", "payments")
        assert [database.execute(query).fetchall() for query in counts] == [[]] * len(counts)
        database.execute("alter table blytz_hire.payments disable trigger all")  # nothing captures
        database.execute("delete from blytz_hire.payments where id = 'just written 1'")
        assert len([one for query in counts for one in database.execute(query)]) == 1


def test_two_rows_can_swap_unique_values(six: Split) -> None:
    (users,) = select(("users",))
    emails = "select id, email from users_db.users order by id limit 2"
    with six.service("users_db") as database:
        (one, email), (other, other_email) = database.execute(emails).fetchall()
    six.replicate(
        "users_db",
        "update blytz_hire.users set email = case id when %s then %s else %s end"
        " where id in (%s, %s)",
        *(one, other_email, email, one, other),
    )
    build_service(six, users)
    with six.service("users_db") as database:
        assert database.execute(emails).fetchall() == [(one, other_email), (other, email)]


@pytest.mark.slow
def test_rows_that_violate_a_constraint_are_reported_and_nothing_is_left(split: Split) -> None:
    service = prepare(split, "contracts")
    with split.service("contracts_db") as database:
        database.execute(
            "update blytz_hire.milestones set \"contractId\" = 'no such contract'"
            " where id = (select min(id) from blytz_hire.milestones)"
        )
        row = database.execute("select min(id) from blytz_hire.milestones").fetchone()
    assert row is not None
    with pytest.raises(BuildFailed) as caught:
        build_service(split, service)
    what = caught.value.what
    assert (
        "contracts_db.milestones: 1 row(s) break the constraint milestones_contract_id_fkey" in what
    )
    assert f"id = {row[0]}" in what.replace('"', "")
    assert "contract_id = no such contract" in what.replace('"', "")
    assert "Fix the rows in the monolith" in what
    with split.service("contracts_db") as database:
        made = database.execute("select to_regclass('contracts_db.milestones')").fetchone()
        # Of checks that one scan has found broken, the first that some row breaks is named.
        database.execute("create temp table t as select i, -i as j from generate_series(1, 9) as i")
        checks = [
            {
                "name": f"{column}_check",
                "definition": f"check ({column} < 7)",
                "offenders": f"select * from pg_temp.t where ({column} < 7) is false",
                "key": ["i"],
            }
            for column in ("j", "i")
        ]
        enforce = "select split.enforce_together('pg_temp.t', %s)"
        with pytest.raises(psycopg.errors.CheckViolation) as broken:
            database.execute(enforce, (Jsonb(checks),))
        assert "3 row(s) break the constraint i_check, check (i < 7). First: i = 7; i = 8" in str(
            broken.value
        )
        database.execute("delete from pg_temp.t where i >= 7")
        database.execute(enforce, (Jsonb(checks),))
        with pytest.raises(psycopg.errors.CheckViolation):
            database.execute("insert into pg_temp.t values (1, 7)")
    assert made == (None,)
    with open_ledger(split.connections) as ledger:
        assert ledger.state(service) == State.LANDED


@pytest.mark.slow
def test_null_in_a_not_null_column_is_reported(landed: Split) -> None:
    with landed.service("payments_db") as database:
        database.execute("alter table blytz_hire.reviews alter column rating drop not null")
        database.execute("update blytz_hire.reviews set rating = null")
    with pytest.raises(BuildFailed) as caught:
        build_service(landed, PAYMENTS)
    assert (
        'null value in column "rating" of relation "reviews" violates not-null' in caught.value.what
    )
    assert "Failing row contains (" in caught.value.what


@pytest.mark.slow
def test_rows_are_read_only_where_no_constraint_answers_a_test(living: Split) -> None:
    selected = "payments,test_name:present_and_unique", "refunds,test_name:relationships"
    test = ("test", "--target", "payments_db", "--select", *selected)
    guarantees = (
        "select split.guarantees('payments_db.payments', 'not_null', '{id,status}'),"
        " split.guarantees('payments_db.payments', 'unique', '{id}'),"
        " split.guarantees('payments_db.payments', 'unique', '{status,id}'),"
        " split.guarantees('payments_db.refunds', 'foreign_key', '{payment_id}',"
        " 'payments_db.payments', '{id}')"
    )
    nothing = (
        "select split.guarantees('payments_db.payments', 'not_null', '{id,job_id}'),"
        " split.guarantees('payments_db.payments', 'unique', '{status}'),"
        " split.guarantees('payments_db.payments', 'unique', '{id,gone}'),"
        " split.guarantees('payments_db.refunds', 'foreign_key', '{payment_id}',"
        " 'payments_db.disputes', '{payment_id}')"
    )
    with living.service("payments_db") as database:

        def ask(query: str) -> tuple[bool, ...]:
            row = database.execute(query.encode()).fetchone()
            assert row is not None
            return row

        assert ask(guarantees) == (True, True, True, True)
        assert ask(nothing) == (False, False, False, False)
        database.execute("alter table payments_db.refunds disable trigger all")
        assert ask(guarantees) == (True, True, True, False)
        database.execute("alter table payments_db.refunds enable trigger all")
        assert ask(guarantees) == (True, True, True, True)
        database.execute("create table split.heir () inherits (payments_db.payments)")
        assert ask(guarantees) == (False, False, False, True)
        database.execute("drop table split.heir")
        # A refund without its payment, which the test finds only if it reads the rows.
        database.execute("set session_replication_role = replica")
        database.execute(
            "delete from payments_db.payments where id = (select min(payment_id) from"
            " payments_db.refunds)"
        )
        database.execute("reset session_replication_role")
    sound = living.dbt(*test)
    assert "WARN=0 ERROR=0" in sound.stdout, sound.stdout
    with living.service("payments_db") as database:
        database.execute("alter table payments_db.payments alter status drop not null")
        database.execute("alter table payments_db.payments drop constraint payments_pkey cascade")
        database.execute("alter table payments_db.payments alter id drop not null")
        for broken in (
            "status = null where id = (select min(id) from payments_db.payments)",
            "id = null where id = (select max(id) from payments_db.payments)",
            "id = (select max(id) from payments_db.payments)"
            " where ctid = (select min(ctid) from payments_db.payments where status is not null)",
        ):
            database.execute(f"update payments_db.payments set {broken}".encode())
    found = living.dbt(*test)
    # two nulls, and both rows that share an id
    assert "Got 4 results, configured to fail if != 0" in found.stdout, found.stdout
    assert re.search(r"FAIL \d+ relationships_refunds", found.stdout), found.stdout


def test_large_table_is_rebuilt_by_sample_and_every_key(living: Split) -> None:
    ask = "select difference, id from split.way_back_sample_differs('payments', 10)"
    with living.service("payments_db") as database:
        assert database.execute(ask).fetchall() == []
        # Else what is deleted is noted, and the next sync puts it right.
        database.execute("set split.is_syncing = on")
        gone = one(database, "select id from payments_db.payments order by id desc limit 1")
        database.execute("delete from payments_db.refunds where payment_id = %s", (gone,))
        database.execute("delete from payments_db.disputes where payment_id = %s", (gone,))
        database.execute("delete from payments_db.payments where id = %s", (gone,))
        assert ("missing", gone) in database.execute(ask).fetchall()
        database.execute("update payments_db.payments set status = status || '?'")
        found = database.execute(ask).fetchall()
        assert ("missing", gone) in found
        # The pages that a sample takes hold some rows each, and it may take none.
        rows = one(database, "select count(*) from payments_db.payments")
        assert len(found) < rows
        wrong = []
        while len(wrong) < 2:
            wrong = database.execute(ask).fetchall()
        assert {difference for difference, _ in wrong} == {"missing", "changed"}


@pytest.mark.slow
def test_table_that_this_project_did_not_make_is_left_alone(landed: Split) -> None:
    with landed.service("payments_db") as database:
        database.execute("create table payments_db.payments as select 'precious' as id")
    with pytest.raises(BuildFailed) as caught:
        build_service(landed, PAYMENTS)
    assert "but this project did not make it. Nothing was changed." in caught.value.what
    assert "rename to payments_before_split;" in caught.value.what
    with landed.service("payments_db") as database:
        assert database.execute("table payments_db.payments").fetchall() == [("precious",)]


@pytest.mark.slow
def test_table_with_an_outdated_structure_is_refused(living: Split) -> None:
    before = versions(living, PAYMENTS)
    with living.service("payments_db") as database:
        database.execute(
            "update split.service_tables set structure = 'of an older project'"
            " where table_name = 'refunds'"
        )
    with pytest.raises(BuildFailed) as caught:
        build_service(living, PAYMENTS)
    assert "payments_db.refunds in" in caught.value.what
    assert "with other columns, keys or indexes" in caught.value.what
    assert "drop table" in caught.value.what
    assert versions(living, PAYMENTS) == before


@pytest.mark.slow
def test_dangling_reference_that_had_a_key_fails_with_its_rows(landed: Split) -> None:
    with landed.service("payments_db") as database:
        database.execute(
            "update blytz_hire.payments set \"userId\" = 'ghost'"
            " where id = (select min(id) from blytz_hire.payments)"
        )
    with pytest.raises(BuildFailed) as caught:
        build_service(landed, PAYMENTS)
    assert "parity_payments_sender_id__users" in caught.value.what
    assert "sender_id = ghost" in caught.value.what
    with landed.service("payments_db") as database:
        stored = database.execute(
            "select sender_id from audit.parity_payments_sender_id__users"
        ).fetchall()
    assert stored == [("ghost",)]


@pytest.mark.slow
def test_added_column_or_table_without_an_owner_fails_by_name(split: Split) -> None:
    assert check_monolith(split.connections).failed == 0
    with split.monolith() as monolith:
        monolith.execute('alter table blytz_hire.payments add column "addedToday" text')
        monolith.execute("create table blytz_hire.coupons (id text primary key)")
    with pytest.raises(BuildFailed) as caught:
        check_monolith(split.connections)
    assert "every_monolith_column_is_owned" in caught.value.what
    assert "monolith_column = addedToday" in caught.value.what
    assert "monolith_table = coupons" in caught.value.what
    assert "say in seeds/column_ownership.csv where it goes" in caught.value.what


@pytest.mark.slow
def test_missing_column_fails_by_name(split: Split) -> None:
    with split.monolith() as monolith:
        monolith.execute("alter table blytz_hire.users drop column preferences")
    with pytest.raises(BuildFailed) as caught:
        check_monolith(split.connections)
    assert (
        "monolith_column = preferences, problem = the monolith has no such column"
        in caught.value.what
    )


def test_service_that_has_not_landed_is_refused(split: Split) -> None:
    (service,) = select(("files",))
    with pytest.raises(NotReady) as caught:
        build_service(split, service)
    assert "files_db has not landed" in caught.value.what
    assert caught.value.hint == "runner.py land files"


def test_tables_made_by_dbt_belong_to_the_owner_role(living: Split) -> None:
    with living.service("payments_db") as database:
        owners = database.execute(
            "select distinct relowner::regrole::text from pg_class"
            " where relnamespace in ('payments_db'::regnamespace, 'blytz_hire'::regnamespace)"
        ).fetchall()
    assert owners == [("payments_owner",)]
    with psycopg.connect(read_url(living.connections.folder / "payments.env")) as login:
        assert login.execute("select count(*) > 0 from payments").fetchone() == (True,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            login.execute("delete from payments")


@pytest.mark.slow
def test_table_that_took_the_name_of_ours_is_left_alone(living: Split) -> None:
    with living.service("payments_db") as database:
        database.execute("alter table payments_db.disputes rename to disputes_of_old")
        database.execute("create table payments_db.disputes as select 'precious' as payment_id")
    with pytest.raises(BuildFailed) as caught:
        build_service(living, PAYMENTS)
    assert "payments_db.disputes exists in payments_db, but this project did not make it" in (
        caught.value.what
    )
    with living.service("payments_db") as database:
        assert database.execute("table payments_db.disputes").fetchall() == [("precious",)]


@pytest.mark.slow
def test_dbt_run_with_empty_flag_is_refused(living: Split) -> None:
    before = versions(living, PAYMENTS)
    ran = living.dbt("run", "--empty", "--target", "payments_db")
    assert ran.returncode != 0
    assert "--empty would delete every row of payments" in ran.stdout
    assert versions(living, PAYMENTS) == before


@pytest.mark.slow
@pytest.mark.parametrize("elsewhere", ["blytz_hire", "unprovisioned"])
def test_dbt_makes_nothing_in_an_unprovisioned_database(split: Split, elsewhere: str) -> None:
    split.server.execute("create database unprovisioned")
    url = with_database(split.server.socket, elsewhere)
    schemas = "select nspname from pg_namespace order by 1"
    with connect(url, elsewhere) as database:
        before = database.execute(schemas).fetchall()
    ran = split.dbt("run", "--target", "payments_db", PAYMENTS_DB_URL=url)
    assert ran.returncode != 0
    assert f"The database {elsewhere} on " in ran.stdout
    assert "was not provisioned for payments_db" in ran.stdout
    assert "runner.py provision payments" in ran.stdout
    with connect(url, elsewhere) as database:
        assert database.execute(schemas).fetchall() == before


@pytest.mark.slow
def test_interrupted_dbt_does_not_count_as_a_build(landed: Split) -> None:
    script = (
        "import os, signal, subprocess, sys, threading, time\n"
        "import runner\n"
        "from demo.project import PROJECT\n"
        "from pgsplit.project import dbt\n"
        "from pgsplit.postgres.connect import connect\n"
        "from pgsplit.project.endpoints import resolve\n"
        "real = subprocess.Popen\n"
        "def stopped(*args, **options):\n"
        "    process = real(*args, **options)\n"
        "    threading.Thread(target=stop, args=[process], daemon=True).start()\n"
        "    return process\n"
        "def stop(process):\n"
        "    url = resolve(PROJECT).urls['payments_db']\n"
        "    with connect(url, 'payments_db') as database:\n"
        "        at_work = \"select true from pg_stat_activity where application_name = 'dbt'\"\n"
        "        at_work += ' and datname = current_database()'\n"
        "        while not database.execute(at_work).fetchone():\n"
        "            time.sleep(0.02)\n"
        "    while process.poll() is None:\n"
        "        process.send_signal(signal.SIGINT)\n"
        "        time.sleep(0.5)\n"
        "dbt.subprocess.Popen = stopped\n"
        "sys.argv = ['runner.py', 'build', 'payments']\n"
        "sys.exit(runner.main())\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env=dict(landed.environ),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == BuildFailed.exit_code, ran.stderr
    with open_ledger(landed.connections) as ledger:
        assert ledger.state(PAYMENTS) == State.LANDED


@pytest.mark.slow
def test_what_is_parsed_ahead_is_not_parsed_again(
    split: Split, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run parses while it checks the monolith, before there is any service's database."""
    monkeypatch.setattr(dbt, "DBT", (sys.executable, "-m", "dbt.cli.main"))
    monkeypatch.setattr(dbt, "PARSER", (sys.executable, "-c", dbt.EACH))
    connections = replace(split.connections, dbt_folder=tmp_path)
    dbt.parse_ahead(["payments_db"], connections)
    parsed = tmp_path / "target" / "payments_db" / dbt.PARSED
    written = parsed.stat().st_mtime_ns
    dbt.parse_ahead(["payments_db"], connections)
    assert parsed.stat().st_mtime_ns == written
    with open_ledger(split.connections) as ledger:
        provision(PAYMENTS, split.connections, ledger)
    dbt.run(["parse"], "payments_db", connections, dbt.MANIFEST)
    log = (tmp_path / "logs" / "payments_db" / "dbt.log").read_text("utf-8")
    last = re.findall(r"(?:Unable to do partial|Partial parsing)[^.\"]*", log)[-1]
    assert last == "Partial parsing enabled, no changes found, skipping parsing"
