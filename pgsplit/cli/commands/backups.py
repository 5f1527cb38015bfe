"""`backups`: lists backups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rich_click as click
from rich.markup import escape

from pgsplit.backup import dump
from pgsplit.backup.dump import Backup
from pgsplit.backup.folders import folder
from pgsplit.base.text import size
from pgsplit.cli import console
from pgsplit.cli.console import out
from pgsplit.cli.options import connect_project, current_project, json_option


@click.command("backups")
@json_option
def command(as_json: bool) -> None:
    """List backups, the newest first.

    Only you delete backups. One whose folder is gone is marked as missing.
    """
    found = dump.backups(connect_project())
    console.present(found, as_json, backups_as_data, show_backups)


def backups_as_data(found: Sequence[Backup]) -> dict[str, Any]:
    """Give backups as plain data for `--json`."""
    return {"backups": [vars(one) for one in found]}


def show_backups(found: Sequence[Backup]) -> None:
    """Print two lines for each backup: when, whose and how large, then where it is."""
    if not found:
        console.say("There are no backups yet. Make one: ./runner.py backup")
        return
    project = current_project()
    home = folder(project)
    line = "{:<19}  {:<13}  {:<14}  {:>8}  {}"
    out.print(line.format("when (UTC)", "service", "phase", "size", "restore point"))
    out.print("─" * 78)
    for one in found:
        whose = "monolith" if one.service == project.name else project.short(one.service)
        when = f"{one.made_at:%Y-%m-%d %H:%M:%S}"
        console.say(line.format(when, whose, one.phase, size(one.bytes), one.lsn or "none"))
        where = one.path.name if one.path.parent == home else str(one.path)
        mark = "" if one.is_there else "[bold red]missing:[/] "
        out.print(f"    {mark}{escape(where)}, of {one.target}", soft_wrap=True)
    if any(one.path.parent == home for one in found):
        console.say(f"They are in {home}.")
