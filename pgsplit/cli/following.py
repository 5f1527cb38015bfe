"""Shows how followers are doing: a live table to people, lines to logs and programs.

An idle, a working, a lagging, a troubled and a hung follower look different. Each prints a line at
least once a minute, so a log that is silent means that the whole process hangs or is gone.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone

from rich.live import Live
from rich.table import Table
from rich.text import Text

from pgsplit.base.notices import Notifier
from pgsplit.base.text import rfc3339, seconds, size
from pgsplit.cli import console
from pgsplit.cli.alarms import Alarms, Condition, Report
from pgsplit.cli.progress import looking
from pgsplit.project.project import Service
from pgsplit.replication.follow import Tick

LINES_APART_SECONDS = 10.0  # while rows are applied
IDLE_LINES_APART_SECONDS = 60.0
HUNG_AFTER_SECONDS = 30.0
LOOK_SECONDS = 1.0
# A trouble that only counts on, such as its errors, is no news.
NUMBERS = re.compile(r"\d+")


STYLES = {Condition.LAGS: "yellow", Condition.TROUBLE: "red", Condition.HUNG: "bold red"}


@dataclass
class Follower:
    """The last tick of a follower and when it came, and the last line about it."""

    tick: Tick
    at: float
    has_ticked: bool = False
    told_at: float | None = None
    told: Condition = Condition.IDLE
    told_trouble: str = ""
    told_rows: int = 0


@dataclass
class Following:
    """What is known of all followers; ticks come from several threads.

    `max_lag` is the lag in seconds above which a follower lags. `clock` is for tests.
    """

    as_json: bool
    max_lag: float
    clock: Callable[[], float] = time.monotonic
    followers: dict[str, Follower] = field(default_factory=dict)
    live: Live | None = None
    alarms: Alarms | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.begun = self.clock()

    def tick(self, tick: Tick) -> None:
        """Take in how one follower is doing."""
        with self.lock:
            known = self.followers.setdefault(tick.service.database, Follower(tick, 0.0))
            known.tick, known.at, known.has_ticked = tick, self.clock(), True
            self._tell(known)

    def look(self) -> None:
        """Look for followers that don't answer any more, and tell others how all are doing."""
        with self.lock:
            for known in self.followers.values():
                self._tell(known)
            reports = {name: self._report(known) for name, known in self.followers.items()}
        if self.alarms:
            self.alarms.look(reports)

    def _report(self, known: Follower) -> Report:
        condition = self.condition(known)
        return Report(condition, console.named(self.said(known, condition)), known.has_ticked)

    def condition(self, known: Follower) -> Condition:
        """Tell how a follower is doing."""
        tick = known.tick
        if self.clock() - known.at > HUNG_AFTER_SECONDS:
            return Condition.HUNG
        if tick.trouble:
            return Condition.TROUBLE
        if (tick.lag_seconds or 0.0) > self.max_lag:
            return Condition.LAGS
        return Condition.IDLE if tick.rows == known.told_rows else Condition.WORKS

    def _tell(self, known: Follower) -> None:
        """Print a line if it is time for one; trouble is told at once."""
        if self.live:
            return
        now, condition, tick = self.clock(), self.condition(known), known.tick
        if condition is Condition.IDLE and not known.has_ticked:
            return  # it has only begun
        if condition is Condition.LAGS and now - self.begun < LINES_APART_SECONDS:
            return  # what came while nobody followed is only just being applied
        if known.told_at is not None:
            grave = (Condition.TROUBLE, Condition.HUNG)
            trouble = NUMBERS.sub("", tick.trouble), NUMBERS.sub("", known.told_trouble)
            has_changed = condition is not known.told or trouble[0] != trouble[1]
            is_urgent = has_changed and (condition in grave or known.told in grave)
            is_news = has_changed or tick.rows != known.told_rows
            apart = LINES_APART_SECONDS if is_news else IDLE_LINES_APART_SECONDS
            if not is_urgent and now - known.told_at < apart:
                return
        self._print(known, condition)
        known.told_at, known.told = now, condition
        known.told_trouble, known.told_rows = tick.trouble, tick.rows

    def _print(self, known: Follower, condition: Condition) -> None:
        at, name = datetime.now(timezone.utc), known.tick.service.database
        if self.as_json:
            silent = round(self.clock() - known.at, 3)
            data = {"at": at, "service": name, "condition": condition, "silent_seconds": silent}
            console.document.line("follower", {**vars(known.tick), **data})
        else:
            said = console.named(self.said(known, condition))
            print(f"{rfc3339(at, 'seconds')} {name}: {said}", flush=True)

    def said(self, known: Follower, condition: Condition) -> str:
        """Say in a line how a follower is doing."""
        tick = known.tick
        behind = f"{seconds(tick.lag_seconds)} behind"
        if condition is Condition.HUNG:
            return (
                f"hangs: no answer for {seconds(self.clock() - known.at)}; a server is frozen, or a"
                " sync runs long"
            )
        if condition is Condition.TROUBLE:
            return tick.trouble
        if condition is Condition.LAGS:
            on_its_way = "?" if tick.lag_bytes is None else size(tick.lag_bytes)
            return (
                f"lags: {behind}, {tick.pending or 0:,} changes pending, {on_its_way} on its way;"
                f" {tick.rows:,} rows so far"
            )
        return f"idle, {behind}" if condition is Condition.IDLE else f"{tick.rows:,} rows, {behind}"

    def table(self) -> Table:
        """Give one line a service, and its troubles below."""
        shown = console.table(
            "service", ">rows", ">rows/s", ">lag", ">on its way", ">pending", "condition"
        )
        troubles = []
        with self.lock:
            for name, known in sorted(self.followers.items()):
                tick, condition = known.tick, self.condition(known)
                known.told_rows = tick.rows  # what is shown is told: without news it is idle
                shown.add_row(
                    name,
                    f"{tick.rows:,}",
                    f"{tick.rows_per_second:,.0f}",
                    seconds(tick.lag_seconds),
                    "?" if tick.lag_bytes is None else size(tick.lag_bytes),
                    "?" if tick.pending is None else f"{tick.pending:,}",
                    Text(condition.value, style=STYLES.get(condition, "")),
                )
                if condition in (Condition.TROUBLE, Condition.HUNG):
                    troubles.append(f"{name}: {self.said(known, condition)}")
        if troubles:
            shown.caption = Text(console.named("\n".join(troubles)))
            shown.caption_justify = "left"
        return shown


@contextmanager
def following(
    services: Iterable[Service], as_json: bool, max_lag: float, notifier: Notifier | None = None
) -> Iterator[Following]:
    """Show the followers of some services for the block, and tell others about them."""
    shown = Following(as_json, max_lag, alarms=Alarms(notifier or Notifier("", "")))
    for service in services:
        shown.followers[service.database] = Follower(Tick(service), shown.clock())
    # In a thread of its own, since a follower that hangs calls nobody.
    with looking(shown.look, LOOK_SECONDS):
        if as_json or not console.out.is_terminal:
            yield shown
            return
        console.out.print("Following; press Ctrl-C to stop. Nothing is lost.")
        with Live(
            get_renderable=shown.table, console=console.out, refresh_per_second=4
        ) as shown.live:
            yield shown
