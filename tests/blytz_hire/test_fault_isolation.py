"""Fault isolation: each database and each follower is down in turn, at each stage of a split.

The tables of docs/fault-isolation.md say what has to go on and what waits. This reads them.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from demo.project import MONOLITH, PROJECT, ROOT
from pgsplit.base.errors import ConnectionFailed, NotReady
from tests.support.split import Split
from tests.support.stage import Stage
from tests.support.switching import one, ran
from tests.support.waiting import until

PAGE = ROOT / "docs" / "fault-isolation.md"
SERVICES = {service.role: service for service in PROJECT.services.values()}
USERS = "users"
# The state in which a test begins, by the stage's name in the page.
STAGES = {
    "none switched": "six",
    "some switched": "some switched",
    "all switched": "all switched",
    "some completed": "some completed",
    "all completed": "all completed",
}
THE_MONOLITH, FOLLOWER = "the monolith", "the follower of "
# A column of each service's own, which has the same name on both sides.
WRITTEN = {
    "communication": ("notifications", "title"),
    "payments": ("reviews", "comment"),
    "marketplace": ("jobs", "title"),
    "contracts": ("milestones", "title"),
    "files": ("portfolio_items", "title"),
    USERS: ("users", "email"),
}
RFC_3339 = "%Y-%m-%dT%H:%M:%SZ"
# A write that waits for a service fails by this.
GIVE_UP = "-c statement_timeout=10s"


def table(heading: str) -> dict[str, dict[str, str]]:
    """Read a table of the page: by its first column, then by its headings."""
    part = PAGE.read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
    return {row[0]: dict(zip(lines[0], row, strict=True)) for row in lines[1:]}


def named(text: str) -> set[str]:
    """Give the services that a cell names."""
    return {"none": set[str](), "all": set(SERVICES)}.get(text) or set(text.split(", ")) - {"none"}


REFUSED = table("Whose writes are refused")
OWN = table("Whose changes wait between the service and the monolith")
COPIES = table("In whose copies a change of a user waits")
SAID = table("What is said")


@dataclass(frozen=True)
class Stands:
    """Which services are switched and which are completed at a stage."""

    switched: frozenset[str]
    completed: frozenset[str]

    @classmethod
    def at(cls, stage: str) -> Stands:
        """Read it from the page."""
        part = PAGE.read_text("utf-8").partition(f"\n| {stage} | ")[2].partition(" |\n")[0]
        switched, completed = (
            frozenset(named(cell.replace("–", "none"))) for cell in part.split(" | ")
        )
        return cls(switched, completed)

    def truth(self, role: str) -> str:
        """Give the database that a service's applications write."""
        return SERVICES[role].database if role in self.switched | self.completed else MONOLITH


class Followers:
    """Followers in processes of their own: what each has said, by the services that it follows."""

    def __init__(self, split: Split, folder: Path) -> None:
        self.split, self.folder = split, folder
        self.running: dict[tuple[str, ...], subprocess.Popen[str]] = {}

    def start(self, *roles: str) -> None:
        """Start one for some services."""
        with self.said_by(*roles).open("a") as out:
            self.running[roles] = subprocess.Popen(
                [sys.executable, str(ROOT / "runner.py"), "sync", *roles, "--follow"],
                env={**self.split.environ, "COLUMNS": "1000"},
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                text=True,
            )

    def kill(self, *roles: str) -> None:
        """Kill one, as a crash does."""
        found = self.running.pop(roles)
        found.send_signal(signal.SIGKILL)
        found.wait()

    def said_by(self, *roles: str) -> Path:
        """Give the file with what a follower says."""
        return self.folder / "-".join(roles)

    def lines(self, role: str) -> list[str]:
        """Give what was said of a service."""
        sign = f" {SERVICES[role].database}: "
        files = self.folder.iterdir()
        return [
            " ".join(line.split())
            for file in files
            if role in file.name.split("-")
            for line in re.split(r"\n(?=\d{4}-)", file.read_text())
            if sign in line
        ]

    def last(self, role: str) -> str:
        """Give the last thing that was said of a service."""
        return (self.lines(role) or [""])[-1]

    def close(self) -> None:
        """End all; each must end well."""
        for found in self.running.values():
            found.send_signal(signal.SIGINT)
        codes = [found.wait(60) for found in self.running.values()]
        self.running.clear()
        assert set(codes) <= {0}, [file.read_text() for file in self.folder.iterdir()]


