"""Reads a service's tables from its database, and says each column in Prisma's types."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe
from pgsplit.project.project import Service

TABLES_SQL = Path(__file__).with_name("tables.sql").read_text(encoding="utf-8")
# PostgreSQL's types, each with Prisma's type and, unless it is the usual one, its @db.… attribute.
TYPES = {
    "text": ("String", ""),
    "character varying": ("String", "VarChar"),
    "character": ("String", "Char"),
    "uuid": ("String", "Uuid"),
    "citext": ("String", "Citext"),
    "xml": ("String", "Xml"),
    "inet": ("String", "Inet"),
    "bit": ("String", "Bit"),
    "bit varying": ("String", "VarBit"),
    "smallint": ("Int", "SmallInt"),
    "integer": ("Int", ""),
    "bigint": ("BigInt", ""),
    "oid": ("Int", "Oid"),
    "boolean": ("Boolean", ""),
    "numeric": ("Decimal", "Decimal"),
    "money": ("Decimal", "Money"),
    "double precision": ("Float", ""),
    "real": ("Float", "Real"),
    "timestamp without time zone": ("DateTime", "Timestamp"),
    "timestamp with time zone": ("DateTime", "Timestamptz"),
    "date": ("DateTime", "Date"),
    "time without time zone": ("DateTime", "Time"),
    "time with time zone": ("DateTime", "Timetz"),
    "jsonb": ("Json", ""),
    "json": ("Json", "Json"),
    "bytea": ("Bytes", ""),
}
METHODS = {"btree": "", "hash": ", type: Hash", "gin": ", type: Gin"}
FLOATS = ("double precision", "real")
USUAL = ("@db.Timestamp(3)",)
TYPE = re.compile(r"([a-z ]+?)(?:\((\d+(?:,\d+)?)\))?( with(?:out)? time zone)?(\[\])?")
TEXT_LITERAL = re.compile(r"'((?:[^']|'')*)'(?:::[\w .\"\[\]()]+)?")
NUMBER = re.compile(r"\(?'?(-?\d+(?:\.\d+)?)'?\)?(?:::[\w ]+)?")
NOW = re.compile(r"now\(\)|current_timestamp(\(\d\))?", re.IGNORECASE)
NUMBERS = ("Int", "BigInt", "Float", "Decimal")


@dataclass(frozen=True)
class Enum:
    """An enum type of the database."""

    name: str
    schema: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """A column as the database defines it."""

    name: str
    type: str
    enum: Enum | None
    is_list: bool
    is_required: bool
    has_sequence: bool
    is_generated: bool
    default: str | None

    def prisma_default(self, prisma: str) -> str:
        """Give the database's default as an attribute's text; nothing if there is none."""
        if self.has_sequence:
            return "autoincrement()"
        text = self.default
        if text is None:
            return ""
        literal = TEXT_LITERAL.fullmatch(text)
        if self.is_list:
            return "[]" if literal and literal[1] == "{}" else _by_database(text)
        if self.enum and literal:
            return literal[1].replace("''", "'")
        if prisma in ("String", "Json") and literal:
            return json.dumps(literal[1].replace("''", "'"), ensure_ascii=False)
        number = NUMBER.fullmatch(text) if prisma in NUMBERS else None
        if number and (prisma in ("Float", "Decimal") or "." not in number[1]):
            return number[1]
        if prisma == "Boolean" and text in ("true", "false"):
            return text
        if prisma == "DateTime" and NOW.fullmatch(text):
            return "now()"
        return _by_database(text)


@dataclass(frozen=True)
class Index:
    """An index; `is_plain` if it is on columns, on all rows, with the usual operators."""

    name: str
    is_primary: bool
    is_unique: bool
    method: str
    is_plain: bool
    columns: tuple[str, ...]

    @property
    def is_sayable(self) -> bool:
        """Whether Prisma has words for it. Only a B-tree is unique in Prisma's sense."""
        return self.is_plain and self.method in (("btree",) if self.is_unique else METHODS)


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key to another table of the same schema."""

    name: str
    columns: tuple[str, ...]
    table: str
    referenced: tuple[str, ...]
    on_delete: str
    on_update: str


@dataclass(frozen=True)
class Table:
    """A service's table. `owned_rows` is the condition of the rows that the service writes."""

    name: str
    owned_rows: str
    tombstone: str | None
    columns: tuple[Column, ...]
    indexes: tuple[Index, ...]
    foreign_keys: tuple[ForeignKey, ...]
    checks: tuple[str, ...]

    @property
    def is_read_only(self) -> bool:
        """Whether the split alone writes it."""
        return self.owned_rows == "false"

    @property
    def keys(self) -> list[Index]:
        """Its unique indexes that Prisma can say; the primary key first."""
        found = [one for one in self.indexes if one.is_unique and one.is_sayable]
        return sorted(found, key=lambda one: not one.is_primary)

    def is_unique(self, columns: Sequence[str]) -> bool:
        """Tell whether at most one row has given values in these columns."""
        return any(set(one.columns) == set(columns) for one in self.keys)


