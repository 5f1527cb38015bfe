"""Other ways of copying payments and notifications into databases of their own.

All run on the monolith's own server, as the runner does. pgcopydb and pg_dump copy all of the
monolith: their filters leave foreign keys that lead nowhere. What they copy besides is small.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from bench.project_of_tables import Made, write
from bench.server import DEBIAN_15
from demo.project import MIRROR_SCHEMA, MONOLITH
from pgsplit.postgres.connect import with_database

STRATEGY = Path(__file__).with_name("strategy.sql")
SHAPE = Path(__file__).with_name("shape.sql")
JOBS = "2"
SORT_MEMORY = "512MB"
# The tables of a schema, "primary key" or "unique", and the names of the columns.
KEYS = """
    select
        owner.relname,
        case when own.indisprimary then 'primary key' else 'unique' end,
        array(
            select attname::text from pg_attribute
            where attrelid = own.indexrelid order by attnum
        )
    from pg_index as own
    inner join pg_class as owner on owner.oid = own.indrelid
    where owner.relnamespace = %(schema)s::regnamespace and own.indisunique
"""


@dataclass(frozen=True)
class Source:
    """Where the peers copy from; by service's database what it reads, and its tables' shape."""

    url: str
    folder: Path
    reads: Mapping[str, Mapping[str, Sequence[str]]]
    tables: dict[str, list[Made]] = field(default_factory=dict)

    def of(self, database: str) -> str:
        """Give the URL of another database on the same server."""
        return with_database(self.url, database)

    def connect(self, database: str) -> psycopg.Connection[Any]:
        """Connect to a database of the server."""
        return psycopg.connect(self.of(database), autocommit=True)


@dataclass(frozen=True)
class Peer:
    """A way of copying: its name, the program that it needs, what it makes, and its work.

    `payments` are the database and the schema where the payments are afterwards.
    """

    name: str
    program: str | None
    databases: tuple[str, ...]
    payments: tuple[str, str]
    work: Callable[[Source], None]

    @property
    def is_installed(self) -> bool:
        """Whether its program is on this machine."""
        return self.program is None or shutil.which(self.program) is not None

    def prepare(self, source: Source) -> None:
        """Create empty databases and an empty folder for it."""
        self.clean(source)
        source.folder.mkdir(mode=0o700)
        with source.connect("postgres") as server:
            for database in self.databases:
                server.execute(_named("create database {} template template0", database))

    def require(self, source: Source, rows: int) -> None:
        """Stop if it has not copied all payments."""
        database, schema = self.payments
        with source.connect(database) as there:
            found = there.execute(_named("select count(*) from {}.payments", schema)).fetchone()
        if found != (rows,):
            raise SystemExit(f"{self.name} has copied {found} payments of {rows:,}")

    def clean(self, source: Source) -> None:
        """Remove what it has made."""
        shutil.rmtree(source.folder, ignore_errors=True)
        with source.connect("postgres") as server:
            for database in self.databases:
                server.execute(_named("drop database if exists {} with (force)", database))
        with source.connect(MONOLITH) as there:
            there.execute("drop schema if exists payments_db, communication_db cascade")


def read_shape(url: str) -> list[Made]:
    """Read what the tables of a service's database are made of."""
    with psycopg.connect(url) as database:
        return [Made(*row) for row in database.execute(SHAPE.read_bytes()).fetchall()]


def _named(statement: str, name: str) -> sql.Composed:
    return sql.SQL(statement).format(sql.Identifier(name))


