"""The login by which a subscription reads its source, with the fewest rights.

A server keeps its subscriptions' passwords as they are, so what it keeps should open nothing else
on the other server. Each stream has a login of its own on its source's server, named like the
stream and dropped with it: it may connect to the one database and replicate from it. Its password
is a new one whenever the subscription is created, so nobody else has to remember it.

No login is made where the operator names one (`NAME_REPLICATION_URL`), and where there is no
password to keep: over a socket, or with a certificate. Where this login can't make one, or the
other server can't log in with it, the subscription keeps the login of `NAME_URL`, and `status` says
how to change that.
"""

from __future__ import annotations

import secrets
import shlex
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgsplit.base.errors import TargetOccupied
from pgsplit.postgres import roles
from pgsplit.postgres.connect import conninfo, describe, fields_of, with_database
from pgsplit.postgres.managed import dialect
from pgsplit.postgres.quiet import FAILURES, quiet, unquiet
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import subscription as subscriptions
from pgsplit.replication.slot import Connection
from pgsplit.replication.subscription import try_to_connect

if TYPE_CHECKING:
    from pgsplit.replication.stream import BaseStream

# PostgreSQL 15 lets only superusers give REPLICATION; later on one must have it.
MAY_MAKE = """
    select rolsuper or (
        rolcreaterole and rolreplication
        and current_setting('server_version_num')::integer >= 160000
    )
    from pg_catalog.pg_roles where rolname = current_user
"""
LACKS = """
    select concat_ws(
        ' ',
        case when not rolcreaterole then 'CREATEROLE' end,
        case when not rolreplication then 'REPLICATION' end
    )
    from pg_catalog.pg_roles where rolname = current_user
"""
MARK = """
    select pg_catalog.shobj_description(oid, 'pg_authid') from pg_catalog.pg_roles
    where rolname = %s
"""
OF_ANOTHER_HOST = ("sslcert", "sslkey", "sslpassword", "passfile", "service")


def url_for(stream: BaseStream, connections: Connections) -> str:
    """Give the URL that a stream's subscription is to store; with a login of its own if it can be.

    A login that is there gets a new password.

    Args:
        stream: a stream that is about to be created.
        connections: where its source is, as the target's server reaches it.

    Returns:
        A URL by which that server reaches the source; it has tried.

    Raises:
        NotReady: it can't reach the source.
        TargetOccupied: a role with the stream's name is somebody else's.
    """
    url = connections.for_servers(stream.source_name)
    secret = is_secret(stream.source, stream.source_name, connections)
    if secret and (password := _make(stream)):
        own = with_login(url, stream.name, password)
        if not try_to_connect(stream.target, own):
            return own
        drop(stream)
    if said := try_to_connect(stream.target, url):
        raise stream.unreachable(said, url)
    return url


def adopt(stream: BaseStream, connections: Connections) -> None:
    """Give a stream that an earlier version has created a login of its own; idempotent.

    Args:
        stream: a stream, which may be running.
        connections: where its source is, as the target's server reaches it.
    """
    if not stream.is_there() or not advice(stream, connections):
        return
    url = url_for(stream, connections)
    if conninfo_to_dict(url)["user"] != stream.name:
        return
    try:
        with quiet(stream.target):
            subscriptions.alter(
                stream.target,
                stream.name,
                sql.SQL("connection {}").format(sql.Literal(conninfo(url))).as_string(),
            )
    except BaseException:
        drop(stream)
        raise


def drop(stream: BaseStream) -> None:
    """Drop a stream's login, if it is there and ours; idempotent.

    One to which somebody has given further rights stays, and nobody can log in as it. No operation
    may stop because of that.
    """
    source, role = stream.source, sql.Identifier(stream.name)
    if mark(source, stream.name) != (stream.service.mark,):
        return
    database = sql.Identifier(source.info.dbname)
    try:
        with source.transaction():
            source.execute(sql.SQL("revoke all on database {} from {}").format(database, role))
            roles.drop(source, stream.name)
    except psycopg.errors.InsufficientPrivilege:
        return  # somebody with more rights has made it, with another login of the runner's


def advice(stream: BaseStream, connections: Connections) -> str:
    """Say whose password a stream's subscription stores or will store, if not its own login's.

    Args:
        stream: a stream, there or not.
        connections: where its source is.

    Returns:
        What is stored, with statements that change it; nothing if nobody else's password is.
    """
    if not is_secret(stream.source, stream.source_name, connections) or _has_own(stream):
        return ""
    (label, target), database = stream.labels, stream.source.info.dbname
    url = connections.for_servers(stream.source_name)
    is_there = stream.is_there()
    begin = "The server" if is_there else "Once it follows, the server"
    said = (
        f"{begin} of {target} logs in to {label} as {conninfo_to_dict(url)['user']}, whose"
        f" password it {'' if is_there else 'then '}stores, readable for its superusers."
    )
    build = f"runner.py build {stream.service.role}"
    if may_make(stream.source):
        return (
            f"{said} `{build}` gives it a login of its own. If this note stays, the pg_hba.conf of"
            f" {label} lacks a line for that login, such as:\n"
            f'  host "{database}" {stream.name} ADDRESS scram-sha-256\n'
            f"  hint:  {build}"
        )
    name = f"{stream.service.project.name}_replication"
    return (
        f"{said} {stream.source.info.user} may not make one that may only replicate."
        f"{_to_let_it(stream.source, label, build if is_there else '')} On {label}, with psql:\n"
        f'  CREATE ROLE "{name}" LOGIN REPLICATION;\n'
        f'  GRANT CONNECT ON DATABASE "{database}" TO "{name}";\n'
        f'  \\password "{name}"\n'
        f"  hint:  {command_for(stream.variable, url, user=name)}"
    )