class Writers:
    """Writes on all services at their sources of truth, and looks where that arrives."""

    def __init__(self, split: Split, stands: Stands) -> None:
        self.split, self.stands = split, stands
        self.ids = {role: self._id(role) for role in SERVICES}

    def write(self, text: str) -> set[str]:
        """Write on each service; give those whose writes were refused."""
        return {role for role in SERVICES if not self._write(role, text)}

    def arrived(self, role: str, text: str) -> bool:
        """Tell whether a service's own change is at the other end of its way."""
        other = SERVICES[role].database if self.stands.truth(role) == MONOLITH else MONOLITH
        return self._holds(other, f"{other}.{WRITTEN[role][0]}", role, text)

    def copied(self, role: str, text: str) -> bool:
        """Tell whether a change of a user is in a service's copy."""
        database = SERVICES[role].database
        return self._holds(database, f"{database}.shared_users", USERS, text)

    def _id(self, role: str) -> str:
        """Choose a row of a service's own table."""
        name = SERVICES[role].database
        with self.split.service(name) as database:
            return str(one(database, f"select min(id) from {name}.{WRITTEN[role][0]}"))

    def _write(self, role: str, text: str) -> bool:
        truth = self.stands.truth(role)
        where, column = f"{truth}.{WRITTEN[role][0]}", WRITTEN[role][1]
        url = self.split.connections.urls[truth]
        try:
            with psycopg.connect(url, autocommit=True, options=GIVE_UP) as database:
                done = database.execute(
                    f"update {where} set {column} = %s where id = %s".encode(),
                    (text, self.ids[role]),
                )
        except psycopg.OperationalError as error:
            assert "not currently accepting connections" in str(error), error
            return False
        assert done.rowcount == 1
        return True

    def _holds(self, target: str, where: str, role: str, text: str) -> bool:
        with self.split.connections.connect(target) as database:
            query = f"select {WRITTEN[role][1]} = %s from {where} where id = %s".encode()
            return database.execute(query, (text, self.ids[role])).fetchone() == (True,)


@contextmanager
def down(split: Split, target: str) -> Iterator[None]:
    """Let nobody into a database during the block, and end whoever is in it."""
    split.server.execute(f"alter database {target} allow_connections false")
    split.server.execute(
        f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{target}'"
    )
    try:
        yield
    finally:
        split.server.execute(f"alter database {target} allow_connections true")


class Scene:
    """One stage: its state, its writers, its followers, and what is due in a cell of the page."""

    def __init__(self, name: str, split: Split, folder: Path) -> None:
        self.name, self.split, self.count = name, split, 0
        self.stands = Stands.at(name)
        self.writers = Writers(split, self.stands)
        self.followers = Followers(split, folder)

    def due(self, what: str) -> tuple[set[str], set[str], set[str]]:
        """Tell whose writes are refused, whose changes wait, and where users wait."""
        refused = REFUSED["a follower" if what.startswith(FOLLOWER) else what][self.name]
        return named(refused), named(OWN[what][self.name]), named(COPIES[what][self.name])

    def check(self, what: str) -> str:
        """Write while something is down, and hold what comes of it against the page."""
        self.count += 1
        text = f"{what}, {self.count}"
        refused, own, copies = self.due(what)
        assert self.writers.write(text) == refused, what
        moving = set(SERVICES) - refused - self.stands.completed
        consumers = set(SERVICES) - {USERS} if USERS not in refused else set[str]()
        assert own <= moving and copies <= consumers | {USERS}, f"the page on {what}"
        for role in sorted(moving - own):
            until(lambda role=role: self.writers.arrived(role, text))  # type: ignore[misc]
        for role in sorted(consumers - copies):
            until(lambda role=role: self.writers.copied(role, text))  # type: ignore[misc]
        self.waits(what, text, own, copies & consumers)
        return text

    def waits(self, what: str, text: str, own: set[str], copies: set[str]) -> None:
        """Check that what the page says waits has not arrived, as far as its end can be asked."""
        for role in own:
            if what != SERVICES[role].database and what != THE_MONOLITH:
                assert not self.writers.arrived(role, text), (what, role)
        for role in copies:
            if what != SERVICES[role].database:
                assert not self.writers.copied(role, text), (what, role)

    def arrives(self, text: str, refused: set[str]) -> None:
        """Wait until everything that was written is everywhere, by itself."""
        for role in sorted(set(SERVICES) - refused - self.stands.completed):
            until(lambda role=role: self.writers.arrived(role, text))  # type: ignore[misc]
        for role in sorted(set(SERVICES) - {USERS}) if USERS not in refused else ():
            until(lambda role=role: self.writers.copied(role, text))  # type: ignore[misc]

    def says(self, what: str, target: str) -> None:
        """Check what status says, and with which code it exits."""
        said = SAID[what if what == THE_MONOLITH else "a service's database"]["`runner.py status`"]
        code = 3 if what == THE_MONOLITH else 4
        assert f"exits with {code} and names it" in said
        assert (ConnectionFailed.exit_code, NotReady.exit_code) == (3, 4)
        shown = ran(self.split, "status", code=code)
        assert f"database {target} on" in shown
        assert all(one.database in shown for one in SERVICES.values())

    def says_that_nobody_follows(self, role: str) -> None:
        """Check what status says when changes have waited for half a minute."""
        said = SAID["a follower"]["`runner.py status`"]
        assert "from the switch on it exits with 4 once changes have waited for 30 seconds" in said
        with self.split.service(SERVICES[role].database) as database:
            assert one(database, "select count(*) from split.changes") > 0
            database.execute("update split.service set synced_at = now() - interval '31 s'")
        if self.stands.truth(role) == MONOLITH:
            ran(self.split, "status", code=0)
            return
        shown = ran(self.split, "status", code=4)
        assert f"no follower of {SERVICES[role].database} is running" in shown


