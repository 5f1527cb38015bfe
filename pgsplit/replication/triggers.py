"""Finds what fires when replication writes a table: on PostgreSQL 15 with a superuser's rights.

Before PostgreSQL 16, rows are applied with the rights of the subscription's owner, who has to be a
superuser when the subscription is made. Whoever owns a table could have a trigger on it fire there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe

# The triggers and rules on some tables that fire for replication, but for those that call a
# function of the schema split. psycopg's parameter is `tables`, a list of names.
FIRES = """
    select
        format('trigger %%I on %%s fires for replication, too', tgname, tgrelid::regclass),
        format('alter table %%s enable trigger %%I;', tgrelid::regclass, tgname)
    from pg_trigger
    inner join pg_proc as proc on proc.oid = tgfoid
    where
        tgrelid in (select to_regclass(name) from unnest(%(tables)s::text[]) as name)
        and tgenabled in ('A', 'R')
        and not tgisinternal
        and proc.pronamespace is distinct from to_regnamespace('split')
    union all
    select
        format('rule %%I on %%s works for replication, too', rulename, ev_class::regclass),
        format('alter table %%s enable rule %%I;', ev_class::regclass, rulename)
    from pg_rewrite
    where
        ev_class in (select to_regclass(name) from unnest(%(tables)s::text[]) as name)
        and ev_enabled in ('A', 'R')
    order by 1
"""
# Event triggers fire for definitions only; their makers are superusers.
# What an inserted row runs for the columns that it leaves out: functions of strangers, and those of
# PostgreSQL and of extensions that do something with our rights. Domains have defaults, too.
DEFAULTS = r"""
    select distinct
        format(
            'the default of %%s.%%I calls %%s',
            part.attrelid::regclass, part.attname, proc.oid::regprocedure
        ),
        case
            when value.oid is null
            then format('alter domain %%s drop default;', part.atttypid::regtype)
            else format(
                'alter table %%s alter column %%I drop default;',
                part.attrelid::regclass, part.attname
            )
        end
    from pg_attribute as part
    left join pg_attrdef as value on part.attrelid = value.adrelid and part.attnum = value.adnum
    inner join pg_type as kind on part.atttypid = kind.oid
    cross join lateral regexp_matches(
        coalesce(value.adbin, kind.typdefaultbin)::text, ':(?:op)?funcid (\d+)', 'g'
    ) as called (function)
    inner join pg_proc as proc on proc.oid = called.function[1]::oid
    inner join pg_roles as owner on proc.proowner = owner.oid
    where
        part.attrelid = to_regclass(%(table)s)
        and part.attnum > 0
        and not part.attisdropped
        and part.attname <> all(%(columns)s)
        and (
            not (owner.rolsuper or owner.rolname = current_user)
            or (
                (proc.provolatile = 'v' or proc.proname ~ '_to_xml|^pg_input_')
                and proc.proname
                !~ '^(nextval|clock_timestamp|timeofday|random|gen_random_uuid|uuid.*)$'
                and (
                    proc.pronamespace = 'pg_catalog'::regnamespace
                    or exists (
                        select from pg_depend as member
                        where
                            member.classid = 'pg_proc'::regclass
                            and member.objid = proc.oid
                            and member.deptype = 'e'
                    )
                )
            )
        )
    order by 1
"""


def fires(database: psycopg.Connection[Any], tables: Sequence[str]) -> list[tuple[str, str]]:
    """Find the triggers and rules of others that fire when replication writes some tables.

    Args:
        database: a connection to the database that replication writes.
        tables: names with their schemas, quoted where they have to be.

    Returns:
        What was found, each with the statement that lets it fire for applications only.
    """
    return database.execute(FIRES, {"tables": list(tables)}).fetchall()


def warnings(database: psycopg.Connection[Any], tables: Sequence[str], where: str) -> list[str]:
    """Say what fires in a database when replication writes it, and with whose rights.

    Args:
        database: a connection to it.
        tables: names with their schemas, quoted where they have to be.
        where: the database's name for people.

    Returns:
        A warning with its fix for each trigger and rule.
    """
    rights = (
        "the table's owner"
        if database.info.server_version >= 160000
        else "the subscription's owner, a superuser"
    )
    return [
        f"In {where}, {what}: it runs with the rights of {rights}.\n  hint:  {fix}"
        for what, fix in fires(database, tables)
    ]


def require_none(database: psycopg.Connection[Any], tables: Mapping[str, Sequence[str]]) -> None:
    """Refuse to write tables as replication does if code of others would run with our rights.

    Args:
        database: a connection to their database.
        tables: names with their schemas, quoted where they have to be, and the columns that are
            written.

    Raises:
        NotReady: there is such a trigger or rule, or such a default of another column; all are
            named.
    """
    found = fires(database, list(tables))
    for table, columns in tables.items():
        given = {"table": table, "columns": list(columns)}
        found += database.execute(DEFAULTS, given).fetchall()
    if found:
        raise NotReady(
            f"Rows would be written as {database.info.user}, and others' code would run then, too:"
            + "".join(f"\n  - {what}" for what, _ in found)
            + "\nNothing was changed.",
            where=describe(database.info.dsn),
            hint="\n".join(fix for _, fix in found),
        )
