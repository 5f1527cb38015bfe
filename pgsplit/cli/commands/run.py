"""`run`: provisions, lands and builds services, in earnest or as a dry run."""

from __future__ import annotations

import re
import sys
from typing import Any

import rich_click as click

from pgsplit import rehearse
from pgsplit.base.errors import DataDiffers
from pgsplit.base.text import seconds, size
from pgsplit.cli import console
from pgsplit.cli.commands.up import note_opened
from pgsplit.cli.commands.verify import show_verified, verified_as_data
from pgsplit.cli.options import connect_project, json_option, services_argument
from pgsplit.cli.strange import warn_of_strange_files
from pgsplit.cli.throttling import Asked, throttle_options, throttled
from pgsplit.load import run
from pgsplit.load.run import RunReport, ServiceRun
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.rehearse import Rehearsal

# What dbt says of a parity test that has found rows.
ORPHANS = re.compile(r"([^:]+):\s*Got (\S+) ")


@click.command("run")
@services_argument
@click.option("--dry-run", is_flag=True, help="Run on a copy, verify it, throw it away.")
@click.option(
    "--backup",
    "with_backup",
    is_flag=True,
    help="Back the monolith up before each service's phase.",
)
@throttle_options
@json_option
def command(
    names: tuple[str, ...], dry_run: bool, with_backup: bool, asked: Asked, as_json: bool
) -> None:
    """Provision, land and build each SERVICE, in phase order.

    Finished steps are skipped: an interrupted run continues where it stopped.

    With --dry-run everything happens on a separate server with a copy of the monolith, is verified,
    and is thrown away. The monolith is only read. The exit code is what the real run's would be.
    """
    connections = connect_project()
    services = connections.project.select(names)
    if dry_run:
        _dry_run(services, connections, as_json)
        return
    warn_of_strange_files(services, connections)
    with console.watching() as watcher, throttled(connections, asked, watcher) as connections:
        report = run.run(services, connections, watcher, with_backup=with_backup)
    console.present(report, as_json, run_as_data, show_run)


def _dry_run(services: list[Service], connections: Connections, as_json: bool) -> None:
    try:
        with console.watching() as watcher:
            done = rehearse.rehearse(
                services, connections, watcher, rehearse.folder(connections.project)
            )
    except KeyboardInterrupt:
        console.err.print("stopped; the dry run's copy is deleted, and the monolith was only read")
        sys.exit(130)
    console.present(done, as_json, dry_run_as_data, show_dry_run)
    if not all(one.proven for one in done.verified):
        sys.exit(DataDiffers.exit_code)
    if done.stops:
        sys.exit(done.stops[0].exit_code)


def show_dry_run(done: Rehearsal) -> None:
    """Print a dry run's tables, what would stop the real run, and what became of the copy."""
    note_opened(done.opened)
    show_run(done.report, list_warnings="./runner.py analyze")
    show_verified(done.verified, thrown_away=True)
    for stop in done.stops:
        console.out.print("[bold red]The real run would stop at:[/]")
        console.say(str(stop))
    console.say(
        f"Dry run: production was only read. A copy of {done.rows:,} rows ({size(done.bytes)})"
        f" was made and thrown away, all in {seconds(done.seconds)}."
    )


def dry_run_as_data(done: Rehearsal) -> dict[str, Any]:
    """Give a dry run as plain data for `--json`."""
    return {
        **run_as_data(done.report),
        "verified": verified_as_data(done.verified)["services"],
        "real_run_would_stop_at": [stop.as_data() for stop in done.stops],
        "copied_rows": done.rows,
        "copied_bytes": done.bytes,
        "seconds": round(done.seconds, 3),
    }


def show_run(
    report: RunReport, *, list_warnings: str = "./runner.py psql SERVICE -xc 'table audit.NAME'"
) -> None:
    """Print the closing table of a run, then notes and warnings.

    Args:
        report: what the run did.
        list_warnings: the command that lists the rows of a warning.
    """
    rows = console.table("service", ">tables", ">rows in", ">rows out", "tests", ">seconds")
    for one in report.services:
        built = one.built
        rows.add_row(
            one.service.database,
            str(len(built.tables)),
            f"{sum(built.mirror.values()):,}",
            f"{sum(built.tables.values()):,}",
            ("[yellow]" if built.tests.warned else "[green]") + str(built.tests),
            f"{one.seconds:.1f}",
        )
    console.out.print(rows)
    console.show_notes(note for one in report.services for note in one.provisioned.notes)
    warned = sorted((r.service.role, w) for r in report.services for w in r.built.warnings)
    orphans = [(role, *found.groups()) for role, said in warned if (found := ORPHANS.match(said))]
    if orphans:
        console.say(
            "Warnings: references to rows that don't exist; the monolith has no foreign key",
            "for them. Their rows are kept. List them:",
            f"  {list_warnings}",
        )
        for role, name, count in orphans:
            console.say(f"  {role:<14}{count:>7}  {name}")
    console.show_warnings(f"{role}: {said}" for role, said in warned if not ORPHANS.match(said))


def run_as_data(report: RunReport) -> dict[str, Any]:
    """Give a run's report as plain data for `--json`."""
    return {
        "services": {one.service.database: _report_as_data(one) for one in report.services},
        "monolith_tests": vars(report.monolith),
        "seconds": round(report.seconds, 3),
    }


def _report_as_data(one: ServiceRun) -> dict[str, Any]:
    return {
        "created": one.provisioned.created,
        "landed": dict(one.landed.rows),
        "landed_bytes": one.landed.bytes,
        "landed_already": one.landed.already,
        "rows_in": one.built.mirror,
        "rows_out": one.built.tables,
        "tests": vars(one.built.tests),
        "warnings": one.built.warnings,
        "notes": list(one.provisioned.notes),
        "seconds": round(one.seconds, 3),
    }
