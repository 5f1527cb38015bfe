"""The phases of a migration: provision, land, build, and all of them in one run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from pgsplit import rehearse as rehearsing
from pgsplit.base.errors import DataDiffers
from pgsplit.base.text import seconds, size
from pgsplit.cli import connect_project, console, json_option, services_argument
from pgsplit.cli.proof import show_verified, verified_as_data
from pgsplit.load import build as building
from pgsplit.load import land as landing
from pgsplit.load import provision as provisioning
from pgsplit.load import run as running
from pgsplit.load.run import RunReport, ServiceRun
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.rehearse import Rehearsal
from pgsplit.state.ledger import open_ledger


@click.command()
@services_argument
@click.option("--new-password", is_flag=True, help="Give each service's login a new password.")
@json_option
def provision(names: tuple[str, ...], new_password: bool, as_json: bool) -> None:
    """Make each SERVICE's database, owner role and login role.

    The login's URL is written to connections/SERVICE.env, for you alone to read. What exists is
    left as it is.
    """
    connections = connect_project()
    services = connections.project.select(names)
    with open_ledger(connections) as ledger:
        made = [
            provisioning.provision(service, connections, ledger, new_password=new_password)
            for service in services
        ]
    if as_json:
        console.show_json(
            {
                one.service.database: {
                    "created": one.created,
                    "file": one.connection_file,
                    "notes": one.notes,
                }
                for one in made
            }
        )
        return
    rows = console.table("service", "database", "login")
    for one in made:
        was = "created" if one.created else "there already"
        rows.add_row(one.service.role, was, one.service.login)
    console.out.print(rows)
    console.out.print(f"Each login's URL is in {connections.folder}/SERVICE.env.", soft_wrap=True)
    console.show_notes(note for one in made for note in one.notes)


@click.command()
@services_argument
@click.option("--again", is_flag=True, help="Copy anew what has landed before.")
@json_option
def land(names: tuple[str, ...], again: bool, as_json: bool) -> None:
    """Copy into each SERVICE's mirror what it owns or may see.

    One instant of the living monolith, and a replication slot that begins just there. --again is
    for when that slot was lost: the mirror is copied anew, and the service's tables, which stay,
    are compared with it by the next build.
    """
    connections = connect_project()
    services = connections.project.select(names)
    with open_ledger(connections) as ledger, console.watching() as watcher:
        landed = {}
        for service in services:
            with watcher.step(f"{service.role}: land") as step:
                how = (connections, ledger, step.copied)
                landed[service] = landing.land(service, *how, again=again)
    if as_json:
        console.show_json({service.database: vars(one) for service, one in landed.items()})
        return
    rows = console.table("service", ">tables", ">rows", ">copied", ">seconds")
    for service, one in landed.items():
        rows.add_row(
            service.database,
            str(len(one.rows)),
            f"{sum(one.rows.values()):,}",
            size(one.bytes),
            "landed before" if one.already else f"{one.seconds:.1f}",
        )
    console.out.print(rows)


@click.command()
@services_argument
@json_option
def build(names: tuple[str, ...], as_json: bool) -> None:
    """Build and test each SERVICE's tables with dbt."""
    connections = connect_project()
    services = connections.project.select(names)
    with open_ledger(connections) as ledger, console.watching() as watcher:
        built: dict[Service, building.Built] = {}
        for service in services:
            with watcher.step(f"{service.role}: build and test") as step:
                built[service] = building.build(service, connections, ledger, step.finished_node)
    if as_json:
        console.show_json(
            {
                service.database: {**vars(one), "tests": vars(one.tests)}
                for service, one in built.items()
            }
        )
        return
    rows = console.table("service", ">tables", ">rows", "tests", ">seconds")
    for service, one in built.items():
        rows.add_row(
            service.database,
            str(len(one.tables)),
            f"{sum(one.tables.values()):,}",
            str(one.tests),
            f"{one.seconds:.1f}",
        )
    console.out.print(rows)


