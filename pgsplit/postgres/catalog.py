"""Reads a database's tables from its catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg


@dataclass(frozen=True)
class LiveTable:
    """A table as the database defines it.

    `heirs` are the tables that inherit from it and are no partitions. `bytes` and `pages` are 0
    unless they were asked for.
    """

    columns: Mapping[str, str]
    not_null: frozenset[str]
    generated: frozenset[str]
    primary_key: tuple[str, ...]
    replica_identity: str
    rows_estimate: int
    bytes: int
    pages: int
    heirs: tuple[str, ...]


LIVE_TABLES = """
    select
        class.relname,
        class.relreplident,
        greatest(class.reltuples, 0)::bigint,
        -- A size waits for whoever has locked the table.
        case when %(sized)s then pg_table_size(class.oid) else 0 end,
        case
            when %(sized)s then pg_relation_size(class.oid) / current_setting('block_size')::integer
            else 0
        end,
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
        ),
        array(
            select heir.oid::regclass::text
            from pg_inherits as inherits
            inner join pg_class as heir on heir.oid = inherits.inhrelid
            where inherits.inhparent = class.oid and not heir.relispartition
            order by 1
        )
    from pg_class as class
    where class.relnamespace = to_regnamespace(%(schema)s) and class.relkind in ('r', 'p')
"""


def live_tables(
    connection: psycopg.Connection[Any], schema: str, *, sized: bool = False
) -> dict[str, LiveTable]:
    """Read a schema's present tables.

    Args:
        connection: a connection to the database.
        schema: the schema's name.
        sized: also ask for their sizes, which waits for locks.

    Returns:
        The tables by name, with their columns in order.
    """
    tables = {}
    for row in connection.execute(LIVE_TABLES, {"schema": schema, "sized": sized}):
        name, identity, rows, size, pages, columns, types, not_null, generated, key, heirs = row
        tables[name] = LiveTable(
            dict(zip(columns, types, strict=True)),
            frozenset(not_null),
            frozenset(generated),
            tuple(key),
            identity,
            rows,
            size,
            pages,
            tuple(heirs),
        )
    return tables
