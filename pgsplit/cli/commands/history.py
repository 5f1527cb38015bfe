"""`history`: shows the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import rich_click as click
from rich.markup import escape

from pgsplit.base.errors import NotReady
from pgsplit.cli import console
from pgsplit.cli.console import out
from pgsplit.cli.options import (
    connect_project,
    current_project,
    json_option,
    services_argument,
)
from pgsplit.observe import history
from pgsplit.observe.operations import Entry

MARKS = {"done": "[green]done[/]", "failed": "[red]failed[/]", None: "[red]interrupted[/]"}


@click.command("history")
@services_argument
@click.option(
    "--last",
    type=click.IntRange(1),
    metavar="NUMBER",
    default=40,
    show_default=True,
    help="Show this many of the latest steps.",
)
@json_option
def command(names: tuple[str, ...], last: int, as_json: bool) -> None:
    """Show the ledger: every step begun for each SERVICE, and its outcome.

    The ledger is kept in the monolith's database.
    """
    connections = connect_project()
    steps = history.history(connections.project.select(names), connections)[-last:]
    console.present(steps, as_json, history_as_data, show_history)


def history_as_data(steps: Sequence[Entry]) -> dict[str, Any]:
    """Give steps as plain data for `--json`."""
    return {"steps": [{**asdict(step), "seconds": step.seconds} for step in steps]}


def show_history(steps: Sequence[Entry]) -> None:
    """Print a line for each step, then the errors of those that failed."""
    if not steps:
        raise NotReady("Nothing has been done yet.", hint="runner.py run")
    rows = console.table("started, UTC", "service", "step", ">seconds", "outcome")
    for step in steps:
        rows.add_row(
            f"{step.started_at:%m-%d %H:%M:%S}",
            current_project().short(step.service),
            step.step,
            "" if step.seconds is None else f"{step.seconds:.3f}",
            MARKS[step.outcome],
        )
    out.print(rows)
    for step in steps:
        if step.outcome == "failed" and (error := step.detail.get("error")):
            out.print(f"{step.started_at:%m-%d %H:%M:%S} {escape(str(error))}", soft_wrap=True)
