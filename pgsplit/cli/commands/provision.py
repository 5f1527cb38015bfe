"""`provision`: makes databases and roles for services."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rich_click as click

from pgsplit.cli import console
from pgsplit.cli.options import connect_project, json_option, services_argument
from pgsplit.cli.strange import warn_of_strange_files
from pgsplit.load import provision
from pgsplit.load.provision import Provisioned
from pgsplit.state.ledger import open_ledger


@click.command("provision")
@services_argument
@click.option("--new-password", is_flag=True, help="Give each service's login a new password.")
@json_option
def command(names: tuple[str, ...], new_password: bool, as_json: bool) -> None:
    """Create each SERVICE's database, owner role and login role.

    The login's URL goes to connections/SERVICE.env, which only you can read. What exists already
    stays as it is.
    """
    connections = connect_project()
    services = connections.project.select(names)
    warn_of_strange_files(services, connections)
    with open_ledger(connections) as ledger:
        made = [
            provision.provision(service, connections, ledger, new_password=new_password)
            for service in services
        ]
    console.present(made, as_json, provisioned_as_data, show_provisioned)
    if not as_json:
        console.say(f"Each login's URL is in {connections.folder}/SERVICE.env.")
        console.show_notes(note for one in made for note in one.notes)


def provisioned_as_data(made: Sequence[Provisioned]) -> dict[str, Any]:
    """Give what was made as plain data for `--json`."""
    return {
        "services": {
            one.service.database: {
                "created": one.created,
                "file": one.connection_file,
                "notes": one.notes,
            }
            for one in made
        }
    }


def show_provisioned(made: Sequence[Provisioned]) -> None:
    """Print a line for each service: its database and its login."""
    rows = console.table("service", "database", "login")
    for one in made:
        was = "created" if one.created else "already there"
        rows.add_row(one.service.role, was, one.service.login)
    console.out.print(rows)
