"""`sync`: brings services' tables up to date with the monolith, once or until Ctrl-C."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import rich_click as click
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pgsplit.base.text import seconds, size
from pgsplit.cli import console
from pgsplit.cli.console import out
from pgsplit.cli.options import connect_project, json_option, select_built, services_argument
from pgsplit.project.project import Service
from pgsplit.replication import sync
from pgsplit.replication.follow import Tick, follow_all
from pgsplit.replication.sync import Synced

SECONDS_BETWEEN_LINES = 10.0


@click.command("sync")
@services_argument
@click.option("--follow", is_flag=True, help="Keep going until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.05, max=3600),
    metavar="SECONDS",
    default=0.2,
    show_default=True,
    help="Time between two checks with --follow.",
)
@json_option
def command(names: tuple[str, ...], follow: bool, interval: float, as_json: bool) -> None:
    """Apply the monolith's latest changes to each SERVICE's tables.

    Without a name it does so for every service that has been built. With --follow it keeps the
    tables in sync, and shows how far each service lags behind. You can stop and start it at any
    time: changes wait until it runs again.
    """
    connections = connect_project()
    services = select_built(connections, names)
    if follow:
        with following(as_json) as view, suppress(KeyboardInterrupt):
            follow_all(services, connections, view.tick, interval)
        return
    with console.watching() as watcher:
        synced = {}
        for service in services:
            with watcher.step(f"{service.role}: sync") as step:
                synced[service] = sync.sync(service, connections)
                step.say(f"{synced[service].rows:,} rows")
    console.present(synced, as_json, synced_as_data, show_synced)


def synced_as_data(synced: Mapping[Service, Synced]) -> dict[str, Any]:
    """Give what was applied as plain data for `--json`."""
    return {service.database: vars(one) for service, one in synced.items()}


def show_synced(synced: Mapping[Service, Synced]) -> None:
    """Print a line for each service: how many rows changed."""
    rows = console.table("service", ">upserted", ">deleted", ">seconds")
    for service, one in synced.items():
        upserted, deleted = sum(one.upserted.values()), sum(one.deleted.values())
        rows.add_row(service.database, f"{upserted:,}", f"{deleted:,}", f"{one.seconds:.2f}")
    out.print(rows)
    for one in synced.values():
        console.show_quarantined(one.quarantined)
    console.show_warnings(warning for one in synced.values() for warning in one.warnings)


@dataclass
class Following:
    """Shows how followers are doing: a live table to people, lines to logs and programs.

    A line is printed at once if a service's trouble changes, else at most every ten seconds and
    only if rows were applied. `told` has the time, rows and trouble of the last line by service.
    """

    as_json: bool
    ticks: dict[str, Tick] = field(default_factory=dict)
    told: dict[str, tuple[float, int, str]] = field(default_factory=dict)
    live: Live | None = None

    def tick(self, tick: Tick) -> None:
        """Take in how one follower is doing."""
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
            print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {name}: {console.named(said)}", flush=True)

    def table(self) -> Table:
        """Give one line a service, and its troubles below."""
        shown = console.table("service", ">rows", ">rows/s", ">lag", ">on its way", ">pending")
        for name, tick in sorted(self.ticks.items()):
            shown.add_row(
                name,
                f"{tick.rows:,}",
                f"{tick.rows_per_second:,.0f}",
                seconds(tick.lag_seconds),
                "?" if tick.lag_bytes is None else size(tick.lag_bytes),
                "?" if tick.pending is None else f"{tick.pending:,}",
            )
        troubles = [f"{name}: {t.trouble}" for name, t in self.ticks.items() if t.trouble]
        if troubles:
            shown.caption = Text(console.named("\n".join(troubles)))
            shown.caption_justify = "left"
        return shown


@contextmanager
def following(as_json: bool) -> Iterator[Following]:
    """Show followers for the block."""
    shown = Following(as_json)
    if as_json or not out.is_terminal:
        yield shown
        return
    out.print("Following; press Ctrl-C to stop. Nothing is lost.")
    with Live(shown.table(), console=out, refresh_per_second=4) as shown.live:
        yield shown
