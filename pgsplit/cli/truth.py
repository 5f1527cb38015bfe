"""Moving the truth: switch, rollback, complete, abort, resume, and the history of it all."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import click
from rich.markup import escape

from pgsplit.base.errors import NotReady
from pgsplit.base.text import seconds
from pgsplit.cli import connect_project, console, json_option, one_service, services_argument
from pgsplit.cli.console import out
from pgsplit.cutover import complete as completing
from pgsplit.cutover import repair as repairing
from pgsplit.cutover import resume as resuming
from pgsplit.cutover import switch as switching
from pgsplit.cutover.complete import Aborted, Completed
from pgsplit.cutover.cutover import Moved
from pgsplit.cutover.preflight import PreflightReport
from pgsplit.observe import history as reporting
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.routing import env_file as env_file
from pgsplit.routing.env_file import Side
from pgsplit.state import saga
from pgsplit.state.ledger import State, open_ledger

POINTED = "connections/{role}.env says where; restart the applications that read it at their start."
UNITS = {"ms": 0.001, "s": 1.0, "": 1.0, "min": 60.0}


class Duration(click.ParamType[float]):
    """A time such as 500ms, 5s or 1min, in seconds: `least` of them or more."""

    name = "time"

    def __init__(self, least: float = 0.05) -> None:
        self.least = least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|min)?", str(value).strip())
        length = float(found[1]) * UNITS[found[2] or ""] if found else 0.0
        if not found or not self.least <= length <= 600:
            shortest = f"{self.least * 1000:g}ms"
            self.fail(
                f"{value!r} is no time between {shortest} and 10min, such as 500ms or 5s",
                param,
                ctx,
            )
        return length


max_pause = click.option(
    "--max-pause",
    type=Duration(),
    default="5s",
    show_default=True,
    help="How long writers may be kept out; past that all is undone.",
)
wait_for_write = click.option(
    "--wait-for-write",
    type=Duration(least=0.0),
    default="1s",
    show_default=True,
    help="How long to wait for the first write afterwards, to time the pause; 0 for not at all.",
)
dry_run = click.option(
    "--dry-run", is_flag=True, help="Check all that has to be so, and change nothing."
)
no_backup = click.option("--no-backup", is_flag=True, help="Dump nothing first.")


@click.command()
@one_service
@dry_run
@click.option(
    "--reads", is_flag=True, help="Move only those who read; the monolith stays the truth."
)
@max_pause
@wait_for_write
@no_backup
@json_option
def switch(
    service: Service,
    dry_run: bool,
    reads: bool,
    max_pause: float,
    wait_for_write: float,
    no_backup: bool,
    as_json: bool,
) -> None:
    """Make SERVICE's own database the truth, without losing a write.

    Writers are kept out for a moment, what they have written is carried over, and
    connections/SERVICE.env points at the service's database. What the service writes from then on
    is carried back into the monolith, so that runner.py rollback can undo it at any time.
    """
    connections = connect_project()
    with (
        open_ledger(connections) as ledger,
        console.watching() as watcher,
        watcher.step(f"{service.role}: {'check' if dry_run else 'switch'}") as step,
    ):
        if dry_run:
            ready = switching.check(service, "switch", connections, ledger, step.say)
        elif reads:
            said = switching.move_reads(service, connections, ledger, Side.SERVICE)
        else:
            moved = switching.switch(
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
        _show_ready(service, ready, "its mirror", "; the way back was tried on every row", as_json)
    elif reads:
        _show_reads(service, connections, said, as_json)
    else:
        show_moved(moved, as_json)


@click.command()
@one_service
@dry_run
@max_pause
@no_backup
@json_option
def rollback(
    service: Service, dry_run: bool, max_pause: float, no_backup: bool, as_json: bool
) -> None:
    """Make the monolith the truth again, with all that SERVICE wrote.

    Readers that were moved with switch --reads are moved back by it, too.
    """
    connections = connect_project()
    with open_ledger(connections) as ledger, console.watching() as watcher:
        only_reads = (
            not dry_run
            and ledger.state(service) is not State.SWITCHED
            and env_file.sides(service, connections)[0] is Side.SERVICE
        )
        with watcher.step(f"{service.role}: {'check' if dry_run else 'rollback'}") as step:
            if dry_run:
                ready = switching.check(service, "rollback", connections, ledger, step.say)
            elif only_reads:
                said = switching.move_reads(service, connections, ledger, Side.MONOLITH)
            else:
                moved = switching.rollback(
                    service, connections, ledger, max_pause, step.say, with_backup=not no_backup
                )
                step.say(pause(moved))
    if dry_run:
        _show_ready(service, ready, "the monolith", "", as_json)
    elif only_reads:
        _show_reads(service, connections, said, as_json)
    else:
        show_moved(moved, as_json)


@click.command()
@one_service
@dry_run
@no_backup
@json_option
def complete(service: Service, dry_run: bool, no_backup: bool, as_json: bool) -> None:
    """End SERVICE's way back, and retire its tables in the monolith.

    They are dumped and moved to another schema, never dropped. Who shares columns
    of them gets them from SERVICE's database from then on. There is no rollback after this.
    """
    connections = connect_project()
    with (
        open_ledger(connections) as ledger,
        console.watching() as watcher,
        watcher.step(f"{service.role}: {'check' if dry_run else 'complete'}") as step,
    ):
        if dry_run:
            done = completing.check(service, connections, ledger, step.say)
        else:
            done = completing.complete(
                service, connections, ledger, step.say, with_backup=not no_backup
            )
            step.say(f"{len(done.retired)} tables retired")
    show_completed(done, as_json, is_done=not dry_run)


@click.command()
@one_service
@json_option
def abort(service: Service, as_json: bool) -> None:
    """Remove all that was made for SERVICE, before it is switched.

    Its database, roles, publication, slot and subscription, and its gate in the monolith. The
    monolith's own tables are as they were.
    """
    connections = connect_project()
    with (
        open_ledger(connections) as ledger,
        console.watching() as watcher,
        watcher.step(f"{service.role}: abort") as step,
    ):
        done = completing.abort(service, connections, ledger, step.say)
    show_aborted(done, as_json)


@click.command()
@json_option
def resume(as_json: bool) -> None:
    """Bring what was cut short to its end, or undo it.

    A switch or a rollback that had been decided is finished; one that had not is undone.
    """
    connections, said = connect_project(), dict[str, list[str]]()
    with open_ledger(connections) as ledger, console.watching() as watcher:
        for database, entry in saga.unfinished(ledger).items():
            service, operation = (
                connections.project.services[database],
                str(entry.detail["operation"]),
            )
            with watcher.step(f"{service.role}: {operation}") as step:
                said[database] = resuming.resume(service, operation, connections, ledger, step.say)
                if operation in ("switch", "rollback"):
                    said[database].append(POINTED.format(role=service.role))
    if as_json:
        console.show_json({"resumed": said})
        return
    for database, lines in said.items():
        for line in lines:
            out.print(f"{database}: {line}", markup=False, soft_wrap=True)
    if not said:
        out.print("Nothing was cut short.")


@click.command()
@one_service
@click.option("--anew", is_flag=True, help="Those that are whole, too: compare all rows.")
@json_option
def repair(service: Service, anew: bool, as_json: bool) -> None:
    """Make anew what replication of a switched SERVICE has lost.

    Each broken way gets a new slot, and what differs at its state is carried over. What is whole
    is left alone.
    """
    connections = connect_project()
    with (
        open_ledger(connections) as ledger,
        console.watching() as watcher,
        watcher.step(f"{service.role}: repair") as step,
    ):
        done = repairing.repair(service, connections, ledger, step.say, anew=anew)
        step.say(f"{len(done)} made anew")
    if as_json:
        console.show_json({service.database: {one.stream: one.rows for one in done}})
        return
    for one in done:
        rows = ", ".join(f"{table} {count:,}" for table, count in one.rows.items())
        out.print(f"{one.stream} is made anew; rows that differed: {rows}", soft_wrap=True)
    if not done:
        out.print("Nothing is broken.")


@click.command()
@services_argument
@click.option(
    "--last", type=click.IntRange(1), default=40, show_default=True, help="Steps to show."
)
@json_option
def history(names: tuple[str, ...], last: int, as_json: bool) -> None:
    """Show the ledger: what was meant for each SERVICE, and done."""
    connections = connect_project()
    steps = reporting.history(connections.project.select(names), connections)[-last:]
    if as_json:
        data = [{**asdict(step), "seconds": step.seconds} for step in steps]
        console.show_json({"steps": data})
        return
    if not steps:
        raise NotReady("Nothing has been done yet.", hint="runner.py run")
    rows = console.table("started, UTC", "service", "step", ">seconds", "outcome")
    marks = {"done": "[green]done[/]", "failed": "[red]failed[/]", None: "[red]cut short[/]"}
    for step in steps:
        rows.add_row(
            f"{step.started_at:%m-%d %H:%M:%S}",
            connections.project.short(step.service),
            step.step,
            "" if step.seconds is None else f"{step.seconds:.3f}",
            marks[step.outcome],
        )
    out.print(rows)
    for step in steps:
        if step.outcome == "failed" and (error := step.detail.get("error")):
            out.print(f"{step.started_at:%m-%d %H:%M:%S} {escape(str(error))}", soft_wrap=True)


def pause(moved: Moved) -> str:
    """Give how long writers stood still, in few words."""
    return "" if moved.paused_seconds is None else f"{moved.paused_seconds * 1000:,.0f} ms still"


def show_moved(moved: Moved, as_json: bool) -> None:
    """Print what a switch or a rollback came to."""
    if as_json:
        console.show_json(_as_data(moved))
        return
    truth = moved.service.database if moved.operation == "switch" else "The monolith"
    out.print(f"[bold]{truth}[/] is the truth for {moved.service.holds} now.")
    if moved.paused_seconds is not None and moved.closed_at and moved.opened_at:
        out.print(
            f"Writes stood still for {moved.paused_seconds * 1000:,.0f} ms,"
            f" from {_clock(moved.closed_at)} to {_clock(moved.opened_at)} UTC.",
        )
    if moved.gap_seconds is not None:
        gap = f"{moved.gap_seconds * 1000:,.0f} ms"
        out.print(f"From the last write there to the first here it took {gap}.")
    elif moved.operation == "switch":
        out.print("No write has come yet.")
    role = moved.service.role
    out.print(POINTED.format(role=role))
    for table, (kept_in, count) in moved.kept.items():
        out.print(
            f"note: {count:,} row(s) of {table} do not come back just as they were, which are in"
            f" {kept_in}",
            markup=False,
        )
    if moved.backup:
        console.show_notes(moved.backup.notes)
    for warning in moved.warnings:
        out.print(f"[bold red]warning:[/] {escape(warning)}", soft_wrap=True)
    if moved.operation == "switch":
        out.print("Its writes go back to the monolith as long as a follower runs:")
        out.print(f"  ./runner.py sync {role} --follow")
        out.print(f"  ./runner.py rollback {role}   the way back, at any time")
        out.print(f"  ./runner.py complete {role}   when it has proven itself")


def show_completed(done: Completed, as_json: bool, *, is_done: bool = True) -> None:
    """Print what a completion came to, or would come to."""
    if as_json:
        data = _as_data(done)
        console.show_json(data if is_done else {k: {"ready": True, **v} for k, v in data.items()})
        return
    database = done.service.database
    if is_done:
        out.print(f"[bold]{database}[/] stands on its own now.")
    else:
        out.print(f"{database} is ready. Nothing was changed; there is no way back from:")
    if done.retired:
        out.print(f"Retired in the monolith: {', '.join(done.retired)}", soft_wrap=True)
    for consumer in done.handed_over:
        out.print(f"{consumer} gets what it shares from {database}{is_done * ' now'}.")
    for definition in done.detached:
        out.print(
            f"note: {'dropped' if is_done else 'drops'} {definition}", markup=False, soft_wrap=True
        )
    if done.backup:
        out.print(f"Dump: {done.backup.path}", soft_wrap=True)
        console.show_notes(done.backup.notes)
    for warning in done.warnings:
        out.print(f"[bold red]warning:[/] {escape(warning)}", soft_wrap=True)
    if is_done and done.handed_over:
        out.print("They get it as long as a follower runs:")
        out.print(f"  ./runner.py sync {done.service.role} --follow")


def show_aborted(done: Aborted, as_json: bool) -> None:
    """Print what an abort has removed."""
    if as_json:
        console.show_json({done.service.database: {"removed": done.removed, "notes": done.notes}})
        return
    out.print(f"Removed: {', '.join(done.removed)}." if done.removed else "There was nothing.")
    console.show_notes(done.notes)


def _show_ready(
    service: Service, ready: PreflightReport, arrives_in: str, besides: str, as_json: bool
) -> None:
    if as_json:
        console.show_json({service.database: {"ready": True, **vars(ready)}})
        return
    out.print(
        f"{service.database} is ready: a write takes {seconds(ready.lag_seconds)} to {arrives_in},"
        f" a sync {seconds(ready.sync_seconds)}{besides}. Nothing was changed."
    )


def _as_data(done: Moved | Completed) -> dict[str, Any]:
    database, dump = done.service.database, done.backup
    return {database: {**vars(done), "service": database, "backup": dump and vars(dump)}}


def _show_reads(service: Service, connections: Connections, said: str, as_json: bool) -> None:
    place = env_file.sides(service, connections)[0]
    if as_json:
        console.show_json({service.database: {"reads_at": place.value, "warning": said}})
        return
    where = service.database if place is Side.SERVICE else "the monolith"
    out.print(f"{service.role} reads from {where} now; it writes to the monolith as before.")
    if said:
        out.print(f"[bold red]warning:[/] {escape(said)}", soft_wrap=True)
    if place is Side.SERVICE:
        out.print("Keep it current:")
        out.print(f"  ./runner.py sync {service.role} --follow")


def _clock(moment: datetime) -> str:
    moment = moment.astimezone(timezone.utc)
    return f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}"
