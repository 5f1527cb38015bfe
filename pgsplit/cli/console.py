"""What people see: progress, tables and errors, in 80 columns; and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, RenderableType
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

from pgsplit.base.errors import SplitError
from pgsplit.base.text import size
from pgsplit.postgres.copy import Progress as Copied

err = Console(stderr=True, highlight=False)
out = Console(highlight=False)

SECONDS_BETWEEN_LINES = 10.0


@dataclass
class Line:
    """The line of one step."""

    progress: Progress
    task: TaskID
    nodes: int = 0
    mark: str = "[green]✓[/]"

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

    def fail(self, said: str) -> None:
        """Show that it came to its end and found something wrong."""
        self.mark = "[red]✗[/]"
        self.say(said)

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
        self.progress.update(line.task, total=1, completed=1, mark=line.mark)


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


def table(*headings: str) -> Table:
    """Make an empty table; a heading that begins with `>` stands over right-aligned figures."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        made.add_column(heading.removeprefix(">"), justify="right" if heading[0] == ">" else "left")
    return made


def show_notes(notes: Iterable[str]) -> None:
    """Print what an operator should know, each thing once."""
    for note in dict.fromkeys(notes):
        out.print(f"note: {note}", markup=False)


def show_json(data: Mapping[str, Any]) -> None:
    """Print data as JSON on standard output, for machines."""
    print(json.dumps(data, indent=2, default=str, ensure_ascii=False))


def show_error(error: SplitError) -> None:
    """Print what went wrong, where, and what mends it, on standard error."""
    err.print(f"[bold red]error:[/] {escape(error.what)}", soft_wrap=True)
    if error.where:
        err.print(f"  [bold]where:[/] {escape(error.where)}", soft_wrap=True)
    if error.hint:
        hint = error.hint.replace("\n", "\n         ")
        err.print(f"  [bold]hint:[/]  {escape(hint)}", soft_wrap=True)
