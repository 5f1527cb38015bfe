"""`metrics`: what Prometheus gets, and that alerts and dashboard work with it.

Prometheus and promtool are Debian's. Alerts are judged by promtool on what the exporter really gave
in states that were caused on purpose; moments are moved, since promtool's clock begins at 0.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from demo.project import ROOT
from pgsplit.base.errors import BuildFailed, DataDiffers, NotReady
from tests.support.following import Follower
from tests.support.servers import free_port
from tests.support.serving import application, get, served
from tests.support.split import Split
from tests.support.switching import move, ran
from tests.support.tampering import DROP_SLOT, MAKE_SLOT
from tests.support.waiting import until

MONITORING = ROOT / "examples" / "monitoring"
ALERTS = {
    rule["alert"]
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
BACK = "split_payments_db_back"
OF_PAYMENTS = 'service="payments_db"'
MINUTE, HOUR = 60, 3600

# By series: its value, and by how much it grows each second.
Series = Mapping[str, tuple[float, float]]

# What was broken, and the alerts that fire then, and no others.
FIRE = {
    "wrong": {"NotProven", "TotalsDiffer", "ParityBroken", "FollowerSilent"},
    "broken": {
        *("WritersBlocked", "OperationInterrupted", "StreamBroken", "StreamStopped", "SlotWal"),
        *("FollowerSilent", "SyncFailing", "Lag", "StreamLag", "PageDown"),
    },
    "given up": {
        *("WritersBlocked", "OperationInterrupted", "StreamBroken", "StreamStopped"),
        *("StreamIncomplete", "SlotWalGoes", "FollowerSilent", "SyncFailing", "PageDown"),
    },
    "down": {"DatabaseDown", "OperationInterrupted", "PageDown"},
    "old": {"ProofOld"},
    "nothing": {"ExporterGone"},
}

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")),
    reason="Prometheus is not installed; apt-get install prometheus",
)


def samples(text: str) -> dict[str, float]:
    """Read what an exporter gives, by series."""
    found = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(one.labels.items()))
            found[f"{one.name}{{{labels}}}" if labels else one.name] = one.value
    return found


def series(text: str, later: str = "") -> Series:
    """Give a scrape of just now as series that begin at 0; of a moment, how it moves, too."""
    now, before = time.time(), samples(text)
    after = samples(later) if later else before
    found = {}
    for name, value in before.items():
        is_moment = "_timestamp_seconds" in name
        moves = is_moment and after.get(name, value) != value
        found[name] = (value - now if is_moment else value, 1.0 if moves else 0.0)
    return found


def case(name: str, given: Series, alerts: set[str], step: int = MINUTE, at: int = 10) -> Any:
    """Write a test for promtool: the alerts that fire after some steps, and no others."""
    return {
        "name": name,
        "interval": f"{step}s",
        "input_series": [
            {"series": one, "values": f"{value:.6f}+{slope * step:.6f}x{at}"}
            for one, (value, slope) in given.items()
        ],
        "promql_expr_test": [
            {
                "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{at * step}s",
                "exp_samples": [
                    {"labels": f'{{alertname="{one}"}}', "value": 1} for one in sorted(alerts)
                ],
            }
        ],
    }


def judge(cases: list[Any], folder: Path) -> None:
    """Let promtool check the alerts and run tests of them."""
    rules, tests = MONITORING / "alerts.yml", folder / "tests.yml"
    tests.write_text(
        json.dumps({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": cases})
    )
    for command in (["check", "rules", str(rules)], ["test", "rules", str(tests)]):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def prometheus(exporter: str, folder: Path) -> Iterator[str]:
    """Run Prometheus with the example's configuration, but faster; give where it answers."""
    text = (MONITORING / "prometheus.yml").read_text()
    text = text.replace("127.0.0.1:9187", exporter.removeprefix("http://"))
    text = text.replace("15s", "500ms").replace("- alerts.yml", f"- {MONITORING}/alerts.yml")
    (folder / "prometheus.yml").write_text(text)
    at = f"127.0.0.1:{free_port()}"
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={at}",
            ],
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            until(lambda: "Server is ready" in (folder / "log").read_text())
            yield f"http://{at}"
        finally:
            process.terminate()


