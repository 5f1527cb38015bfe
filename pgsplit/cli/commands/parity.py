"""`parity`: checks references between services."""

from __future__ import annotations

from typing import Any

import rich_click as click

from pgsplit.base.text import printable
from pgsplit.cli import console
from pgsplit.cli.console import out
from pgsplit.cli.options import connect_project, json_option, select_built, services_argument
from pgsplit.prove import parity
from pgsplit.prove.parity import Parity, Reference


@click.command("parity")
@services_argument
@json_option
def command(names: tuple[str, ...], as_json: bool) -> None:
    """Check each SERVICE's references to other services' rows.

    All services are compared as of one moment. References that never had a foreign key in the
    monolith are shown too. Exits with 9 if one that had a key
    points to no row.
    """
    connections = connect_project()
    services = select_built(connections, names)
    with console.watching() as watcher, watcher.step("parity") as step:
        found = parity.parity(services, connections, lambda one: step.say(one.role))
        step.say(f"{len(found.references)} references")
    console.present(found, as_json, parity_as_data, show_parity)
    if error := parity.difference(found):
        raise error


def parity_as_data(found: Parity) -> dict[str, Any]:
    """Give references as plain data for `--json`."""
    return {"references": [vars(one) for one in found.references]}


def show_parity(found: Parity) -> None:
    """Print references by pair of services, and the rows that refer to nothing."""
    rows = console.table("service", "refers to", ">references", ">orphans", ">never had a key")
    pairs: dict[tuple[str, str], list[Reference]] = {}
    for one in found.references:
        pairs.setdefault((one.service, one.owner), []).append(one)
    for (service, owner), references in pairs.items():
        errors = sum(one.orphans for one in references if one.had_key)
        warnings = sum(one.orphans for one in references if not one.had_key)
        rows.add_row(
            service,
            owner,
            str(len(references)),
            f"[red]{errors:,}[/]" if errors else "0",
            f"[yellow]{warnings:,}[/]" if warnings else "0",
        )
    out.print(rows)
    for one in found.broken:
        kind = "error" if one.had_key else "warning"
        console.say(
            f"{kind}: {one.orphans:,} of {one.service}.{one.table}.{one.column} not in"
            f" {one.owner_table}; list them all: table {one.stored_in}"
        )
        for row in one.samples:
            key, value = next(iter(row.values())), row[one.column]
            out.print(printable(f"    {key}: {value}"), markup=False, soft_wrap=True)
