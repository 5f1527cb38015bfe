"""Makes a service's database, its two roles and its three schemas, with no right more than needed.

The owner role owns the database and all that is in it, and nobody logs in as it. The login role
is what the service connects as: it reaches its own database only, and of that only the schema
that bears the database's name; not the mirror, not the bookkeeping.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pgsplit.base.errors import NotReady, TargetOccupied
from pgsplit.base.text import few
from pgsplit.postgres.connect import connect, describe, with_database
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.routing import env_file as env_file
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.saga import require_finished

FOREIGN_OBJECTS = """
    select format('%s.%s', namespace.nspname, class.relname)
    from pg_class as class
    inner join pg_namespace as namespace on namespace.oid = class.relnamespace
    where class.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
        and namespace.nspname !~ '^pg_' and namespace.nspname <> 'information_schema'
        and not exists (
            select from pg_depend as dependency
            where dependency.objid = class.oid and dependency.deptype = 'e'
        )
    order by 1
"""


@dataclass(frozen=True)
class Provisioned:
    """What a service was given, and what an operator should know about it."""

    service: Service
    created: bool
    connection_file: Path
    notes: tuple[str, ...]


def provision(
    service: Service,
    connections: Connections,
    ledger: Ledger,
    *,
    new_password: bool = False,
) -> Provisioned:
    """Make a service's database and roles; what exists already is left as it is.

    Idempotent. Roles and database are made one by one (PostgreSQL can't create a database in a
    transaction); what is inside the database comes in one transaction.

    Args:
        service: the service.
        connections: where the servers are.
        ledger: the monolith's ledger.
        new_password: give the login role a new password even if it has one.

    Returns:
        Whether the database was created, where the service's URL stands, and notes.

    Raises:
        ConnectionFailed: the server can't be reached.
        NotReady: the login lacks CREATEDB or CREATEROLE, or an abort was cut short.
        TargetOccupied: the database holds objects that this project did not make, or a role of
            that name has rights that a service must not have.
    """
    require_finished(service, ledger, but=["switch", "rollback", "complete"])
    url = connections.urls[service.database]
    database = conninfo_to_dict(url)["dbname"]
    intent = {"database": database, "owner": service.owner, "login": service.login}
    env_file.require_folder(connections)
    switched = ledger.state(service).reached(State.SWITCHED)
    otherwise = env_file.Side.SERVICE if switched else env_file.Side.MONOLITH
    places = env_file.sides(service, connections, otherwise)
    with ledger.step(service, "provision", enters=State.PROVISIONED, **intent) as step:
        with connect(_maintenance(url), service.database) as server:
            _require_privileges(server)
            exists = server.execute(
                "select true from pg_database where datname = %s", (database,)
            ).fetchone()
            if exists:
                with connect(url, service.database) as inside:
                    _require_unoccupied(inside, service)
                    _require_encoding(inside)
            _require_own_roles(server, service)
            password = _roles(server, service, new_password)
            if not exists:
                # A file that outlived its database says where that was.
                places = (env_file.Side.MONOLITH, env_file.Side.MONOLITH)
                server.execute(
                    sql.SQL(
                        "create database {} owner {} template template0 encoding 'UTF8'"
                    ).format(sql.Identifier(str(database)), sql.Identifier(service.owner))
                )
            notes = _database_rights(server, service, str(database))
        with connect(url, service.database) as inside, inside.transaction():
            _schemas(inside, service)
        file = env_file.file(service, connections)
        if password:
            own = with_database(url, str(database), user=service.login, password=password)
            notes += env_file.establish(service, connections, own, places)
        elif env_file.has_own_url(service, connections):
            own = env_file.own_url(service, connections)
            notes += env_file.establish(service, connections, own, places)
        else:
            notes.append(
                f"{service.login} has a password that is not in {file}; "
                f"runner.py provision {service.role} --new-password gives it another"
            )
        step.detail["created"] = not exists
    return Provisioned(service, not exists, file, tuple(notes))


# What a rollback has laid aside there, by the comment that it bears.
LAID_ASIDE = """
    select format('%I.%I', 'audit', relname) from pg_class
    where relnamespace = to_regnamespace('audit') and relkind = 'r'
        and obj_description(oid, 'pg_class') like 'Rows as the service had them%'
    order by 1
