"""Ownership totals: a proof that nothing was lost which the models have no part in."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from textwrap import fill
from typing import Any

import click
from rich.markup import escape

from pgsplit.cli import connect_project, console, json_option, services_argument
from pgsplit.prove import totals as totalling
from pgsplit.prove.totals import Total, Totals, Verdict
from pgsplit.replication import sync as syncing
from pgsplit.state.ledger import open_ledger

SHOWN = 5
# Who is to blame: which two places differ, and what that means.
PLACES = {
    "replication": (
        "monolith",
        "mirror",
        "The mirror in {} is not what the monolith is; the tables are what the mirror yields.",
    ),
    "model": (
        "mirror",
        "service",
        "The tables of {} are not what its mirror yields: a model is wrong, or somebody wrote.",
    ),
}


@click.command()
@services_argument
@json_option
def totals(names: tuple[str, ...], as_json: bool) -> None:
    """Compare each SERVICE's totals with the monolith's, column by column.

    Counts, checksums, sums and bounds, formed from seeds/column_ownership.csv and not from the
    models. Without a name it is every service that follows the monolith. Exits with 9 if any
    differs.
    """
    connections = connect_project()
    services = (
        connections.project.select(names)
        if names
        else totalling.following(syncing.built(connections), connections)
    )
    found: list[Totals] = []
    with open_ledger(connections) as ledger, console.watching() as watcher:
        for service in services:
            with watcher.step(f"{service.role}: totals") as step:
                one = totalling.totals(service, connections, ledger, step.finished_node)
                differing = one.count(Verdict.DIFFERS)
                if differing:
                    step.fail(f"{differing} differ")
                else:
                    step.say(f"{len(one.compared)} compared")
                found.append(one)
    error = totalling.difference(found)
    if as_json:
        console.show_json({one.service.database: _as_data(one) for one in found})
        sys.exit(error.exit_code if error else 0)
    _show(found)
    if error:
        raise error
    moving = sum(one.count(Verdict.MOVING) for one in found)
    if not moving:
        agreeing = sum(one.count(Verdict.AGREES) for one in found)
        console.out.print(f"[green]Nothing lost:[/] the totals of {agreeing:,} columns agree.")


def _show(found: Sequence[Totals]) -> None:
    """Print a line for each monolith table, every difference, and what can't be compared."""
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
    console.out.print(rows)
    for one in found:
        _show_differences(one)
    if any(one.count(Verdict.MOVING) for one in found):
        console.out.print(
            "moving: the monolith was being written at every look. What the service holds is\n"
            "what its mirror holds; try again when the monolith is quieter."
        )
    for one in found:
        why = Counter(pair.reason for pair in one.not_compared).most_common()
        if why:
            others = sum(count for _, count in why[SHOWN:])
            said = [f"{reason} ({count})" for reason, count in why[:SHOWN]]
            said += [f"other reasons ({others})"] if others else []
            text = f"{one.service.role}: {len(one.not_compared)} not compared: {'; '.join(said)}"
            console.out.print(fill(text, console.out.width, subsequent_indent="  "), markup=False)


def _show_differences(totals: Totals) -> None:
    """Print which total of which column differs, and in which of the three places."""
    service = totals.service
    for blames, (left, right, said) in PLACES.items():
        columns = [c for c in totals.compared if c.caused_by == blames]
        for column in columns:
            fed = ", ".join(f"{service.database}.{name}" for name in column.service_columns)
            name = escape(f"{column.table}.{column.column} → {fed}")
            console.out.print(f"[red]differs:[/] {name}", soft_wrap=True)
            one, other = (
                (column.expected, column.service)
                if blames == "model"
                else (column.monolith, column.mirror)
            )
            for total in differing(one, other):
                if total == "checksum":  # which tells nobody anything
                    console.out.print(
                        f"  values   differ between the {left} and the {right}; count and sum"
                        " do not",
                        soft_wrap=True,
                    )
                    continue
                here, there = _shown(getattr(one, total)), _shown(getattr(other, total))
                console.out.print(
                    f"  {total:<9}{here} in the {left}, {there} in the {right}",
                    soft_wrap=True,
                    markup=False,
                )
        if columns:
            console.out.print(f"  {said.format(service.database)}")


def differing(one: Total, other: Total) -> list[str]:
    """Name the totals that are not alike; the checksum only where nothing says more."""
    names = [name for name, value in vars(one).items() if value != getattr(other, name)]
    return [name for name in names if name != "checksum"] or names


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value if value is not None else "none")


def _as_data(one: Totals) -> dict[str, Any]:
    return {
        **one.summary(),
        "columns": [
            {**asdict(column), "verdict": column.verdict.value, "blames": column.caused_by}
            for column in one.compared
        ],
        "pairs_not_compared": [asdict(pair) for pair in one.not_compared],
    }
