"""`backup`: backs up the monolith or services."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import rich_click as click

from pgsplit.backup import dump
from pgsplit.backup.dump import Backup
from pgsplit.base.errors import NotReady
from pgsplit.base.text import size
from pgsplit.cli import console
from pgsplit.cli.commands.backups import backups_as_data, show_backups
from pgsplit.cli.options import CONTROL, complete_backup, connect_project, json_option
from pgsplit.postgres.connect import describe
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.state.ledger import open_ledger


@click.command("backup")
@click.argument("names", metavar="[SERVICE|control]...", nargs=-1, shell_complete=complete_backup)
@json_option
def command(names: tuple[str, ...], as_json: bool) -> None:
    """Back up the monolith, each SERVICE's database, or the one called control.

    A backup is a snapshot of the whole database, with a restore point for point-in-time recovery.
    It is read back once to check it. It goes to the folder backups, or to the folder named by the
    variable …_BACKUPS, and stays there until you delete it.
    """
    connections = connect_project()
    services = _named(names, connections)
    made = []
    try:
        with open_ledger(connections) as ledger, console.watching() as watcher:
            for service in services:
                target = service.database if service else connections.monolith
                with watcher.step(f"{service.role if service else 'monolith'}: backup") as step:
                    one = dump.backup(
                        target, connections, ledger, service, dump.BY_HAND, say=step.say
                    )
                    step.say(size(one.bytes))
                    made.append(one)
    except KeyboardInterrupt:
        if as_json:
            raise
        console.err.print("stopped; the unfinished backup is deleted")
        sys.exit(130)
    console.present(made, as_json, backups_as_data, _show_made)


def _named(names: tuple[str, ...], connections: Connections) -> list[Service | None]:
    """Find what is to be backed up; None is the monolith."""
    if not names:
        return [None]
    project = connections.project
    wanted = tuple(name for name in names if name != CONTROL)
    found: list[Service | None] = [*project.select(wanted)] if wanted else []
    if CONTROL in names:
        if connections.control == connections.monolith:
            raise NotReady(
                "The control database is the monolith, and is backed up with it.",
                where=describe(connections.control_url),
                hint="runner.py backup",
            )
        found.append(Service(connections.control, 0, CONTROL, "", project))
    return found


def _show_made(made: Sequence[Backup]) -> None:
    show_backups(made)
    console.show_notes(note for one in made for note in one.notes)
