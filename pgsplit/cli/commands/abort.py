"""`abort`: removes what was made for a service that has not been switched."""

from __future__ import annotations

from typing import Any

import rich_click as click

from pgsplit.cli import console
from pgsplit.cli.options import connect_project, json_option, one_service
from pgsplit.cutover import abort
from pgsplit.cutover.abort import Aborted
from pgsplit.project.project import Service
from pgsplit.state.ledger import open_ledger


@click.command("abort")
@one_service
@click.option("--yes", is_flag=True, help="Also drop what the service made itself.")
@json_option
def command(service: Service, yes: bool, as_json: bool) -> None:
    """Remove everything made for SERVICE, before it is switched.

    Its database, roles, publication, slot and subscription, and its write fence in the monolith are
    removed. The monolith's own tables stay as they are. If the service has made tables, columns or
    the like itself, they are named, and only --yes drops them.
    """
    connections = connect_project()
    with (
        open_ledger(connections) as ledger,
        console.watching() as watcher,
        watcher.step(f"{service.role}: abort") as step,
    ):
        done = abort.abort(service, connections, ledger, step.say, drops_own=yes)
    console.present(done, as_json, aborted_as_data, show_aborted)


def aborted_as_data(done: Aborted) -> dict[str, Any]:
    """Give what was removed as plain data for `--json`."""
    said = {"removed": done.removed, "notes": done.notes}
    return {"services": {done.service.database: said}}


def show_aborted(done: Aborted) -> None:
    """Print what was removed."""
    removed = f"Removed: {', '.join(done.removed)}."
    console.say(removed if done.removed else "There was nothing to remove.")
    console.show_notes(done.notes)
