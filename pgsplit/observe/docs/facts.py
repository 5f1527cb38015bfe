"""What the site says: the models, the databases, the ledger and the seed, put together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property

import psycopg

from pgsplit.base.errors import SplitError
from pgsplit.observe import history
from pgsplit.observe.docs import catalogue, models
from pgsplit.observe.docs.agreement import Mismatch, evidence, lines, mismatches
from pgsplit.observe.docs.catalogue import Database, LiveColumn, LiveTable
from pgsplit.observe.docs.lineage import Origin
from pgsplit.observe.docs.models import Model, Models, Test
from pgsplit.observe.history import Account, Proof
from pgsplit.project.endpoints import Connections
from pgsplit.project.ownership import Pair, pairs
from pgsplit.project.project import Project, Service

# What `unread` calls the control database.
LEDGER = "the ledger"


@dataclass(frozen=True)
class Result:
    """A test, and how it ended in the last build; without one, `status` is empty."""

    test: Test
    status: str
    rows: int


@dataclass(frozen=True)
class Way:
    """From one column to another: between a monolith's table and a service's.

    `how` is `value`, `choice` or `constant`, as `evidence` says; `said` is the seed's reason.
    """

    service: str
    monolith_table: str
    monolith_column: str
    table: str
    column: str
    how: str
    said: str


@dataclass(frozen=True)
class Column:
    """A column, with its ways from the monolith and back.

    `dropped` says why it goes nowhere, `note` what is odd. `expression` makes it.
    """

    name: str
    data_type: str
    description: str
    live: LiveColumn | None
    origins: Sequence[Way]
    returns: Sequence[Way]
    expression: str
    dropped: str
    tests: Sequence[Result]
    note: str


@dataclass(frozen=True)
class Facts:
    """All that the site says.

    `accounts` are by service; `unread` says what could not be read, and why.
    """

    project: Project
    made_at: datetime
    models: Models
    databases: Mapping[str, Database]
    accounts: Mapping[str, Account]
    unread: Mapping[str, str]
    mismatches: Sequence[Mismatch]

    @property
    def compared(self) -> int:
        """How many columns of models were compared with the seed."""
        return sum(
            len(model.lineage.columns)
            for found in self.models.of.values()
            for model in found
            if model.lineage and model.is_compared
        )

    def state(self, service: Service) -> str:
        """Give a service's state, if the ledger could be read."""
        account = self.accounts.get(service.database)
        return account.state.value if account else "unknown"

    def described(self, table: str) -> str:
        """Give what is said about a table of the monolith."""
        said, live = self.models.monolith.get(table), self.monolith_live(table)
        return (said.description if said else "") or (live.description if live else "")

    def tables(self, service: Service) -> list[Model]:
        """Give the models of a service's own tables."""
        return [one for one in self.models.of[service.database] if not one.is_reverse]

    def reverse(self, service: Service, table: str = "") -> list[Model]:
        """Give a service's reverse models; if a table of the monolith is given, only that one's."""
        found = [one for one in self.models.of[service.database] if one.is_reverse]
        return [one for one in found if table in ("", one.table)]

    def live(self, target: str, schema: str, table: str) -> LiveTable | None:
        """Give a table as its database has it; None if it isn't there or could not be read."""
        return (self.databases[target].tables or {}).get((schema, table))

    def monolith_live(self, table: str) -> LiveTable | None:
        """Give a table of the monolith; a completed service's is in the schema beside."""
        name = self.project.name
        for schema in (self.project.schema, self.project.retired_schema):
            if found := self.live(name, schema, table):
                return found
        return None

    @cached_property
    def ways(self) -> Sequence[Way]:
        """All ways from the monolith to the services' tables, in the seed's order."""
        return tuple(self._ways())

    def _ways(self) -> Iterator[Way]:
        for service in self.project.services.values():
            known = {one.table: one for one in self.tables(service)}
            for line in lines(service):
                pair = line.pair
                if pair.monolith_table not in self.project.tables:
                    continue  # `mismatches` says so
                model = known.get(pair.service_table)
                how = ""
                if model and model.lineage:
                    source = (service.mirror, pair.monolith_table, pair.monolith_column)
                    how = evidence(model, pair.service_column, source)
                yield _way(pair, how)

    @cached_property
    def returns(self) -> Sequence[Way]:
        """All ways from the services' tables back to the monolith."""
        return tuple(
            Way(service.database, model.table, column, name[1], name[2], "value", origin.expression)
            for service in self.project.services.values()
            for model in self.reverse(service)
            if model.lineage and model.table in self.project.tables
            for column, origin in model.lineage.columns.items()
            for name in sorted(origin.values)
        )

    def columns(self, service: Service, model: Model) -> list[Column]:
        """Give the columns of a service's table: those of its database, and of its model."""
        database = service.database
        live = self.live(database, model.schema, model.table)
        names = dict.fromkeys([*model.columns, *(live.columns if live else ())])
        here = (database, model.table)
        ways = [one for one in self.ways if (one.service, one.table) == here]
        returns = [one for one in self.returns if (one.service, one.table) == here]
        results = self.results(service, model)
        found = []
        for name in names:
            known = model.columns.get(name)
            there = live.columns.get(name) if live else None
            origin = model.lineage.columns.get(name, Origin()) if model.lineage else Origin()
            said = known.description if known else ""
            found.append(
                Column(
                    name,
                    there.data_type if there else known.data_type if known else "",
                    said or (there.description if there else ""),
                    there,
                    [one for one in ways if one.column == name],
                    [one for one in returns if one.column == name],
                    origin.expression,
                    "",
                    [one for one in results if one.test.column == name],
                    _note(known is not None, live, there),
                )
            )
        return found

    def monolith_columns(self, table: str) -> list[Column]:
        """Give the columns of a table of the monolith, with where they go and what comes back."""
        live = self.monolith_live(table)
        known = self.project.tables[table]
        described = self.models.monolith.get(table)
        owner = self.project.services.get(known.owner)
        reverse = self.reverse(owner, table) if owner else []
        origins = reverse[0].lineage.columns if reverse and reverse[0].lineage else {}
        found = []
        for name in dict.fromkeys([*known.columns, *(live.columns if live else ())]):
            here = (table, name)
            ways = [one for one in self.ways if (one.monolith_table, one.monolith_column) == here]
            there = live.columns.get(name) if live else None
            said = described.columns.get(name, "") if described else ""
            found.append(
                Column(
                    name,
                    there.data_type if there else known.columns.get(name, ""),
                    said or (there.description if there else "") or self._borrowed(ways),
                    there,
                    ways,
                    [
                        one
                        for one in self.returns
                        if (one.monolith_table, one.monolith_column) == here
                    ],
                    origins.get(name, Origin()).expression,
                    self.dropped(table, name),
                    [],
                    _note(name in known.columns, live, there),
                )
            )
        return found

    def _borrowed(self, ways: Sequence[Way]) -> str:
        """Describe a column of the monolith by what the services say of it; its owner first."""
        for way in sorted(ways, key=lambda one: self._order(one)):
            model = next(
                (one for one in self.models.of[way.service] if one.table == way.table
                 and not one.is_reverse), None
            )  # fmt: skip
            known = model.columns.get(way.column) if model else None
            if known and known.description:
                return known.description + (f" There: {way.said}." if way.said else "")
        return ""

    def _order(self, way: Way) -> tuple[bool, bool, bool]:
        """Sort first what the owner holds as it is."""
        owner = self.project.tables[way.monolith_table].owner
        return (way.how != "value", way.service != owner, bool(way.said))

    def dropped(self, table: str, column: str) -> str:
        """Give the reason why a column of the monolith goes nowhere; else nothing."""
        return next(
            (
                one.reason
                for one in pairs(self.project)
                if one.monolith_table == table
                and one.monolith_column in (column, "*")
                and not one.service
            ),
            "",
        )

    def results(self, service: Service, model: Model) -> list[Result]:
        """Give a model's tests, and how each ended in the last build."""
        account = self.accounts.get(service.database)
        nodes = account.nodes("test", "unit_test", "parity") if account else []
        ended = {one["name"]: one for one in nodes}
        found = []
        for test in model.tests:
            last = ended.get(test.name, {})
            found.append(Result(test, last.get("status", ""), last.get("rows") or 0))
        return found

    def proofs(self, service: Service, table: str) -> list[Proof]:
        """Give how a table last compared with the monolith's, row by row."""
        account = self.accounts.get(service.database)
        return [one for one in account.proofs if one.table == table] if account else []


