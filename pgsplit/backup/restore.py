"""Restores a backup into an empty database; only the backup itself is needed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgsplit.backup.folders import MANIFEST, UNFINISHED, folder
from pgsplit.backup.scope import OWN
from pgsplit.base.errors import ConnectionFailed, NotReady
from pgsplit.base.text import few
from pgsplit.postgres import clients
from pgsplit.postgres.connect import connect, describe, explained
from pgsplit.postgres.programs import errors, failures, incomplete, program, run, toc
from pgsplit.project.project import Project

OCCUPANTS = f"""
    select format('%I.%I', namespace.nspname, class.relname)
    from pg_class as class, pg_namespace as namespace
    where {OWN} and class.relkind in ('r', 'p', 'v', 'm', 'f')
    order by 1
"""
# In two lines, between which another job of pg_restore may say something.
UNKNOWN_SETTING = re.compile(
    r"^pg_restore: error: could not execute query: .*\btransaction_timeout\b.*$"
    r"|^Command was: SET transaction_timeout = 0;$",
    re.MULTILINE,
)
FOREIGN_KEY = re.compile(r"^\d+; \d+ \d+ FK CONSTRAINT ")
# What names roles without being a privilege; they may not exist on this server.
OF_ROLES = re.compile(r"^\d+; \d+ \d+ (POLICY|USER MAPPING) ")
CREATES_OF_ROLES = ("CREATE POLICY ", "CREATE USER MAPPING ")
# pg_restore's message about a foreign key that it can't add: table, name and definition.
REFUSED_KEY = re.compile(
    r"^Command was: (ALTER TABLE (?:ONLY )?(.+?)\s+ADD CONSTRAINT (.+?) FOREIGN KEY .+?);$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Restored:
    """A restored backup; `database` names the database, for people."""

    path: Path
    database: str
    tables: int
    seconds: float
    notes: tuple[str, ...]


def restore(project: Project, backup_path: Path, url: str, jobs: int = 2) -> Restored:
    """Restore a backup into an empty database; production is neither read nor written.

    Owners and privileges are left out, since their roles may not exist there; and so are policies
    and user mappings whose roles don't. A foreign key that rows violate, which replication doesn't
    check, is added as NOT VALID.

    Args:
        project: the project of the backup.
        backup_path: the backup's folder, or its name in the folder of all backups.
        url: the PostgreSQL URL of an empty database.
        jobs: how many connections write at once.

    Returns:
        Where the backup was restored, and notes on what differs from the original.

    Raises:
        ConnectionFailed: the database can't be reached, or the URL is invalid.
        BackupIncomplete: the backup is unfinished or damaged.
        NotReady: there is no such backup, the database is not empty or of an earlier version, or
            no pg_restore fits or it failed.
    """
    began, path = time.monotonic(), _find(backup_path, project)
    recorded = _read_manifest(path)
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # libpq's message may quote the password, so neither it nor the URL is repeated.
        raise ConnectionFailed(
            "DATABASE_URL is no PostgreSQL URL.",
            where="the command line",
            hint="postgresql://USER@HOST:5432/DATABASE, the password in PGPASSWORD",
        ) from None
    with connect(url, "database") as database:
        _require_empty(database)
        version = database.info.server_version
    lines = toc(path).splitlines(keepends=True)
    made_by = _versions("".join(lines))
    if made_by[0] > version // 10000:
        raise NotReady(
            f"This backup is of PostgreSQL {made_by[0]}; the database is on"
            f" PostgreSQL {version // 10000}."
            " A backup can be restored into its own version or a later one.",
            where=describe(url),
            hint=f"Restore it on a server of PostgreSQL {made_by[0]} or later.",
        )
    wanted = clients.needs(url)
    clients.find("pg_restore", wanted, made_by[1])
    notes = []
    options = [f"--jobs={jobs}", "--no-owner", "--no-privileges", "--no-password"]
    # A restored subscription would take production's changes; a backup should have none.
    options += ["--no-publications", "--no-subscriptions"]
    later = [line for line in lines if OF_ROLES.match(line)]
    with _listed(one for one in lines if one not in later and not FOREIGN_KEY.match(one)) as listed:
        _restore(path, url, [*options, listed], version, made_by[1])
    if later:
        with _listed(later) as listed:
            notes += _restore_of_roles(path, url, [*options, listed], made_by[1])
    if recorded["is_whole"]:
        with _listed(filter(FOREIGN_KEY.match, lines)) as listed:
            notes += _restore_keys(path, url, [*options, listed], made_by[1])
    else:
        notes.append(
            f"Only the rows of {', '.join(recorded['tables'])} are in this backup: all other"
            " tables are empty, and there are no foreign keys."
        )
    return Restored(
        path, describe(url), len(recorded["tables"]), time.monotonic() - began, tuple(notes)
    )


def _versions(contents: str) -> tuple[int, int]:
    """Give the major versions of the server that was dumped, and of the pg_dump that did it."""
    found = dict(re.findall(r"^; +Dumped (from|by) [a-z_ ]+: (\d+)", contents, re.MULTILINE))
    return int(found["from"]), int(found["by"])


def _find(path: Path, project: Project) -> Path:
    """Find a backup by its folder, or by its name in the folder of the backups."""
    found = path if path.exists() or path.name != str(path) else folder(project) / path
    return found.absolute()


def _read_manifest(path: Path) -> dict[str, Any]:
    """Read a backup's manifest, and check the sizes of its files."""
    if not path.is_dir():
        raise NotReady(
            "There is no backup by that name.", where=str(path), hint="runner.py backups"
        )
    if path.name.endswith(UNFINISHED):
        raise incomplete(path, f"Its name ends in {UNFINISHED}: it was not finished.")
    try:
        recorded: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, int] = recorded["files"]
        sizes = {name: (path / name).stat().st_size for name in files if (path / name).exists()}
    except (OSError, ValueError, KeyError) as error:
        said = error.strerror if isinstance(error, OSError) else f"{MANIFEST} is damaged"
        raise incomplete(path, f"It can't be read as a backup: {said}.") from error
    damaged = [
        f"{name} has {sizes.get(name, 0):,} of {count:,} bytes"
        for name, count in files.items()
        if sizes.get(name) != count
    ]
    if damaged:
        raise incomplete(path, f"Some of its files are damaged: {few(damaged)}.")
    return recorded


