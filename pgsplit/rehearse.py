"""The dry run: the whole migration on a copy of the monolith, thrown away afterwards.

Copy and services are on an embedded server of their own, in the folder `.rehearsal`. Of production
there is one reader, pg_dump: one connection, one snapshot, ACCESS SHARE locks. Nothing is made
there, not even the schema `split`: the ledger of a dry run is the copy's.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgsplit.base.errors import BuildFailed, NotReady, SourceMismatch, SplitError
from pgsplit.base.text import size
from pgsplit.load.run import RunReport, Watcher, run
from pgsplit.postgres import embedded
from pgsplit.postgres.catalog import LiveTable, live_tables
from pgsplit.postgres.connect import LOCK_TIMEOUT, connect, describe, with_database
from pgsplit.project import drift
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Project, Service
from pgsplit.prove.verify import Verified, verify
from pgsplit.replication import requirements
from pgsplit.state.ledger import open_ledger

# A crash costs the copy nothing that is not thrown away anyhow.
SETTINGS = {"fsync": "off", "full_page_writes": "off"}
WAL_BYTES = 4 * 2**30  # the embedded server's max_wal_size
SERVER_BYTES = 256 * 2**20  # an empty server with seven databases, and dbt's files
SECONDS_BETWEEN_LOOKS = 0.2
# What a copy may lack without any difference to the split, which moves tables only. If a table
# needs an extension or a function, making the table fails, too.
DISPENSABLE = (
    *("COMMENT ", "CREATE EXTENSION ", "CREATE VIEW ", "CREATE MATERIALIZED VIEW "),
    *("CREATE FUNCTION ", "CREATE PROCEDURE ", "CREATE FOREIGN TABLE "),
)
AGAIN = "Mend what it says, and do the dry run again."


@dataclass(frozen=True)
class Rehearsal:
    """What a dry run did and found.

    `stops` is what would stop the real run, though not the copy: a setting or a privilege of the
    monolith. `opened` are folders that the scratch server's start gave o+x to.
    """

    report: RunReport
    verified: list[Verified]
    stops: list[SplitError]
    rows: int
    bytes: int
    opened: tuple[Path, ...]
    seconds: float


def folder(project: Project, environ: Mapping[str, str] = os.environ) -> Path:
    """Name the folder of the copy: `.rehearsal` in the project or in what `…_SCRATCH` names."""
    return Path(environ.get(project.variable("SCRATCH")) or project.root).absolute() / ".rehearsal"


def rehearse(
    services: Sequence[Service], connections: Connections, watcher: Watcher, home: Path
) -> Rehearsal:
    """Run the whole migration on a copy of the monolith, prove it row by row, throw it away.

    Args:
        services: in phase order.
        connections: where the monolith is; the services' own URLs are not used.
        watcher: is told how far it is.
        home: the folder for the copy; made, and gone in the end.

    Returns:
        The run's report, how each table was verified, and what would stop the real run.

    Raises:
        ConnectionFailed: the monolith can't be reached.
        SourceMismatch: it is not the one that the models were written for.
        NotReady: another dry run is under way, disk space or the right to read lacks, or the
            monolith can't be copied.
        SplitError: what went wrong with the copy; the message says that it was the copy.
    """
    started = time.monotonic()
    with held(home, connections.project):
        with watcher.step("rehearsal: check the monolith"):
            live, stops = _look(services, connections, home)
        with watcher.step("rehearsal: server"):
            opened = embedded.start(home, SETTINGS).opened
        with _in_the_copy(home):
            scratch = _on_the_copy(connections.project, home)
            with watcher.step("rehearsal: copy") as step:
                rows, count = _copy(connections.monolith_url, scratch, services, live, step.say)
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
    """Hold the folder of dry runs alone for the block, empty at first; it is gone afterwards.

    What a dry run that was killed has left is removed, its server too.

    Args:
        home: the folder.
        project: the project.

    Raises:
        NotReady: another dry run is under way, or the folder can't be used.
    """
    other = NotReady(
        "Another dry run is under way.", where=str(home), hint="Wait for it, or end it."
    )
    try:
        # Root's server runs as another account, which has to pass through.
        home.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, exist_ok=True)
        # The folder is its own lock: no file is left of it, and no program that is started here
        # inherits it and keeps it.
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
            raise other  # it has ended between the two lines above, and taken the folder along
        _empty(home)
        try:
            yield
        finally:
            _empty(home)
            home.rmdir()
    finally:
        os.close(handle)


def _on_the_copy(project: Project, home: Path) -> Connections:
    """Name the databases on the scratch server, where they bear the same names."""
    urls = {target: embedded.url(home, target) for target in project.targets}
    folder = home / "connections"
    return Connections(project, urls, True, urls[project.name], folder, home / "dbt")


def _empty(home: Path) -> None:
    # The dbt of a runner that was killed goes on, and would write into the folder.
    for process in psutil.process_iter(["cmdline"]):
        if any(word.startswith(f"{home}/dbt/") for word in process.info["cmdline"] or ()):
            with suppress(psutil.NoSuchProcess):
                process.kill()
                process.wait(10)
    embedded.wipe(home)
    for path in home.iterdir():
        shutil.rmtree(path)


def _needed(services: Sequence[Service]) -> dict[str, tuple[str, ...]]:
    """Name the tables and columns that the services' mirrors hold, each once."""
    needed: dict[str, dict[str, None]] = {}
    for service in services:
        for table, columns in service.landed_tables.items():
            needed.setdefault(table, {}).update(dict.fromkeys(columns))
    return {table: tuple(columns) for table, columns in needed.items()}


