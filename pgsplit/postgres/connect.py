"""Opens connections, and explains those that fail or break."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgsplit.base.errors import Busy, ConnectionFailed, NotReady
from pgsplit.postgres import embedded_url, refusals, session_settings, values

SERVER_GONE = ("57P01", "57P02", "57P03")
DEFAULTS = {"host": "localhost", "port": "5432", "user": "postgres"}
CONNECT_TIMEOUT_SECONDS = 10
SHORT_TIMEOUT_SECONDS = 3
# A server that has failed over, or was copied file by file, keeps its number.
IDENTITY = """
    select system_identifier, database.oid
    from pg_control_system(), pg_database as database where datname = current_database()
"""
# How long a statement may wait for a table that somebody alters.
LOCK_TIMEOUT = "5s"
APPLICATION_NAME = "pgsplit"


def url_of(fields: Mapping[str, str]) -> str:
    """Write connection parameters as a URL."""
    rest = dict(fields)
    user, password, dbname = rest.pop("user"), rest.pop("password", ""), rest.pop("dbname")
    login = quote(user, safe="") + (":" + quote(password, safe="") if password else "")
    host = port = ""
    if not rest["host"].startswith("/") and "," not in rest["host"]:
        host = rest.pop("host")
        host, port = (f"[{host}]" if ":" in host else host), ":" + rest.pop("port")
    parameters = "?" + urlencode(rest, quote_via=quote, safe="/") if rest else ""
    return f"postgresql://{login}@{host}{port}/{quote(dbname, safe='')}{parameters}"


def with_database(url: str, database: str, **fields: str) -> str:
    """Give the URL of another database on the same server, perhaps with another login.

    Args:
        url: a PostgreSQL URL.
        database: the other database's name.
        fields: other connection parameters to replace, such as `user` and `password`.

    Returns:
        A PostgreSQL URL.
    """
    return url_of({**fields_of(url), "dbname": database, **fields})


def fields_of(url: str) -> dict[str, str]:
    """Give a URL's connection parameters, with libpq's defaults for host, port and user."""
    return {**DEFAULTS, **{k: str(v) for k, v in conninfo_to_dict(url).items() if v is not None}}


def conninfo(url: str) -> str:
    """Give a URL as libpq's `key=value` string, as a subscription stores it."""
    return make_conninfo(url)


def same_database(url: str, other: str) -> bool:
    """Tell whether two URLs name the same database; their logins may differ."""
    parts = ("host", "port", "dbname")
    one, two = ({"port": "5432", **conninfo_to_dict(place)} for place in (url, other))
    return [str(one.get(part)) for part in parts] == [str(two.get(part)) for part in parts]


def is_one_database(url: str, other: str) -> bool:
    """Tell whether two URLs lead to the same database, perhaps by other names of its server."""
    if same_database(url, other):
        return True
    try:
        with (
            connect(url, "first", connect_timeout=SHORT_TIMEOUT_SECONDS) as one,
            connect(other, "second", connect_timeout=SHORT_TIMEOUT_SECONDS) as two,
        ):
            return one.execute(IDENTITY).fetchone() == two.execute(IDENTITY).fetchone()
    except ConnectionFailed:
        return False


def describe(url: str) -> str:
    """Name a database for people: who, what and where, but never the password."""
    found = fields_of(url)
    where = found["host"] if found["host"].startswith("/") else f"{found['host']}:{found['port']}"
    return f"database {found.get('dbname', '')} on {where} as {found['user']}"


def connect(url: str, target: str, **parameters: Any) -> psycopg.Connection[tuple[Any, ...]]:
    """Open an autocommit connection.

    Args:
        url: a PostgreSQL URL.
        target: the target's name in messages.
        parameters: further connection parameters, such as `application_name`.

    Returns:
        A psycopg connection with the settings of `session_settings`; as a context manager it
        closes itself.

    Raises:
        ConnectionFailed: the server can't be reached or refuses, or a pooler answers; the message
            says why.
    """
    parameters = {
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "client_encoding": "utf8",
        "application_name": APPLICATION_NAME,
        "options": session_settings.options(conninfo_to_dict(url).get("options")),
        "context": values.ADAPTERS,
        **parameters,
    }
    try:
        connection = psycopg.connect(url, autocommit=True, **parameters)
        begin = session_settings.after_connecting(connection.info.server_version)
        if "replication" in parameters:  # a WAL sender speaks the simple protocol only
            connection.pgconn.exec_(begin.encode())
        else:
            try:
                connection.execute(begin)
            except errors.DivisionByZero as error:  # `session_settings.HOLDS` says so
                connection.close()
                raise _pooled(url, target) from error
        return connection
    except psycopg.OperationalError as error:
        raise _explain(error, url, target) from error


@contextmanager
def explained(
    url: str, target: str, connection: psycopg.Connection[Any] | None = None
) -> Iterator[None]:
    """Explain a connection that breaks inside the block.

    Args:
        url: the connection's URL.
        target: its name in messages.
        connection: if given, only errors that break this one are explained.

    Raises:
        ConnectionFailed: the connection broke; the message says which one.
    """
    try:
        yield
    except psycopg.OperationalError as error:
        if connection is not None and not connection.broken:
            raise
        if is_lost(error):
            raise _explain(error, url, target) from error
        raise


def is_lost(error: psycopg.Error) -> bool:
    """Tell whether an error means that the connection is gone."""
    # Without an SQLSTATE, or with one of these, the connection failed. With any other, such as a
    # full disk, the server itself has said what is wrong.
    code = error.sqlstate or "08"
    return isinstance(error, psycopg.OperationalError) and (
        code.startswith("08") or code in SERVER_GONE
    )


def locked(what: str, url: str) -> NotReady:
    """Give the error for a table that somebody else has locked."""
    return NotReady(
        f"{what} is locked by somebody who alters it.",
        where=describe(url),
        hint="Wait for them: select pid, relation::regclass from pg_locks"
        " where mode = 'AccessExclusiveLock';",
    )


def held_lock(error: errors.LockNotAvailable, where: str) -> Busy:
    """Give the error for a lock that could not be had in time, wherever it was."""
    return Busy(
        "Somebody holds a lock that keeps everybody out:"
        f" {error.diag.message_primary or str(error).strip()}.",
        where=where,
        hint="Wait for them, or see who it is: select pid, relation::regclass from pg_locks"
        " where mode = 'AccessExclusiveLock' and granted;",
    )


def _explain(error: psycopg.OperationalError, url: str, target: str) -> ConnectionFailed:
    found = refusals.explain(str(error), f"{target.upper()}_URL", fields_of(url))
    what, hint = found.what, found.hint
    if embedded_url.is_url(url) and what == refusals.NO_ANSWER:
        what, hint = "The embedded server is not running", "runner.py up"
    elif embedded_url.is_url(url) and what == refusals.NO_DATABASE:
        hint += "\nTo make a sample monolith: runner.py demo"
    fields = {"sql": found.sql} if found.sql else {}
    return ConnectionFailed(f"{what}: {found.said}", where=describe(url), hint=hint, **fields)


def _pooled(url: str, target: str) -> ConnectionFailed:
    return ConnectionFailed(
        "This is a connection pooler: it has dropped the settings of this session, and would give"
        " its connection to others in between.",
        where=describe(url),
        hint=refusals.server_itself(f"{target.upper()}_URL", fields_of(url)),
    )