def until_all_is_well(split: Split) -> None:
    """Wait until status is content, which looks at every stream."""
    said = list[str]()

    def is_well() -> bool:
        done = split.runner("status")
        said[:] = [done.stdout]
        return done.returncode == 0

    try:
        until(is_well)
    finally:
        print(*said)


def database_goes_down(scene: Scene, what: str) -> None:
    """Take a database down, and bring it back."""
    target = MONOLITH if what == THE_MONOLITH else what
    refused, _, _ = scene.due(what)
    troubled = {role for role, one in SERVICES.items() if one.database == what}
    before = {role: len(scene.followers.lines(role)) for role in SERVICES}
    with down(scene.split, target):
        for role in troubled:
            until(lambda role=role: f"database {target} on" in scene.followers.last(role))  # type: ignore[misc]
        text = scene.check(what)
        scene.says(what, target)
    scene.arrives(text, refused)
    for role in SERVICES:
        until(lambda role=role: f"database {target} on" not in scene.followers.last(role))  # type: ignore[misc]
        said = scene.followers.lines(role)[before[role] :]
        assert not [line for line in repeated(said) if target in line]
    until_all_is_well(scene.split)


def repeated(lines: Sequence[str]) -> Iterator[str]:
    """Give the lines that were printed twice in a row, less than a minute apart."""
    for line, later in pairwise(lines):
        (at, _, what), (then, _, again) = line.partition(" "), later.partition(" ")
        apart = datetime.strptime(then, RFC_3339) - datetime.strptime(at, RFC_3339)
        if what == again and apart < timedelta(seconds=50):
            yield line


def follower_goes_down(scene: Scene, role: str) -> None:
    """Kill a follower, and start another one."""
    what = FOLLOWER + role
    scene.followers.kill(role)
    text = scene.check(what)
    scene.says_that_nobody_follows(role)
    scene.followers.start(role)
    scene.arrives(text, set())


@contextmanager
def staged(stage: Stage, name: str, folder: Path, *groups: Sequence[str]) -> Iterator[Scene]:
    """Enter a stage, with followers of some groups of services."""
    found = Scene(name, stage.enter(STAGES[name]), folder)
    for roles in groups:
        found.followers.start(*roles)
    try:
        for role in SERVICES:
            until(lambda role=role: found.followers.lines(role))  # type: ignore[misc]
        # Entering a state has altered subscriptions. An error that comes before anybody has looked
        # would count as a transaction that may have been skipped.
        until_all_is_well(found.split)
        yield found
    finally:
        found.followers.close()
    ran(found.split, "parity")


DATABASES = (THE_MONOLITH, *(one.database for one in SERVICES.values()))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_monolith_owner_and_follower_go_down_when_some_are_completed(
    stage: Stage, tmp_path: Path
) -> None:
    others = [role for role in SERVICES if role != USERS]
    with staged(stage, "some completed", tmp_path, [USERS], others) as found:
        database_goes_down(found, THE_MONOLITH)
        database_goes_down(found, "users_db")
        follower_goes_down(found, USERS)


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", STAGES)
def test_databases_go_down_one_after_the_other(stage: Stage, name: str, tmp_path: Path) -> None:
    with staged(stage, name, tmp_path, [*SERVICES]) as found:
        for what in DATABASES:
            database_goes_down(found, what)


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", STAGES)
def test_followers_go_down_one_after_the_other(stage: Stage, name: str, tmp_path: Path) -> None:
    with staged(stage, name, tmp_path, *([role] for role in SERVICES)) as found:
        for role in SERVICES:
            follower_goes_down(found, role)
