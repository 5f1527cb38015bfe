"""The report: what it says about services in every state, on a self-contained page."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from demo.project import ROOT, SERVICES, SERVICES_BY_NAME
from pgsplit import __version__
from pgsplit.base.errors import NotReady
from pgsplit.base.operator import made_by
from pgsplit.observe.history import Account, Proof, Report
from pgsplit.observe.operations import Entry, Operation
from pgsplit.observe.pages import account, ticks
from pgsplit.observe.verdict import summary, verdict
from pgsplit.postgres.row_diff import Comparison
from pgsplit.state.ledger import State
from tests.support.split import Split
from tests.support.switching import ran

PAYMENTS = SERVICES_BY_NAME["payments_db"]
NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def text_of(html: str) -> str:
    """Parse a page as XML; give its visible text."""
    root = ElementTree.fromstring(html.partition("\n")[2])
    return " ".join(" ".join(root.itertext()).split())


def page_of(*steps: Entry) -> str:
    """Give the visible text of the page of one service."""
    return text_of(account.page(report_of(*steps), SERVICES))


def step(name: str, after: float, seconds: float | None = 1.0, **detail: Any) -> Entry:
    """Make a ledger entry that starts some seconds after noon."""
    started = NOON + timedelta(seconds=after)
    ended = None if seconds is None else started + timedelta(seconds=seconds)
    outcome = None if seconds is None else "failed" if "error" in detail else "done"
    return Entry("payments_db", name, started, ended, outcome, {}, detail)


def report_of(*steps: Entry) -> Report:
    return Report("database x", NOON, [Account(PAYMENTS, State.PROVISIONED, steps, [])])


def at(after: float) -> str:
    """Format a time some seconds after noon as the ledger's details do."""
    return (NOON + timedelta(seconds=after)).isoformat()


def switch_of(*parts: Entry, seconds: float | None = 2.0, **detail: Any) -> list[Entry]:
    """Make the entries of a switch that began at noon."""
    return [step("switch", 0, seconds, **detail), *parts]


def operation_of(*steps: Entry) -> Operation:
    """Give the one operation that these ledger entries describe."""
    (found,) = Account(PAYMENTS, State.VERIFIED, steps, []).operations
    return found


