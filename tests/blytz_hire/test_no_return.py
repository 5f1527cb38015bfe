"""What can fail is found before the point of no return; what is left ends without a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import psycopg
import pytest

from demo.project import MONOLITH
from pgsplit.base.errors import NotReady
from pgsplit.cutover import later
from pgsplit.cutover.cutover import Cutover
from pgsplit.cutover.rollback import Rollback
from pgsplit.postgres import clients, embedded, wheel
from pgsplit.postgres.connect import connect, with_database
from pgsplit.replication import capacity
from pgsplit.replication import slot as slots
from tests.support.servers import DEBIAN_15, PASSWORD
from tests.support.split import Split
from tests.support.stage import Stage
from tests.support.switching import (
    PAYMENTS,
    as_service,
    assert_agreed,
    assert_alike,
    both_ends,
    move,
    one,
    ran,
    stands,
    unchanged,
    words,
)

REVERSE = PAYMENTS.reverse_replication
QUICKLY = ("payments", "--no-backup")


# Stopped half-way


def stop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop whoever is about to drop a slot, whose subscription is disabled by then."""

    def stopped(source: psycopg.Connection, name: str) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(slots, "drop", stopped)


@pytest.mark.parametrize("operation", ["complete", "rollback"])
def test_stream_that_an_operation_was_removing_is_its_own(
    switched: Split, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    stop_once(monkeypatch)
    said = ran(switched, operation, *QUICKLY, code=NotReady.exit_code)
    assert f"The {operation} of payments_db is committed but not finished" in said
    with both_ends(switched) as session:
        assert (found := session.reverse.subscription()) and not found.enabled
        assert "is paused by what was interrupted here" in session.reverse.stopped().what
        assert session.reverse.stopped().hint == "runner.py resume"
    said = ran(switched, "status", "payments", code=NotReady.exit_code)
    assert "runner.py resume" in said
    assert "Somebody has paused" not in said
    ran(switched, "resume")
    assert "Nothing was interrupted." in ran(switched, "resume")
    with both_ends(switched) as session:
        assert not session.reverse.is_there() and session.reverse.slot() is None
    if operation == "rollback":
        assert assert_agreed(switched) == "verified"
        assert_alike(switched)
    else:
        assert stands(switched) == "completed"


def test_repair_that_was_stopped_half_way_is_done_by_the_next(
    switched: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_once(monkeypatch)
    ran(switched, "repair", "payments", "--full", code=130)
    with switched.service("payments_db") as database:
        hint = "is paused by what was interrupted here"
        assert not one(
            database,
            "select subenabled from pg_subscription where subdbid = "
            "(select oid from pg_database where datname = current_database())",
        )
    said = ran(switched, "sync", "payments", code=NotReady.exit_code)
    assert hint in said
    assert "runner.py repair payments" in said
    assert "is re-created" in ran(switched, "repair", "payments")
    assert "Nothing is broken" in ran(switched, "repair", "payments")
    assert_alike(switched)


def test_slot_that_another_login_reads_is_never_said_to_be_gone(switched: Split) -> None:
    """The login may drop slots, but not end the process of a superuser."""
    with switched.monolith() as monolith, switched.service("payments_db") as database:
        monolith.execute(f"create role humble login replication password '{PASSWORD}'")
        database.execute("grant connect on database payments_db to humble")
        url = with_database(switched.server.tcp, "payments_db", user="humble")
        with psycopg.connect(url, autocommit=True) as humble:
            pid = one(
                database,
                "select active_pid from pg_replication_slots where slot_name = %s",
                REVERSE,
            )
            with pytest.raises(NotReady) as caught:
                slots.drop(humble, REVERSE)
            assert f"The slot {REVERSE} can't be dropped: process {pid} (postgres" in (
                caught.value.what
            )
            assert f"select pg_terminate_backend({pid});" in caught.value.hint
            monolith.execute(f"alter subscription {REVERSE} disable")
            slots.drop(humble, REVERSE)  # its reader leaves by itself
            assert one(database, "select count(*) from pg_replication_slots") == 1
        with both_ends(switched) as session:
            assert session.reverse.slot() is None


# What fails when all of it is done


def test_switch_whose_last_steps_fail_is_a_switch(
    verified: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Cutover) -> None:
        raise psycopg.OperationalError("the server closed the connection unexpectedly")

    monkeypatch.setattr(Cutover, "measure", fails)
    said = move(verified, "switch")
    assert "payments_db is now the source of truth" in said
    assert "warning: The switch of payments_db is done, but its step measure failed" in said
    assert assert_agreed(verified) == "switched"
    assert "Nothing was interrupted." in ran(verified, "resume")


def test_rollback_after_which_a_sync_fails_is_a_rollback(
    switched: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that the monolith takes may break a rule of the service's table."""
    follow = Rollback._follow_again
    with switched.service("payments_db") as database:
        database.execute(
            "alter table payments_db.payments add constraint no_barter check (method <> 'barter')"
        )

    def a_row_breaks_a_rule(self: Rollback) -> None:
        with switched.monolith() as monolith:
            monolith.execute("update blytz_hire.payments set method = 'barter'")
        self.session.forward.arrive()
        follow(self)

    monkeypatch.setattr(Rollback, "_follow_again", a_row_breaks_a_rule)
    said = move(switched, "rollback")
    assert "The monolith is now the source of truth" in said
    assert "The tables of payments_db do not follow the monolith yet: Rows of the monolith" in said
    assert "no_barter" in said
    assert assert_agreed(switched) == "verified"
    assert "Nothing was interrupted." in ran(switched, "resume")


# Found before anything is changed

Found = tuple[str, dict[str, str]]


@contextmanager
def old_transaction_elsewhere(split: Split, stage: Stage) -> Iterator[Found]:
    with psycopg.connect(with_database(split.server.socket, "postgres")) as holder:
        holder.execute("create temporary table anything ()")
        holder.execute("select pg_sleep(2.1)")
        yield f"process {holder.info.backend_pid} in the database postgres", {}


@contextmanager
def reader_of_a_catalogue(split: Split, stage: Stage) -> Iterator[Found]:
    with psycopg.connect(split.connections.urls[MONOLITH]) as holder:
        holder.execute("select * from pg_subscription")
        holder.execute("select pg_sleep(2.1)")
        yield f"process {holder.info.backend_pid} has read pg_subscription in a transaction", {}


@contextmanager
def no_origin_left(split: Split, stage: Stage) -> Iterator[Found]:
    restarted(stage, max_active_replication_origins="1")
    yield "No replication origin is free: 1 of 1 are in use.", {}


@contextmanager
def no_process_left(split: Split, stage: Stage) -> Iterator[Found]:
    restarted(stage, max_worker_processes="2")
    yield "No logical replication worker is free: 2 of 2 max_worker_processes are in use.", {}


@contextmanager
def unreachable_service(split: Split, stage: Stage) -> Iterator[Found]:
    url = "postgresql://postgres@127.0.0.1:1/payments_db"
    said = "The server of the monolith can't reach payments_db"
    yield said, {"PAYMENTS_DB_REPLICATION_URL": url}


@contextmanager
def unknown_command(split: Split, stage: Stage) -> Iterator[Found]:
    said = "The command that runs after a change can't run: tell-everybody: not found"
    yield said, {"BLYTZ_HIRE_AFTER_CHANGE": "tell-everybody --now"}


@contextmanager
def broken_command(split: Split, stage: Stage) -> Iterator[Found]:
    said = "The command that runs after a change can't run: "
    yield said, {"BLYTZ_HIRE_AFTER_CHANGE": "if true; then"}


@contextmanager
def backups_in_a_file(split: Split, stage: Stage) -> Iterator[Found]:
    file = stage.root / "no folder"
    file.write_text("")
    yield "The folder of the backups can't be used: ", {"BLYTZ_HIRE_BACKUPS": str(file)}


@contextmanager
def older_pg_dump(split: Split, stage: Stage) -> Iterator[Found]:
    if not (DEBIAN_15 / "pg_dump").exists():
        pytest.skip("PostgreSQL 15 is not installed; apt-get install postgresql-15")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clients, "FOLDERS", (str(DEBIAN_15),))
        patch.setattr(wheel, "programs", lambda: None)
        yield "No pg_dump fits this server: it takes version 18 or later", {"PATH": "/bin"}


def restarted(stage: Stage, **settings: str) -> None:
    embedded.stop(stage.root)
    embedded.start(stage.root, {**stage.settings, **settings})


FOUND: list[tuple[str, Callable[[Split, Stage], AbstractContextManager[Found]]]] = [
    ("switch", old_transaction_elsewhere),
    ("switch", no_origin_left),
    ("switch", no_process_left),
    ("switch", unreachable_service),
    ("switch", unknown_command),
    ("rollback", reader_of_a_catalogue),
    ("rollback", broken_command),
    ("rollback", backups_in_a_file),
    ("complete", reader_of_a_catalogue),
    ("complete", older_pg_dump),
]


@pytest.mark.parametrize(("operation", "problem"), FOUND)
def test_problem_of_a_later_step_is_found_by_the_dry_run_and_the_real_one(
    request: pytest.FixtureRequest,
    stage: Stage,
    operation: str,
    problem: Callable[[Split, Stage], AbstractContextManager[Found]],
) -> None:
    split = request.getfixturevalue("verified" if operation == "switch" else "switched")
    with problem(split, stage) as (said, environ), unchanged(split):
        for arguments in (("--dry-run",), ()):
            done = split.runner(operation, "payments", *arguments, **environ)
            assert done.returncode == NotReady.exit_code, done.stdout + done.stderr
            assert said in words(done.stderr)
            assert "Nothing was changed" in words(done.stderr)


def test_abort_that_would_stop_half_way_is_refused(living: Split) -> None:
    with as_service(living) as client:
        client.execute("set application_name = 'a shop'")
        with unchanged(living):
            said = ran(living, "abort", "payments", code=NotReady.exit_code)
    assert "somebody is connected to payments_db: payments_service (a shop)" in said
    assert "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname" in said
    assert "--follow" not in said
    with connect(living.connections.urls["payments_db"], "payments_db"):
        said = ran(living, "abort", "payments", code=NotReady.exit_code)
    assert "(pgsplit) is a runner's own session, most likely a follower's" in said
    assert "where `runner.py sync payments --follow` runs, stop it." in said
    assert "pg_terminate_backend" not in said
    ran(living, "abort", "payments")
    assert stands(living) == "absent"


def test_streams_that_are_about_to_be_made_need_room_for_all_of_them(living: Split) -> None:
    """One slot is free, and two services are about to follow this one."""
    with living.service("payments_db") as database:
        free = one(
            database,
            "select current_setting('max_replication_slots')::integer - count(*)"
            " from pg_replication_slots",
        )
        capacity.can_publish(database, "one", "payments_db", free - 1)
        with pytest.raises(NotReady, match="No replication slot is free: 40 of 40 are in use, or"):
            capacity.can_publish(database, "one more", "payments_db", free)


def test_rights_that_later_steps_need_are_asked_for(switched: Split) -> None:
    with switched.monolith() as monolith, switched.service("payments_db") as database:
        monolith.execute(f"create role humble login createdb password '{PASSWORD}'")
        monolith.execute("grant pg_read_all_data to humble")
        with both_ends(switched) as session:
            url = with_database(
                switched.server.tcp, "payments_db", user="humble", password=PASSWORD
            )
            database.execute("grant connect on database payments_db to humble")
            with psycopg.connect(url, autocommit=True) as humble:
                stream = replace(session.reverse, database=humble)
                with pytest.raises(NotReady) as caught:
                    later.require_can_end(stream)
                assert 'ALTER ROLE "humble" REPLICATION;' in caught.value.hint
                with pytest.raises(NotReady) as caught:
                    later.require_ours(replace(session, database=humble))
    assert f"publication {REVERSE} belongs to postgres" in caught.value.what
    assert "table payments_db.payments belongs to payments_owner" in caught.value.what
    assert "GRANT payments_owner TO humble;" in caught.value.hint
