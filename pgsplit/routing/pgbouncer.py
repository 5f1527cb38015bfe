"""Controls PgBouncer: where it routes each service, and when it pauses clients.

A service's clients connect to PgBouncer's databases `payments`, to write, and `payments_read`.
"""

from __future__ import annotations

import select
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import ExecStatus
from psycopg.rows import dict_row

from pgsplit.base.errors import ConnectionFailed, NotReady
from pgsplit.postgres.connect import CONNECT_TIMEOUT_SECONDS, describe, explained
from pgsplit.project.project import Service

HEADER = """\
; Where PgBouncer finds each service's data. runner.py writes this file; include it with
; %include {path}
; as the last line of [databases].
"""

RELEASE_SECONDS = 2.0
ADMINS = "Name that user in admin_users of PgBouncer's configuration, and RELOAD it."

Console = psycopg.Connection[dict[str, Any]]


def reads_of(service: Service) -> str:
    """Name the PgBouncer database through which a service's applications read."""
    return f"{service.role}_read"


def render(path: Path, databases: Mapping[str, str]) -> str:
    """Write PgBouncer's lines for some databases.

    Args:
        path: the file for them.
        databases: the URL behind each name.

    Returns:
        The file's text.

    Raises:
        NotReady: PgBouncer can't express a URL.
    """
    lines = [
        f"{name} = " + " ".join(f"{key}={_quoted(value)}" for key, value in _parts(url).items())
        for name, url in databases.items()
    ]
    return HEADER.format(path=path) + "".join(f"{line}\n" for line in lines)


def _parts(url: str) -> dict[str, str]:
    found = {k: str(v) for k, v in conninfo_to_dict(url).items() if v not in (None, "")}
    parts = {
        "host": found.get("host", "localhost"),
        "port": found.get("port", "5432"),
        "dbname": found.get("dbname", ""),
        "user": found.get("user", "postgres"),
    }
    if "password" in found:
        parts["password"] = found["password"]
    if "," in parts["host"]:
        raise NotReady(
            "PgBouncer can't find the primary among several hosts.",
            where=describe(url),
            hint="Give the URL a single host: the primary, or a proxy before it.",
        )
    if "\n" in url or any("\n" in part for part in parts.values()):
        raise NotReady(
            "PgBouncer can't use a password or other value with a line break.",
            where=describe(url),
            hint="Give that login another password.",
        )
    return parts


def _quoted(value: str) -> str:
    # PgBouncer's only escape is the doubled quote; a backslash stands for itself.
    return "'" + value.replace("'", "''") + "'"


@contextmanager
def console(url: str) -> Iterator[Console]:
    """Connect to PgBouncer's admin console for the block.

    Args:
        url: its URL.

    Raises:
        ConnectionFailed: it can't be reached, or refuses the login.
        NotReady: the login is not an administrator's.
    """
    try:
        with explained(url, "pgbouncer_admin"):
            # The console has only the simple protocol, without transactions or parameters.
            connection = psycopg.connect(
                url,
                autocommit=True,
                prepare_threshold=None,
                row_factory=dict_row,
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
                tcp_user_timeout=CONNECT_TIMEOUT_SECONDS * 1000,
                application_name="pgsplit",
            )
    except ConnectionFailed as error:
        if error.what.endswith("not allowed"):
            what = "PgBouncer does not let this user into its console."
            raise NotReady(what, where=error.where, hint=ADMINS) from error
        raise
    with connection:
        yield connection


def ask(connection: Console, statement: str) -> list[dict[str, Any]]:
    """Send PgBouncer a command or a query.

    Args:
        connection: its console.
        statement: such as `RELOAD` or `SHOW DATABASES`.

    Returns:
        The rows of a SHOW.

    Raises:
        ConnectionFailed: the connection broke.
        NotReady: PgBouncer refuses.
    """
    url = connection.info.dsn
    try:
        with explained(url, "pgbouncer_admin", connection):
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []
    except psycopg.Error as error:
        raise _refused(connection, statement, str(error)) from error


def _refused(connection: Console, statement: str, said: str) -> NotReady:
    return NotReady(
        f"PgBouncer refuses {statement}: {said.strip().removeprefix('ERROR:').strip()}",
        where=describe(connection.info.dsn),
        hint=ADMINS if "admin" in said else "Look into PgBouncer's log.",
    )


