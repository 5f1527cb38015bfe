"""`retire`: backs the monolith up and makes it read-only, once nobody needs it."""

from __future__ import annotations

from typing import Any

import rich_click as click

from pgsplit.backup.dump import can_dump
from pgsplit.cli import console
from pgsplit.cli.options import Duration, connect_project, dry_run, json_option, no_backup
from pgsplit.cutover import retire
from pgsplit.cutover.retire import Did, Retired
from pgsplit.state.ledger import open_ledger


@click.command("retire")
@click.option(
    "--watch",
    type=Duration(least=0.0, most=7 * 86400.0),
    default="1min",
    show_default=True,
    help="How long to look for others who use it.",
)
@click.option("--undo", is_flag=True, help="Let it be written again.")
@dry_run
@no_backup
@json_option
def command(watch: float, undo: bool, dry_run: bool, no_backup: bool, as_json: bool) -> None:
    """Make the monolith read-only, after a last backup.

    Refused while a service needs it, the control database is in it, something replicates from it,
    or somebody connects to it within the time given. After that nothing here needs it: you may
    drop it when you like.
    """
    connections = connect_project()
    connections.require_monolith()
    if not (no_backup or undo or dry_run):
        can_dump(connections.monolith, connections)
    with (
        open_ledger(connections) as ledger,
        console.watching() as watcher,
        watcher.step("monolith: retire") as step,
    ):
        if undo:
            done = retire.undo(connections, ledger)
        else:
            done = retire.retire(
                connections,
                ledger,
                step.say,
                watch_seconds=watch,
                dry_run=dry_run,
                with_backup=not no_backup,
            )
    console.present(done, as_json, as_data, show)


def as_data(done: Retired) -> dict[str, Any]:
    """Give what was done as plain data for `--json`."""
    return {**vars(done), "backup": done.backup and vars(done.backup)}


SAID = {
    Did.CHECKED: "can be retired. Nothing was changed.",
    Did.RETIRED: "is read-only now.",
    Did.WAS_RETIRED: "was read-only already.",
    Did.UNDONE: "can be written again.",
    Did.WAS_NOT_RETIRED: "was not read-only.",
}


def show(done: Retired) -> None:
    """Print what was done."""
    if done.backup:
        console.say(f"Backup: {done.backup.path}")
        console.show_notes(done.backup.notes)
    console.say(f"The monolith, {done.database}, {SAID[done.did]}")
    if done.did in (Did.RETIRED, Did.WAS_RETIRED):
        console.say("Nothing here needs it any more. To undo it: ./runner.py retire --undo")
