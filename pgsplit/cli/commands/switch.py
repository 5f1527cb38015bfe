"""`switch`: makes a service's own database the source of truth."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import rich_click as click

from pgsplit.backup.dump import can_dump
from pgsplit.base.text import seconds
from pgsplit.cli import console
from pgsplit.cli.console import out
from pgsplit.cli.options import (
    Duration,
    connect_project,
    dry_run,
    json_option,
    max_pause,
    no_backup,
    one_service,
)
from pgsplit.cutover import switch
from pgsplit.cutover.complete import Completed
from pgsplit.cutover.moved import Moved
from pgsplit.cutover.preflight import PreflightReport
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.routing import env_file
from pgsplit.routing.env_file import Side
from pgsplit.state.ledger import open_ledger

ROUTED = "connections/{role}.env has changed; restart whatever reads it only at start."


@click.command("switch")
@one_service
@dry_run
@click.option(
    "--reads", is_flag=True, help="Move only reads; the monolith stays the source of truth."
)
@max_pause
@click.option(
    "--wait-for-write",
    type=Duration(least=0.0),
    default="1s",
    show_default=True,
    help="How long to wait for the first write, to measure the pause; 0 means not at all.",
)
@no_backup
@json_option
def command(
    service: Service,
    dry_run: bool,
    reads: bool,
    max_pause: float,
    wait_for_write: float,
    no_backup: bool,
    as_json: bool,
) -> None:
    """Make SERVICE's own database the source of truth.

    No write is lost: writers are blocked for a moment, their last changes are applied, and
    connections/SERVICE.env gets the URL of the service's database. From then on the service's
    writes are replicated back to the monolith, so that a rollback is possible at any time.
    """
    connections = connect_project()
    if not no_backup and not reads:
        can_dump(connections.monolith, connections)
    with (
        open_ledger(connections) as ledger,
        console.watching() as watcher,
        watcher.step(f"{service.role}: {'check' if dry_run else 'switch'}") as step,
    ):
        if dry_run:
            report = switch.check(
                service, "switch", connections, ledger, step.say, with_backup=not no_backup
            )
        elif reads:
            warning = switch.move_reads(service, connections, ledger, Side.SERVICE)
        else:
            moved = switch.switch(
                service,
                connections,
                ledger,
                max_pause,
                step.say,
                with_backup=not no_backup,
                wait_for_write=wait_for_write,
            )
            step.say(pause(moved))
    if dry_run:
        show_ready(service, "switch", report, as_json)
    elif reads:
        show_reads(service, connections, warning, as_json)
    else:
        console.present(moved, as_json, as_data, show_moved)


def as_data(done: Moved | Completed) -> dict[str, Any]:
    """Give what a cutover or a completion did as plain data for `--json`."""
    database, dump = done.service.database, done.backup
    warnings = [console.named(warning) for warning in done.warnings]
    data = {"service": database, "backup": dump and vars(dump), "warnings": warnings}
    return {"services": {database: {**vars(done), **data}}}


def pause(moved: Moved) -> str:
    """Give how long writes were paused, in few words."""
    return "" if moved.paused_seconds is None else f"paused {moved.paused_seconds * 1000:,.0f} ms"


def show_moved(moved: Moved) -> None:
    """Print the result of a switch or a rollback."""
    is_switch = moved.operation == "switch"
    source = moved.service.database if is_switch else "The monolith"
    out.print(f"[bold]{source}[/] is now the source of truth for {moved.service.holds}.")
    if moved.paused_seconds is not None and moved.closed_at and moved.opened_at:
        console.say(
            f"Writes were paused for {moved.paused_seconds * 1000:,.0f} ms,"
            f" from {_clock(moved.closed_at)} to {_clock(moved.opened_at)} UTC."
        )
    if moved.gap_seconds is not None:
        gap = f"{moved.gap_seconds * 1000:,.0f} ms"
        console.say(f"The first write here came {gap} after the last write there.")
    elif is_switch:
        console.say("No write has come yet.")
    role = moved.service.role
    console.say(ROUTED.format(role=role))
    console.show_notes(moved.quarantined)
    if moved.backup:
        console.show_notes(moved.backup.notes)
    console.show_warnings(moved.warnings)
    if is_switch:
        console.say(
            "The monolith gets its writes while a follower runs:",
            f"  ./runner.py sync {role} --follow",
            f"  ./runner.py rollback {role}   to go back, at any time",
            f"  ./runner.py complete {role}   when it has proven itself",
        )


def show_ready(service: Service, operation: str, report: PreflightReport, as_json: bool) -> None:
    """Print that a cutover would be possible now, and how long replication takes."""
    if as_json:
        console.show_json({"services": {service.database: {"ready": True, **report.as_data()}}})
        return
    target, tested = "the monolith", ""
    if operation == "switch":
        rows = "; ".join(f"{name}, {rows}" for name, rows in report.tried.items())
        target, tested = "its mirror", f"; reverse replication was tested on {rows}"
    out.print(
        f"{service.database} is ready: a write reaches {target} in {seconds(report.lag_seconds)},"
        f" a sync takes {seconds(report.sync_seconds)}{tested}. Nothing was changed.",
        markup=False,
    )


def show_reads(service: Service, connections: Connections, warning: str, as_json: bool) -> None:
    """Print which side a service's readers are routed to now."""
    side = env_file.sides(service, connections)[0]
    if as_json:
        said = {"reads_at": side.value, "warning": console.named(warning)}
        console.show_json({"services": {service.database: said}})
        return
    where = service.database if side is Side.SERVICE else "the monolith"
    out.print(f"{service.role} now reads from {where}; it writes to the monolith as before.")
    if warning:
        console.show_warnings([warning])
    if side is Side.SERVICE:
        console.say("Keep it current:", f"  ./runner.py sync {service.role} --follow")


def _clock(moment: datetime) -> str:
    moment = moment.astimezone(timezone.utc)
    return f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}"
