"""What a backup holds: every relation's definition, and the rows of all tables or of some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from pgsplit.base.errors import NotReady
from pgsplit.base.text import few
from pgsplit.postgres.connect import LOCK_TIMEOUT, describe, locked

LOCKED = "A table that is to be backed up"

# Without the relations of extensions: CREATE EXTENSION makes them, and pg_dump leaves them out.
OWN = """
    class.relnamespace = namespace.oid
    and namespace.nspname !~ '^pg_' and namespace.nspname <> 'information_schema'
    and not exists (
        select from pg_depend as member
        where member.classid = 'pg_class'::regclass and member.objid = class.oid
            and member.deptype = 'e'
    )
"""
RELATIONS = f"""
    select
        class.oid::bigint as oid, namespace.nspname as schema_name, class.relname as name,
        format('%I.%I', namespace.nspname, class.relname) as shown, class.relkind::text as kind,
        case class.relkind when 'r' then coalesce(pg_table_size(class.oid), 0) else 0 end as bytes,
        has_schema_privilege(namespace.oid, 'usage') and not row_security_active(class.oid)
        and case class.relkind
            when 'S' then has_sequence_privilege(class.oid, 'select')
            else has_table_privilege(class.oid, 'select')
        end as is_readable,
        quote_ident(pg_get_userbyid(class.relowner)) as owner
    from pg_class as class, pg_namespace as namespace
    where {OWN} and class.relkind in ('r', 'p', 'S')
    order by 4
"""


@dataclass(frozen=True)
class Relation:
    """A table or a sequence (kind S) of the database."""

    oid: int
    schema_name: str
    name: str
    shown: str
    kind: str
    bytes: int
    is_readable: bool
    owner: str


@dataclass(frozen=True)
class Scope:
    """What a backup holds: the definitions of `relations`, and the rows of `tables`.

    `large_objects` is their size in bytes, 0 if they are left out.
    """

    relations: Sequence[Relation]
    tables: Sequence[Relation]
    is_whole: bool
    large_objects: int

    @property
    def bytes(self) -> int:
        """The size of the rows in the database."""
        return sum(one.bytes for one in self.tables) + self.large_objects


def look(database: psycopg.Connection[Any], wanted: Sequence[tuple[str, str]] | None) -> Scope:
    """Find what a backup has to hold, and refuse a login that may not read all of it.

    Args:
        database: a connection to the database.
        wanted: schema and name of the tables whose rows are wanted; None means all rows.

    Raises:
        NotReady: the login may not read everything, or a table is locked or does not exist.
    """
    relations = relations_of(database)
    unreadable = [one.shown for one in relations if not one.is_readable]
    if unreadable:
        user = database.info.user
        raise NotReady(
            f"{user} may not read all that is to be backed up: {few(unreadable)}",
            where=describe(database.info.dsn),
            hint=f'GRANT pg_read_all_data TO "{user}";\n'
            f'and with row-level security: ALTER ROLE "{user}" BYPASSRLS;',
        )
    if wanted is None:
        row = database.execute("select pg_table_size('pg_largeobject')").fetchone()
        rows = [one for one in relations if one.kind == "r"]
        return Scope(relations, rows, True, row[0] if row else 0)
    return Scope(relations, _chosen(database, relations, wanted), False, 0)


def relations_of(database: psycopg.Connection[Any]) -> list[Relation]:
    """List a database's tables and sequences, and whether this login may read all of their rows.

    Raises:
        NotReady: a table is locked.
    """
    database.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")
    try:
        return [Relation(*row) for row in database.execute(RELATIONS)]
    except psycopg.errors.LockNotAvailable as error:
        raise locked(LOCKED, database.info.dsn) from error


def _chosen(
    database: psycopg.Connection[Any],
    relations: Sequence[Relation],
    wanted: Sequence[tuple[str, str]],
) -> list[Relation]:
    """Find the wanted tables; of a partitioned one, its partitions."""
    named = {(one.schema_name, one.name): one for one in relations if one.kind != "S"}
    missing = [f"{schema}.{name}" for schema, name in wanted if (schema, name) not in named]
    if missing:
        raise NotReady(
            f"These tables do not exist: {few(missing)}.",
            where=describe(database.info.dsn),
            hint="Name existing tables.",
        )
    parts = database.execute(
        "select relid::oid::bigint from unnest(%s::oid[]) as root (oid)"
        " cross join lateral pg_partition_tree(root.oid)",
        ([named[one].oid for one in wanted if named[one].kind == "p"],),
    ).fetchall()
    oids = {oid for (oid,) in parts} | {named[one].oid for one in wanted}
    return [one for one in relations if one.kind == "r" and one.oid in oids]
