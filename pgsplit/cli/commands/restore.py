"""`restore`: restores a backup into an empty database."""

from __future__ import annotations

import sys
from pathlib import Path

import rich_click as click

from pgsplit.backup import restore
from pgsplit.backup.restore import Restored
from pgsplit.base.text import seconds
from pgsplit.cli import console
from pgsplit.cli.options import current_project, json_option

NEXT = """
It is a copy: nothing follows it and nothing reads it. What you can do next:
  - look into it: psql with the same URL; run ANALYZE before large queries
  - take rows back: pg_dump --data-only --table=… from it, into the database
    that lost them
  - replace what was lost: docs/backup.md has the steps in order
  - remove it: DROP DATABASE"""


@click.command("restore")
@click.argument("backup_path", metavar="BACKUP", type=click.Path(path_type=Path))
@click.argument("database_url")
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    metavar="NUMBER",
    default=2,
    show_default=True,
    help="How many tables to restore at the same time, up to 64.",
)
@json_option
def command(backup_path: Path, database_url: str, jobs: int, as_json: bool) -> None:
    """Restore BACKUP into the empty database DATABASE_URL.

    BACKUP is a folder, or a name from the list of backups. A database with any table in it is
    refused. Production is neither read nor changed. Put the password in PGPASSWORD or ~/.pgpass:
    others on this machine may see it in the URL.
    """
    try:
        with console.watching() as watcher, watcher.step("restore") as step:
            restored = restore.restore(current_project(), backup_path, database_url, jobs)
            step.say(f"{restored.tables} tables")
    except KeyboardInterrupt:
        if as_json:
            raise
        console.err.print("stopped; the restored database is incomplete: drop it")
        sys.exit(130)
    console.present(restored, as_json, vars, show_restored)


def show_restored(restored: Restored) -> None:
    """Print where a backup is now, and what can be done with it."""
    console.say(
        f"Restored {restored.path.name}: the rows of {restored.tables} tables in"
        f" {seconds(restored.seconds)}.",
        f"It is now {restored.database}.",
    )
    console.show_notes(restored.notes)
    console.say(NEXT)
