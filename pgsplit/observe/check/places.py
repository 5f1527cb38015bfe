"""The servers that a check asks, each with its login, its targets, and what was found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from pgsplit.base.errors import SplitError
from pgsplit.postgres.connect import fields_of, url_of, with_database
from pgsplit.postgres.managed import SELF_MANAGED, Provider
from pgsplit.postgres.need import Need
from pgsplit.project.endpoints import Connections

Connection = psycopg.Connection[Any]
# What a person needs to reach the server, too.
KEPT = ("host", "port", "user", "dbname", "sslmode", "sslrootcert", "hostaddr")

# Why a login is to be a superuser, and when.
SUPERUSER = "PostgreSQL 15 lets only superusers subscribe; they need none of the grants."
LATER_SUPERUSER = "Only from the switch on: " + SUPERUSER


@dataclass(frozen=True)
class Finding:
    """What was found: a need, the database in which it was asked, and what it is needed for."""

    need: Need
    database: str
    purpose: str

    @property
    def state(self) -> str:
        """Whether it is met: `ok`, `missing`, or a `note`, without which nothing stops."""
        if self.need.ok:
            return "ok"
        return "note" if self.need.is_optional else "missing"


@dataclass
class Place:
    """A server as one login reaches it, with the targets that are there.

    `databases` are the targets' databases. `asked` are connections to them, or to the maintenance
    database where one does not exist yet; such targets are in `absent`. `unreached` are targets
    without any connection, and `locked` those that the login may not connect to: what it needs
    there is in `unasked`.
    """

    host: str
    port: str
    user: str
    targets: list[str] = field(default_factory=list)
    databases: dict[str, str] = field(default_factory=dict)
    asked: dict[str, Connection] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    unreached: dict[str, SplitError] = field(default_factory=dict)
    locked: set[str] = field(default_factory=set)
    unasked: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    provider: Provider = SELF_MANAGED
    version: str = ""
    is_super: bool = False

    @property
    def name(self) -> str:
        """The server's name, for people."""
        return self.host if self.host.startswith("/") else f"{self.host}:{self.port}"

    def shown(self, target: str) -> str:
        """Name a target for people, with its database if that has another name."""
        name = self.databases[target]
        return target if name == target else f"{target} (database {name})"

    @property
    def machine(self) -> tuple[str, str]:
        """What tells whether two places are one server."""
        return self.host, self.port

    @property
    def first(self) -> Connection:
        """Any connection to it."""
        return next(iter(self.asked.values()))

    def add(self, needs: Iterable[Need], purpose: str, database: Connection | None = None) -> None:
        """Note what was found, in a database or in the whole server."""
        name = database.info.dbname if database else ""
        known = {_key(one) for one in self.findings}
        for need in needs:
            found = Finding(need, name, purpose)
            if _key(found) not in known:
                known.add(_key(found))
                self.findings.append(found)

    def refuse(
        self, name: str, error: SplitError, purpose: str, found: str = "no", needed: str = "yes"
    ) -> None:
        """Note what one of the operations' own checks refuses."""
        statement = str(error.fields.get("sql", ""))
        need = Need(name, found, needed, False, error.what, error.hint, statement)
        self.findings.append(Finding(need, "", purpose))

    def psql(self, connections: Connections) -> str:
        """Give the command with which an operator opens psql to paste the statements."""
        found = fields_of(connections.urls[self.targets[0]])
        fields = {key: str(found[key]) for key in KEPT if found.get(key)}
        owner = self.user if self.is_super else "postgres"
        url = with_database(url_of(fields), "postgres", user=owner)
        return f"psql '{url}'"

    def statements(self, state: str = "missing") -> list[str]:
        """Give what an operator pastes, in order, for what is missing or worth having.

        Args:
            state: `missing`, or `note` for what nothing stops without.
        """
        found = [one for one in self.findings if one.state == state and one.need.sql]
        last = [one for one in found if one.need.needs_restart or _makes_superuser(one)]
        lines = self._lines([one for one in found if one not in last])
        if state == "missing":
            lines += [one for one in self.unasked if one not in lines]
        lines += self._lines(last)
        if any(one.startswith("ALTER SYSTEM") for one in lines):
            lines += ["SELECT pg_reload_conf();", f"-- Then restart the server {self.name}."]
        return lines

    @staticmethod
    def _lines(found: Iterable[Finding]) -> list[str]:
        """Write statements, each once, and where to connect before it."""
        lines: list[str] = []
        here, said = "", set[tuple[str, str]]()
        for one in sorted(found, key=_in_order):
            of_database = _is_of_database(one.need.sql)
            statement = one.database if of_database else "", one.need.sql
            if statement in said:
                continue
            said.add(statement)
            if of_database and one.database not in ("", here):
                here = one.database
                quoted = here.replace('"', '""')
                lines.append(f'\\connect "{quoted}"')
            if _makes_superuser(one):
                lines.append(f"-- {SUPERUSER if 'land' in one.purpose else LATER_SUPERUSER}")
            lines.append(one.need.sql)
        return lines


def _in_order(one: Finding) -> tuple[bool, bool, str]:
    return one.need.needs_restart, _makes_superuser(one), one.database


def _makes_superuser(one: Finding) -> bool:
    return one.need.sql.endswith(" SUPERUSER;")


def _key(one: Finding) -> tuple[str, ...]:
    """Give what makes two findings the same: several operations need the same right."""
    need = one.need
    here = one.database if not need.sql or _is_of_database(need.sql) else ""
    return need.name, need.found, need.sql or need.problem, here


def _is_of_database(statement: str) -> bool:
    """Tell whether a statement has to run in the database that it is about."""
    return " ON " in statement and " ON DATABASE " not in statement or "EXTENSION" in statement


def places(connections: Connections, targets: Iterable[str]) -> list[Place]:
    """Group targets by server and login, the monolith's first."""
    found: dict[tuple[str, str, str], Place] = {}
    for target in targets:
        fields = fields_of(connections.urls[target])
        key = (fields["host"], fields["port"], fields["user"])
        place = found.setdefault(key, Place(*key))
        place.targets.append(target)
        place.databases[target] = fields["dbname"]
    return list(found.values())
