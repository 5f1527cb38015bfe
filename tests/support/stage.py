"""The states that tests start from: each is made once a run, kept as a stopped server, and copied.

A copy is a whole server, so it has slots, subscriptions, roles and passwords like the original. It
takes a quarter of a second, and no test sees what another has left behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from demo.project import MONOLITH, PROJECT
from pgsplit.load import sample as demo
from pgsplit.postgres import embedded
from pgsplit.postgres.connect import with_database
from pgsplit.project.endpoints import resolve
from tests.support.servers import PASSWORD, Server, end_at_once, free_port
from tests.support.split import Split
from tests.support.waiting import until

SAMPLE_ROWS = 600


@dataclass(frozen=True)
class State:
    """A state: the one before it, and the commands that lead from there to it."""

    parent: str
    commands: tuple[tuple[str, ...], ...]


NOTHING, SAMPLE = "nothing", "sample"
QUICKLY = ("--no-backup", "--wait-for-write", "0")


def switched(*names: str) -> tuple[tuple[str, ...], ...]:
    """Give the commands that switch some services."""
    return tuple(("switch", name, *QUICKLY) for name in names)


def completed(*names: str) -> tuple[tuple[str, ...], ...]:
    """Give the commands that switch and complete some services, one after the other."""
    return tuple(
        command
        for name in names
        for command in (*switched(name), ("complete", name, "--no-backup"))
    )


STATES = {
    NOTHING: State("", ()),
    SAMPLE: State(NOTHING, ()),
    "landed": State(SAMPLE, (("provision", "payments"), ("land", "payments"))),
    "built": State("landed", (("build", "payments", "--json"),)),
    "verified": State("built", (("verify", "payments"),)),
    "switched": State("verified", (("switch", "payments", *QUICKLY),)),
    "six built": State(SAMPLE, (("run", "--json"),)),
    "six": State("six built", (("verify",),)),
    "users completed": State(
        "six", (("switch", "users", *QUICKLY), ("complete", "users", "--no-backup"))
    ),
    "some switched": State("six", switched("communication", "payments", "marketplace")),
    "all switched": State("some switched", switched("contracts", "files", "users")),
    "marketplace completed": State("users completed", completed("marketplace")),
    "some completed": State(
        "marketplace completed",
        (
            *completed("communication", "payments"),
            *switched("contracts", "files"),
        ),
    ),
    "all completed": State(
        "some completed",
        tuple(("complete", name, "--no-backup") for name in ("contracts", "files")),
    ),
}
SUBSCRIPTIONS = """
    select datname, subname, subenabled, subconninfo
    from pg_subscription inner join pg_database as database on database.oid = subdbid
"""
FOLLOWED = """
    select (select count(*) from pg_subscription where subenabled)
        <= (select count(*) from pg_stat_replication where state = 'streaming')
