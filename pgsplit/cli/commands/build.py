"""`build`: builds and tests services' tables with dbt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import rich_click as click

from pgsplit.cli import console
from pgsplit.cli.options import connect_project, json_option, services_argument
from pgsplit.cli.throttling import Asked, throttle_options, throttled
from pgsplit.load import build
from pgsplit.load.build import Built
from pgsplit.project.project import Service
from pgsplit.state.ledger import open_ledger


@click.command("build")
@services_argument
@throttle_options
@json_option
def command(names: tuple[str, ...], asked: Asked, as_json: bool) -> None:
    """Build and test each SERVICE's tables with dbt.

    The project's models turn the mirror's rows into the service's tables.
    """
    connections = connect_project()
    services = connections.project.select(names)
    with (
        open_ledger(connections) as ledger,
        console.watching() as watcher,
        throttled(connections, asked, watcher) as connections,
    ):
        built = {}
        for service in services:
            with watcher.step(f"{service.role}: build and test") as step:
                built[service] = build.build(service, connections, ledger, step.finished_node)
    console.present(built, as_json, built_as_data, show_built)


def built_as_data(built: Mapping[Service, Built]) -> dict[str, Any]:
    """Give what was built as plain data for `--json`."""
    return {
        "services": {
            service.database: {**vars(one), "tests": vars(one.tests)}
            for service, one in built.items()
        }
    }


def show_built(built: Mapping[Service, Built]) -> None:
    """Print a line for each service: its tables, rows and tests."""
    rows = console.table("service", ">tables", ">rows", "tests", ">seconds")
    for service, one in built.items():
        rows.add_row(
            service.database,
            str(len(one.tables)),
            f"{sum(one.tables.values()):,}",
            str(one.tests),
            f"{one.seconds:.1f}",
        )
    console.out.print(rows)
