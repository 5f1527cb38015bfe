"""A monolith and its services on two servers, each behind links that a test can break.

Everybody comes through links: the runner and the clients through one, the other server through
another. A world keeps states as stopped servers, and enters one by copying it. Its ports last as
long as it does, so nothing in a copied state has to be changed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg

from demo.project import PROJECT as BLYTZ_HIRE
from demo.project import ROOT
from pgsplit.base.errors import SplitError
from pgsplit.load import sample
from pgsplit.observe.status import status
from pgsplit.project.endpoints import Connections, resolve
from pgsplit.project.project import Project
from pgsplit.replication.sync import sync
from tests.support.bouncer import Bouncer
from tests.support.nodes import Node, ServerFailed
from tests.support.proxy import Proxy
from tests.support.run_folder import VARIABLE
from tests.support.servers import free_port

SHOP = ROOT / "examples" / "shop"
MONOLITH, SERVICE = "monolith", "service"
COMMAND_SECONDS = 300.0
SAMPLE = "sample"
SYNCED = ("built", "verified", "switched", "completed")

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Life:
    """A project and how its states are made: each after the one before it, by commands."""

    project: Project
    rows: int
    states: Mapping[str, tuple[str, tuple[tuple[str, ...], ...]]]


QUICKLY = ("--no-backup", "--wait-for-write", "0")


def shop(folder: Path) -> Life:
    """Give the shop in a copy of its own, since dbt writes into a project's folder."""
    root = folder / "shop"
    if not root.exists():
        shutil.copytree(SHOP, root)
    return Life(
        Project(root),
        500,
        {
            "verified": (SAMPLE, (("run",), ("verify",))),
            "switched": ("verified", (("switch", "ordering", *QUICKLY),)),
            "accounts completed": (
                "verified",
                (("switch", "accounts", *QUICKLY), ("complete", "accounts", "--no-backup")),
            ),
            "completed": (
                "accounts completed",
                (("switch", "ordering", *QUICKLY), ("complete", "ordering", "--no-backup")),
            ),
            "accounts switched": ("verified", (("switch", "accounts", *QUICKLY),)),
            "provisioned": (SAMPLE, (("provision", "ordering"),)),
        },
    )


def blytz_hire(services: tuple[str, ...] = ("payments", "communication")) -> Life:
    """Give Blytz Hire with some of its services."""
    return Life(
        BLYTZ_HIRE,
        600,
        {"verified": (SAMPLE, (("run", *services), ("verify", *services)))},
    )


