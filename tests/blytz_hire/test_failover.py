"""A server fails over to a standby: nothing acknowledged is lost, or replaced in silence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from pgsplit.replication import continuity, reverse, subscription
from pgsplit.replication.reverse import ReverseStream
from pgsplit.replication.session import Session
from tests.support.servers import Cluster
from tests.support.split import Split
from tests.support.stage import Stage
from tests.support.standby import apart, standby
from tests.support.switching import NEW_PAYMENT, PAYMENTS, Side, as_service, halted, move, one, ran
from tests.support.waiting import until
from tests.torture.recovery import hints

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Apart:
    """A monolith and a service, each on its own server."""

    split: Split
    clusters: dict[str, Cluster]


@pytest.fixture
def switched_apart(stage: Stage, tmp_path: Path) -> Iterator[Apart]:
    with apart(stage, "switched", tmp_path / "service") as made:
        yield Apart(*made)


@pytest.fixture
def verified_apart(stage: Stage, tmp_path: Path) -> Iterator[Apart]:
    with apart(stage, "verified", tmp_path / "service") as made:
        yield Apart(*made)


def pay_service(split: Split, name: str) -> None:
    with split.service("payments_db") as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": name})
    ran(split, "sync", "payments")
    assert holds(split, Side.MONOLITH, name)


def pay_monolith(split: Split, name: str) -> None:
    with split.monolith() as monolith:
        monolith.execute(NEW_PAYMENT[Side.MONOLITH], {"id": name})
    ran(split, "sync", "payments")
    assert holds(split, Side.SERVICE, name)


def holds(split: Split, side: Side, name: str) -> bool:
    place = {Side.MONOLITH: split.monolith, Side.SERVICE: lambda: split.service("payments_db")}
    schema = {Side.MONOLITH: "blytz_hire", Side.SERVICE: "payments_db"}[side]
    with place[side]() as database:
        return bool(one(database, f"select count(*) from {schema}.payments where id = %s", name))


def kept(split: Split, side: Side, name: str) -> bool:
    """Tell whether a row is in a table of the side's schema audit."""
    place = split.monolith() if side is Side.MONOLITH else split.service("payments_db")
    with place as database:
        tables = database.execute("select kept_in from split.quarantined").fetchall()
        return any(
            one(database, f"select count(*) from audit.{table} where id = %s", name)
            for (table,) in tables
        )


def confirmed(split: Split, source: Side, slot: str) -> None:
    """Wait until a slot would not send again what its source has committed so far."""
    with split.monolith() if source is Side.MONOLITH else split.service("payments_db") as database:
        written = one(database, "select pg_current_wal_lsn()::text")
        ran(split, "sync", "payments")  # its heartbeat is confirmed after that
        confirms = "select confirmed_flush_lsn >= %s::pg_lsn from pg_replication_slots"
        confirms += " where slot_name = %s"
        until(lambda: bool(database.execute(confirms, (written, slot)).fetchone() == (True,)))


def refused(split: Split, command: str) -> str:
    """Check that status and an operation refuse; give what they say."""
    said = ran(split, "status", "payments", code=4)
    return said + ran(split, command, "payments", "--dry-run", code=4)


@pytest.mark.parametrize("lags", [False, True], ids=["in step", "lagging"])
def test_monolith_fails_over_while_it_follows(switched_apart: Apart, lags: bool) -> None:
    split, name = switched_apart.split, f"written back, {lags}"
    with standby(switched_apart.clusters["monolith"]) as other:
        if lags:
            other.cut_off()
        pay_service(split, name)
        confirmed(split, Side.SERVICE, "split_payments_db_back")
        if not lags:
            until(other.has_everything)
        other.take_over()
    assert holds(split, Side.MONOLITH, name) is not lags
    said = refused(split, "rollback")
    assert "the server of the monolith has failed over, or was restored" in said
    assert "runner.py repair payments" in said
    ran(split, "repair", "payments")
    assert holds(split, Side.MONOLITH, name) and holds(split, Side.SERVICE, name)
    ran(split, "status", "payments")
    ran(split, "verify", "payments")
    move(split, "rollback")
    assert holds(split, Side.MONOLITH, name) and holds(split, Side.SERVICE, name)


