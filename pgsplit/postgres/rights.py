"""The rights that a login needs, each with the statement that grants it; asked of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from pgsplit.postgres.managed import PROVIDERS, dialect
from pgsplit.postgres.need import Need

Connection = psycopg.Connection[Any]

LOGIN = """
    select
        format('"%%s"', replace(rolname, '"', '""')) as login,
        format('"%%s"', replace(current_database(), '"', '""')) as here,
        rolsuper as is_super,
        rolsuper or rolreplication or exists (
            select from pg_catalog.pg_roles as other
            where other.rolname = any(%(replicates)s) and pg_has_role(other.oid, 'usage')
        ) as replicates,
        rolsuper or exists (
            select from pg_catalog.pg_roles as other
            where
                (other.rolname = 'pg_create_subscription' or other.rolname = any(%(subscribes)s))
                and pg_has_role(other.oid, 'usage')
        ) as subscribes,
        has_database_privilege(current_database(), 'create') as creates,
        rolsuper or rolcreatedb as makes_databases,
        rolsuper or rolcreaterole as makes_roles,
        (
            select has_database_privilege(oid, 'connect') from pg_catalog.pg_database
            where datname = 'postgres'
        ) as connects_to_postgres
    from pg_catalog.pg_roles as login where rolname = current_user
"""
TABLES = """
    select
        class.relname,
        format('%%I.%%I', namespace.nspname, class.relname) as name,
        quote_ident(namespace.nspname) as schema,
        quote_ident(pg_get_userbyid(class.relowner)) as owner,
        has_schema_privilege(namespace.oid, 'usage') as may_enter,
        has_table_privilege(class.oid, 'select') as may_read,
        pg_has_role(class.relowner, 'usage') as is_ours,
        row_security_active(class.oid) as is_filtered,
        (select rolsuper from pg_catalog.pg_roles where oid = class.relowner) as of_superuser
    from pg_catalog.pg_class as class
    inner join pg_catalog.pg_namespace as namespace on namespace.oid = class.relnamespace
    where
        namespace.nspname = %(schema)s
        and class.relkind in ('r', 'p')
        and (
            class.relname = any(%(tables)s)
            -- Those that a foreign key binds to them: a completion drops it.
            or exists (
                select from pg_catalog.pg_constraint as key
                inner join pg_catalog.pg_class as other on other.oid = key.confrelid
                where
                    key.contype = 'f' and key.conrelid = class.oid
                    and other.relnamespace = namespace.oid and other.relname = any(%(keyed)s)
            )
        )
    order by class.relname
"""
# A member that may not SET ROLE to an owner can't write its tables by replication: since 16 the
# apply worker does so.
SETS = """
    select quote_ident(rolname) from pg_catalog.pg_roles
    where
        quote_ident(rolname) = any(%s)
        and not case
            when current_setting('server_version_num')::integer >= 160000
            then pg_has_role(oid, 'set')
            else true
        end
