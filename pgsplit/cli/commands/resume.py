"""`resume`: finishes or undoes what was interrupted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import rich_click as click

from pgsplit.cli import console
from pgsplit.cli.commands.switch import ROUTED
from pgsplit.cli.options import connect_project, json_option
from pgsplit.cutover import resume
from pgsplit.cutover.reroute import reroute
from pgsplit.state import saga
from pgsplit.state.ledger import open_ledger


@click.command("resume")
@json_option
def command(as_json: bool) -> None:
    """Finish or undo every interrupted operation.

    A switch or rollback that was past its point of no return is finished; before that it is undone.
    A complete that has changed a stream and an abort are finished. Applications that an old
    connections/SERVICE.env leads to the wrong side are routed to the right one.
    """
    connections, resumed = connect_project(), dict[str, list[str]]()
    with open_ledger(connections) as ledger, console.watching() as watcher:
        for database, entry in saga.unfinished(ledger).items():
            service = connections.project.services[database]
            operation = str(entry.detail["operation"])
            with watcher.step(f"{service.role}: {operation}") as step:
                said = resume.resume(service, operation, connections, ledger, step.say)
                if operation in ("switch", "rollback"):
                    said.append(ROUTED.format(role=service.role))
                resumed[database] = [console.named(line) for line in said]
        for service in connections.project.services.values():
            if service.database not in resumed and (lines := reroute(service, connections, ledger)):
                resumed[service.database] = [console.named(line) for line in lines]
    console.present(resumed, as_json, resumed_as_data, show_resumed)


def resumed_as_data(resumed: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Give what was resumed as plain data for `--json`."""
    return {"services": {database: {"said": said} for database, said in resumed.items()}}


def show_resumed(resumed: Mapping[str, Sequence[str]]) -> None:
    """Print what became of each interrupted operation."""
    for database, lines in resumed.items():
        console.say(*(f"{database}: {line}" for line in lines))
    if not resumed:
        console.say("Nothing was interrupted.")
