"""Creates a service's database, its two roles and its schemas, with the fewest rights.

The owner role owns the database and everything in it; nobody can log in as it. The service
connects as the login role, which reaches only its own database, and there only the schema with the
database's name: not the mirror, not the bookkeeping.
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
from pgsplit.load import open_to_all
from pgsplit.postgres import rights
from pgsplit.postgres.connect import connect, describe, with_database
from pgsplit.postgres.locale import create_like, difference, locale_of
from pgsplit.postgres.need import require
from pgsplit.postgres.quiet import quiet
from pgsplit.project import strangers
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import login
from pgsplit.replication.forgotten import require_remembered
from pgsplit.replication.reverse import ReverseStream
from pgsplit.replication.stream import Stream
from pgsplit.routing import applications, env_file, faults
from pgsplit.routing.announce import AFTER_CHANGE_SECONDS, announce
from pgsplit.routing.env_file import Side
from pgsplit.routing.routes import Routes, load
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.saga import require_finished, unfinished
from pgsplit.state.schema import prepare_service

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
    union all
    select format('%s.%s()', namespace.nspname, proc.proname)
    from pg_proc as proc
    inner join pg_namespace as namespace on namespace.oid = proc.pronamespace
    where namespace.nspname !~ '^pg_' and namespace.nspname <> 'information_schema'
        and not exists (
            select from pg_depend as dependency
            where dependency.objid = proc.oid and dependency.deptype = 'e'
        )
    order by 1
"""


@dataclass(frozen=True)
class Provisioned:
    """What was created for a service, and notes for the operator."""

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
    """Create a service's database and roles, unless they exist; idempotent.

    Roles and database are created one by one (PostgreSQL can't create a database in a transaction);
    everything inside the database is created in one transaction.

    Args:
        service: the service.
        connections: where the servers are.
        ledger: the monolith's ledger.
        new_password: give the login role a new password even if it has one.

    Returns:
        Whether the database was created, the file with the service's URL, and notes.

    Raises:
        ConnectionFailed: the server can't be reached.
        NotReady: the login lacks CREATEDB or CREATEROLE, an abort was interrupted, or one side has
            forgotten a cutover.
        TargetOccupied: somebody else owns the database or something in it, or has created a role
            of that name.
    """
    require_finished(service, ledger, but=["switch", "rollback", "complete"])
    _require_something_to_do(service, connections)
    url = connections.urls[service.database]
    database = str(conninfo_to_dict(url)["dbname"])
    intent = {"database": database, "owner": service.owner, "login": service.login}
    env_file.require_folder(connections)
    with ledger.lock:
        wanted, refused = locale_of(ledger.connection), ""
    was = load(service, connections)
    if not env_file.has_own_url(service, connections):
        was = None  # it is for another server
    sides = _sides(service, ledger, was)
    monolith, note = applications.monolith_of(
        service, was, applications.last_written(ledger.connection, service), connections
    )
    with ledger.step(service, "provision", enters=State.PROVISIONED, **intent) as step:
        with connect(maintenance_url(url), service.database) as server:
            require(rights.may_provision(server), describe(server.info.dsn))
            require_own_roles(server, service)
            exists = server.execute(
                "select true from pg_database where datname = %s", (database,)
            ).fetchone()
            if exists:
                with connect(url, service.database) as inside:
                    require_usable(inside, service)
                    require_remembered(service, ledger.connection, inside)
            elif ledger.state(service).reached(State.SWITCHED):
                raise NotReady(
                    f"{service.database} is {ledger.state(service).value}, and there is no such"
                    " database here. Nothing was changed.",
                    where=describe(url),
                    hint=f"Name its server: export {service.database.upper()}_URL=…; or restore it"
                    " there: runner.py backups",
                )
            password = _roles(server, service, new_password)
            if not exists:
                # The file is older than this database: its routes led to another one.
                sides = Side.MONOLITH, Side.MONOLITH
                refused = create_like(server, database, service.owner, wanted)
            notes = _database_rights(server, service, database)
        with connect(url, service.database) as inside:
            with inside.transaction():
                _schemas(inside, service)
                prepare_service(inside, service)
            # Outside of the transaction, in which this login acts as the owner.
            for stream in (Stream, ReverseStream):
                notes += login.notes(stream(service, ledger.connection, inside), connections)
            with ledger.lock:
                notes += difference(ledger.connection, inside, refused)
        if own := _own_url(service, connections, password):
            notes += _publish(service, connections, own, monolith, sides)
            notes += filter(None, [note, _announced(service, connections, was, sides)])
            step.detail["routes"] = applications.as_written(service, connections)
        else:
            notes.append(_not_written(service, connections, ledger))
        step.detail["created"] = not exists
    return Provisioned(service, not exists, env_file.file(service, connections), tuple(notes))


