"""Finds broken references between services, with all databases at one moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import errors, sql

from pgsplit.base.errors import BuildFailed, DataDiffers
from pgsplit.postgres.connect import describe
from pgsplit.postgres.holders import patience
from pgsplit.project import dbt
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import shared
from pgsplit.replication.independent import on_their_own, open_streams
from pgsplit.replication.own_changes import can_tell_of_completed
from pgsplit.replication.sync import apply_changes, bring_up
from pgsplit.replication.upstreams import Upstreams
from pgsplit.state.control import open_control
from pgsplit.state.ledger import State, state

SAMPLES = 5
AT_ONCE = 4

TESTS = """
    select
        name, table_name, column_name, owner_table, severity, on_delete,
        stored_schema || '.' || stored_table, definition
    from split.parity_tests
    where {condition}
    order by name
"""
# Its team may have removed a column of a completed service's tables.
CAN_RUN = """
    (select completed_at is null from split.service) or split.cannot_run(definition) is null
"""

RECORD = """
    update split.parity_tests set orphans = found.orphans, checked_at = clock_timestamp()
    from unnest(%s::text[], %s::bigint[]) as found (name, orphans)
    where parity_tests.name = found.name
"""
NOTE = """
    create temporary table {note} as select {key} as key, {column} as value from {orphans}
"""
FORGET = """
    delete from {orphans} as found
    where not exists (
        select from {note} as note where note.key = found.{key} and note.value = found.{column}
    )
"""


@dataclass(frozen=True, eq=False)
class Reference:
    """A column of one service that refers to rows of another, and its orphans.

    `had_key` tells whether the monolith had a foreign key for it. If so, an orphan is an error, and
    `on_delete` is that key's action, `restrict` or `set null`. `stored_in` is the table in the
    schema `audit` with all orphans.
    """

    service: str
    table: str
    column: str
    owner: str
    owner_table: str
    had_key: bool
    on_delete: str
    orphans: int
    stored_in: str
    samples: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, eq=False)
class _Test:
    """A dbt test of a reference: its name, and the SQL that finds the orphans."""

    name: str
    reference: Reference
    definition: str


@dataclass(frozen=True)
class Parity:
    """All references that were checked."""

    references: tuple[Reference, ...]

    @property
    def broken(self) -> list[Reference]:
        """The references with orphans, the errors first."""
        found = [one for one in self.references if one.orphans]
        return sorted(found, key=lambda one: (not one.had_key, one.service, one.table, one.column))


def parity(
    services: Sequence[Service],
    connections: Connections,
    on_service: Callable[[Service], None] = lambda service: None,
) -> Parity:
    """Check every reference between services.

    First, all databases are brought up to one moment. Then the dbt tests tagged `parity` run in
    each, as the SQL that the last build recorded there, since dbt takes seconds to start. On a
    living system a row may not have arrived yet. So references that had a key and seem broken are
    checked again at a later moment; an orphan is what both checks find.

    Args:
        services: services that have been built.
        connections: where the servers are.
        on_service: called with each service that has been checked.

    Returns:
        Every reference, with its orphans.

    Raises:
        NotReady: a service has not been built, or replication has stopped.
        BuildFailed: a test can't run.
    """
    tests = [test for service in services for test in _tests(service, connections)]
    _bring_to_one_cut(services, connections)
    found = dict(zip(tests, _follow(tests, connections), strict=True))
    suspects = [test for test, one in found.items() if one.orphans and one.had_key]
    if suspects:
        found.update(_look_again(suspects, connections))
    references = []
    for service in services:
        _record(service, found, connections)
        ordered = sorted(
            (one for one in found.values() if one.service == service.database),
            key=lambda one: (one.owner, one.table, one.column),
        )
        references += [_with_samples(one, connections) for one in ordered]
        on_service(service)
    return Parity(tuple(references))


def difference(found: Parity) -> DataDiffers | None:
    """Give the command's error if a reference that had a key is broken."""
    wrong = [one for one in found.broken if one.had_key]
    if not wrong:
        return None
    orphans = sum(one.orphans for one in wrong)
    return DataDiffers(
        f"Broken references that had a foreign key in the monolith: {orphans}.",
        where=", ".join(f"{one.service}.{one.table}.{one.column}" for one in wrong),
        hint="runner.py reconcile",
    )


def _bring_to_one_cut(services: Sequence[Service], connections: Connections) -> None:
    """Bring all databases up to one moment after now.

    A switched owner's changes come through the monolith, so its reverse stream goes first.
    """
    alone = on_their_own(services, connections)
    needing = [one for one in services if one not in alone]
    for service in _switched_owners(needing, connections):
        with open_streams(service, connections) as found:
            apply_changes(found.database)
            if isinstance(found, Upstreams) and found.back:
                found.back.arrive()
    for service in services:
        with open_streams(service, connections) as found:
            bring_up(found)


def _switched_owners(services: Sequence[Service], connections: Connections) -> list[Service]:
    """Find the switched services whose tables some services share."""
    owners = {owner for service in services for owner in shared.owners(service)}
    if not owners:
        return []
    with open_control(connections) as monolith:
        return [
            one
            for one in connections.project.services.values()
            if one in owners and state(monolith, one) is State.SWITCHED
        ]


