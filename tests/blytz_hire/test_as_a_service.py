"""A follower under a service manager, and whom it and the runner tell what happens."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kubernetes_validate
import psycopg
import pytest
import yaml

from demo.project import ROOT
from pgsplit.base.errors import NotReady
from pgsplit.base.notices import Notice, Notifier
from pgsplit.cli.alarms import PASSING_SECONDS, Alarms, Condition, Report
from pgsplit.cli.reload import reloadably
from pgsplit.project.endpoints import Connections
from tests.support.split import Split
from tests.support.waiting import until

EXAMPLES = ROOT / "examples" / "follower"
SESSIONS = """
    select pid from pg_stat_activity where datname = 'payments_db'
    and backend_type = 'client backend' and pid <> pg_backend_pid()
"""


class Manager:
    """The service manager's end of the socket, and all that was said to it."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.said: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while said := self.socket.recv(65536).decode():
            self.said.append(said)

    def count(self, word: str) -> int:
        return sum(word in said.splitlines() for said in self.said)


@contextmanager
def webhook(answer: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve a webhook; give its URL, and what it is told."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answer)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/secret-path", told
        server.shutdown()


@pytest.mark.slow
def test_follower_tells_its_service_manager_and_its_people(living: Split, tmp_path: Path) -> None:
    manager, notices = Manager(tmp_path / "manager"), tmp_path / "notices"
    environ = {
        "NOTIFY_SOCKET": str(tmp_path / "manager"),
        "BLYTZ_HIRE_NOTIFY": f"cat >> {notices}; echo >> {notices}",
    }
    with living.start("sync", "payments", "--follow", **environ) as follower:
        until(lambda: manager.count("READY=1") == 1 and manager.count("WATCHDOG=1") > 1)
        assert any("STATUS=payments_db: idle" in said for said in manager.said)
        follower.send_signal(signal.SIGHUP)
        # Ready with the new settings, and again once each follower has begun.
        until(lambda: manager.count("RELOADING=1") == 1 and manager.count("READY=1") > 2)
        with psycopg.connect(living.connections.urls["payments_db"]) as own:
            pids = [pid for (pid,) in own.execute(SESSIONS).fetchall()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: notices.exists() and "hangs" in notices.read_text(), 90)
            assert "WATCHDOG=1" not in manager.said[-1]
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        until(lambda: len(notices.read_text().splitlines()) == 2)
        assert "WATCHDOG=1" in manager.said[-1]
        follower.send_signal(signal.SIGTERM)
        assert follower.wait(30) == 0
    until(lambda: manager.count("STOPPING=1") == 1)
    trouble, recovered = map(json.loads, notices.read_text().splitlines())
    assert (trouble["event"], trouble["condition"]) == ("trouble", "hung")
    assert trouble["text"].startswith("payments_db: hangs: no answer for 3")
    assert (recovered["event"], recovered["service"]) == ("recovered", "payments_db")


def test_only_trouble_that_lasts_is_told(tmp_path: Path) -> None:
    told: list[Notice] = []
    notifier = Notifier("", "")
    notifier.send = told.append  # type: ignore[method-assign]
    now = [1000.0]
    alarms = Alarms(notifier, lambda: now[0])

    def look(condition: Condition, after: float = 1.0) -> list[str]:
        now[0] += after
        alarms.look({"one_db": Report(condition, condition.value, True)})
        found = [f"{one.event} {one.text}" for one in told]
        told.clear()
        return found

    assert look(Condition.TROUBLE) == look(Condition.IDLE) == []
    assert look(Condition.LAGS) == []
    assert look(Condition.TROUBLE, PASSING_SECONDS) == ["trouble one_db: trouble"]
    assert look(Condition.HUNG) == []
    assert look(Condition.WORKS) == ["recovered one_db: works"]


def test_teams_are_told_of_new_states_and_of_failures(verified: Split) -> None:
    with webhook() as (url, told):
        environ = {"BLYTZ_HIRE_NOTIFY_URL": url}
        done = verified.runner("switch", "payments", "--no-backup", **environ)
        assert done.returncode == 0, done.stderr
        (switched,) = told
        assert switched["text"] == "payments_db is switched now"
        assert (switched["event"], switched["state"], switched["operation"]) == (
            ("state", "switched", "switch")
        )
        assert set(switched["by"]) == {"operator", "host", "commit"}
        with verified.monolith() as monolith:
            monolith.execute("set session_replication_role = replica")
            monolith.execute("update blytz_hire.payments set status = 'tampered'")
        whole = verified.runner("verify", "payments", "--whole", **environ)
        assert whole.returncode == 9
        assert [one["event"] for one in told[1:]] == ["failed"]
        assert told[1]["text"].startswith("verify of payments_db")
    with webhook(500) as (url, told):
        done = verified.process("rollback", "payments", BLYTZ_HIRE_NOTIFY_URL=url)
        assert done.returncode == 0, "nobody's webhook stops a rollback"
        assert told and "The webhook for notices can't be told: HTTP Error 500" in done.stderr
        assert "secret-path" not in done.stderr
    broken = {"BLYTZ_HIRE_NOTIFY": "echo no such pager; false"}
    done = verified.process("verify", "payments", **broken)
    assert "The command for notices ended with exit code 1: no such pager" in done.stderr


def test_settings_are_read_again_and_wrong_ones_are_not_used(
    living: Split, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = NotReady("max_lag is 'soon', which is no length of time.")
    given: list[Connections | NotReady] = [living.connections, wrong, living.connections]
    seen = []

    def read() -> Connections:
        found = given.pop(0)
        if isinstance(found, NotReady):
            raise found
        return found

    def work(connections: Connections) -> None:
        seen.append(connections)
        if given:
            os.kill(os.getpid(), signal.SIGHUP)
            signal.pause()

    before = signal.getsignal(signal.SIGHUP)
    reloadably(read, work)
    assert len(seen) == 3, "first, with the former settings, with the new ones"
    assert "The settings are as before. max_lag is 'soon'" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGHUP) == before


def test_status_is_watched(living: Split) -> None:
    refused = living.runner("status", "--watch", "--json")
    assert refused.returncode == 2 and "exclude each other" in refused.stderr
    with living.start("status", "payments", "--watch", "0.5s") as watching:
        assert watching.stdout
        assert "Z payments_db: built, follows" in watching.stdout.readline()
        with living.service("payments_db") as database:
            database.execute("alter subscription split_payments_db disable")
        assert "Z payments_db: built, paused" in (said := watching.stdout.readline()), said
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 0


def test_examples_for_service_managers_are_right() -> None:
    documents = [*yaml.safe_load_all((EXAMPLES / "kubernetes" / "follower.yml").read_text())]
    for document in documents:
        kubernetes_validate.validate(document, "1.33", strict=True)
    compose = yaml.safe_load((EXAMPLES / "compose.yml").read_text())["services"]["follower"]
    assert (EXAMPLES / compose["build"]["context"] / compose["build"]["dockerfile"]).is_file()
    known = ROOT / "pgsplit" / "cli" / "commands"
    commands = [compose["command"]]
    commands += [one["args"] for one in documents[0]["spec"]["template"]["spec"]["containers"]]
    for command in commands:
        assert (known / f"{command[0]}.py").is_file(), command
    unit = (EXAMPLES / "systemd" / "pgsplit-follow.service").read_text()
    assert (
        "Type=notify\n" in unit and "ExecStart=/srv/split/.venv/bin/python runner.py sync" in unit
    )


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_unit_is_right(tmp_path: Path) -> None:
    text = (EXAMPLES / "systemd" / "pgsplit-follow.service").read_text()
    unit = tmp_path / "pgsplit-follow.service"
    unit.write_text(text.replace("/srv/split/.venv/bin/python", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_manager_that_does_not_listen_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    alarms = Alarms(Notifier("", ""))
    alarms.look({"one_db": Report(Condition.IDLE, "idle", True)})
    assert alarms.is_ready
