"""The monolith as this project expects it (models/_sources.yml), held against the live one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import psycopg
import yaml

from pgsplit.base.errors import SourceMismatch
from pgsplit.project.project import MIRROR_SCHEMA, ROOT, Service


@dataclass(frozen=True)
class Table:
    """A table of the monolith: who will own it, its columns' types, and who may see which."""

    name: str
    owner: str
    columns: Mapping[str, str]
    shared: Mapping[str, tuple[str, ...]]
    unique: tuple[str, ...] = ()

    def columns_for(self, database: str) -> tuple[str, ...]:
        """Name the columns that a service's mirror holds; none if it holds no such table."""
        return tuple(self.columns) if self.owner == database else self.shared.get(database, ())


@dataclass(frozen=True)
class LiveTable:
    """A table as the live monolith defines it."""

    columns: Mapping[str, str]
    not_null: frozenset[str]
    primary_key: tuple[str, ...]
    replica_identity: str
    rows_estimate: int
    bytes: int
    pages: int


@cache
def expected() -> dict[str, Table]:
    """Read the eighteen tables of models/_sources.yml.

    Returns:
        Tables by name, columns in the monolith's order.
    """
    text = (ROOT / "models" / "_sources.yml").read_text(encoding="utf-8")
    tables = {}
    for table in yaml.safe_load(text)["sources"][0]["tables"]:
        meta = table["config"]["meta"]
        tables[table["name"]] = Table(
            table["name"],
            meta["owner"],
            {column["name"]: column["data_type"] for column in table["columns"]},
            {database: tuple(names) for database, names in meta.get("shared", {}).items()},
            tuple(meta.get("unique", ())),
        )
    return tables


def landed_tables(service: Service) -> dict[str, tuple[str, ...]]:
    """Name the tables and columns that a service's mirror holds, owned ones first."""
    held = {t.name: t.columns_for(service.database) for t in expected().values()}
    owned = {t.name for t in expected().values() if t.owner == service.database}
    names = sorted((name for name in held if held[name]), key=lambda n: (n not in owned, n))
    return {name: held[name] for name in names}


def owned_tables(service: Service) -> dict[str, tuple[str, ...]]:
    """Name the tables that a service owns, with all their columns, by name."""
    owned = sorted((t for t in expected().values() if t.owner == service.database), key=_name)
    return {table.name: tuple(table.columns) for table in owned}


def _name(table: Table) -> str:
    return table.name


LIVE_TABLES = """
    select
        class.relname,
        class.relreplident,
        greatest(class.reltuples, 0)::bigint,
        pg_table_size(class.oid),
        pg_relation_size(class.oid) / current_setting('block_size')::integer,
        array(
            select attribute.attname
            from pg_attribute as attribute
            where attribute.attrelid = class.oid and attribute.attnum > 0
                and not attribute.attisdropped
            order by attribute.attnum
        ),
        array(
            select format_type(attribute.atttypid, attribute.atttypmod)
            from pg_attribute as attribute
            where attribute.attrelid = class.oid and attribute.attnum > 0
                and not attribute.attisdropped
            order by attribute.attnum
        ),
        array(
            select attribute.attname
            from pg_attribute as attribute
            where attribute.attrelid = class.oid and attribute.attnum > 0 and attribute.attnotnull
                and not attribute.attisdropped
        ),
        array(
            select attribute.attname
            from pg_index as index
            cross join unnest(index.indkey) with ordinality as part (attnum, position)
            inner join pg_attribute as attribute
                on attribute.attrelid = class.oid and attribute.attnum = part.attnum
            where index.indrelid = class.oid and index.indisprimary
                and index.indimmediate and index.indisvalid
            order by part.position
        )
    from pg_class as class
    where class.relnamespace = to_regnamespace(%s) and class.relkind in ('r', 'p')
"""


def live(monolith: psycopg.Connection[Any]) -> dict[str, LiveTable]:
    """Read the tables that the monolith's schema has now.

    Args:
        monolith: a connection to the monolith, or to any database with its schema.

    Returns:
        Tables by name, columns in their order.
    """
    tables = {}
    for row in monolith.execute(LIVE_TABLES, (MIRROR_SCHEMA,)):
        name, identity, rows, size, pages, columns, types, not_null, key = row
        tables[name] = LiveTable(
            dict(zip(columns, types, strict=True)),
            frozenset(not_null),
            tuple(key),
            identity,
            rows,
            size,
            pages,
        )
    return tables


