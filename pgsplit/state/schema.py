"""The schema `split`: static SQL with a version, in the monolith and in each service's database.

`sql/monolith.sql` and `sql/service.sql` with `sql/service/`, each with `sql/both/`, make it in its
newest version, and can be run again. `sql/upgrades/` holds what leads an older one there:
`service_3.sql` goes from version 2 to 3. A schema that has no number is version 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe
from pgsplit.postgres.retry import LOCKED, retrying
from pgsplit.project.project import Service

Connection = psycopg.Connection[Any]

# dbt's macro state_version() gives the same number.
VERSION = 3
FOLDER = Path(__file__).with_name("sql")
# An upgrade waits no longer for each lock that others have, since others wait behind it meanwhile.
UPGRADE_LOCK_TIMEOUT = "1s"
UPGRADE_TRIES = 5
BETWEEN_TRIES_SECONDS = 0.5
WRITERS = """
    select string_agg(
        distinct format('process %%s%%s', lock.pid, ' (' || nullif(application_name, '') || ')'),
        ', '
    )
    from pg_locks as lock
    inner join pg_stat_activity as activity using (pid)
    inner join pg_class as class on class.oid = lock.relation
    where
        class.relnamespace = to_regnamespace(%s) and lock.granted
        and lock.pid <> pg_backend_pid()
        and lock.mode not in ('AccessShareLock', 'RowShareLock')
