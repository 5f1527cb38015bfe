"""Whatever is killed, one side is the source of truth and no acknowledged write is lost.

The matrix kills the runner at every ledger entry of an operation. A test reads those entries from
a complete run and fails if the matrix lacks one. To run all of it: make test-faults.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import pytest

from demo.project import MONOLITH, PROJECT
from pgsplit.base.errors import NotReady
from pgsplit.load import sample as demo
from pgsplit.project.endpoints import resolve
from pgsplit.routing.env_file import Side
from tests.support.servers import Cluster, newest, oldest
from tests.support.split import Split
from tests.support.stage import SAMPLE_ROWS, environment
from tests.support.switching import (
    PAYMENTS,
    Writer,
    assert_agreed,
    assert_alike,
    both_ends,
    bring_to_verified,
    checksums,
    halted,
    move,
    ran,
    set_aside,
    stands,
    takes_writes,
    words,
)
from tests.support.waiting import until

WALK = ("prepare", "catch up", "close", "drain", "decide", "open", "point", "finish", "measure")
STEPS = {
    "switch": WALK,
    "rollback": WALK,
    "complete": ("dump", "settle", "hand over", "end way back", "retire", "loosen", "end links"),
    "abort": ("ways", "database", "records"),
}
# Before these are done, a completion can be undone: there is nothing to undo.
CHANGES_NOTHING = ("complete", "complete: dump", "complete: settle")
MOMENTS = ("begun", "done", "recorded")
# One before the decision, those on either side of it, one that has only to be recorded.
ALWAYS = {
    ("switch: close", "recorded"),
    ("switch: decide", "begun"),
    ("switch: decide", "done"),
    ("switch: open", "recorded"),
    ("rollback: decide", "done"),
    ("rollback: finish", "done"),
}
STATES = {"switch": ("verified", "switched"), "rollback": ("switched", "verified")}


def points(operation: str) -> list[tuple[str, str]]:
    """List all moments of an operation in order: its ledger entries, with `halted`'s moments."""
    inner = [(f"{operation}: {step}", moment) for step in STEPS[operation] for moment in MOMENTS]
    return [(operation, "begun"), *inner, (operation, "done"), (operation, "recorded")]


def matrix(operation: str) -> list[object]:
    """Give the points as parameters; mark those that only `make test-faults` runs."""
    return [
        pytest.param(
            number, *point, id=" ".join(point), marks=[] if point in ALWAYS else pytest.mark.faults
        )
        for number, point in enumerate(points(operation))
    ]


