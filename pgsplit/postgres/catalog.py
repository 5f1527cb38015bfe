"""Reads a database's tables from its catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg


@dataclass(frozen=True)
class LiveTable:
    """A table as the database defines it."""

    columns: Mapping[str, str]
    not_null: frozenset[str]
    generated: frozenset[str]
    primary_key: tuple[str, ...]
    replica_identity: str
    rows_estimate: int
    bytes: int
    pages: int


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
            from pg_attribute as attribute
            where attribute.attrelid = class.oid and attribute.attnum > 0
                and attribute.attgenerated <> '' and not attribute.attisdropped
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


def live_tables(connection: psycopg.Connection[Any], schema: str) -> dict[str, LiveTable]:
    """Read a schema's present tables.

    Args:
        connection: a connection to the database.
        schema: the schema's name.

    Returns:
        The tables by name, with their columns in order.
    """
    tables = {}
    for row in connection.execute(LIVE_TABLES, (schema,)):
        name, identity, rows, size, pages, columns, types, not_null, generated, key = row
        tables[name] = LiveTable(
            dict(zip(columns, types, strict=True)),
            frozenset(not_null),
            frozenset(generated),
            tuple(key),
            identity,
            rows,
            size,
            pages,
        )
    return tables
