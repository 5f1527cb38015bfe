"""The throttle: work pauses while writes on the monolith are slow, and people see and change it."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor

import psutil
import psycopg
import pytest

from demo.project import SERVICES_BY_NAME
from pgsplit.base.errors import NotReady
from pgsplit.cli.progress import LoggedSteps
from pgsplit.cli.throttling import Asked, throttled
from pgsplit.postgres.throttle import throttle as module
from pgsplit.postgres.throttle.gate import KEY
from pgsplit.postgres.throttle.priority import LOW
from pgsplit.postgres.throttle.throttle import Throttle
from pgsplit.prove import verify
from pgsplit.state.ledger import open_ledger
from tests.support import schemas
from tests.support.split import Split
from tests.support.waiting import until

PAYMENTS = SERVICES_BY_NAME["payments_db"]
A_WRITE_THAT_TAKES_LONG = "select from split.throttle for update"
# Sessions at work sleep nowhere but in split.breathe(); a long query's text is cut off.
WAITS = """
    select from pg_stat_activity
    where application_name = 'pgsplit at work' and wait_event = 'PgSleep'
"""
OURS = "select from pg_stat_activity where application_name ~ '^pgsplit (throttle|at work)'"


def test_work_pauses_while_a_write_hangs_and_people_see_and_change_it(
    living: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed: list[str] = []
    steps = LoggedSteps(printed.append, printed.append)
    with (
        living.monolith() as application,
        open_ledger(living.connections) as ledger,
        throttled(living.connections, Asked(0.1, False), steps) as slowed,
        ThreadPoolExecutor(1) as beside,
    ):
        throttle = slowed.throttle
        assert isinstance(throttle, Throttle)
        with application.transaction():
            application.execute(A_WRITE_THAT_TAKES_LONG)
            until(lambda: throttle.said.startswith("paused: a write waits for"))
            verifying = beside.submit(verify.verify, PAYMENTS, slowed, ledger)
            status = living.runner("status", "payments")
            assert "throttle: paused: a write waits for" in status.stdout
            shown = schemas.validate(living.runner("throttle", "--json").stdout)
            assert shown["says"].startswith("paused: a write waits for")
            (line,) = (one for one in steps.running if one.what == "throttle")
            assert line.said.startswith("paused: a write waits for")
            assert not verifying.done()
        assert verifying.result().proven

        assert "it is off" in living.runner("throttle", "--off").stdout
        until(lambda: throttle.said == "off")
        assert "may take 50% longer" in living.runner("throttle", "--max-impact", "50%").stdout
        until(lambda: throttle.limits and throttle.limits.max_impact == 0.5)

        with slowed.connect("payments_db") as session:
            until(lambda: _has_low_priority(session, throttle))

        with application.transaction():
            application.execute(A_WRITE_THAT_TAKES_LONG)
            monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
            until(lambda: throttle.failure)
        with pytest.raises(NotReady, match=r"The throttle has paused this for .*a write waits"):
            throttle.wait()
    with living.monolith() as monolith:
        until(lambda: not monolith.execute(OURS).rowcount)
    assert "throttle: done after" in printed[-1] and "paused for" in printed[-1]


def _has_low_priority(session: psycopg.Connection[object], throttle: Throttle) -> bool:
    """Tell whether a session has a low priority, or the throttle says why it can't have."""
    if session.info.host.startswith("/"):
        return psutil.Process(session.info.backend_pid).nice() == LOW
    return throttle.unlowered.get("payments_db", "").endswith("is reached by TCP")


def test_ctrl_c_ends_a_paused_comparison_at_once(living: Split) -> None:
    with living.service("payments_db") as database:
        # As the throttle's own session does while work has to rest.
        database.execute(f"select pg_advisory_lock({KEY})".encode())
        command = ("verify", "payments", "--whole", "--max-impact", "10%")
        with living.start(*command) as verifying:
            try:
                until(lambda: database.execute(WAITS).rowcount)
                verifying.send_signal(signal.SIGINT)
                said, _ = verifying.communicate(timeout=60)
            finally:
                verifying.kill()  # if it still waits
        assert verifying.returncode == 130, said
        assert "stopped; run the same command to continue from here" in said
        until(lambda: not database.execute(OURS).rowcount)
        with living.service("payments_db") as other:
            other.execute("set split.patience = '0'")
            with pytest.raises(psycopg.errors.RaiseException, match="kept this query waiting"):
                other.execute("select split.breathe()")


def test_every_kind_of_work_can_be_throttled(landed: Split) -> None:
    for arguments in (
        ("build", "payments", "--max-impact", "1000%"),
        ("totals", "payments", "--nice"),
        ("land", "payments", "--recopy", "--max-impact", "1000%"),
        ("analyze", "--max-impact", "1000%"),
    ):
        ran = landed.runner(*arguments)
        assert ran.returncode == 0, ran.stderr
        assert "throttle: done after" in ran.stderr
    ran = landed.runner("analyze", BLYTZ_HIRE_MAX_IMPACT="1000%")
    assert "throttle: done after" in ran.stderr


def test_what_makes_no_sense_is_refused(split: Split) -> None:
    with open_ledger(split.connections):
        pass
    refused = split.runner("throttle", "--max-impact", "20%")
    assert refused.returncode == NotReady.exit_code
    assert "No operation runs that has a throttle. Nothing was changed." in refused.stderr
    assert "runner.py run --max-impact 10%" in refused.stderr
    assert json.loads(split.runner("throttle", "--json").stdout)["says"] is None
    assert (
        "--off and --max-impact exclude"
        in split.runner("throttle", "--off", "--max-impact", "1%").stderr
    )
    wrong = split.runner("verify", "--max-impact", "10")
    assert (wrong.returncode, "'10' is not a share such as 10%" in wrong.stderr) == (2, True)
    setting = split.runner("status", BLYTZ_HIRE_MAX_IMPACT="much")
    assert "BLYTZ_HIRE_MAX_IMPACT is 'much', which is no share such as 10%." in setting.stderr
    assert "export BLYTZ_HIRE_MAX_IMPACT=10%" in setting.stderr