@pytest.mark.parametrize("lags", [False, True], ids=["in step", "lagging"])
def test_service_fails_over_while_it_is_the_source_of_truth(
    switched_apart: Apart, lags: bool
) -> None:
    split, name = switched_apart.split, f"acknowledged, {lags}"
    with standby(switched_apart.clusters["service"]) as other:
        if lags:
            other.cut_off()
        pay_service(split, name)
        if not lags:
            until(other.has_everything)
        other.take_over()
    assert holds(split, Side.SERVICE, name) is not lags
    said = refused(split, "rollback")
    assert "the server of payments_db has failed over, or was restored" in said
    said = ran(split, "repair", "payments")
    # What only the monolith has is kept there before the service's rows replace it.
    assert kept(split, Side.MONOLITH, name) is lags
    assert ("copied to blytz_hire.audit.payments_" in said) is lags
    ran(split, "status", "payments")
    move(split, "rollback")


@pytest.mark.parametrize("lags", [False, True], ids=["in step", "lagging"])
def test_monolith_fails_over_before_the_switch(verified_apart: Apart, lags: bool) -> None:
    split, name = verified_apart.split, f"arrived, {lags}"
    with standby(verified_apart.clusters["monolith"]) as other:
        if lags:
            other.cut_off()
        pay_monolith(split, name)
        if not lags:
            until(other.has_everything)
        other.take_over()
    said = refused(split, "switch")
    assert "the server of the monolith has failed over, or was restored" in said
    assert "runner.py land payments --recopy" in said
    ran(split, "land", "payments", "--recopy")
    ran(split, "run", "payments")
    # The service is the only one who has what the monolith has lost.
    assert kept(split, Side.SERVICE, name) is lags
    ran(split, "verify", "payments")
    ran(split, "status", "payments")
    ran(split, "switch", "payments", "--dry-run")


def test_what_only_the_mirror_has_is_kept(verified_apart: Apart) -> None:
    """The monolith loses a row that has reached the mirror, and no sync has applied it."""
    split, name = verified_apart.split, "in the mirror alone"
    with standby(verified_apart.clusters["monolith"]) as other:
        other.cut_off()
        with split.monolith() as monolith:
            monolith.execute(NEW_PAYMENT[Side.MONOLITH], {"id": name})
        with split.service("payments_db") as database:
            mirrored = "select count(*) from blytz_hire.payments where id = %s"
            until(lambda: one(database, mirrored, name) == 1)
        other.take_over()
    said = ran(split, "abort", "payments", code=4)
    assert "payments_db may hold rows that the monolith has lost: the server of the" in said
    assert "runner.py land payments --recopy, then runner.py run payments" in said
    ran(split, "verify", "payments", code=4)
    ran(split, "land", "payments", "--recopy")
    said = ran(split, "abort", "payments", code=4)
    assert "its tables were not compared with the mirror since that was copied again" in said
    ran(split, "run", "payments")
    assert kept(split, Side.SERVICE, name)
    assert "audit.payments_" in ran(split, "abort", "payments", code=4)
    ran(split, "verify", "payments")
    ran(split, "status", "payments")


def test_what_only_the_mirror_has_is_kept_if_no_sync_can_apply_it(verified_apart: Apart) -> None:
    split, name = verified_apart.split, "in the mirror alone"
    with standby(verified_apart.clusters["monolith"]) as other:
        other.cut_off()
        with split.service("payments_db") as database:
            database.execute(
                "alter table payments_db.payments add constraint no_row_passes"
                f" check (id <> '{name}')"
            )
            with split.monolith() as monolith:
                monolith.execute(NEW_PAYMENT[Side.MONOLITH], {"id": name})
            mirrored = "select count(*) from blytz_hire.payments where id = %s"
            until(lambda: one(database, mirrored, name) == 1)
        other.take_over()
    said = ran(split, "land", "payments", "--recopy")
    assert "row(s) were copied to audit.payments_" in said
    assert kept(split, Side.SERVICE, name)
    assert "audit.payments_" in ran(split, "abort", "payments", code=4)
    ran(split, "run", "payments")
    ran(split, "verify", "payments")


