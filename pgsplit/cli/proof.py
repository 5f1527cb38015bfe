"""What is known, what can be proven, and what was done: analyze, verify, report."""

from __future__ import annotations

import sys
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from pgsplit.base.errors import DataDiffers
from pgsplit.base.text import printable, size
from pgsplit.cli import connect_project, console, current_project, json_option, services_argument
from pgsplit.cli.console import out
from pgsplit.observe import analyze as analyzing
from pgsplit.observe import history as reporting
from pgsplit.observe import pages
from pgsplit.observe.analyze import Analysis, Group
from pgsplit.observe.pages import account as account_page
from pgsplit.observe.pages import analysis as analysis_page
from pgsplit.postgres.row_diff import Comparison, Sample
from pgsplit.prove import verify as verifying
from pgsplit.prove.verify import Verified
from pgsplit.replication import sync as syncing
from pgsplit.state.ledger import open_ledger

MOST_CHARACTERS = 60
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
    connections = connect_project()
    if html:
        pages.check_writable(html)
    with console.watching() as watcher, watcher.step("monolith: analyze") as step:
        analysis = analyzing.analyze(connections, step.finished_node)
    if html:
        pages.write(html, analysis_page.page(analysis, tuple(connections.project.services)))
    if as_json:
        console.show_json(analyzing.as_data(analysis))
        return
    show_analysis(analysis)
    if html:
        out.print(f"The page is {html}.", markup=False, soft_wrap=True)


def show_analysis(analysis: Analysis) -> None:
    """Print tables, references across services, and findings, the worst first."""
    rows = console.table("service", "table", ">rows", ">size")
    owner: str | None = ""
    for one in analysis.tables:
        if one.is_there:
            estimate = "?" if one.rows_estimate is None else f"{one.rows_estimate:,}"
            shown = Text("" if one.owner == owner else one.owner or "nobody")
            rows.add_row(shown, _text(one.table_name), estimate, size(one.bytes or 0))
            owner = one.owner
    out.print(rows)
    sums = console.table("service", ">rows", ">size", ">refers across", ">is referred to")
    for name, total in analyzing.by_owner(
        analysis.tables, tuple(current_project().services)
    ).items():
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


@click.command()
@services_argument
@click.option("--table", help="Compare this table only.")
@json_option
def verify(names: tuple[str, ...], table: str | None, as_json: bool) -> None:
    """Prove row by row that each SERVICE holds what the monolith yields.

    The models' SQL is run on the monolith itself and compared with the service's tables by hashes;
    only rows that differ are looked into. Both may be in use meanwhile. Without a name it is every
    service that has been built. Exits with 9 if a row differs.
    """
    connections = connect_project()
    services = connections.project.select(names) if names else syncing.built(connections)
    verified = []
    with open_ledger(connections) as ledger, console.watching() as watcher:
        for service in services:
            with watcher.step(f"{service.role}: verify") as step:
                found = verifying.verify(service, connections, ledger, table, step.say)
                rows = sum(one.rows for one in found.tables.values())
                if found.proven:
                    step.say(f"{rows:,} rows")
                else:
                    step.fail(found.complaint)
                verified.append(found)
    if as_json:
        console.show_json({one.service.database: verified_as_data(one) for one in verified})
    else:
        show_verified(verified)
    if not all(one.proven for one in verified):
        sys.exit(DataDiffers.exit_code)


def verified_as_data(verified: Verified) -> dict[str, Any]:
    """Give a verification as plain data for `--json`."""
    return {
        "proven": verified.proven,
        "seconds": round(verified.seconds, 3),
        "proven_by_a_run_cut_short": verified.earlier,
        "tables": {
            name: {"identical": found.identical, **asdict(found)}
            for name, found in verified.tables.items()
        },
    }