@click.command()
@services_argument
@click.option("--dry-run", is_flag=True, help="Do it to a copy, prove it, throw it away.")
@json_option
def run(names: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Provision, land and build each SERVICE, in phase order.

    What is done already is not done again: a run that was cut short goes on where it stood.

    With --dry-run all of it is done, and verified, on a server of its own with a copy of the
    monolith, and thrown away. The monolith is only read. The exit code is what the real run's
    would be.
    """
    connections = connect_project()
    services = connections.project.select(names)
    if dry_run:
        _dry_run(services, connections, as_json)
        return
    with console.watching() as watcher:
        report = running.run(services, connections, watcher)
    if as_json:
        console.show_json(run_as_data(report))
    else:
        show_run(report)


def _dry_run(services: list[Service], connections: Connections, as_json: bool) -> None:
    try:
        with console.watching() as watcher:
            done = rehearsing.rehearse(
                services, connections, watcher, rehearsing.folder(connections.project)
            )
    except KeyboardInterrupt:
        console.err.print("stopped; the dry run's copy is thrown away, the monolith was only read")
        sys.exit(130)
    if as_json:
        console.show_json(dry_run_as_data(done))
    else:
        show_dry_run(done)
    if not all(one.proven for one in done.verified):
        sys.exit(DataDiffers.exit_code)
    if done.stops:
        sys.exit(done.stops[0].exit_code)


def show_dry_run(done: Rehearsal) -> None:
    """Print a dry run's tables, what would stop the real run, and what became of the copy."""
    console.show_notes(map(note_opened, done.opened))
    show_run(done.report, thrown_away=True)
    show_verified(done.verified, thrown_away=True)
    for stop in done.stops:
        console.out.print("[bold red]The real run would stop at:[/]")
        console.out.print(str(stop), markup=False, soft_wrap=True)
    console.out.print(
        f"Dry run: production was only read. A copy of {done.rows:,} rows"
        f" ({size(done.bytes)}) was made and thrown away; all of it took"
        f" {seconds(done.seconds)}.",
        soft_wrap=True,
    )


def dry_run_as_data(done: Rehearsal) -> dict[str, Any]:
    """Give a dry run as plain data for `--json`."""
    return {
        **run_as_data(done.report),
        "verified": {one.service.database: verified_as_data(one) for one in done.verified},
        "real_run_would_stop_at": [stop.as_data() for stop in done.stops],
        "copied_rows": done.rows,
        "copied_bytes": done.bytes,
        "seconds": round(done.seconds, 3),
    }


def note_opened(folder: Path) -> str:
    """Say that the embedded server's start has opened a folder above it."""
    return f"{folder} now lets the server's account pass through (chmod o+x)"


def show_run(report: RunReport, *, thrown_away: bool = False) -> None:
    """Print the closing table of a run, then what to know: warnings and notes."""
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
    if warned:
        listed = "./runner.py psql SERVICE -xc 'table audit.NAME'"
        console.out.print(
            "Warnings: references that the monolith never had a key for and that lead\n"
            f"nowhere. Their rows are kept; {'./runner.py analyze' if thrown_away else listed}"
        )
        for role, warning in warned:
            name, _, rest = warning.partition(":")
            found = rest.strip().split(" ")[1] if rest.strip().startswith("Got ") else "?"
            console.out.print(f"  {role:<14}{found:>7}  {escape(name)}", soft_wrap=True)


def run_as_data(report: RunReport) -> dict[str, Any]:
    """Give a run's report as plain data for `--json`."""
    return {
        "services": [_report_as_data(one) for one in report.services],
        "monolith_tests": vars(report.monolith),
        "seconds": round(report.seconds, 3),
    }


def _report_as_data(one: ServiceRun) -> dict[str, Any]:
    return {
        "service": one.service.database,
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