def _to_let_it(source: Connection, label: str, then: str) -> str:
    """Say what lets the runner's login make such logins, where less than a superuser may."""
    here = dialect(source)
    if here.version < 160000 or here.provider.replicates:
        return ""
    row = source.execute(LACKS).fetchone()
    assert row is not None
    done = f"Then: {then}\n" if then else ""
    return f" To let it, on {label}:\n  ALTER ROLE {here.user} {row[0]};\n{done}Or give a login."


def command_for(variable: str, url: str, **fields: str) -> str:
    """Write the command that sets a URL by which servers reach a target.

    Args:
        variable: the URL's variable.
        url: the URL so far; port, database and TLS are taken from it, and no file of its login.
        fields: what is another one, such as `user` or `host`.
    """
    shown = with_login(url, fields.pop("user", "USER"), "PASSWORD")
    shown = with_database(shown, fields_of(shown)["dbname"], **fields)
    return f"export {variable}={shlex.quote(shown)}"


def logged(stream: BaseStream, connections: Connections) -> str:
    """Say which log may hold the password that a subscription stores; nothing if none may.

    A statement that fails leaves the password in the log by default. That of a login of its own is
    worth nothing then: the next try sets another one.
    """
    secret = is_secret(stream.source, stream.source_name, connections)
    settings = unquiet(stream.target) if secret else []
    if may_make(stream.source):
        settings = [name for name in settings if name != FAILURES]
    if not settings:
        return ""
    listed = ", ".join(settings)
    user = stream.target.info.user
    return (
        f"The server of {stream.labels[1]} may log the password by which it reads"
        f" {stream.labels[0]}: {user} may not turn {listed} off for its session. To let it:"
        f' GRANT SET ON PARAMETER {listed} TO "{user}";'
    )


def notes(stream: BaseStream, connections: Connections) -> list[str]:
    """Give what an operator should know before a stream is created, with what changes it."""
    said = [logged(stream, connections)]
    if not may_make(stream.source):
        said.append(advice(stream, connections))
    return [one for one in said if one]


def notes_of(stream: BaseStream, connections: Connections) -> list[str]:
    """Give what an operator should know about a stream that is there."""
    said = advice(stream, connections) if stream.is_there() else ""
    return [said] if said else []


def may_make(source: Connection) -> bool:
    """Tell whether the runner's login may make such logins in a source."""
    return source.execute(MAY_MAKE).fetchone() == (True,)


def is_secret(source: Connection, source_name: str, connections: Connections) -> bool:
    """Tell whether the target's server would store a password that the operator didn't choose."""
    if connections.is_for_servers(source_name):
        return False
    url = connections.urls[source_name]
    return bool(conninfo_to_dict(url).get("password")) or source.pgconn.used_password


def _has_own(stream: BaseStream) -> bool:
    """Tell whether a stream has its own login, and uses it, as far as this login may look."""
    if mark(stream.source, stream.name) != (stream.service.mark,):
        return False
    stored = "select subconninfo from pg_catalog.pg_subscription where subname = %s and subdbid ="
    stored += " (select oid from pg_catalog.pg_database where datname = current_database())"
    try:
        row = stream.target.execute(stored, (stream.name,)).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return True
    return row is None or conninfo_to_dict(row[0]).get("user") == stream.name


def with_login(url: str, name: str, password: str) -> str:
    """Give a URL with a stream's own login, without the files of another one."""
    fields = {k: str(v) for k, v in conninfo_to_dict(url).items() if k not in OF_ANOTHER_HOST}
    where = make_conninfo(**fields)
    return with_database(where, fields["dbname"], user=name, password=password)


def mark(source: Connection, name: str) -> tuple[str | None] | None:
    """Read the comment on a login, by which this project knows its own; None without the login."""
    return source.execute(MARK, (name,)).fetchone()


def _make(stream: BaseStream) -> str:
    """Make the login, or give it another password; nothing if this login may not."""
    source, name, service = stream.source, stream.name, stream.service
    found = mark(source, name)
    if found not in (None, (service.mark,)):
        raise occupied(source, name, service)
    if not may_make(source):
        return ""
    role, password = sql.Identifier(name), secrets.token_urlsafe(24)
    secret = source.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256")
    verb = sql.SQL("alter" if found else "create")
    has_rights = False
    try:
        with quiet(source), source.transaction():
            source.execute(
                sql.SQL("{} role {} login replication password {}").format(
                    verb, role, secret.decode()
                )
            )
            source.execute(sql.SQL("comment on role {} is {}").format(role, service.mark))
            # Only a member may end the process that serves the slot, before the slot is dropped.
            source.execute(sql.SQL("grant {} to current_user").format(role))
            source.execute(
                sql.SQL("grant connect on database {} to {}").format(
                    sql.Identifier(source.info.dbname), role
                )
            )
            row = source.execute(
                "select has_database_privilege(%s, current_database(), 'connect')", (name,)
            ).fetchone()
            has_rights = row == (True,)
            if not has_rights:
                raise psycopg.Rollback
    except psycopg.errors.InsufficientPrivilege:
        return ""
    return password if has_rights else ""


def occupied(source: Connection, name: str, service: Service) -> TargetOccupied:
    """Give the error for a login that somebody else has made."""
    return TargetOccupied(
        f"There is a role {name} that this project did not make. Nothing was changed.",
        where=describe(source.info.dsn),
        hint=f'DROP ROLE "{name}"; or, to let this project use it with all its rights:'
        f" COMMENT ON ROLE \"{name}\" IS '{service.mark}';",
    )
