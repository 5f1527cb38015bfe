"""What people see: progress, results, notes and errors, in 80 columns; and the same as JSON.

Messages call this program `runner.py`. What is printed through `say`, `show_notes`,
`show_warnings` and `show_error` names the program that was called instead: see `named`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from pgsplit.base.errors import SplitError
from pgsplit.base.text import printable, printable_json, size

if TYPE_CHECKING:
    from pgsplit.postgres.copy import Progress as Copied


class SafeConsole(Console):
    """A console that shows control characters as escapes, whoever has put them into a name."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as Rich does; it would drop some of these characters without a trace."""
        super().print(*(printable(one) if type(one) is str else one for one in objects), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render what is no plain text: a table, or a line of progress."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


err = SafeConsole(stderr=True, highlight=False)
out = SafeConsole(highlight=False)

Result = TypeVar("Result")

LONGEST = 60  # characters beside a step

program = "runner.py"  # what people called this program; `main.run` sets it


@dataclass
class StepLine:
    """The line of one step."""

    progress: Progress
    task: TaskID
    nodes: int = 0
    mark: str = "[green]✓[/]"
    told: str = ""

    def copied(self, copied: Copied) -> None:
        """Show how many rows and bytes have been copied."""
        self.progress.update(
            self.task,
            completed=copied.rows,
            total=max(copied.rows_estimate, copied.rows),
            said=f"{copied.rows:,} rows, {size(copied.bytes)}",
        )

    def say(self, said: str) -> None:
        """Show the step's result, or how far it is; print what is longer than a line, once."""
        if len(said) <= LONGEST:
            self.progress.update(self.task, said=said)
        elif said != self.told:
            self.told = said
            self.progress.console.print(named(said), markup=False, soft_wrap=True)

    def fail(self, said: str) -> None:
        """Show that the step ended and found something wrong."""
        self.mark = "[red]✗[/]"
        self.say(said)

    def finished_node(self, name: str) -> None:
        """Count a model or test that dbt has finished."""
        self.nodes += 1
        self.progress.update(self.task, said=f"{self.nodes} done")


@dataclass(frozen=True)
class Steps:
    """Shows how far a run is: a line for each step, with a bar while it copies."""

    progress: Progress

    @contextmanager
    def step(self, what: str) -> Iterator[StepLine]:
        """Show a line while the block runs, and how it ended."""
        line = StepLine(self.progress, self.progress.add_task(what, total=None, said="", mark=""))
        try:
            yield line
        except BaseException:
            self.progress.update(line.task, said="failed", mark="[red]✗[/]")
            self.progress.stop_task(line.task)
            raise
        self.progress.update(line.task, total=1, completed=1, mark=line.mark)


class _MarkColumn(SpinnerColumn):
    """A spinner while a step runs, then a mark that shows how it ended."""

    def render(self, task: Task) -> RenderableType:
        mark = task.fields["mark"]
        return Text.from_markup(mark) if mark else super().render(task)


@contextmanager
def watching() -> Iterator[Steps]:
    """Show progress on standard error for the block."""
    with Progress(
        _MarkColumn(),
        TextColumn("{task.description:<32}"),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[said]:<22}"),
        TimeElapsedColumn(),
        console=err,
    ) as progress:
        yield Steps(progress)


class _SafeTable(Table):
    """A table whose cells are as wide as what is shown of them."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row; control characters in its texts are shown as escapes."""
        super().add_row(*map(_shown, cells), **options)


def _shown(cell: RenderableType | None) -> RenderableType | None:
    if isinstance(cell, Text):
        return cell if cell.plain.isprintable() else Text(printable(cell.plain), style=cell.style)
    return printable(cell) if isinstance(cell, str) else cell


def table(*headings: str) -> Table:
    """Make an empty table; a heading that begins with `>` right-aligns its column."""
    made = _SafeTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        made.add_column(heading.removeprefix(">"), justify="right" if heading[0] == ">" else "left")
    return made


def named(text: str) -> str:
    """Give text with its commands under the name that people called this program by."""
    if program == "runner.py":
        return text
    return re.sub(r"(?<![\w./-])(?:\./)?runner\.py\b", lambda _: program, text)


def say(*lines: str) -> None:
    """Print lines as they are, neither wrapped nor styled; commands in them are named."""
    for line in lines:
        out.print(named(line), markup=False, soft_wrap=True)


def indent(text: str, by: int, style: str = "") -> None:
    """Print text from a database indented and wrapped; control characters are made visible."""
    shown = Text(printable(text), style=style, overflow="fold")
    out.print(Padding(shown, (0, 0, 0, by), expand=False))


def show_notes(notes: Iterable[str]) -> None:
    """Print what an operator should know, each note once."""
    for note in dict.fromkeys(notes):
        out.print(f"note: {named(note)}", markup=False)


def show_warnings(warnings: Iterable[str]) -> None:
    """Print what an operator must act on."""
    for warning in warnings:
        out.print(f"[bold red]warning:[/] {escape(named(warning))}", soft_wrap=True)


def show_quarantined(kept: Mapping[str, int]) -> None:
    """Say where rows were copied before something replaced or deleted them."""
    for table, rows in kept.items():
        out.print(f"note: {rows:,} row(s) were copied to {table} before they were replaced.")


def show_json(data: Mapping[str, Any]) -> None:
    """Print data as JSON on standard output, for programs."""
    print(printable_json(json.dumps(data, indent=2, default=str, ensure_ascii=False)))


def present(
    result: Result,
    as_json: bool,
    as_data: Callable[[Result], Mapping[str, Any]],
    show: Callable[[Result], None],
) -> None:
    """Print a command's result: as JSON for programs, or as `show` prints it for people."""
    if as_json:
        show_json(as_data(result))
    else:
        show(result)


def show_error(error: SplitError, as_json: bool, exit_code: int | None = None) -> int:
    """Print what went wrong, where, and how to fix it, on standard error.

    Args:
        error: what went wrong.
        as_json: print it as JSON on standard output too, for programs.
        exit_code: the error's own, if none is given.

    Returns:
        The exit code.
    """
    error.hint, code = named(error.hint), error.exit_code if exit_code is None else exit_code
    if as_json:
        show_json({"error": error.as_data(), "exit_code": code})
    err.print(f"[bold red]error:[/] {escape(named(error.what))}", soft_wrap=True)
    if error.where:
        err.print(f"  [bold]where:[/] {escape(error.where)}", soft_wrap=True)
    if error.hint:
        hint = error.hint.replace("\n", "\n         ")
        err.print(f"  [bold]hint:[/]  {escape(hint)}", soft_wrap=True)
    return code
