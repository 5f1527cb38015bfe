"""The report: what it says of services in every state, and that the page is complete in itself."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from migration.errors import NotReady
from migration.ledger import State
from migration.pages.account import page
from migration.report import Account, Report, Step
from migration.services import SERVICES_BY_NAME
from tests.runner.conftest import Split

PAYMENTS = SERVICES_BY_NAME["payments_db"]
NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def text_of(html: str) -> str:
    """Parse a page as strictly as XML is; give what is to be read of it."""
    root = ElementTree.fromstring(html.partition("\n")[2])
    return " ".join(" ".join(root.itertext()).split())


def step(name: str, after: float, seconds: float | None = 1.0, **detail: Any) -> Step:
    """Make an entry of the ledger, some seconds after noon."""
    started = NOON + timedelta(seconds=after)
    ended = None if seconds is None else started + timedelta(seconds=seconds)
    outcome = None if seconds is None else "failed" if "error" in detail else "done"
    return Step("payments_db", name, started, ended, outcome, {}, detail)


def report_of(*steps: Step) -> Report:
    return Report("database x", NOON, [Account(PAYMENTS, State.PROVISIONED, steps, [])])


def test_a_report_holds_what_moved_the_tests_and_the_proof(living: Split, tmp_path: Path) -> None:
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


def test_the_same_is_there_as_data(living: Split) -> None:
    result = living.runner("report", "payments", "--json")
    assert result.returncode == 0, result.stderr
    (account,) = json.loads(result.stdout)["accounts"]
    assert account["service"]["database"] == "payments_db"
    assert [one["step"] for one in account["steps"]][:3] == ["provision", "land", "build"]
    built = next(one for one in account["steps"] if one["step"] == "build")
    kinds = {node["kind"] for node in built["detail"]["nodes"]}
    assert {"model", "test", "unit_test", "parity"} <= kinds


def test_a_failure_and_a_step_that_did_not_end_are_shown_with_what_was_said() -> None:
    failed = text_of(page(report_of(step("land", 0, error="disk <full> & more"))))
    assert "The last step, land, failed" in failed
    assert "disk <full> & more" in failed
    assert "The last step, build, did not end" in text_of(page(report_of(step("build", 0, None))))


def test_the_chart_shows_the_last_stretch_of_work_only() -> None:
    steps = step("provision", 0), step("land", 4000), step("build", 4010, 300), step("verify", 4320)
    assert [one.step for one in report_of(*steps).latest()] == ["land", "build", "verify"]


def test_with_nothing_done_there_is_nothing_to_report(living: Split, tmp_path: Path) -> None:
    result = living.runner("report", "users", "--html", str(tmp_path / "report.html"))
    assert result.returncode == NotReady.exit_code
    assert "Nothing has been done yet" in result.stderr
    assert "mend:  runner.py run" in result.stderr
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize("place", ["missing/report.html", "."])
def test_a_page_that_can_not_be_written_is_told_at_once(
    living: Split, tmp_path: Path, place: str
) -> None:
    result = living.runner("report", "--html", str(tmp_path / place))
    assert result.returncode == NotReady.exit_code
    assert "The page cannot be written" in result.stderr


def test_totals_that_differ_are_shown_until_the_service_has_landed_anew() -> None:
    difference = {"column": "payments.amount", "in": ["payments.amount"], "blames": "model"}
    found = {"compared": 9, "agrees": 8, "differs": 1, "moving": 0, "differences": [difference]}
    land, totals = step("land", 0, rows={"payments": 1}, bytes=9), step("totals", 9, **found)
    shown = text_of(page(report_of(land, totals)))
    assert "1 total differs" in shown
    assert "8 agree, 0 were being written, 1 differ" in shown
    assert "a model is wrong, or somebody wrote" in shown
    again = text_of(page(report_of(land, totals, step("land", 99, rows={"payments": 1}, bytes=9))))
    assert "total differs" not in again
    assert "Totals were not compared" in again
