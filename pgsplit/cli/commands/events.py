"""`events`: shows changes of shared rows, from a service's inbox."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from threading import Event
from typing import Any

import rich_click as click

from pgsplit.base.text import printable
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

    Each line is a row that was created, updated or deleted. With --follow and --json each line is
    a JSON document.
    """
    connections, model = connect_project(), events.inbox(service, entity)
    if keep is not None:
        events.keep(service, connections, model, keep)
        said = f"{service.database} now keeps its {model.entity} events for {_told(keep)}."
        kept = {"entity": model.entity, "keeps_seconds": keep.total_seconds()}
        console.present(kept, as_json, _as_data(service), lambda _: console.say(said))
        return
    if since is None:
        removed_to, last = events.bounds(service, connections, model)
        since = last if follow else max(last - LATEST, removed_to)
    if follow:
        with suppress(KeyboardInterrupt):
            for one in events.follow(service, connections, model, since, Event()):
                show_event(service, *one, as_json=as_json)
        return
    found = [*events.read(service, connections, model, since)]
    if as_json:
        listed = [{"sequence": sequence, **event} for sequence, event in found]
        console.show_json(_as_data(service)({"entity": model.entity, "events": listed}))
        return
    for one in found:
        show_event(service, *one)
    if not found:
        print(f"{service.database} has no event after {since}.", file=sys.stderr)


def _as_data(service: Service) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda said: {"services": {service.database: said}}


def _told(age: timedelta) -> str:
    hours = age // timedelta(hours=1)
    return f"{hours // 24} days" if hours % 24 == 0 else f"{hours} hours"


def show_event(
    service: Service, sequence: int, event: Mapping[str, Any], *, as_json: bool = False
) -> None:
    """Print an event, at once."""
    if as_json:
        data = {"service": service.database, "sequence": sequence, **event}
        console.document.line("event", data)
        return
    data = event["data"]
    said = f"{sequence:>8}  {event['timestamp']}  {event['type']}  {data['id']}"
    who = ", ".join(str(value) for key, value in data.items() if key != "id")
    print(printable(f"{said}  {who}").replace("\n", "\\n"), flush=True)
