"""The schema `split`: static SQL with a version, in the monolith and in each service's database.

`sql/monolith.sql` and `sql/service.sql` with `sql/service/` make it in its newest version, and can
be run again; `sql/both/` belongs to either. `sql/upgrades/` holds what leads an older one there:
`service_3.sql` goes from version 2 to 3. A schema that has no number is version 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe
from pgsplit.project.project import Service

Connection = psycopg.Connection[Any]

# dbt's macro state_version() gives the same number.
VERSION = 2
FOLDER = Path(__file__).with_name("sql")
# By kind: the table by which a version 0 is known.
FIRST_TABLES = {"monolith": "ledger", "service": "service"}


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
        NotReady: a newer pgsplit has made it.
    """
    project = service.project
    cached = [
        table for one in project.shared_models if one.has_read_through for table in one.follows
    ]
    read_from = f"owner_{project.tables[cached[0]].owner}" if cached else ""
    names = {"database": service.database, "mirror": service.mirror, "read_from": read_from}
    _bring_up("service", database, names)


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
    if _recorded(connection) == VERSION:
        return
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtext('split.prepare'))")
        require_known(connection)
        found = _recorded(connection)
        if found == VERSION:
            return
        for name, value in names.items():
            connection.execute("select set_config(%s, %s, true)", (f"split.{name}", value))
        if found is None and _exists(connection, FIRST_TABLES[kind]):
            found = 0
        for path in _scripts(kind, found):
            connection.execute(path.read_bytes())
        connection.execute("insert into split.version (version) values (%s)", (VERSION,))


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


def _recorded(connection: Connection) -> int | None:
    if not _exists(connection, "version"):
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