def _missing(table: LiveTable, wanted: Table, column: str) -> tuple[str, str]:
    """Say that a column is missing, or what its name may be now, and what mends it."""
    qualified, kind = f"{MIRROR_SCHEMA}.{wanted.name}", wanted.columns[column]
    renamed = [n for n, has in table.columns.items() if n not in wanted.columns and has == kind]
    if renamed:
        return (
            f'column {qualified}."{column}" is missing; perhaps it is "{renamed[0]}" now',
            f'ALTER TABLE {qualified} RENAME COLUMN "{renamed[0]}" TO "{column}";',
        )
    return (
        f'column {qualified}."{column}" is missing',
        f'ALTER TABLE {qualified} ADD COLUMN "{column}" {kind};',
    )


def check(monolith: psycopg.Connection[Any], names: Mapping[str, tuple[str, ...]]) -> None:
    """Compare the live monolith with what the models were written for.

    Args:
        monolith: a connection to the monolith.
        names: the tables and columns that are needed.

    Raises:
        SourceMismatch: a table or column is missing or of another type, a table has no primary
            key, or its replica identity is not its primary key. All findings in one message.
    """
    found = live(monolith)
    wrong: list[tuple[str, str]] = []
    for name, columns in names.items():
        table, qualified = found.get(name), f"{MIRROR_SCHEMA}.{name}"
        if table is None:
            wrong.append((f"table {qualified} is missing", f"Create {qualified}"))
            continue
        for column in columns:
            wanted, has = expected()[name].columns[column], table.columns.get(column)
            if has is None:
                wrong.append(_missing(table, expected()[name], column))
            elif has != wanted:
                wrong.append(
                    (
                        f'column {qualified}."{column}" is {has} where {wanted} is expected',
                        f'ALTER TABLE {qualified} ALTER COLUMN "{column}" TYPE {wanted};',
                    )
                )
        if not table.primary_key:
            wrong.append(
                (
                    f"table {qualified} has no primary key, or a deferrable one, to follow it by",
                    f"ALTER TABLE {qualified} ADD PRIMARY KEY (id);",
                )
            )
        elif table.replica_identity != "d":
            wrong.append(
                (
                    f"table {qualified} has a replica identity other than its primary key",
                    f"ALTER TABLE {qualified} REPLICA IDENTITY DEFAULT;",
                )
            )
        elif missing := set(table.primary_key) - set(columns):
            wrong.append(
                (
                    f"the primary key of {qualified} has columns that are not landed: {missing}",
                    f"List them for {name} in models/_sources.yml",
                )
            )
    if wrong:
        database = monolith.info.dbname
        raise SourceMismatch(
            "The monolith is not the one that the models were written for:\n"
            + "\n".join(f"  - {what}" for what, _ in wrong),
            where=f"database {database}, schema {MIRROR_SCHEMA}",
            mend="\n".join(mend for _, mend in wrong)
            + "\nor bring models/_sources.yml, models and seeds/column_ownership.csv up to date.",
        )


def drift(
    monolith: psycopg.Connection[Any],
    database: psycopg.Connection[Any],
    service: Service,
    completed: frozenset[str],
) -> list[str]:
    """Find what has changed in the monolith's definitions since a service has landed.

    Args:
        monolith: a connection to it.
        database: a connection to the service's database, which holds a mirror.
        service: the service.
        completed: the services whose tables are retired in the monolith.

    Returns:
        Notes on what does not stop the follower: columns that it does not carry.

    Raises:
        SourceMismatch: what does stop it, now or with the next row: see `check`; or the mirror
            has another column, type, key or NOT NULL than the monolith.
    """
    names = {
        name: columns
        for name, columns in landed_tables(service).items()
        if expected()[name].owner not in completed
    }
    check(monolith, names)
    source, mirror = live(monolith), live(database)
    wrong: list[str] = []
    mend: list[str] = []
    notes: list[str] = []
    for name, columns in names.items():
        there, here, qualified = source[name], mirror.get(name), f"{MIRROR_SCHEMA}.{name}"
        added = [c for c in there.columns if c not in expected()[name].columns]
        notes += [
            f'{qualified}."{column}" is new in the monolith and goes nowhere: say in'
            " seeds/column_ownership.csv where it is to go"
            for column in added
            if expected()[name].owner == service.database
        ]
        if here is None or dict(here.columns) != {c: there.columns[c] for c in columns}:
            wrong.append(f"the mirror {qualified} does not have the columns that were landed")
            mend.append(f"runner.py land {service.role} --again")
            continue
        for column in sorted(here.not_null - there.not_null):
            wrong.append(f'column {qualified}."{column}" may be null in the monolith now')
            mend.append(
                f"runner.py psql {service.role} -c"
                f""" 'ALTER TABLE {qualified} ALTER COLUMN "{column}" DROP NOT NULL'"""
            )
    if wrong:
        raise SourceMismatch(
            f"The mirror in {service.database} is not what the monolith is now:\n"
            + "\n".join(f"  - {what}" for what in wrong),
            where=f"database {database.info.dbname}, schema {MIRROR_SCHEMA}",
            mend="\n".join(dict.fromkeys(mend)),
        )
    return notes