def _run(*command: str, **options: Any) -> None:
    """Run a program; what it says is shown only if it fails."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DBT_")}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def _pgcopydb(source: Source) -> None:
    jobs = ("--table-jobs", JOBS, "--index-jobs", JOBS)
    ends = ("--source", source.url, "--target", source.of("cloned"))
    _run("pgcopydb", "clone", *ends, *jobs, "--no-owner", "--dir", f"{source.folder}/pgcopydb")


def _dump_and_restore(source: Source) -> None:
    folder = f"{source.folder}/dump"
    dump = (str(DEBIAN_15 / "pg_dump"), "--format", "directory", "--compress", "0")
    _run(*dump, "--jobs", JOBS, "--file", folder, source.url)
    restore = (str(DEBIAN_15 / "pg_restore"), "--no-owner", "--exit-on-error")
    _run(*restore, "--jobs", JOBS, "--dbname", source.of("restored"), folder)


def _side_by_side(source: Source, work: Callable[[str], None]) -> None:
    with ThreadPoolExecutor(len(source.tables)) as pool:
        list(pool.map(work, source.tables))


@contextmanager
def _foreign(
    source: Source, service: str, schema: str = MIRROR_SCHEMA
) -> Iterator[psycopg.Connection[Any]]:
    """Give a service's new database the monolith's tables as foreign ones."""
    reached = psycopg.conninfo.conninfo_to_dict(source.url)
    with source.connect(f"fdw_{service}") as database:
        database.execute("create extension postgres_fdw")
        database.execute(
            sql.SQL(
                "create server monolith foreign data wrapper postgres_fdw"
                " options (host {}, dbname {}, fetch_size '10000')"
            ).format(sql.Literal(reached["host"]), sql.Literal(MONOLITH))
        )
        database.execute(
            "create user mapping for current_user server monolith options (user 'postgres')"
        )
        database.execute(_named("create schema {}", schema))
        database.execute(
            sql.SQL("import foreign schema {} from server monolith into {}").format(
                sql.Identifier(MIRROR_SCHEMA), sql.Identifier(schema)
            )
        )
        yield database


def _tables_by_dbt(source: Source) -> None:
    """Build the same tables with dbt alone: the same SQL, constraints and indexes."""

    def build(service: str) -> None:
        with _foreign(source, service):
            folder = source.folder / service
            write(folder, source.of(f"fdw_{service}"), service, source.tables[service])
            places = ("--project-dir", str(folder), "--profiles-dir", str(folder))
            _run(sys.executable, "-m", "dbt.cli.main", "--quiet", "run", *places, cwd=folder)

    _side_by_side(source, build)


def _tables_by_sql(source: Source) -> None:
    """Build the same rows, with primary keys only."""

    def build(service: str) -> None:
        with _foreign(source, service) as database:
            database.execute(_named("create schema {}", service))
            for one in source.tables[service]:
                table = sql.Identifier(service, one.name)
                database.execute(
                    sql.SQL("create table {} as {}").format(table, sql.SQL(one.definition))
                )
                key = next(part for part in one.alterations if "PRIMARY KEY" in part)
                database.execute(sql.SQL("alter table {} {}").format(table, sql.SQL(key)))

    _side_by_side(source, build)


def _twice_by_sql(source: Source) -> None:
    """Do what the runner has to do at least: copy the rows, then build the tables from the copy.

    The same columns, SQL, keys, checks and indexes, both services side by side; but no follower, no
    slot, no record, no comments, nobody who could stop it, and nothing that makes it repeatable.
    """

    def build(service: str) -> None:
        with _mirrored(source, service) as database:
            for one in source.tables[service]:
                table = sql.Identifier(service, one.name)
                definition, altered = sql.SQL(one.definition), sql.SQL(", ".join(one.alterations))
                database.execute(sql.SQL("create table {} as {}").format(table, definition))
                database.execute(sql.SQL("alter table {} {}").format(table, altered))
                for index in sorted(one.indexes, key=_is_hash):
                    if _is_hash(index):  # which is filled faster if it has to be sorted
                        database.execute("set maintenance_work_mem = '4MB'")
                    database.execute(index.encode())
                database.execute(f"set maintenance_work_mem = '{SORT_MEMORY}'")
            for one in source.tables[service]:
                for key in one.foreign_keys:
                    table = sql.Identifier(service, one.name)
                    database.execute(sql.SQL("alter table {} {}").format(table, sql.SQL(key)))

    _side_by_side(source, build)


def _twice_unchanged(source: Source) -> None:
    """Copy the rows, then copy the copy, with the monolith's columns, primary and unique keys."""
    with source.connect(MONOLITH) as monolith:
        keys = monolith.execute(KEYS, {"schema": MIRROR_SCHEMA}).fetchall()

    def build(service: str) -> None:
        with _mirrored(source, service) as database:
            for name, columns in source.reads[service].items():
                table, mirror = (
                    sql.Identifier(schema, name) for schema in (service, MIRROR_SCHEMA)
                )
                database.execute(sql.SQL("create table {} as table {}").format(table, mirror))
                for owner, kind, key in keys:
                    if owner == name and set(key) <= set(columns):
                        names = sql.SQL(", ").join(map(sql.Identifier, key))
                        statement = sql.SQL("alter table {} add {} ({})")
                        database.execute(statement.format(table, sql.SQL(kind), names))

    _side_by_side(source, build)