def answer(at: str, page: str, **parameters: str) -> Any:
    """Ask Prometheus' HTTP API."""
    status, said = get(f"{at}/api/v1/{page}?{urllib.parse.urlencode(parameters)}")
    assert status == 200, said
    return json.loads(said)["data"]


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Give each query of the dashboard with its panel, for all services."""
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$service", ".*")


def assert_dashboard_and_alerts_work(at: str) -> None:
    """Each query of the dashboard has data, and each alert can be judged."""
    queries = dict.fromkeys(query for _, query in dashboard_queries())
    lacking = set(queries)

    def all_have_data() -> bool:
        lacking.difference_update(
            [one for one in lacking if answer(at, "query", query=one)["result"]]
        )
        return not lacking

    until(all_have_data)
    rules = answer(at, "rules")["groups"][0]["rules"]
    until(lambda: all(one["health"] == "ok" for one in answer(at, "rules")["groups"][0]["rules"]))
    assert {one["name"] for one in rules} == ALERTS
    assert not [one["name"] for one in rules if one["state"] == "firing"]


def keep_wal(split: Split) -> None:
    """Let a slot that nobody reads come near the most WAL that may be kept."""
    limit = 112 * 2**20
    split.server.execute(f"alter system set max_slot_wal_keep_size = {limit // 2**20}")
    split.server.execute("select pg_reload_conf()")
    kept = (
        "select pg_current_wal_lsn() - restart_lsn from pg_replication_slots"
        f" where slot_name = '{BACK}'"
    )
    while split.server.execute(kept)[0][0] < 0.8 * limit:
        split.server.execute("select pg_logical_emit_message(false, 'fills', 'a segment')")
        split.server.execute("select pg_switch_wal()")


def break_all(split: Split) -> None:
    """Break all that alerts are for and that can be broken at once."""
    with split.monolith() as monolith, split.service("payments_db") as payments:
        monolith.execute(f"alter subscription {BACK} disable")
        name = "split_payments_db"
        monolith.execute(DROP_SLOT.format(name=name))
        monolith.execute("update blytz_hire.users set email = email")  # nobody sends this
        monolith.execute(MAKE_SLOT.format(name=name))
        ran(split, "status", "payments", code=NotReady.exit_code)  # which finds that out
        payments.execute(
            "alter table blytz_hire.payments add constraint nothing check (false) not valid"
        )
        payments.execute("update payments_db.payments set status = status || '!'")
        ran(split, "sync", "payments", code=BuildFailed.exit_code)
        payments.execute("update split.gates set is_open = false, opens_at = null")
        monolith.execute(
            "update split.ledger set detail = detail ||"
            " jsonb_build_object('closed_at', (now() - interval '1 minute')::text)"
            " where step = 'switch: close'"
        )
        monolith.execute(
            "insert into split.ledger (service, step, intent) values ('payments_db', 'abort', '{}')"
        )
    keep_wal(split)


def with_wrong_proofs(split: Split) -> Series:
    """Let all comparisons fail, and then succeed; give the metrics in between."""
    with split.service("payments_db") as payments:
        row = payments.execute("select id, sender_id from payments_db.payments order by id limit 1")
        key, sender = row.fetchone() or ("", "")
    changed = "update payments_db.payments set sender_id = %s where id = %s"
    split.replicate("payments_db", changed, "ghost", key)
    for command in ("totals", "verify", "parity"):
        ran(split, command, "payments", code=DataDiffers.exit_code)
    found = series(split.runner("metrics").stdout)
    split.replicate("payments_db", changed, sender, key)
    for command in ("totals", "verify", "parity"):
        ran(split, command, "payments")
    return found


@pytest.mark.slow
@needs_prometheus
def test_alerts_fire_when_they_should_and_the_dashboard_has_data(
    verified: Split, tmp_path: Path
) -> None:
    split = verified
    wrong = with_wrong_proofs(split)
    move(split, "switch")
    with application() as app:
        split = replace(split, environ={**split.environ, "PAYMENTS_HEALTH_URL": app.url})
        with served(split, "metrics") as at, Follower(split):
            well = f"pgsplit_service_healthy{{{OF_PAYMENTS}}}"
            until(lambda: samples(get(f"{at}/metrics")[1])[well])
            seen = f"pgsplit_follower_seen_timestamp_seconds{{{OF_PAYMENTS}}}"
            first = get(f"{at}/metrics")[1]
            until(lambda: samples(get(f"{at}/metrics")[1])[seen] > samples(first)[seen])
            healthy = series(get(f"{at}/metrics")[1], first)
            with prometheus(at, tmp_path) as there:
                assert_dashboard_and_alerts_work(there)
        app.says = (503, "no database")
        break_all(split)
        broken = series(split.runner("metrics", BLYTZ_HIRE_MAX_LAG="50ms").stdout)
        split.server.execute("alter system set max_slot_wal_keep_size = '1MB'")
        split.server.execute("select pg_reload_conf()")
        lost = f"select wal_status = 'lost' from pg_replication_slots where slot_name = '{BACK}'"
        until(lambda: split.server.execute("checkpoint") or split.server.execute(lost)[0][0])
        given_up = series(split.runner("metrics").stdout)
        split.server.execute("alter database payments_db allow_connections false")
        down = series(split.runner("metrics").stdout)

    expected = {name: {f"Pgsplit{one}" for one in found} for name, found in FIRE.items()}
    judge(
        [
            case("healthy", healthy, set()),
            case("wrong", wrong, expected["wrong"]),
            case("broken", broken, expected["broken"]),
            case("given up", given_up, expected["given up"]),
            case("down", down, expected["down"]),
            case("old", healthy, expected["old"], step=HOUR, at=8 * 24),
            case("nothing", {}, expected["nothing"]),
        ],
        tmp_path,
    )
    assert set().union(*expected.values()) == ALERTS


def test_textfile_is_replaced_as_a_whole(switched: Split, tmp_path: Path) -> None:
    file = tmp_path / "pgsplit.prom"
    for _ in range(2):
        ran(switched, "metrics", "--textfile", str(file))
        assert [one.name for one in tmp_path.iterdir()] == [file.name]
        found = samples(file.read_text())
    assert found[f'pgsplit_service_state{{pgsplit_service_state="switched",{OF_PAYMENTS}}}'] == 1
    assert f'pgsplit_last_pause_seconds{{operation="switch",{OF_PAYMENTS}}}' in found
    described = (ROOT / "docs" / "metrics.md").read_text()
    names = {re.sub(r"^pgsplit_|\{.*", "", one) for one in found}
    assert names and {one for one in names if f"`{one}`" not in described} == set()
    assert {one for one in ALERTS if f"`{one}`" not in described} == set()
    if shutil.which("promtool"):
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=file.read_text(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    said = ran(switched, "metrics", "--textfile", str(tmp_path / "metrics.txt"), code=2)
    assert "has to end in .prom: node_exporter reads no other" in said
    nowhere = tmp_path / "nowhere" / "pgsplit.prom"
    said = ran(switched, "metrics", "--textfile", str(nowhere), code=NotReady.exit_code)
    assert f"The metrics can't be written: No such file or directory. where: {nowhere}" in said
    assert f"hint: mkdir -p {nowhere.parent}" in said