"""
# By kind: the table by which a version 0 is known, and the one that upgrades take turns by. All
# versions have them, and nobody else can lock them.
FIRST_TABLES = {"monolith": "ledger", "service": "service"}
TURNS = {"monolith": "ledger", "service": "turn"}
# Where one project's service is another project's monolith, both parts share the schema, and so its
# owner and its version.
OTHER = {"monolith": "service", "service": "monolith"}
MADE_MEANWHILE = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.DuplicateSchema,
    psycopg.errors.DuplicateTable,
)


def prepare_monolith(monolith: Connection) -> None:
    """Make the monolith's schema `split`, or upgrade it; atomic, and one query if it is current.

    Args:
        monolith: a connection to it.

    Raises:
        NotReady: a newer pgsplit has made it.
        psycopg.errors.InsufficientPrivilege: this login may not make it.
    """
    _bring_up("monolith", monolith, {})


def prepare_service(database: Connection, service: Service) -> None:
    """Make what is static in a service's schema `split`, or upgrade it; atomic.

    Waits for a sync that is in progress, and keeps others waiting. One query if it is current.

    Args:
        database: a connection to the database that was provisioned for the service.
        service: the service.

    Raises:
        NotReady: a newer pgsplit has made it, or others keep writing a table whose triggers an
            upgrade has to renew.
    """
    project = service.project
    cached = [
        table for one in project.shared_models if one.has_read_through for table in one.follows
    ]
    read_from = f"owner_{project.tables[cached[0]].owner}" if cached else ""
    names = {
        "database": service.database,
        "mirror": service.mirror,
        "read_from": read_from,
        "login": service.login,
    }
    upgrading = retrying(LOCKED, tries=UPGRADE_TRIES, seconds=BETWEEN_TRIES_SECONDS)
    try:
        upgrading(_bring_up, "service", database, names)
    except LOCKED as error:
        row = database.execute(WRITERS, (service.database,)).fetchone()
        raise NotReady(
            f"The schema split of {service.database} can't be upgraded while somebody keeps writing"
            f" its tables: {row and row[0] or str(error).strip()}. Nothing was changed.",
            where=describe(database.info.dsn),
            hint="Wait for them, or end them: select pg_terminate_backend(PID);\n"
            f"Then: runner.py build {service.role}",
        ) from error


def require_known(connection: Connection) -> None:
    """Refuse a schema `split` of a version that this pgsplit does not know.

    Args:
        connection: to the monolith or to a service's database.

    Raises:
        NotReady: a newer pgsplit has made it; the message has both versions.
    """
    try:
        found = _recorded(connection)
    except psycopg.errors.InsufficientPrivilege:
        return  # who lacks more than this right is told all of them by the checks that follow
    if found is not None and found > VERSION:
        raise NotReady(
            f"The schema split in {connection.info.dbname} has version {found}, and this pgsplit"
            f" knows version {VERSION}. Nothing was changed.",
            where=describe(connection.info.dsn),
            hint="Use a newer pgsplit: the one that has made it, or a later one.",
            found=found,
            known=VERSION,
        )


def require_current(database: Connection, service: Service) -> None:
    """Refuse a service's schema `split` that an older or a newer pgsplit has made.

    For what reads objects that older versions lack; everything else works with them.

    Args:
        database: a connection to the database that was provisioned for the service.
        service: the service.

    Raises:
        NotReady: it has another version.
    """
    require_known(database)
    found = _recorded(database) or 0
    if found != VERSION:
        raise NotReady(
            f"The schema split in {service.database} has version {found}, and this needs version"
            f" {VERSION}. Nothing was changed.",
            where=describe(database.info.dsn),
            hint=f"runner.py build {service.role}",
            found=found,
            known=VERSION,
        )


def _bring_up(kind: str, connection: Connection, names: dict[str, str]) -> None:
    """Bring a schema to the newest version, under a lock that lets two upgrades take turns."""
    require_known(connection)
    if _recorded(connection, kind) == VERSION:
        return
    try:
        _upgrade(kind, connection, names)
    except MADE_MEANWHILE:  # where there is nothing yet, there is nothing to lock either
        _upgrade(kind, connection, names)


def _upgrade(kind: str, connection: Connection, names: dict[str, str]) -> None:
    with connection.transaction():
        if _exists(connection, TURNS[kind]):
            connection.execute(f"lock table split.{TURNS[kind]} in exclusive mode")
        require_known(connection)
        found = _recorded(connection, kind)
        if found == VERSION:
            return
        shares = _exists(connection, FIRST_TABLES[OTHER[kind]])
        if shares and kind == "monolith":
            _join_service(connection)
        if kind == "service":  # whose writers hold locks on what is altered
            connection.execute(f"set local lock_timeout = '{UPGRADE_LOCK_TIMEOUT}'")
        for name, value in names.items():
            connection.execute("select set_config(%s, %s, true)", (f"split.{name}", value))
        if found is None and _exists(connection, FIRST_TABLES[kind]):
            found = 0
        for path in _scripts(kind, found):
            connection.execute(path.read_bytes())
        if shares and kind == "service" and found is not None:  # the monolith's part comes along
            for path in _scripts("monolith", found):
                connection.execute(path.read_bytes())
        connection.execute(
            "insert into split.version (version) values (%s) on conflict do nothing", (VERSION,)
        )


def _join_service(connection: Connection) -> None:
    """Let what is made for a monolith belong to the service whose database it is.

    Raises:
        NotReady: an older pgsplit has made the service's part; its own project upgrades both.
    """
    row = connection.execute(
        "select database, (select max(version) from split.version),"
        " obj_description(to_regnamespace('split'), 'pg_namespace') from split.service"
    ).fetchone()
    name, found, mark = row or ("", VERSION, "")
    if found < VERSION:
        raise NotReady(
            f"The schema split in {connection.info.dbname} was {mark}, and has version {found};"
            f" this pgsplit needs version {VERSION}. Nothing was changed.",
            where=describe(connection.info.dsn),
            hint=f"In that project: runner.py build {name}",
        )
    connection.execute(
        "select set_config('role', pg_get_userbyid(nspowner), true)"
        " from pg_catalog.pg_namespace where nspname = 'split'"
    )


def _scripts(kind: str, found: int | None) -> list[Path]:
    """List the files to run, in order: the upgrades, if there is anything, and the newest state."""
    steps = range(VERSION if found is None else found, VERSION)
    upgrades = [FOLDER / "upgrades" / f"{kind}_{step + 1}.sql" for step in steps]
    return [
        *(path for path in upgrades if path.exists()),
        FOLDER / f"{kind}.sql",
        *sorted((FOLDER / "both").glob("*.sql")),
        *sorted((FOLDER / kind).glob("*.sql")),
    ]


def _recorded(connection: Connection, kind: str = "") -> int | None:
    """Give the schema's version; None if there is none, or not that part of it."""
    if not _exists(connection, "version"):
        return None
    if kind and not _exists(connection, FIRST_TABLES[kind]):
        return None
    row = connection.execute("select max(version) from split.version").fetchone()
    assert row is not None
    return row[0]  # type: ignore[no-any-return]


def _exists(connection: Connection, table: str) -> bool:
    # Not to_regclass(): after a wait for the lock it may still remember that there was none.
    found = connection.execute(
        "select from pg_catalog.pg_tables where schemaname = 'split' and tablename = %s", (table,)
    )
    return found.rowcount == 1