def gather(connections: Connections, on_node: Callable[[str], None] = lambda name: None) -> Facts:
    """Read the models, all databases and the ledger; writes nothing.

    Args:
        connections: where the databases are. Each may be down.
        on_node: called with the name of each model that is compiled and database that is read.

    Returns:
        What was found; what could not be read is named.

    Raises:
        BuildFailed: dbt can't compile a model.
    """
    project = connections.project
    found = models.read(connections, on_node)
    schemas = {
        one.database: sorted({one.mirror, *(m.schema for m in found.of[one.database])})
        for one in project.services.values()
    }
    schemas[project.name] = [project.schema, project.retired_schema]

    def read(target: str) -> Database:
        database = catalogue.read(target, schemas[target], connections)
        on_node(target)
        return database

    with ThreadPoolExecutor(min(len(schemas), 4 * (os.cpu_count() or 1))) as pool:
        databases = dict(zip(schemas, pool.map(read, schemas), strict=True))
    unread = {name: one.unread for name, one in databases.items() if one.unread}
    accounts: dict[str, Account] = {}
    try:
        services = tuple(project.services.values())
        for one in history.accounts(services, connections):
            accounts[one.service.database] = one
    except (SplitError, psycopg.Error) as error:
        unread[LEDGER] = catalogue.reason(error)
    return Facts(
        project,
        datetime.now(timezone.utc),
        found,
        databases,
        accounts,
        unread,
        mismatches(project, found.of),
    )


def _way(pair: Pair, how: str) -> Way:
    return Way(
        pair.service,
        pair.monolith_table,
        pair.monolith_column,
        pair.service_table,
        pair.service_column,
        how,
        pair.reason or "",
    )


def _note(is_known: bool, live: LiveTable | None, there: LiveColumn | None) -> str:
    """Say what is odd about a column: the project and the database don't both have it."""
    if live and not there:
        return "not in the database"
    return "" if is_known else "only in the database"
