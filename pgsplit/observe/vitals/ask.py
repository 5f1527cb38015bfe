"""Asks one database for its vital signs: one connection that is kept, one statement, no write."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from pgsplit.base.errors import ConnectionFailed, NotReady, SplitError
from pgsplit.observe.vitals.asker import Asker
from pgsplit.postgres.connect import describe, is_lost
from pgsplit.postgres.session_settings import ONLY_TABLES
from pgsplit.project import strangers
from pgsplit.project.endpoints import Connections
from pgsplit.state.schema import VERSION, require_current, require_known

Row = Mapping[str, Any]
Rows = Sequence[Row]

FOLDER = Path(__file__).with_name("sql")
CONNECT_SECONDS = 4
# A connection to a server that has vanished ends after about ten seconds. One that is only frozen
# keeps its connections: its answer is not waited for.
ALIVE = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10000,
    "application_name": "pgsplit health",
}
SESSION = (
    "set default_transaction_read_only = on; set lock_timeout = '1s'; set statement_timeout = '5s'"
)


@dataclass(frozen=True)
class Question:
    """A query, named as its file, and the tables and columns of the schema `split` that it reads.

    It is asked where these are. A login that may not read them is told, unless it `may_lack` them:
    those are made later than the others, by another login.
    """

    name: str
    reads: Mapping[str, Sequence[str]] = field(default_factory=dict)
    may_lack: bool = False


FIRST = ("about", "readable")
EVERYWHERE = (
    Question("slots"),
    Question("subscriptions"),
    Question("version", {"version": ["version"]}),
    Question("heartbeats", {"heartbeats": ["at"]}),
    Question("streams", {"streams": ["broken_at"]}),
    Question("gates", {"gates": ["is_open", "opens_at"]}, may_lack=True),
)
OF_SERVICE = (
    *EVERYWHERE,
    Question("service", {"service": ["failed_at", "completed_at"]}),
    Question("changes", {"changes": []}),
    Question("stale", {"service_tables": ["is_stale"], "mirror_tables": ["is_stale"]}),
    Question("parity_tests", {"parity_tests": ["checked_at", "orphans"]}, may_lack=True),
)
OF_CONTROL = (
    *EVERYWHERE,
    Question("states", {"states": []}),
    Question("verifications", {"verifications": []}),
    Question("ledger", {"ledger": []}),
    Question("runner", {"runner": []}),
)
TEXTS = {path.stem: path.read_text("utf-8") for path in FOLDER.glob("*.sql")}


@dataclass(frozen=True)
class Answer:
    """What a database said: rows by question, or why there are none; and how long it took."""

    target: str
    rows: Mapping[str, Rows] = field(default_factory=dict)
    notes: Sequence[str] = ()
    error: SplitError | None = None
    seconds: float = 0.0

    def only(self, question: str) -> Row:
        """Give the one row of a question; an empty one if it was not asked or there is none."""
        return next(iter(self.rows.get(question, ())), {})

    def named(self, question: str) -> dict[str, Row]:
        """Give the rows of a question by their name."""
        return {row["name"]: row for row in self.rows.get(question, ())}


class Database(Asker[Answer]):
    """A database that is asked again and again, over one connection.

    Args:
        connections: where the servers are.
        target: the control database or a service's.
    """

    def __init__(self, connections: Connections, target: str) -> None:
        super().__init__(target)
        self.connections = connections
        self.service = connections.project.services.get(target)
        self.questions = OF_SERVICE if self.service else OF_CONTROL
        self.connection: psycopg.Connection[Any] | None = None

    @property
    def where(self) -> str:
        """The database, for people."""
        return describe(self.connections.url(self.name))

    def ask(self) -> Answer:
        """Ask all questions; what goes wrong is an answer, too."""
        started, rows, notes = time.monotonic(), dict[str, Rows](), list[str]()
        error: SplitError | None = None
        try:
            rows, notes = self._ask_again_if_lost()
        except SplitError as refused:
            error = refused
        except psycopg.Error as failed:
            error = self._explain(failed)
        return Answer(self.name, rows, notes, error, time.monotonic() - started)

    def silent(self, seconds: float) -> Answer:
        """Say that the server does not answer."""
        error = ConnectionFailed(
            f"{self.name} has not answered for {seconds:.0f} s: its server or the network is"
            " frozen or overloaded.",
            where=self.where,
            hint=f"runner.py psql {self.connections.project.short(self.name)} -c 'select 1'",
        )
        return Answer(self.name, error=error, seconds=seconds)

    def close(self) -> None:
        """Close the connection, unless its server still owes an answer."""
        if self.connection and not self.is_open:
            self.connection.close()

    def _ask_again_if_lost(self) -> tuple[dict[str, Rows], list[str]]:
        """Ask; connect again if a kept connection was lost, as after a restart of the server."""
        is_kept = self.connection is not None and not self.connection.closed
        try:
            return self._ask()
        except psycopg.OperationalError as failed:
            if not (is_kept and is_lost(failed)):
                raise
            assert self.connection
            self.connection.close()
            return self._ask()

    def _explain(self, failed: psycopg.Error) -> SplitError:
        if self.connection:
            self.connection.close()  # it may be in any state
        said = str(failed).strip() or type(failed).__name__
        if is_lost(failed):
            return ConnectionFailed(
                f"The connection to {self.name} was lost: {said}",
                where=self.where,
                hint="Wait for the server, or start it. The next look connects again.",
            )
        return NotReady(
            f"{self.name} refused to answer: {said}",
            where=self.where,
            hint=f"runner.py status {self.connections.project.short(self.name)}",
        )

    def _ask(self) -> tuple[dict[str, Rows], list[str]]:
        """Ask what may be read, then all of it in one statement, as of one moment."""
        connection = self._connected()
        about, readable = _rows(connection, FIRST)
        there = {row["name"]: row for row in readable}
        if self.service:
            is_other = about[0]["mark"] not in (None, self.service.mark)
            if is_other or "service" not in there:
                raise strangers.not_provisioned(connection, self.service)
        asked, refused, notes = [], list[str](), list[str]()
        for one in self.questions:
            closed = [name for name in one.reads if name in there and not there[name]["may_read"]]
            (notes if one.may_lack else refused).extend(closed)
            if not closed and _is_there(one, there):
                asked.append(one.name)
        login = about[0]["login"]
        if refused:
            raise NotReady(
                f"{login} may not read {_named(refused)}.",
                where=describe(connection.info.dsn),
                hint=_grants(login, refused),
            )
        found = {"about": about, **dict(zip(asked, _rows(connection, asked), strict=True))}
        if "version" in there or self.service:
            self._require_version(found, connection)
        said = [f"{login} may not read {_named([one])}: {_grants(login, [one])}" for one in notes]
        if not about[0]["sees_statistics"]:
            said.append(f"{login} can't see how late streams are: GRANT pg_monitor TO {login};")
        return found, [f"{self.name}: {one}" for one in said]

    def _connected(self) -> psycopg.Connection[Any]:
        if self.connection is None or self.connection.closed:
            made = self.connections.connect_to_any(self.name, **ALIVE)
            made.execute(SESSION)
            made.execute(ONLY_TABLES)
            self.connection = made
        return self.connection

    def _require_version(
        self, found: Mapping[str, Rows], connection: psycopg.Connection[Any]
    ) -> None:
        version = next((row["version"] for row in found.get("version", ())), None)
        if self.service and version != VERSION:
            require_current(connection, self.service)
        elif version and version > VERSION:
            require_known(connection)


def _is_there(one: Question, there: Mapping[str, Row]) -> bool:
    return all(
        table in there and set(columns) <= set(there[table]["columns"])
        for table, columns in one.reads.items()
    )


def _rows(connection: psycopg.Connection[Any], questions: Sequence[str]) -> list[Rows]:
    """Ask questions in one round trip; give the rows of each."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute("".join(TEXTS[name] for name in questions))
        return list(_results(cursor))


def _results(cursor: psycopg.Cursor[dict[str, Any]]) -> Iterator[Rows]:
    yield cursor.fetchall()
    while cursor.nextset():
        yield cursor.fetchall()


def _named(tables: Iterable[str]) -> str:
    return ", ".join(f"split.{name}" for name in tables)


def _grants(login: str, tables: Sequence[str]) -> str:
    return (
        f"GRANT USAGE ON SCHEMA split TO {login};"
        f" GRANT SELECT ON {_named(dict.fromkeys(tables))} TO {login};"
    )