def _require_something_to_do(service: Service, connections: Connections) -> None:
    if not connections.has_monolith:
        raise NotReady(
            f"{service.database} is completed, and there is no monolith: its database and its roles"
            " are there, and belong to its team. Nothing was changed.",
            where=describe(connections.urls[service.database]),
            hint=f"To give its login another password: runner.py psql {service.role}"
            f" -c '\\password {service.login}'\nthen write it into"
            f" {env_file.file(service, connections)}.",
        )


def _sides(service: Service, ledger: Ledger, was: Routes | None) -> tuple[Side, Side]:
    """Tell where applications belong: the ledger knows, unless an operation is unfinished."""
    is_switched = ledger.state(service).reached(State.SWITCHED)
    if was and service.database in unfinished(ledger):
        return was.reads_at, was.writes_at
    with ledger.lock:
        return applications.sides_wanted(ledger.connection, service, was, is_switched=is_switched)


def _own_url(service: Service, connections: Connections, password: str) -> str:
    """Give the service's own URL; nothing if it has a password that is not known here."""
    if password:
        url = connections.urls[service.database]
        database = str(conninfo_to_dict(url)["dbname"])
        return with_database(url, database, user=service.login, password=password)
    if env_file.has_own_url(service, connections) and not faults.is_refused(service, connections):
        return env_file.own_url(service, connections)
    return ""


def _publish(
    service: Service,
    connections: Connections,
    own: str,
    monolith: str,
    sides: tuple[Side, Side],
) -> list[str]:
    """Write the service's file; give notes for the operator."""
    try:
        return env_file.establish(service, connections, own, monolith, sides)
    except NotReady as error:
        if own != env_file.read_url(env_file.file(service, connections)):
            # The next run can't know the password that was made now.
            error.hint += f": runner.py provision {service.role} --new-password"
        raise


def _announced(
    service: Service, connections: Connections, was: Routes | None, sides: tuple[Side, Side]
) -> str:
    """Tell applications whose routes have changed; give a warning if that failed."""
    if was is None or (was.reads_at, was.writes_at) == sides:
        return ""
    return announce(service, connections, AFTER_CHANGE_SECONDS)


def _not_written(service: Service, connections: Connections, ledger: Ledger) -> str:
    """Say that the file can't be written again, since nobody here knows the password."""
    hint = faults.another_password(
        service, connections, applications.last_written(ledger.connection, service)
    )
    return (
        f"{service.login} has a password that is not in {env_file.file(service, connections)}. To"
        f" give it another: {hint}"
    )


def maintenance_url(url: str) -> str:
    """Give the URL of the server's database `postgres`, from which others are made or dropped."""
    return with_database(url, "postgres")


def require_usable(inside: psycopg.Connection[Any], service: Service) -> None:
    """Refuse a database that exists already, and that is not or can't be a service's.

    Args:
        inside: a connection to it.
        service: the service.

    Raises:
        NotReady: it is another service's, or has another encoding.
        TargetOccupied: somebody else owns it or something in it.
    """
    strangers.require_none(inside, service.project, service.database)
    _require_unoccupied(inside, service)
    _require_encoding(inside)


