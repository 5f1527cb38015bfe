"""`throttle`: shows and changes the throttle of the operation that runs."""

from __future__ import annotations

from typing import Any

import rich_click as click

from pgsplit.cli import console
from pgsplit.cli.options import connect_project, json_option
from pgsplit.cli.throttling import Percent
from pgsplit.state import throttled
from pgsplit.state.control import open_control


@click.command("throttle")
@click.option("--max-impact", type=Percent(), metavar="PERCENT", help="Allow this much, as 20%.")
@click.option("--off", is_flag=True, help="Let it go on at full speed.")
@json_option
def command(max_impact: float | None, off: bool, as_json: bool) -> None:
    """Show or change the throttle of the operation that runs.

    An operation that has begun with --max-impact or --nice looks every second. The next one begins
    with its own options.
    """
    if off and max_impact:
        raise click.UsageError("--off and --max-impact exclude each other.")
    connections = connect_project()
    with open_control(connections) as control:
        is_change = off or max_impact is not None
        said = throttled.ask(control, max_impact) if is_change else throttled.says(control)
    console.present({"says": said, "max_impact": max_impact, "off": off}, as_json, dict, _show)


def _show(found: dict[str, Any]) -> None:
    if found["says"] is None:
        console.say("No operation runs that has a throttle.")
        return
    console.say(f"The throttle said: {found['says']}.")
    if found["off"]:
        console.say("Within a second, it is off.")
    elif found["max_impact"]:
        console.say(f"Within a second, writes may take {found['max_impact']:.0%} longer.")