def show_verified(verified: list[Verified], *, thrown_away: bool = False) -> None:
    """Print how tables were found, then what differs, with samples."""
    rows = console.table("table", ">rows", ">identical", ">modified", ">missing", ">extra", ">sec")
    for one in verified:
        rows.add_row(f"[bold]{one.service.database}[/]")
        for name, found in one.tables.items():
            figures = (found.modified, found.missing, found.extra)
            rows.add_row(
                f"  {name}",
                f"{found.rows:,}",
                f"{found.identical:,}",
                *(f"[bold red]{n:,}[/]" if n else "0" for n in figures),
                "before" if name in one.earlier else f"{found.seconds:.2f}",
            )
    out.print(rows)
    for one in verified:
        for name, found in one.tables.items():
            if not found.proven:
                qualified = name if "." in name else f"{one.service.database}.{name}"
                _show_differences(qualified, found)
    for one in verified:
        if one.earlier:
            out.print(
                f"note: {one.service.role}: a verification that was cut short had proven"
                f" {', '.join(one.earlier)} already; they were not compared again."
            )
    differing = [one for one in verified if _differs(one)]
    unsettled = [one.service.role for one in verified if not one.proven and not _differs(one)]
    if differing and thrown_away:
        out.print("[bold red]Not proven.[/] The rows named differ from what the monolith yields.")
    elif differing:
        out.print("[bold red]Not proven.[/] Nothing was changed; what copies and compares anew is:")
        for one in differing:
            role = one.service.role
            if one.is_switched:
                out.print(f"  ./runner.py repair {role} --anew")
                out.print(f"  ./runner.py verify {role}")
                continue
            out.print(f"  ./runner.py land {role} --again && ./runner.py run {role}")
            out.print(f"  ./runner.py verify {role}")
    elif unsettled:
        out.print("Not proven: verify again when the rows named above are at rest.")
    else:
        total = sum(found.rows for one in verified for found in one.tables.values())
        out.print(f"[green]Proven:[/] {total:,} rows are what {_truth(verified)}.")


def _truth(verified: list[Verified]) -> str:
    """Name who was right in a comparison."""
    is_any_switched = any(one.is_switched for one in verified)
    return "their owners yield" if is_any_switched else "the monolith yields"


def _differs(verified: Verified) -> bool:
    return any(found.differing for found in verified.tables.values())


def _show_differences(name: str, found: Comparison) -> None:
    out.print(f"[bold]{escape(name)}[/]")
    if found.columns:
        counts = ", ".join(f"{column} {n:,}" for column, n in found.columns.items())
        _indent(f"modified columns: {counts}", 2)
    for sample in found.samples:
        _show_sample(sample)
    shown = len(found.samples)
    if found.differing > shown:
        _indent(f"and {found.differing - shown:,} rows more", 2)
    if found.seen_once:
        _indent(f"{found.seen_once:,} of them were too many to be read again", 2)
    if found.unsettled:
        _indent(f"{found.unsettled:,} rows changed faster than they could be read", 2)


def _show_sample(sample: Sample) -> None:
    _indent(f"{sample.kind} {sample.key}", 2)
    if sample.kind == "modified":
        for column, (expected, actual) in sample.values.items():
            _indent(f"{column}: {_value(expected)} is expected, {_value(actual)} is there", 4)


def _value(text: str | None) -> str:
    if text is None:
        return "null"
    return repr(text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "…")


def _plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """Leave out of each service which project it is of."""
    return {key: value for key, value in items if key != "project"}


@click.command()
@services_argument
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="Where the page goes.",
)
@json_option
def report(names: tuple[str, ...], html: Path, as_json: bool) -> None:
    """Write what was done for each SERVICE as a page, for the change ticket.

    What moved, how long it took, how the tests and the verification ended, and the ledger. The page
    is one file that needs no network. With --json it is printed as data instead.
    """
    connections = connect_project()
    services = connections.project.select(names)
    if as_json:
        console.show_json(asdict(reporting.report(services, connections), dict_factory=_plain))
        return
    pages.check_writable(html)
    found = reporting.report(services, connections)
    pages.write(html, account_page.page(found, tuple(connections.project.services)))
    for one in found.accounts:
        last = one.latest
        said = (
            f"{last.step} {last.outcome or 'interrupted, or under way'}" if last else "nothing yet"
        )
        out.print(f"{one.service.database:<18}{one.state.value:<13}last: {said}", markup=False)
    out.print(f"The page is {html}.", markup=False, soft_wrap=True)
