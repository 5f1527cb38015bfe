"""`rollout`: lets a share of users read a service's database before the switch."""

from __future__ import annotations

from typing import Any

import rich_click as click

from pgsplit.cli import console
from pgsplit.cli.options import connect_project, json_option, one_service
from pgsplit.cutover import rollout
from pgsplit.cutover.rollout import Rollout
from pgsplit.project.project import Service


class Percent(click.ParamType[int]):
    """A share such as 25% or 25, given in percent."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read a whole number from 0 to 100, with or without its sign."""
        text = str(value).removesuffix("%").strip()
        if not text.isascii() or not text.isdigit() or int(text) > 100:
            self.fail(f"{value!r} is no share from 0% to 100% in whole percent", param, ctx)
        return int(text)


@click.command("rollout")
@one_service
@click.option("--reads", type=Percent(), help="The share of users to let read it, such as 5%.")
@json_option
def command(service: Service, reads: int | None, as_json: bool) -> None:
    """Show or set which share of users reads SERVICE's database before the switch.

    A feature flag in connections/flags.json says so, in the format of flagd; applications ask it
    with the OpenFeature SDK of their language. The monolith remains the source of truth. A larger
    share needs a verified service that follows; a smaller one needs no server at all.
    """
    connections = connect_project()
    if reads is None:
        done = rollout.show(service, connections)
    else:
        done = rollout.roll_out(service, connections, reads)
    console.present(done, as_json, as_data, show)


def as_data(done: Rollout) -> dict[str, Any]:
    """Give the share as plain data for `--json`."""
    return {
        "service": done.service.database,
        "percent": done.percent,
        "before": done.before,
        "flag": done.flag,
        "file": str(done.file),
        "notes": done.notes,
    }


def show(done: Rollout) -> None:
    """Print the share, and the flag that has it."""
    was = f"; it was {done.before}%" * (done.before != done.percent)
    console.say(f"{done.percent}% of users read {done.service.database}{was}.")
    console.say(f"Flag {done.flag} in {done.file} says so.")
    console.show_notes(done.notes)