"""


def _login(connection: Connection) -> dict[str, Any]:
    """Ask what the login may do anywhere on its server."""
    row = connection.execute(
        "select to_jsonb(found) from (" + LOGIN + ") as found",
        {
            "replicates": [one.replicates for one in PROVIDERS],
            "subscribes": [one.subscribes for one in PROVIDERS if one.subscribes],
        },
    ).fetchone()
    assert row is not None
    return dict(row[0])


def may_replicate(connection: Connection) -> Need:
    """Ask whether the login may create and drop slots."""
    ok, user = bool(_login(connection)["replicates"]), connection.info.user
    fix = dialect(connection).replication
    return Need("right to replicate", _said(ok), "yes", ok, f"{user} may not replicate", fix, fix)


def may_create_in(connection: Connection, why: str) -> Need:
    """Ask whether the login may make publications and schemas in this database."""
    found = _login(connection)
    fix = f"GRANT CREATE ON DATABASE {found['here']} TO {found['login']};"
    ok, user = bool(found["creates"]), connection.info.user
    return Need("CREATE on the database", _said(ok), "yes", ok, f"{user} may not {why}", fix, fix)


def may_subscribe(connection: Connection) -> Need:
    """Ask whether the login may create a subscription."""
    ok, user, wanted = bool(_login(connection)["subscribes"]), connection.info.user, "yes"
    here = dialect(connection)
    if here.version < 160000 and not here.provider.role:
        wanted = "superuser, on 15"
    problem = f"{user} may not create a subscription."
    return Need(
        "right to subscribe", _said(ok), wanted, ok, problem, here.subscription, here.subscription
    )


def may_provision(connection: Connection) -> list[Need]:
    """Ask whether the login may make databases and roles, and connect to where it does so."""
    found, user = _login(connection), connection.info.user
    hint = f'ALTER ROLE "{user}" CREATEDB CREATEROLE;'
    problem = f"{user} may not create databases and roles."
    needs = [
        Need(name, _said(ok), "yes", ok, problem, hint, f"ALTER ROLE {found['login']} {name};")
        for name, ok in (
            ("CREATEDB", bool(found["makes_databases"])),
            ("CREATEROLE", bool(found["makes_roles"])),
        )
    ]
    # Databases and roles are made and dropped from there, also once a service's own is there.
    fix = f'GRANT CONNECT ON DATABASE "postgres" TO {found["login"]};'
    said, ok = f"{user} may not connect to the database postgres.", found["connects_to_postgres"]
    if ok is not None:  # else connecting says that it isn't there
        needs.append(Need("connects to postgres", _said(ok), "yes", ok, said, fix, fix))
    return needs


def may_make_roles(connection: Connection, problem: str, *, is_optional: bool) -> Need:
    """Ask whether the login may make roles, for which `problem` says why."""
    found = _login(connection)
    fix, ok = f"ALTER ROLE {found['login']} CREATEROLE;", bool(found["makes_roles"])
    return Need("CREATEROLE", _said(ok), "yes", ok, problem, fix, fix, is_optional)


def is_superuser(connection: Connection) -> bool:
    """Tell whether the login is one, and so may do everything."""
    return bool(_login(connection)["is_super"])


def on_tables(
    connection: Connection, schema: str, tables: Sequence[str], keyed: Sequence[str] = ()
) -> list[Need]:
    """Ask whether the login may read, publish and fence tables, and write them by replication.

    Args:
        connection: a connection to the monolith.
        schema: its schema.
        tables: the tables.
        keyed: those of them whose foreign keys are dropped in the end.

    Returns:
        What it lacks, for each table; one Need that is met if nothing.
    """
    here = dialect(connection)
    found = connection.execute(
        "select to_jsonb(found) from (" + TABLES + ") as found",
        {"schema": schema, "tables": list(tables), "keyed": list(keyed)},
    ).fetchall()
    rows, lacking = [dict(row[0]) for row in found], list[Need]()
    owners = list(dict.fromkeys(row["owner"] for row in rows))
    unset = {row[0] for row in connection.execute(SETS, (owners,))}
    for row in rows:
        name, owner = row["name"], row["owner"]
        grant = f"GRANT {owner} TO {here.user};"
        if here.version >= 160000 and row["is_ours"] and owner in unset:
            grant = f"GRANT {owner} TO {here.user} WITH INHERIT TRUE, SET TRUE;"
        whose = f"which {owner} owns"
        if row["of_superuser"]:
            whose += " (a superuser: its members can become one; a role of their own is safer)"
        usage = f"GRANT USAGE ON SCHEMA {row['schema']} TO {here.user};"
        select = f"GRANT SELECT ON {name} TO {here.user};"
        is_published, is_ours = row["relname"] in tables, row["is_ours"]
        member, schema_of = f"member of {owner}", row["schema"]
        for name_of, ok, what, fix, is_part in (
            (
                f"USAGE on {schema_of}",
                row["may_enter"],
                f"may not use the schema {schema_of}",
                usage,
                False,
            ),
            # Its owner reads it, too.
            (
                f"right on {name}",
                row["may_read"] or not is_published,
                f"may not read {name}",
                select,
                not is_ours,
            ),
            (
                f"all rows of {name}",
                not row["is_filtered"] or not is_published,
                f"sees {name} through row-level security",
                here.bypass,
                False,
            ),
            (member, is_ours, f"may not publish {name}, {whose}", grant, False),
            (member, not is_ours or owner not in unset, f"may not act as {owner}", grant, False),
        ):
            if not ok:
                sql = "" if is_part else fix
                lacking.append(Need(name_of, "no", "yes", False, what, fix, sql))
    if lacking:
        return lacking
    return [Need("rights on tables", f"on all {len(rows)}", "on all", True)]


def _said(ok: bool) -> str:
    return "yes" if ok else "no"
