"""Landing: one snapshot of a live monolith, only the listed columns, all or nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import sql

from demo.project import MIRROR_SCHEMA, ROOT, SERVICES, select
from pgsplit.base.errors import NotReady, SourceMismatch, SplitError, TargetOccupied
from pgsplit.load.land import Landed, land
from pgsplit.load.provision import provision
from pgsplit.postgres import copy as snapshot_copy
from pgsplit.postgres.catalog import LiveTable, live_tables
from pgsplit.postgres.connect import connect, with_database
from pgsplit.state.ledger import State, open_ledger
from tests.support.split import Split
from tests.support.switching import ran, words
from tests.support.waiting import until


def land_service(split: Split, name: str) -> Landed:
    (service,) = select((name,))
    with open_ledger(split.connections) as ledger:
        provision(service, split.connections, ledger)
        return land(service, split.connections, ledger)


def assert_nothing_left(split: Split) -> None:
    """A failed landing leaves no publication, slot, subscription or mirror table behind."""
    with split.monolith() as monolith:
        assert monolith.execute("select pubname from pg_publication").fetchall() == []
        assert monolith.execute("select slot_name from pg_replication_slots").fetchall() == []
        state = monolith.execute("select state from split.states").fetchall()
        assert state == [("provisioned",)]
    with split.service("payments_db") as database:
        assert database.execute("select subname from pg_subscription").fetchall() == []
        tables = "select relname from pg_class where relnamespace = 'blytz_hire'::regnamespace"
        assert database.execute(tables).fetchall() == []


def rows(
    connection: psycopg.Connection[object], table: str, columns: tuple[str, ...]
) -> list[object]:
    query = sql.SQL("select row({})::text from {} order by 1").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier("blytz_hire", table)
    )
    return [row for (row,) in connection.execute(query).fetchall()]  # type: ignore[misc]


@pytest.mark.parametrize("database", SERVICES)
def test_mirror_equals_the_monolith_row_by_row(split: Split, database: str) -> None:
    landed = land_service(split, database)
    with split.monolith() as monolith, split.service(database) as mirror:
        for table, columns in select((database,))[0].landed_tables.items():
            expected = rows(monolith, table, columns)
            assert rows(mirror, table, columns) == expected
            assert landed.rows[table] == len(expected)


@pytest.mark.parametrize("database", SERVICES)
def test_mirror_holds_only_the_listed_columns(split: Split, database: str) -> None:
    land_service(split, database)
    with split.service(database) as mirror:
        held = {
            name: tuple(table.columns) for name, table in live_tables(mirror, MIRROR_SCHEMA).items()
        }
    assert held == select((database,))[0].landed_tables


def test_big_tables_are_copied_in_ranges(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_copy, "PAGES_PER_RANGE", 1)
    monkeypatch.setattr(snapshot_copy, "BLOCK_BYTES", 300)
    landed = land_service(split, "communication")
    with split.monolith() as monolith, split.service("communication_db") as mirror:
        columns = select(("communication",))[0].landed_tables["notifications"]
        assert rows(mirror, "notifications", columns) == rows(monolith, "notifications", columns)
    assert landed.rows["notifications"] > 0


def test_error_of_the_source_amid_its_rows_is_the_one_that_is_raised(split: Split) -> None:
    def read_views() -> psycopg.Connection[Any]:
        source = split.monolith()
        source.execute("set restrict_nonsystem_relation_kind = ''")
        return source

    (service,) = select(("payments",))
    with open_ledger(split.connections) as ledger:
        provision(service, split.connections, ledger)
    with split.monolith() as monolith, split.service("payments_db") as target:
        # Rows are sent before the one that fails, and more than one block holds.
        monolith.execute(
            "create view blytz_hire.fails as select '(0,1)'::tid as ctid, 1 / (5000 - i) as id,"
            " repeat('x', 100) as name from generate_series(1, 6000) as i"
        )
        target.execute("create table blytz_hire.fails (id int, name text)")
        live = LiveTable({}, frozenset(), frozenset(), ("id",), "d", 6000, 0, 0, ())
        with monolith.transaction():
            monolith.execute("set transaction isolation level repeatable read")
            snapshot = monolith.execute("select pg_export_snapshot()").fetchone()
            assert snapshot is not None
            with pytest.raises(psycopg.errors.DivisionByZero):
                snapshot_copy.copy(
                    read_views,
                    lambda: split.service("payments_db"),
                    *(snapshot[0], "blytz_hire", {"fails": (("id", "name"), live)}),
                    lambda progress: None,
                )
        assert target.execute("select count(*) from blytz_hire.fails").fetchone() == (0,)


@pytest.mark.slow
def test_writes_during_landing_arrive_exactly_once(split: Split) -> None:
    """Clients keep writing; once the subscription is enabled, the mirror catches up exactly."""
    stop, written = threading.Event(), list[int]()

    def write() -> None:
        with split.monolith() as monolith:
            while not stop.is_set():
                number = len(written)
                with monolith.transaction():
                    monolith.execute(
                        'update blytz_hire.payments set amount = amount + 1, "updatedAt" = now()'
                        " where id = (select id from blytz_hire.payments where amount < 1000000"
                        " order by random() limit 1)"
                    )
                    monolith.execute(
                        'insert into blytz_hire.reviews (id, "reviewerId", "targetType",'
                        ' "targetId", rating, "updatedAt") select %s, u.id, \'va\', v.id, 5, now()'
                        " from blytz_hire.users as u, blytz_hire.va_profiles as v"
                        " inner join blytz_hire.companies as c on c.id = v.id limit 1",
                        (f"during-{number}",),
                    )
                written.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until(lambda: len(written) > 20)
        land_service(split, "payments")
        landed_at = len(written)
        until(lambda: len(written) > landed_at + 20)
    finally:
        stop.set()
        writer.join()
    with split.monolith() as monolith, split.service("payments_db") as mirror:
        mirror.execute("alter subscription split_payments_db enable")
        row = monolith.execute("select pg_current_wal_lsn()").fetchone()
        assert row is not None
        confirmed = "select confirmed_flush_lsn >= %s::pg_lsn from pg_replication_slots"
        until(lambda: monolith.execute(confirmed, row).fetchone() == (True,))
        for table, columns in select(("payments",))[0].landed_tables.items():
            assert rows(mirror, table, columns) == rows(monolith, table, columns), table
        mirror.execute("alter subscription split_payments_db disable")


def test_second_landing_copies_nothing(split: Split) -> None:
    first = land_service(split, "files")
    second = land_service(split, "files")
    assert not first.already
    assert second.already
    assert second.rows == first.rows


def test_killed_landing_is_redone_by_the_same_command(split: Split) -> None:
    """`kill -9` after slot, publication and mirror were made; the same command redoes it."""
    kill_landing(split)
    with split.monolith() as monolith:
        assert monolith.execute("select slot_name from pg_replication_slots").fetchall() != []
    said = ran(split, "status", "payments", code=4)
    assert "A landing of payments_db was interrupted, or is under way." in words(said)
    assert "runner.py run payments" in said
    again = land_service(split, "payments")
    with split.monolith() as monolith, split.service("payments_db") as mirror:
        for table, columns in select(("payments",))[0].landed_tables.items():
            assert rows(mirror, table, columns) == rows(monolith, table, columns)
        outcomes = monolith.execute(
            "select outcome from split.ledger where step = 'land' order by id"
        ).fetchall()
    assert outcomes == [(None,), ("done",)]
    ran(split, "status", "payments")
    assert again.rows["payments"] > 0


def test_failed_landing_leaves_nothing(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise psycopg.errors.DiskFull("no space left on device")

    monkeypatch.setattr("pgsplit.load.land.subscribe", fail)
    with pytest.raises(psycopg.errors.DiskFull):
        land_service(split, "payments")
    assert_nothing_left(split)
    with split.monolith() as monolith:
        row = monolith.execute(
            "select outcome, detail ->> 'error' from split.ledger where step = 'land'"
        ).fetchone()
    assert row == ("failed", "no space left on device")


def refusal(split: Split) -> SplitError:
    with pytest.raises(SplitError) as caught:
        land_service(split, "payments")
    assert_nothing_left(split)
    return caught.value


@pytest.mark.parametrize(
    ("damage", "what", "hint"),
    [
        (
            "drop table blytz_hire.reviews",
            "table blytz_hire.reviews is missing",
            "Create blytz_hire.reviews",
        ),
        (
            'alter table blytz_hire.payments drop column "stripeFee"',
            'column blytz_hire.payments."stripeFee" is missing',
            'ALTER TABLE blytz_hire.payments ADD COLUMN "stripeFee" integer;',
        ),
        (
            "alter table blytz_hire.payments alter column amount type numeric",
            'column blytz_hire.payments."amount" is numeric where integer is expected',
            'ALTER TABLE blytz_hire.payments ALTER COLUMN "amount" TYPE integer;',
        ),
        (
            "alter table blytz_hire.reviews drop constraint reviews_pkey",
            "table blytz_hire.reviews has no primary key",
            "ALTER TABLE blytz_hire.reviews ADD PRIMARY KEY (id);",
        ),
        (
            "alter table blytz_hire.reviews drop constraint reviews_pkey,"
            " add primary key (id) deferrable",
            "table blytz_hire.reviews has no primary key, or a deferrable one",
            "ALTER TABLE blytz_hire.reviews ADD PRIMARY KEY (id);",
        ),
        (
            "alter table blytz_hire.users replica identity full",
            "table blytz_hire.users has a replica identity other than its primary key",
            "ALTER TABLE blytz_hire.users REPLICA IDENTITY DEFAULT;",
        ),
    ],
)
def test_unexpected_monolith_schema_is_reported_with_a_hint(
    split: Split, damage: str, what: str, hint: str
) -> None:
    with split.monolith() as monolith:
        monolith.execute(damage)
    error = refusal(split)
    assert isinstance(error, SourceMismatch)
    assert what in error.what
    assert hint in error.hint


def test_run_refuses_an_unexpected_monolith_before_anything_is_made(split: Split) -> None:
    before = split.server.execute("select datname::text from pg_database order by 1")
    with split.monolith() as monolith:
        monolith.execute('alter table blytz_hire.payments drop column "processedAt" cascade')
        done = split.runner("run", "payments")
        assert done.returncode == SourceMismatch.exit_code, done.stderr
        assert 'column blytz_hire.payments."processedAt" is missing' in done.stderr
        fix = 'ALTER TABLE blytz_hire.payments ADD COLUMN "processedAt"'
        (line,) = [one for one in done.stderr.splitlines() if fix in one]
        assert monolith.execute("select to_regnamespace('split')").fetchone() == (None,)
        assert split.server.execute("select datname::text from pg_database order by 1") == before
        monolith.execute(line[line.index("ALTER") :].encode())
    assert split.runner("check", "payments").returncode == 0


def test_unknown_column_does_not_stop_landing(split: Split) -> None:
    with split.monolith() as monolith:
        monolith.execute('alter table blytz_hire.payments add column "addedToday" text')
    assert land_service(split, "payments").rows["payments"] > 0


def test_tables_of_others_in_the_mirror_schema_are_left_alone(split: Split) -> None:
    with open_ledger(split.connections) as ledger:
        provision(select(("payments",))[0], split.connections, ledger)
    with split.service("payments_db") as database:
        database.execute("create table blytz_hire.payments as select 'precious' as id")
    with pytest.raises(TargetOccupied) as caught:
        land_service(split, "payments")
    assert "holds tables that were not landed by this project: payments" in caught.value.what
    assert "ALTER TABLE blytz_hire.payments SET SCHEMA public;" in caught.value.hint
    with split.service("payments_db") as database:
        kept = database.execute("select id from blytz_hire.payments").fetchall()
    assert kept == [("precious",)]


def test_missing_privileges_are_reported_with_the_grants(split: Split) -> None:
    split.server.execute("create role humble login createdb createrole")
    database = "blytz_hire"
    split.server.execute(f"grant connect, create on database {database} to humble")
    split.server.execute("grant connect on database postgres to humble")
    with split.monolith() as monolith:
        monolith.execute("grant usage on schema blytz_hire to humble")
    own = with_database(split.connections.urls["blytz_hire"], database, user="humble")
    land_elsewhere = {**split.environ, "BLYTZ_HIRE_URL": own}
    result = split.runner("provision", "payments", **land_elsewhere)
    assert result.returncode == 0, result.stderr
    result = split.runner("land", "payments", **land_elsewhere)
    assert result.returncode == NotReady.exit_code
    assert "humble lacks privileges:" in result.stderr
    assert "may not read blytz_hire.payments" in result.stderr
    assert 'GRANT SELECT ON blytz_hire.payments TO "humble";' in result.stderr
    assert 'ALTER ROLE "humble" REPLICATION;' in result.stderr
    assert "may not publish blytz_hire.payments, which postgres owns" in result.stderr


@pytest.mark.slow
def test_old_transaction_that_delays_the_slot_is_reported(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgsplit.replication.slot.EXPORT_SECONDS", 1)
    with split.monolith() as other, other.transaction():
        other.execute("select pg_current_xact_id()")
        with pytest.raises(NotReady) as caught:
            land_service(split, "payments")
        assert f"(process {other.info.backend_pid})" in caught.value.what
        assert "pg_terminate_backend" in caught.value.hint
    assert_nothing_left(split)


def test_service_that_is_not_provisioned_is_refused(split: Split) -> None:
    with open_ledger(split.connections) as ledger, pytest.raises(NotReady) as caught:
        land(select(("users",))[0], split.connections, ledger)
    assert "users_db has not been provisioned" in caught.value.what
    assert caught.value.hint == "runner.py provision users"
    with split.monolith() as monolith:
        assert monolith.execute("select state from split.states").fetchall() == []


def test_second_runner_is_refused_while_the_first_works(split: Split) -> None:
    with open_ledger(split.connections), pytest.raises(NotReady) as caught:
        land_service(split, "payments")
    assert "Another runner is at work on this monolith: " in caught.value.what


def test_runner_waits_for_one_that_has_just_ended(split: Split) -> None:
    """The server notices a moment later that a session has ended; until then it holds the lock."""
    with open_ledger(split.connections):
        pass
    with split.monolith() as holder, ThreadPoolExecutor() as threads:
        holder.execute("begin; lock table split.runner in share update exclusive mode")
        landed = threads.submit(land_service, split, "payments")
        until(
            lambda: holder.execute(
                "select 1 from pg_locks where relation = 'split.runner'::regclass and not granted"
            ).fetchall()
        )
        holder.close()
        assert not landed.result().already


@pytest.mark.parametrize(
    ("command", "amid"),
    [
        ("land", "import pgsplit.load.land as at; at.subscribe = lambda *_: (stop(), sleep(9))"),
        # It lands in a thread, which goes on with its rows until it notices.
        (
            "run",
            "import pgsplit.postgres.copy as at; at._copy_range = lambda *given:"
            " (stop(), [(given[-1](1, 1), sleep(0.01)) for _ in range(900)])",
        ),
    ],
)
def test_interrupted_landing_leaves_nothing(split: Split, command: str, amid: str) -> None:
    """Ctrl-C midway: the runner cleans up, says so and exits with 130."""
    with open_ledger(split.connections) as ledger:
        provision(select(("payments",))[0], split.connections, ledger)
    script = (
        "import os, signal, sys, runner\n"
        "from time import sleep\n"
        "once = [signal.SIGINT]\n"
        "stop = lambda: once and os.kill(os.getpid(), once.pop())\n"
        f"{amid}\n"
        f"sys.argv = ['runner.py', '{command}', 'payments']\n"
        "sys.exit(runner.main())\n"
    )
    stopped = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **split.environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert stopped.returncode == 130, stopped.stderr
    assert "run the same command to continue" in stopped.stderr
    assert_nothing_left(split)


def kill_landing(split: Split) -> None:
    """Land payments up to the subscription and die there."""
    with open_ledger(split.connections) as ledger:
        provision(select(("payments",))[0], split.connections, ledger)
    script = (
        "import os, signal, pgsplit.load.land as landing\n"
        "landing.subscribe = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "import sys, runner\n"
        "sys.argv = ['runner.py', 'land', 'payments']\n"
        "runner.main()\n"
    )
    subprocess.run([sys.executable, "-c", script], env=dict(split.environ), cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("elsewhere", ["blytz_hire", "communication_db"])
def test_landing_with_a_wrong_url_drops_nothing_there(split: Split, elsewhere: str) -> None:
    """After a killed landing, a mistyped URL names the monolith itself or another service."""
    land_service(split, "communication")
    kill_landing(split)
    count = "select count(*) from pg_class where relnamespace = 'blytz_hire'::regnamespace"
    with split.service(elsewhere) as database:
        before = database.execute(count).fetchone()
    # The same server by another name, so that the URLs don't look alike.
    url = with_database(split.server.tcp, elsewhere)
    result = split.runner("land", "payments", PAYMENTS_DB_URL=url)
    assert result.returncode == NotReady.exit_code
    assert "This database was not provisioned for payments_db. Nothing was changed" in result.stderr
    with split.service(elsewhere) as database:
        assert database.execute(count).fetchone() == before
    assert land_service(split, "payments").rows["payments"] > 0


def test_publication_and_slot_of_others_are_left_alone(split: Split) -> None:
    with split.monolith() as monolith:
        monolith.execute("create publication split_payments_db for table blytz_hire.users")
        with pytest.raises(TargetOccupied) as caught:
            land_service(split, "payments")
        assert "There is a publication split_payments_db of blytz_hire already" in caught.value.what
        assert "DROP PUBLICATION split_payments_db;" in caught.value.hint
        assert monolith.execute("select count(*) from pg_publication").fetchone() == (1,)

        monolith.execute("drop publication split_payments_db")
        monolith.execute("create database another")
        with connect(with_database(split.server.socket, "another"), "another") as other:
            other.execute(
                "select pg_create_logical_replication_slot('split_payments_db', 'pgoutput')"
            )
        with pytest.raises(TargetOccupied) as caught:
            land_service(split, "payments")
        assert "a replication slot split_payments_db of another already" in caught.value.what
        assert monolith.execute("select count(*) from pg_replication_slots").fetchone() == (1,)


def test_table_cannot_be_altered_while_it_is_copied(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rewrite after the snapshot would make the table read as empty."""
    real = snapshot_copy.copy

    def alter_first(*arguments: Any) -> Any:
        with split.monolith() as monolith:
            monolith.execute("set lock_timeout = '200ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                monolith.execute(
                    "alter table blytz_hire.payments add column u uuid default gen_random_uuid()"
                )
        return real(*arguments)

    monkeypatch.setattr("pgsplit.postgres.copy.copy", alter_first)
    assert land_service(split, "payments").rows["payments"] > 0


