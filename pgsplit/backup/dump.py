"""Backups before each phase: a database as it stood, and a point that its WAL can be recovered to.

A backup is a folder of pg_dump's directory format. While it is made its name ends in `.part`; a
folder without that is complete, was read through, and says in its `backup.json` what it holds, so
that it can be restored when there is no monolith left to ask. No backup is ever deleted here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil
import psycopg

from pgsplit.base.errors import NotReady
from pgsplit.base.text import few, size
from pgsplit.postgres.connect import LOCK_TIMEOUT, describe
from pgsplit.postgres.programs import BackupIncomplete, errors, program, run, toc, unreadable
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Project, Service
from pgsplit.state.ledger import Ledger

BY_HAND = "by-hand"
MANIFEST = "backup.json"
UNFINISHED = ".part"
PHASE = re.compile("[a-z][a-z-]{0,23}")  # with the rest of the name no longer than a restore point
NAME = re.compile(rf"[a-z]+-{PHASE.pattern}-\d{{8}}T\d{{6}}Z(-\d+)?")
# Half the time of pg_dump's default for a sixth more bytes; writes may be waiting for it.
COMPRESSION = "gzip:1"

# What belongs to an extension is made by it, and pg_dump leaves it out.
OWN = """
    class.relnamespace = namespace.oid
    and namespace.nspname !~ '^pg_' and namespace.nspname <> 'information_schema'
    and not exists (
        select from pg_depend as member
        where member.classid = 'pg_class'::regclass and member.objid = class.oid
            and member.deptype = 'e'
    )
"""
RELATIONS = f"""
    select
        class.oid::bigint as oid, namespace.nspname as schema_name, class.relname as name,
        format('%I.%I', namespace.nspname, class.relname) as shown, class.relkind::text as kind,
        case class.relkind when 'r' then coalesce(pg_table_size(class.oid), 0) else 0 end as bytes,
        has_schema_privilege(namespace.oid, 'usage') and not row_security_active(class.oid)
        and case class.relkind
            when 'S' then has_sequence_privilege(class.oid, 'select')
            else has_table_privilege(class.oid, 'select')
        end as is_readable
    from pg_class as class, pg_namespace as namespace
    where {OWN} and class.relkind in ('r', 'p', 'S')
    order by 4
"""
SERVER = """
    select
        current_database(), pg_is_in_recovery(), current_setting('wal_level'),
        current_setting('archive_mode'),
        has_function_privilege('pg_create_restore_point(text)', 'execute'),
        (select last_failed_time > coalesce(last_archived_time, '-infinity')
            from pg_stat_archiver),
        (select last_failed_time::timestamptz(0) from pg_stat_archiver)
"""
ENTRY = re.compile(r"^(\d+); (\d+) (\d+) (TABLE DATA|TABLE) ", re.MULTILINE)


@dataclass(frozen=True)
class Backup:
    """A backup: of which database, before which phase of which service, and where it is.

    `service` is the monolith's name if it was made for none in particular. `tables` are those
    whose rows are in it. Without a `restore_point` there is no `lsn` either. `is_there` tells
    whether its folder is.
    """

    service: str
    phase: str
    target: str
    path: Path
    made_at: datetime
    bytes: int
    seconds: float
    tables: tuple[str, ...]
    restore_point: str | None
    lsn: str | None
    notes: tuple[str, ...]
    is_there: bool = True


@dataclass(frozen=True)
class _Relation:
    """A table or a sequence (kind S) of the database that is to be backed up."""

    oid: int
    schema_name: str
    name: str
    shown: str
    kind: str
    bytes: int
    is_readable: bool


@dataclass(frozen=True)
class _Scope:
    """What a backup is to hold: every relation's definition, and the rows of `tables`."""

    relations: Sequence[_Relation]
    tables: Sequence[_Relation]
    is_whole: bool
    large_objects: int

    @property
    def bytes(self) -> int:
        """What the rows take up in the database."""
        return sum(one.bytes for one in self.tables) + self.large_objects


def folder(project: Project, environ: Mapping[str, str] = os.environ) -> Path:
    """Name the folder of the backups: what `…_BACKUPS` says, or `backups` in the project."""
    return Path(environ.get(project.variable("BACKUPS")) or project.root / "backups").absolute()


def _silent(_: str) -> None:
    pass


