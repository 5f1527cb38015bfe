"""`reconcile`: repairs what deletions left behind in other services."""

from __future__ import annotations

import sys
from typing import Any

import rich_click as click

from pgsplit.base.errors import DataDiffers
from pgsplit.cli import console
from pgsplit.cli.options import connect_project, json_option, select_built, services_argument
from pgsplit.prove import reconcile
from pgsplit.prove.compensation import Action
from pgsplit.prove.reconcile import Reconciled
from pgsplit.state.ledger import open_ledger


@click.command("reconcile")
@services_argument
@click.option("--apply", is_flag=True, help="Make the changes instead of listing them.")
@click.option("--undo", type=int, metavar="NUMBER", help="Undo the change with this number.")
@json_option
def command(names: tuple[str, ...], apply: bool, undo: int | None, as_json: bool) -> None:
    """Find and repair what deletions left behind in other services.

    If the monolith's foreign key would have refused the deletion, the owner's row is restored. If
    the key would have emptied the column, the column is emptied. Without --apply nothing changes.
    Exits with 9 if anything is left to repair.
    """
    connections = connect_project()
    if undo is not None:
        with open_ledger(connections) as ledger:
            undone = reconcile.undo(undo, connections, ledger)
        console.present(undone, as_json, lambda one: {"undone": vars(one)}, show_undone)
        return
    services = select_built(connections, names)
    with (
        open_ledger(connections) as ledger,
        console.watching() as watcher,
        watcher.step("reconcile") as step,
    ):
        done = reconcile.reconcile(
            services, connections, ledger, lambda one: step.say(one.role), apply=apply
        )
        step.say(f"{len(done.actions)} repairs")
    console.present(done, as_json, reconciled_as_data, show_reconciled)
    if done.actions and not done.applied:  # beside a document it goes to standard error
        console.say(f"Repair it: ./runner.py reconcile {' '.join((*names, '--apply'))}")
    if done.unrepairable or (done.actions and not apply):
        sys.exit(DataDiffers.exit_code)


def reconciled_as_data(done: Reconciled) -> dict[str, Any]:
    """Give what was found and done as plain data for `--json`."""
    return {
        "actions": [vars(one) for one in done.actions],
        "helpless": [vars(one) for one in done.unrepairable],
        "applied": done.applied,
    }


def show_undone(action: Action) -> None:
    """Print which change was undone."""
    console.say(f"Undone: {described(action)}")


def show_reconciled(done: Reconciled) -> None:
    """Print what deletions left behind, and what was or would be done about it."""
    for number, action in enumerate(done.actions):
        did = f"{done.applied[number]}: " if done.applied else ""
        console.say(f"{did}{action.reference}: {described(action)}")
    for reference in done.unrepairable:
        console.say(
            f"{reference.service}.{reference.table}.{reference.column}: {reference.orphans:,}"
            f" row(s) refer to rows that {reference.owner}.{reference.owner_table} does not have."
            " No copy of those is left: repair them by hand"
        )
    if not done.actions and not done.unrepairable:
        console.say("Nothing was left behind.")
    elif done.applied:
        console.say("Each change can be undone: ./runner.py reconcile --undo NUMBER")


def described(action: Action) -> str:
    """Say in a line what a repair does."""
    if action.kind == "empty":
        return (
            f"empty {action.schema}.{action.table}.{action.column} of {len(action.rows):,} row(s)"
            f" in {action.place}"
        )
    keys = len(action.rows.get(action.table, {}))
    return f"restore {keys:,} row(s) of {action.place}.{action.table} that were deleted there"
