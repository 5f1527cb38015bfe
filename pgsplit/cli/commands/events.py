"""`events`: shows changes of shared rows, from a service's inbox."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from threading import Event
from typing import Any

import rich_click as click

from pgsplit.base.text import printable, printable_json
from pgsplit.cli import console
from pgsplit.cli.options import connect_project, json_option, one_service
from pgsplit.project.project import Service
from pgsplit.replication.sharing import events

LATEST = 20
UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def _age(ctx: click.Context, param: click.Parameter, value: str | None) -> timedelta | None:
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,4})(h|d|w)", value.strip())
    if not found or not int(found[1]):
        raise click.BadParameter(f"{value!r} is not an age such as 12h, 30d or 8w")
    return timedelta(**{UNITS[found[2]]: int(found[1])})


@click.command("events")
@one_service
@click.option(
    "--of", "entity", default="", help="The shared table, if there are several.", metavar="ENTITY"
)
@click.option("--follow", is_flag=True, help="Keep going until Ctrl-C.")
@click.option(
    "--since",
    type=click.IntRange(0),
    metavar="NUMBER",
    help=f"Show events after this sequence number (default: the latest {LATEST}).",
)
@click.option(
    "--keep", callback=_age, metavar="AGE", help="Keep events for AGE from now on, such as 30d."
)
@json_option
def command(
    service: Service,
    entity: str,
    follow: bool,
    since: int | None,
    keep: timedelta | None,
    as_json: bool,
) -> None:
    """Show changes of the shared rows that SERVICE follows, in order.

    Each line is a row that was created, updated or deleted. With --json each line is a JSON
    document.
    """
    connections, model = connect_project(), events.inbox(service, entity)
    if keep is not None:
        events.keep(service, connections, model, keep)
        console.say(f"{service.database} now keeps its {model.entity} events for {_told(keep)}.")
        return
    if since is None:
        removed_to, last = events.bounds(service, connections, model)
        since = last if follow else max(last - LATEST, removed_to)
    if follow:
        with suppress(KeyboardInterrupt):
            show_events(events.follow(service, connections, model, since, Event()), as_json)
        return
    count = show_events(events.read(service, connections, model, since), as_json)
    if not count and not as_json:
        print(f"{service.database} has no event after {since}.", file=sys.stderr)


def _told(age: timedelta) -> str:
    hours = age // timedelta(hours=1)
    return f"{hours // 24} days" if hours % 24 == 0 else f"{hours} hours"


def show_events(found: Iterable[tuple[int, dict[str, Any]]], as_json: bool) -> int:
    """Print events as they come; give how many there were."""
    count = 0
    for sequence, event in found:
        count += 1
        if as_json:
            document = json.dumps({"sequence": sequence, **event}, ensure_ascii=False)
            print(printable_json(document), flush=True)
            continue
        data = event["data"]
        said = f"{sequence:>8}  {event['timestamp'][:19]}  {event['type']}  {data['id']}"
        who = ", ".join(str(value) for key, value in data.items() if key != "id")
        print(printable(f"{said}  {who}").replace("\n", "\\n"), flush=True)
    return count
