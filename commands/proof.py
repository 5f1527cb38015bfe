"""What is known and what can be shown: analyze."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import click
from rich.padding import Padding
from rich.text import Text

from commands import json_option
from migration import analyze as analyzing
from migration import pages, screen
from migration.analyze import Analysis, Group
from migration.connections import resolve
from migration.pages import analysis as analysis_page
from migration.screen import out, printable, size
from migration.services import SERVICES

STYLES = {"blocks": "bold red", "changes behaviour": "bold yellow", "note": "bold"}


@click.command()
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write it as a page, with pictures, to FILE.",
)
@json_option
def analyze(html: Path | None, as_json: bool) -> None:
    """Tell what is in the monolith, and what would hurt when it is split.

    Tables by service, references that cross services, rows that refer to nothing, and everything
    that blocks the split or changes behaviour by it, with what to do. Only reads; a login that may
    SELECT is enough, and no service needs to exist.
    """
    connections = resolve()
    if html:
        pages.check_writable(html)
    with screen.watching() as watcher, watcher.step("monolith: analyze") as step:
        analysis = analyzing.analyze(connections, step.finished_node)
    if html:
        pages.write(html, analysis_page.page(analysis))
    if as_json:
        screen.show_json(analyzing.as_data(analysis))
        return
    show_analysis(analysis)
    if html:
        out.print(f"The page is {html}.", markup=False, soft_wrap=True)


def show_analysis(analysis: Analysis) -> None:
    """Print tables, references across services, and findings, the worst first."""
    rows = screen.table("service", "table", ">rows", ">size")
    owner: str | None = ""
    for one in analysis.tables:
        if one.is_there:
            estimate = "?" if one.rows_estimate is None else f"{one.rows_estimate:,}"
            shown = Text("" if one.owner == owner else one.owner or "nobody")
            rows.add_row(shown, _text(one.table_name), estimate, size(one.bytes or 0))
            owner = one.owner
    out.print(rows)
    sums = screen.table("service", ">rows", ">size", ">refers across", ">is referred to")
    for name, total in analyzing.by_owner(analysis.tables, SERVICES).items():
        across = [one for one in analysis.references if one.crosses]
        sums.add_row(
            name,
            f"{total.rows_estimate:,}",
            size(total.bytes or 0),
            str(sum(one.owner == total.owner for one in across)),
            str(sum(one.target_owner == total.owner for one in across)),
        )
    out.print(sums)
    out.print("Rows are the planner's estimates; sizes are with indexes.")
    crossing = sum(one.crosses for one in analysis.references)
    out.print(f"{crossing} of {len(analysis.references)} references cross services.")
    for group in analyzing.grouped(analysis.findings):
        _show_group(group)
    if not analysis.findings:
        out.print("Nothing that would hurt was found.")


def _show_group(group: Group) -> None:
    head = Text.assemble(
        "\n", (f"{group.severity}: ", STYLES[group.severity]), (group.hazard, "bold")
    )
    out.print(head + Text(f" ({len(group.findings)})" if len(group.findings) > 1 else ""))
    _indent(group.means, 2)
    for one, following in zip_longest(group.findings, group.findings[1:]):
        _indent(f"{one.object}: {one.found}", 4)
        if not following or one.mend != following.mend:
            _indent(one.mend, 6, "dim")


def _indent(said: str, by: int, style: str = "") -> None:
    out.print(Padding(_text(said, style), (0, 0, 0, by), expand=False))


def _text(said: str, style: str = "") -> Text:
    return Text(printable(said), style=style, overflow="fold")