def reload(url: str, path: Path, databases: Mapping[str, str], reconnect: Collection[str]) -> None:
    """Let PgBouncer read its files again, and check that it uses them.

    Args:
        url: its console's URL.
        path: the file that it includes.
        databases: the URL behind each name, as in that file.
        reconnect: the names whose connections are re-created, each as soon as it is free.

    Raises:
        ConnectionFailed: PgBouncer can't be reached.
        NotReady: it doesn't use the file.
    """
    with console(url) as connection:
        ask(connection, "RELOAD")
        # It answers RELOAD even if it could not read its files.
        found = {row["name"]: row for row in ask(connection, "SHOW DATABASES")}
        for name, behind in databases.items():
            parts, row = _parts(behind), found.get(name, {})
            wanted = [parts["host"], parts["port"], parts["dbname"], parts["user"]]
            if [str(row.get(at)) for at in ("host", "port", "database", "force_user")] != wanted:
                has = "has another server for" if row else "has no database"
                raise NotReady(
                    f"PgBouncer doesn't use {path}: it {has} {name}.",
                    where=describe(url),
                    hint=f"Let PgBouncer's account read that file, and end [databases] of its"
                    f" configuration with: %include {path}",
                )
        for name in reconnect:
            ask(connection, f"RECONNECT {name}")


def is_paused(connection: Console, name: str) -> bool:
    """Tell whether the clients of one of PgBouncer's databases are paused."""
    rows = ask(connection, "SHOW DATABASES")
    return any(row["name"] == name and int(row["paused"]) for row in rows)


def pause(connection: Console, name: str, seconds: float) -> bool:
    """Pause a database's clients, as soon as their running statements are done.

    Args:
        connection: PgBouncer's console; unusable afterwards if this returns False.
        name: the database.
        seconds: how long running statements may take.

    Returns:
        Whether all of them ended in time; the database is PAUSEd in any case.

    Raises:
        ConnectionFailed: the connection broke.
        NotReady: PgBouncer refuses.
    """
    statement, deadline = f"PAUSE {name}", time.monotonic() + seconds
    with explained(connection.info.dsn, "pgbouncer_admin"):
        # psycopg has no deadline for an answer; this has one.
        session, poll = connection.pgconn, select.poll()
        poll.register(session.socket, select.POLLIN)
        session.send_query(statement.encode())
        while session.flush():
            time.sleep(0.001)
        while session.is_busy():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if poll.poll(left * 1000):
                session.consume_input()
        answers = list(iter(session.get_result, None))
    for answer in answers:
        if answer.status != ExecStatus.COMMAND_OK:
            raise _refused(connection, statement, answer.get_error_message())
    return True


def resume(connection: Console, name: str) -> None:
    """Resume a database's clients; idempotent.

    Args:
        connection: PgBouncer's console.
        name: the database.

    Raises:
        ConnectionFailed: the connection broke.
        NotReady: PgBouncer refuses.
    """
    try:
        ask(connection, f"RESUME {name}")
    except NotReady:
        if is_paused(connection, name):
            raise


def login_retry(connection: Console) -> str:
    """Give the seconds that PgBouncer waits after a failed connection to a server."""
    rows = ask(connection, "SHOW CONFIG")
    return next((str(row["value"]) for row in rows if row["key"] == "server_login_retry"), "15")


def release(connection: Console, name: str, retry: str) -> None:
    """Resume a database's clients without delay; idempotent.

    Args:
        connection: PgBouncer's console.
        name: the database.
        retry: PgBouncer's `server_login_retry`, which is set again at the end.

    Raises:
        ConnectionFailed: the connection broke.
        NotReady: PgBouncer refuses.
    """
    resume(connection, name)
    # If a client logged in meanwhile, PgBouncer began to connect to the server and stopped because
    # of the PAUSE. It counts that as a failure and waits for server_login_retry, 15 seconds by
    # default; everybody would wait with it.
    ask(connection, "SET server_login_retry = 0")
    try:
        deadline = time.monotonic() + RELEASE_SECONDS
        while _is_stuck(connection, name) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        ask(connection, f"SET server_login_retry = '{retry}'")


def _is_stuck(connection: Console, name: str) -> bool:
    pools = [pool for pool in ask(connection, "SHOW POOLS") if pool["database"] == name]
    servers = ("sv_active", "sv_idle", "sv_used", "sv_tested")
    return any(
        int(pool["cl_waiting"]) and not any(int(pool[kind]) for kind in servers) for pool in pools
    )


def busy(connection: Console, name: str) -> list[str]:
    """Name the clients that keep a connection to the server.

    Args:
        connection: PgBouncer's console.
        name: the database.

    Returns:
        Each client's user, address and application, for people.
    """
    return [
        f"{row['user']} at {row['addr']}:{row['port']}"
        + (f" ({row['application_name']})" if row.get("application_name") else "")
        for row in ask(connection, "SHOW CLIENTS")
        if row["database"] == name and row["link"]
    ]
