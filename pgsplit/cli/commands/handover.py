"""`handover`: gives a completed service's team its schema, roles, and what others share."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import rich_click as click

from pgsplit.cli import console
from pgsplit.cli.options import connect_project, json_option, one_service
from pgsplit.observe import handover
from pgsplit.observe.handover import Handover
from pgsplit.project.project import Service


@click.command("handover")
@one_service
@click.option(
    "--to",
    "folder",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder to write to; handover-SERVICE if not given.",
)
@click.option(
    "--tool",
    type=click.Choice([*handover.TOOLS]),
    default="sql",
    show_default=True,
    help="The team's migration tool: its form of a first migration.",
)
@json_option
def command(service: Service, folder: Path | None, tool: str, as_json: bool) -> None:
    """Write what the team of a completed SERVICE needs: a first migration, roles, a list.

    The list names every column that other services share, which has to stay. All files go into one
    folder, and no file that somebody has edited is overwritten.
    """
    where = folder or Path(f"handover-{service.role}")
    done = handover.hand_over(service, connect_project(), where, tool)
    console.present(done, as_json, as_data, show)


def as_data(done: Handover) -> dict[str, object]:
    """Give what was written as plain data for `--json`."""
    return {
        "service": done.service.database,
        "folder": str(done.folder),
        "tool": done.tool,
        "files": done.files,
        "shared": [asdict(one) for one in done.shared],
        "roles": done.roles,
        "distribution": [asdict(one) for one in done.distribution.changes]
        if done.distribution
        else None,
        "warnings": done.warnings,
    }


def show(done: Handover) -> None:
    """Print what was written, and how many columns others share."""
    console.say(f"{done.folder}: {', '.join(done.files)}")
    console.say(
        f"Others share {len(done.shared)} columns, which have to stay: see HANDOVER.md."
        if done.shared
        else "Nobody shares any column: all of it may change."
    )
    if done.distribution:
        console.say(
            f"citus.sql changes {len(done.distribution.changes)} keys, foreign keys and triggers,"
            " and distributes the tables: see HANDOVER.md."
        )
    console.show_notes(done.warnings)
