"""Sync and follow: what they do, and what they report when they can't."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgsplit.base.errors import BuildFailed, ConnectionFailed, NotReady, SourceMismatch
from pgsplit.postgres import embedded
from pgsplit.replication import sync as syncing
from pgsplit.replication.stream import Stream
from pgsplit.replication.sync import apply_changes, sync
from tests.support.following import (
    PAYMENTS,
    Follower,
    add_payments,
    assert_in_step,
    count,
    first_payment,
)
from tests.support.split import Split
from tests.support.stage import Stage
from tests.support.waiting import until


def test_sync_applies_everything_committed_before_it_began(living: Split) -> None:
    add_payments(living, 5, "counted-")
    with living.monolith() as monolith:
        monolith.execute("delete from blytz_hire.payments where id = 'counted-5'")
        monolith.execute("""update blytz_hire.payments set "refundAmount" = 7, metadata = '{}'
            where id = 'counted-4'""")
    ran = living.runner("sync", "payments", "--json")
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)["services"]["payments_db"]
    assert report["upserted"]["payments"] == 4
    assert report["upserted"]["refunds"] == 1
    assert report["deleted"]["payments"] == 0
    assert report["as_of"] is not None
    assert_in_step(living)
    again = sync(PAYMENTS, living.connections)
    assert again.rows == 0


def test_rolled_back_and_empty_transactions_are_not_applied(living: Split) -> None:
    sync(PAYMENTS, living.connections)
    with living.monolith() as monolith:
        with monolith.transaction():
            monolith.execute("select 1")
        with monolith.transaction(force_rollback=True):
            monolith.execute("truncate blytz_hire.reviews")
        with monolith.transaction():
            with monolith.transaction(force_rollback=True):
                monolith.execute("delete from blytz_hire.payments")
            monolith.execute("""update blytz_hire.reviews set comment = 'after a savepoint'
                where id = (select min(id) from blytz_hire.reviews)""")
    done = sync(PAYMENTS, living.connections)
    assert dict(done.upserted) == {"reviews": 1}
    assert done.deleted == {"reviews": 0}
    assert_in_step(living)


def test_reader_never_sees_half_a_transaction_of_the_monolith(living: Split) -> None:
    sync(PAYMENTS, living.connections)
    payment, seen, stop = first_payment(living), set[Any](), threading.Event()

    def read() -> None:
        with living.service("payments_db") as reader:
            while not stop.is_set():
                row = reader.execute(
                    "select (select status from payments_db.payments where id = %s),"
                    " (select comment from payments_db.reviews order by id limit 1)",
                    (payment,),
                ).fetchone()
                assert row is not None
                seen.add(row[0] == row[1])

    def write() -> None:
        with living.monolith() as monolith:
            for number in range(60):
                with monolith.transaction():
                    monolith.execute(
                        "update blytz_hire.payments set status = %s where id = %s",
                        (f"both {number}", payment),
                    )
                    monolith.execute(
                        "update blytz_hire.reviews set comment = %s"
                        " where id = (select min(id) from blytz_hire.reviews)",
                        (f"both {number}",),
                    )

    write()
    sync(PAYMENTS, living.connections)
    reader = threading.Thread(target=read)
    with Follower(living, interval=0.01):
        reader.start()
        write()
    stop.set()
    reader.join()
    assert seen == {True}
    sync(PAYMENTS, living.connections)
    assert_in_step(living)


def test_two_followers_take_turns(living: Split) -> None:
    with Follower(living) as one, Follower(living) as other:
        for number in range(20):
            add_payments(living, 3, f"two-{number}-")
        sync(PAYMENTS, living.connections)
    assert (one.raised, other.raised) == (None, None)
    assert one.ticks[-1].rows + other.ticks[-1].rows > 0
    assert_in_step(living)


def test_killed_sync_loses_nothing(living: Split) -> None:
    add_payments(living, 10, "killed-")
    with (
        living.service("payments_db") as holder,
        living.service("payments_db") as victim,
        living.monolith() as monolith,
    ):
        stream = Stream(PAYMENTS, monolith, holder)
        beat = stream.beat()
        until(lambda: stream.has_arrived(beat))
        raised: list[BaseException] = []

        def carry() -> None:
            try:
                apply_changes(victim)
            except psycopg.Error as error:
                raised.append(error)

        waits = "select true from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
        with holder.transaction():
            holder.execute("lock table payments_db.payments in share mode")
            carrying = threading.Thread(target=carry)
            carrying.start()
            pid = victim.info.backend_pid
            until(lambda: bool(monolith.execute(waits, (pid,)).fetchone()))
            monolith.execute("select pg_terminate_backend(%s)", (pid,))
            carrying.join()
    assert isinstance(raised[0], psycopg.OperationalError)
    assert sync(PAYMENTS, living.connections).upserted["payments"] == 10
    assert_in_step(living)


@pytest.mark.slow
def test_big_transaction_is_applied_completely(living: Split) -> None:
    add_payments(living, 100_000, "big-")
    assert sync(PAYMENTS, living.connections).upserted["payments"] == 100_000
    with living.monolith() as monolith:
        monolith.execute("delete from blytz_hire.payments where id like 'big-%'")
    assert sync(PAYMENTS, living.connections).deleted["payments"] == 100_000
    assert_in_step(living)


@pytest.mark.parametrize(
    "statement",
    [
        "update blytz_hire.payments set status = 'by hand'",
        "delete from blytz_hire.payments",
        "insert into blytz_hire.reviews select * from blytz_hire.reviews limit 1",
        "truncate blytz_hire.payments",
    ],
)
def test_mirror_cannot_be_edited_by_hand(living: Split, statement: str) -> None:
    with living.service("payments_db") as database, pytest.raises(psycopg.Error) as caught:
        database.execute(statement)
    assert "is a mirror of the monolith's table: replication writes it" in str(caught.value)
    assert "Change the row in the monolith" in str(caught.value)


@pytest.mark.slow
def test_conflict_that_stops_replication_is_reported_and_can_be_fixed(living: Split) -> None:
    add_payments(living, 1, "conflict-")
    sync(PAYMENTS, living.connections)
    with living.monolith() as monolith:
        monolith.execute("delete from blytz_hire.payments where id = 'conflict-1'")
    sync(PAYMENTS, living.connections)
    # What nothing but a superuser's hand in replication's own role can do.
    living.replicate(
        "payments_db",
        "create temp table one as select * from blytz_hire.payments limit 1;"
        "update one set id = 'conflict-1', \"stripePaymentIntentId\" = 'by hand';"
        " insert into blytz_hire.payments select * from one",
    )
    add_payments(living, 1, "conflict-")
    with Follower(living) as follower:
        until(lambda: follower.says("Replication into the mirror of payments_db has stopped"))
        until(lambda: follower.says("Key (id)=(conflict-1)"))
        with pytest.raises(NotReady) as caught:
            sync(PAYMENTS, living.connections)
        assert "payments_pkey" in caught.value.what
        assert "Key (id)=(conflict-1)" in caught.value.what
        assert "runner.py land payments --recopy" in caught.value.hint
        assert "Wait a moment: replication tries again by itself" in caught.value.hint
        living.replicate("payments_db", "delete from blytz_hire.payments where id = 'conflict-1'")
        until(lambda: not follower.ticks[-1].trouble and not follower.ticks[-1].pending)
    assert follower.raised is None
    sync(PAYMENTS, living.connections)
    assert_in_step(living)


@pytest.mark.slow
def test_lock_on_the_mirror_is_reported(living: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgsplit.replication.stream.PATIENCE_SECONDS", 0.5)
    with living.service("payments_db") as holder, holder.transaction():
        holder.execute("lock table blytz_hire.payments in exclusive mode")
        add_payments(living, 1, "locked-")
        with pytest.raises(NotReady) as caught:
            sync(PAYMENTS, living.connections)
        pid = holder.info.backend_pid
        assert f"a lock on the mirror of payments_db that process {pid} holds" in caught.value.what
        assert f"pg_terminate_backend({pid})" in caught.value.hint
    monkeypatch.undo()
    sync(PAYMENTS, living.connections)
    assert_in_step(living)


@pytest.mark.slow
def test_constraint_violation_stops_sync_only_until_the_row_is_fixed(living: Split) -> None:
    with living.service("payments_db") as database:
        database.execute(
            "alter table payments_db.payments add constraint no_barter check (method <> 'barter')"
        )
    payment = first_payment(living)
    change = "update blytz_hire.payments set method = %s where id = %s"
    with Follower(living) as follower, living.monolith() as monolith:
        monolith.execute(change, ("barter", payment))
        until(lambda: follower.says('violates check constraint "no_barter"'))
        ran = living.runner("sync", "payments")
        assert ran.returncode == BuildFailed.exit_code
        assert "Rows of the monolith break a rule of a service's table" in ran.stderr
        assert payment in ran.stderr
        assert "what has changed in the monolith is kept" in " ".join(ran.stderr.split())
        monolith.execute(change, ("card", payment))
        until(lambda: not follower.ticks[-1].trouble)
    with living.service("payments_db") as database:
        database.execute("alter table payments_db.payments drop constraint no_barter")
    sync(PAYMENTS, living.connections)
    assert_in_step(living)


def test_sql_function_sync_requires_repeatable_read(living: Split) -> None:
    with living.service("payments_db") as database, pytest.raises(psycopg.Error) as caught:
        database.execute("select * from split.sync()")
    assert "needs one snapshot for all tables, and this transaction is read committed" in str(
        caught.value
    )
    assert "begin isolation level repeatable read" in str(caught.value)


def test_sync_refuses_a_snapshot_older_than_a_truncate(living: Split) -> None:
    """TRUNCATE empties a table for older snapshots, too."""
    sync(PAYMENTS, living.connections)
    with living.service("payments_db") as late, living.service("payments_db") as other:
        late.execute("begin isolation level repeatable read")
        before = late.execute("select count(*) from split.changes").fetchone()
        with living.monolith() as monolith:
            monolith.execute("create table public.kept as table blytz_hire.reviews")
            monolith.execute("truncate blytz_hire.reviews")
            stream = Stream(PAYMENTS, monolith, other)
            beat = stream.beat()
            until(lambda: stream.has_arrived(beat))
        with pytest.raises(psycopg.errors.SerializationFailure) as caught:
            late.execute("select * from split.sync()")
        late.execute("rollback")
    assert before == (0,)
    assert "reviews was truncated after this transaction's snapshot" in str(caught.value)
    assert sync(PAYMENTS, living.connections).deleted["reviews"] > 0
    with living.monolith() as monolith:
        monolith.execute("set session_replication_role = replica")  # some break a key not valid
        monolith.execute("insert into blytz_hire.reviews table public.kept")
        monolith.execute("drop table public.kept")
    sync(PAYMENTS, living.connections)
    assert_in_step(living)


@pytest.mark.slow
def test_follower_retries_while_the_mirror_is_being_truncated(
    living: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "SYNC_TRIES", 3)
    sync(PAYMENTS, living.connections)
    with living.service("payments_db") as holder, Follower(living) as follower:
        with holder.transaction():
            holder.execute("lock table blytz_hire.jobs in access exclusive mode")
            until(lambda: follower.says("A table of the mirror is being truncated"))
        until(lambda: not follower.ticks[-1].trouble)
    sync(PAYMENTS, living.connections)
    assert_in_step(living)


@pytest.mark.slow
def test_sync_is_refused_until_the_operator_ends_their_pause(living: Split) -> None:
    with living.service("payments_db") as database:
        database.execute("alter subscription split_payments_db disable")
    add_payments(living, 1, "paused-")
    status = living.runner("status", "payments")
    assert status.returncode == NotReady.exit_code
    assert "Somebody has paused replication into the mirror of payments_db" in " ".join(
        status.stdout.split()
    )
    with Follower(living) as follower:
        until(lambda: follower.says("Somebody has paused replication"))
        with pytest.raises(NotReady) as caught:
            sync(PAYMENTS, living.connections)
        statement = caught.value.hint.partition("'")[2].removesuffix("'")
        ran = living.process("psql", "payments", "-c", statement)
        assert ran.returncode == 0, ran.stderr
        until(lambda: not follower.ticks[-1].trouble)
    sync(PAYMENTS, living.connections)
    assert_in_step(living)


def test_status_warns_and_sync_fails_when_a_server_is_unreachable(living: Split) -> None:
    away = {"PAYMENTS_DB_URL": "postgresql://nobody@127.0.0.1:1/payments_db"}
    status = living.runner("status", "payments", **away)
    assert status.returncode == NotReady.exit_code
    assert "unknown" in status.stdout
    assert "The server can't be reached" in " ".join(status.stdout.split())
    ran = living.runner("sync", "payments", **away)
    assert ran.returncode == ConnectionFailed.exit_code
    assert "database payments_db on 127.0.0.1:1 as nobody" in ran.stderr


def test_added_column_stops_nothing_and_is_noted_in_status(living: Split) -> None:
    with living.monolith() as monolith:
        monolith.execute('alter table blytz_hire.payments add column "couponCode" text')
    add_payments(living, 1, "coupon-")
    assert sync(PAYMENTS, living.connections).upserted["payments"] == 1
    status = living.runner("status", "payments")
    assert status.returncode == 0, status.stdout
    assert 'blytz_hire.payments."couponCode" is new in the monolith' in " ".join(
        status.stdout.split()
    )
    with living.monolith() as monolith:
        monolith.execute('alter table blytz_hire.payments drop column "couponCode"')
    assert_in_step(living)


def test_renamed_column_is_reported_with_both_names(living: Split) -> None:
    with living.monolith() as monolith:
        monolith.execute("alter table blytz_hire.payments rename column method to how")
    ran = living.runner("sync", "payments")
    assert ran.returncode == SourceMismatch.exit_code
    assert 'column blytz_hire.payments."method" is missing; perhaps it is "how" now' in ran.stderr
    statement = 'ALTER TABLE blytz_hire.payments RENAME COLUMN "how" TO "method";'
    assert statement in ran.stderr
    with living.monolith() as monolith:
        monolith.execute(statement)
    sync(PAYMENTS, living.connections)
    assert_in_step(living)


def test_column_that_became_nullable_is_reported(living: Split) -> None:
    alter = "alter table blytz_hire.reviews alter column rating"
    with living.monolith() as monolith:
        monolith.execute(f"{alter} drop not null")
    with pytest.raises(SourceMismatch) as caught:
        sync(PAYMENTS, living.connections)
    assert 'column blytz_hire.reviews."rating" may be null in the monolith now' in (
        caught.value.what
    )
    statement = caught.value.hint.partition("'")[2].removesuffix("'")
    ran = living.process("psql", "payments", "-c", statement)
    assert ran.returncode == 0, ran.stderr
    sync(PAYMENTS, living.connections)
    with living.monolith() as monolith:
        monolith.execute(f"{alter} set not null")


def test_mirror_with_unexpected_columns_is_reported(living: Split) -> None:
    living.replicate("payments_db", "alter table blytz_hire.reviews add column odd text")
    with pytest.raises(SourceMismatch) as caught:
        sync(PAYMENTS, living.connections)
    assert "the mirror blytz_hire.reviews does not have the columns that have landed" in (
        caught.value.what
    )
    assert caught.value.hint == "runner.py land payments --recopy"
    living.replicate("payments_db", "alter table blytz_hire.reviews drop column odd")
    sync(PAYMENTS, living.connections)
    assert_in_step(living)


def lose_by_dropping(split: Split) -> str:
    with split.service("payments_db") as database, split.monolith() as monolith:
        database.execute("alter subscription split_payments_db disable")
        until(
            lambda: bool(
                monolith.execute(
                    "select true from pg_replication_slots"
                    " where slot_name = 'split_payments_db' and not active"
                ).fetchone()
            )
        )
        monolith.execute("select pg_drop_replication_slot('split_payments_db')")
    return "The slot split_payments_db is gone from the monolith"


def lose_by_unpublishing(split: Split) -> str:
    with split.monolith() as monolith:
        monolith.execute("drop publication split_payments_db")
    return "The publication split_payments_db is gone from the monolith"


def lose_by_unsubscribing(split: Split) -> str:
    with split.service("payments_db") as database:
        database.execute("alter subscription split_payments_db disable")
        database.execute("alter subscription split_payments_db set (slot_name = none)")
        database.execute("drop subscription split_payments_db")
    return "The subscription split_payments_db is gone from payments_db"


def lose_by_invalidation(split: Split) -> str:
    """Let the slot fall so far behind that the server gives it up; status warns before that."""
    with split.service("payments_db") as database, split.monolith() as monolith:
        database.execute("alter subscription split_payments_db disable")
        monolith.execute("alter system set max_slot_wal_keep_size = '24MB'")
        monolith.execute("select pg_reload_conf()")
        monolith.execute("create table public.noise (text text)")
        lost = (
            "select true from pg_replication_slots"
            " where slot_name = 'split_payments_db' and wal_status = 'lost'"
        )
        noise = "insert into public.noise select repeat(md5(n::text), 30)"
        noise += " from generate_series(1, 4000) as n"
        try:
            kept = "select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) from"
            kept += " pg_replication_slots where slot_name = 'split_payments_db'"
            while monolith.execute(kept).fetchall()[0][0] < 20 * 2**20:
                monolith.execute(noise)
            status = split.runner("status", "payments")
            assert status.returncode == NotReady.exit_code
            assert "of WAL on the monolith and is lost at 24 MB" in " ".join(status.stdout.split())
            while not monolith.execute(lost).fetchone():
                monolith.execute(noise)
                monolith.execute("checkpoint")
        finally:
            monolith.execute("drop table public.noise")
            monolith.execute("alter system reset max_slot_wal_keep_size")
            monolith.execute("select pg_reload_conf()")
    return "The monolith has given up the slot split_payments_db"


@pytest.mark.slow
@pytest.mark.parametrize(
    "lose",
    [lose_by_dropping, lose_by_invalidation, lose_by_unpublishing, lose_by_unsubscribing],
)
def test_lost_part_of_the_stream_is_reported_and_the_mirror_is_recopied(
    living: Split, lose: Callable[[Split], str]
) -> None:
    what = lose(living)
    add_payments(living, 7, f"missed-{lose.__name__}-")
    with living.service("payments_db") as database:
        before = database.execute("select ctid, xmin from payments_db.reviews").fetchall()
    ran = living.runner("sync", "payments")
    assert ran.returncode == NotReady.exit_code
    assert what in ran.stderr
    assert "can't reach payments_db any more" in ran.stderr
    assert "runner.py land payments --recopy" in ran.stderr
    status = living.runner("status", "payments")
    assert status.returncode == NotReady.exit_code
    assert what in " ".join(status.stdout.split())
    assert living.runner("land", "payments", "--recopy").returncode == 0
    built = living.runner("run", "payments")
    assert built.returncode == 0, built.stderr
    sync(PAYMENTS, living.connections)
    assert_in_step(living)
    with living.service("payments_db") as database:
        after = database.execute("select ctid, xmin from payments_db.reviews").fetchall()
    assert after == before  # compared, and not one row of what was right was written


@pytest.mark.slow
def test_new_mirror_is_compared_whatever_was_compared_before(living: Split) -> None:
    """As if a follower had compared all rows just before the old mirror was dropped."""
    with living.service("payments_db") as database:
        database.execute("alter subscription split_payments_db disable")
        add_payments(living, 7, "only-in-the-new-mirror-")
        assert living.runner("land", "payments", "--recopy").returncode == 0
        database.execute("update split.service_tables set is_stale = false")
    built = living.runner("run", "payments")
    assert built.returncode == 0, built.stderr
    assert_in_step(living)


@pytest.mark.slow
def test_changed_definition_is_compared_in_full_until_the_service_writes(living: Split) -> None:
    payment = first_payment(living)
    run = ("run", "--target", "payments_db", "--select", "payments")
    with living.service("payments_db") as database:
        spoil = "update payments_db.payments set status = 'spoilt' where id = %s"
        database.execute(spoil, (payment,))
        database.execute(
            "update split.service_tables set definition = 'of an older project'"
            " where table_name = 'payments'"
        )
        ran = living.dbt(*run)
        assert ran.returncode == 0, ran.stdout
        assert_in_step(living)
        database.execute(spoil, (payment,))
        ran = living.dbt(*run, "--full-refresh")
        assert ran.returncode == 0, ran.stdout
        assert_in_step(living)

        database.execute("update split.service set switched_at = now()")
        database.execute("set split.is_syncing = on")  # so that no sync takes it to the mirror
        database.execute(spoil, (payment,))
        database.execute("reset split.is_syncing")
        ran = living.dbt(*run, "--full-refresh")
        assert ran.returncode != 0
        said = " ".join(ran.stdout.split())
        assert "payments_db.payments is written by the service since" in said
        assert "it would undo what the service has written. Nothing was changed." in said
        assert "Leave --full-refresh out." in said
        again = living.runner("land", "payments", "--recopy")
        assert again.returncode == NotReady.exit_code
        assert "and the monolith does not know" in " ".join(again.stderr.split())
        row = database.execute(
            "select status from payments_db.payments where id = %s", (payment,)
        ).fetchone()
        assert row == ("spoilt",)
        database.execute("update split.service set switched_at = null")
    assert living.dbt(*run, "--full-refresh").returncode == 0
    assert_in_step(living)


def test_sync_refuses_a_table_that_took_the_name_of_a_renamed_one(living: Split) -> None:
    with living.service("payments_db") as database:
        database.execute("alter table payments_db.refunds rename to refunds_of_old")
        database.execute("create table payments_db.refunds as table payments_db.refunds_of_old")
        add_payments(living, 1, "renamed-")
        ran = living.runner("sync", "payments")
        assert ran.returncode == BuildFailed.exit_code
        assert "The table refunds that this project made has been dropped or renamed" in ran.stderr
        fix = (
            "alter table payments_db.refunds rename to refunds_own;"
            " alter table payments_db.refunds_of_old rename to refunds;"
        )
        assert fix in ran.stderr
        database.execute(fix)
    sync(PAYMENTS, living.connections)
    assert_in_step(living)


@pytest.mark.slow
def test_dbt_tests_pass_while_the_mirror_is_ahead_of_the_tables(living: Split) -> None:
    """The mirror has changes that the tables still lack, and dbt tests compare the two."""
    add_payments(living, 30, "ahead-")
    with living.monolith() as monolith:
        monolith.execute(
            "insert into blytz_hire.users select (jsonb_populate_record(u, %s)).*"
            " from blytz_hire.users as u limit 1",
            ('{"id": "leaver", "email": "leaver@example.com"}',),
        )
        monolith.execute(
            """update blytz_hire.payments set "userId" = 'leaver' where id like 'ahead-%'"""
        )
        sync(PAYMENTS, living.connections)
        monolith.execute("delete from blytz_hire.payments where id like 'ahead-%'")
        monolith.execute("delete from blytz_hire.users where id = 'leaver'")
    with living.service("payments_db") as database, living.monolith() as monolith:
        stream = Stream(PAYMENTS, monolith, database)
        beat = stream.beat()
        until(lambda: stream.has_arrived(beat))
    ran = living.dbt("test", "--target", "payments_db")
    assert ran.returncode == 0, ran.stdout
    with living.service("payments_db") as database:
        row = database.execute("select count(*) >= 30 from split.changes").fetchone()
    assert row == (True,)
    sync(PAYMENTS, living.connections)
    assert_in_step(living)


@pytest.mark.slow
def test_new_table_joins_a_service_that_already_follows(living: Split) -> None:
    with living.service("payments_db") as database:
        database.execute("drop table payments_db.refunds")
    add_payments(living, 3, "joins-")
    with living.monolith() as monolith:
        monolith.execute("""update blytz_hire.payments set "refundAmount" = 5
            where id like 'joins-%'""")
    ran = living.dbt("run", "--target", "payments_db", "--select", "refunds")
    assert ran.returncode == 0, ran.stdout
    sync(PAYMENTS, living.connections)
    assert_in_step(living)


@pytest.mark.slow
def test_follower_survives_a_server_restart_and_stops_on_ctrl_c(
    stage: Stage, living: Split
) -> None:
    with living.start("sync", "payments", "--follow") as follower:
        assert follower.stdout is not None
        assert "payments_db: idle" in follower.stdout.readline()
        embedded.stop(stage.root)
        while "The embedded server is not running" not in (said := follower.stdout.readline()):
            assert said, "it has ended"
        embedded.start(stage.root, stage.settings)
        add_payments(living, 3, "restarted-")

        until(lambda: count(living, "restarted-%") == 3)
        follower.send_signal(signal.SIGINT)
        assert follower.wait(30) == 0
    assert_in_step(living)