def test_monolith_forgets_a_switch_that_was_only_prepared(verified_apart: Apart) -> None:
    split = verified_apart.split
    with standby(verified_apart.clusters["monolith"]) as other:
        other.cut_off()
        prepare_reverse(split)
        other.take_over()
    assert reverse_parts(split) == (1, 1)
    assert "land payments --recopy" in ran(split, "status", "payments", code=4)
    ran(split, "land", "payments", "--recopy")
    assert reverse_parts(split) == (0, 0)
    ran(split, "run", "payments")
    ran(split, "verify", "payments")
    ran(split, "switch", "payments", "--dry-run")


def test_reverse_stream_that_nobody_knows_of_is_no_obstacle(verified: Split) -> None:
    prepare_reverse(verified)
    ran(verified, "switch", "payments", "--dry-run")
    assert reverse_parts(verified) == (1, 1)
    ran(verified, "verify", "payments")
    assert reverse_parts(verified) == (0, 0)


def prepare_reverse(split: Split) -> None:
    """Do what a switch does first, without a word in the ledger."""
    with split.monolith() as monolith, split.service("payments_db") as database:
        made = ReverseStream(PAYMENTS, monolith, database)
        reverse.prepare(made, split.connections)
        # The standby that takes over has no subscription, and neither has this.
        subscription.alter(monolith, made.name, "disable")
        subscription.drop(monolith, made.name)


def reverse_parts(split: Split) -> tuple[int, int]:
    """Count the reverse publication and its slot."""
    with split.service("payments_db") as database:
        name = PAYMENTS.reverse_replication
        published = "select count(*) from pg_publication where pubname = %s"
        kept = "select count(*) from pg_replication_slots where slot_name = %s"
        return one(database, published, name), one(database, kept, name)


def test_service_fails_over_before_the_switch(verified_apart: Apart) -> None:
    split, name = verified_apart.split, "lost by the service"
    with standby(verified_apart.clusters["service"]) as other:
        other.cut_off()
        pay_monolith(split, name)
        confirmed(split, Side.MONOLITH, "split_payments_db")
        other.take_over()
    said = refused(split, "switch")
    assert "the server of payments_db has failed over, or was restored" in said
    assert "runner.py verify payments" in said
    said = ran(split, "verify", "payments", code=9)
    assert f"missing {name}" in said and "land payments --recopy" in said
    ran(split, "land", "payments", "--recopy")
    ran(split, "run", "payments")
    ran(split, "verify", "payments")
    ran(split, "switch", "payments", "--dry-run")


def test_monolith_fails_over_after_a_rollback(switched_apart: Apart) -> None:
    split, name = switched_apart.split, "came back"
    with standby(switched_apart.clusters["monolith"]) as other:
        other.cut_off()
        pay_service(split, name)
        move(split, "rollback")
        other.take_over()
    # The monolith has forgotten the rollback too, and takes the service for the source of truth.
    said = refused(split, "rollback")
    assert "has failed over, or was restored" in said
    assert "payments_db was rolled back, and the monolith does not know" in said
    assert "runner.py repair payments, then runner.py rollback payments" in said
    assert "runner.py resume" not in said
    ran(split, "repair", "payments")
    move(split, "rollback")
    assert holds(split, Side.MONOLITH, name) and holds(split, Side.SERVICE, name)
    pay_monolith(split, "it takes writes again")
    ran(split, "verify", "payments")


