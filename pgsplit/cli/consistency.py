"""What several databases share: events, parity, reconcile."""

from __future__ import annotations

import json
import re
import sys
from contextlib import suppress
from datetime import timedelta
from threading import Event
from typing import Any

import click

from pgsplit.base.text import printable
from pgsplit.cli import connect_project, console, json_option, one_service, services_argument
from pgsplit.cli.console import out
from pgsplit.project.project import Service
from pgsplit.prove import parity as following
from pgsplit.prove import reconcile as reconciling
from pgsplit.prove.parity import Parity, Reference
from pgsplit.prove.reconcile import Action, Reconciled
from pgsplit.replication import events as listening
from pgsplit.replication.sync import built
from pgsplit.state.ledger import open_ledger

LATEST = 20
UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def _age(ctx: click.Context, param: click.Parameter, value: str | None) -> timedelta | None:
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,4})(h|d|w)", value.strip())
    if not found or not int(found[1]):
        raise click.BadParameter(f"{value!r} is no age such as 12h, 30d or 8w")
    return timedelta(**{UNITS[found[2]]: int(found[1])})


@click.command()
@one_service
@click.option("--of", "entity", default="", help="Of which shared table, if there are several.")
@click.option("--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option(
    "--since", type=click.IntRange(0), help="Those behind this sequence; the latest 20 otherwise."
)
@click.option("--keep", callback=_age, metavar="AGE", help="Set how long events are kept, as 30d.")
@json_option
def events(
    service: Service,
    entity: str,
    follow: bool,
    since: int | None,
    keep: timedelta | None,
    as_json: bool,
) -> None:
    """Show what happened to rows that SERVICE shares, in order.

    Each line is a created, updated or deleted row; --json prints one document a line.
    """
    connections, model = connect_project(), listening.inbox(service, entity)
    if keep is not None:
        listening.keep(service, connections, model, keep)
        out.print(
            f"{service.database} keeps its {model.entity} events for {_told(keep)} from now on."
        )
        return
    if since is None:
        removed_to, last = listening.bounds(service, connections, model)
        since = last if follow else max(last - LATEST, removed_to)
    if follow:
        with suppress(KeyboardInterrupt):
            _show(listening.follow(service, connections, model, since, Event()), as_json)
    else:
        count = _show(listening.read(service, connections, model, since), as_json)
        if not count and not as_json:
            print(f"{service.database} has had no event behind {since}.", file=sys.stderr)


def _told(age: timedelta) -> str:
    hours = age // timedelta(hours=1)
    return f"{hours // 24} days" if hours % 24 == 0 else f"{hours} hours"


def _show(found: Any, as_json: bool) -> int:
    """Print events as they come; give how many there were."""
    count = 0
    for sequence, event in found:
        count += 1
        if as_json:
            print(json.dumps({"sequence": sequence, **event}, ensure_ascii=False), flush=True)
            continue
        data = event["data"]
        said = f"{sequence:>8}  {event['timestamp'][:19]}  {event['type']}  {data['id']}"
        who = ", ".join(str(value) for key, value in data.items() if key != "id")
        print(printable(f"{said}  {who}"), flush=True)
    return count


@click.command()
@services_argument
@json_option
def parity(names: tuple[str, ...], as_json: bool) -> None:
    """Follow every reference of each SERVICE to another service's row, at one cut.

    Exits with 9 if one leads nowhere that had a foreign key in the monolith. Those that never had
    one are shown, too.
    """
    connections = connect_project()
    services = connections.project.select(names) if names else built(connections)
    with console.watching() as watcher, watcher.step("parity") as step:
        found = following.parity(services, connections, lambda one: step.say(one.role))
        step.say(f"{len(found.references)} references")
    if as_json:
        console.show_json({"references": [vars(one) for one in found.references]})
    else:
        show_parity(found)
    if error := following.difference(found):
        raise error


