"""`check`: asks all servers, before anything is made, what a split will need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import rich_click as click
from rich.text import Text

from pgsplit.cli import console
from pgsplit.cli.console import out
from pgsplit.cli.options import connect_project, json_option, services_argument
from pgsplit.cli.wrapping import wrap
from pgsplit.observe.check.places import Finding
from pgsplit.observe.check.run import Checked, check

MARKS = {"ok": ("ok", "green"), "missing": ("no", "bold red"), "note": ("!", "yellow")}


@click.command("check")
@services_argument
@json_option
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Ask all servers for what splitting each SERVICE will ever need.

    Versions, settings, rights, room, programs, and whether servers reach each other, before
    anything is made. Prints what was found, and for each server one block of statements to paste.
    Exits with 3 if a server can't be reached, and with 4 if something is missing.
    """
    connections = connect_project()
    found = check(connections.project.select(names), connections)
    error = found.error()
    if as_json:
        code = error.exit_code if error else 0
        console.show_json(as_data(found) | {"exit_code": code})
        ctx.exit(code)
    show(found)
    if error:
        raise error


def as_data(found: Checked) -> dict[str, Any]:
    """Give what was found as plain data for `--json`."""
    return {
        "is_ready": not found.missing,
        "seconds": found.seconds,
        "servers": [
            {
                "server": place.name,
                "login": place.user,
                "provider": place.provider.name,
                "version": place.version,
                "databases": place.targets,
                "findings": [_finding(one) for one in place.findings],
                "psql": psql,
                "statements": place.statements(),
            }
            for place, psql in zip(found.servers, found.psql, strict=True)
        ],
        "machine": [_finding(one) for one in found.machine],
    }


def _finding(one: Finding) -> dict[str, Any]:
    need = one.need
    return {
        "what": need.name,
        "database": one.database,
        "for": one.purpose,
        "found": need.found,
        "needed": need.needed,
        "state": one.state,
        "problem": "" if need.ok else need.problem,
        "hint": "" if need.ok else need.hint,
        "sql": "" if need.ok else need.sql,
    }


def show(found: Checked) -> None:
    """Print a table for each server, what else to do, and the statements to paste."""
    for place in found.servers:
        kind = f"{place.provider.name} {place.version}" if place.version else "not asked"
        console.say(f"{place.name} as {place.user}: {kind}")
        console.say(wrap(", ".join(map(place.shown, place.targets)), out.width, "  ", "  "))
        _table(place.findings)
    console.say("this machine")
    _table(found.machine)
    _show_rest(found)
    for state, title in (("missing", ""), ("note", "worth having; ")):
        for place, psql in zip(found.servers, found.psql, strict=True):
            if lines := place.statements(state):
                who = f"[bold]{place.name}[/]: {title}as {place.provider.admin}, paste into"
                out.print(who, highlight=False)
                console.say(psql, "", *lines, "")
    if not found.missing:
        console.say(f"Nothing is missing. {len(found.findings)} things were asked.")


def _table(findings: list[Finding] | Any) -> None:
    rows = console.table(" ", "what", "found", "needed")
    shown = set()
    for one in findings:
        mark, style = MARKS[one.state]
        line = (mark, one.need.name, one.need.found, one.need.needed, one.database)
        if line not in shown:
            shown.add(line)
            rows.add_row(Text(mark, style=style), one.need.name, one.need.found, one.need.needed)
    out.print(rows)


def _show_rest(found: Checked) -> None:
    """Say, server by server, what no statement fixes, and what is worth knowing."""
    places: list[tuple[str, Sequence[Finding], Callable[[str], list[str]]]] = [
        *((place.name, place.findings, place.statements) for place in found.servers),
        ("this machine", found.machine, lambda state: []),
    ]
    for state, title in (("missing", "To do"), ("note", "Worth knowing")):
        for name, findings, statements in places:
            pasted = statements(state)
            lines = dict.fromkeys(
                (one.need.problem, "" if one.need.sql in pasted else one.need.hint)
                for one in findings
                if one.state == state and one.need.problem
                if state == "note" or one.need.sql not in pasted
            )
            if lines:
                console.say(f"{title}, {name}:")
            for problem, hint in lines:
                console.say(wrap(f"- {problem}", out.width, "  ", "    "))
                if hint:
                    console.say(*(f"    {line}" for line in hint.splitlines()))
            if lines:
                console.say("")