def _is_hash(index: str) -> bool:
    return " USING hash " in index


@contextmanager
def _mirrored(source: Source, service: str) -> Iterator[psycopg.Connection[Any]]:
    """Give a service's new database the mirror, by binary COPY."""
    with _foreign(source, service, "far") as database:
        database.execute(_named("create schema {}", MIRROR_SCHEMA))
        database.execute(_named("create schema {}", service))
        database.execute(f"set maintenance_work_mem = '{SORT_MEMORY}'")
        for name, columns in source.reads[service].items():
            _copy(source, database, name, columns)
        yield database


def _copy(
    source: Source, database: psycopg.Connection[Any], table: str, columns: Sequence[str]
) -> None:
    """Copy a table's columns into the mirror, in PostgreSQL's binary format."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    mirror, far = (sql.Identifier(schema, table) for schema in (MIRROR_SCHEMA, "far"))
    database.execute(
        sql.SQL("create table {} as select {} from {} with no data").format(mirror, names, far)
    )
    reads = sql.SQL("copy (select {} from {}) to stdout (format binary)").format(names, mirror)
    writes = sql.SQL("copy {} from stdin (format binary)").format(mirror)
    with (
        source.connect(MONOLITH) as there,
        there.cursor().copy(reads) as rows,
        database.cursor().copy(writes) as here,
    ):
        for block in rows:
            here.write(block)
    database.execute(sql.SQL("alter table {} add primary key (id)").format(mirror))


def _strategy(source: Source) -> None:
    with source.connect(MONOLITH) as there:
        there.execute(STRATEGY.read_bytes())


FOREIGN = ("fdw_payments_db", "fdw_communication_db")
IN_FOREIGN = ("fdw_payments_db", "payments_db")
CLONED, RESTORED = ("cloned", MIRROR_SCHEMA), ("restored", MIRROR_SCHEMA)
PGCOPYDB = "pgcopydb clone"
FLOOR = "two copies by bare SQL"
CREATE_AS = "create table as, fdw"
PEERS = (
    Peer(PGCOPYDB, "pgcopydb", ("cloned",), CLONED, _pgcopydb),
    Peer("pg_dump, pg_restore", None, ("restored",), RESTORED, _dump_and_restore),
    Peer(FLOOR, None, FOREIGN, IN_FOREIGN, _twice_by_sql),
    Peer("two copies, unchanged", None, FOREIGN, IN_FOREIGN, _twice_unchanged),
    Peer("dbt table models, fdw", None, FOREIGN, IN_FOREIGN, _tables_by_dbt),
    Peer(CREATE_AS, None, FOREIGN, IN_FOREIGN, _tables_by_sql),
    Peer("insert … select, one server", None, (), (MONOLITH, "payments_db"), _strategy),
)