@click.command()
@services_argument
@click.option("--apply", is_flag=True, help="Do it, rather than say what would be done.")
@click.option(
    "--undo", type=int, metavar="N", help="Take back what was recorded under that number."
)
@json_option
def reconcile(names: tuple[str, ...], apply: bool, undo: int | None, as_json: bool) -> None:
    """Find what deletions have left behind in other services, and make up for it.

    What the monolith's key would have refused is taken back: the owner's row returns. What it would
    have emptied is emptied. Without --apply it is only said.
    """
    connections = connect_project()
    with open_ledger(connections) as ledger, console.watching() as watcher:
        if undo is not None:
            taken_back = reconciling.undo(undo, connections, ledger)
            done = None
        else:
            services = connections.project.select(names) if names else built(connections)
            with watcher.step("reconcile") as step:
                done = reconciling.reconcile(
                    services, connections, ledger, lambda one: step.say(one.role), apply=apply
                )
                step.say(f"{len(done.actions)} to make up for")
    if done is None:
        if as_json:
            console.show_json({"undone": vars(taken_back)})
        else:
            out.print(f"Taken back: {told(taken_back)}", markup=False, soft_wrap=True)
        return
    if as_json:
        console.show_json(
            {
                "actions": [vars(one) for one in done.actions],
                "helpless": [vars(one) for one in done.unrepairable],
                "applied": done.applied,
            }
        )
    else:
        show_reconciled(done, names)
    if done.unrepairable or (done.actions and not apply):
        sys.exit(9)


def show_parity(found: Parity) -> None:
    """Print references by pair of services, and the rows that lead nowhere."""
    rows = console.table("service", "refers to", ">references", ">orphans", ">never had a key")
    pairs: dict[tuple[str, str], list[Reference]] = {}
    for one in found.references:
        pairs.setdefault((one.service, one.owner), []).append(one)
    for (service, owner), references in pairs.items():
        errors = sum(one.orphans for one in references if one.had_key)
        warnings = sum(one.orphans for one in references if not one.had_key)
        rows.add_row(
            service,
            owner,
            str(len(references)),
            f"[red]{errors:,}[/]" if errors else "0",
            f"[yellow]{warnings:,}[/]" if warnings else "0",
        )
    out.print(rows)
    for one in found.broken:
        kind = "error" if one.had_key else "warning"
        out.print(
            f"{kind}: {one.orphans:,} of {one.service}.{one.table}.{one.column} not in"
            f" {one.owner_table}; all of them: table {one.stored_in}",
            markup=False,
            soft_wrap=True,
        )
        for row in one.samples:
            key, value = next(iter(row.values())), row[one.column]
            said = printable(f"    {key}: {value}")
            out.print(said, markup=False, soft_wrap=True)


def told(action: Action) -> str:
    """Say in a line what a compensation does."""
    if action.kind == "empty":
        return (
            f"empty {action.schema}.{action.table}.{action.column} of {len(action.rows):,} row(s)"
            f" in {action.place}"
        )
    keys = len(action.rows.get(action.table, {}))
    return f"restore {keys:,} row(s) of {action.place}.{action.table} that was deleted there"


def show_reconciled(done: Reconciled, names: tuple[str, ...]) -> None:
    """Print what deletions have left behind, and what was or would be done about it."""
    for number, action in enumerate(done.actions):
        did = f"{done.applied[number]}: " if done.applied else ""
        out.print(f"{did}{action.reference}: {told(action)}", markup=False, soft_wrap=True)
    for reference in done.unrepairable:
        out.print(
            f"{reference.service}.{reference.table}.{reference.column}: {reference.orphans:,}"
            f" row(s) refer to what {reference.owner}.{reference.owner_table} does not have, and no"
            " copy of it is kept: mend them by hand",
            markup=False,
            soft_wrap=True,
        )
    if not done.actions and not done.unrepairable:
        out.print("Nothing was left behind.")
    elif done.applied:
        out.print("Each can be taken back: ./runner.py reconcile --undo NUMBER")
    elif done.actions:
        out.print(f"To do it: ./runner.py reconcile {' '.join((*names, '--apply'))}")