"""


def remove(service: Service, connections: Connections, ledger: Ledger) -> list[str]:
    """Drop a service's database and its two roles; idempotent.

    Of a database that was there before, only the schemas that this project made.

    Args:
        service: a service that is not switched.
        connections: where its server is.
        ledger: the monolith's ledger, which knows what was made.

    Returns:
        What was dropped.

    Raises:
        NotReady: somebody is connected to the database, or it holds what a rollback has laid aside.
    """
    url = connections.urls[service.database]
    name, removed = str(conninfo_to_dict(url)["dbname"]), list[str]()
    database = sql.Identifier(name)
    with connect(_maintenance(url), service.database) as server:
        if _exists(server, name):
            is_ours = _empty(service, url)
            if is_ours and ledger.has_made(service, "provision", "created"):
                try:
                    server.execute(sql.SQL("drop database {}").format(database))
                except psycopg.errors.ObjectInUse as error:
                    raise NotReady(
                        f"Somebody is connected to {name}: {error.diag.message_detail}",
                        where=describe(url),
                        hint="End them: select pg_terminate_backend(pid) from pg_stat_activity"
                        f" where datname = '{name}'; then: runner.py resume",
                    ) from error
                removed.append(f"database {name}")
            elif is_ours:
                server.execute(
                    sql.SQL("alter database {} owner to {}").format(
                        database, sql.Identifier(server.info.user)
                    )
                )
                removed.append(f"schemas of {name}")
        for role in (service.login, service.owner):
            mark = server.execute(
                "select shobj_description(oid, 'pg_authid') from pg_roles where rolname = %s",
                (role,),
            )
            if mark.fetchone() == (service.mark,):
                if _exists(server, name):
                    server.execute(
                        sql.SQL("revoke all on database {} from {}").format(
                            database, sql.Identifier(role)
                        )
                    )
                server.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))
                removed.append(f"role {role}")
    return removed


def _exists(server: psycopg.Connection[Any], name: str) -> bool:
    found = server.execute("select true from pg_database where datname = %s", (name,))
    return found.fetchone() is not None


def _empty(service: Service, url: str) -> bool:
    """Drop the project's schemas from a service's database; False if it is not the service's."""
    with connect(url, service.database) as inside, inside.transaction():
        mark = inside.execute("select obj_description(to_regnamespace('split'), 'pg_namespace')")
        if mark.fetchone() != (service.mark,):
            return False
        require_nothing_kept(inside, service)
        for schema in (service.database, service.mirror, "split", "audit", "owner"):
            inside.execute(
                sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(schema))
            )
        inside.execute(
            sql.SQL("alter role {} in database {} reset all").format(
                sql.Identifier(service.login), sql.Identifier(inside.info.dbname)
            )
        )
    return True


def require_nothing_kept(inside: psycopg.Connection[Any], service: Service) -> None:
    """Refuse to remove a database that holds what a rollback has laid aside.

    Args:
        inside: a connection to the service's database.
        service: the service.

    Raises:
        NotReady: there are such tables; they are named.
    """
    kept = [row[0] for row in inside.execute(LAID_ASIDE)]
    if kept:
        raise NotReady(
            f"{service.database} holds rows that only the service had, laid aside by a rollback:"
            f" {', '.join(kept)}. Nothing was changed.",
            where=describe(inside.info.dsn),
            hint="Keep them elsewhere (pg_dump --schema=audit), drop these tables, then:"
            f" runner.py abort {service.role}",
        )


def _maintenance(url: str) -> str:
    return with_database(url, "postgres")


def _require_privileges(server: psycopg.Connection[Any]) -> None:
    row = server.execute(
        "select rolsuper or (rolcreatedb and rolcreaterole) from pg_roles"
        " where rolname = current_user"
    ).fetchone()
    if row != (True,):
        raise NotReady(
            f"{server.info.user} may not create databases and roles.",
            where=describe(server.info.dsn),
            hint=f'ALTER ROLE "{server.info.user}" CREATEDB CREATEROLE;',
        )


def _require_unoccupied(inside: psycopg.Connection[Any], service: Service) -> None:
    mark = inside.execute("select obj_description(to_regnamespace('split'), 'pg_namespace')")
    if mark.fetchone() == (service.mark,):
        return
    found = [row[0] for row in inside.execute(FOREIGN_OBJECTS)]
    if found:
        raise TargetOccupied(
            f"The database holds what this project did not make: {few(found, 5)}."
            " Nothing was changed.",
            where=describe(inside.info.dsn),
            hint=f"Give {service.database.upper()}_URL another database name, or move these away.",
        )