def _require_empty(database: psycopg.Connection[Any]) -> None:
    occupants = [row[0] for row in database.execute(OCCUPANTS)]
    if occupants:
        raise NotReady(
            f"The database {database.info.dbname} is not empty; a backup can only be restored into"
            f" an empty one. It holds {few(occupants)}.",
            where=describe(database.info.dsn),
            hint="CREATE DATABASE another TEMPLATE template0; and restore into that.",
        )


@contextmanager
def _listed(lines: Iterable[str]) -> Iterator[str]:
    """Give the option by which pg_restore restores only these entries."""
    with NamedTemporaryFile("w", prefix="pgsplit-", suffix=".list") as file:
        file.writelines(lines)
        file.flush()
        yield f"--use-list={file.name}"


def _restore_of_roles(path: Path, url: str, options: Sequence[str], least: int) -> list[str]:
    """Make policies and user mappings; leave out those whose roles are not on this server."""
    command, environ = program("pg_restore", url, *options, str(path), least=least)
    code, said = run(command, environ, lambda: None)
    said = UNKNOWN_SETTING.sub("", said)
    refused = failures(said)
    if code not in (0, 1) or not all(at.startswith(CREATES_OF_ROLES) for _, at in refused):
        raise _failed(path, url, code, said)
    return [f"Left out: {at}, since {what.removeprefix('ERROR:').strip()}." for what, at in refused]


def _restore_keys(path: Path, url: str, options: Sequence[str], least: int) -> list[str]:
    """Add the foreign keys; those that rows violate are NOT VALID and bind only new rows."""
    command, environ = program("pg_restore", url, *options, str(path), least=least)
    code, said = run(command, environ, lambda: None)
    said, refused = UNKNOWN_SETTING.sub("", said), REFUSED_KEY.findall(said)
    if code not in (0, 1) or said.count("pg_restore: error: ") > len(refused):
        raise _failed(path, url, code, REFUSED_KEY.sub("", said))
    notes = []
    with connect(url, "database") as database, explained(url, "database", database):
        for statement, table, name in refused:
            database.execute(f"{statement} not valid")
            notes.append(
                f"Rows of {table} violate the foreign key {name}. It is NOT VALID: it binds only"
                f" new rows. With the rows fixed: ALTER TABLE {table} VALIDATE CONSTRAINT {name};"
            )
    return notes


def _restore(path: Path, url: str, options: Sequence[str], version: int, least: int) -> None:
    # pg_restore first sets transaction_timeout, which servers before 17 don't know. This error is
    # ignored there; every other one counts.
    stop = ["--exit-on-error"] if version >= 170000 else []
    command, environ = program("pg_restore", url, *options, *stop, str(path), least=least)
    code, said = run(command, environ, lambda: None)
    # Two jobs may say their words in turns, so these are counted: the setting is in each message,
    # and in the statement below it.
    only_that = said.count("transaction_timeout") == 2 * said.count("pg_restore: error: ")
    if not code or (not stop and code == 1 and only_that):
        return
    raise _failed(path, url, code, said if stop else UNKNOWN_SETTING.sub("", said))


def _failed(path: Path, url: str, code: int, said: str) -> NotReady:
    why = errors(said) or f"It ended with code {code}."
    return NotReady(
        f"pg_restore can't restore {path.name}. {why}",
        where=describe(url),
        hint="That database is incomplete now: drop it, create it empty, and restore again.",
    )
