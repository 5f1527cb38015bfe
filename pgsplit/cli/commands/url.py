"""`url`: prints the URL of a database."""

from __future__ import annotations

import rich_click as click

from pgsplit.cli.options import complete_target, connect_project, current_project
from pgsplit.routing import env_file


@click.command("url")
@click.argument("target", shell_complete=complete_target)
@click.option("--service", "as_service", is_flag=True, help="Print the service's own URL.")
def command(target: str, as_service: bool) -> None:
    """Print the connection URL of TARGET.

    TARGET is "monolith" or a service. With --service it is the URL that the service itself uses.
    Either may contain a password.
    """
    click.echo(url(target, as_service))


def is_monolith(target: str) -> bool:
    """Whether a name means the monolith and not a service."""
    return target in ("monolith", current_project().name)


def url(target: str, as_service: bool) -> str:
    """Give a database's URL, for this program or as the service itself logs in."""
    connections = connect_project()
    if is_monolith(target):
        return connections.monolith_url
    (service,) = connections.project.select((target,))
    if as_service:
        return env_file.own_url(service, connections)
    return connections.urls[service.database]
