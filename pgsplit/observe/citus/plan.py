"""How a completed service's tables are distributed over the servers of a Citus cluster, as SQL."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from psycopg.rows import dict_row
from psycopg.sql import Literal

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe
from pgsplit.project.project import SHARED_FOLDER, Service
from pgsplit.replication.slot import Connection

HERE = Path(__file__).parent
HEAD, TABLES, CHANGES = (
    (HERE / name).read_text(encoding="utf-8") for name in ("head.sql", "tables.sql", "changes.sql")
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """A key, foreign key or trigger that Citus refuses as it is, what becomes of it, and why."""

    table: str
    name: str
    becomes: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """The statements that distribute a service's tables, and what they change.

    `together` has groups of columns: rows that have one value in them are on one server.
    """

    text: str
    changes: tuple[Change, ...]
    together: tuple[tuple[str, ...], ...]
    everywhere: tuple[str, ...]


def plan(service: Service, database: Connection) -> Plan | None:
    """Plan what the models of a completed service ask for; reads only.

    Args:
        service: the service.
        database: a connection to its database.

    Returns:
        The plan; nothing if no model says `distribute_by` or `reference_table`.

    Raises:
        NotReady: a table can't be distributed as its model says.
    """
    wishes = _wishes(service)
    if not wishes:
        return None
    settings = {"service_schema": service.database, "distribution": json.dumps(wishes)}
    for name, value in settings.items():
        database.execute("select set_config(%s, %s, false)", (f"split.{name}", value))
    with database.cursor(row_factory=dict_row) as cursor:
        tables = {row["full_name"]: row for row in cursor.execute(TABLES).fetchall()}
        for table in tables.values():
            _refuse(table, describe(database.info.dsn))
        found = cursor.execute(CHANGES).fetchall()
    order = _in_order(tables, found, describe(database.info.dsn))
    changed = [row for row in found if row["reason"]]
    groups: dict[str, list[Row]] = {}
    for table in order:
        if table["column_name"]:
            groups.setdefault(table["hashed_as"], []).append(table)
    return Plan(
        "\n".join(_lines(service, changed, order, groups, database)) + "\n",
        tuple(
            Change(row["full_name"], row["name"], row["becomes"], row["reason"])
            for row in changed
            if row["becomes"]
        ),
        tuple(
            tuple(f"{one['table_name']}.{one['column_name']}" for one in group)
            for group in groups.values()
        ),
        tuple(one["table_name"] for one in order if not one["column_name"]),
    )


def _wishes(service: Service) -> Mapping[str, str | None]:
    """Give the distribution column of each table whose model asks; none for a reference table."""
    found: dict[str, str | None] = {}
    for folder in (SHARED_FOLDER, Path("models") / service.database):
        for path, name, meta in service.project.models(folder):
            by, reference = meta.get("distribute_by"), meta.get("reference_table")
            if by is None and not reference:
                continue
            if folder == SHARED_FOLDER:
                raise NotReady(
                    f"The model {name} distributes a copy of another service's rows, which only"
                    " syncs write. Nothing was written.",
                    where=str(path),
                    hint="Remove distribute_by or reference_table there. Queries may join a table"
                    " that stays on one server.",
                )
            if (by is not None and reference) or not isinstance(by, str | None):
                raise NotReady(
                    f"The model {name} does not say how its table is distributed. Nothing was"
                    " written.",
                    where=str(path),
                    hint="Give it one of the two: distribute_by: COLUMN, or reference_table: true",
                )
            found[name] = by
    return found


def _refuse(table: Row, where: str) -> None:
    """Refuse a table that can't be distributed as its model says."""
    name, column, model = table["full_name"], table["column_name"], table["table_name"]
    possible = ", ".join(table["possible"])
    if not table["is_there"]:
        raise NotReady(
            f"{name} is not a table of the service, and its model says how it is distributed."
            " Nothing was written.",
            where=where,
            hint=f"Remove distribute_by or reference_table from the model {model}.",
        )
    if table["is_followed"]:
        raise NotReady(
            f"{name} has triggers that keep other services' copies of its rows up to date. Citus"
            " runs no triggers on a distributed table. Nothing was written.",
            where=where,
            hint=f"Remove distribute_by or reference_table from the model {model} until nobody"
            " shares its columns.",
        )
    if column is None:
        if table["is_partitioned"]:
            raise NotReady(
                f"{name} is partitioned, and Citus has no partitioned reference tables. Nothing was"
                " written.",
                where=where,
                hint=f"Let the model {model} say distribute_by instead; possible are: {possible}",
            )
    elif not table["has_column"] or table["is_generated"]:
        raise NotReady(
            f"{name} has no column {column} that is stored as it is written, and its model says"
            " distribute_by. Nothing was written.",
            where=where,
            hint=f"Let the model {model} name another column; possible are: {possible}",
        )
    elif table["is_nullable"]:
        raise NotReady(
            f"{name}.{column} may be null, and its model says distribute_by. A row without a value"
            " would be on no server. Nothing was written.",
            where=where,
            hint=f"alter table {name} alter column {table['quoted_column']} set not null;",
        )