def test_monolith_fails_over_to_before_the_switch(verified_apart: Apart) -> None:
    split, name = verified_apart.split, "only the service has it"
    with standby(verified_apart.clusters["monolith"]) as other:
        other.cut_off()
        move(split, "switch")
        pay_service(split, name)
        other.take_over()
    said = ran(split, "status", "payments", code=4)
    assert "payments_db has been the source of truth since" in said
    assert "runner.py repair payments" in said
    assert "--recopy" not in said and "runner.py verify" not in said
    assert "runner.py repair payments" in ran(split, "switch", "payments", "--dry-run", code=4)
    said = ran(split, "abort", "payments", code=4)
    assert "payments_db has been the source of truth since" in said
    assert "runner.py repair payments" in said
    routes = split.connections.folder / "payments.env"
    before = routes.read_text()
    assert "runner.py repair payments" in ran(split, "resume")
    assert "runner.py repair payments" in ran(split, "provision", "payments", code=4)
    assert routes.read_text() == before  # what applications write still goes to the service
    ran(split, "repair", "payments")
    assert holds(split, Side.MONOLITH, name)
    ran(split, "status", "payments")
    with split.monolith() as monolith, pytest.raises(Exception, match="payments_db"):
        monolith.execute(NEW_PAYMENT[Side.MONOLITH], {"id": "no longer here"})
    move(split, "rollback")
    assert holds(split, Side.MONOLITH, name)


def test_service_fails_over_to_before_the_switch(verified_apart: Apart) -> None:
    """Its database takes itself for a follower; the monolith's fence is closed for good."""
    split, before, after = verified_apart.split, "before the switch", "written back"
    with standby(verified_apart.clusters["service"]) as other:
        other.cut_off()
        pay_monolith(split, before)
        move(split, "switch")
        pay_service(split, after)
        other.take_over()
    said = refused(split, "rollback")
    assert "payments_db was switched, and its database does not know" in said
    assert "runner.py repair payments" in said
    assert "its database does not know" in ran(split, "complete", "payments", "--dry-run", code=4)
    said = ran(split, "repair", "payments")
    assert "The monolith is the source of truth again; writes go there." in said
    assert holds(split, Side.MONOLITH, before) and holds(split, Side.MONOLITH, after)
    with split.monolith() as monolith:
        asked = "select count(*) from pg_subscription where subname = %s"
        assert one(monolith, asked, PAYMENTS.reverse_replication) == 0
        monolith.execute(NEW_PAYMENT[Side.MONOLITH], {"id": "it takes writes again"})
    assert "land payments --recopy" in ran(split, "verify", "payments", code=9)
    ran(split, "land", "payments", "--recopy")
    ran(split, "run", "payments")
    ran(split, "verify", "payments")
    ran(split, "status", "payments")
    move(split, "switch")
    assert holds(split, Side.SERVICE, before) and holds(split, Side.SERVICE, after)


def test_service_fails_over_to_before_the_rollback(switched_apart: Apart) -> None:
    """Its database takes itself for the source of truth; it would overwrite the monolith's rows."""
    split, name = switched_apart.split, "after the rollback"
    with standby(switched_apart.clusters["service"]) as other:
        other.cut_off()
        move(split, "rollback")
        pay_monolith(split, name)
        other.take_over()
    said = refused(split, "switch")
    assert "The monolith is the source of truth for payments_db since a rollback" in said
    assert "runner.py land payments --recopy, then runner.py run payments" in said
    assert "runner.py land payments --recopy" in ran(split, "repair", "payments", code=4)
    assert "since a rollback" in ran(split, "verify", "payments", code=4)
    assert "since a rollback" in ran(split, "abort", "payments", code=4)
    ran(split, "land", "payments", "--recopy")
    ran(split, "run", "payments")
    ran(split, "verify", "payments")
    ran(split, "status", "payments")
    with split.service("payments_db") as service, pytest.raises(Exception, match="the monolith"):
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "not here"})
    pay_monolith(split, "it goes on")
    assert holds(split, Side.MONOLITH, name)
    move(split, "switch")
    assert holds(split, Side.SERVICE, name)