@pytest.mark.slow
def test_table_that_is_being_altered_is_reported(split: Split) -> None:
    with split.monolith() as other, other.transaction():
        other.execute("lock table blytz_hire.payments in access exclusive mode")
        with pytest.raises(NotReady) as caught:
            land_service(split, "payments")
    assert "blytz_hire.payments is locked by somebody who alters it" in caught.value.what
    assert_nothing_left(split)


def test_recreated_service_database_does_not_count_as_landed(split: Split) -> None:
    land_service(split, "payments")
    with split.service("payments_db") as database:
        database.execute("alter subscription split_payments_db set (slot_name = none)")
        database.execute("drop subscription split_payments_db")
    split.server.execute("drop database payments_db")
    with pytest.raises(NotReady) as caught:
        land_service(split, "payments")
    assert "has landed in another database, or its subscription" in caught.value.what
    assert "or runner.py land payments --recopy" in caught.value.hint
    again = split.runner("land", "payments", "--recopy")
    assert again.returncode == 0, again.stderr
    assert land_service(split, "payments").already


def test_timeouts_set_for_applications_do_not_interrupt_landing(split: Split) -> None:
    with split.monolith() as monolith:
        monolith.execute("alter database blytz_hire set statement_timeout = '100ms'")
        monolith.execute(
            "alter database blytz_hire set idle_in_transaction_session_timeout = '1ms'"
        )
    assert land_service(split, "payments").rows["payments"] > 0


def test_killed_recopy_is_redone_by_the_next_landing(split: Split) -> None:
    land_service(split, "payments")
    script = (
        "import os, signal, sys, runner\n"
        "from pgsplit.replication.stream import Stream\n"
        "removing = Stream.remove\n"
        "def remove(stream):\n"
        "    removing(stream)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Stream.remove = remove\n"
        "sys.argv = ['runner.py', 'land', 'payments', '--recopy']\n"
        "sys.exit(runner.main())\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], env=dict(split.environ), cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    with open_ledger(split.connections) as ledger:
        assert ledger.state(select(("payments",))[0]) == State.PROVISIONED
    landed = land_service(split, "payments")
    assert not landed.already
    assert landed.rows["payments"] > 0
