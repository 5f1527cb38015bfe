"""The phases of a migration: provision, land, build, and all of them in one run."""

from __future__ import annotations

from typing import Any

import click
from rich.markup import escape

from commands import json_option, services_argument
from migration import build as building
from migration import land as landing
from migration import provision as provisioning
from migration import run as running
from migration import screen
from migration.connections import resolve
from migration.ledger import open_ledger
from migration.run import Report, RunReport
from migration.services import Service, select


@click.command()
@services_argument
@click.option("--new-password", is_flag=True, help="Give each service's login a new password.")
@json_option
def provision(names: tuple[str, ...], new_password: bool, as_json: bool) -> None:
    """Make each SERVICE's database, owner role and login role.

    The login's URL is written to connections/SERVICE.env, for you alone to read. What exists is
    left as it is.
    """
    services, connections = select(names), resolve()
    with open_ledger(connections) as ledger:
        made = [
            provisioning.provision(service, connections, ledger, new_password=new_password)
            for service in services
        ]
    if as_json:
        screen.show_json(
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
    rows = screen.table("service", "database", "login")
    for one in made:
        was = "created" if one.created else "there already"
        rows.add_row(one.service.role, was, one.service.login)
    screen.out.print(rows)
    screen.out.print(f"Each login's URL is in {connections.folder}/SERVICE.env.", soft_wrap=True)
    screen.show_notes(note for one in made for note in one.notes)


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
    services, connections = select(names), resolve()
    with open_ledger(connections) as ledger, screen.watching() as watcher:
        landed = {}
        for service in services:
            with watcher.step(f"{service.role}: land") as step:
                how = (connections, ledger, step.copied)
                landed[service] = landing.land(service, *how, again=again)
    if as_json:
        screen.show_json({service.database: vars(one) for service, one in landed.items()})
        return
    rows = screen.table("service", ">tables", ">rows", ">copied", ">seconds")
    for service, one in landed.items():
        rows.add_row(
            service.database,
            str(len(one.rows)),
            f"{sum(one.rows.values()):,}",
            screen.size(one.bytes),
            "landed before" if one.already else f"{one.seconds:.1f}",
        )
    screen.out.print(rows)


@click.command()
@services_argument
@json_option
def build(names: tuple[str, ...], as_json: bool) -> None:
    """Build and test each SERVICE's tables with dbt."""
    services, connections = select(names), resolve()
    with open_ledger(connections) as ledger, screen.watching() as watcher:
        built: dict[Service, building.Built] = {}
        for service in services:
            with watcher.step(f"{service.role}: build and test") as step:
                built[service] = building.build(service, connections, ledger, step.finished_node)
    if as_json:
        screen.show_json(
            {
                service.database: {**vars(one), "tests": vars(one.tests)}
                for service, one in built.items()
            }
        )
        return
    rows = screen.table("service", ">tables", ">rows", "tests", ">seconds")
    for service, one in built.items():
        rows.add_row(
            service.database,
            str(len(one.tables)),
            f"{sum(one.tables.values()):,}",
            str(one.tests),
            f"{one.seconds:.1f}",
        )
    screen.out.print(rows)


@click.command()
@services_argument
@json_option
def run(names: tuple[str, ...], as_json: bool) -> None:
    """Provision, land and build each SERVICE, in phase order.

    What is done already is not done again: a run that was cut short goes on where it stood.
    """
    services, connections = select(names), resolve()
    with screen.watching() as watcher:
        report = running.run(services, connections, watcher)
    if as_json:
        screen.show_json(run_as_data(report))
    else:
        show_run(report)


def show_run(report: RunReport) -> None:
    """Print the closing table of a run, then what to know: warnings and notes."""
    rows = screen.table("service", ">tables", ">rows in", ">rows out", "tests", ">seconds")
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
    screen.out.print(rows)
    screen.show_notes(note for one in report.services for note in one.provisioned.notes)
    warned = sorted((r.service.role, w) for r in report.services for w in r.built.warnings)
    if warned:
        screen.out.print(
            "Warnings: references that the monolith never had a key for and that lead\n"
            "nowhere. Their rows are kept; ./runner.py psql SERVICE -xc 'table audit.NAME'"
        )
        for role, warning in warned:
            name, _, rest = warning.partition(":")
            found = rest.strip().split(" ")[1] if rest.strip().startswith("Got ") else "?"
            screen.out.print(f"  {role:<14}{found:>7}  {escape(name)}", soft_wrap=True)


def run_as_data(report: RunReport) -> dict[str, Any]:
    """Give a run's report as plain data for `--json`."""
    return {
        "services": [_report_as_data(one) for one in report.services],
        "monolith_tests": vars(report.monolith),
        "seconds": round(report.seconds, 3),
    }


def _report_as_data(one: Report) -> dict[str, Any]:
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
