"""`retire`: backs the monolith up and makes it read-only, once nobody needs it."""

from __future__ import annotations

from typing import Any

import rich_click as click

from pgsplit.backup.dump import can_dump
from pgsplit.base.text import rfc3339
from pgsplit.cli import console
from pgsplit.cli.options import Duration, connect_project, dry_run, json_option, no_backup
from pgsplit.cutover import retire
from pgsplit.cutover.retire import Did, Retired, Wish
from pgsplit.state.ledger import open_ledger

DAY = 86400.0


@click.command("retire")
@click.option(
    "--watch",
    type=Duration(least=0.0, most=7 * DAY),
    default="1min",
    show_default=True,
    help="How long to look for others who use it.",
)
@click.option(
    "--read-only-for",
    type=Duration(least=0.0, most=366 * DAY),
    default="14d",
    show_default=True,
    help="How long it stays, for those who were forgotten, before it may be dropped.",
)
@click.option(
    "--prove-at",
    metavar="URL",
    default="",
    help="An empty database in which the backup is proven; a scratch one beside it if not given.",
)
@click.option("--undo", is_flag=True, help="Let it be written again.")
@dry_run
@no_backup
@json_option
def command(
    watch: float,
    read_only_for: float,
    prove_at: str,
    undo: bool,
    dry_run: bool,
    no_backup: bool,
    as_json: bool,
) -> None:
    """Make the monolith read-only, with a last backup that is restored and compared.

    Refused while a service needs it, the control database is in it, something replicates from it,
    a job runs in it, or somebody connects to it within the time given. Give the command again to
    see who still reads it, and, once its time is over, the command that drops it.
    """
    connections = connect_project()
    connections.require_monolith()
    with_backup = not no_backup
    if with_backup and not undo:
        can_dump(connections.monolith, connections)
    with (
        open_ledger(connections) as ledger,
        console.watching() as watcher,
        watcher.step("monolith: retire") as step,
    ):
        if undo:
            done = retire.undo(connections, ledger)
        else:
            wish = Wish(watch, read_only_for, dry_run, with_backup, prove_at)
            done = retire.retire(connections, ledger, step.say, wish)
    console.present(done, as_json, as_data, show)


def as_data(done: Retired) -> dict[str, Any]:
    """Give what was done as plain data for `--json`."""
    return {
        **vars(done),
        "backup": done.backup and vars(done.backup),
        "proof": done.proof and vars(done.proof),
    }


SAID = {
    Did.CHECKED: "can be retired. Nothing was changed.",
    Did.RETIRED: "is read-only now",
    Did.WAS_RETIRED: "is read-only",
    Did.MAY_GO: "may be dropped:",
    Did.UNDONE: "can be written again.",
    Did.WAS_NOT_RETIRED: "was not read-only.",
}


def show(done: Retired) -> None:
    """Print what was done."""
    if done.backup:
        console.say(f"Backup: {done.backup.path}")
    if done.proof:
        console.say(
            f"It was restored and compared: {done.proof.tables} tables with {done.proof.rows:,}"
            " rows are the same."
        )
        console.show_notes(done.proof.notes)
    console.show_notes(done.notes)
    is_waiting = done.did in (Did.RETIRED, Did.WAS_RETIRED) and done.until is not None
    until = f", until {rfc3339(done.until, 'seconds')}." if is_waiting and done.until else ""
    console.say(f"The monolith, {done.database}, {SAID[done.did]}{until}")
    if done.drop:
        console.say(f"  {done.drop}")
    if is_waiting:
        console.say("Nothing here needs it any more. To undo it: ./runner.py retire --undo")
