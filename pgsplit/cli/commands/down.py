"""`down`: stops the embedded server."""

from __future__ import annotations

import rich_click as click

from pgsplit import rehearse
from pgsplit.cli import console
from pgsplit.cli.options import current_project
from pgsplit.postgres import embedded


@click.command("down")
@click.option("--wipe", is_flag=True, help="Also delete its data. This can't be undone.")
def command(wipe: bool) -> None:
    """Stop the embedded server.

    Its data stays unless --wipe is given.
    """
    project = current_project()
    was_running = embedded.stop(project.root, project.name)
    if wipe:
        embedded.wipe(project.root, project.name)
        if rehearse.folder(project).exists():  # a dry run that was killed leaves a copy behind
            with rehearse.held(rehearse.folder(project), project):
                pass
    console.say(
        ("The server is stopped" if was_running else "The server was not running")
        + (" and its data is deleted." if wipe else ".")
    )
