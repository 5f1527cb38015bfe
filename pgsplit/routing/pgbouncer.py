"""Speaks to PgBouncer: what it is to connect each service to, and when its clients wait.

Clients connect to the databases `payments`, which is where payments writes, and `payments_read`.
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
; Where PgBouncer finds each service's data. runner.py writes all of this file; include it with
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
        path: the file that they are for.
        databases: the URL behind each name.

    Returns:
        The file's text.

    Raises:
        NotReady: a URL is none that PgBouncer can express.
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
            hint="Give the URL one host: that of the primary, or of what leads to it.",
        )
    if "\n" in url or any("\n" in part for part in parts.values()):
        raise NotReady(
            "PgBouncer can't be told a password, or anything, with a line break in it.",
            where=describe(url),
            hint="Give that login another password.",
        )
    return parts


def _quoted(value: str) -> str:
    # PgBouncer knows the doubled quote and no other escape: a backslash stands for itself.
    return "'" + value.replace("'", "''") + "'"


@contextmanager
def console(url: str) -> Iterator[Console]:
    """Connect to PgBouncer's admin console for the block.

    Args:
        url: its URL.

    Raises:
        ConnectionFailed: it can't be reached, or refuses the login.
        NotReady: the login is no administrator's.
    """
    try:
        with explained(url, "pgbouncer_admin"):
            # It speaks the simple protocol only, and knows neither transactions nor parameters.
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
    """Give PgBouncer a command, or ask it something.

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
    """Let PgBouncer read its files again, and see that it goes by them.

    Args:
        url: its console's URL.
        path: the file that it is to include.
        databases: the URL behind each name, as in that file.
        reconnect: the names whose connections are to be made anew, each as soon as it is free.

    Raises:
        ConnectionFailed: PgBouncer can't be reached.
        NotReady: it does not go by the file.
    """
    with console(url) as connection:
        ask(connection, "RELOAD")
        # It says RELOAD also when it could not read its files.
        found = {row["name"]: row for row in ask(connection, "SHOW DATABASES")}
        for name, behind in databases.items():
            parts, row = _parts(behind), found.get(name, {})
            wanted = [parts["host"], parts["port"], parts["dbname"], parts["user"]]
            if [str(row.get(at)) for at in ("host", "port", "database", "force_user")] != wanted:
                has = "has another place for" if row else "has no database"
                raise NotReady(
                    f"PgBouncer did not take over {path}: it {has} {name}.",
                    where=describe(url),
                    hint=f"Let the account that PgBouncer runs as read that file, and end"
                    f" [databases] of its configuration with: %include {path}",
                )
        for name in reconnect:
            ask(connection, f"RECONNECT {name}")


def is_paused(connection: Console, name: str) -> bool:
    """Tell whether the clients of one of PgBouncer's databases are made to wait."""
    rows = ask(connection, "SHOW DATABASES")
    return any(row["name"] == name and int(row["paused"]) for row in rows)


def pause(connection: Console, name: str, seconds: float) -> bool:
    """Make new statements of a database's clients wait, once those under way are done.

    Args:
        connection: PgBouncer's console; of no more use if it did not work.
        name: the database.
        seconds: how long those under way may take.

    Returns:
        Whether all of them came to their end in time; the database is PAUSEd in any case.

    Raises:
        ConnectionFailed: the connection broke.
        NotReady: PgBouncer refuses.
    """
    statement, deadline = f"PAUSE {name}", time.monotonic() + seconds
    with explained(connection.info.dsn, "pgbouncer_admin"):
        # psycopg waits for an answer as long as it takes; this one has a deadline.
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
    """Let a database's clients go on; if they do already, nothing happens.

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
    """Tell for how many seconds PgBouncer leaves a server alone that it failed to connect to."""
    rows = ask(connection, "SHOW CONFIG")
    return next((str(row["value"]) for row in rows if row["key"] == "server_login_retry"), "15")


def release(connection: Console, name: str, retry: str) -> None:
    """Let a database's clients go on without delay; if they do already, nothing changes.

    Args:
        connection: PgBouncer's console.
        name: the database.
        retry: PgBouncer's `server_login_retry`, as it is to be afterwards.

    Raises:
        ConnectionFailed: the connection broke.
        NotReady: PgBouncer refuses.
    """
    resume(connection, name)
    # A client that logged in meanwhile has made PgBouncer connect to the server, and break that
    # off because of the PAUSE. It takes this for a failure, after which it tries again only when
    # server_login_retry is over: 15 seconds in which everybody would wait.
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
    """Name the clients that keep one of a database's connections to the server.

    Args:
        connection: PgBouncer's console.
        name: the database.

    Returns:
        For each client its user, address and application, for people to read.
    """
    return [
        f"{row['user']} at {row['addr']}:{row['port']}"
        + (f" ({row['application_name']})" if row.get("application_name") else "")
        for row in ask(connection, "SHOW CLIENTS")
        if row["database"] == name and row["link"]
    ]
