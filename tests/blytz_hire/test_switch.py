"""Switch, rollback, complete and abort: what they do, refuse and report."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from pgsplit.base.errors import NotReady
from pgsplit.project.endpoints import Connections
from pgsplit.replication import reverse
from pgsplit.replication.reverse import ReverseStream
from pgsplit.replication.subscription import published
from pgsplit.routing import env_file
from pgsplit.routing.env_file import Side
from tests.support.split import Split
from tests.support.switching import (
    NEW_PAYMENT,
    PAYMENTS,
    Writer,
    as_service,
    assert_agreed,
    assert_alike,
    both_ends,
    bring_to_verified,
    checksums,
    halted,
    move,
    one,
    ran,
    set_aside,
    stands,
    unchanged,
    words,
)
from tests.support.waiting import until

MOVED = "is written in the database payments_db now, and can't be written here."
MOVED_BACK = "is written in the monolith now, and can't be written here."


def refused(connection: psycopg.Connection[Any], statement: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(statement)
    return caught.value


@contextmanager
def running(split: Split, *arguments: str) -> Iterator[Callable[[], tuple[int, str]]]:
    """Run runner.py beside the test; give a function that waits for its exit code and output."""
    found: list[tuple[int, str]] = []

    def run() -> None:
        done = split.runner(*arguments)
        found.append((done.returncode, words(done.stdout + " " + done.stderr)))

    thread = threading.Thread(target=run)
    thread.start()

    def result() -> tuple[int, str]:
        thread.join()
        return found[0]

    try:
        yield result
    finally:
        thread.join()


# Switch


def test_switch_dry_run_reports_readiness_and_changes_nothing(verified: Split) -> None:
    with unchanged(verified):
        said = ran(verified, "switch", "payments", "--dry-run")
        found = json.loads(verified.runner("switch", "payments", "--dry-run", "--json").stdout)
    assert "payments_db is ready: a write reaches its mirror in" in said
    assert "reverse replication was tested on payments, 0 rows that have changed since all" in said
    assert found["services"]["payments_db"]["ready"] is True
    assert found["services"]["payments_db"]["problems"] == []


@pytest.mark.slow
def test_switch_makes_the_service_the_source_of_truth(verified: Split) -> None:
    done = verified.runner("switch", "payments", "--json")
    assert done.returncode == 0, done.stderr
    moved = json.loads(done.stdout)["services"]["payments_db"]
    assert moved["operation"] == "switch"
    assert moved["paused_seconds"] > 0
    assert moved["closed_at"] < moved["opened_at"]
    assert moved["backup"]["phase"] == "switch"
    assert assert_agreed(verified) == "switched"
    assert_alike(verified)
    listed = json.loads(verified.runner("backups", "--json").stdout)["backups"]
    assert listed[0]["phase"] == "switch"
    steps = json.loads(verified.runner("history", "payments", "--json", "--last", "11").stdout)
    inner = (
        "prepare",
        "catch up",
        "close",
        "drain",
        "decide",
        "open",
        "point",
        "finish",
        "measure",
    )
    assert [step["step"] for step in steps["steps"]] == [
        "switch",
        *(f"switch: {name}" for name in inner),
        "switch: tell",
    ]
    assert {step["outcome"] for step in steps["steps"]} == {"done"}


@pytest.mark.parametrize(
    "statement",
    [
        "update blytz_hire.payments set status = 'late'",
        "update blytz_hire.payments set status = 'late' where false",
        "delete from blytz_hire.reviews",
        NEW_PAYMENT[Side.MONOLITH] % {"id": "'late'"},
        "truncate blytz_hire.payments",
        "truncate blytz_hire.users cascade",
        "update blytz_hire.contracts set id = id || '!'",
    ],
)
def test_monolith_refuses_writes_to_switched_tables(switched: Split, statement: str) -> None:
    before = checksums(switched)
    with switched.monolith() as monolith:
        error = refused(monolith, statement)
        assert isinstance(error, psycopg.errors.ReadOnlySqlTransaction)
        assert MOVED in str(error)
        assert "Connect where connections/payments.env says that writes go." in str(error)
    assert checksums(switched) == before


def test_monolith_refuses_copy_and_trigger_writes_to_switched_tables(switched: Split) -> None:
    with switched.monolith() as monolith:
        with (
            pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match="now, and can't be written"),
            monolith.cursor() as cursor,
            cursor.copy("copy blytz_hire.reviews (id) from stdin") as copy,
        ):
            copy.write_row(("late",))
        with monolith.transaction(force_rollback=True):
            monolith.execute(
                "create function public.clean() returns trigger language plpgsql as"
                " $$ begin truncate blytz_hire.reviews; return null; end $$"
            )
            monolith.execute(
                "create trigger clean after update on blytz_hire.jobs"
                " execute function public.clean()"
            )
            error = refused(monolith, "update blytz_hire.jobs set id = id")
            assert MOVED in str(error)
        assert one(monolith, "select count(*) from blytz_hire.reviews") > 0


def test_transaction_begun_before_a_switch_cannot_write_after_it(verified: Split) -> None:
    """Its snapshot shows an open fence, or no fence at all."""
    with verified.monolith() as first, verified.monolith() as second:
        for writer in (first, second):
            writer.execute("begin isolation level repeatable read")
            one(writer, "select count(*) from blytz_hire.payments")
        second.execute("update blytz_hire.jobs set id = id where false")
        move(verified, "switch")
        for writer in (first, second):
            error = refused(writer, "update blytz_hire.payments set status = 'late'")
            assert isinstance(
                error,
                psycopg.errors.SerializationFailure | psycopg.errors.ReadOnlySqlTransaction,
            )
            writer.execute("rollback")
            assert MOVED in str(refused(writer, "update blytz_hire.payments set status = 'late'"))
    with verified.service("payments_db") as database:
        assert one(database, "select count(*) from payments_db.payments where status = 'late'") == 0
    move(verified, "rollback")


def test_other_monolith_tables_stay_writable_unless_keys_reach_switched_rows(
    verified: Split,
) -> None:
    with verified.monolith() as monolith:
        for name in ("free", "paid for"):
            monolith.execute(
                "insert into blytz_hire.jobs select (jsonb_populate_record(j, %s)).*"
                " from blytz_hire.jobs as j limit 1",
                (json.dumps({"id": name}),),
            )
        monolith.execute(NEW_PAYMENT[Side.MONOLITH], {"id": "for a job"})
        monolith.execute(
            """update blytz_hire.payments set "jobId" = 'paid for' where id = 'for a job'"""
        )
        move(verified, "switch")
        for statement in (
            "update blytz_hire.jobs set id = 'freed' where id = 'free'",
            "delete from blytz_hire.jobs where id = 'freed'",
        ):
            assert monolith.execute(statement).rowcount == 1
        for statement in (
            "update blytz_hire.jobs set id = 'paid' where id = 'paid for'",
            "delete from blytz_hire.jobs where id = 'paid for'",
        ):
            assert MOVED in str(refused(monolith, statement))
        assert one(monolith, "select count(*) from blytz_hire.payments") > 0
        move(verified, "rollback")
        assert monolith.execute(statement).rowcount == 1
        found = """select "jobId" from blytz_hire.payments where id = 'for a job'"""
        assert one(monolith, found) is None
    assert_alike(verified)


def test_switched_service_can_write_only_its_own_tables(switched: Split) -> None:
    with as_service(switched) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "own"})
        for statement in (
            "update payments_db.users_public set id = id",
            "insert into blytz_hire.payments (id) values ('x')",
            "delete from blytz_hire.reviews",
            "truncate payments_db.payments cascade",
            "update split.gates set is_open = true",
            "update split.service set switched_at = null",
            "select split.sync()",
        ):
            error = refused(service, statement)
            assert isinstance(
                error, psycopg.errors.InsufficientPrivilege | psycopg.errors.UndefinedTable
            ), statement
        for table in one(
            service,
            "select array_agg(tablename) from pg_tables where schemaname = 'payments_db'"
            " and tablename not in ('payments', 'refunds', 'disputes', 'reviews')",
        ):
            error = refused(service, f"delete from payments_db.{table}")
            assert isinstance(error, psycopg.errors.InsufficientPrivilege), table
    assert_alike(switched)


WRITES = {
    "a payment": NEW_PAYMENT[Side.SERVICE] % {"id": "'new'"},
    "its amounts": "update payments_db.payments set amount = -0.01, stripe_fee = 21474836.47,"
    " platform_fee = 0.10 where id = 'new'",
    "a refund": "insert into payments_db.refunds (payment_id, reason, amount)"
    " values ('new', 'späte \"Lieferung\" 🚀', 1.50)",
    "its time": "update payments_db.refunds set refunded_at = '2025-01-02 03:04:05.678',"
    " reason = null where payment_id = 'new'",
    "a dispute": "insert into payments_db.disputes values ('new', 'not delivered')",
    "another reason": "update payments_db.disputes set reason = '' where payment_id = 'new'",
    "documents": """update payments_db.payments set metadata = '{"disputeReason": "", "n": 1.50}'
        where id = 'new'""",
    "a settled dispute": "delete from payments_db.disputes where payment_id = 'new'",
    "no refund": "delete from payments_db.refunds where payment_id = 'new'",
    "another key": "update payments_db.payments set id = 'newer' where id = 'new'",
    "a review": "insert into payments_db.reviews (id, reviewer_id, target_id, target_type, rating,"
    " categories, updated_at) select 'new', reviewer_id, target_id, target_type, 5, '[1.50]',"
    " '2025-01-02 03:04:05.678' from payments_db.reviews limit 1",
    "no review": "delete from payments_db.reviews where id = (select min(id) from"
    " payments_db.reviews)",
    "all of them": "update payments_db.payments set status = status || '!'",
    "no payment": "delete from payments_db.payments where id = 'newer'",
}


@pytest.mark.slow
def test_every_write_of_a_switched_service_reaches_the_monolith(switched: Split) -> None:
    with switched.monolith() as monolith, as_service(switched) as service:
        for what, statement in WRITES.items():
            done = service.execute(statement)
            assert done.rowcount > 0, what
            assert_alike(switched)
        with service.transaction():
            names = [
                row[0]
                for row in service.execute(
                    "select id from payments_db.payments order by id limit 2"
                )
            ]
            swap = "update payments_db.payments set stripe_payment_intent_id = %s where id = %s"
            intents = dict(
                service.execute(
                    "select id, stripe_payment_intent_id from payments_db.payments"
                    " where id = any(%s)",
                    (names,),
                ).fetchall()
            )
            service.execute(swap, ("on its way", names[0]))
            service.execute(swap, (intents[names[0]], names[1]))
            service.execute(swap, (intents[names[1]], names[0]))
        assert_alike(switched)
        found = one(
            monolith,
            'select "stripePaymentIntentId" from blytz_hire.payments where id = %s',
            names[0],
        )
        assert found == intents[names[1]]
    move(switched, "rollback")
    assert_alike(switched)


@pytest.mark.parametrize(
    ("statement", "check"),
    [
        ("update payments_db.payments set currency = 'EUR'", "payments_currency_fits_monolith"),
        ("update payments_db.payments set amount = 21474836.48", "payments_amount_fits_monolith"),
        (
            "insert into payments_db.refunds (payment_id) select max(id) from payments_db.payments",
            "refunds_refunded_at_fits_monolith",
        ),
    ],
)
def test_named_check_constraint_refuses_values_the_monolith_cannot_hold(
    switched: Split, statement: str, check: str
) -> None:
    with as_service(switched) as service:
        error = refused(service, statement)
    assert isinstance(error, psycopg.errors.CheckViolation)
    assert error.diag.constraint_name == check


# Rollback


def test_rollback_dry_run_reports_readiness_and_changes_nothing(
    switched: Split,
) -> None:
    with unchanged(switched):
        said = ran(switched, "rollback", "payments", "--dry-run")
    assert re.match(
        r"payments_db is ready: a write reaches the monolith in [\d.]+ s, a sync takes [\d.]+ s\."
        r" Nothing was changed\.",
        said,
    )


def test_status_warns_when_no_follower_is_running(switched: Split) -> None:
    ran(switched, "sync", "payments")
    with switched.service("payments_db") as database:
        database.execute(NEW_PAYMENT[Side.SERVICE], {"id": "waits"})
    assert "no follower" not in ran(switched, "status", "payments")
    with switched.service("payments_db") as database:
        database.execute("update split.service set synced_at = now() - interval '2 minutes'")
        with database.transaction():  # a sync, however long it takes, is one who is at work
            database.execute("lock table split.turn in exclusive mode")
            assert "no follower" not in ran(switched, "status", "payments")
    said = ran(switched, "status", "payments", code=NotReady.exit_code)
    assert re.search(r"1 changes wait to be applied, and the last sync was 12\d s ago", said)
    assert "no follower of payments_db is running. hint: runner.py sync payments --follow" in said
    ran(switched, "sync", "payments")
    assert "no follower" not in ran(switched, "status", "payments")


@pytest.mark.slow
def test_rollback_makes_the_monolith_the_source_of_truth_with_all_service_writes(
    switched: Split,
) -> None:
    landings = "select count(*) from split.ledger where step in ('land', 'release')"
    with switched.monolith() as monolith, as_service(switched) as service:
        before = one(monolith, landings)
        service.execute("""update payments_db.payments set status = 'by the service'
            where id = (select min(id) from payments_db.payments)""")
        done = switched.runner("rollback", "payments", "--json")
        assert done.returncode == 0, done.stderr
        moved = json.loads(done.stdout)["services"]["payments_db"]
        assert moved["kept"] == {}
        assert moved["paused_seconds"] > 0
        assert moved["backup"]["phase"] == "rollback"
        assert assert_agreed(switched) == "verified"
        status = "select count(*) from blytz_hire.payments where status = 'by the service'"
        assert one(monolith, status) == 1

        error = refused(service, "update payments_db.payments set status = 'late'")
        assert isinstance(error, psycopg.errors.ReadOnlySqlTransaction)
        assert MOVED_BACK in str(error)

        monolith.execute("update blytz_hire.payments set status = 'again'")
        assert_alike(switched)
        statuses = "select array_agg(distinct status) from payments_db.payments"
        assert one(service, statuses) == ["again"]
        assert one(monolith, landings) == before
    ran(switched, "verify", "payments")
    for operation, state in (("switch", "switched"), ("rollback", "verified")):
        move(switched, operation)
        assert assert_agreed(switched) == state
    assert_alike(switched)


def write_rows_the_monolith_cannot_hold(split: Split) -> None:
    with as_service(split) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "no object"})
        service.execute("""update payments_db.payments set metadata = '[1]'
            where id = 'no object'""")
        service.execute(
            "insert into payments_db.refunds (payment_id, reason, amount)"
            " values ('no object', 'nowhere to put it', 1.00)"
        )
        service.execute("insert into payments_db.disputes values ('no object', 'nor this')")


def test_sync_never_overwrites_service_writes_from_the_mirror(switched: Split) -> None:
    write_rows_the_monolith_cannot_hold(switched)
    with switched.service("payments_db") as database:
        database.execute("update split.service_tables set is_stale = true")  # compare all rows
        ran(switched, "sync", "payments")
        kept = "select reason from payments_db.refunds where payment_id = 'no object'"
        assert database.execute(kept).fetchall() == [("nowhere to put it",)]


def test_rollback_quarantines_and_reports_rows_the_monolith_cannot_hold(switched: Split) -> None:
    write_rows_the_monolith_cannot_hold(switched)
    said = move(switched, "rollback")
    names = set_aside(switched)
    assert [name.split("_")[0] for name in names] == ["disputes", "refunds"]
    for name in names:
        table = name.split("_")[0]
        assert (
            f"note: the monolith can't hold 1 row(s) of {table} as they were; the originals are in"
            f" audit.{name}" in said
        )
    with switched.service("payments_db") as database:
        kept = database.execute(f"select reason from audit.{names[1]}").fetchall()
        assert kept == [("nowhere to put it",)]
        follows = "select reason from payments_db.refunds where payment_id = 'no object'"
        assert database.execute(follows).fetchall() == [(None,)]
    assert_alike(switched)

    with unchanged(switched):
        said = ran(switched, "abort", "payments", code=NotReady.exit_code)
    assert f"quarantined them: audit.{names[0]}, audit.{names[1]}. Nothing was" in said
    assert "Keep them elsewhere (pg_dump --schema=audit), drop these tables" in said
    with switched.service("payments_db") as database:
        for name in names:
            database.execute(f"drop table audit.{name}")


def test_rollback_warns_of_rows_that_violate_a_monolith_foreign_key(switched: Split) -> None:
    with as_service(switched) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "of nobody"})
        service.execute(
            "update payments_db.payments set sender_id = 'nobody' where id = 'of nobody'"
        )
    said = move(switched, "rollback")
    assert (
        'warning: 1 row(s) of blytz_hire.payments break its foreign key "payments_userId_fkey",'
        " which replication does not check. To find them: runner.py parity payments" in said
    )
    # The command that it names does find them.
    ran(switched, "sync", "payments")
    found = switched.runner("parity", "payments")
    assert "nobody" in found.stdout, found.stdout + found.stderr
    with switched.monolith() as monolith:
        monolith.execute("delete from blytz_hire.payments where id = 'of nobody'")
    assert_alike(switched)


def test_rollback_does_not_warn_of_rows_that_broke_a_key_before_the_switch(
    switched: Split,
) -> None:
    """The sample has such rows; their keys are NOT VALID."""
    with switched.monolith() as monolith:
        assert reverse.broken_keys(monolith, PAYMENTS)
    assert "break its foreign key" not in move(switched, "rollback")


def test_rollback_of_a_switch_that_counted_nothing_does_not_warn_of_such_rows_either(
    switched: Split,
) -> None:
    """As when an earlier version, or nobody, has counted them."""
    with switched.monolith() as monolith:
        monolith.execute(
            "update split.ledger set detail = detail - 'broken_keys' where step = 'switch: finish'"
        )
    assert "break its foreign key" not in move(switched, "rollback")


def test_rows_the_monolith_changes_during_a_rollback_are_not_quarantined(switched: Split) -> None:
    before = set_aside(switched)
    arrived = (
        "select (select sum(helpful) from blytz_hire.reviews)"
        " > (select sum(helpful) from payments_db.reviews)"
    )
    with (
        halted(switched, "rollback: finish") as halt,
        running(switched, "rollback", "payments", "--no-backup", "--json") as result,
    ):
        halt.wait()
        with switched.monolith() as monolith, switched.service("payments_db") as database:
            monolith.execute("update blytz_hire.reviews set helpful = helpful + 1")
            until(lambda: bool(one(database, arrived)))
        halt.release()
        code, said = result()
    assert code == 0, said
    assert '"kept": {}' in said
    assert set_aside(switched) == before
    assert_alike(switched)


# Reads


def test_reads_alone_can_be_switched_and_rolled_back(verified: Split) -> None:
    said = ran(verified, "switch", "payments", "--reads")
    assert "payments now reads from payments_db; it writes to the monolith as before." in said
    assert env_file.sides(PAYMENTS, verified.connections) == (Side.SERVICE, Side.MONOLITH)
    assert stands(verified) == "verified"
    with as_service(verified) as service, verified.monolith() as monolith:
        monolith.execute("update blytz_hire.reviews set helpful = helpful + 1")
        error = refused(service, "update payments_db.reviews set helpful = 0")
        assert isinstance(error, psycopg.Error)
    done = verified.runner("rollback", "payments", "--json")
    assert json.loads(done.stdout)["services"] == {
        "payments_db": {"reads_at": "monolith", "warning": ""}
    }
    assert assert_agreed(verified) == "verified"

    ran(verified, "switch", "payments", "--reads")
    move(verified, "switch")
    assert assert_agreed(verified) == "switched"
    with unchanged(verified):
        said = ran(verified, "switch", "payments", "--reads", code=NotReady.exit_code)
    assert "payments_db is switched: it is the source of truth already." in said
    move(verified, "rollback")
    assert assert_agreed(verified) == "verified"


# Refusals


@pytest.mark.parametrize(
    ("state", "command", "what", "hint"),
    [
        (
            "switched",
            "switch",
            "payments_db is switched: it is the source of truth already. Nothing was changed.",
            "runner.py status payments",
        ),
        (
            "switched",
            "abort",
            "payments_db is switched: it holds rows that nobody else has. Nothing was changed.",
            "runner.py rollback payments, then runner.py abort payments",
        ),
        (
            "verified",
            "rollback",
            "payments_db is verified: the monolith is the source of truth already.",
            "runner.py status payments",
        ),
        (
            "verified",
            "complete",
            "payments_db is verified: the monolith is the source of truth already.",
            "runner.py switch payments",
        ),
    ],
)
def test_command_that_does_not_fit_the_state_is_refused(
    verified: Split, state: str, command: str, what: str, hint: str
) -> None:
    if state == "switched":
        move(verified, "switch")
    with unchanged(verified):
        said = ran(verified, command, "payments", code=NotReady.exit_code)
    assert what in said
    assert hint in said


@pytest.mark.parametrize("operation", ["complete", "rollback"])
def test_complete_and_rollback_are_refused_while_reverse_replication_is_paused(
    switched: Split, operation: str
) -> None:
    stream = PAYMENTS.reverse_replication
    with switched.monolith() as monolith, as_service(switched) as service:
        monolith.execute(f"alter subscription {stream} disable")
        service.execute("update payments_db.reviews set helpful = helpful + 1")
        with unchanged(switched):
            said = ran(switched, operation, "payments", code=NotReady.exit_code)
        assert "Somebody has paused replication into the monolith's tables of payments_db" in said
        assert f"runner.py psql monolith -c 'alter subscription {stream} enable'" in said
        monolith.execute(f"alter subscription {stream} enable")
    assert assert_agreed(switched) == "switched"
    assert_alike(switched)


def lose_the_proof(split: Split) -> Callable[[], None]:
    with split.monolith() as monolith:
        monolith.execute("delete from split.verifications where table_name = 'payments'")
    return lambda: None


def outdate_the_proof(split: Split) -> Callable[[], None]:
    with split.monolith() as monolith:
        monolith.execute("update split.verifications set definition = 'of an older project'")
    return lambda: None


def age_the_proof(split: Split) -> Callable[[], None]:
    with split.monolith() as monolith:
        monolith.execute(
            "update split.ledger set finished_at = clock_timestamp() - interval '30 hours'"
            " where step = 'verify'"
        )
    return lambda: None


def rename_a_column(split: Split) -> Callable[[], None]:
    alter = "alter table blytz_hire.reviews rename column"
    with split.monolith() as monolith:
        monolith.execute(f"{alter} comment to said")

    def undo() -> None:
        with split.monolith() as monolith:
            monolith.execute(f"{alter} said to comment")

    return undo


def lose_the_file(split: Split) -> Callable[[], None]:
    path = env_file.file(PAYMENTS, split.connections)
    aside = path.with_name("aside")
    path.rename(aside)

    def undo() -> None:
        aside.rename(path)

    return undo


def make_reverse_model_differ_from_mirror(split: Split) -> Callable[[], None]:
    split.replicate(
        "payments_db",
        "update payments_db.reviews set helpful = helpful - 1"
        " where id = (select min(id) from payments_db.reviews)",
    )
    return lambda: split.replicate(
        "payments_db",
        "update payments_db.reviews set helpful = helpful + 1"
        " where id = (select min(id) from payments_db.reviews)",
    )


def pause_replication(split: Split) -> Callable[[], None]:
    with split.service("payments_db") as database:
        database.execute("alter subscription split_payments_db disable")

    def undo() -> None:
        with split.service("payments_db") as database:
            database.execute("alter subscription split_payments_db enable")

    return undo


@pytest.mark.parametrize(
    ("spoil", "what", "hint"),
    [
        (lose_the_proof, "not verified as they are made now: payments", "runner.py verify"),
        (outdate_the_proof, "not verified as they are made now: ", "runner.py verify payments"),
        (age_the_proof, "last verified 30 hours ago; the limit is 24 hours", "runner.py verify"),
        (
            rename_a_column,
            'column blytz_hire.reviews."comment" is missing; perhaps it is "said" now',
            'ALTER TABLE blytz_hire.reviews RENAME COLUMN "said" TO "comment";',
        ),
        (
            lose_the_file,
            "payments.env is missing, and with it the password of payments_service",
            "runner.py provision payments --new-password",
        ),
        (
            make_reverse_model_differ_from_mirror,
            "reverse replication would change 1 row(s) of reviews: ",
            "Fix models/payments_db/reverse/monolith_reviews.sql; to see all: runner.py psql"
            " payments -c \"select * from split.way_back_differs('reviews')\"",
        ),
        (
            pause_replication,
            "Somebody has paused replication into the mirror of payments_db.",
            "runner.py psql payments -c 'alter subscription split_payments_db enable'",
        ),
    ],
)
def test_switch_that_is_not_ready_is_refused_with_a_hint(
    verified: Split, spoil: Callable[[Split], Callable[[], None]], what: str, hint: str
) -> None:
    undo = spoil(verified)
    try:
        with unchanged(verified):
            for dry_run in ((), ("--dry-run",)):
                said = ran(verified, "switch", "payments", *dry_run, code=NotReady.exit_code)
                assert "payments_db is not ready for a switch. Nothing was changed:" in said
                assert what in said
                assert hint in said
    finally:
        undo()
    ran(verified, "verify", "payments")
    ran(verified, "switch", "payments", "--dry-run")


def test_switch_reports_all_problems_at_once(verified: Split) -> None:
    age_the_proof(verified)
    undo = lose_the_file(verified)
    said = ran(verified, "switch", "payments", code=NotReady.exit_code)
    undo()
    assert "last verified 30 hours ago" in said
    assert "payments.env is missing" in said
    ran(verified, "verify", "payments")


def test_interrupted_operation_must_be_resumed_first(verified: Split) -> None:
    with verified.monolith() as monolith:
        monolith.execute(
            "insert into split.ledger (service, step, intent)"
            " values ('payments_db', 'switch', '{}')"
        )
    with unchanged(verified):
        for command in (
            ("switch", "payments"),
            ("switch", "payments", "--reads"),
            ("rollback", "payments"),
            ("complete", "payments"),
            ("abort", "payments"),
        ):
            said = ran(verified, *command, code=NotReady.exit_code)
            assert "The last switch of payments_db was interrupted." in said
            assert "hint: runner.py resume" in said
    said = ran(verified, "resume")
    assert "payments_db: The switch had not been committed and is undone." in said
    found = json.loads(verified.runner("resume", "--json").stdout)
    assert found["services"] == {}
    assert assert_agreed(verified) == "verified"


@pytest.mark.parametrize("length", ["0", "soon", "-1s", "1h", "10ms", "11min"])
def test_max_pause_outside_50_ms_to_10_min_is_refused(living: Split, length: str) -> None:
    said = ran(living, "switch", "payments", "--max-pause", length, code=2)
    assert "is not a time between 50ms and 10min, such as 500ms or 5s" in said


@pytest.mark.parametrize("length", ["soon", "-1s", "11min"])
def test_wait_for_write_outside_0_ms_to_10_min_is_refused(living: Split, length: str) -> None:
    said = ran(living, "switch", "payments", "--wait-for-write", length, code=2)
    assert f"{length!r} is not a time between 0ms and 10min" in said
    assert stands(living) == "built"


# Those who hold the tables


@pytest.mark.slow
def test_switch_names_a_long_write_transaction_before_changing_anything(
    verified: Split,
) -> None:
    with verified.monolith() as holder, holder.transaction():
        pid = holder.info.backend_pid
        holder.execute("update blytz_hire.payments set status = status where false")
        holder.execute("select pg_sleep(2.1)")
        with unchanged(verified):
            said = ran(verified, "switch", "payments", code=NotReady.exit_code)
    assert (
        f"process {pid} (pgsplit) has written blytz_hire.payments in a transaction that is open"
        in said
    )
    assert f"select pg_terminate_backend({pid});" in said


def test_step_that_fails_halfway_is_undone_with_all_earlier_steps(
    verified: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = reverse.prepare

    def fails(stream: ReverseStream, connections: Connections) -> None:
        prepare(stream, connections)
        raise NotReady("The disk is full.")

    monkeypatch.setattr(reverse, "prepare", fails)
    said = ran(verified, "switch", "payments", "--no-backup", code=NotReady.exit_code)
    assert "The disk is full. The switch was undone: everything is as it was before." in said
    assert assert_agreed(verified) == "verified"
    with both_ends(verified) as session:
        assert not session.reverse.is_there() and session.reverse.slot() is None
        assert published(session.database, session.reverse.name) == set()
    assert "Nothing was interrupted." in ran(verified, "resume")


def test_fence_with_an_expired_lease_opens_and_cannot_be_committed(verified: Split) -> None:
    with both_ends(verified) as session:
        fence = session.monolith_fence
        fence.prepare()
        fence.close("elsewhere", timeout_seconds=1.0, lease_seconds=0.05)
        until(fence.is_open)
        with session.monolith.transaction():
            assert not fence.commit(timeout_seconds=1.0)
        assert fence.is_open() and not fence.is_closed_for_good()


@pytest.mark.slow
def test_lock_taken_after_the_checks_undoes_the_switch_and_fails_no_writer(verified: Split) -> None:
    with verified.monolith() as holder, Writer(verified, "patient", 0.005) as writer:
        pid = holder.info.backend_pid
        with (
            halted(verified, "switch: catch up") as halt,
            running(
                verified, "switch", "payments", "--no-backup", "--max-pause", "1500ms"
            ) as result,
        ):
            halt.wait()
            holder.execute("begin")
            holder.execute("update blytz_hire.reviews set helpful = helpful where false")
            halt.release()
            code, said = result()
        holder.execute("rollback")
        writer.assert_gets_through(Side.MONOLITH)
    assert code == NotReady.exit_code
    assert f"Somebody holds a lock on blytz_hire.reviews: process {pid}" in said
    assert "The switch was undone: everything is as it was before." in said
    assert f"Wait for them, or end them: select pg_terminate_backend({pid});" in said
    assert writer.refusals == []
    assert assert_agreed(verified) == "verified"
    writer.assert_nothing_lost()
    assert "Nothing was interrupted." in ran(verified, "resume")


@pytest.mark.slow
def test_lock_taken_after_the_checks_undoes_the_rollback(switched: Split) -> None:
    with (
        switched.service("payments_db") as holder,
        halted(switched, "rollback: catch up") as halt,
        running(switched, "rollback", "payments", "--no-backup", "--max-pause", "500ms") as result,
    ):
        halt.wait()
        pid = holder.info.backend_pid
        holder.execute("begin")
        holder.execute("update payments_db.refunds set amount = amount where false")
        halt.release()
        code, said = result()
    assert code == NotReady.exit_code
    assert f"Somebody holds a lock on payments_db.refunds: process {pid}" in said
    assert "The rollback was undone: everything is as it was before." in said
    assert assert_agreed(switched) == "switched"


def test_open_read_transactions_do_not_block_switch_or_rollback(verified: Split) -> None:
    with verified.monolith() as reader, verified.service("payments_db") as other:
        for connection, table in (
            (reader, "blytz_hire.payments"),
            (other, "payments_db.payments"),
        ):
            connection.execute("begin isolation level repeatable read")
            one(connection, f"select count(*) from {table}")
        move(verified, "switch")
        move(verified, "rollback")
        assert one(reader, "select count(*) from blytz_hire.reviews") > 0


@pytest.mark.slow
def test_switch_is_undone_when_it_exceeds_max_pause(verified: Split) -> None:
    """A lock keeps changes out of the mirror, so the drain never ends."""
    with (
        verified.monolith() as monolith,
        verified.service("payments_db") as database,
        halted(verified, "switch: catch up", "recorded") as halt,
        running(verified, "switch", "payments", "--no-backup", "--max-pause", "300ms") as result,
    ):
        halt.wait()
        database.execute("begin")
        database.execute("lock table blytz_hire.payments in share mode")
        monolith.execute("update blytz_hire.payments set status = status")
        halt.release()
        code, said = result()
    assert code == NotReady.exit_code
    assert "The pause was longer than the 0.3 s that are allowed" in said
    assert "or allow more: --max-pause 10s" in said
    assert "The switch was undone: everything is as it was before." in said
    assert assert_agreed(verified) == "verified"
    assert_alike(verified)


# The two ends


@pytest.mark.slow
def test_abort_removes_everything_the_split_made_and_nothing_else(verified: Split) -> None:
    move(verified, "switch")
    move(verified, "rollback")
    before = checksums(verified)
    found = json.loads(verified.runner("abort", "payments", "--json").stdout)["services"][
        "payments_db"
    ]
    assert {
        "replication split_payments_db",
        "the write fence in the monolith",
        "database payments_db",
        "role payments_service",
        "role payments_owner",
        str(env_file.file(PAYMENTS, verified.connections)),
    } <= set(found["removed"])
    assert "the ledger is: runner.py history" in found["notes"][0]
    assert checksums(verified) == before
    assert stands(verified) == "absent"
    with verified.monolith() as monolith:
        for question in (
            "select subname from pg_subscription",
            "select pubname from pg_publication",
            "select slot_name from pg_replication_slots",
            "select datname from pg_database where datname = 'payments_db'",
            "select rolname from pg_roles where rolname like 'payments%'",
            "select tgname from pg_trigger where tgname like 'split%'",
            "select service from split.gates",
            "select service from split.heartbeats",
            "select service from split.verifications",
        ):
            assert monolith.execute(question).fetchall() == [], question
    said = ran(verified, "abort", "payments")
    assert "There was nothing to remove." in said
    ran(verified, "run", "payments")
    bring_to_verified(verified)
    move(verified, "switch")
    assert assert_agreed(verified) == "switched"
    assert_alike(verified)


@pytest.mark.parametrize(
    ("made", "unmade", "what"),
    [
        (
            "alter table blytz_hire.payments add column region text",
            "alter table blytz_hire.payments drop column region",
            "column blytz_hire.payments.region is new",
        ),
        (
            "alter table blytz_hire.reviews add constraint stars check (rating < 1000)",
            "alter table blytz_hire.reviews drop constraint stars",
            "constraint stars on blytz_hire.reviews",
        ),
        (
            "create unique index one_review on blytz_hire.reviews (id, rating)",
            "drop index blytz_hire.one_review",
            "unique index blytz_hire.one_review on blytz_hire.reviews",
        ),
    ],
)
def test_switch_is_refused_if_reverse_replication_would_break(
    verified: Split, made: str, unmade: str, what: str
) -> None:
    with verified.monolith() as monolith:
        monolith.execute(made)
    try:
        for command in (["switch", "payments", "--dry-run"], ["switch", "payments"]):
            said = ran(verified, *command, code=NotReady.exit_code)
            assert f"{what}: reverse replication could fail on it" in " ".join(said.split())
            assert "hint:" in said
    finally:
        with verified.monolith() as monolith:
            monolith.execute(unmade)
