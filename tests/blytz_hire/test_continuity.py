"""A proof holds only as long as its stream is unbroken."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from demo.project import PROJECT
from pgsplit.base.errors import NotReady
from pgsplit.replication import continuity
from pgsplit.replication.stream import BaseStream
from pgsplit.replication.upstreams import open_upstreams
from tests.support.split import Split
from tests.support.switching import NEW_PAYMENT, Side, as_service, both_ends, move, one, ran
from tests.support.tampering import BREAKS, DROP_SLOT, HARMLESS, MAKE_SLOT, STREAM, Deed, do

BACK = "split_payments_db_back"


def named(deed: Deed) -> str:
    return deed.name


@pytest.mark.parametrize("deed", BREAKS, ids=named)
def test_whatever_may_lose_a_change_is_found(verified: Split, deed: Deed) -> None:
    with both_ends(verified) as session:
        assert continuity.look(session.forward) is None
        do(verified, deed, lambda: continuity.look(session.forward))
        found = continuity.look(session.forward)
        assert found and deed.says in found.reason, found
        # Once found it stays, whatever happens next.
        assert continuity.look(session.forward) == found


@pytest.mark.parametrize("deed", HARMLESS, ids=named)
def test_what_loses_nothing_is_no_alarm(verified: Split, deed: Deed) -> None:
    with both_ends(verified) as session:
        assert continuity.look(session.forward) is None
        for _ in range(2):
            do(verified, deed, lambda: continuity.look(session.forward))
            assert continuity.look(session.forward) is None
            session.forward.arrive()
            assert continuity.look(session.forward) is None


def lose_ten_changes(split: Split) -> None:
    """Replace the slot of the forward stream by one that begins after ten changes."""
    alter(split, "disable")
    with split.monolith() as monolith:
        monolith.execute(DROP_SLOT.format(name=STREAM))
        monolith.execute(
            "update blytz_hire.payments set status = 'lost' where id in"
            " (select id from blytz_hire.payments order by id limit 10)"
        )
        monolith.execute(MAKE_SLOT.format(name=STREAM))
    alter(split, "enable")


def alter(split: Split, how: str) -> None:
    with split.service("payments_db") as database:
        database.execute(f"alter subscription {STREAM} {how}")


def test_lost_changes_end_the_proof_until_they_are_copied_again(verified: Split) -> None:
    lose_ten_changes(verified)

    said = ran(verified, "status", "payments", code=4)
    assert "split_payments_db is not proven any more" in said
    assert "the slot split_payments_db was dropped and created again" in said
    assert "runner.py verify payments" in said
    for command in (["switch", "payments", "--dry-run"], ["switch", "payments", "--no-backup"]):
        said = ran(verified, *command, code=4)
        assert "was dropped and created again" in said and "runner.py verify payments" in said
    assert "stream broken" in ran(verified, "history", "payments")
    # A sync goes on, and says so.
    assert "split_payments_db is not proven any more" in ran(verified, "sync", "payments")

    said = ran(verified, "verify", "payments", code=9)
    assert "10 rows differ" in said
    assert "runner.py land payments --recopy && ./runner.py run payments" in said
    ran(verified, "status", "payments", code=4)
    ran(verified, "land", "payments", "--recopy")
    ran(verified, "run", "payments")
    ran(verified, "verify", "payments")
    ran(verified, "status", "payments")
    move(verified, "switch")


def test_a_break_that_lost_nothing_is_cleared_by_a_verification(verified: Split) -> None:
    alter(verified, "disable")
    with verified.monolith() as monolith:
        monolith.execute(DROP_SLOT.format(name=STREAM))
        monolith.execute(MAKE_SLOT.format(name=STREAM))
    alter(verified, "enable")
    ran(verified, "status", "payments", code=4)
    # One table proves nothing of the others.
    ran(verified, "verify", "payments", "--table", "payments")
    ran(verified, "status", "payments", code=4)
    ran(verified, "verify", "payments")
    ran(verified, "status", "payments")
    ran(verified, "switch", "payments", "--dry-run")


def test_what_breaks_during_a_verification_is_not_proven_by_it(verified: Split) -> None:
    alter(verified, "disable")
    with verified.monolith() as monolith:
        monolith.execute(DROP_SLOT.format(name=STREAM))
        monolith.execute(MAKE_SLOT.format(name=STREAM))
    alter(verified, "enable")
    with both_ends(verified) as session:
        assert continuity.begin_proof(session.forward)
        with verified.service("payments_db") as database:
            database.execute("alter table blytz_hire.payments disable trigger split_capture")
        with pytest.raises(NotReady, match="split_capture was disabled"):
            continuity.end_proof(session.forward)
    assert "split_capture was disabled" in ran(verified, "status", "payments", code=4)


def test_a_switched_service_whose_way_back_lost_changes_is_not_rolled_back(
    switched: Split,
) -> None:
    with switched.monolith() as monolith, switched.service("payments_db") as database:
        monolith.execute(f"alter subscription {BACK} disable")
        database.execute(DROP_SLOT.format(name=BACK))
        database.execute("update payments_db.payments set status = 'written here'")
        ran(switched, "sync", "payments", code=4)
        sync_here(database)
        database.execute(MAKE_SLOT.format(name=BACK))
        monolith.execute(f"alter subscription {BACK} enable")
    for command in ("rollback", "complete"):
        for how in ("--dry-run", "--no-backup"):
            said = ran(switched, command, "payments", how, code=4)
            assert "split_payments_db_back is not proven any more" in said
            assert "runner.py repair payments" in said
    assert "is not proven any more" in ran(switched, "status", "payments", code=4)
    ran(switched, "repair", "payments")
    ran(switched, "status", "payments")
    move(switched, "rollback")
    with switched.monolith() as monolith:
        assert one(monolith, "select count(distinct status) from blytz_hire.payments") == 1


def sync_here(database: psycopg.Connection[Any]) -> None:
    with database.transaction():
        database.execute("set transaction isolation level repeatable read")
        database.execute("lock table split.turn in exclusive mode")
        database.execute("select * from split.sync()")


@pytest.mark.parametrize("table", ["payments_db.payments", "payments_db.reviews"])
def test_capture_disabled_on_the_services_own_table_loses_the_way_back(
    switched: Split, table: str
) -> None:
    with switched.service("payments_db") as database:
        database.execute(f"alter table {table} disable trigger all")
        database.execute(f"delete from {table} where id in (select min(id) from {table})")
        database.execute(f"alter table {table} enable trigger all")
    said = ran(switched, "rollback", "payments", "--dry-run", code=4)
    assert f"the trigger on {table}: split_capture was disabled" in said
    assert "runner.py repair payments" in said
    said = ran(switched, "repair", "payments")
    assert "tables are compared; rows that differed: blytz_hire." in said
    ran(switched, "status", "payments")
    ran(switched, "verify", "payments")
    move(switched, "rollback")


def test_writes_past_the_monoliths_fence_end_the_proof(switched: Split) -> None:
    with switched.monolith() as monolith:
        monolith.execute("alter table blytz_hire.payments disable trigger all")
        monolith.execute("update blytz_hire.payments set status = 'stray'")
        monolith.execute("alter table blytz_hire.payments enable trigger all")
    said = ran(switched, "rollback", "payments", "--dry-run", code=4)
    assert "blytz_hire.payments: split_guard was disabled" in said
    said = ran(switched, "repair", "payments")
    # What was in the monolith is kept before the service's rows replace it.
    assert "row(s) were copied to blytz_hire.audit.payments_" in said
    with switched.monolith() as monolith:
        kept = one(monolith, "select kept_in from split.quarantined")
        assert one(monolith, f"select count(*) from audit.{kept} where status = 'stray'") > 0
        assert one(monolith, "select count(*) from blytz_hire.payments where status='stray'") == 0
    assert f"blytz_hire.audit.{kept}" in ran(switched, "status", "payments")
    ran(switched, "rollback", "payments", "--dry-run")


def test_repair_brings_mirror_and_service_together(switched: Split) -> None:
    """Mirror and monolith agree, and the service differs: the streams are healthy."""
    with switched.service("payments_db") as database:
        database.execute("set split.is_syncing = on")
        database.execute("update payments_db.payments set status = 'past every trigger'")
    said = ran(switched, "verify", "payments", "--whole", code=9)
    assert "runner.py repair payments --full" in said
    said = ran(switched, "verify", "payments", code=9)  # once found, it isn't forgotten
    assert "all rows, since these are not proven: blytz_hire.payments" in said
    said = ran(switched, "repair", "payments")
    assert "tables are compared; rows that differed: blytz_hire.payments" in said
    ran(switched, "verify", "payments")
    assert "Nothing is broken." in ran(switched, "repair", "payments")


def test_a_service_keeps_what_it_acknowledged_when_the_monolith_is_copied_again(
    switched: Split,
) -> None:
    with as_service(switched) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "acknowledged"})
    move(switched, "rollback")
    # The monolith loses what came back, as in a failover to a standby that lags behind.
    with switched.monolith() as monolith:
        monolith.execute("set session_replication_role = replica")
        monolith.execute("delete from blytz_hire.payments where id = 'acknowledged'")
        alter(switched, "disable")
        monolith.execute(DROP_SLOT.format(name=STREAM))
    # Either one, since the deletion may have reached the mirror.
    said = ran(switched, "land", "payments", "--recopy") + ran(switched, "run", "payments")
    assert "1 row(s) were copied to audit.payments_" in said
    with switched.service("payments_db") as database:
        kept = one(database, "select kept_in from split.quarantined")
        assert one(database, f"select id from audit.{kept}") == "acknowledged"
        assert (
            one(database, "select count(*) from payments_db.payments where id = 'acknowledged'")
            == 0
        )
    assert f"payments_db.audit.{kept} (1 row(s))" in ran(switched, "status", "payments")
    # Once everything is proven, a comparison keeps nothing more.
    ran(switched, "verify", "payments")
    with switched.service("payments_db") as database:
        assert not one(database, "select keeps_replaced from split.service")
    said = ran(switched, "abort", "payments", code=4)
    assert kept in said


def test_other_tools_may_publish_all_tables(verified: Split) -> None:
    with verified.service("payments_db") as database, verified.monolith() as monolith:
        database.execute("create publication another_tools for all tables")
        monolith.execute("create publication another_tools for all tables")
        monolith.execute("delete from blytz_hire.reviews")
    ran(verified, "sync", "payments")
    move(verified, "switch")
    with as_service(verified) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "new"})
        service.execute("delete from payments_db.payments where id = 'new'")
    with verified.service("payments_db") as database:
        database.execute("insert into split.deleted_rows values ('payments', 'x', '{}', 'epoch')")
    ran(verified, "sync", "payments")
    ran(verified, "repair", "payments", "--full")
    ran(verified, "status", "payments")
    move(verified, "rollback")
    ran(verified, "verify", "payments")


def test_status_says_that_syncs_fail(verified: Split) -> None:
    with verified.service("payments_db") as database:
        database.execute("alter table payments_db.payments add constraint bad check (id <> 'bad')")
    with verified.monolith() as monolith:
        monolith.execute(NEW_PAYMENT[Side.MONOLITH], {"id": "bad"})
    ran(verified, "sync", "payments", code=7)
    said = ran(verified, "status", "payments", code=4)
    assert "Every sync of payments_db has failed since" in said and '"bad"' in said
    with verified.monolith() as monolith:
        monolith.execute("delete from blytz_hire.payments where id = 'bad'")
    ran(verified, "sync", "payments")
    ran(verified, "status", "payments")


def test_a_look_brings_no_record_back_that_a_repair_removes_meanwhile(
    verified: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a record says what the stream was before, and the new stream would count as broken."""

    def compared(stream: BaseStream, *_: object) -> None:
        continuity.forget(stream)

    with open_upstreams(PROJECT.services["payments_db"], verified.connections) as found:
        (stream,) = found.incoming
        monkeypatch.setattr(continuity, "_breach", compared)
        assert continuity.look(stream) is None
        for database in (stream.source, stream.target):
            assert (
                database.execute(
                    "select from split.streams where stream = %s", (stream.name,)
                ).fetchall()
                == []
            )
        monkeypatch.undo()
        assert continuity.look(stream) is None  # a stream without a record gets one
        assert database.execute(
            "select count(*) from split.streams where stream = %s", (stream.name,)
        ).fetchone() == (1,)


def test_a_stream_that_is_being_created_is_not_recorded_by_a_look(verified: Split) -> None:
    """It gets its slot last; a record from before would say that somebody has altered it."""
    with open_upstreams(PROJECT.services["payments_db"], verified.connections) as found:
        (stream,) = found.incoming
        continuity.forget(stream)
        for how in ("disable", "set (slot_name = none)"):
            stream.target.execute(f"alter subscription {stream.name} {how}".encode())
        assert continuity.look(stream) is None
        stream.enable()
        assert continuity.look(stream) is None
        recorded = stream.target.execute(
            "select identity ->> 'subscription' from split.streams where stream = %s",
            (stream.name,),
        ).fetchone()
        assert recorded and f" {stream.name} " in recorded[0]
