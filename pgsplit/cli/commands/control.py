"""`control`: shows where the control database is, and moves it."""

from __future__ import annotations

from typing import Any

import psycopg
import rich_click as click
from psycopg.conninfo import conninfo_to_dict

from pgsplit.base.errors import ConnectionFailed
from pgsplit.cli import console
from pgsplit.cli.options import connect_project, dry_run, json_option
from pgsplit.cutover import move_control
from pgsplit.cutover.move_control import Moved
from pgsplit.postgres.connect import describe
from pgsplit.state.control import open_control


def _url(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
    if value is None:
        return ""
    try:
        if conninfo_to_dict(value).get("dbname"):
            return value
    except psycopg.ProgrammingError:
        pass  # libpq's message may quote the password
    raise ConnectionFailed(
        "--to is no PostgreSQL URL with a database.",
        where="the command line",
        hint="postgresql://USER@HOST:5432/DATABASE, the password in PGPASSWORD or ~/.pgpass",
    )


@click.command("control")
@click.option("--to", "url", callback=_url, metavar="URL", help="Move it to this database.")
@dry_run
@json_option
def command(url: str, dry_run: bool, as_json: bool) -> None:
    """Show where the control database is, or move it.

    It has the ledger, and in which state each service is. It is the monolith, until all services
    are completed and you move it. Followers go on meanwhile.
    """
    connections = connect_project()
    if not url:
        with open_control(connections) as control:
            found = Moved(describe(control.info.dsn), "", was_there=True)
        console.present(found, as_json, as_data, show)
        return
    with console.watching() as watcher, watcher.step("control: move") as step:
        found = move_control.move(url, connections, step.say, dry_run=dry_run)
    console.present(found, as_json, as_data, show if found.was_there or not dry_run else _show_plan)


def as_data(found: Moved) -> dict[str, Any]:
    """Give where it is as plain data for `--json`."""
    return vars(found)


def show(found: Moved) -> None:
    """Print where it is, and the line to set."""
    console.say(f"The control database is {found.database}.")
    if found.rows:
        moved = ", ".join(f"{rows:,} of {name}" for name, rows in found.rows.items())
        console.say(f"Moved: {moved}. The old place keeps its rows, and refuses every command.")
    if found.setting:
        console.say(f"Say so in your settings:\n  {found.setting}")


def _show_plan(found: Moved) -> None:
    rows = ", ".join(f"{rows:,} of {name}" for name, rows in found.rows.items())
    console.say(f"It can move to {found.database}: {rows}. Nothing was changed.")
