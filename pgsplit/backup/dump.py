"""Consistent dumps before each phase, each with a restore point in the WAL.

A backup is a folder in pg_dump's directory format. It gets its final name only when it is complete
and has been read through; until then the name ends in `.part`. Its `backup.json` says what it
holds, so that it can be restored without the monolith. Nothing here deletes a backup.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg

from pgsplit.backup import folders
from pgsplit.backup.folders import MANIFEST, folder
from pgsplit.backup.mappings import mask, passwords
from pgsplit.backup.scope import LOCKED, Scope, look
from pgsplit.base.errors import NotReady
from pgsplit.base.text import few, size
from pgsplit.postgres import clients
from pgsplit.postgres.archive import make_plain
from pgsplit.postgres.connect import LOCK_TIMEOUT, describe, locked
from pgsplit.postgres.programs import BackupIncomplete, errors, program, run, toc, unreadable
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Project, Service
from pgsplit.state.control import open_control
from pgsplit.state.ledger import Ledger

BY_HAND = "by-hand"
# Takes half the time of pg_dump's default for a sixth more bytes; writers may be waiting.
COMPRESSION = "1"

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
    """A backup of a database, made before a phase of a service.

    `service` is the monolith's name if the backup belongs to no service. `tables` are the tables
    whose rows are in it. Without a `restore_point` there is no `lsn` either. `is_there` tells
    whether its folder exists.
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
    """Make a restore point, dump a database from one snapshot, and check the dump.

    Args:
        target: the database, as `Connections` names it: the monolith or a service's.
        connections: where it is.
        ledger: records the backup, as the step `backup`.
        service: the service whose phase begins next; None if there is none.
        phase: that phase, in small letters and hyphens; part of the folder's name.
        tables: schema and name of the tables whose rows are wanted; of the others only the
            definitions are dumped. None means all rows, large objects too.
        jobs: how many connections read at once.
        say: is told how many bytes are written.

    Returns:
        The backup; its notes say why its restore point is missing or of no use.

    Raises:
        ConnectionFailed: the database can't be reached.
        NotReady: the folder can't be written or has no room, the login may not read everything, a
            table is locked or does not exist, or pg_dump failed.
        BackupIncomplete: the dump lacks a table or can't be read; it is removed.
        ValueError: the phase has other characters.
    """
    if not folders.PHASE.fullmatch(phase):
        raise ValueError(f"{phase!r} can't be part of a backup's name")
    project = connections.project
    whose = service or Service(project.name, 0, "monolith", "", project)
    home = folder(project)
    began, made_at = time.monotonic(), datetime.now(timezone.utc)
    with folders.usable(home, project):
        # Nobody else may read production's rows.
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _clear(ledger, whose, phase)
        path = folders.free_path(home, f"{whose.role}-{phase}-{made_at:%Y%m%dT%H%M%SZ}")
    can_dump(target, connections)
    with connections.connect(target) as database:
        scope = look(database, tables)
    _require_room(home, target, scope, project)
    with ledger.step(
        whose, "backup", phase=phase, target=target, path=str(path), restore_point=path.name
    ) as step:
        with folders.unfinished(path, project) as part:
            with connections.connect(target) as database:
                lsn, notes = _restore_point(database, path.name)
            _dump(connections, target, part, scope, jobs, say)
            notes += _make_plain(part)
            _verify(part, scope, connections, target)
            sizes = {file.name: file.stat().st_size for file in part.iterdir()}
            done = Backup(
                service=whose.database,
                phase=phase,
                target=target,
                path=path,
                made_at=made_at,
                bytes=sum(sizes.values()),
                seconds=time.monotonic() - began,
                tables=tuple(one.shown for one in scope.tables),
                restore_point=path.name if lsn else None,
                lsn=lsn,
                notes=tuple(notes),
            )
            source = {"database": describe(connections.urls[target]), "is_whole": scope.is_whole}
            with folders.usable(home, project):
                folders.write(part / MANIFEST, {**_as_data(done), **source, "files": sizes})
        step.detail = _as_data(done)
    return done


def can_dump(target: str, connections: Connections) -> None:
    """Check that a program is installed that can dump a database, before anything is begun.

    Args:
        target: the database, as `Connections` names it.
        connections: where it is.

    Raises:
        ConnectionFailed: the database can't be reached.
        NotReady: no pg_dump fits its server's version, or none knows TLS and the server wants it.
    """
    clients.find("pg_dump", clients.needs(connections.url(target), target))


def _make_plain(part: Path) -> list[str]:
    removed = make_plain(part)
    return [
        f"Left out, since only the dumped server knows it: the storage parameter {name}."
        for name in removed
    ]