def _look(
    services: Sequence[Service], connections: Connections, home: Path
) -> tuple[dict[str, LiveTable], list[SplitError]]:
    """Ask the monolith, only reading, what a landing asks it, and whether the copy has room."""
    needed, stops = _needed(services), list[SplitError]()
    with connections.connect(connections.monolith) as monolith:
        monolith.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")
        try:
            _require_readable(monolith, connections.project.schema)
            drift.check(connections.project, monolith, needed)
            try:
                requirements.source(monolith, services[0], needed)
            except NotReady as error:
                stops.append(error)  # the copy can do without: a login that only reads is enough
            live = live_tables(monolith, connections.project.schema)
        except psycopg.errors.LockNotAvailable as error:
            raise NotReady(
                "A table of the monolith is locked by somebody who alters it.",
                where=describe(connections.monolith_url),
                hint="Wait for them: select pid, relation::regclass from pg_locks"
                " where mode = 'AccessExclusiveLock';",
            ) from error
    copied = sum(live[table].bytes for table in needed)
    mirrors = sum(live[table].bytes for one in services for table in one.landed_tables)
    # A service's own tables are taken to be as large as its mirror.
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
    """Refuse a login that may not read every table: pg_dump locks all whose definition it takes."""
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
            f"{user} may not read, or not whole, what the dry run copies: {', '.join(unreadable)}",
            where=describe(monolith.info.dsn),
            hint=f'GRANT USAGE ON SCHEMA {schema} TO "{user}";'
            f' GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO "{user}";\n'
            f'and where row-level security is on: ALTER ROLE "{user}" BYPASSRLS;',
        )


def _copy(
    url: str,
    scratch: Connections,
    services: Sequence[Service],
    live: Mapping[str, LiveTable],
    say: Callable[[str], None],
) -> tuple[int, int]:
    """Copy the schema's definitions, and the rows that the services need; count rows and bytes."""
    copy, name, schema = scratch.monolith_url, scratch.monolith, scratch.project.schema
    with connect(with_database(copy, "postgres"), name) as server:
        create = sql.SQL("create database {} template template0 encoding 'UTF8'")
        server.execute(create.format(sql.Identifier(name)))
    needed = _needed(services)
    with connect(copy, name) as database:

        def look() -> None:
            row = database.execute("select pg_database_size(current_database())").fetchone()
            say(size(row[0]) if row else "")

        _pipe(url, copy, schema, [table for table in live if table not in needed], look)
        rows = 0
        for table in needed:
            relation = sql.Identifier(schema, table)
            key = sql.SQL(", ").join(map(sql.Identifier, live[table].primary_key))
            database.execute(sql.SQL("alter table {} add primary key ({})").format(relation, key))
            database.execute(sql.SQL("analyze {}").format(relation))
            row = database.execute(sql.SQL("select count(*) from {}").format(relation)).fetchone()
            rows += row[0] if row else 0
        copied = live_tables(database, schema)
    return rows, sum(copied[table].bytes for table in needed)


