"""A share of users reads a service before the switch, as the real OpenFeature SDKs tell them."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import psycopg
import pytest
from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.evaluation_context import EvaluationContext

from pgsplit.cli.commands.rollout import LOOKS_THAT_COUNT
from pgsplit.routing import flags
from tests.support.node import application as node_application
from tests.support.serving import application
from tests.support.split import Split
from tests.support.switching import PAYMENTS, as_service, move, ran, words
from tests.support.waiting import until

SERVICE, ROUTED = "PAYMENTS_SERVICE_URL", "PAYMENTS_READ_URL"
USERS = [f"user-{one}" for one in range(1000)]


def python_says(flag: str) -> list[str]:
    client = api.get_client()
    return [client.get_string_value(flag, "unknown", EvaluationContext(name)) for name in USERS]


def after_a_change(ask: Callable[[], list[str]], before: Sequence[str]) -> list[str]:
    """Ask until the answers are others, and stay so; an SDK looks at the file now and then."""
    deadline = time.monotonic() + 60
    while True:
        found, again = ask(), ask()
        if found == again != before:
            return found
        assert time.monotonic() < deadline, "the SDK has not seen the change"
        time.sleep(0.1)


def share(answers: Sequence[str]) -> float:
    assert set(answers) <= {SERVICE, ROUTED}
    return Counter(answers)[SERVICE] / len(answers)


@pytest.mark.slow
def test_sdks_of_python_and_node_follow_the_share(
    verified: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(verified, "sync", "payments")  # a share needs a service that has followed lately
    said = words(ran(verified, "rollout", "payments", "--reads", "5%"))
    assert "5% of users read payments_db; it was 0%. Flag payments-reads in" in said
    file = flags.file(verified.connections)
    monkeypatch.setenv("FLAGD_OFFLINE_POLL_MS", "50")
    api.set_provider_and_wait(
        FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path=str(file))
    )
    node = node_application(tmp_path / "app").start("flags.mjs", str(file), "payments-reads")
    assert node.stdin and node.stdout

    def node_says() -> list[str]:
        assert node.stdin and node.stdout
        node.stdin.write("\n")
        node.stdin.flush()
        answers: list[str] = json.loads(node.stdout.readline())
        return answers

    try:
        few = python_says("payments-reads")
        assert few == node_says(), "both hash users alike"
        assert 0.02 < share(few) < 0.09
        client = api.get_client()
        assert client.get_string_value("payments-reads", "unknown") == ROUTED, "without a user"

        ran(verified, "rollout", "payments", "--reads", "25%")
        many = after_a_change(lambda: python_says("payments-reads"), few)
        assert many == after_a_change(node_says, few)
        assert 0.19 < share(many) < 0.31
        assert all(now == SERVICE for was, now in zip(few, many, strict=True) if was == SERVICE)

        for percent in (100, 0):
            before = python_says("payments-reads")
            ran(verified, "rollout", "payments", "--reads", f"{percent}%")
            now = after_a_change(lambda was=before: python_says("payments-reads"), before)
            assert share(now) == percent / 100
    finally:
        node.kill()
        node.communicate()
        api.shutdown()


def test_only_what_follows_is_rolled_out_and_everything_goes_back(verified: Split) -> None:
    path = flags.file(verified.connections)
    path.write_text('{"flags": {"dark-mode": {"state": "ENABLED"}}}')
    with verified.service("payments_db") as database:
        database.execute("update split.service set as_of = now() - interval '1 hour'")
    refused = verified.runner("rollout", "payments", "--reads", "5")
    assert refused.returncode == 4
    assert re.search(r"payments_db is \d+ min behind", words(refused.stderr)), refused.stderr
    assert "runner.py sync payments --follow" in refused.stderr
    assert "0% of users read payments_db." in words(ran(verified, "rollout", "payments"))
    ran(verified, "sync", "payments")
    ran(verified, "rollout", "payments", "--reads", "40%")
    assert json.loads(path.read_text())["flags"]["dark-mode"] == {"state": "ENABLED"}

    # A smaller share needs no server.
    down = {"BLYTZ_HIRE_URL": "postgresql://nobody@127.0.0.1:1/blytz_hire"}
    back = verified.runner("rollout", "payments", "--reads", "10%", **down)
    assert back.returncode == 0, back.stderr
    assert "10% of users read payments_db; it was 40%." in words(back.stdout)
    assert "The ledger doesn't know it" in words(back.stdout + back.stderr)
    more = verified.runner("rollout", "payments", "--reads", "11%", **down)
    assert more.returncode == 3
    assert flags.share(PAYMENTS, verified.connections) == 10

    early = verified.runner("rollout", "users", "--reads", "5%")
    assert early.returncode in (3, 4) and "runner.py " in early.stderr, early.stderr
    odd = verified.runner("rollout", "payments", "--reads", "101%")
    assert odd.returncode == 2 and "no share from 0% to 100%" in words(odd.stderr)

    ran(verified, "switch", "payments", "--no-backup")
    switched = verified.runner("rollout", "payments", "--reads", "50%")
    assert switched.returncode == 4
    assert "it is the source of truth already" in words(switched.stderr)
    ran(verified, "rollback", "payments")
    ran(verified, "abort", "payments", "--yes")
    assert list(json.loads(path.read_text())["flags"]) == ["dark-mode"]

    path.write_text("{")
    strange = verified.runner("rollout", "payments")
    assert strange.returncode == 4
    assert "The flags can't be understood" in words(strange.stderr)


@pytest.mark.slow
def test_users_are_sent_back_once_the_service_is_unhealthy(verified: Split, tmp_path: Path) -> None:
    notices = tmp_path / "notices"
    ran(verified, "sync", "payments")
    assert "there is nothing to guard" in ran(verified, "rollout", "payments", "--guard")
    refused = verified.runner("rollout", "payments", "--guard", "--json")
    assert refused.returncode == 2 and "exclude each other" in refused.stderr
    with verified.start(
        *("rollout", "payments", "--reads", "30%", "--guard"),
        BLYTZ_HIRE_NOTIFY=f"cat > {notices}",
    ) as guard:
        assert guard.stdout
        while "Guarding" not in (said := guard.stdout.readline()):
            assert said, "it has ended"
        assert flags.share(PAYMENTS, verified.connections) == 30
        with verified.service("payments_db") as database:
            database.execute("alter subscription split_payments_db disable")
        said = words(guard.stdout.read())
        assert guard.wait(60) == 4, said
    assert "All users of payments were sent back: Somebody has paused replication" in said
    assert "runner.py rollout payments --reads 30% --guard" in said
    assert flags.share(PAYMENTS, verified.connections) == 0
    assert json.loads(notices.read_text())["event"] == "rollout"

    # Once it is switched, a guard that is left running sends nobody anywhere.
    with verified.service("payments_db") as database:
        database.execute("alter subscription split_payments_db enable")
    ran(verified, "rollout", "payments", "--reads", "30%")
    move(verified, "switch")
    with application() as app:
        app.says = (503, "down")
        start = partial(verified.start, "rollout", "payments", "--guard")
        with start(PAYMENTS_HEALTH_URL=app.url) as guard:
            until(lambda: app.asked > LOOKS_THAT_COUNT + 1)
            assert flags.share(PAYMENTS, verified.connections) == 30
            ran(verified, "rollout", "payments", "--reads", "0%")
            assert guard.wait(60) == 0


def test_service_waits_for_what_was_written_in_the_monolith(verified: Split) -> None:
    with verified.monolith() as monolith, as_service(verified) as service:
        monolith.execute("update blytz_hire.payments set status = 'rolled out'")
        written = monolith.execute("select clock_timestamp()").fetchone()
        assert written
        asked = "select wait_for(%s, '10 ms')"
        assert service.execute(asked, written).fetchone() == (False,)
        ran(verified, "sync", "payments")
        assert service.execute(asked, written).fetchone() == (True,)
        found = service.execute("select distinct status from payments").fetchall()
        assert found == [("rolled out",)]
        with service.transaction():
            service.execute("set transaction isolation level repeatable read")
            with pytest.raises(psycopg.errors.ActiveSqlTransaction, match="sees no news"):
                service.execute(asked, written)
            raise psycopg.Rollback
