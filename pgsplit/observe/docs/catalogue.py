"""What the databases themselves say about their tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from pgsplit.base.errors import SplitError
from pgsplit.postgres.connect import describe
from pgsplit.project.endpoints import Connections

TABLES = Path(__file__).with_name("catalogue.sql").read_text("utf-8")
CONNECT_SECONDS = 3
SCHEMAS = "select set_config('split.schemas', %s, true)"
MANNERS = "set local lock_timeout = '1s'; set local statement_timeout = '20s'"


@dataclass(frozen=True)
class LiveColumn:
    """A column as a database has it."""

    name: str
    data_type: str
    is_required: bool
    default: str
    description: str
    is_key: bool


@dataclass(frozen=True)
class LiveTable:
    """A table as a database has it; `rows` is None if nobody knows."""

    owner: str
    description: str
    rows: int | None
    is_estimate: bool
    columns: Mapping[str, LiveColumn]


@dataclass(frozen=True)
class Database:
    """A target's database: its name, its server, and its tables by schema and name.

    `unread` says why it could not be read; then there are no tables.
    """

    name: str = ""
    where: str = ""
    version: str = ""
    tables: Mapping[tuple[str, str], LiveTable] | None = None
    unread: str = ""


def read(target: str, schemas: Sequence[str], connections: Connections) -> Database:
    """Read a target's tables in a read-only transaction.

    Args:
        target: the monolith or a service.
        schemas: the schemas to read.
        connections: where it is.

    Returns:
        The database; one that can't be read says why.
    """
    try:
        where = describe(connections.url(target))
        with connections.connect_to_any(target, connect_timeout=CONNECT_SECONDS) as database:
            database.read_only = True
            database.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            with database.transaction():
                database.execute(MANNERS)
                tables = _tables(database, schemas)
            version = database.info.parameter_status("server_version") or ""
            return Database(database.info.dbname, where, version, tables)
    except (SplitError, psycopg.Error) as error:
        return Database(unread=reason(error))


def reason(error: SplitError | psycopg.Error) -> str:
    """Give what went wrong in a line."""
    said = error.what if isinstance(error, SplitError) else error.diag.message_primary
    return " ".join((said or str(error)).split())


def _tables(
    database: psycopg.Connection[Any], schemas: Sequence[str]
) -> dict[tuple[str, str], LiveTable]:
    database.execute(SCHEMAS, (json.dumps(list(schemas)),))
    found = {}
    rows = database.execute(TABLES.encode()).fetchall()
    for schema, name, owner, description, estimate, is_countable, columns in rows:
        counted = _count(database, str(schema), str(name)) if is_countable else None
        found[str(schema), str(name)] = LiveTable(
            str(owner),
            str(description),
            estimate if counted is None else counted,
            counted is None,
            {one["name"]: LiveColumn(**one) for one in columns},
        )
    return found


def _count(database: psycopg.Connection[Any], schema: str, table: str) -> int | None:
    """Count a table's rows; None if somebody has locked it, or its policies hide rows."""
    query = sql.SQL("select count(*) from only {}").format(sql.Identifier(schema, table))
    try:
        with database.transaction():
            row = database.execute(query).fetchone()
    except psycopg.Error:
        if database.broken:
            raise
        return None
    return int(row[0]) if row else None
