"""What a service has made itself in its database, which nobody else has."""

from __future__ import annotations

from typing import Any

import psycopg

from pgsplit.base.errors import NotReady
from pgsplit.base.text import few
from pgsplit.postgres.connect import describe
from pgsplit.project.project import Service

SHOWN = 8
# Relations, functions and types outside of extensions, in schemas where a service may make them.
MADE = """
    with

    schemas as (
        select oid, nspname from pg_namespace
        where
            nspname !~ '^pg_'
            and nspname <> all(%(ours)s) and nspname <> 'information_schema'
            and (%(whole)s or nspname = %(own)s)
    ),

    made as (
        select
            'pg_class'::regclass as catalogue,
            class.oid,
            case relkind
                when 'v' then 'view'
                when 'm' then 'materialized view'
                when 'f' then 'foreign table'
                when 'S' then 'sequence'
                when 'c' then 'type'
                else 'table'
            end as kind,
            nspname,
            relname as name,
            '' as suffix
        from pg_class as class inner join schemas on schemas.oid = relnamespace
        where relkind in ('r', 'p', 'v', 'm', 'f', 'S', 'c') and not relispartition
        union all
        select
            'pg_proc'::regclass, proc.oid,
            case prokind when 'p' then 'procedure' else 'function' end, nspname, proname, '()'
        from pg_proc as proc inner join schemas on schemas.oid = pronamespace
        union all
        select 'pg_type'::regclass, type.oid, 'type', nspname, typname, ''
        from pg_type as type inner join schemas on schemas.oid = typnamespace
        where typtype in ('d', 'e', 'r')
    )

    select kind, format('%%I.%%I', nspname, name) || suffix
    from made
    where
        not (
            nspname = %(own)s and (
                name = any(%(known)s) or name in (select table_name from split.service_tables)
            )
        )
        -- Members of extensions, and sequences of a table's columns.
        and not exists (
            select from pg_depend
            where classid = catalogue and objid = made.oid
                and (deptype = 'e' or made.kind = 'sequence' and deptype in ('a', 'i'))
        )
    union all
    select 'large objects', count(*)::text from pg_largeobject_metadata
    where %(whole)s having count(*) > 0
    order by 1, 2
"""
COLUMNS = """
    select 'column', format('%%s.%%I', attrelid::regclass, attname)
    from split.service_tables as tables
    inner join pg_attribute
        on attrelid = to_regclass(format('%%I.%%I', %(own)s::text, tables.table_name))
    where
        attnum > 0 and not attisdropped and attgenerated = ''
        -- A table without notes is of an earlier version.
        and tables.table_name in (select table_name from split.made_objects)
        and not exists (
            select from split.made_objects as noted
            where
                noted.table_name = tables.table_name
                and noted.kind = 'column' and noted.name = attname
        )
    order by 2
"""


def own_objects(inside: psycopg.Connection[Any], service: Service, *, whole: bool) -> list[str]:
    """Find what a service has made itself; reads only the catalogue.

    Args:
        inside: a connection to the service's database.
        service: a service that has been provisioned.
        whole: look at the whole database, not only at the service's own schema.

    Returns:
        Tables, views, sequences, functions, types, large objects, and columns of our tables.
    """
    entities = [model.entity for model in service.project.shared_models if model.entity]
    known = [*service.project.own_functions, *(f"{entity}_events" for entity in entities)]
    arguments = {
        "own": service.database,
        "ours": [service.mirror, "split", "audit", "owner"],
        "known": known,
        "whole": whole,
    }
    found = inside.execute(MADE, arguments).fetchall()
    row = inside.execute("select to_regclass('split.made_objects') is not null").fetchone()
    if row == (True,):  # a schema of an older version doesn't know its columns
        found += inside.execute(COLUMNS, arguments).fetchall()
    return [f"{kind} {name}" for kind, name in found]


def require_none(inside: psycopg.Connection[Any], service: Service, *, whole: bool) -> None:
    """Refuse to drop what a service has made itself, as long as nobody has confirmed it.

    Raises:
        NotReady: there is such a thing; it is named.
    """
    if found := own_objects(inside, service, whole=whole):
        raise NotReady(
            f"{service.database} holds what the service made itself, and an abort would drop it:"
            f" {few(found, SHOWN)}. Nothing was changed.",
            where=describe(inside.info.dsn),
            hint=f"runner.py backup {service.role}\nrunner.py abort {service.role} --yes",
        )
