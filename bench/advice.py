"""Finds what would speed up a slow query: an index that its table lacks, or a column to share."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

Plan = dict[str, Any]
Connection = psycopg.Connection[Any]

COLUMNS = """
    select own.attname, coalesce(bool_or(indkey[0] = own.attnum), false) as is_indexed
    from pg_attribute as own
    left join pg_index on indrelid = own.attrelid
    where own.attrelid = %s::regclass and own.attnum > 0 and not own.attisdropped
    group by own.attname
"""
PLANNED = 11
WORTH = 0.9  # an index that saves less than a tenth of the plan's cost is none


def indexes(database: Connection, statement: str, parameters: Mapping[str, Any]) -> list[str]:
    """Name the indexes that make PostgreSQL's plan cheaper by more than a tenth.

    Each is tried: created in a transaction that is rolled back.

    Args:
        database: the service's database, in autocommit mode.
        statement: the query.
        parameters: those of a call.

    Returns:
        Lines for the models' configuration, such as `payments: {columns: [receiver_id]}`.
    """
    plan = _plan(database, statement, parameters)
    found = []
    for schema, table, columns in _filtered(database, plan):
        with database.transaction(force_rollback=True):
            database.execute(
                sql.SQL("create index on {} ({})").format(
                    sql.Identifier(schema, table), sql.SQL(", ").join(map(sql.Identifier, columns))
                )
            )
            cost = _plan(database, statement, parameters)["Total Cost"]
        if cost < plan["Total Cost"] * WORTH:
            found.append(f"{table}: {{columns: [{', '.join(columns)}]}}")
    return found


def shares(database: Connection, statement: str, parameters: Mapping[str, Any]) -> list[str]:
    """Name the tables that a query reads, of which columns would have to be shared."""
    plan = _plan(database, statement, parameters)
    return sorted({node["Relation Name"] for node in _nodes(plan) if "Relation Name" in node})


def planning(database: Connection, statement: str, parameters: Mapping[str, Any]) -> float:
    """Give the milliseconds that planning a query takes: the median of some tries."""
    return statistics.median(
        float(_explained(database, statement, parameters, "summary, ")["Planning Time"])
        for _ in range(PLANNED)
    )


def copies(database: Connection, statement: str, parameters: Mapping[str, Any]) -> list[str]:
    """Name the shared tables that a query reads through a read-through cache."""
    found = []
    for node in _nodes(_plan(database, statement, parameters)):
        if match := re.fullmatch(r"get_shared_(\w+)", node.get("Function Name", "")):
            found.append(f"{node['Schema']}.shared_{match[1]}s")
    return found


def _plan(database: Connection, statement: str, parameters: Mapping[str, Any]) -> Plan:
    plan: Plan = _explained(database, statement, parameters)["Plan"]
    return plan


def _explained(
    database: Connection, statement: str, parameters: Mapping[str, Any], options: str = ""
) -> dict[str, Any]:
    with psycopg.ClientCursor(database) as cursor:
        row = cursor.execute(
            f"explain ({options}format json, verbose) {statement}".encode(), dict(parameters)
        ).fetchone()
    assert row is not None
    found: dict[str, Any] = row[0][0]
    return found


def _nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


def _filtered(database: Connection, plan: Plan) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Give the columns by which whole tables are filtered, and which no index begins with."""
    for node in _nodes(plan):
        if "Relation Name" not in node or "Filter" not in node:
            continue
        schema, table = node["Schema"], node["Relation Name"]
        words = set(re.findall(r"\w+", node["Filter"]))
        known = database.execute(COLUMNS, (f'"{schema}"."{table}"',)).fetchall()
        for column, is_indexed in known:
            if column in words and not is_indexed:
                yield schema, table, [column]
