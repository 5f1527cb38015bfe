"""`repair`: re-creates a switched service's broken streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rich_click as click

from pgsplit.cli import console
from pgsplit.cli.options import connect_project, json_option, one_service
from pgsplit.cli.throttling import Asked, throttle_options, throttled
from pgsplit.cutover import repair
from pgsplit.cutover.repair import Repaired
from pgsplit.project.project import Service
from pgsplit.state.ledger import open_ledger


@click.command("repair")
@one_service
@click.option("--full", is_flag=True, help="Also re-create healthy streams, comparing every row.")
@click.option("--anew", is_flag=True, hidden=True)  # the old name of --full
@throttle_options
@json_option
def command(service: Service, full: bool, anew: bool, asked: Asked, as_json: bool) -> None:
    """Re-create broken replication streams of a switched SERVICE.

    Each broken stream gets a new slot, and the rows that differ are copied. Healthy streams are
    left alone.
    """
    connections = connect_project()
    with (
        open_ledger(connections) as ledger,
        console.watching() as watcher,
        throttled(connections, asked, watcher) as connections,
        watcher.step(f"{service.role}: repair") as step,
    ):
        done = repair.repair(service, connections, ledger, step.say, full=full or anew)
        step.say(f"{sum(bool(one.stream) for one in done)} re-created")
    if as_json:
        console.show_json({"services": {service.database: repaired_as_data(done)}})
    else:
        show_repaired(done)


def repaired_as_data(done: Sequence[Repaired]) -> dict[str, Any]:
    """Give what was re-created as plain data for `--json`; `tables` are compared without one."""
    return {
        one.stream or "tables": {"rows": one.rows, "quarantined": one.kept}
        for one in done
        if not one.completed
    }


def show_repaired(done: Sequence[Repaired]) -> None:
    """Print a line for each stream that was re-created."""
    for one in done:
        if one.returned:
            console.say(
                "The monolith is the source of truth again; writes go there.",
                *filter(None, [one.warning]),
            )
            continue
        if one.completed:
            console.say("Both sides know of the completion.", *filter(None, [one.warning]))
            continue
        rows = ", ".join(f"{table} {count:,}" for table, count in one.rows.items())
        what = f"{one.stream} is re-created" if one.stream else "tables are compared"
        console.say(f"{what}; rows that differed: {rows}")
        console.show_quarantined(one.kept)
    if not done:
        console.say("Nothing is broken.")