def read(database: psycopg.Connection[Any], service: Service) -> dict[str, Table]:
    """Read the tables in a service's schema.

    Args:
        database: a connection to its database.
        service: the service.

    Returns:
        Its tables by name: those that the split made, and those that the service has added.

    Raises:
        NotReady: its tables have not been built yet.
    """
    ready = database.execute(
        "select to_regclass('split.service_tables') is not null"
        " and to_regclass('split.inboxes') is not null"
    ).fetchone()
    built = ready == (True,) and database.execute("select from split.service_tables").rowcount
    if not built:
        raise NotReady(
            f"The tables of {service.database} have not been built yet.",
            where=describe(database.info.dsn),
            hint=f"runner.py run {service.role}",
        )
    inboxes = {one.inbox for one in service.project.shared_models if one.has_events}
    with database.transaction():
        # A type or function of another schema is named with it.
        database.execute("set local search_path = pg_catalog")
        database.execute("select set_config('split.service_schema', %s, true)", (service.database,))
        found = database.execute(TABLES_SQL).fetchall()
    return {one["name"]: _table(one, inboxes) for (one,) in found}


def prisma_type(type_: str, before: str = "") -> tuple[str, str]:
    """Give Prisma's type, and the attribute that says the exact one.

    Args:
        type_: a column's type, as PostgreSQL writes it.
        before: the type of the monolith's column, if this one has its values. A number that was
            floating there stays one for the application's code: Prisma reads `numeric` so, too.
    """
    found = TYPE.fullmatch(type_)
    name = found[1] + (found[3] or "") if found else ""
    if not found or name not in TYPES:
        return f"Unsupported({json.dumps(type_.removesuffix('[]'), ensure_ascii=False)})", ""
    prisma, native = TYPES[name]
    if prisma == "Decimal" and before.removesuffix("[]") in FLOATS:
        return "Float", ""
    size = f"({found[2].replace(',', ', ')})" if found[2] else ""
    if name.startswith("time") and not size:
        size = "(6)"
    exact = f"@db.{native}{size}" if native else ""
    return prisma, "" if exact in USUAL else exact


def identifier(text: str) -> str:
    """Make a name that Prisma accepts: letters, digits and underscores, a letter first."""
    name = re.sub(r"\W", "_", text.lstrip("0123456789_"), flags=re.ASCII)
    return name.lstrip("_") or "unnamed"


def _by_database(expression: str) -> str:
    return f"dbgenerated({json.dumps(expression, ensure_ascii=False)})"


def _table(found: dict[str, Any], inboxes: set[str]) -> Table:
    owned = found["owned_rows"] or ("false" if found["name"] in inboxes else "true")
    return Table(
        found["name"],
        owned,
        found["tombstone"],
        tuple(map(_column, found["columns"] or ())),
        tuple(Index(**{**one, "columns": tuple(one["columns"] or ())}) for one in found["indexes"]),
        tuple(
            ForeignKey(
                **{
                    **one,
                    "columns": tuple(one["columns"]),
                    "referenced": tuple(one["referenced"]),
                }
            )
            for one in found["foreign_keys"]
        ),
        tuple(found["checks"]),
    )


def _column(found: dict[str, Any]) -> Column:
    enum = found["enum"]
    return Column(
        found["name"],
        found["type"],
        Enum(enum["name"], enum["schema"], tuple(enum["values"])) if enum else None,
        enum["is_list"] if enum else found["type"].endswith("[]"),
        found["is_required"],
        found["is_identity"] or (found["default"] or "").startswith("nextval("),
        found["is_generated"],
        found["default"],
    )
