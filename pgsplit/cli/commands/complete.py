"""`complete`: ends reverse replication and retires a service's tables in the monolith."""

from __future__ import annotations

from typing import Any

import rich_click as click

from pgsplit.backup.dump import can_dump
from pgsplit.cli import console
from pgsplit.cli.commands.switch import as_data
from pgsplit.cli.console import out
from pgsplit.cli.options import connect_project, dry_run, json_option, no_backup, one_service
from pgsplit.cutover import complete, lean
from pgsplit.cutover.complete import Completed
from pgsplit.project.project import Service
from pgsplit.state.control import open_control
from pgsplit.state.ledger import State, open_ledger, state


@click.command("complete")
@one_service
@dry_run
@no_backup
@json_option
def command(service: Service, dry_run: bool, no_backup: bool, as_json: bool) -> None:
    """End SERVICE's reverse replication and retire its old tables.

    The monolith's tables are dumped and moved to another schema, never dropped. Services that share
    columns of them get these from SERVICE's database from then on. After this there is no rollback.
    Again, it empties what nobody needs any more of a completed service's mirror.
    """
    connections = connect_project()
    with open_control(connections) as control:
        is_again = state(control, service) is State.COMPLETED
    if not (no_backup or is_again):
        can_dump(connections.monolith, connections)
    with (
        open_ledger(connections) as ledger,
        console.watching() as watcher,
        watcher.step(f"{service.role}: {'check' if dry_run else 'complete'}") as step,
    ):
        if dry_run:
            done = complete.check(service, connections, ledger, step.say, with_backup=not no_backup)
        else:
            done = complete.complete(
                service, connections, ledger, step.say, with_backup=not no_backup
            )
            step.say(
                f"{len(done.emptied if is_again else done.retired)} tables"
                f" {'emptied' if is_again else 'retired'}"
            )
    if dry_run:
        console.present(done, as_json, _ready_as_data, _show_ready)
    else:
        console.present(done, as_json, as_data, show_completed)


def _ready_as_data(done: Completed) -> dict[str, Any]:
    ((database, data),) = as_data(done)["services"].items()
    return {"services": {database: {"ready": True, **data}}}


def _show_ready(done: Completed) -> None:
    database = done.service.database
    if done.is_again:
        _show_mirror(done, "It would empty")
        return
    console.say(
        f"{database} is ready. Nothing was changed.", "A completion can't be undone; it will:"
    )
    if done.retired:
        console.say(f"  - retire in the monolith: {', '.join(done.retired)}")
    console.say(*(f"  - give {one} its shared rows from {database}" for one in done.handed_over))
    console.say(*(f"  - drop {definition}" for definition in done.detached))
    console.show_warnings(done.warnings)


def show_completed(done: Completed) -> None:
    """Print what a completion did."""
    database = done.service.database
    if done.is_again:
        console.say(f"{database} was completed before.")
        _show_mirror(done, lean.GAVE_BACK)
        return
    out.print(f"[bold]{database}[/] is now independent of the monolith.")
    if done.retired:
        console.say(f"Retired in the monolith: {', '.join(done.retired)}")
    for consumer in done.handed_over:
        console.say(f"{consumer} now gets its shared rows from {database}.")
    console.say(*(f"note: dropped {definition}" for definition in done.detached))
    _show_mirror(done, lean.GAVE_BACK)
    if done.backup:
        console.say(f"Backup: {done.backup.path}")
        console.show_notes(done.backup.notes)
    console.show_warnings(done.warnings)
    if done.handed_over:
        console.say(
            "Shared rows arrive while a follower runs:",
            f"  ./runner.py sync {done.service.role} --follow",
        )


def _show_mirror(done: Completed, begins: str) -> None:
    console.say(*lean.summary(begins, done.emptied))
    console.show_notes(done.kept)
    if done.is_again and not (done.emptied or done.kept):
        console.say("Its mirror holds nothing that nobody needs. Nothing was changed.")