def _require_own_roles(server: psycopg.Connection[Any], service: Service) -> None:
    """Refuse roles that somebody else made: their rights and members are not ours to judge."""
    for role in (service.owner, service.login):
        row = server.execute(
            "select shobj_description(oid, 'pg_authid') from pg_roles where rolname = %s", (role,)
        ).fetchone()
        if row is not None and row != (service.mark,):
            raise TargetOccupied(
                f"There is a role {role} that this project did not make. Nothing was changed.",
                where=describe(server.info.dsn),
                hint=f"DROP ROLE {role}; or, to hand it over with all its rights:"
                f" COMMENT ON ROLE {role} IS '{service.mark}';",
            )


def _require_encoding(inside: psycopg.Connection[Any]) -> None:
    encoding = inside.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise NotReady(
            f"The database has the encoding {encoding}, which can't hold every text.",
            where=describe(inside.info.dsn),
            hint="Drop it, and runner.py provision makes it in UTF8.",
        )


def _roles(server: psycopg.Connection[Any], service: Service, new_password: bool) -> str:
    """Make the two roles; give the login's password if it was set now, else nothing."""
    existing = {
        row[0]
        for row in server.execute(
            "select rolname from pg_roles where rolname = any(%s)",
            ([service.owner, service.login],),
        )
    }
    owner, login = sql.Identifier(service.owner), sql.Identifier(service.login)
    if service.owner not in existing:
        with server.transaction():
            server.execute(sql.SQL("create role {} nologin").format(owner))
            server.execute(sql.SQL("comment on role {} is {}").format(owner, service.mark))
    # A login that is no superuser must be a member to create and own what belongs to the role.
    server.execute(sql.SQL("grant {} to {}").format(owner, sql.Identifier(server.info.user)))
    if service.login in existing and not new_password:
        return ""
    password = secrets.token_urlsafe(24)
    # Encrypted here, so that the server's log never sees it.
    secret = server.pgconn.encrypt_password(
        password.encode(), service.login.encode(), b"scram-sha-256"
    )
    verb = sql.SQL("alter" if service.login in existing else "create")
    with server.transaction():
        server.execute(sql.SQL("{} role {} login password {}").format(verb, login, secret.decode()))
        server.execute(sql.SQL("comment on role {} is {}").format(login, service.mark))
    return password


def _database_rights(server: psycopg.Connection[Any], service: Service, database: str) -> list[str]:
    """Let the service into its own database; tell where else PUBLIC would let it in."""
    name = sql.Identifier(database)
    server.execute(sql.SQL("revoke all on database {} from public").format(name))
    server.execute(
        sql.SQL("grant connect on database {} to {}").format(name, sql.Identifier(service.login))
    )
    open_to_all = [
        row[0]
        for row in server.execute(
            "select datname from pg_database where datallowconn and datname <> %s"
            " and has_database_privilege(%s, oid, 'connect') order by 1",
            (database, service.login),
        )
    ]
    if not open_to_all:
        return []
    # Other people use these databases too: closing them is the operator's decision.
    return [
        f"services can also connect to {', '.join(open_to_all)}, as everybody can; to close:"
        f" REVOKE CONNECT ON DATABASE {', '.join(map(_quoted, open_to_all))} FROM PUBLIC;"
    ]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _schemas(inside: psycopg.Connection[Any], service: Service) -> None:
    owner, login = sql.Identifier(service.owner), sql.Identifier(service.login)
    own = sql.Identifier(service.database)
    for schema in (service.database, service.mirror, "split", "audit"):
        inside.execute(
            sql.SQL("create schema if not exists {} authorization {}").format(
                sql.Identifier(schema), owner
            )
        )
    inside.execute(sql.SQL("comment on schema split is {}").format(sql.Literal(service.mark)))
    inside.execute("revoke all on schema public from public")
    inside.execute(sql.SQL("grant usage on schema {} to {}").format(own, login))
    # Reading only: writing is granted by the switch, until then the monolith is the truth.
    inside.execute(sql.SQL("grant select on all tables in schema {} to {}").format(own, login))
    inside.execute(
        sql.SQL(
            "alter default privileges for role {} in schema {} grant select on tables to {}"
        ).format(owner, own, login)
    )
    inside.execute(
        sql.SQL("alter role {} in database {} set search_path = {}").format(
            login, sql.Identifier(inside.info.dbname), own
        )
    )
