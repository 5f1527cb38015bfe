"""`report`: writes a page about what was done, for the change ticket."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import rich_click as click

from pgsplit.cli import console
from pgsplit.cli.options import connect_project, json_option, services_argument
from pgsplit.observe import history, pages, verdict
from pgsplit.observe.history import Report
from pgsplit.observe.pages import account as account_page


@click.command("report")
@services_argument
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="Write the page to FILE.",
)
@click.option("--ticket", metavar="TEXT", default="", help="The change ticket that it is for.")
@json_option
def command(names: tuple[str, ...], html: Path, ticket: str, as_json: bool) -> None:
    """Write a page about each SERVICE, for the change ticket.

    It shows what moved, how long it took, how tests and verification ended, and the ledger. The
    page is one file and needs no network. A line says whether the next operation is a go by what is
    recorded; its --dry-run asks the servers. With --json the data is printed instead.
    """
    connections = connect_project()
    services = connections.project.select(names)
    if as_json:
        found = history.report(services, connections, ticket)
        console.show_json(report_as_data(found))
        return
    pages.check_writable(html)
    found = history.report(services, connections, ticket)
    pages.write(html, account_page.page(found, tuple(connections.project.services)))
    for one in found.accounts:
        last = one.latest
        said = f"{last.step} {last.outcome or 'interrupted, or running'}" if last else "nothing yet"
        console.say(f"{one.service.database:<18}{one.state.value:<13}last: {said}")
    console.say(verdict.summary(found), f"The page is {html}.")


def report_as_data(found: Report) -> dict[str, Any]:
    """Give a report as plain data for `--json`."""
    data = asdict(found, dict_factory=_without_project)
    accounts = {one["service"]["database"]: one for one in data.pop("accounts")}
    for one in found.accounts:
        judged = verdict.verdict(one, found.made_at)
        said = {"operation": judged.operation, "go": judged.go, "reasons": judged.reasons}
        accounts[one.service.database]["verdict"] = said
    return {**data, "verdict": verdict.summary(found), "services": accounts}


def _without_project(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """Leave out of each service which project it belongs to."""
    return {key: value for key, value in items if key != "project"}