def _as_data(done: Backup) -> dict[str, Any]:
    data = {**vars(done), "path": str(done.path), "made_at": done.made_at.isoformat()}
    del data["is_there"]
    return data


def backups(connections: Connections) -> list[Backup]:
    """List the backups in the ledger, the newest first; writes nothing.

    Args:
        connections: where the control database with the ledger is.

    Returns:
        Every complete backup, and whether its folder still exists.

    Raises:
        ConnectionFailed: the control database can't be reached.
    """
    with open_control(connections) as monolith:
        known = monolith.execute("select to_regclass('split.ledger') is not null").fetchone()
        if known != (True,):
            return []
        rows = monolith.execute(
            "select detail from split.ledger where step = 'backup' and outcome = 'done'"
            " order by id desc"
        ).fetchall()
    return [_recorded(row[0]) for row in rows]


def _clear(ledger: Ledger, whose: Service, phase: str) -> None:
    """Remove the remains of failed backups of the same service and phase."""
    with ledger.lock:
        rows = ledger.connection.execute(
            "select intent ->> 'path' from split.ledger where service = %s and step = 'backup'"
            " and intent ->> 'phase' = %s and outcome is distinct from 'done'",
            (whose.database, phase),
        ).fetchall()
    for (recorded,) in rows:
        path = Path(recorded)
        if folders.NAME.fullmatch(path.name):
            folders.remove(path.with_name(path.name + folders.UNFINISHED), whose.project)


def _require_room(home: Path, target: str, scope: Scope, project: Project) -> None:
    free = shutil.disk_usage(home).free
    if free < scope.bytes:
        raise NotReady(
            f"A backup of {target} may need {size(scope.bytes)} of disk, the size of its tables;"
            f" {size(free)} are free.",
            where=str(home),
            hint=f"export {project.variable('BACKUPS')}=/a/folder/with/room",
        )


def _restore_point(database: psycopg.Connection[Any], name: str) -> tuple[str | None, list[str]]:
    """Make a restore point if possible; give its position in the WAL, and notes."""
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
            f"The restore point is of no use: archive_mode is off on {server}, so WAL is not"
            " archived: see docs/backup.md."
        ]
    if is_failing:
        return made[0], [
            f"The restore point is of no use until WAL is archived again on {server}; archiving"
            f" has failed since {failed_at}: select * from pg_stat_archiver;"
        ]
    return made[0], []


def _dump(
    connections: Connections,
    target: str,
    part: Path,
    scope: Scope,
    jobs: int,
    say: Callable[[str], None],
) -> None:
    url = connections.urls[target]
    options = [
        *("--format=directory", f"--jobs={jobs}", f"--compress={COMPRESSION}", f"--file={part}"),
        # A restored subscription would take production's changes or its slot.
        *("--no-publications", "--no-subscriptions", "--no-password"),
        f"--lock-wait-timeout={LOCK_TIMEOUT}",
    ]
    if not scope.is_whole:
        options.append("--no-blobs")
        held = {one.oid for one in scope.tables}
        options += [
            f"--exclude-table-data={_quoted(one.schema_name)}.{_quoted(one.name)}"
            for one in scope.relations
            if one.kind == "r" and one.oid not in held
        ]

    def look() -> None:
        with suppress(FileNotFoundError):
            say(size(sum(file.stat().st_size for file in part.iterdir())))

    known = passwords(connections, target)
    code, said = run(*program("pg_dump", url, *options), look)
    if not code:
        mask(part, known | passwords(connections, target))
        return
    if "lock timeout" in said or "could not obtain lock" in said:
        raise locked(LOCKED, url)
    said = errors(said) or (f"It was killed by signal {-code}." if code < 0 else f"Code {code}.")
    hint = "Fix that, and back up again; nothing is left of this backup."
    if "No space left" in said:
        hint = f"export {connections.project.variable('BACKUPS')}=/a/folder/with/room"
    raise NotReady(f"pg_dump can't back up {target}. {said}", where=describe(url), hint=hint)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _verify(part: Path, scope: Scope, connections: Connections, target: str) -> None:
    """Compare a backup's contents with the database, and read all of it."""
    entries = {
        (kind, int(oid)): number
        for number, catalog, oid, kind in ENTRY.findall(toc(part))
        if kind == "TABLE DATA" or catalog != "0"
    }
    with connections.connect(target) as database:
        # A table that was dropped before the snapshot is not missing.
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
            f"The dump is incomplete and was removed. {why}",
            where=f"{target}, {part.parent}",
            hint="Back up again; if it fails again, check the disk.",
        )


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
