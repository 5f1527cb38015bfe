"""Tests leave nothing behind, however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from demo.project import ROOT
from tests.support.run_folder import belonging, is_at_work
from tests.support.waiting import until


def semaphores() -> set[Path]:
    """Find the semaphores that dbt's processes share, where the system keeps them as files."""
    return set(Path("/dev/shm").glob("sem.*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_server_socket_or_folder_outlives_a_run(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, before = tmp_path / "said", semaphores()
    if number == signal.SIGKILL:  # which nothing can prepare for
        monkeypatch.setenv("LINGERS_WITH_DBT", "yes")
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-n", "1", "-q", "tests/support/lingers.py"],
        env={**os.environ, "LINGERS": str(said)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as run:
        until(lambda: said.exists() or run.poll() is not None)
        assert said.exists(), run.communicate()[0]
        folder, *servers, child = said.read_text().splitlines()
        for url in servers:
            psycopg.connect(url).close()
        assert len(belonging(Path(folder))) >= 4  # a worker, two servers, what a test has started
        run.send_signal(number)
        run.communicate()
    until(lambda: not Path(folder).exists())
    assert belonging(Path(folder)) == []
    left = semaphores() - before
    until(lambda: not left & semaphores())  # those of other tests come and go meanwhile
    assert not psutil.pid_exists(int(child)) or not is_at_work(psutil.Process(int(child)))
    assert not Path(str(conninfo_to_dict(servers[0])["host"])).exists()
    for url in servers:
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)
