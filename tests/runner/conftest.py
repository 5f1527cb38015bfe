"""Real servers for the tests: one PostgreSQL a worker, and for each test databases of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from migration import demo, embedded
from migration.connections import Connections, resolve, with_database
from migration.services import MONOLITH, ROOT, SERVICES, SERVICES_BY_NAME

PASSWORD = "a p@ss/word?%"
SAMPLE_ROWS = 600


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server of this worker's own: its admin URL over the socket, and over TCP."""

    socket: str
    tcp: str
    version: str

    def execute(self, statement: str | sql.Composed) -> list[tuple[Any, ...]]:
        """Run one statement in the maintenance database; give its rows."""
        with psycopg.connect(self.socket, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


@dataclass(frozen=True)
class Split:
    """A monolith and room for its six services, on one server, for one test."""

    server: Server
    connections: Connections
    environ: Mapping[str, str] = field(repr=False)

    def monolith(self) -> psycopg.Connection[Any]:
        """Connect to the monolith."""
        return self.connections.connect(MONOLITH)

    def service(self, database: str) -> psycopg.Connection[Any]:
        """Connect to a service's database."""
        return self.connections.connect(database)

    def replicate(self, database: str, statement: str, *parameters: object) -> None:
        """Change a mirror as replication does, which no application may."""
        with self.service(database) as connection:
            connection.execute("set session_replication_role = replica")
            connection.execute(statement, parameters)

    def runner(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run runner.py in a process of its own, as a person would."""
        return subprocess.run(
            [sys.executable, str(ROOT / "runner.py"), *arguments],
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            cwd=ROOT,
        )

    def dbt(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run dbt in the project's root, as a person would."""
        return subprocess.run(
            [str(Path(sys.executable).parent / "dbt"), "--no-use-colors", *arguments],
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            cwd=ROOT,
        )


def pytest_report_header() -> list[str]:
    return [f"postgres: embedded {embedded.binary('postgres')}"]


@pytest.fixture(scope="session", autouse=True)
def dbt_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the files of dbt, when a test calls it without runner.py, apart from other workers'."""
    for name in ("target", "logs"):
        variable = f"DBT_{'TARGET' if name == 'target' else 'LOG'}_PATH"
        os.environ[variable] = str(tmp_path_factory.getbasetemp() / "dbt" / name)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("server")
    port = str(free_port())
    settings = {"listen_addresses": "127.0.0.1", "port": port, "fsync": "off"}
    embedded.start(root, settings)
    try:
        url = embedded.url(root, "postgres")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("alter role postgres password {}").format(sql.Literal(PASSWORD))
            )
            version = str(connection.info.server_version)
        tcp = with_database(url, "postgres", host="127.0.0.1", port=port, password=PASSWORD)
        demo.create(with_database(url, "sample"), SAMPLE_ROWS)
        yield Server(url, tcp, version)
    finally:
        embedded.wipe(root)


@pytest.fixture
def split(
    server: Server, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Split]:
    """Give a fresh copy of the sample monolith, and clear away all that a test makes of it."""
    yield from make_split(server, tmp_path, tmp_path_factory.getbasetemp() / "dbt")


@pytest.fixture(scope="module")
def living(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Split]:
    """Give a monolith that payments_db follows; every test leaves the two in step."""
    folder = tmp_path_factory.mktemp("living")
    for split in make_split(server, folder, tmp_path_factory.getbasetemp() / "dbt"):
        result = split.runner("run", "payments")
        assert result.returncode == 0, result.stderr
        yield split


def make_split(server: Server, folder: Path, dbt: Path) -> Iterator[Split]:
    """Copy a server's sample monolith, and clear away all that is made of it.

    The names are always the same, so that dbt, whose files are in a folder that lasts, need not
    parse the project anew for each test.
    """
    server.execute(f"create database {MONOLITH} template sample")
    inherited = {k: v for k, v in os.environ.items() if not k.endswith("_URL")}
    environ = {
        **inherited,
        "BLYTZ_HIRE_URL": with_database(server.socket, MONOLITH),
        "BLYTZ_HIRE_CONNECTIONS": str(folder / "connections"),
        "BLYTZ_HIRE_BACKUPS": str(folder / "backups"),
        "DBT_TARGET_PATH": str(dbt / "target"),
        "DBT_LOG_PATH": str(dbt / "logs"),
        "COLUMNS": "80",
    }
    try:
        yield Split(server, resolve(environ), environ)
    finally:
        for target in (MONOLITH, *SERVICES):
            _drop_subscriptions(server, target)
        server.execute(
            "select pg_terminate_backend(active_pid) from pg_replication_slots where active"
        )
        server.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots")
        for target in (MONOLITH, *SERVICES):
            server.execute(f"drop database if exists {target} with (force)")
        for service in SERVICES_BY_NAME.values():
            for role in (service.login, service.owner, f"{service.role}_reader"):
                server.execute(f"drop role if exists {role}")


def _drop_subscriptions(server: Server, database: str) -> None:
    names = server.execute(
        "select subname from pg_subscription as s inner join pg_database as d on d.oid = s.subdbid"
        f" where d.datname = '{database}'"
    )
    for (name,) in names:
        with psycopg.connect(with_database(server.socket, database), autocommit=True) as inside:
            inside.execute(f"alter subscription {name} disable")
            inside.execute(f"alter subscription {name} set (slot_name = none)")
            inside.execute(f"drop subscription {name}")


def free_port() -> int:
    """Find a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