def backup(
    target: str,
    connections: Connections,
    ledger: Ledger,
    service: Service | None,
    phase: str,
    *,
    tables: Sequence[tuple[str, str]] | None = None,
    jobs: int = 2,
    say: Callable[[str], None] = _silent,
) -> Backup:
    """Back a database up as one snapshot, behind a restore point, and prove that it can be read.

    Args:
        target: the database, as `Connections` names it: the monolith or a service's.
        connections: where it is.
        ledger: where the backup is recorded, as the step `backup`.
        service: whose phase it precedes; None if it is nobody's in particular.
        phase: what is about to begin, in small letters and hyphens; part of the folder's name.
        tables: schema and name of the tables whose rows are wanted; of all others there are only
            the definitions then. None means all rows, large objects too.
        jobs: how many connections read side by side.
        say: is told how many bytes are written.

    Returns:
        The backup; its notes say what keeps its restore point from being of use.

    Raises:
        ConnectionFailed: the database can't be reached.
        NotReady: the folder can't be written or has no room, the login may not read everything, a
            table is locked or not there, or pg_dump failed.
        BackupIncomplete: what pg_dump wrote lacks a table or can't be read; it is removed.
        ValueError: the phase is no such word.
    """
    if not PHASE.fullmatch(phase):
        raise ValueError(f"{phase!r} is no name of a phase")
    project, url = connections.project, connections.urls[target]
    # Whose a backup is that was made for no service in particular.
    whose = service or Service(project.name, 0, "monolith", "", project)
    home = folder(project)
    began, made_at = time.monotonic(), datetime.now(timezone.utc)
    with _usable(home, project):
        # The rows of production are for nobody else to read.
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _clear(ledger, whose, phase)
        path = _free_path(home, f"{whose.role}-{phase}-{made_at:%Y%m%dT%H%M%SZ}")
    with connections.connect(target) as database:
        scope = _look(database, tables)
    _require_room(home, target, scope, project)
    point = path.name
    with ledger.step(
        whose, "backup", phase=phase, target=target, path=str(path), restore_point=point
    ) as step:
        part = path.with_name(path.name + UNFINISHED)
        with _usable(home, project):
            part.mkdir(mode=0o700)
        try:
            with connections.connect(target) as database:
                lsn, notes = _restore_point(database, point)
            _dump(connections, target, part, scope, jobs, say)
            _verify(part, scope, connections, target)
            files = {file.name: file.stat().st_size for file in part.iterdir()}
            done = Backup(
                service=whose.database,
                phase=phase,
                target=target,
                path=path,
                made_at=made_at,
                bytes=sum(files.values()),
                seconds=time.monotonic() - began,
                tables=tuple(one.shown for one in scope.tables),
                restore_point=point if lsn else None,
                lsn=lsn,
                notes=tuple(notes),
            )
            record = {**vars(done), "path": str(path), "made_at": made_at.isoformat()}
            del record["is_there"]
            whence = {"database": describe(url), "is_whole": scope.is_whole, "files": files}
            with _usable(home, project):
                _write(part / MANIFEST, {**record, **whence})
                _sync(part)
                part.rename(path)
                _sync(home)
        except BaseException:
            _remove(part, project)
            raise
        step.detail = record
    return done


def backups(connections: Connections) -> list[Backup]:
    """List the backups that the ledger knows, the newest first; writes nothing.

    Args:
        connections: where the monolith is, whose ledger it is.

    Returns:
        Every backup that was completed, and whether its folder is still there.

    Raises:
        ConnectionFailed: the monolith can't be reached.
    """
    with connections.connect(connections.monolith) as monolith:
        known = monolith.execute("select to_regclass('split.ledger') is not null").fetchone()
        if known != (True,):
            return []
        rows = monolith.execute(
            "select detail from split.ledger where step = 'backup' and outcome = 'done'"
            " order by id desc"
        ).fetchall()
    return [_recorded(row[0]) for row in rows]


@contextmanager
def _usable(home: Path, project: Project) -> Iterator[None]:
    """Turn what the system refuses of the backups' folder into a message."""
    try:
        yield
    except OSError as error:
        raise NotReady(
            f"The folder of the backups can't be used: {error.strerror or error}",
            where=str(error.filename or home),
            hint=f"export {project.variable('BACKUPS')}=/a/folder/that/you/may/write",
        ) from error