def _require_unoccupied(inside: psycopg.Connection[Any], service: Service) -> None:
    mark = inside.execute("select obj_description(to_regnamespace('split'), 'pg_namespace')")
    if mark.fetchone() == (service.mark,):
        return
    found = [row[0] for row in inside.execute(FOREIGN_OBJECTS)]
    if found:
        raise TargetOccupied(
            f"The database holds objects that this project did not make: {few(found, 5)}."
            " Nothing was changed.",
            where=describe(inside.info.dsn),
            hint=f"Give {service.database.upper()}_URL another database name, or move these away.",
        )


def mark_of_role(server: psycopg.Connection[Any], role: str) -> tuple[Any, ...] | None:
    """Read a role's comment, by which this project knows its own roles; None without the role."""
    return server.execute(
        "select shobj_description(oid, 'pg_authid') from pg_roles where rolname = %s", (role,)
    ).fetchone()


def require_own_roles(server: psycopg.Connection[Any], service: Service) -> None:
    """Refuse roles that somebody else has created: we can't judge their rights and members."""
    for role in (service.owner, service.login):
        if mark_of_role(server, role) not in (None, (service.mark,)):
            raise TargetOccupied(
                f"There is a role {role} that this project did not make. Nothing was changed.",
                where=describe(server.info.dsn),
                hint=f"DROP ROLE {role}; or, to let this project use it with all its rights:"
                f" COMMENT ON ROLE {role} IS '{service.mark}';",
            )


def _require_encoding(inside: psycopg.Connection[Any]) -> None:
    encoding = inside.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise NotReady(
            f"The database has the encoding {encoding}, which can't hold every text.",
            where=describe(inside.info.dsn),
            hint="Drop it; runner.py provision creates it in UTF8.",
        )


def _roles(server: psycopg.Connection[Any], service: Service, new_password: bool) -> str:
    """Create the two roles; give the login's password if it was set now, else nothing."""
    existing = {
        row[0]
        for row in server.execute(
            "select rolname from pg_roles where rolname = any(%s)",
            ([service.owner, service.login],),
        )
    }
    # An abort that could not drop the login has left it so that nobody can use it.
    can_log_in = server.execute(
        "select true from pg_roles where rolname = %s and rolcanlogin", (service.login,)
    ).fetchone()
    owner, login = sql.Identifier(service.owner), sql.Identifier(service.login)
    if service.owner not in existing:
        with server.transaction():
            server.execute(sql.SQL("create role {} nologin").format(owner))
            server.execute(sql.SQL("comment on role {} is {}").format(owner, service.mark))
    # Unless it is a superuser, our login must be a member to create the role's objects.
    server.execute(sql.SQL("grant {} to {}").format(owner, sql.Identifier(server.info.user)))
    if can_log_in and not new_password:
        return ""
    password = secrets.token_urlsafe(24)
    # Encrypted here, so that the server's log never sees it.
    secret = server.pgconn.encrypt_password(
        password.encode(), service.login.encode(), b"scram-sha-256"
    )
    verb = sql.SQL("alter" if service.login in existing else "create")
    with quiet(server), server.transaction():
        server.execute(sql.SQL("{} role {} login password {}").format(verb, login, secret.decode()))
        server.execute(sql.SQL("comment on role {} is {}").format(login, service.mark))
    return password


def _database_rights(server: psycopg.Connection[Any], service: Service, database: str) -> list[str]:
    """Let the service connect to its own database; note where else PUBLIC lets it connect."""
    name = sql.Identifier(database)
    server.execute(sql.SQL("revoke all on database {} from public").format(name))
    server.execute(
        sql.SQL("grant connect on database {} to {}").format(name, sql.Identifier(service.login))
    )
    return open_to_all.notes(server, service, database)


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
    # Only reading: until the switch, which grants writing, the monolith is the source of truth.
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