def test_report_shows_row_counts_tests_and_the_proof(living: Split, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    assert living.runner("verify", "payments").returncode == 0
    result = living.runner("report", "--html", str(file))
    assert result.returncode == 0, result.stderr
    assert "payments_db       verified     last: verify done" in result.stdout
    assert "users_db          absent       last: nothing yet" in result.stdout
    html = file.read_text(encoding="utf-8")
    assert "<script" not in html
    assert "http" not in html.replace("http://www.w3.org/", "")
    shown = text_of(html)
    with living.service("payments_db") as database:
        row = database.execute("select count(*) from payments_db.refunds").fetchone()
    assert row is not None
    for said in (
        "1 of 6 services verified",
        f"refunds {row[0]} {row[0]} 0 0 0",
        "parity_payments_receiver_id__users warned",
        "parity_payments_sender_id__users passed 0",
        "All other tests:",
        "Not verified: ./runner.py verify users",
    ):
        assert said in shown, said


def test_report_is_available_as_json(living: Split) -> None:
    result = living.runner("report", "payments", "--json")
    assert result.returncode == 0, result.stderr
    (account,) = json.loads(result.stdout)["services"].values()
    assert account["service"]["database"] == "payments_db"
    assert [one["step"] for one in account["steps"]][:3] == ["provision", "land", "build"]
    built = next(one for one in account["steps"] if one["step"] == "build")
    kinds = {node["kind"] for node in built["detail"]["nodes"]}
    assert {"model", "test", "unit_test", "parity"} <= kinds


def test_failed_and_unfinished_steps_are_shown_with_their_error() -> None:
    failed = page_of(step("land", 0, error="disk <full> & more"))
    assert "The last step, land, failed" in failed
    assert "disk <full> & more" in failed
    assert "The last step, build, did not end" in page_of(step("build", 0, None))


def test_chart_shows_only_the_latest_period_of_work() -> None:
    steps = step("provision", 0), step("land", 4000), step("build", 4010, 300), step("verify", 4320)
    assert [one.step for one in report_of(*steps).latest()] == ["land", "build", "verify"]


def test_life_of_a_service_is_shown_over_all_weeks() -> None:
    day = 86400.0
    built = {"tables": {"payments": 1}, "tests": {"passed": 1, "warned": 0, "failed": 0}}
    steps = [
        step("provision", 0),
        step("land", day, rows={"payments": 1}, bytes=1),
        step("build", 2 * day, **built),
        step("build", 2.5 * day, **built),
        step("verify", 3 * day),
        step("verify", 4 * day, differs=1, error="a row differs"),
        step("switch", 10 * day),
        step("verify", 11 * day),
        step("rollback", 12 * day),
        step("switch", 20 * day),
        step("complete", 60 * day),
    ]
    life = Account(PAYMENTS, State.COMPLETED, steps, []).life(NOON + timedelta(days=70))
    assert [(one.state.value, round((one.begins_at - NOON).days)) for one in life] == [
        ("provisioned", 0),
        ("landed", 1),
        ("built", 2),
        ("verified", 3),
        ("switched", 10),
        ("verified", 12),
        ("switched", 20),
        ("completed", 60),
    ]
    assert all(one.ends_at == after.begins_at for one, after in pairwise(life))
    assert "payments_db: switched since 2026-01-21 12:00 UTC" in page_of(*steps)


def test_report_is_refused_before_anything_was_done(living: Split, tmp_path: Path) -> None:
    result = living.runner("report", "users", "--html", str(tmp_path / "report.html"))
    assert result.returncode == NotReady.exit_code
    assert "There is nothing to report yet" in result.stderr
    assert "hint:  runner.py run" in result.stderr
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize("place", ["missing/report.html", "."])
def test_report_to_an_unwritable_path_is_refused(living: Split, tmp_path: Path, place: str) -> None:
    result = living.runner("report", "--html", str(tmp_path / place))
    assert result.returncode == NotReady.exit_code
    assert "The page can't be written" in result.stderr


def test_differing_totals_are_shown_until_the_service_lands_again() -> None:
    difference = {"column": "payments.amount", "in": ["payments.amount"], "blames": "model"}
    found = {"compared": 9, "agrees": 8, "differs": 1, "moving": 0, "differences": [difference]}
    land, totals = step("land", 0, rows={"payments": 1}, bytes=9), step("totals", 9, **found)
    shown = page_of(land, totals)
    assert "1 total differs" in shown
    assert "8 agree, 0 in flux, 1 differ" in shown
    assert "a model is wrong, or somebody wrote" in shown
    again = page_of(land, totals, step("land", 99, rows={"payments": 1}, bytes=9))
    assert "total differs" not in again
    assert "Totals were not compared" in again


@pytest.mark.slow
def test_switch_and_rollback_are_shown_with_pause_backup_and_quarantine(
    living: Split, tmp_path: Path
) -> None:
    ran(living, "verify", "payments")
    ran(living, "switch", "payments")
    # From now on nobody compares the service's own tables: how old their proofs are says nothing.
    with living.monolith() as monolith:
        monolith.execute(
            "update split.verifications set finished_at = finished_at - '9 days'::interval"
        )
    said = ran(living, "report", "payments", "--html", str(tmp_path / "unproven.html"))
    assert "No-go: payments: it was not verified since the switch" in said
    assert "proven 216 h ago" in ran(living, "health", "payments")
    ran(living, "verify", "payments")
    said = ran(living, "report", "payments", "--html", str(tmp_path / "proven.html"))
    assert "Go: complete payments" in said
    assert re.search(r"proven [0-9.]+ s ago", ran(living, "health", "payments"))
    with living.service("payments_db") as database:
        database.execute(
            "insert into payments_db.refunds (payment_id, reason, amount)"
            " select id, 'no place for it', 1 from payments_db.payments"
            " where id not in (select payment_id from payments_db.refunds) limit 1"
        )
        database.execute(
            "update payments_db.payments set metadata = '[1]' where id in"
            " (select payment_id from payments_db.refunds where reason = 'no place for it')"
        )
    file = tmp_path / "report.html"
    assert "payments_db       switched     last: verify done" in living.runner(
        "report", "--html", str(file)
    ).stdout.replace("\n", " ")
    switched = text_of(file.read_text(encoding="utf-8"))
    ran(living, "rollback", "payments", "--no-backup")
    ran(living, "report", "--html", str(file))
    html = file.read_text(encoding="utf-8")
    shown = text_of(html)
    with living.monolith() as monolith:
        path, size, lsn = monolith.execute(
            "select detail ->> 'path', (detail ->> 'bytes')::integer, detail ->> 'lsn'"
            " from split.ledger where step = 'backup'"
        ).fetchone() or ("", 0, "")
    for said in (
        "1 of 6 services switched",
        "longest pause of writes",
        "switched payments_db",
        "The pause of the last switch, on",
        "pause of writes",
        f"switch blytz_hire {size / 1024:.1f} KB {lsn} {path}",
    ):
        assert said in switched, said
    for said in (
        "services verified",
        "verified payments_db",
        "The pause of the last rollback, on",
        "1 row of refunds could not return unchanged; quarantined in audit.refunds_",
    ):
        assert said in shown, said
    assert "services switched" not in shown
    for part in ("close", "drain", "decide", "open", "point"):
        assert f"<title>{part}: " in html, part
    shown = living.runner("report", "payments", "--json")
    account = json.loads(shown.stdout)["services"]["payments_db"]
    assert {"switch", "rollback", "backup"} <= {one["step"] for one in account["steps"]}


def test_pause_lasts_from_closing_one_side_to_opening_the_other() -> None:
    found = operation_of(
        *switch_of(
            step("switch: close", 1.0, 0.5, closed_at=at(1.45), tries=3),
            step("switch: drain", 1.5, 0.1),
            step("switch: open", 1.6, 0.1, opened_at=at(1.65)),
            step("switch: finish", 1.7, 0.2, first_write_at=at(1.68)),
        )
    )
    pause = found.pause
    assert pause is not None
    assert (found.outcome, found.tries) == ("done", 3)
    assert pause.seconds == pytest.approx(0.2)
    assert found.first_write_seconds == pytest.approx(0.03)
    assert [one.step for one in pause.steps] == ["switch: close", "switch: drain", "switch: open"]


@pytest.mark.parametrize(("ahead", "shown"), [(-60, 0.1), (0, 0.2), (60, 0.7)])
def test_pause_stays_within_ledger_times_despite_clock_differences(
    ahead: float, shown: float
) -> None:
    found = operation_of(
        *switch_of(
            step("switch: close", 1.0, 0.5, closed_at=at(1.45), tries=1),
            step("switch: open", 1.6, 0.1, opened_at=at(1.65 + ahead)),
        )
    )
    assert found.pause is not None
    assert found.pause.seconds == pytest.approx(shown)


def test_undone_switch_is_shown_as_undone() -> None:
    said = "The pause was longer than the 1 s that it may be.\nThe switch was undone"
    steps = switch_of(
        step("switch: close", 1.0, 0.1, closed_at=at(1.05), tries=1),
        step("switch: drain", 1.1, 0.9, error=said),
        step("switch: undo close", 2.0, 0.1),
        step("switch: undo prepare", 2.1, 0.1),
        seconds=2.3,
        unfinished=False,
        error=said,
    )
    shown = page_of(*steps)
    assert "The last step, switch, was undone" in shown
    assert "switch undone 1.00 s 1 The pause was longer than the 1 s" in shown
    assert "The pause of the last switch, which was undone" in shown
    assert "\ufffd" not in shown


def test_interrupted_switch_is_shown_until_it_is_resumed() -> None:
    cut = switch_of(
        step("switch: close", 1.0, 0.1, closed_at=at(1.05), tries=1),
        step("switch: decide", 1.1, 0.1),
        step("switch: open", 1.2, None),
        seconds=None,
    )
    shown = page_of(*cut)
    assert "The last step, switch, did not end" in shown
    assert "switch interrupted 1 to finish or undo it: ./runner.py resume" in shown
    assert operation_of(*cut).pause is None
    resumed = [
        step("switch", 9, 2, unfinished=False),
        step("switch: decide", 9, 0.1),
        step("switch: open", 9.2, 0.1, opened_at=at(9.25)),
        step("switch: finish", 9.5, 1, first_write_at="none yet"),
    ]
    shown = page_of(*cut, *resumed)
    assert "The last step" not in shown
    assert "switch done 8.20 s 1 was interrupted and resumed" in shown


def test_interrupted_and_undone_switch_paused_no_longer_than_its_lease() -> None:
    steps = [
        Entry("payments_db", "switch", NOON, None, None, {"max_pause": 0.5}, {}),
        step("switch: close", 1.0, 0.1, closed_at=at(1.05), tries=1),
        step("switch: drain", 1.1, None),
        step("switch", 99, 1, unfinished=False, error="It was cut short, and is undone."),
        step("switch: undo close", 99, 0.1),
    ]
    found = operation_of(*steps)
    assert found.outcome == "undone"
    assert found.pause is not None
    assert found.pause.seconds == pytest.approx(0.5)


def test_completion_shows_retired_tables_and_reparented_consumers() -> None:
    steps = [
        step("complete", 0, 4),
        step("complete: hand over", 1, 1, consumers=["files_db"]),
        step("complete: retire", 2, 1, retired=["payments", "reviews"], detached=["a key"]),
    ]
    shown = page_of(*steps)
    assert "complete done" in shown
    assert (
        "retired: payments, reviews 1 foreign key dropped shared streams re-parented: files"
        in shown
    )


def test_latest_period_of_work_leaves_out_the_parts_of_a_switch() -> None:
    steps = switch_of(step("switch: close", 1), step("switch: open", 2))
    assert [one.step for one in report_of(*steps).latest()] == ["switch"]
    latest = report_of(*steps).accounts[0].latest
    assert latest is not None and latest.step == "switch"


def test_pause_of_milliseconds_has_a_scale_in_milliseconds() -> None:
    assert [said for _, said in ticks(100.0, 100.048)] == [
        "0 ms",
        "10 ms",
        "20 ms",
        "30 ms",
        "40 ms",
    ]


# Who, with what, and whether to go on


def proof(after: float, *, proven: bool = True, of_monolith: bool = False) -> Proof:
    """Make a table's proof, some seconds after noon."""
    name = "blytz_hire.payments" if of_monolith else "payments"
    found = Comparison(rows=3, modified=0 if proven else 1)
    return Proof(name, found, NOON + timedelta(seconds=after), proven, of_monolith)


def nodes(status: str) -> dict[str, Any]:
    """Give what a build recorded of one test."""
    return {
        "nodes": [{"name": "one", "kind": "test", "status": status, "rows": 1}],
        "tables": {"payments": 3},
        "tests": {"passed": 0, "warned": 0, "failed": 1},
    }


AGREED = {"compared": 9, "agrees": 7, "moving": 0, "differences": []}
DONE_SWITCH = [step("switch", 20, 2.0)]


@pytest.mark.parametrize(
    ("state", "steps", "proofs", "said"),
    [
        (State.ABSENT, [], [], "No-go: switch: it is absent: runner.py run payments"),
        (State.LANDED, [], [], "No-go: switch: it is landed: runner.py run payments"),
        (State.BUILT, [], [], "No-go: switch: it is not verified: runner.py verify payments"),
        (State.VERIFIED, [], [proof(9)], "Go: switch"),
        (
            State.VERIFIED,
            [],
            [proof(9, proven=False)],
            "No-go: switch: not proven: payments: runner.py verify payments",
        ),
        (
            State.VERIFIED,
            [],
            [proof(-30 * 3600)],
            "No-go: switch: last verified 30 hours ago; the limit is 24 hours: runner.py verify"
            " payments",
        ),
        (
            State.VERIFIED,
            [step("build", 0, **nodes("fail")), step("totals", 3, differs=2, **AGREED)],
            [proof(9)],
            "No-go: switch: 1 test failed: runner.py build payments; 2 totals differ: runner.py"
            " totals payments",
        ),
        (
            State.VERIFIED,
            [step("build", 10, error="no room")],
            [proof(9)],
            "No-go: switch: the last build failed: runner.py run payments",
        ),
        (
            State.VERIFIED,
            [step("switch", 10, None)],
            [proof(9)],
            "No-go: switch: the last switch was interrupted: runner.py resume",
        ),
        (
            State.SWITCHED,
            DONE_SWITCH,
            [proof(9)],
            "No-go: complete: it was not verified since the switch: runner.py verify payments",
        ),
        (State.SWITCHED, DONE_SWITCH, [proof(30)], "Go: complete"),
        (State.COMPLETED, DONE_SWITCH, [], "Done: nothing is left to do"),
    ],
)
def test_verdict_says_go_or_what_is_against_it(
    state: State, steps: list[Entry], proofs: list[Proof], said: str
) -> None:
    found = Account(PAYMENTS, state, steps, proofs)
    assert str(verdict(found, NOON + timedelta(minutes=1))) == said
    report = Report("database x", NOON + timedelta(minutes=1), [found])
    told = summary(report)
    assert told.split(":")[0] == said.split(":")[0]
    assert told in text_of(account.page(report, SERVICES))


def test_report_says_who_made_it_with_which_versions(switched: Split, tmp_path: Path) -> None:
    operator = {"SUDO_USER": "ann"}
    made_by.cache_clear()
    done = switched.runner("rollback", "payments", "--no-backup", **operator)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "report.html"
    result = switched.runner("report", "--html", str(file), "--ticket", "CHG-7", **operator)
    commit = made_by(ROOT)["commit"]
    made_by.cache_clear()
    assert result.returncode == 0, result.stderr
    assert "No-go: communication: it is absent: runner.py run communication" in result.stdout
    described = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert not described or re.fullmatch(r"[0-9a-f]{12}(-dirty)?", commit)
    shown = text_of(file.read_text(encoding="utf-8"))
    assert f"For CHG-7 . Written by ann on {platform.node()}, commit {commit} ." in shown
    assert f"by ann@{platform.node()}, commit {commit}" in shown
    for said in (f"pgsplit {__version__}", "dbt-core 1.", "psycopg 3.", "payments_db PostgreSQL 1"):
        assert said in shown, said


def test_warnings_of_a_rollback_are_in_the_report(switched: Split, tmp_path: Path) -> None:
    with switched.service("payments_db") as database:
        database.execute(
            "update payments_db.payments set sender_id = 'ghost'"
            " where id = (select min(id) from payments_db.payments)"
        )
    done = switched.runner("rollback", "payments", "--no-backup")
    assert done.returncode == 0 and "break its foreign key" in done.stdout, done.stderr
    (warning,) = [line for line in done.stdout.splitlines() if "break its foreign key" in line]
    file = tmp_path / "report.html"
    assert switched.runner("report", "payments", "--html", str(file)).returncode == 0
    assert warning in text_of(file.read_text(encoding="utf-8"))


def test_report_needs_no_service_to_be_up(switched: Split, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    down = {"PAYMENTS_DB_URL": "postgresql://nobody@127.0.0.1:1/payments_db"}
    done = switched.runner("report", "payments", "--html", str(file), **down)
    assert done.returncode == 0, done.stderr
    assert "payments_db unknown: " in text_of(file.read_text(encoding="utf-8"))