def _clear(ledger: Ledger, whose: Service, phase: str) -> None:
    """Remove what backups of the same service and phase have left that did not end well."""
    with ledger.lock:
        rows = ledger.connection.execute(
            "select intent ->> 'path' from split.ledger where service = %s and step = 'backup'"
            " and intent ->> 'phase' = %s and outcome is distinct from 'done'",
            (whose.database, phase),
        ).fetchall()
    for (recorded,) in rows:
        path = Path(recorded)
        if NAME.fullmatch(path.name):
            _remove(path.with_name(path.name + UNFINISHED), whose.project)


def _free_path(home: Path, name: str) -> Path:
    """Name a folder that is not there, nor another runner's unfinished one."""
    paths = (home / f"{name}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 100))))
    return next(
        path
        for path in paths
        if not path.exists() and not path.with_name(path.name + UNFINISHED).exists()
    )


def _remove(part: Path, project: Project) -> None:
    """Remove an unfinished folder, and end the pg_dump of a runner that was killed."""
    for process in psutil.process_iter(["cmdline"]):
        if f"--file={part}" in (process.info["cmdline"] or ()):
            with suppress(psutil.Error):
                process.kill()
                process.wait(10)
    if part.exists():
        with _usable(part.parent, project):
            shutil.rmtree(part)


def _look(database: psycopg.Connection[Any], wanted: Sequence[tuple[str, str]] | None) -> _Scope:
    """Find what there is to be backed up, and refuse a login that may not read all of it."""
    where = describe(database.info.dsn)
    database.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")
    try:
        relations = [_Relation(*row) for row in database.execute(RELATIONS)]
    except psycopg.errors.LockNotAvailable as error:
        raise _locked(where) from error
    unreadable = [one.shown for one in relations if not one.is_readable]
    if unreadable:
        user = database.info.user
        raise NotReady(
            f"{user} may not read, or not whole, what is to be backed up: " + few(unreadable),
            where=where,
            hint=f'GRANT pg_read_all_data TO "{user}";\n'
            f'and where row-level security is on: ALTER ROLE "{user}" BYPASSRLS;',
        )
    if wanted is None:
        row = database.execute("select pg_table_size('pg_largeobject')").fetchone()
        rows = [one for one in relations if one.kind == "r"]
        return _Scope(relations, rows, True, row[0] if row else 0)
    named = {(one.schema_name, one.name): one for one in relations if one.kind != "S"}
    missing = [f"{schema}.{name}" for schema, name in wanted if (schema, name) not in named]
    if missing:
        raise NotReady(
            f"There is no table to be backed up by the name of {few(missing)}.",
            where=where,
            hint="Name tables that are there.",
        )
    parts = database.execute(
        "select relid::oid::bigint from unnest(%s::oid[]) as root (oid)"
        " cross join lateral pg_partition_tree(root.oid)",
        ([named[one].oid for one in wanted if named[one].kind == "p"],),
    ).fetchall()
    oids = {oid for (oid,) in parts} | {named[one].oid for one in wanted}
    rows = [one for one in relations if one.kind == "r" and one.oid in oids]
    return _Scope(relations, rows, False, 0)


def _locked(where: str) -> NotReady:
    return NotReady(
        "A table that is to be backed up is locked by somebody who alters it.",
        where=where,
        hint="Wait for them: select pid, relation::regclass from pg_locks"
        " where mode = 'AccessExclusiveLock';",
    )


def _require_room(home: Path, target: str, scope: _Scope, project: Project) -> None:
    free = shutil.disk_usage(home).free
    if free < scope.bytes:
        raise NotReady(
            f"A backup of {target} may need {size(scope.bytes)} of disk, as much as its tables"
            f" take up; {size(free)} are free.",
            where=str(home),
            hint=f"export {project.variable('BACKUPS')}=/a/folder/with/room",
        )


def _restore_point(database: psycopg.Connection[Any], name: str) -> tuple[str | None, list[str]]:
    """Make a restore point if that is possible; give its place in the WAL, and what lacks."""
    row = database.execute(SERVER).fetchone()
    assert row is not None
    dbname, is_standby, wal_level, archive_mode, may, is_failing, failed_at = row
    if is_standby:
        return None, [f"No restore point was made: the server of {dbname} is a standby."]
    if wal_level == "minimal":
        return None, ["No restore point was made: wal_level is minimal."]
    if not may:
        return None, [
            f"No restore point was made: {database.info.user} may not. A superuser, in the database"
            f" {dbname}: GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO"
            f' "{database.info.user}";'
        ]
    made = database.execute("select pg_create_restore_point(%s)::text", (name,)).fetchone()
    assert made is not None
    server = f"{database.info.host}:{database.info.port}"
    if archive_mode == "off":
        return made[0], [
            "A restore point is of no use unless WAL is archived, and archive_mode is off on"
            f" {server}: see docs/backup.md."
        ]
    if is_failing:
        return made[0], [
            f"A restore point is of no use until WAL is archived again on {server}, which has"
            f" failed since {failed_at}: select * from pg_stat_archiver;"
        ]
    return made[0], []


def _dump(
    connections: Connections,
    target: str,
    part: Path,
    scope: _Scope,
    jobs: int,
    say: Callable[[str], None],
) -> None:
    url = connections.urls[target]
    options = [
        *("--format=directory", f"--jobs={jobs}", f"--compress={COMPRESSION}", f"--file={part}"),
        # Restored anywhere, a subscription would take production's changes, or its slot.
        *("--no-publications", "--no-subscriptions", "--no-password"),
        f"--lock-wait-timeout={LOCK_TIMEOUT}",
    ]
    if not scope.is_whole:
        options.append("--no-large-objects")
        held = {one.oid for one in scope.tables}
        options += [
            f"--exclude-table-data={_quoted(one.schema_name)}.{_quoted(one.name)}"
            for one in scope.relations
            if one.kind == "r" and one.oid not in held
        ]

    def look() -> None:
        with suppress(FileNotFoundError):
            say(size(sum(file.stat().st_size for file in part.iterdir())))

    code, said = run(*program("pg_dump", url, *options), look)
    if not code:
        return
    if "lock timeout" in said or "could not obtain lock" in said:
        raise _locked(describe(url))
    said = errors(said) or (f"It was ended by signal {-code}." if code < 0 else f"Code {code}.")
    hint = "Mend what it says, and begin again; nothing is left of this backup."
    if "No space left" in said:
        hint = f"export {connections.project.variable('BACKUPS')}=/a/folder/with/room"
    raise NotReady(f"pg_dump could not back {target} up. {said}", where=describe(url), hint=hint)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _verify(part: Path, scope: _Scope, connections: Connections, target: str) -> None:
    """Hold a backup against the database, and read it through to its end."""
    entries = {
        (kind, int(oid)): number
        for number, catalog, oid, kind in ENTRY.findall(toc(part))
        if kind == "TABLE DATA" or catalog != "0"
    }
    with connections.connect(target) as database:
        # One that was dropped before the snapshot is not missing.
        there = {row[0] for row in database.execute("select oid::bigint from pg_class").fetchall()}
    held = {one.oid for one in scope.tables}
    wanting = []
    for one in scope.relations:
        if one.kind == "S" or one.oid not in there:
            continue
        number = entries.get(("TABLE DATA", one.oid), "")
        file = part / f"{number}.dat.gz"
        is_written = file.is_file() and file.stat().st_size > 0
        if ("TABLE", one.oid) not in entries or (one.oid in held and not is_written):
            wanting.append(one.shown)
    why = f"It lacks {few(wanting)}." if wanting else unreadable(part)
    if why:
        raise BackupIncomplete(
            f"What pg_dump wrote is not complete, and was removed. {why}",
            where=f"{target}, {part.parent}",
            hint="Begin again; if it comes to the same, look after the disk.",
        )


def _write(file: Path, content: Mapping[str, Any]) -> None:
    with open(file, "w", encoding="utf-8") as out:
        json.dump(content, out, indent=2, ensure_ascii=False)
        out.flush()
        os.fsync(out.fileno())


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _recorded(detail: Mapping[str, Any]) -> Backup:
    path = Path(detail["path"])
    return Backup(
        **{
            **detail,
            "path": path,
            "made_at": datetime.fromisoformat(detail["made_at"]),
            "tables": tuple(detail["tables"]),
            "notes": tuple(detail["notes"]),
        },
        is_there=os.path.isfile(path / MANIFEST),
    )