"""

WAKE_AGAIN_SECONDS = 5.0


class Stage:
    """A worker's server, put into a state of the store before each test.

    Its address stays the same as long as the worker lives, and so do all URLs.
    """

    def __init__(self, folder: Path, store: Path) -> None:
        self.root, self.store = folder / "stage", store
        self.root.mkdir()
        store.mkdir(exist_ok=True)
        self.settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(free_port()),
            "fsync": "off",
            "wal_retrieve_retry_interval": "100ms",
        }
        self.address = {
            "host": str(embedded.socket_directory(self.root)),
            "port": self.settings["port"],
        }
        self.dbt = folder / "dbt"

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self.root / ".postgres" / "data"

    def enter(self, name: str) -> Split:
        """Put the server into a state, whatever it was in before.

        Args:
            name: a state of `STATES`; if it doesn't exist yet, it is made, after those before it.
        """
        made = self.store / name
        with _locked(self.store / f"{name}.lock"):
            if not made.exists():
                self._make(name, STATES[name])
        self.leave()
        shutil.rmtree(self.root / "connections", ignore_errors=True)
        shutil.rmtree(self.root / "backups", ignore_errors=True)
        self.data.parent.mkdir(mode=0o711, exist_ok=True)
        _copy(made / "data", self.data)
        if (made / "connections").exists():
            _copy(made / "connections", self.root / "connections")
        split = self._start()
        self._move_in(split.server, json.loads((made / "kept.json").read_text()))
        return split

    def said(self, name: str) -> list[str]:
        """Give what the commands that led to a state printed."""
        kept = json.loads((self.store / name / "kept.json").read_text())
        return [str(said) for said in kept["said"]]

    def once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Give a function's result, as JSON; one worker calls it once per run."""
        made = self.store / f"{name}.json"
        with _locked(self.store / f"{name}.lock"):
            if not made.exists():
                made.write_text(json.dumps(make()))
        return dict(json.loads(made.read_text()))

    def leave(self) -> None:
        """End the server at once, and forget what is in it."""
        if embedded.is_running(self.root):
            end_at_once(self.data)
        if self.data.exists():
            shutil.rmtree(self.data)

    @property
    def server(self) -> Server:
        """The server, whether or not it runs."""
        socket = f"postgresql://postgres@/postgres?{urlencode(self.address, safe='/')}"
        port = self.settings["port"]
        tcp = with_database(socket, "postgres", host="127.0.0.1", port=port, password=PASSWORD)
        return Server(socket, tcp)

    @property
    def environ(self) -> dict[str, str]:
        """The environment in which the runner and dbt find all that is on it."""
        return environment(with_database(self.server.socket, MONOLITH), self.root, self.dbt)

    def _start(self) -> Split:
        embedded.start(self.root, self.settings)
        return Split(self.server, resolve(PROJECT, self.environ), self.environ)

    def _make(self, name: str, state: State) -> None:
        """Make a state on this server and keep it; it gets its name only when it is complete."""
        if state.parent:
            split = self.enter(state.parent)
        else:
            self.leave()
            split = self._start()
            split.server.execute(
                sql.SQL("alter role postgres password {}").format(sql.Literal(PASSWORD))
            )
        if name == SAMPLE:
            demo.create(PROJECT, split.connections.urls[MONOLITH], SAMPLE_ROWS)
        said = []
        for command in state.commands:
            done = split.runner(*command)
            assert done.returncode == 0, done.stdout + done.stderr
            said.append(done.stdout)
        part = self.store / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        enabled = self._move_out(split.server)
        kept = {"address": self.address, "enabled": enabled, "said": said}
        (part / "kept.json").write_text(json.dumps(kept))
        embedded.stop(self.root)
        shutil.move(self.data, part / "data")
        if split.connections.folder.exists():
            shutil.move(split.connections.folder, part / "connections")
        part.rename(self.store / name)

    def _move_out(self, server: Server) -> list[tuple[str, str]]:
        """Disable the subscriptions, which would connect to this address; give their names."""
        enabled = []
        for database, name, is_enabled, _ in server.execute(SUBSCRIPTIONS):
            if is_enabled:
                enabled.append((database, name))
                self._inside(server, database, "alter subscription {} disable", name)
        return enabled

    def _move_in(self, server: Server, kept: Mapping[str, object]) -> None:
        """Replace the address where a state was made with this server's address."""
        address, enabled = kept["address"], kept["enabled"]
        assert isinstance(address, dict) and isinstance(enabled, list)
        moved = address != self.address
        for database, name, _, conninfo in server.execute(SUBSCRIPTIONS) if moved else ():
            here = make_conninfo(**{**conninfo_to_dict(conninfo), **self.address})
            statement = sql.SQL("alter subscription {{}} connection {}").format(sql.Literal(here))
            self._inside(server, database, statement.as_string(), name)
        if moved:
            self._move_foreign_servers(server)
            for file in (self.root / "connections").glob("*"):
                text = file.read_text("utf-8")
                for part in ("host", "port"):
                    text = text.replace(address[part], self.address[part])
                file.write_text(text, "utf-8")
        if enabled:
            self._enable(server, enabled)

    def _enable(self, server: Server, subscriptions: list[tuple[str, str]]) -> None:
        """Enable subscriptions, and wait until all of them stream.

        One that is enabled right after the server's start has been seen to stay idle for a minute,
        once in thousands of times. Enabling it again wakes PostgreSQL's launcher.
        """
        woken = 0.0

        def stream() -> bool:
            nonlocal woken
            if time.monotonic() - woken > WAKE_AGAIN_SECONDS:
                woken = time.monotonic()
                for database, name in subscriptions:
                    self._inside(server, database, "alter subscription {} enable", name)
            return server.execute(FOLLOWED) == [(True,)]

        until(stream)

    def _move_foreign_servers(self, server: Server) -> None:
        databases = "select datname from pg_database where datname like '%_db'"
        for (database,) in server.execute(databases):
            url = with_database(server.socket, database)
            with psycopg.connect(url, autocommit=True) as inside:
                for (name,) in inside.execute("select srvname from pg_foreign_server").fetchall():
                    inside.execute(
                        sql.SQL("alter server {} options (set host {}, set port {})").format(
                            sql.Identifier(name), self.address["host"], self.address["port"]
                        )
                    )

    @staticmethod
    def _inside(server: Server, database: str, statement: str, name: str) -> None:
        with psycopg.connect(with_database(server.socket, database), autocommit=True) as inside:
            inside.execute(sql.SQL(statement).format(sql.Identifier(name)))


def environment(monolith: str, folder: Path, dbt: Path) -> dict[str, str]:
    """Give the environment in which the runner and dbt find a monolith.

    Args:
        monolith: its URL.
        folder: where connections and backups go.
        dbt: where dbt keeps its files. One that lasts saves dbt from parsing the project again.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
    return {
        **inherited,
        "BLYTZ_HIRE_URL": monolith,
        "BLYTZ_HIRE_CONNECTIONS": str(folder / "connections"),
        "BLYTZ_HIRE_BACKUPS": str(folder / "backups"),
        "DBT_TARGET_PATH": str(dbt / "target"),
        "DBT_LOG_PATH": str(dbt / "logs"),
        "COLUMNS": "80",
    }


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other workers from making the same state."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _copy(source: Path, target: Path) -> None:
    """Copy a folder with its owners and rights, which Python's own copy functions drop."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