def test_monolith_fails_over_to_before_the_completion(switched_apart: Apart) -> None:
    """Its tables are back, and it takes itself for the target of a stream that is gone."""
    split, name = switched_apart.split, "after the completion"
    with standby(switched_apart.clusters["monolith"]) as other:
        other.cut_off()
        ran(split, "complete", "payments", "--no-backup")
        with split.service("payments_db") as service:
            service.execute(NEW_PAYMENT[Side.SERVICE], {"id": name})
        ran(split, "sync", "payments")
        other.take_over()
    said = refused(split, "rollback")
    assert "payments_db is completed, and the monolith does not know" in said
    assert "runner.py repair payments" in said
    assert "does not know" in ran(split, "complete", "payments", "--dry-run", code=4)
    said = ran(split, "repair", "payments")
    assert "Both sides know of the completion." in said
    require_completed(split, name)


def test_service_fails_over_to_before_its_completion(switched_apart: Apart) -> None:
    split, name = switched_apart.split, "before the completion"
    with standby(switched_apart.clusters["service"]) as other:
        pay_service(split, name)
        until(other.has_everything)
        other.cut_off()
        ran(split, "complete", "payments", "--no-backup")
        other.take_over()
    said = refused(split, "rollback")
    assert "payments_db is completed, and its database does not know" in said
    assert "runner.py repair payments" in said
    ran(split, "repair", "payments")
    require_completed(split, name)


def test_service_is_back_in_a_moment_before_its_switch_and_completion(
    verified_apart: Apart,
) -> None:
    split = verified_apart.split
    with standby(verified_apart.clusters["service"]) as other:
        other.cut_off()
        move(split, "switch")
        ran(split, "complete", "payments", "--no-backup")
        other.take_over()
    for command in ("status", "repair", "verify"):
        said = ran(split, command, "payments", code=4)
        assert "its database is back in a moment before its switch" in said
        assert "rows as of the completion in the schema blytz_hire_retired" in said


def require_completed(split: Split, name: str) -> None:
    """Check that nothing is left of reverse replication, and that the service has a payment."""
    ran(split, "status", "payments")
    ran(split, "verify", "payments")
    assert holds(split, Side.SERVICE, name)
    assert reverse_parts(split) == (0, 0)
    with split.monolith() as monolith, split.service("payments_db") as database:
        retired = "select to_regclass('blytz_hire_retired.payments') is not null"
        assert one(monolith, retired) and not one(monolith, "select to_regclass('payments')")
        asked = "select count(*) from pg_subscription where subname = %s"
        assert one(monolith, asked, PAYMENTS.reverse_replication) == 0
        fits = "select count(*) from pg_constraint where conname like '%%fits\\_monolith'"
        assert one(database, fits) == 0


@pytest.mark.parametrize("operation", ["switch", "rollback"])
@pytest.mark.parametrize("side", ["monolith", "service"])
def test_server_fails_over_to_before_an_interrupted_cutover(
    request: pytest.FixtureRequest, operation: str, side: str
) -> None:
    """Both sides are open for a moment, or none; what either took then is not lost."""
    begins = {"switch": "verified_apart", "rollback": "switched_apart"}[operation]
    made: Apart = request.getfixturevalue(begins)
    split, new = made.split, {"switch": Side.SERVICE, "rollback": Side.MONOLITH}[operation]
    name = f"{operation}, {side}"
    with standby(made.clusters[side]) as other:
        other.cut_off()
        with halted(split, f"{operation}: open", "recorded") as halt:
            runner = split.start(operation, "payments", "--no-backup")
            halt.wait()
            runner.kill()
            runner.wait()
        schema = {Side.MONOLITH: "blytz_hire", Side.SERVICE: "payments_db"}[new]
        place = split.monolith if new is Side.MONOLITH else lambda: split.service("payments_db")
        with place() as database:
            database.execute(NEW_PAYMENT[new], {"id": name})
        lost = {"monolith": Side.MONOLITH, "service": Side.SERVICE}[side] is new
        if lost:  # what only the server had that is gone, nobody can bring back
            arrives(split, new, name)
        other.take_over()
    recover(split)
    ran(split, "status", "payments")
    takes = [one for one in Side if accepts(split, one)]
    assert len(takes) == 1, (schema, takes)
    ran(split, "verify", "payments")
    assert any(holds(split, one, name) or kept(split, one, name) for one in Side)
    move(split, "rollback" if takes == [Side.SERVICE] else "switch")


