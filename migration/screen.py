"""What people see: progress, tables and errors, in 80 columns; and the same as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from textwrap import fill
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from migration.errors import SplitError
from migration.run import Report, RunReport
from migration.snapshot_copy import Progress as Copied
from migration.status import Status
from migration.sync import Tick

err = Console(stderr=True, highlight=False)
out = Console(highlight=False)

SECONDS_BETWEEN_LINES = 10.0


@dataclass
class Line:
    """The line of one step."""

    progress: Progress
    task: TaskID
    nodes: int = 0

    def copied(self, copied: Copied) -> None:
        """Show rows and bytes of a landing."""
        self.progress.update(
            self.task,
            completed=copied.rows,
            total=max(copied.rows_estimate, copied.rows),
            said=f"{copied.rows:,} rows, {size(copied.bytes)}",
        )

    def say(self, said: str) -> None:
        """Show what came of it."""
        self.progress.update(self.task, said=said)

    def finished_node(self, name: str) -> None:
        """Count a model or test that dbt has finished."""
        self.nodes += 1
        self.progress.update(self.task, said=f"{self.nodes} done")


@dataclass(frozen=True)
class Screen:
    """Shows how far a run is: a line for each step, with a bar for what it copies."""

    progress: Progress

    @contextmanager
    def step(self, what: str) -> Iterator[Line]:
        """Show a line while the block runs, and how it ended."""
        line = Line(self.progress, self.progress.add_task(what, total=None, said="", mark=""))
        try:
            yield line
        except BaseException:
            self.progress.update(line.task, said="failed", mark="[red]✗[/]")
            self.progress.stop_task(line.task)
            raise
        self.progress.update(line.task, total=1, completed=1, mark="[green]✓[/]")


class _MarkColumn(SpinnerColumn):
    """A spinner while a step is under way, then the mark of how it ended."""

    def render(self, task: Task) -> RenderableType:
        mark = task.fields["mark"]
        return Text.from_markup(mark) if mark else super().render(task)


@contextmanager
def watching() -> Iterator[Screen]:
    """Show progress on standard error for the block."""
    with Progress(
        _MarkColumn(),
        TextColumn("{task.description:<32}"),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[said]:<22}"),
        TimeElapsedColumn(),
        console=err,
    ) as progress:
        yield Screen(progress)


def size(count: float) -> str:
    """Give bytes as people read them: 1536 is `1.5 KB`."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"


