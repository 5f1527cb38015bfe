"""`analyze`: shows what is in the monolith and what a split would break."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import rich_click as click
from rich.text import Text

from pgsplit.base.text import printable, size
from pgsplit.cli import console
from pgsplit.cli.console import out
from pgsplit.cli.options import connect_project, current_project, json_option
from pgsplit.cli.throttling import Asked, throttle_options, throttled
from pgsplit.observe import analyze, pages
from pgsplit.observe.analyze import Analysis, Group, Table
from pgsplit.observe.pages import analysis as analysis_page

STYLES = {"blocks": "bold red", "changes behaviour": "bold yellow", "note": "bold"}


@click.command("analyze")
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Also write a page with pictures to FILE.",
)
@throttle_options
@json_option
def command(html: Path | None, asked: Asked, as_json: bool) -> None:
    """Show what is in the monolith and what a split would break.

    Lists tables by service, references that cross services, rows that refer to nothing, and all
    that blocks the split or changes behaviour, with what to do. It only reads: a login with SELECT
    is enough, and no service needs to exist.
    """
    connections = connect_project()
    if html:
        pages.check_writable(html)
    with (
        console.watching() as watcher,
        throttled(connections, asked, watcher) as connections,
        watcher.step("monolith: analyze") as step,
    ):
        analysis = analyze.analyze(connections, step.finished_node)
    if html:
        pages.write(html, analysis_page.page(analysis, tuple(connections.project.services)))
    console.present(analysis, as_json, analyze.as_data, show_analysis)
    if html and not as_json:
        console.say(f"The page is {html}.")


def show_analysis(analysis: Analysis) -> None:
    """Print tables, references across services, and findings, the worst first."""
    _show_tables(analysis.tables)
    _show_sums(analysis)
    out.print("Rows are the planner's estimates; sizes include indexes.")
    crossing = sum(one.crosses for one in analysis.references)
    out.print(f"{crossing} of {len(analysis.references)} references cross services.")
    for group in analyze.grouped(analysis.findings):
        _show_group(group)
    if not analysis.findings:
        out.print("The split breaks nothing that this analysis looks for.")


def _show_tables(tables: Sequence[Table]) -> None:
    rows = console.table("service", "table", ">rows", ">size")
    owner: str | None = ""
    for one in tables:
        if one.is_there:
            estimate = "?" if one.rows_estimate is None else f"{one.rows_estimate:,}"
            shown = Text("" if one.owner == owner else one.owner or "nobody")
            name = Text(printable(one.table_name), overflow="fold")
            rows.add_row(shown, name, estimate, size(one.bytes or 0))
            owner = one.owner
    out.print(rows)


def _show_sums(analysis: Analysis) -> None:
    sums = console.table("service", ">rows", ">size", ">refers across", ">is referred to")
    across = [one for one in analysis.references if one.crosses]
    services = tuple(current_project().services)
    for name, total in analyze.by_owner(analysis.tables, services).items():
        sums.add_row(
            name,
            f"{total.rows_estimate:,}",
            size(total.bytes or 0),
            str(sum(one.owner == total.owner for one in across)),
            str(sum(one.target_owner == total.owner for one in across)),
        )
    out.print(sums)


def _show_group(group: Group) -> None:
    head = Text.assemble(
        "\n", (f"{group.severity}: ", STYLES[group.severity]), (group.hazard, "bold")
    )
    out.print(head + Text(f" ({len(group.findings)})" if len(group.findings) > 1 else ""))
    console.indent(group.means, 2)
    for one, following in zip_longest(group.findings, group.findings[1:]):
        console.indent(f"{one.object}: {one.found}", 4)
        if not following or one.mend != following.mend:
            console.indent(console.named(one.mend), 6, "dim")