@contextmanager
def running(split: Split, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run runner.py beside the test."""
    with split.start(*arguments) as process:
        try:
            yield process
        finally:
            process.kill()


def kill_at(split: Split, entry: str, moment: str, *arguments: str) -> None:
    """Run runner.py up to an entry in the ledger, and kill it there."""
    with halted(split, entry, moment) as halt, running(split, *arguments) as runner:
        serving = halt.wait()
        runner.kill()
        runner.wait()
        halt.release()
        alive = "select count(*) from pg_stat_activity where pid = %s"
        until(lambda: ask_monolith(split, alive, serving) == 0)


def ask_monolith(split: Split, question: str, *parameters: object) -> object:
    """Ask the monolith for one value."""
    with split.monolith() as monolith:
        row = monolith.execute(question, parameters).fetchone()
    assert row is not None
    return row[0]


def assert_not_both_sides_take_writes(split: Split) -> None:
    """The two sides never take writes at the same time."""
    with both_ends(split) as session:
        assert not (session.monolith_fence.is_open() and takes_writes(session))


def resumed(split: Split, operation: str, *, try_again_first: bool = False) -> str:
    """Resume a killed operation as the messages say; give the final state."""
    if try_again_first:
        said = ran(split, operation, "payments", "--no-backup", code=NotReady.exit_code)
        assert f"The last {operation} of payments_db was interrupted." in said
        assert "hint: runner.py resume" in said
    said = ran(split, "resume")
    assert f"payments_db: The {operation} had" in said
    assert "Nothing was interrupted." in ran(split, "resume")
    return assert_agreed(split)


# The runner


def test_matrix_covers_every_ledger_entry(switched: Split) -> None:
    move(switched, "rollback")
    with switched.monolith() as monolith:
        for operation in STATES:
            rows = monolith.execute(
                "select step from split.ledger where id >= (select max(id) from split.ledger"
                " where step = %s) and step like %s order by id",
                (operation, f"{operation}%"),
            ).fetchall()
            known = [entry for entry, moment in points(operation) if moment == "begun"]
            # Who has to be told is told when it is done: nothing depends on that.
            assert [row[0] for row in rows] == [*known, f"{operation}: tell"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "entry", "moment"), matrix("switch"))
def test_killed_switch_ends_on_one_side(
    verified: Split, number: int, entry: str, moment: str
) -> None:
    assert_ends_well(verified, "switch", number, entry, moment)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "entry", "moment"), matrix("rollback"))
def test_killed_rollback_ends_on_one_side(
    switched: Split, number: int, entry: str, moment: str
) -> None:
    assert_ends_well(switched, "rollback", number, entry, moment)


def assert_ends_well(split: Split, operation: str, number: int, entry: str, moment: str) -> None:
    is_committed = number >= points(operation).index((f"{operation}: decide", "done"))
    expected = STATES[operation][is_committed]
    place = Side.SERVICE if expected == "switched" else Side.MONOLITH
    with Writer(split, f"{operation}{number}") as writer:
        kill_at(split, entry, moment, operation, "payments", "--no-backup")
        assert_not_both_sides_take_writes(split)
        if (entry, moment) == (operation, "recorded"):
            assert "Nothing was interrupted." in ran(split, "resume")
        else:
            assert resumed(split, operation, try_again_first=bool(number % 2)) == expected
        assert assert_agreed(split) == expected
        writer.assert_gets_through(place)
    writer.assert_nothing_lost()
    assert_alike(split)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [pytest.param("done", marks=pytest.mark.faults), "recorded"])
def test_killed_runner_blocks_the_monolith_no_longer_than_max_pause(
    verified: Split, moment: str
) -> None:
    with Writer(verified, f"lease {moment}") as writer:
        kill_at(
            verified,
            "switch: close",
            moment,
            *("switch", "payments", "--no-backup", "--max-pause", "1s"),
        )
        writer.assert_gets_through(Side.MONOLITH)
        assert any("is moving to the database payments_db" in said for said in writer.refusals)
        assert resumed(verified, "switch") == "verified"
        writer.assert_gets_through(Side.MONOLITH)
    writer.assert_nothing_lost()


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["switch", "rollback"])
def test_runner_that_sleeps_past_max_pause_commits_nothing(verified: Split, operation: str) -> None:
    if operation == "rollback":
        move(verified, "switch")
    state = STATES[operation][False]
    place = Side.SERVICE if state == "switched" else Side.MONOLITH
    with (
        Writer(verified, f"{operation} asleep") as writer,
        halted(verified, f"{operation}: drain", "recorded") as halt,
        running(verified, operation, "payments", "--no-backup", "--max-pause", "500ms") as runner,
    ):
        halt.wait()
        writer.assert_gets_through(place)
        halt.release()
        said = words(runner.communicate()[0])
        assert runner.returncode == NotReady.exit_code
        assert "The pause was longer than the 0.5 s that are allowed" in said
        assert f"The {operation} was undone: everything is as it was before." in said
        assert assert_agreed(verified) == state
        writer.assert_gets_through(place)
    writer.assert_nothing_lost()


@pytest.mark.slow
@pytest.mark.parametrize("order", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_before_the_point_of_no_return_undoes_everything(
    verified: Split, order: signal.Signals
) -> None:
    with (
        Writer(verified, f"{order.name} early") as writer,
        halted(verified, "switch: drain") as halt,
        running(verified, "switch", "payments", "--no-backup") as runner,
    ):
        halt.wait()
        runner.send_signal(order)
        said = words(runner.communicate()[0])
        assert runner.returncode == 130
        assert "The switch was stopped and undone: everything is as it was before." in said
        assert assert_agreed(verified) == "verified"
        writer.assert_gets_through(Side.MONOLITH)
    writer.assert_nothing_lost()


@pytest.mark.slow
@pytest.mark.parametrize("step", ["decide", "open", "point"])
def test_interrupt_after_the_point_of_no_return_waits_until_writes_are_open(
    verified: Split, step: str
) -> None:
    with Writer(verified, f"interrupted at {step}") as writer:
        with (
            halted(verified, f"switch: {step}", "recorded") as halt,
            running(verified, "switch", "payments", "--no-backup") as runner,
        ):
            halt.wait()
            runner.send_signal(signal.SIGINT)
            halt.release()
            said = words(runner.communicate()[0])
            assert runner.returncode == NotReady.exit_code
            assert (
                "The switch of payments_db is committed but not finished: it was stopped." in said
            )
            assert "may be kept out" not in said
            writer.assert_gets_through(Side.SERVICE)
        assert resumed(verified, "switch") == "switched"
    writer.assert_nothing_lost()


@pytest.mark.slow
@pytest.mark.parametrize("step", ["decide", "point"])
def test_committed_switch_must_be_finished_before_anything_else(verified: Split, step: str) -> None:
    """The ledger still says verified, but the service may hold rows that exist nowhere else."""
    with Writer(verified, f"{step} decided") as writer:
        kill_at(verified, f"switch: {step}", "recorded", "switch", "payments", "--no-backup")
        assert stands(verified) == "verified"
        if step == "point":
            writer.assert_gets_through(Side.SERVICE)
        for command in (
            ("abort", "payments"),
            ("rollback", "payments"),
            ("complete", "payments"),
            ("switch", "payments", "--reads"),
            ("land", "payments", "--recopy"),
        ):
            said = ran(verified, *command, code=NotReady.exit_code)
            assert "The last switch of payments_db was interrupted." in said, command
        assert resumed(verified, "switch") == "switched"
        writer.assert_gets_through(Side.SERVICE)
    writer.assert_nothing_lost()


@pytest.mark.faults
def test_abort_killed_at_every_step_can_be_finished(verified: Split) -> None:
    with verified.service("payments_db") as database:
        for name in set_aside(verified):  # by rollbacks that other tests have killed
            database.execute(f"drop table audit.{name}")
    before = checksums(verified)
    command = ["abort", "payments"]
    for entry, moment in points("abort"):
        kill_at(verified, entry, moment, *command)
        command = ["resume"]
        if entry != "abort":
            said = ran(verified, "provision", "payments", code=NotReady.exit_code)
            assert "The last abort of payments_db was interrupted." in said
    assert "Nothing was interrupted." in ran(verified, "resume")
    assert stands(verified) == "absent"
    assert checksums(verified) == before
    assert ask_monolith(verified, "select count(*) from pg_replication_slots") == 0
    assert ask_monolith(verified, "select count(*) from pg_roles where rolname ~ '^payments'") == 0


# Workers and servers


WORKERS = {
    "apply worker": "select pid from pg_stat_subscription where subname = %s and pid is not null",
    "sender": "select active_pid from pg_replication_slots where slot_name = %s and active",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operation", "worker"),
    [
        ("switch", "apply worker"),
        pytest.param("switch", "sender", marks=pytest.mark.faults),
        pytest.param("rollback", "apply worker", marks=pytest.mark.faults),
        pytest.param("rollback", "sender", marks=pytest.mark.faults),
    ],
)
def test_replication_worker_terminated_during_the_pause_restarts(
    verified: Split, operation: str, worker: str
) -> None:
    if operation == "rollback":
        move(verified, "switch")
    name = PAYMENTS.replication if operation == "switch" else PAYMENTS.reverse_replication
    with Writer(verified, f"{operation} {worker}") as writer:
        with (
            halted(verified, f"{operation}: drain") as halt,
            running(verified, operation, "payments", "--no-backup", "--max-pause", "30s") as runner,
        ):
            halt.wait()
            with verified.monolith() as monolith:
                ended = monolith.execute(
                    f"select pg_terminate_backend(pid) from ({WORKERS[worker]}) as found (pid)",
                    (name,),
                ).fetchall()
            assert ended == [(True,)]
            halt.release()
            said = runner.communicate()[0]
        assert runner.returncode == 0, said
        assert assert_agreed(verified) == STATES[operation][True]
        writer.assert_gets_through(Side.SERVICE if operation == "switch" else Side.MONOLITH)
    writer.assert_nothing_lost()


@pytest.mark.slow
def test_complete_killed_while_retiring_can_be_finished(switched: Split) -> None:
    assert_completes(switched, [("complete: retire", moment) for moment in MOMENTS])


@dataclass(frozen=True)
class Apart:
    """A monolith and a verified service, each on its own server."""

    split: Split
    clusters: dict[str, Cluster]


@pytest.fixture(scope="module", params=["service on 15", "monolith on 15"])
def apart(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Apart]:
    folder = tmp_path_factory.mktemp("apart")
    with oldest() as old, newest(folder / "server") as new:
        clusters = {"monolith": new, "service": old}
        if request.param == "monolith on 15":
            clusters = {"monolith": old, "service": new}
        url = clusters["monolith"].url(MONOLITH)
        demo.create(PROJECT, url, SAMPLE_ROWS)
        environ = {
            **environment(url, folder, folder / "dbt"),
            "PAYMENTS_DB_URL": clusters["service"].url(PAYMENTS.database),
        }
        split = Split(clusters["monolith"].server, resolve(PROJECT, environ), environ)
        yield Apart(split, clusters)


@pytest.mark.faults
def test_servers_of_different_versions_switch_and_roll_back(apart: Apart) -> None:
    bring_to_verified(apart.split)
    with Writer(apart.split, "apart") as writer:
        move(apart.split, "switch")
        assert assert_agreed(apart.split) == "switched"
        writer.assert_gets_through(Side.SERVICE)
        move(apart.split, "rollback")
        assert assert_agreed(apart.split) == "verified"
        writer.assert_gets_through(Side.MONOLITH)
    writer.assert_nothing_lost()
    assert_alike(apart.split)


CRASHES = [
    ("monolith", "switch: drain", "begun"),
    ("monolith", "switch: decide", "done"),
    ("monolith", "switch: open", "recorded"),
    ("monolith", "rollback: drain", "begun"),
    ("monolith", "rollback: open", "begun"),
    ("service", "switch: prepare", "recorded"),
    ("service", "switch: drain", "begun"),
    ("service", "switch: open", "begun"),
    ("service", "switch: finish", "begun"),
    ("monolith", "switch: measure", "begun"),
    ("service", "switch: measure", "begun"),
    ("service", "rollback: drain", "begun"),
    ("service", "rollback: decide", "recorded"),
]


@pytest.mark.faults
@pytest.mark.parametrize(("side", "entry", "moment"), CRASHES)
def test_server_crash_during_an_operation_loses_nothing(
    apart: Apart, side: str, entry: str, moment: str
) -> None:
    split, operation = apart.split, entry.partition(":")[0]
    bring_to_verified(split)
    if operation == "rollback":
        move(split, "switch")
    with Writer(split, f"crash{CRASHES.index((side, entry, moment))}") as writer:
        with (
            halted(split, entry, moment) as halt,
            running(split, operation, "payments", "--no-backup") as runner,
        ):
            halt.wait()
            apart.clusters[side].crash()
            halt.release()
            said = words(runner.communicate()[0])
        is_done = entry in ("switch: finish", "switch: measure")
        assert (runner.returncode == 0) is is_done, said
        assert "warning:" in said or not is_done or side == "service"
        assert "Traceback" not in said
        assert_not_both_sides_take_writes(split)
        assert "Nothing was interrupted." in (ran(split, "resume") and ran(split, "resume"))
        state = assert_agreed(split)
        assert state in STATES[operation]
        writer.assert_gets_through(Side.SERVICE if state == "switched" else Side.MONOLITH)
    writer.assert_nothing_lost()
    assert_alike(split)


@pytest.mark.faults
@pytest.mark.parametrize("operation", ["switch", "rollback"])
def test_killed_wal_sender_restarts_its_server_and_loses_nothing(
    apart: Apart, operation: str
) -> None:
    """When one of its processes is killed, the server ends all of them and recovers."""
    split = apart.split
    bring_to_verified(split)
    if operation == "rollback":
        move(split, "switch")
    source = "monolith" if operation == "switch" else "service"
    name = PAYMENTS.replication if operation == "switch" else PAYMENTS.reverse_replication
    with Writer(split, f"{operation} killed") as writer:
        with (
            halted(split, f"{operation}: drain") as halt,
            running(split, operation, "payments", "--no-backup") as runner,
        ):
            halt.wait()
            with psycopg.connect(apart.clusters[source].url("postgres")) as connection:
                row = connection.execute(WORKERS["sender"], (name,)).fetchone()
            assert row is not None
            os.kill(row[0], signal.SIGKILL)
            until(lambda: answers(apart.clusters.values()))
            halt.release()
            said = words(runner.communicate()[0])
        assert "Traceback" not in said
        ran(split, "resume")
        state = assert_agreed(split)
        writer.assert_gets_through(Side.SERVICE if state == "switched" else Side.MONOLITH)
    writer.assert_nothing_lost()
    assert_alike(split)


def assert_completes(
    split: Split, killed_at: Sequence[tuple[str, str]], at_last: tuple[str, str] | None = None
) -> None:
    """Kill a completion again and again, one point further each time, while clients write.

    After the point `at_last` nothing is left to do.
    """
    command = ["complete", "payments", "--no-backup"]
    with Writer(split, "completing") as writer:
        for entry, moment in killed_at:
            kill_at(split, entry, moment, *command)
            writer.assert_gets_through(Side.SERVICE)
            if entry in CHANGES_NOTHING and (entry, moment) != ("complete", "done"):
                assert "The complete had changed nothing yet" in ran(split, "resume")
                assert assert_agreed(split) == "switched"
            else:
                command = ["resume"]
        # It would re-create the reverse stream, which a completion has ended.
        said = ran(split, "repair", "payments", code=NotReady.exit_code)
        assert "The last complete of payments_db was interrupted." in said
        said = ran(split, "status", "payments", code=NotReady.exit_code)
        assert "The last complete of payments_db was interrupted, or is under way." in said
        assert "kept out" not in said
        if at_last:
            kill_at(split, *at_last, "resume")
        else:
            ran(split, "resume")
    assert "Nothing was interrupted." in ran(split, "resume")
    assert stands(split) == "completed"
    assert writer.refusals == []
    with split.service("payments_db") as database:
        rows = database.execute(
            "select id from payments_db.payments where id like 'completing-%'"
        ).fetchall()
    assert {row[0] for row in rows} >= set(writer.added)
    retired = "select count(*) from blytz_hire_retired.payments where id = 'completing-0'"
    assert ask_monolith(split, retired) == 1


@pytest.mark.faults
def test_complete_killed_at_every_step_can_be_finished(apart: Apart) -> None:
    bring_to_verified(apart.split)
    move(apart.split, "switch")
    *before, last = points("complete")
    assert_completes(apart.split, before, last)


def answers(clusters: Iterable[Cluster]) -> bool:
    """Tell whether all of the servers take connections."""
    try:
        for cluster in clusters:
            psycopg.connect(cluster.url("postgres")).close()
    except psycopg.OperationalError:
        return False
    return True
