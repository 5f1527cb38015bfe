"""Creates a project's sample monolith, of any size, to try the split."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from psycopg import conninfo, errors, sql

from pgsplit.base.errors import ConnectionFailed, NotReady, TargetOccupied
from pgsplit.postgres import session_settings
from pgsplit.project.project import Project

# Raise it whenever the same number of rows gives other data than before.
GENERATOR = 1
SAMPLE_FOLDER = "demo"


def create(
    project: Project,
    url: str,
    rows: int,
    *,
    on_step: Callable[[str], None] | None = None,
) -> dict[str, int]:
    """Create the sample monolith in a database; atomic and idempotent.

    The database is created if it doesn't exist. Schema, rows and keys are one transaction. The same
    number of rows always gives the same data; an existing sample of that size is left unchanged.

    Args:
        project: the project; its folder `demo` has the SQL.
        url: the monolith's database, as a libpq URL or keyword string.
        rows: the wanted number of rows in all tables; the sample may need a few more to have every
            odd value.
        on_step: called with the name of each SQL file before it runs.

    Returns:
        The number of rows by table.

    Raises:
        ConnectionFailed: the URL is invalid, or the server can't be reached or refuses the login.
        NotReady: the URL names no database, the database is not UTF-8, or the login may not
            create in it.
        TargetOccupied: the schema holds something other than a sample of that size.
    """
    variable = project.variable("URL")
    try:
        name = conninfo.conninfo_to_dict(url).get("dbname")
    except psycopg.ProgrammingError:
        # The original message may quote the password, so it is not repeated.
        raise ConnectionFailed(
            "The monolith's URL is no PostgreSQL URL.",
            hint=f"Set {variable} to postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
        ) from None
    if not name:
        raise NotReady(
            "The monolith's URL names no database.",
            hint=f"End {variable} with a database name, such as /{project.name}",
        )
    name = str(name)
    stamp = f"Sample monolith: {rows} rows, generator {GENERATOR}"
    try:
        _create_database(url, name)
        with _connect(url, name) as connection:
            if _is_made(connection, name, stamp, project):
                return _count(connection, project.schema)
            _fill(connection, project, name, rows, on_step or (lambda step: None))
            connection.execute(
                sql.SQL("comment on schema {} is {}").format(
                    sql.Identifier(project.schema), sql.Literal(stamp)
                )
            )
            return _count(connection, project.schema)
    except errors.InsufficientPrivilege as error:
        raise NotReady(
            f"The login may not create the sample monolith: {error}",
            where=f"database {name}",
            hint="Use the login of a superuser or, for an existing database, of its owner.",
        ) from error


def _connect(url: str, name: str) -> psycopg.Connection:
    try:
        # The SQL files are UTF-8, whatever the terminal uses.
        options = session_settings.options(conninfo.conninfo_to_dict(url).get("options"))
        return psycopg.connect(url, dbname=name, client_encoding="utf8", options=options)
    except psycopg.OperationalError as error:
        raise ConnectionFailed(
            str(error).strip(),
            where=f"database {name}",
            hint="Check that the server runs, and the URL's host, port, user and password.",
        ) from error


def _create_database(url: str, name: str) -> None:
    with _connect(url, "postgres") as connection:
        connection.autocommit = True
        known = connection.execute("select from pg_database where datname = %s", [name])
        if not known.rowcount:
            # template0, because template1 may have an encoding other than UTF-8
            connection.execute(
                sql.SQL("create database {} template template0 encoding 'UTF8'").format(
                    sql.Identifier(name)
                )
            )


def _is_made(connection: psycopg.Connection, name: str, stamp: str, project: Project) -> bool:
    """Tell whether the wanted sample exists; refuse anything else."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise NotReady(
            f"The database has the encoding {encoding}; the sample needs UTF8.",
            where=f"database {name}",
            hint="Choose another database; a missing one is created.",
        )
    tables = _tables(connection, project.schema)
    if not tables:
        return False
    row = connection.execute(
        "select obj_description(to_regnamespace(%s), 'pg_namespace')", [project.schema]
    ).fetchone()
    found = str(row[0]) if row and row[0] else ""
    if found == stamp:
        return True
    raise TargetOccupied(
        f"The schema {project.schema} already holds {len(tables)} tables"
        + (f" ({found})." if found else ", which are not from a sample."),
        where=f"database {name}",
        hint=(
            f"Keep it, and call runner.py run; or name another database in"
            f" {project.variable('URL')}.\n"
            "On the embedded server you can start over: runner.py down --wipe"
        ),
    )


def _fill(
    connection: psycopg.Connection,
    project: Project,
    name: str,
    rows: int,
    on_step: Callable[[str], None],
) -> None:
    folder = project.root / SAMPLE_FOLDER
    connection.execute("select set_config('demo.rows', %s, true)", [str(rows)])
    row_files = sorted((folder / "rows").glob("*.sql"))
    for path in [folder / "schema.sql", *row_files, folder / "keys.sql"]:
        on_step(path.relative_to(project.root).as_posix())
        connection.execute(path.read_bytes())
    # A service's login must reach only its own database, but PostgreSQL lets everybody into a new
    # database.
    connection.execute(
        sql.SQL("revoke connect on database {} from public").format(sql.Identifier(name))
    )


def _tables(connection: psycopg.Connection, schema: str) -> list[str]:
    found = connection.execute(
        "select relname from pg_class"
        " where relnamespace = to_regnamespace(%s) and relkind in ('r', 'p') order by relname",
        [schema],
    )
    return [str(name) for (name,) in found]


def _count(connection: psycopg.Connection, schema: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for table in _tables(connection, schema):
        count = sql.SQL("select count(*) from {}").format(sql.Identifier(schema, table))
        row = connection.execute(count).fetchone()
        counts[table] = int(row[0]) if row else 0
    return counts
