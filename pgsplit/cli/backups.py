"""Backups and what becomes of them: backup, backups, restore."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.markup import escape

from pgsplit.backup import dump as backing_up
from pgsplit.backup import restore as restoring
from pgsplit.backup.dump import Backup
from pgsplit.backup.restore import Restored
from pgsplit.base.text import seconds, size
from pgsplit.cli import connect_project, console, current_project, json_option, services_argument
from pgsplit.cli.console import out
from pgsplit.project.project import Service
from pgsplit.state.ledger import open_ledger


@click.command()
@services_argument
@json_option
def backup(names: tuple[str, ...], as_json: bool) -> None:
    """Back the monolith up now, or the databases of each SERVICE.

    One snapshot of the whole database, behind a restore point for point-in-time recovery, read
    through afterwards. It goes to the folder backups, or the one that the variable …_BACKUPS names,
    and is kept until you delete it.
    """
    connections = connect_project()
    services: list[Service | None] = [*connections.project.select(names)] if names else [None]
    made = []
    try:
        with open_ledger(connections) as ledger, console.watching() as watcher:
            for service in services:
                target = service.database if service else connections.monolith
                with watcher.step(f"{service.role if service else 'monolith'}: backup") as step:
                    one = backing_up.backup(
                        target, connections, ledger, service, backing_up.BY_HAND, say=step.say
                    )
                    step.say(size(one.bytes))
                    made.append(one)
    except KeyboardInterrupt:
        if as_json:
            raise
        console.err.print("stopped; of the backup that was under way nothing is left")
        sys.exit(130)
    if as_json:
        console.show_json({"backups": [vars(one) for one in made]})
        return
    show_backups(made)
    console.show_notes(note for one in made for note in one.notes)


@click.command("backups")
@json_option
def list_backups(as_json: bool) -> None:
    """List the backups that were made, the newest first.

    Nothing deletes them but you; one whose folder is gone is marked as missing.
    """
    found = backing_up.backups(connect_project())
    if as_json:
        console.show_json({"backups": [vars(one) for one in found]})
        return
    if not found:
        out.print("There are no backups yet: runner.py backup")
        return
    show_backups(found)


@click.command()
@click.argument("backup_path", metavar="BACKUP", type=click.Path(path_type=Path))
@click.argument("database_url")
@click.option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True)
@json_option
def restore(backup_path: Path, database_url: str, jobs: int, as_json: bool) -> None:
    """Restore BACKUP into the empty database DATABASE_URL.

    BACKUP is a folder, or its name as backups prints it. A database that holds any table is
    refused. Production is neither asked nor touched. A password is better in PGPASSWORD or
    ~/.pgpass than in the URL, where others on this machine may see it.
    """
    try:
        with console.watching() as watcher, watcher.step("restore") as step:
            restored = restoring.restore(current_project(), backup_path, database_url, jobs)
            step.say(f"{restored.tables} tables")
    except KeyboardInterrupt:
        if as_json:
            raise
        console.err.print("stopped; drop that database, what is in it is not whole")
        sys.exit(130)
    if as_json:
        console.show_json(vars(restored))
    else:
        show_restored(restored)


def show_backups(found: Sequence[Backup]) -> None:
    """Print two lines for each backup: when, whose and how large, then where it is."""
    project = current_project()
    home = backing_up.folder(project)
    line = "{:<19}  {:<13}  {:<14}  {:>8}  {}"
    out.print(line.format("when (UTC)", "service", "phase", "size", "restore point"))
    out.print("─" * 78)
    for one in found:
        whose = "monolith" if one.service == project.name else project.short(one.service)
        when = f"{one.made_at:%Y-%m-%d %H:%M:%S}"
        point = one.lsn or "none"
        said = line.format(when, whose, one.phase, size(one.bytes), point)
        out.print(said, markup=False, soft_wrap=True)
        where = one.path.name if one.path.parent == home else str(one.path)
        mark = "" if one.is_there else "[bold red]missing:[/] "
        out.print(f"    {mark}{escape(where)}, of {one.target}", soft_wrap=True)
    if any(one.path.parent == home for one in found):
        out.print(f"They are in {home}.", markup=False, soft_wrap=True)


def show_restored(restored: Restored) -> None:
    """Print where a backup is now, and what may be done with it."""
    out.print(
        f"Restored {restored.path.name}: the rows of {restored.tables} tables in"
        f" {seconds(restored.seconds)}.",
        markup=False,
        soft_wrap=True,
    )
    out.print(f"It is now {restored.database}.", markup=False, soft_wrap=True)
    console.show_notes(restored.notes)
    out.print(
        "\nIt is a copy: nothing follows it and nothing reads it. What comes next is yours:\n"
        "  - look: psql with the same URL, and ANALYZE first if you ask it much;\n"
        "  - take rows back: pg_dump --data-only --table=… from it, into where they lack;\n"
        "  - put it in the place of what was lost: docs/backup.md says in which order;\n"
        "  - be done with it: DROP DATABASE."
    )