def _pipe(
    url: str, copy: str, schema: str, without_rows: Sequence[str], look: Callable[[], None]
) -> None:
    """Let pg_dump read and pg_restore write, over a pipe, without a file between them."""
    fields = {name: str(value) for name, value in conninfo_to_dict(url).items() if value}
    password = fields.pop("password", "")
    fields["application_name"] = "pgsplit dry run"
    environ = {**os.environ, "LC_ALL": "C"}
    if password:  # in the environment: everybody may read a command line
        environ["PGPASSWORD"] = password
    quoted = ['"' + name.replace('"', '""') + '"' for name in without_rows]
    dump = [
        embedded.binary("pg_dump"),
        f"--dbname={make_conninfo(**fields)}",
        *("--format=custom", "--compress=none", f"--schema={schema}", "--extension=*"),
        # Without keys, indexes and triggers: the split looks at primary keys only, and what else
        # there is may need what the scratch server lacks.
        *("--section=pre-data", "--section=data", "--no-owner", "--no-privileges"),
        *("--no-publications", "--no-subscriptions", "--no-tablespaces", "--no-policies"),
        f"--lock-wait-timeout={LOCK_TIMEOUT}",
        *(f"--exclude-table-data={schema}.{name}" for name in quoted),
    ]
    restore = [embedded.binary("pg_restore"), f"--dbname={copy}", "--no-owner", "--no-privileges"]
    with TemporaryFile() as dump_said, TemporaryFile() as restore_said:
        with (
            subprocess.Popen(
                dump, stdout=subprocess.PIPE, stderr=dump_said, env=environ
            ) as dumping,
            subprocess.Popen(
                restore,
                stdin=dumping.stdout,
                stderr=restore_said,
                env={**os.environ, "LC_ALL": "C"},
            ) as restoring,
        ):
            assert dumping.stdout is not None
            dumping.stdout.close()  # so that pg_dump ends when pg_restore does
            try:
                while restoring.poll() is None:
                    look()
                    time.sleep(SECONDS_BETWEEN_LOOKS)
            except BaseException:
                dumping.kill()
                restoring.kill()
                raise
        if dumping.returncode not in (0, -signal.SIGPIPE):
            said = _read(dump_said)
            raise _NotCopied(
                f"The monolith can't be copied. {said}", where=describe(url), hint=AGAIN
            )
        if wrong := _fatal(_read(restore_said)):
            raise _NotCopied(
                "The scratch server can't hold a copy of the monolith:\n" + wrong,
                where=describe(url),
                hint="It is a plain PostgreSQL without other extensions, operating system locales"
                " or roles.\nA dry run does not fit this monolith; restore a backup on a server"
                " like production's,\nand runner.py run with its URL.",
            )


class _NotCopied(NotReady):
    """The monolith can't be copied, which says nothing about the real run."""


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace").strip()


def _fatal(said: str) -> str:
    """Give what pg_restore failed at, if tables or rows may be among it; a view may be missing."""
    failed = []
    for error in re.split("^pg_restore: error: ", said, flags=re.MULTILINE)[1:]:
        what, _, command = error.partition("Command was: ")
        if not command.startswith(DISPENSABLE):
            what = what.removeprefix("could not execute query: ").strip().splitlines()[0]
            command = command.splitlines()[0].rstrip(" (") if command else ""
            failed.append(f"  - {what}" + (f" at {command}" if command else ""))
    return "\n".join(failed[:10])


@contextmanager
def _in_the_copy(home: Path) -> Iterator[None]:
    """Say of what goes wrong inside the block that it is the copy it went wrong with."""
    where = "the dry run's copy, thrown away by now; the monolith was only read"
    try:
        yield
    except _NotCopied:
        raise
    except SplitError as error:
        hint = AGAIN
        if isinstance(error, BuildFailed):
            hint = (
                "The real run would stop here too. Mend the monolith's rows or the model named,"
                " and do the dry run again."
            )
        elif isinstance(error, SourceMismatch):
            hint = error.hint
        # Where a failed build keeps all the rows is gone with the copy.
        said = re.sub(r"\n\s*all of them: select .*", "", error.what)
        where += f" ({error.where})" if error.where else ""
        raise type(error)(f"In the dry run: {said}", where=where, hint=hint) from error
    except psycopg.Error as error:
        free = size(shutil.disk_usage(home).free)
        said = f"In the dry run: the scratch server refused: {str(error).strip()}"
        raise NotReady(said, where=f"{where} ({home}, {free} free)", hint=AGAIN) from error
