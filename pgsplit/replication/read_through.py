"""Connects a service's get_shared_user() with whoever owns the users: the way of a cache's misses.

Foreign tables in the schema `owner` of the service's database, over postgres_fdw, as a role that
may read the shared columns of three tables and nothing else. They lead to the monolith until
users_db is switched, and to the mirror in users_db from then on.
"""

from __future__ import annotations

import secrets
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pgsplit.base.errors import ConnectionFailed, NotReady
from pgsplit.project import catalog
from pgsplit.project.endpoints import Connections, describe
from pgsplit.project.project import MIRROR_SCHEMA, MONOLITH, SERVICES_BY_NAME, Service
from pgsplit.replication.shared import consumers
from pgsplit.state.ledger import Ledger, State

Connection = psycopg.Connection[Any]

SERVER = "split_owner"
SCHEMA = "owner"
# An owner that does not answer must not keep a service waiting.
PATIENCE = {"connect_timeout": "2", "options": "-c statement_timeout=2000"}


def owner_of_users() -> Service:
    """Name the service that owns the users."""
    return SERVICES_BY_NAME[catalog.expected()["users"].owner]


def reconnect_all(connections: Connections, ledger: Ledger) -> list[str]:
    """Connect every built service that shares users with where they are the truth now.

    Args:
        connections: where the servers are.
        ledger: the monolith's ledger.

    Returns:
        What could not be done, with what mends it.
    """
    return [
        said
        for service in consumers(owner_of_users())
        if ledger.state(service).reached(State.BUILT)
        and (said := try_to_connect(service, connections, ledger))
    ]


def try_to_connect(service: Service, connections: Connections, ledger: Ledger) -> str:
    """Connect a service's cache, if it has one; idempotent.

    Args:
        service: a service whose tables have been made.
        connections: where the servers are.
        ledger: the monolith's ledger, which knows where the users are the truth.

    Returns:
        What keeps it from being connected, with what mends it; nothing if it is. Without it a
        service knows the users that are in its copy, and no others.
    """
    owner = owner_of_users()
    if service not in consumers(owner):
        return ""
    moved = ledger.state(owner).reached(State.SWITCHED)
    place = owner.database if moved else MONOLITH
    try:
        with connections.connect(place) as source, connections.connect(service.database) as target:
            password = _reader(source, service)
            _foreign_tables(target, service, connections, place, password)
    except psycopg.errors.InsufficientPrivilege as error:
        return (
            f"{service.database} can't ask the owner of the users for those that it does not know"
            f" yet: {str(error).strip()}. As a superuser: CREATE EXTENSION postgres_fdw; GRANT"
            f" USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO {service.owner}; in {service.database}"
        )
    return ""


def remove(service: Service, connections: Connections) -> list[str]:
    """Drop the role that reads for a service, wherever it was made; idempotent."""
    removed = []
    for place in (MONOLITH, owner_of_users().database):
        try:
            with connections.connect(place) as source:
                if _is_ours(source, service):
                    role = sql.Identifier(_role(service))
                    source.execute(sql.SQL("drop owned by {}").format(role))
                    try:
                        source.execute(sql.SQL("drop role {}").format(role))
                        removed.append(f"role {_role(service)}")
                    except psycopg.errors.DependentObjectsStillExist:
                        continue  # it has rights in the other place, on the same server
        except (ConnectionFailed, NotReady):
            continue  # it is gone, or somebody else's
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
            mend=f"DROP ROLE {_role(service)};",
        )
    return row is not None


def _reader(source: Connection, service: Service) -> str:
    """Make the role that may read what the service may know of users; give its new password."""
    name, password = _role(service), secrets.token_urlsafe(24)
    role = sql.Identifier(name)
    secret = source.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256")
    verb = sql.SQL("alter" if _is_ours(source, service) else "create")
    with source.transaction():
        # Services are built at once, and two grants on one table at once are refused.
        source.execute("select pg_advisory_xact_lock(hashtext('blytz_hire.reader'))")
        source.execute(sql.SQL("{} role {} login password {}").format(verb, role, secret.decode()))
        source.execute(sql.SQL("comment on role {} is {}").format(role, service.mark))
        source.execute(
            sql.SQL("grant connect on database {} to {}").format(
                sql.Identifier(source.info.dbname), role
            )
        )
        source.execute(
            sql.SQL("grant usage on schema {} to {}").format(sql.Identifier(MIRROR_SCHEMA), role)
        )
        for table, columns in _shared(service).items():
            source.execute(
                sql.SQL("grant select ({}) on {} to {}").format(
                    sql.SQL(", ").join(map(sql.Identifier, columns)),
                    sql.Identifier(MIRROR_SCHEMA, table),
                    role,
                )
            )
    return password


def _shared(service: Service) -> dict[str, tuple[str, ...]]:
    owner = owner_of_users().database
    return {
        name: columns
        for name, columns in catalog.landed_tables(service).items()
        if catalog.expected()[name].owner == owner
    }


def _foreign_tables(
    target: Connection, service: Service, connections: Connections, place: str, password: str
) -> None:
    """Make server, mapping and foreign tables anew; atomic, and metadata only."""
    url = connections.for_servers(place)
    fields = {k: str(v) for k, v in conninfo_to_dict(url).items() if v is not None}
    where = {k: fields[k] for k in ("host", "port", "sslmode", "sslrootcert") if k in fields}
    server, owner = sql.Identifier(SERVER), sql.Identifier(service.owner)
    with target.transaction():
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
        if row == (True,):  # the owner role is none, and a socket may ask for no password
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
        for table, columns in _shared(service).items():
            kinds = catalog.expected()[table].columns
            relation = sql.Identifier(SCHEMA, table)
            target.execute(
                sql.SQL("create foreign table {} ({}) server {} options ({})").format(
                    relation,
                    sql.SQL(", ").join(
                        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kinds[name]))
                        for name in columns
                    ),
                    server,
                    _options({"schema_name": MIRROR_SCHEMA, "table_name": table}),
                )
            )
            target.execute(sql.SQL("alter foreign table {} owner to {}").format(relation, owner))


def _options(given: dict[str, str]) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.Literal(value))
        for name, value in given.items()
    )