class World:
    """Two servers with links between everybody, and a project on them."""

    def __init__(self, folder: Path, life: Life, versions: tuple[str, str] = ("18", "18")) -> None:
        self.folder, self.life, self.project = folder, life, life.project
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)
        self.nodes = {
            name: Node(name, version, folder / name, free_port())
            for name, version in zip((MONOLITH, SERVICE), versions, strict=True)
        }
        self.links: dict[str, Proxy] = {}
        for name, node in self.nodes.items():
            for who in ("people", "servers"):
                self.links[f"{who} to {name}"] = Proxy(free_port(), node.port)
        self.children: list[subprocess.Popen[str]] = []
        self.bouncer = Bouncer(folder / "bouncer")
        self.follower: subprocess.Popen[str] | None = None
        self.takes: dict[str, float] = {}  # seconds that each command has taken, without a fault
        self.said: list[str] = []  # what each command has printed since a state was entered
        self._first = dict(self.nodes)

    @cached_property
    def environ(self) -> dict[str, str]:
        """The environment in which the runner and dbt find all of it."""
        project, given = self.project, {}
        for target in project.targets:
            side = MONOLITH if target == project.name else SERVICE
            for what, who in (("URL", "people"), ("REPLICATION_URL", "servers")):
                port = self.links[f"{who} to {side}"].port
                given[project.variable(what, target)] = self.nodes[side].url(target, port)
        inherited = {name: value for name, value in os.environ.items() if "_URL" not in name}
        return {
            **inherited,
            **given,
            project.variable("CONNECTIONS"): str(self.folder / "connections"),
            project.variable("BACKUPS"): str(self.folder / "backups"),
            "DBT_TARGET_PATH": str(self.folder / "dbt" / "target"),
            "DBT_LOG_PATH": str(self.folder / "dbt" / "logs"),
            "SPLIT_DBT": str(Path(os.environ[VARIABLE]) / "dbt"),
            "COLUMNS": "300",
        }

    @property
    def as_people(self) -> Connections:
        """The same for functions, by the links that people use."""
        return resolve(self.project, self.environ)

    @property
    def connections(self) -> Connections:
        """The same past all links, on the servers that are in charge now."""
        direct = dict(self.environ)
        for target in self.project.targets:
            side = MONOLITH if target == self.project.name else SERVICE
            direct[self.project.variable("URL", target)] = self.nodes[side].url(target)
        return resolve(self.project, direct)

    def start(
        self, *arguments: str, into: int = subprocess.PIPE, **environ: str
    ) -> subprocess.Popen[str]:
        """Start a command in a process of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.as_runner", str(self.project.root), *arguments],
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=into,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        self.children.append(process)
        return process

    def follow(self) -> None:
        """Run a follower of all that is built; start it again if it has ended."""
        if self.follower is None or self.follower.poll() is not None:
            self.stop_following()
            self.follower = self.start("sync", "--follow", into=subprocess.DEVNULL)

    def stop_following(self) -> None:
        """End the follower, if there is one."""
        if self.follower:
            self.follower.terminate()
            self.ended(self.follower)
            self.follower = None

    def ended(self, process: subprocess.Popen[str]) -> Done:
        """Wait for a command; one that hangs is killed, and its code says so."""
        try:
            said = process.communicate(timeout=COMMAND_SECONDS)[0] or ""
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            said = (process.communicate()[0] or "") + f"\nit hung for {COMMAND_SECONDS:.0f} s"
        with suppress(ValueError):
            self.children.remove(process)
        words = " ".join(process.args[4:])  # type: ignore[index]
        self.said.append(f"$ runner.py {words}   → {process.returncode}\n{said}")
        return Done(process.args, process.returncode, said, "")

    def runner(self, *arguments: str, **environ: str) -> Done:
        """Run a command."""
        return self.ended(self.start(*arguments, **environ))

    def prepare(self, name: str) -> None:
        """Make a state, and those before it, unless they exist."""
        if not (self.folder / "states" / name).exists():
            self._make(name)

    def enter(self, name: str) -> None:
        """Put the world into a state, whatever it was in before."""
        self.prepare(name)
        self.said.clear()
        kept = self.folder / "states" / name
        self.leave()
        for node in self.nodes.values():
            node.folder.mkdir(exist_ok=True)
            _copy(kept / node.name, node.data)
        if (kept / "connections").exists():
            _copy(kept / "connections", self.folder / "connections")
        self.heal()

    def leave(self) -> None:
        """End everything, and forget it."""
        for process in self.children:
            process.kill()
            process.wait()
        self.children.clear()
        self.follower = None
        self.bouncer.stop()
        self.environ.pop("PGBOUNCER_ADMIN_URL", None)
        for node in self.nodes.values():
            node.destroy()
        for name, node in self._first.items():
            node.destroy()
            (node.folder / "log").unlink(missing_ok=True)
            self.lead(name, node)
        for link in self.links.values():
            link.heal()
            link.cut()
        shutil.rmtree(self.folder / "connections", ignore_errors=True)
        shutil.rmtree(self.folder / "backups", ignore_errors=True)

    def heal(self) -> None:
        """Do what operators do after a fault: repair links, start servers, and wait for them."""
        for link in self.links.values():
            link.heal()
        for node in self.nodes.values():
            for process in node.processes():
                with suppress(Exception):
                    process.send_signal(signal.SIGCONT)
            node.start()

    def pool(self) -> None:
        """Put a PgBouncer before the services that are provisioned, for clients that want it."""
        self.environ["PGBOUNCER_ADMIN_URL"] = self.bouncer.console
        self.bouncer.prepare(self.folder / "connections")
        made = [role for role, stands in self.states().items() if stands != "absent"]
        done = self.runner("provision", *made)  # which writes its routes, too
        assert done.returncode == 0, done.stdout
        self.bouncer.start()
        if not wait_until(20, self.bouncer.answers):
            raise ServerFailed("PgBouncer did not start")

    def lead(self, name: str, node: Node) -> None:
        """Put a server in charge: all links lead to it."""
        self.nodes[name] = node
        for who in ("people", "servers"):
            self.links[f"{who} to {name}"].target = node.port

    def wait_for_standby(self, primary: Node) -> None:
        """Wait until a server has a synchronous standby."""
        question = "select count(*) from pg_stat_replication where sync_state = 'sync'"

        def is_there() -> bool:
            with psycopg.connect(primary.url(), autocommit=True) as connection:
                return connection.execute(question).fetchone() == (1,)

        if not wait_until(20, is_there):
            raise ServerFailed(f"the standby of {primary.name} does not follow")

    def close(self) -> None:
        """End everything for good."""
        self.leave()
        for link in self.links.values():
            link.close()

    def states(self) -> dict[str, str]:
        """Tell where each service stands, by its role."""
        with self.connections.connect(self.connections.monolith) as monolith:
            known = monolith.execute("select to_regclass('split.states') is not null").fetchone()
            rows = dict(
                monolith.execute("select service, state from split.states").fetchall()
                if known == (True,)
                else ()
            )
        services = self.project.services
        return {one.role: rows.get(name, "absent") for name, one in services.items()}

    def complaints(self) -> list[str]:
        """Sync what is built, as followers do all the time, and ask for the status.

        Returns:
            What the sync and the status complain about, with their hints; nothing if all is well.
        """
        states, connections = self.states(), self.as_people
        found = []
        for service in self.project.services.values():
            try:
                if states[service.role] in SYNCED:
                    sync(service, connections)
                found += status(service, connections).warnings
            except (SplitError, psycopg.Error) as error:
                found.append(str(error))
        return found

    def _make(self, name: str) -> None:
        """Make a state and keep it."""
        if name == SAMPLE:
            self.leave()
            for node in self.nodes.values():
                node.create()
                node.start()
            url = self.connections.monolith_url
            sample.create(self.project, url, self.life.rows)
        else:
            before, commands = self.life.states[name]
            self.enter(before)
            for command in commands:
                done = self.runner(*command)
                assert done.returncode == 0, done.stdout
        part = self.folder / "states" / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        # The subscriber first: the other waits until all that it has was sent.
        for node in reversed(self.nodes.values()):
            node.end(signal.SIGINT)
        for node in self.nodes.values():
            shutil.move(node.data, part / node.name)
        if (self.folder / "connections").exists():
            shutil.move(self.folder / "connections", part / "connections")
        part.rename(self.folder / "states" / name)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def wait_until(seconds: float, condition: Any) -> bool:
    """Wait until a condition holds; tell whether it did in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(found)
