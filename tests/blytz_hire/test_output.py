"""What people and their logs see: lines that break between words, progress, followers."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from rich.text import Text

from demo.project import ROOT, SERVICES_BY_NAME
from pgsplit.base.errors import NotReady
from pgsplit.cli import console, following, progress
from pgsplit.cli.commands.run import show_run
from pgsplit.cli.following import Following
from pgsplit.cli.wrapping import wrap
from pgsplit.load.run import RunReport
from pgsplit.replication.follow import Tick
from tests.support.split import Split
from tests.support.waiting import until

PAYMENTS = SERVICES_BY_NAME["payments_db"]
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ")
LONG = "payments_db.a_table_with_a_very_long_name_indeed.and_a_column_with_a_name_that_is_longer"


# Lines


@pytest.mark.parametrize("width", [20, 40, 80])
def test_lines_break_between_words_only(width: int) -> None:
    text = (
        f"The foreign key of {LONG} is not-valid, and a-word-with-hyphens stays whole.\n"
        "  hint:  Fix that, then: runner.py land payments --recopy && runner.py run payments\n"
        'alter table blytz_hire."Some Table" validate constraint "payments_userId_fkey of old";'
    )
    wrapped = wrap(text, width)
    assert wrapped.split() == text.split()
    for line in wrapped.splitlines():
        is_one_thing = LONG in line or "runner.py" in line or line.endswith(";")
        assert len(line) <= width or is_one_thing, line
    for whole in (
        "runner.py land payments --recopy && runner.py run payments",
        text.splitlines()[2],
        "a-word-with-hyphens",
    ):
        assert whole in wrapped


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Give what is printed on a terminal of 80 columns."""
    said = io.StringIO()
    for name in ("out", "err"):
        shown = console.SafeConsole(
            file=said, force_terminal=True, no_color=True, width=80, highlight=False
        )
        shown.stderr = name == "err"
        monkeypatch.setattr(console, name, shown)
    yield said


def test_messages_never_break_a_name(terminal: io.StringIO) -> None:
    prose = "It is a sentence with words that go on until the end of the line is reached, then more"
    console.show_warnings([f"{prose} {LONG}.\n  hint:  runner.py repair payments"])
    console.show_notes([f"{prose} {LONG}"])
    console.say(f"{prose} {LONG}")
    console.show_error(NotReady(f"{prose} {LONG}", where=LONG, hint=f"{prose} {LONG}"))
    console.indent(f"{prose} {LONG}", 6)
    console.out.print(f"{prose} {LONG}")
    console.show_quarantined({LONG: 3})
    for line in plain_text(terminal).splitlines():
        assert len(line) <= 80 or LONG in line, line
    shown = console.table("name", ">rows", "another name")
    shown.add_row(LONG, "1,000", "a name with words")
    shown.add_row(Text(LONG), "1,000", LONG)
    console.out.print(shown)
    assert plain_text(terminal).count(LONG) == 12


def test_table_of_long_words_beside_prose_fits(terminal: io.StringIO) -> None:
    rows = console.table("setting", "value", "from")
    rows.add_row("services.communication.replication_url", Text("a database, " * 9), "default")
    console.out.print(rows)
    assert max(map(len, plain_text(terminal).splitlines())) <= 80


def test_warning_that_is_about_no_row_is_told_with_what_fixes_it(terminal: io.StringIO) -> None:
    warnings = ["parity_a__b: Got 7 results, configured to warn if != 0", "no cache: paste: this;"]
    tests = SimpleNamespace(warned=1)
    built = SimpleNamespace(tables={}, mirror={}, tests=tests, warnings=warnings)
    done = SimpleNamespace(
        service=PAYMENTS, built=built, seconds=1.0, provisioned=SimpleNamespace(notes=[])
    )
    show_run(cast(RunReport, SimpleNamespace(services=[done])))
    said = plain_text(terminal)
    assert "payments            7  parity_a__b\n" in said
    assert "warning: payments: no cache: paste: this;\n" in said


