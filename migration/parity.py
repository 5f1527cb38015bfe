"""Looks for references between services that lead nowhere, in all databases at one cut."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from migration import catalog, dbt, feed
from migration.connections import Connections
from migration.errors import BuildFailed, DataDiffers
from migration.ledger import State, state
from migration.services import MONOLITH, SERVICES_BY_NAME, Service
from migration.sync import arrive, carry_over, ready

SAMPLES = 5
AT_ONCE = 2

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
    """A column of one service that refers to rows of another, and the rows that lead nowhere.

    `had_key` tells whether the monolith had a foreign key for it: then an orphan is an error, and
    `on_delete` says what that key did, `restrict` or `set null`.
    `stored_in` is the table of the schema `audit` that holds all of them.
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


@dataclass(frozen=True)
class Parity:
    """Every reference that was followed."""

    references: tuple[Reference, ...]

    @property
    def broken(self) -> list[Reference]:
        """Those with orphans, the errors first."""
        found = [one for one in self.references if one.orphans]
        return sorted(found, key=lambda one: (not one.had_key, one.service, one.table, one.column))


def parity(
    services: Sequence[Service],
    connections: Connections,
    on_service: Callable[[Service], None] = lambda service: None,
) -> Parity:
    """Follow every reference between services to the row that it names.

    The databases are first brought to where the truth stood at one moment, and the tagged dbt tests
    are run in each. What seems to lead nowhere, though it had a key, is looked at again after
    another such moment: on a living system a row may just be on its way. Those rows are orphans
    that were found both times.

    Args:
        services: services that have been built.
        connections: where the servers are.
        on_service: called with each service that has been looked at.

    Returns:
        Every reference, with the rows that lead nowhere.

    Raises:
        NotReady: a service has not been built, or replication has stopped.
        BuildFailed: dbt could not run the tests.
    """
    _bring_to_one_cut(services, connections)
    first = _run_all(services, connections, {service: ["tag:parity"] for service in services})
    suspects = {
        service: {name: one for name, one in found.items() if one.orphans and one.had_key}
        for service, found in first.items()
    }
    suspects = {service: found for service, found in suspects.items() if found}
    if suspects:
        for service, found in _look_again(suspects, connections).items():
            first[service].update(found)
    references = []
    for service in services:
        ordered = sorted(
            first[service].values(), key=lambda one: (one.owner, one.table, one.column)
        )
        references += [_with_samples(one, connections) for one in ordered]
        on_service(service)
    return Parity(tuple(references))


def difference(found: Parity) -> DataDiffers | None:
    """Give the error that ends the command if a reference that had a key leads nowhere."""
    wrong = [one for one in found.broken if one.had_key]
    if not wrong:
        return None
    orphans = sum(one.orphans for one in wrong)
    return DataDiffers(
        f"References that had a foreign key in the monolith and lead nowhere: {orphans}.",
        where=", ".join(f"{one.service}.{one.table}.{one.column}" for one in wrong),
        mend="runner.py reconcile",
    )


def _bring_to_one_cut(services: Sequence[Service], connections: Connections) -> None:
    """Bring all to a moment later than now: what was true before it can be judged.

    What a switched owner has written comes by way of the monolith, so that goes first.
    """
    owners = {owner for service in services for owner in feed.owners(service)}
    with connections.connect(MONOLITH) as monolith:
        switched = [
            one
            for one in SERVICES_BY_NAME.values()
            if one in owners and state(monolith, one) is State.SWITCHED
        ]
    for service in switched:
        with ready(service, connections) as route:
            carry_over(route.database)
            if route.back:
                route.back.arrive()
    for service in services:
        with ready(service, connections) as route:
            arrive(route)
            carry_over(route.database)


def _look_again(
    suspects: dict[Service, dict[str, Reference]], connections: Connections
) -> dict[Service, dict[str, Reference]]:
    """Follow references once more, at another cut; only what is found both times is an orphan."""
    with ExitStack() as stack:
        databases = {
            service: stack.enter_context(connections.connect(service.database))
            for service in suspects
        }
        for service, found in suspects.items():
            for one in found.values():
                databases[service].execute(_render(NOTE, one, databases[service]))
        _bring_to_one_cut(list(suspects), connections)
        again = _run_all(
            list(suspects),
            connections,
            {service: list(found) for service, found in suspects.items()},
        )
        for service, found in again.items():
            for name, one in found.items():
                if one.orphans:
                    forgotten = databases[service].execute(_render(FORGET, one, databases[service]))
                    found[name] = replace(one, orphans=one.orphans - forgotten.rowcount)
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
    """Name the column that is a service table's key."""
    row = database.execute(
        "select attname from pg_index"
        " inner join pg_attribute on attrelid = indrelid and attnum = indkey[0]"
        " where indrelid = to_regclass(%s) and indisprimary",
        (f"{schema}.{table}",),
    ).fetchone()
    assert row is not None  # every service table has one
    return str(row[0])


def _run_all(
    services: Sequence[Service], connections: Connections, select: dict[Service, list[str]]
) -> dict[Service, dict[str, Reference]]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = {
            service: pool.submit(_run, service, connections, select[service])
            for service in services
        }
        return {service: future.result() for service, future in running.items()}


def _run(service: Service, connections: Connections, select: list[str]) -> dict[str, Reference]:
    """Run some of a service's parity tests; give what they found by the test's name."""
    folder = dbt.run(
        ["test", "--select", *select], service.database, connections, "run_results.json"
    )
    results = json.loads((folder / "run_results.json").read_text(encoding="utf-8"))["results"]
    nodes = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["nodes"]
    found = {}
    for result in results:
        node = nodes[result["unique_id"]]
        if result["status"] in ("error", "runtime error", "skipped"):
            raise BuildFailed(
                f"The test {node['name']} could not run: {result['message']}",
                where=service.database,
                mend=f"dbt test --target {service.database} --select {node['name']}",
            )
        if "parity" in node["tags"]:
            found[node["name"]] = _reference(service, node, int(result["failures"] or 0))
    return found


def _reference(service: Service, node: dict[str, Any], orphans: int) -> Reference:
    arguments = node["test_metadata"]["kwargs"]
    return Reference(
        service.database,
        Path(node["original_file_path"]).stem,
        arguments["column_name"],
        catalog.expected()[arguments["owner"]].owner,
        arguments["owner"],
        node["config"]["severity"].lower() == "error",
        arguments.get("on_delete", "restrict"),
        orphans,
        f"{node['schema']}.{node['alias']}",
    )


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
        rows = tuple(dict(zip(names, row, strict=True)) for row in cursor)
    return replace(one, samples=rows)
