"""The tests' own PostgreSQL servers: the embedded one, and Debian's PostgreSQL 15."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg import sql

from pgsplit.postgres import embedded
from pgsplit.postgres.connect import with_database
from tests.support.run_folder import is_at_work, short_folder
from tests.support.waiting import until

PASSWORD = "a p@ss/word?%"
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
OLD_SETTINGS = {
    "wal_level": "logical",
    "fsync": "off",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    "max_worker_processes": "30",
    "max_logical_replication_workers": "20",
    "wal_retrieve_retry_interval": "100ms",
}


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server: its superuser's URL over the socket, and over TCP with a password."""

    socket: str
    tcp: str

    def execute(self, statement: str | sql.Composed) -> list[tuple[Any, ...]]:
        """Run one statement in the maintenance database; give its rows."""
        with psycopg.connect(self.socket, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


def free_port() -> int:
    """Find a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def over_tcp(port: str) -> Callable[[str], str]:
    """Give a function that makes the superuser's URL of one of a server's databases."""
    base = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    return lambda database: with_database(base, database, password=PASSWORD)


@dataclass(frozen=True)
class Cluster:
    """A server that a test can crash and start again: its files, its URLs, how to start it."""

    data: Path
    server: Server
    url: Callable[[str], str]
    start: Callable[[], object]

    def crash(self) -> None:
        """Stop it as `pg_ctl -m immediate` does, and let it recover."""
        end_at_once(self.data)
        self.start()


def end_at_once(data: Path) -> None:
    """End the server of a data directory as a crash would, with no checkpoint."""
    head = psutil.Process(int((data / "postmaster.pid").read_text().splitlines()[0]))
    everybody = [head, *head.children()]
    head.send_signal(signal.SIGQUIT)
    until(lambda: not any(map(is_at_work, everybody)))


@contextmanager
def newest(folder: Path) -> Iterator[Cluster]:
    """Run the embedded server in a folder, reachable over TCP with the password."""
    folder.mkdir()
    port = str(free_port())

    def start() -> object:
        settings = {"listen_addresses": "127.0.0.1", "port": port, "fsync": "off"}
        return embedded.start(folder, settings)

    start()
    try:
        url = embedded.url(folder, "postgres")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"alter role postgres password '{PASSWORD}'")
        tcp = over_tcp(port)
        yield Cluster(folder / ".postgres" / "data", Server(url, tcp("postgres")), tcp, start)
    finally:
        embedded.wipe(folder)


@contextmanager
def oldest() -> Iterator[Cluster]:
    """Run Debian's PostgreSQL 15, the oldest supported, reachable over TCP with the password."""
    if not (DEBIAN_15 / "postgres").exists():
        pytest.skip("PostgreSQL 15 is not installed; apt-get install postgresql-15")
    home = short_folder("15-")
    (home / "password").write_text(PASSWORD)
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        shutil.chown(home, user)
        shutil.chown(home / "password", user)

    def run(program: str, *options: str) -> None:
        command = [str(DEBIAN_15 / program), "-D", str(home / "data"), *options]
        subprocess.run(command, check=True, user=user, cwd=home, stdout=subprocess.DEVNULL)

    port = str(free_port())
    settings = {**OLD_SETTINGS, "listen_addresses": "127.0.0.1", "port": port}
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())

    def start() -> None:
        run("pg_ctl", "-w", "-l", str(home / "log"), "-o", f"{options} -k {home}", "start")

    access = ("-A", "scram-sha-256", "--pwfile", str(home / "password"))
    run("initdb", "-U", "postgres", *access, "-E", "UTF8", "--no-locale")
    start()
    try:
        tcp = over_tcp(port)
        yield Cluster(home / "data", Server(tcp("postgres"), tcp("postgres")), tcp, start)
    finally:
        run("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(home)
