"""Shows how far steps are: bars on a terminal, lines with times in a file or a pipe.

Lines about a step that is under way come from a thread of their own. So whoever works, such as
within the pause of a switch, never waits for a log.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from pgsplit.base.text import rfc3339, seconds, size

if TYPE_CHECKING:
    from pgsplit.postgres.copy import Progress as Copied

LONGEST = 60  # characters beside a step
LINES_APART_SECONDS = 10.0
LOOK_SECONDS = 0.5

Print = Callable[[str], None]


@dataclass
class StepLine:
    """How far one step is; `print_long` prints what is longer than a line."""

    print_long: Print
    nodes: int = 0
    has_failed: bool = False
    said: str = ""
    told: str = ""

    def copied(self, copied: Copied) -> None:
        """Show how many rows and bytes have been copied."""
        self.said = f"{copied.rows:,} rows, {size(copied.bytes)}"
        self.show(copied.rows, max(copied.rows_estimate, copied.rows))

    def say(self, said: str) -> None:
        """Show the step's result, or how far it is; print what is longer than a line, once."""
        if len(said) <= LONGEST:
            self.said = said
            self.show()
        elif said != self.told:
            self.told = said
            self.print_long(said)

    def fail(self, said: str) -> None:
        """Show that the step ended and found something wrong."""
        self.has_failed = True
        self.say(said)

    def finished_node(self, name: str) -> None:
        """Count a model or test that dbt has finished."""
        self.nodes += 1
        self.say(f"{self.nodes} done")

    def show(self, done: int | None = None, total: int | None = None) -> None:
        """Show what was said, and how much is done; a log shows it only from time to time."""


@dataclass
class _Bar(StepLine):
    """The bar of a step on a terminal."""

    progress: Progress = field(default_factory=Progress)
    task: TaskID = TaskID(0)

    def show(self, done: int | None = None, total: int | None = None) -> None:
        self.progress.update(self.task, said=self.said, completed=done, total=total)


class Steps:
    """Shows how far a run is: a line for each step, with a bar while it copies."""

    def __init__(self, progress: Progress, print_long: Print) -> None:
        self.progress, self.print_long = progress, print_long

    @contextmanager
    def step(self, what: str) -> Iterator[StepLine]:
        """Show a line while the block runs, and how it ended."""
        task = self.progress.add_task(what, total=None, said="", mark="")
        line = _Bar(self.print_long, progress=self.progress, task=task)
        try:
            yield line
        except BaseException:
            self.progress.update(task, said="failed", mark="[red]✗[/]")
            self.progress.stop_task(task)
            raise
        mark = "[red]✗[/]" if line.has_failed else "[green]✓[/]"
        self.progress.update(task, total=1, completed=1, mark=mark)


@dataclass
class _Logged(StepLine):
    """What a log is told about a step."""

    what: str = ""
    began: float = field(default_factory=time.monotonic)
    logged: float = field(default_factory=time.monotonic)


class LoggedSteps(Steps):
    """Shows how far a run is in a log: a line when a step begins and ends, and some in between."""

    def __init__(self, print_line: Print, print_long: Print) -> None:
        self.print_line, self.print_long = print_line, print_long
        self.running: list[_Logged] = []
        self.lock = threading.Lock()

    @contextmanager
    def step(self, what: str) -> Iterator[StepLine]:
        """Print when the block begins, and how it ended."""
        line = _Logged(self.print_long, what=what)
        self._print(what)
        with self.lock:
            self.running.append(line)
        ended = "failed"
        try:
            yield line
            ended = "found something wrong" if line.has_failed else "done"
        finally:
            with self.lock:
                self.running.remove(line)
            said = f": {line.said}" if line.said and ended != "failed" else ""
            self._print(f"{what}: {ended} after {seconds(time.monotonic() - line.began)}{said}")

    def look(self) -> None:
        """Print how far steps are that have not been told of for a while."""
        now = time.monotonic()
        with self.lock:
            due = [one for one in self.running if now - one.logged >= LINES_APART_SECONDS]
        for line in due:
            line.logged = now
            said = f": {line.said}" if line.said else ""
            self._print(f"{line.what}: {seconds(now - line.began)} so far{said}")

    def _print(self, said: str) -> None:
        self.print_line(f"{rfc3339(datetime.now(timezone.utc), 'seconds')} {said}")


class _MarkColumn(SpinnerColumn):
    """A spinner while a step runs, then a mark that shows how it ended."""

    def render(self, task: Task) -> RenderableType:
        mark = task.fields["mark"]
        return Text.from_markup(mark) if mark else super().render(task)


@contextmanager
def watching(console: Console, print_line: Print) -> Iterator[Steps]:
    """Show progress for the block, as bars on a terminal and else as lines.

    Args:
        console: where it is shown.
        print_line: prints a line there.
    """
    if not console.is_interactive:
        steps = LoggedSteps(print_line, print_line)
        with looking(steps.look, LOOK_SECONDS):
            yield steps
        return
    with Progress(
        _MarkColumn(),
        TextColumn("{task.description:<32}"),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[said]:<22}"),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        yield Steps(progress, print_line)


@contextmanager
def looking(look: Callable[[], None], interval: float) -> Iterator[None]:
    """Look again and again in a thread of its own, as long as the block lasts.

    Args:
        look: what to call.
        interval: seconds between two calls.
    """
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(interval):
            look()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