def _look_again(suspects: Sequence[_Test], connections: Connections) -> dict[_Test, Reference]:
    """Check references again, at a later moment; an orphan is what both checks find."""
    with ExitStack() as stack:
        databases = {
            name: stack.enter_context(connections.connect(name))
            for name in {test.reference.service for test in suspects}
        }
        for test in suspects:
            database = databases[test.reference.service]
            database.execute(_render(NOTE, test.reference, database))
        _bring_to_one_cut([connections.project.services[name] for name in databases], connections)
        again = dict(zip(suspects, _follow(suspects, connections), strict=True))
        for test, one in again.items():
            if one.orphans:
                database = databases[one.service]
                forgotten = database.execute(_render(FORGET, one, database))
                again[test] = replace(one, orphans=one.orphans - forgotten.rowcount)
    return again


def _render(template: Any, one: Reference, database: psycopg.Connection[Any]) -> sql.Composed:
    schema, table = one.stored_in.split(".", 1)
    return sql.SQL(template).format(
        note=sql.Identifier("pg_temp", table),
        orphans=sql.Identifier(schema, table),
        key=sql.Identifier(key_of(database, one.service, one.table)),
        column=sql.Identifier(one.column),
    )


def key_of(database: psycopg.Connection[Any], schema: str, table: str) -> str:
    """Name the key column of a service's table."""
    row = database.execute(
        "select attname from pg_index"
        " inner join pg_attribute on attrelid = indrelid and attnum = indkey[0]"
        " where indrelid = to_regclass(%s) and indisprimary",
        (f"{schema}.{table}",),
    ).fetchone()
    assert row is not None  # every service table has one
    return str(row[0])


def _follow(references: Sequence[_Test], connections: Connections) -> list[Reference]:
    """Run parity tests in parallel; each stores the rows that it finds, as dbt does."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda one: _run(one, connections), references))


def _run(test: _Test, connections: Connections) -> Reference:
    """Run one parity test and store the rows that it finds; atomic, and one at a time."""
    one = test.reference
    stored = sql.Identifier(*one.stored_in.split(".", 1))
    with connections.connect(one.service) as database:
        try:
            with database.transaction():
                database.execute(
                    "select from split.parity_tests where name = %s for update", (test.name,)
                )
                with patience(database):
                    database.execute(sql.SQL("drop table if exists {}").format(stored))
                    found = database.execute(
                        sql.SQL("create table {} as {}").format(stored, sql.SQL(test.definition))
                    )
        except (errors.ProgrammingError, errors.DataError) as error:
            raise BuildFailed(
                f"The test {test.name} can't run: {error.diag.message_primary}",
                where=describe(connections.urls[one.service]),
                hint=f"dbt test --target {one.service} --select {test.name}",
            ) from error
    return replace(one, orphans=found.rowcount)


def _record(service: Service, found: Mapping[_Test, Reference], connections: Connections) -> None:
    """Keep what was found beside the tests, for health and metrics."""
    orphans = {
        test.name: one.orphans for test, one in found.items() if one.service == service.database
    }
    with connections.connect(service.database) as database:
        try:
            database.execute(RECORD, (list(orphans), list(orphans.values())))
        except errors.UndefinedColumn:
            return  # an earlier version has recorded the tests; the next build adds the columns


def _tests(service: Service, connections: Connections) -> list[_Test]:
    """Read a service's parity tests, as the last build recorded them."""
    with connections.connect(service.database) as database:
        kept = database.execute("select to_regclass('split.parity_tests') is not null").fetchone()
        if kept == (False,):  # built by a version that did not record them; running them does
            all_of_them = ["test", "--select", "tag:parity"]
            dbt.run(all_of_them, service.database, connections, "run_results.json")
        condition = CAN_RUN if can_tell_of_completed(database) else "true"
        found = database.execute(sql.SQL(TESTS).format(condition=sql.SQL(condition))).fetchall()
    tables = service.project.tables
    return [
        _Test(
            name,
            Reference(
                service.database,
                table,
                column,
                tables[owner_table].owner,
                owner_table,
                severity == "error",
                on_delete,
                0,
                stored_in,
            ),
            definition,
        )
        for name, table, column, owner_table, severity, on_delete, stored_in, definition in found
    ]


def _with_samples(one: Reference, connections: Connections) -> Reference:
    if not one.orphans:
        return one
    schema, table = one.stored_in.split(".", 1)
    with connections.connect(one.service) as database:
        cursor = database.execute(
            sql.SQL("select * from {} limit {}").format(
                sql.Identifier(schema, table), sql.Literal(SAMPLES)
            )
        )
        names = [column.name for column in cursor.description or ()]
        # As text, since a column may hold times that Python does not know, such as infinity.
        found, rows = cursor.pgresult, range(cursor.rowcount)
        assert found is not None
        samples = tuple(
            {name: _text(found.get_value(row, place)) for place, name in enumerate(names)}
            for row in rows
        )
    return replace(one, samples=samples)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()
