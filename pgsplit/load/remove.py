"""Drops a service's database and roles; never rows that a rollback has quarantined there."""

from __future__ import annotations

import time
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pgsplit.base.errors import NotReady
from pgsplit.load import own_objects, rights_elsewhere
from pgsplit.load.provision import maintenance_url, mark_of_role
from pgsplit.postgres import roles
from pgsplit.postgres.connect import connect, describe
from pgsplit.project import strangers
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.state.ledger import Ledger

# Whoever has just disconnected is still listed for an instant.
LOOKS = 5
BETWEEN_LOOKS_SECONDS = 0.2
# Tables that a rollback has quarantined; it marks them with this comment.
QUARANTINED = """
    select format('%I.%I', 'audit', relname) from pg_class
    where relnamespace = to_regnamespace('audit') and relkind = 'r'
        and obj_description(oid, 'pg_class') like 'Rows as the service had them%'
    order by 1
"""
EMPTIED = """
    select
        to_regnamespace('split') is null
        and pg_get_userbyid(datdba) = %s
        and shobj_description(datdba, 'pg_authid') = %s
    from pg_database where datname = current_database()
"""

# The mirror may have been copied again since, and not yet be compared with the service's tables.
BROKEN = """
    select coalesce(
        (
            select reason from split.streams
            where broken_at is not null and %s order by stream limit 1
        ),
        (
            select 'its tables were not compared with the mirror since that was copied again'
            from split.service_tables where is_stale limit 1
        )
    )
    from split.service where keeps_replaced and exists (select from split.service_tables)
"""


def remove(
    service: Service, connections: Connections, ledger: Ledger, *, drops_own: bool
) -> tuple[list[str], list[str]]:
    """Drop a service's database and its two roles; idempotent.

    If the database existed before provisioning, only this project's schemas are dropped.

    Args:
        service: a service that is not switched.
        connections: where its server is.
        ledger: the monolith's ledger, which knows what was created.
        drops_own: also drop what the service has made itself.

    Returns:
        What was dropped, and notes on roles that own something in another database.

    Raises:
        NotReady: somebody is connected to the database, or it holds quarantined rows, or what the
            service has made itself.
    """
    url = connections.urls[service.database]
    name, removed, notes = str(conninfo_to_dict(url)["dbname"]), list[str](), list[str]()
    with connect(maintenance_url(url), service.database) as server:
        is_ours = ledger.has_made(service, "provision", "created")
        if _exists(server, name) and _drop_schemas(service, url, is_ours, drops_own):
            if is_ours:
                _drop_database(server, name, url)
                removed.append(f"database {name}")
            else:
                own = sql.SQL("alter database {} owner to {}")
                server.execute(own.format(sql.Identifier(name), sql.Identifier(server.info.user)))
                removed.append(f"schemas of {name}")
        for role in (service.login, service.owner):
            if mark_of_role(server, role) != (service.mark,):
                continue
            identifier = sql.Identifier(role)
            if _exists(server, name):
                revoke = sql.SQL("revoke all on database {} from {}")
                server.execute(revoke.format(sql.Identifier(name), identifier))
            rights_elsewhere.take_away(server, role, name, maintenance_url(url))
            if owns := roles.drop(server, role):
                notes.append(roles.advice(role, owns, server.info.user))
            else:
                removed.append(f"role {role}")
    return removed, notes


def require_nothing_kept(inside: psycopg.Connection[Any], service: Service) -> None:
    """Refuse to remove a database with rows that a rollback has quarantined.

    Args:
        inside: a connection to the service's database.
        service: the service.

    Raises:
        NotReady: there are such tables; they are named.
    """
    kept = [row[0] for row in inside.execute(QUARANTINED)]
    if kept:
        raise NotReady(
            f"{service.database} holds rows that only the service had; a rollback has quarantined"
            f" them: {', '.join(kept)}. Nothing was changed.",
            where=describe(inside.info.dsn),
            hint="Keep them elsewhere (pg_dump --schema=audit), drop these tables, then:"
            f" runner.py abort {service.role}",
        )


def clients(inside: psycopg.Connection[Any]) -> list[str]:
    """Name those who are connected to a service's database, and still are a moment later."""
    names: list[str] = []
    for _ in range(LOOKS):
        names = [
            row[0]
            for row in inside.execute(
                "select distinct format('%s (%s)', usename, application_name)"
                " from pg_stat_activity where datname = current_database()"
                " and pid <> pg_backend_pid() and usename is not null"
                " and coalesce(backend_type, 'client backend') = 'client backend' order by 1"
            )
        ]
        if not names:
            break
        time.sleep(BETWEEN_LOOKS_SECONDS)
    return names


def require_proven(inside: psycopg.Connection[Any], service: Service, *, is_suspect: bool) -> None:
    """Refuse to remove a database that may hold rows which the monolith has lost.

    Args:
        inside: a connection to the service's database.
        service: a service that is not switched.
        is_suspect: whether it was switched once, or its monolith has lost its recent past.

    Raises:
        NotReady: a stream was broken since its rows were last proven to be in the monolith.
    """
    broken = inside.execute(BROKEN, (is_suspect,)).fetchone()
    if broken and broken[0]:
        raise NotReady(
            f"{service.database} may hold rows that the monolith has lost: {broken[0]}. Nothing was"
            " changed.",
            where=describe(inside.info.dsn),
            hint=f"runner.py land {service.role} --recopy, then runner.py run {service.role}"
            f" copies them to the schema audit, and runner.py abort {service.role} names them",
        )


def _exists(server: psycopg.Connection[Any], name: str) -> bool:
    found = server.execute("select true from pg_database where datname = %s", (name,))
    return found.fetchone() is not None


def _drop_schemas(service: Service, url: str, whole: bool, drops_own: bool) -> bool:
    """Drop the project's schemas in one transaction; return False if they are somebody else's.

    An abort that was killed after this transaction, or a provisioning before its own, has left a
    database without them; the owner role tells that it is ours.
    """
    with connect(url, service.database) as inside, inside.transaction():
        strangers.require_none(inside, service.project, service.database)
        mark = inside.execute("select obj_description(to_regnamespace('split'), 'pg_namespace')")
        if mark.fetchone() != (service.mark,):
            return inside.execute(EMPTIED, (service.owner, service.mark)).fetchone() == (True,)
        require_nothing_kept(inside, service)
        if not drops_own:
            own_objects.require_none(inside, service, whole=whole)
        drop = sql.SQL("drop schema if exists {} cascade")
        for schema in (service.database, service.mirror, "split", "audit", "owner"):
            inside.execute(drop.format(sql.Identifier(schema)))
        inside.execute(
            sql.SQL("alter role {} in database {} reset all").format(
                sql.Identifier(service.login), sql.Identifier(inside.info.dbname)
            )
        )
    return True


def _drop_database(server: psycopg.Connection[Any], name: str, url: str) -> None:
    try:
        server.execute(sql.SQL("drop database {}").format(sql.Identifier(name)))
    except psycopg.errors.ObjectInUse as error:
        raise NotReady(
            f"Somebody is connected to {name}: {error.diag.message_detail}",
            where=describe(url),
            hint="Disconnect them: select pg_terminate_backend(pid) from pg_stat_activity"
            f" where datname = '{name}'; then: runner.py resume",
        ) from error