def _in_order(tables: Mapping[str, Row], found: list[Row], where: str) -> list[Row]:
    """Put reference tables first, and each table after those that its foreign keys lead to."""
    before: dict[str, set[str]] = {name: set() for name in tables}
    for row in found:
        child, parent = row["full_name"], row["refers_to"]
        if not row["reason"] and child != parent and {child, parent} <= tables.keys():
            before[child].add(parent)
    try:
        order = [tables[name] for name in TopologicalSorter(before).static_order()]
    except CycleError as error:
        circle = list(dict.fromkeys(error.args[1]))
        raise NotReady(
            f"The foreign keys of these tables lead in a circle: {', '.join(circle)}. Citus wants"
            " the table that one leads to first. Nothing was written.",
            where=where,
            hint="Drop one of them by a migration.",
        ) from error
    return sorted(order, key=lambda one: bool(one["column_name"]))


def _lines(
    service: Service,
    changed: list[Row],
    order: list[Row],
    groups: Mapping[str, list[Row]],
    database: Connection,
) -> Iterator[str]:
    """Write the file: what Citus refuses is changed first, then tables are distributed."""

    def literal(value: str) -> str:
        return Literal(value).as_string(database)

    yield f"-- Distributes the tables of {service.database} over the servers of a Citus cluster."
    yield "-- All of it happens, or nothing. Call it with: psql -v ON_ERROR_STOP=1 -f citus.sql"
    yield HEAD
    for row in changed:
        yield f"-- {row['name']}: {row['reason']}".replace("\n", " ")
        yield from (f"{statement};" for statement in row["statements"])
        yield ""
    for table in order:
        name = literal(table["full_name"])
        if not table["column_name"]:
            yield f"select create_reference_table({name});"
            continue
        first = groups[table["hashed_as"]][0]
        beside = "none" if first is table else first["full_name"]
        yield (
            f"select create_distributed_table({name}, {literal(table['column_name'])},"
            f" colocate_with => {literal(beside)});"
        )
    yield "\ncommit;"


def page(made: Plan) -> Iterator[str]:
    """Write the part of the team's page that says what becomes of the tables.

    Args:
        made: the plan.

    Yields:
        Lines of Markdown.
    """
    yield "\n## On several servers\n"
    yield "`citus.sql` distributes the tables over the servers of a Citus cluster. Nothing has run"
    yield "it; try it on a copy first."
    yield ""
    for group in made.together:
        yield f"- Rows with the same value are on one server: {', '.join(group)}."
        yield "  A query that names the value asks this server, and a join on these columns stays"
        yield "  there. Other queries ask all servers."
    if made.everywhere:
        yield f"- All rows are on every server: {', '.join(made.everywhere)}. Any query may join"
        yield "  them."
    yield "- A row's distribution column never changes, and each new row has one."
    yield "- `on conflict`, and so an upsert of an ORM, names all columns of the key as it becomes."
    yield ""
    if not made.changes:
        yield "No key, foreign key or trigger has to change."
        return
    yield "| table | what | becomes | why |"
    yield "|---|---|---|---|"
    for one in made.changes:
        cells = (one.table, one.name, one.becomes, one.reason)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
