"""`totals`: compares column totals, a proof that does not depend on the models."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import rich_click as click
from rich.markup import escape

from pgsplit.cli import console
from pgsplit.cli.console import out
from pgsplit.cli.options import connect_project, json_option, services_argument
from pgsplit.cli.throttling import Asked, throttle_options, throttled
from pgsplit.cli.wrapping import wrap
from pgsplit.prove import totals
from pgsplit.prove.sums import Total
from pgsplit.prove.totals import Totals, Verdict
from pgsplit.replication import sync
from pgsplit.state.ledger import open_ledger

SHOWN = 5  # reasons why pairs are not compared
# What caused a difference: the two sides that differ, and what that means.
CAUSES = {
    "replication": (
        "monolith",
        "mirror",
        "The mirror in {} differs from the monolith; the tables match the mirror.",
    ),
    "model": (
        "mirror",
        "service",
        "The tables of {} differ from its mirror: a model is wrong, or somebody wrote.",
    ),
}


@click.command("totals")
@services_argument
@throttle_options
@json_option
def command(names: tuple[str, ...], asked: Asked, as_json: bool) -> None:
    """Compare each SERVICE's totals with the monolith's, by column.

    Compares counts, checksums, sums and bounds. It takes the columns from
    seeds/column_ownership.csv and not from the models, so it finds what a model loses.

    Without a name it compares every service that follows the monolith. Exits with 9 if a total
    differs.
    """
    connections = connect_project()
    services = (
        connections.project.select(names)
        if names
        else totals.following(sync.built(connections), connections)
    )
    found: list[Totals] = []
    with (
        open_ledger(connections) as ledger,
        console.watching() as watcher,
        throttled(connections, asked, watcher) as connections,
    ):
        for service in services:
            with watcher.step(f"{service.role}: totals") as step:
                one = totals.totals(service, connections, ledger, step.finished_node)
                differing = one.count(Verdict.DIFFERS)
                if differing:
                    step.fail(f"{differing} differ")
                else:
                    step.say(f"{len(one.compared)} compared")
                found.append(one)
    console.present(found, as_json, totals_as_data, show_totals)
    if error := totals.difference(found):
        if as_json:
            sys.exit(error.exit_code)
        raise error


def totals_as_data(found: Sequence[Totals]) -> dict[str, Any]:
    """Give totals as plain data for `--json`."""
    return {"services": {one.service.database: _as_data(one) for one in found}}


def _as_data(one: Totals) -> dict[str, Any]:
    return {
        **one.summary(),
        "columns": [
            {**asdict(column), "verdict": column.verdict.value, "blames": column.caused_by}
            for column in one.compared
        ],
        "pairs_not_compared": [asdict(pair) for pair in one.not_compared],
    }


def show_totals(found: Sequence[Totals]) -> None:
    """Print a line for each monolith table, every difference, and what can't be compared."""
    _show_tables(found)
    for one in found:
        _show_differences(one)
    is_moving = any(one.count(Verdict.MOVING) for one in found)
    if is_moving:
        console.say(
            "moving: the monolith's rows changed at every try. The service holds what its",
            "mirror holds; try again when the monolith is quieter.",
        )
    for one in found:
        why = Counter(pair.reason for pair in one.not_compared).most_common()
        if why:
            others = sum(count for _, count in why[SHOWN:])
            said = [f"{reason} ({count})" for reason, count in why[:SHOWN]]
            said += [f"other reasons ({others})"] if others else []
            text = f"{one.service.role}: {len(one.not_compared)} not compared: {'; '.join(said)}"
            console.say(wrap(text, out.width, following="  "))
    if not is_moving and not totals.difference(found):
        agreeing = sum(one.count(Verdict.AGREES) for one in found)
        out.print(f"[green]Nothing lost:[/] the totals of {agreeing:,} columns agree.")


def _show_tables(found: Sequence[Totals]) -> None:
    rows = console.table("service", "monolith table", ">columns", ">agree", ">moving", ">differ")
    for one in found:
        for table in dict.fromkeys(column.table for column in one.compared):
            counted = Counter(c.verdict for c in one.compared if c.table == table)
            differing, moving = counted[Verdict.DIFFERS], counted[Verdict.MOVING]
            rows.add_row(
                one.service.database,
                table,
                str(counted.total()),
                str(counted[Verdict.AGREES]),
                f"[yellow]{moving}[/]" if moving else "0",
                f"[red]{differing}[/]" if differing else "[green]0[/]",
            )
    out.print(rows)


def _show_differences(found: Totals) -> None:
    """Print which total of which column differs, and between which two sides."""
    service = found.service
    for cause, (left, right, means) in CAUSES.items():
        columns = [column for column in found.compared if column.caused_by == cause]
        for column in columns:
            targets = ", ".join(f"{service.database}.{name}" for name in column.service_columns)
            name = escape(f"{column.table}.{column.column} → {targets}")
            out.print(f"[red]differs:[/] {name}", soft_wrap=True)
            one, other = (
                (column.expected, column.service)
                if cause == "model"
                else (column.monolith, column.mirror)
            )
            for total in differing(one, other):
                if total == "checksum":  # its figures mean nothing to people
                    console.say(
                        f"  values   differ between the {left} and the {right}; count and sum agree"
                    )
                    continue
                here, there = _shown(getattr(one, total)), _shown(getattr(other, total))
                console.say(f"  {total:<9}{here} in the {left}, {there} in the {right}")
        if columns:
            console.say(f"  {means.format(service.database)}")


def differing(one: Total, other: Total) -> list[str]:
    """Name the totals that differ; the checksum only if no other does."""
    names = [name for name, value in vars(one).items() if value != getattr(other, name)]
    return [name for name in names if name != "checksum"] or names


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value if value is not None else "none")
