"""`up`: starts the embedded server."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import rich_click as click

from pgsplit.cli import console
from pgsplit.cli.options import connect_project
from pgsplit.postgres import embedded
from pgsplit.postgres.connect import describe


@click.command("up")
def command() -> None:
    """Start the embedded server, if it isn't running.

    It is needed only if the monolith's URL isn't set.
    """
    connections = connect_project()
    if not connections.embedded:
        where = describe(connections.monolith_url)
        console.say(f"There is nothing to start: the monolith is {where}.")
        return
    project = connections.project
    server = embedded.start(project.root, name=project.name)
    note_opened(server.opened)
    console.say(f"The server is up; its data is in {server.data_directory}.")


def note_opened(folders: Iterable[Path]) -> None:
    """Tell which folders the embedded server's account may pass through from now on."""
    console.show_notes(
        f"the server's account may now pass through {folder} (chmod o+x)" for folder in folders
    )
