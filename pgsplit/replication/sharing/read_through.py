"""Connects a service's read-through cache to its source, which is asked when a row is missing.

There are foreign tables in the schema `owner` of the service's database, over postgres_fdw. They
log in as a role that may read only the columns that the service shares. They read from the monolith
until the owner is switched, and from the mirror in the owner's database from then on.
"""

from __future__ import annotations

import secrets
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pgsplit.base.errors import ConnectionFailed, NotReady
from pgsplit.postgres import roles, session_settings
from pgsplit.postgres.connect import describe
from pgsplit.postgres.quiet import quiet
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Project, Service
from pgsplit.replication.shared import consumers, shared
from pgsplit.state.ledger import Ledger, State

Connection = psycopg.Connection[Any]

SCHEMA = "owner"
# An owner that does not answer must not keep a service waiting.
PATIENCE = {
    "connect_timeout": "2",
    "options": session_settings.options("", statement_timeout="2000"),
}


def owners(project: Project) -> list[Service]:
    """Name the owners of shared tables with read-through: they are asked for missing rows."""
    tables = {name for one in project.shared_models if one.has_read_through for name in one.follows}
    owned = {project.tables[name].owner for name in tables}
    return [one for one in project.services.values() if one.database in owned]


def reconnect_all(connections: Connections, ledger: Ledger) -> list[str]:
    """Connect every built service to the present source of truth of what it reads through.

    Args:
        connections: where the servers are.
        ledger: the monolith's ledger.

    Returns:
        What could not be done, with what fixes it.
    """
    return [
        said
        for service in connections.project.services.values()
        if ledger.state(service).reached(State.BUILT)
        and (said := try_to_connect(service, connections, ledger))
    ]


def try_to_connect(service: Service, connections: Connections, ledger: Ledger) -> str:
    """Connect a service's read-through cache, if it has one; idempotent.

    Args:
        service: a service whose tables have been made.
        connections: where the servers are.
        ledger: the monolith's ledger, which knows the sources of truth.

    Returns:
        What keeps it from being connected, with what fixes it; nothing if it is connected. A
        service that is not knows only the rows in its copy.
    """
    password = secrets.token_urlsafe(24)
    for owner in owners(service.project):
        if service not in consumers(owner):
            continue
        is_switched = ledger.state(owner).reached(State.SWITCHED)
        source_name = owner.database if is_switched else connections.monolith
        try:
            with (
                connections.connect(source_name) as source,
                connections.connect(service.database) as target,
            ):
                _reader(source, service, owner, password)
                url = connections.for_servers(source_name)
                _foreign_tables(target, service, owner, url, password)
        except psycopg.errors.InsufficientPrivilege as error:
            return (
                f"{service.database} can't ask {owner.database} for rows that it does not have"
                f" yet: {str(error).strip()}. As a superuser: CREATE EXTENSION postgres_fdw; GRANT"
                f" USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO {service.owner}; in"
                f" {service.database}"
            )
    return ""


def remove(service: Service, connections: Connections) -> list[str]:
    """Drop the role that reads for a service, in every database; idempotent."""
    removed = []
    for name in (connections.monolith, *(one.database for one in owners(service.project))):
        try:
            with connections.connect(name) as source:
                if _is_ours(source, service):
                    role = sql.Identifier(_role(service))
                    roles.join(source, _role(service))
                    source.execute(sql.SQL("drop owned by {}").format(role))
                    # It may still have rights in another database of the same server.
                    if not roles.drop(source, _role(service)):
                        removed.append(f"role {_role(service)}")
        except (ConnectionFailed, NotReady):
            continue  # the database is gone, or the role is somebody else's
    return removed


def _role(service: Service) -> str:
    return f"{service.role}_reader"


def _is_ours(source: Connection, service: Service) -> bool:
    row = source.execute(
        "select shobj_description(oid, 'pg_authid') from pg_roles where rolname = %s",
        (_role(service),),
    ).fetchone()
    if row is not None and row[0] != service.mark:
        raise NotReady(
            f"There is a role {_role(service)} that this project did not make. Nothing was"
            " changed.",
            where=describe(source.info.dsn),
            hint=f"DROP ROLE {_role(service)};",
        )
    return row is not None


def _reader(source: Connection, service: Service, owner: Service, password: str) -> None:
    """Make the role that may read what the service shares of an owner's tables."""
    name = _role(service)
    role = sql.Identifier(name)
    secret = source.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256")
    verb = sql.SQL("alter" if _is_ours(source, service) else "create")
    with quiet(source), source.transaction():
        # Services are built in parallel; PostgreSQL refuses two grants on a table at once.
        source.execute("lock table split.heartbeats in share update exclusive mode")
        source.execute(sql.SQL("{} role {} login password {}").format(verb, role, secret.decode()))
        source.execute(sql.SQL("comment on role {} is {}").format(role, service.mark))
        source.execute(
            sql.SQL("grant connect on database {} to {}").format(
                sql.Identifier(source.info.dbname), role
            )
        )
        source.execute(
            sql.SQL("grant usage on schema {} to {}").format(sql.Identifier(service.mirror), role)
        )
        for table, columns in shared(owner, service).items():
            source.execute(
                sql.SQL("grant select ({}) on {} to {}").format(
                    sql.SQL(", ").join(map(sql.Identifier, columns)),
                    sql.Identifier(service.mirror, table),
                    role,
                )
            )


def _foreign_tables(
    target: Connection, service: Service, owner_service: Service, url: str, password: str
) -> None:
    """Re-create server, user mapping and foreign tables; atomic, and no rows are copied."""
    fields = {k: str(v) for k, v in conninfo_to_dict(url).items() if v is not None}
    where = {k: fields[k] for k in ("host", "port", "sslmode", "sslrootcert") if k in fields}
    server = sql.Identifier(f"owner_{owner_service.database}")
    owner = sql.Identifier(service.owner)
    with quiet(target), target.transaction():
        target.execute("create extension if not exists postgres_fdw")
        target.execute(sql.SQL("drop server if exists {} cascade").format(server))
        target.execute(
            sql.SQL("create server {} foreign data wrapper postgres_fdw options ({})").format(
                server, _options({**where, "dbname": fields["dbname"], **PATIENCE})
            )
        )
        target.execute(sql.SQL("grant usage on foreign server {} to {}").format(server, owner))
        login = {"user": _role(service), "password": password}
        row = target.execute(
            "select rolsuper from pg_roles where rolname = current_user"
        ).fetchone()
        if row == (True,):  # the owner role isn't one, and a socket may not ask for a password
            login["password_required"] = "false"
        target.execute(
            sql.SQL("create user mapping for {} server {} options ({})").format(
                owner, server, _options(login)
            )
        )
        target.execute(
            sql.SQL("create schema if not exists {} authorization {}").format(
                sql.Identifier(SCHEMA), owner
            )
        )
        for table, columns in shared(owner_service, service).items():
            kinds = service.project.tables[table].columns
            relation = sql.Identifier(SCHEMA, table)
            listed = sql.SQL(", ").join(
                sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kinds[name]))
                for name in columns
            )
            options = _options({"schema_name": service.mirror, "table_name": table})
            target.execute(sql.SQL("drop foreign table if exists {}").format(relation))
            target.execute(
                sql.SQL("create foreign table {} ({}) server {} options ({})").format(
                    relation, listed, server, options
                )
            )
            target.execute(sql.SQL("alter foreign table {} owner to {}").format(relation, owner))


def _options(given: dict[str, str]) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.Literal(value))
        for name, value in given.items()
    )