def plain_text(terminal: io.StringIO) -> str:
    """Give what a terminal shows, without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())


def test_status_breaks_lines_between_words_on_a_terminal(verified: Split) -> None:
    with verified.monolith() as monolith:
        monolith.execute("alter table blytz_hire.payments add column novel text")
    plain = verified.process("status", "payments")
    shown = on_terminal(verified, "status", "payments")
    assert "novel" in plain.stdout
    lines = shown.replace("\r", "").splitlines()
    assert lines and all(len(line) <= 80 for line in lines), shown
    # Each word that a file would get is there, whole; figures may have changed meanwhile.
    names = {word for word in plain.stdout.split() if not re.search(r"\d", word)}
    assert names <= set(shown.split())


def on_terminal(split: Split, *arguments: str) -> str:
    """Run a command on a terminal of 80 columns; give what it shows there."""
    ours, its = pty.openpty()
    with subprocess.Popen(
        [sys.executable, str(ROOT / "runner.py"), *arguments],
        env={**split.environ, "COLUMNS": "80", "TERM": "xterm", "NO_COLOR": "1"},
        cwd=ROOT,
        stdin=its,
        stdout=its,
        stderr=subprocess.DEVNULL,
    ) as running:
        os.close(its)
        said = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the terminal is closed: all is read
                break
            if not part:
                break
            said += part
        running.wait()
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode())


# Progress


def test_log_tells_of_a_step_when_it_begins_and_when_it_ends(split: Split, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as file:
        done = subprocess.run(
            [sys.executable, str(ROOT / "runner.py"), "provision", "payments"],
            env=dict(split.environ),
            cwd=ROOT,
            stderr=file,
        )
        assert done.returncode == 0
        done = subprocess.run(
            [sys.executable, str(ROOT / "runner.py"), "land", "payments"],
            env=dict(split.environ),
            cwd=ROOT,
            stderr=file,
        )
    assert done.returncode == 0
    begun, ended = [line for line in log.read_text().splitlines() if "land" in line]
    assert MOMENT.match(begun) and begun.endswith("Z payments: land")
    assert MOMENT.match(ended) and re.search(r"payments: land: done after .*: [\d,]+ rows", ended)


def test_log_tells_how_far_a_long_step_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(progress, "LINES_APART_SECONDS", 0.0)
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.01)
    shown = console.SafeConsole(stderr=True)
    with progress.watching(shown, lines.append) as steps:
        with steps.step("payments: land") as step:
            step.say("1,000 rows")
            until(lambda: any("so far: 1,000 rows" in line for line in lines))
        with steps.step("payments: verify") as step:
            step.fail("3 differ")
        with pytest.raises(ZeroDivisionError), steps.step("payments: build") as step:
            step.say("7 done")
            raise ZeroDivisionError
    said = [MOMENT.sub("", line) for line in lines]
    assert said[0] == "payments: land"
    ends = [line for line in said if " after " in line]
    assert [line.partition(" after ")[0] for line in ends] == [
        "payments: land: done",
        "payments: verify: found something wrong",
        "payments: build: failed",
    ]
    assert ends[1].endswith(": 3 differ")


@pytest.mark.parametrize("errors", ["2>&1 >/dev/null | true", "2>/dev/full"])
def test_work_goes_on_if_its_progress_can_not_be_written(landed: Split, errors: str) -> None:
    command = f"'{sys.executable}' runner.py abort payments {errors}"
    subprocess.run(["bash", "-c", command], env=dict(landed.environ), cwd=ROOT)
    with landed.monolith() as monolith:
        ended = "select outcome, detail ->> 'unfinished' from split.ledger where step = 'abort'"
        assert monolith.execute(ended).fetchall() == [("done", None)]
        assert monolith.execute("select count(*) from split.states").fetchone() == (0,)


# Followers


class Clock:
    """A clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Give the lines printed since the last call, without their times, which each has."""
    lines = capsys.readouterr().out.splitlines()
    assert all(MOMENT.match(line) for line in lines), lines
    return [MOMENT.sub("", line) for line in lines]


def test_followers_in_different_conditions_look_different(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Following(as_json=False, max_lag=60, clock=clock)

    def tick(seconds: float, **said: Any) -> list[str]:
        clock.now += seconds
        shown.tick(Tick(PAYMENTS, **{"lag_seconds": 0.5, **said}))
        return lines_of(capsys)

    assert tick(0, lag_seconds=3600.0) == []  # nobody has followed for an hour
    assert tick(0) == ["payments_db: idle, 0.50 s behind"]
    assert tick(30) == []
    assert tick(30) == ["payments_db: idle, 0.50 s behind"]  # once a minute
    assert tick(1, rows=7) == []
    assert tick(9, rows=1007) == ["payments_db: 1,007 rows, 0.50 s behind"]
    (lags,) = tick(10, rows=1008, lag_seconds=61.0, pending=12000, lag_bytes=2**20)
    assert lags == (
        "payments_db: lags: 61 s behind, 12,000 changes pending, 1.0 MB on its way;"
        " 1,008 rows so far"
    )
    assert tick(0.1, rows=1008, trouble="no room") == ["payments_db: no room"]
    assert tick(0.1, rows=1008, trouble="no room") == []
    assert tick(60, rows=1008, trouble="no room") == ["payments_db: no room"]  # it goes on
    assert tick(0.1, rows=1008) == ["payments_db: idle, 0.50 s behind"]  # at once
    clock.now += following.HUNG_AFTER_SECONDS + 1
    shown.look()
    (hung,) = lines_of(capsys)
    assert hung.startswith("payments_db: hangs: no answer for 31 s")
    clock.now += 1
    shown.look()
    assert lines_of(capsys) == []
    assert tick(1, rows=1008) == ["payments_db: idle, 0.50 s behind"]


def test_follower_that_never_answers_is_told_of(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with following.following([PAYMENTS], as_json=False, max_lag=60) as shown:
        shown.clock = clock
        shown.followers[PAYMENTS.database].at = clock.now
        shown.look()
        assert lines_of(capsys) == []
        clock.now += following.HUNG_AFTER_SECONDS + 1
        shown.look()
        assert "hangs: no answer for 31 s" in lines_of(capsys)[0]


@pytest.mark.slow
def test_frozen_follower_is_told_of_and_goes_on(living: Split) -> None:
    asked = (
        "select pid from pg_stat_activity where datname = 'payments_db'"
        " and backend_type = 'client backend' and pid <> pg_backend_pid()"
    )
    with living.start("sync", "payments", "--follow") as follower:
        assert follower.stdout is not None
        assert "payments_db: idle" in follower.stdout.readline()
        with psycopg.connect(living.connections.urls["payments_db"]) as own:
            pids = [pid for (pid,) in own.execute(asked).fetchall()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            while "hangs: no answer" not in (said := follower.stdout.readline()):
                assert said, "it has ended"
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        assert "hangs" not in follower.stdout.readline()
        follower.send_signal(signal.SIGINT)
        assert follower.wait(30) == 0


# Lag


def test_lag_after_dbt_has_synced_is_the_mirrors(living: Split) -> None:
    with living.service("payments_db") as database:
        # As after a sync by dbt alone: the last heartbeat came long ago.
        database.execute(
            "update split.service set as_of = now() - interval '1 hour', synced_at = now()"
        )
    shown = living.runner("status", "payments")
    assert shown.returncode == 0, shown.stdout
    assert "60 min" not in shown.stdout


def test_lag_above_the_limit_is_a_warning(living: Split) -> None:
    with living.monolith() as monolith:
        monolith.execute("update blytz_hire.payments set status = 'late'")
    arrived = "select count(*) > 0 from split.changes"
    with living.service("payments_db") as database:
        until(lambda: database.execute(arrived).fetchone() == (True,))
        database.execute("update split.service set as_of = now() - interval '1 hour'")
    shown = living.runner("status", "payments")
    assert shown.returncode == NotReady.exit_code
    assert re.search(
        r"payments_db is up to 60 min behind, and \d+ changes wait to be applied; the limit is"
        r" 300 s\.",
        shown.stdout,
    )
    assert "hint:  runner.py sync payments --follow" in shown.stdout
    assert living.runner("status", "payments", "--max-lag", "2h").returncode == 0
    assert living.runner("status", "payments", BLYTZ_HIRE_MAX_LAG="2h").returncode == 0
    refused = living.runner("status", "payments", BLYTZ_HIRE_MAX_LAG="soon")
    assert refused.returncode == NotReady.exit_code
    assert "BLYTZ_HIRE_MAX_LAG is 'soon', which is no length of time." in refused.stderr
    assert living.runner("sync", "payments").returncode == 0
    assert living.runner("status", "payments").returncode == 0
