"""`land`: copies the monolith's rows into the services' mirrors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import rich_click as click

from pgsplit.base.text import size
from pgsplit.cli import console
from pgsplit.cli.options import connect_project, json_option, services_argument
from pgsplit.cli.throttling import Asked, throttle_options, throttled
from pgsplit.load import land
from pgsplit.load.land import Landed
from pgsplit.project.project import Service
from pgsplit.state.ledger import open_ledger


@click.command("land")
@services_argument
@click.option("--recopy", is_flag=True, help="Copy the mirror again if it has landed before.")
@click.option("--again", is_flag=True, hidden=True)  # the old name of --recopy
@throttle_options
@json_option
def command(names: tuple[str, ...], recopy: bool, again: bool, asked: Asked, as_json: bool) -> None:
    """Copy each SERVICE's rows from the monolith into its mirror.

    The copy is a snapshot of the living monolith, and a replication slot starts exactly there.

    If that slot is lost, --recopy copies the mirror again. The service's tables stay, and the next
    build compares them with the new mirror.
    """
    connections = connect_project()
    services = connections.project.select(names)
    with (
        open_ledger(connections) as ledger,
        console.watching() as watcher,
        throttled(connections, asked, watcher) as connections,
    ):
        landed = {}
        for service in services:
            with watcher.step(f"{service.role}: land") as step:
                landed[service] = land.land(
                    service, connections, ledger, step.copied, again=recopy or again
                )
    console.present(landed, as_json, landed_as_data, show_landed)


def landed_as_data(landed: Mapping[Service, Landed]) -> dict[str, Any]:
    """Give what was copied as plain data for `--json`."""
    return {"services": {service.database: vars(one) for service, one in landed.items()}}


def show_landed(landed: Mapping[Service, Landed]) -> None:
    """Print a line for each service: how much was copied, and how fast."""
    rows = console.table("service", ">tables", ">rows", ">copied", ">seconds")
    for service, one in landed.items():
        rows.add_row(
            service.database,
            str(len(one.rows)),
            f"{sum(one.rows.values()):,}",
            size(one.bytes),
            "landed before" if one.already else f"{one.seconds:.1f}",
        )
    console.out.print(rows)
    for one in landed.values():
        console.show_quarantined(one.quarantined)