def arrives(split: Split, side: Side, name: str) -> None:
    """Wait until a row that a side has just taken is in the other's mirror, or in its tables."""
    if side is Side.SERVICE:
        ran(split, "sync", "payments")
        until(lambda: holds(split, Side.MONOLITH, name))
        return
    with split.service("payments_db") as database:
        mirrored = "select count(*) from blytz_hire.payments where id = %s"
        until(lambda: one(database, mirrored, name) == 1)


def accepts(split: Split, side: Side) -> bool:
    """Tell whether a side's payments take an application's write, which is rolled back."""
    place = split.monolith() if side is Side.MONOLITH else as_service(split)
    refused = psycopg.errors.ReadOnlySqlTransaction, psycopg.errors.InsufficientPrivilege
    with place as database, suppress(*refused):
        database.execute("begin")
        database.execute(NEW_PAYMENT[side], {"id": "tried"})
        database.execute("rollback")
        return True
    return False


def recover(split: Split) -> None:
    """Resume, and then do what messages say until status is content."""
    ran(split, "resume")
    queue: list[list[str]] = []
    for _ in range(12):
        if not queue:
            done = split.runner("status", "payments")
            if not done.returncode:
                return
            queue = hints(done.stdout + done.stderr)
        done = split.runner(*queue.pop(0))
        if done.returncode:
            queue = hints(done.stdout + done.stderr)


def test_monolith_fails_over_to_before_the_whole_run(stage: Stage, tmp_path: Path) -> None:
    """It could as well be another monolith: nothing in the service's database is touched."""
    with apart(stage, "sample", tmp_path / "service") as (split, clusters):
        with standby(clusters["monolith"]) as other:
            other.cut_off()
            ran(split, "run", "payments")
            pay_monolith(split, "followed")
            other.take_over()
        assert "absent" in ran(split, "status", "payments")
        said = ran(split, "run", "payments", code=6)
        assert "There is a subscription split_payments_db of payments_db already" in said
        assert holds(split, Side.SERVICE, "followed")
        (statements,) = re.findall("ALTER SUBSCRIPTION .*", said)
        with split.service("payments_db") as database:
            for statement in statements.split("; "):
                database.execute(statement)
            assert not one(database, "select count(*) from pg_subscription")
        assert "holds tables that were not landed" in ran(split, "run", "payments", code=6)
        assert holds(split, Side.SERVICE, "followed")


@pytest.mark.parametrize("side", ["monolith", "service"])
def test_a_crash_ends_no_proof(switched_apart: Apart, side: str) -> None:
    split, cluster = switched_apart.split, switched_apart.clusters[side]
    with split.monolith() as monolith, split.service("payments_db") as database:
        found = Session(PAYMENTS, split.connections, monolith, database)
        assert not continuity.look(found.forward) and not continuity.look(found.reverse)
    for number in range(2):
        with split.service("payments_db") as service:
            service.execute(NEW_PAYMENT[Side.SERVICE], {"id": f"before {side} {number}"})
        cluster.crash()
        with split.service("payments_db") as service:
            service.execute(NEW_PAYMENT[Side.SERVICE], {"id": f"after {side} {number}"})
        ran(split, "sync", "payments")
        ran(split, "status", "payments")
    ran(split, "rollback", "payments", "--dry-run")
    move(split, "rollback")