def table(*headings: str) -> Table:
    """Make an empty table; a heading that begins with `>` stands over right-aligned figures."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        made.add_column(heading.removeprefix(">"), justify="right" if heading[0] == ">" else "left")
    return made


def show_run(report: RunReport) -> None:
    """Print the closing table of a run, then what to know: warnings and notes."""
    rows = table("service", ">tables", ">rows in", ">rows out", "tests", ">seconds")
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
    out.print(rows)
    show_notes(note for one in report.services for note in one.provisioned.notes)
    warned = sorted((r.service.role, w) for r in report.services for w in r.built.warnings)
    if warned:
        out.print(
            "Warnings: references that the monolith never had a key for and that lead\n"
            "nowhere. Their rows are kept; ./runner.py psql SERVICE -xc 'table audit.NAME'"
        )
        for role, warning in warned:
            name, _, rest = warning.partition(":")
            found = rest.strip().split(" ")[1] if rest.strip().startswith("Got ") else "?"
            out.print(f"  {role:<14}{found:>7}  {escape(name)}", soft_wrap=True)


@dataclass
class Following:
    """Shows how followers stand: a live table to people, and lines to logs and machines."""

    as_json: bool
    ticks: dict[str, Tick] = field(default_factory=dict)
    told: dict[str, tuple[float, int, str]] = field(default_factory=dict)
    live: Live | None = None

    def tick(self, tick: Tick) -> None:
        """Take in how one follower stands."""
        name = tick.service.database
        self.ticks[name] = tick
        if self.live:
            self.live.update(self.table())
            return
        at, rows, trouble = self.told.get(name, (0.0, 0, ""))
        is_due = time.monotonic() - at > SECONDS_BETWEEN_LINES
        if tick.trouble == trouble and not (is_due and (tick.rows != rows or not at)):
            return
        self.told[name] = (time.monotonic(), tick.rows, tick.trouble)
        if self.as_json:
            print(json.dumps({**vars(tick), "service": name}), flush=True)
        else:
            said = tick.trouble or f"{tick.rows:,} rows, {seconds(tick.lag_seconds)} behind"
            print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {name}: {said}", flush=True)

    def table(self) -> Table:
        """Give one line a service, and below what is wrong."""
        shown = table("service", ">rows", ">rows/s", ">lag", ">on its way", ">pending")
        for name, tick in sorted(self.ticks.items()):
            shown.add_row(
                name,
                f"{tick.rows:,}",
                f"{tick.rows_per_second:,.0f}",
                seconds(tick.lag_seconds),
                "?" if tick.lag_bytes is None else size(tick.lag_bytes),
                "?" if tick.pending is None else f"{tick.pending:,}",
            )
        troubles = {n: t.trouble for n, t in self.ticks.items() if t.trouble}
        if troubles:
            shown.caption = Text("\n".join(f"{n}: {said}" for n, said in troubles.items()))
            shown.caption_justify = "left"
        return shown


@contextmanager
def following(as_json: bool) -> Iterator[Following]:
    """Show followers for the block."""
    shown = Following(as_json)
    if as_json or not out.is_terminal:
        yield shown
        return
    out.print("Following; Ctrl-C stops it, and nothing is lost.")
    with Live(shown.table(), console=out, refresh_per_second=4) as shown.live:
        yield shown


def seconds(count: float | None) -> str:
    """Give a time as people read it; `?` when it is not known."""
    if count is None:
        return "?"
    if count < 10:
        return f"{count:.2f} s"
    return f"{count:.0f} s" if count < 600 else f"{count / 60:,.0f} min"


def ago(moment: datetime) -> str:
    """Give how long ago something was."""
    return f"{seconds(max(0.0, (datetime.now(timezone.utc) - moment).total_seconds()))} ago"


def show_status(found: Sequence[Status]) -> None:
    """Print where services stand, their tables, and what is wrong with them."""
    shown = table("service", "state", "mirror", ">lag", ">pending", "last sync", ">WAL kept")
    for one in found:
        # When all that has arrived is carried over, the tables are as old as the mirror.
        lag = one.lag_seconds if one.pending or not one.synced_at else one.mirror_lag_seconds
        shown.add_row(
            one.service.database,
            one.state.value,
            {"follows": "[green]follows[/]", "starting": "starting", "": ""}.get(
                one.replication, f"[red]{one.replication}[/]"
            ),
            "" if lag is None else seconds(lag),
            "" if one.pending is None else f"{one.pending:,}",
            "" if one.synced_at is None else ago(one.synced_at),
            "" if one.wal_kept_bytes is None else size(one.wal_kept_bytes),
        )
    out.print(shown)
    if any(one.rows for one in found):
        out.print("Rows, as the planner estimates them:")
    for one in found:
        if one.rows:
            rows = ", ".join(f"{name} {count:,}" for name, count in one.rows.items())
            said = fill(f"{one.service.role}: {rows}", out.width, subsequent_indent="    ")
            out.print(f"  {said}", soft_wrap=True)
    show_notes(note for one in found for note in one.notes)
    for one in found:
        for warning in one.warnings:
            out.print(f"[bold red]warning:[/] {escape(warning)}", soft_wrap=True)


def status_as_data(found: Sequence[Status]) -> dict[str, Any]:
    """Give where services stand as plain data for `--json`."""
    return {
        one.service.database: {
            **{k: v for k, v in vars(one).items() if k != "service"},
            "state": one.state.value,
        }
        for one in found
    }


def show_notes(notes: Iterable[str]) -> None:
    """Print what an operator should know, each thing once."""
    for note in dict.fromkeys(notes):
        out.print(f"note: {note}", markup=False)


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


def show_json(data: Mapping[str, Any]) -> None:
    """Print data as JSON on standard output, for machines."""
    print(json.dumps(data, indent=2, default=str, ensure_ascii=False))


def show_error(error: SplitError) -> None:
    """Print what went wrong, where, and what mends it, on standard error."""
    err.print(f"[bold red]error:[/] {escape(error.what)}", soft_wrap=True)
    if error.where:
        err.print(f"  [bold]where:[/] {escape(error.where)}", soft_wrap=True)
    if error.mend:
        mend = error.mend.replace("\n", "\n         ")
        err.print(f"  [bold]mend:[/]  {escape(mend)}", soft_wrap=True)
