"""What people see: progress, results, notes and errors, in 80 columns; and the same as JSON.

Messages call this program `runner.py`. What is printed through `say`, `show_notes`,
`show_warnings` and `show_error` names the program that was called instead: see `named`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any, TypeVar

import click
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from pgsplit.base.errors import SplitError
from pgsplit.base.text import printable
from pgsplit.cli import progress
from pgsplit.cli.document import Document
from pgsplit.cli.progress import Steps
from pgsplit.cli.wrapping import wrap


class SafeConsole(Console):
    """A console that shows control characters as escapes, whoever has put them into a name."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as Rich does; it would drop some of these characters without a trace.

        What is too wide for the terminal goes on in the next line, where Rich would cut it off.
        """
        options.setdefault("crop", False)
        words = [word for one in objects if type(one) is str for word in one.split()]
        if any(cell_len(word) > self.width for word in words):
            options.setdefault("soft_wrap", True)  # Rich would break that name
        super().print(*(printable(one) if type(one) is str else one for one in objects), **options)

    def on_broken_pipe(self) -> None:
        """Go on if nobody reads progress and errors any more; end if nobody reads the result."""
        if not self.stderr:
            raise BrokenPipeError
        self.quiet = True

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

document = Document()

# Rich narrows a column of single words that are shorter than this as it does prose, and the table
# gets too wide in the end; a longer word it would cut.
NARROW = 40

# How the parts of an error begin, their style, and what their further lines begin with.
STYLES = {
    "error": ("error: ", "bold red", ""),
    "where": ("  where: ", "bold", "         "),
    "hint": ("  hint:  ", "bold", "         "),
}

program = "runner.py"  # what people called this program; `main.run` sets it


def watching() -> AbstractContextManager[Steps]:
    """Show progress on standard error for the block: bars on a terminal, else lines with times."""
    return progress.watching(err, _progress_line)


def _progress_line(said: str) -> None:
    with suppress(OSError):  # a log on a full disk stops no switch
        err.print(named(said), markup=False, soft_wrap=True)


class _SafeTable(Table):
    """A table whose cells are as wide as what is shown of them."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row; control characters in its texts are shown as escapes, and no word is cut."""
        shown = [_shown(cell) for cell in cells]
        super().add_row(*shown, **options)
        for column, cell in zip(self.columns, shown, strict=False):
            words = _plain(cell).split()
            longest = max(map(cell_len, words), default=0)
            column.min_width = max(column.min_width or 0, longest)
            column.no_wrap = column.no_wrap and len(words) < 2 and longest < NARROW


def _shown(cell: RenderableType | None) -> RenderableType | None:
    if isinstance(cell, Text):
        return cell if cell.plain.isprintable() else Text(printable(cell.plain), style=cell.style)
    return printable(cell) if isinstance(cell, str) else cell


def _plain(cell: RenderableType | None) -> str:
    if isinstance(cell, Text):
        return cell.plain
    return Text.from_markup(cell).plain if isinstance(cell, str) else ""


def table(*headings: str) -> Table:
    """Make an empty table; a heading that begins with `>` right-aligns its column."""
    made = _SafeTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        name = heading.removeprefix(">")
        longest = max(map(cell_len, name.split()), default=0)
        justify: JustifyMethod = "right" if heading[0] == ">" else "left"
        is_word = len(name.split()) < 2
        made.add_column(name, justify=justify, min_width=longest, no_wrap=is_word)
    return made


def named(text: str) -> str:
    """Give text with its commands under the name that people called this program by."""
    if program == "runner.py":
        return text
    return re.sub(r"(?<![\w./-])(?:\./)?runner\.py\b", lambda _: program, text)


def say(*lines: str) -> None:
    """Print lines, not styled and wrapped only on a terminal; commands in them are named."""
    for line in lines:
        out.print(_wrapped(out, line), markup=False, soft_wrap=True)


def _wrapped(console: Console, text: str, first: str = "", following: str = "") -> str:
    """Name the commands in a text, and wrap it between words if people read it on a terminal.

    In a file or a pipe each message stays on a line of its own, to be searched.
    """
    width = console.width if console.is_terminal else sys.maxsize
    return wrap(named(text), width, first, following)


def listed(first: str, names: Iterable[str], indent: int = 4) -> str:
    """List names after a first word, wrapped between them everywhere."""
    return wrap(f"{first} {', '.join(names)}", out.width, following=" " * indent)


def indent(text: str, by: int, style: str = "") -> None:
    """Print text from a database indented and wrapped; control characters are made visible."""
    shown = wrap(text, out.width, " " * by, " " * by)
    out.print(Text(shown, style=style), soft_wrap=True)


def show_notes(notes: Iterable[str]) -> None:
    """Print what an operator should know, each note once."""
    for note in dict.fromkeys(notes):
        out.print(_wrapped(out, f"note: {note}", "", "  "), markup=False, soft_wrap=True)


def show_warnings(warnings: Iterable[str]) -> None:
    """Print what an operator must act on, each warning once."""
    for warning in dict.fromkeys(warnings):
        first = "warning: "
        said = _wrapped(out, warning, first).removeprefix(first)
        out.print(Text.assemble((first, "bold red"), said), soft_wrap=True)


def show_quarantined(kept: Mapping[str, int]) -> None:
    """Say where rows were copied before something replaced or deleted them."""
    show_notes(
        f"{rows:,} row(s) were copied to {table} before they were replaced."
        for table, rows in kept.items()
    )


def begin(called: str, as_json: bool) -> None:
    """Begin a command: name the program, and leave standard output to the document if asked for."""
    global program
    program = called
    document.begin(as_json)
    out.stderr = as_json


def end(exit_code: int) -> None:
    """End a command: print its document, if there is one."""
    out.stderr = False
    document.end(exit_code)


def show_json(data: Mapping[str, Any]) -> None:
    """Print data as JSON on standard output, for programs; see `document`."""
    document.hold(click.get_current_context().command.name or "", data)


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


def show_error(error: SplitError, exit_code: int | None = None) -> int:
    """Print what went wrong, where, and how to fix it, on standard error.

    Args:
        error: what went wrong; a document that was asked for has it, too.
        exit_code: the error's own, if none is given.

    Returns:
        The exit code.
    """
    error.hint, code = named(error.hint), error.exit_code if exit_code is None else exit_code
    document.fail(error)
    parts = {"error": error.what, "where": error.where, "hint": error.hint}
    for part, text in parts.items():
        if text or part == "error":
            first, style, following = STYLES[part]
            said = _wrapped(err, text, first, following).removeprefix(first)
            err.print(Text.assemble((first, style), said), soft_wrap=True)
    return code
