"""Keeping in step with the living monolith: sync, status."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from textwrap import fill
from typing import Any

import click
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pgsplit.base.errors import NotReady
from pgsplit.base.text import ago, seconds, size
from pgsplit.cli import connect_project, console, json_option, services_argument
from pgsplit.cli.console import out, table
from pgsplit.observe import status as looking
from pgsplit.observe.status import Status
from pgsplit.replication import sync as syncing
from pgsplit.replication.follow import Tick, follow_all

SECONDS_BETWEEN_LINES = 10.0


@click.command()
@services_argument
@click.option("--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.05, max=3600),
    default=0.2,
    show_default=True,
    help="Seconds between two looks of a follower.",
)
@json_option
def sync(names: tuple[str, ...], follow: bool, interval: float, as_json: bool) -> None:
    """Bring each SERVICE's tables to where the monolith stands now.

    Without a name it is every service that has been built. With --follow they stay in step: a
    table shows how far behind each is. It may be stopped and started at will; what changes
    meanwhile is kept.
    """
    connections = connect_project()
    services = connections.project.select(names) if names else syncing.built(connections)
    if follow:
        with following(as_json) as view, suppress(KeyboardInterrupt):
            follow_all(services, connections, view.tick, interval)
        return
    with console.watching() as watcher:
        synced = {}
        for service in services:
            with watcher.step(f"{service.role}: sync") as step:
                synced[service] = syncing.sync(service, connections)
                step.say(f"{synced[service].rows:,} rows")
    if as_json:
        console.show_json({service.database: vars(one) for service, one in synced.items()})
        return
    rows = console.table("service", ">upserted", ">deleted", ">seconds")
    for service, one in synced.items():
        upserted, deleted = sum(one.upserted.values()), sum(one.deleted.values())
        rows.add_row(service.database, f"{upserted:,}", f"{deleted:,}", f"{one.seconds:.2f}")
    console.out.print(rows)


@click.command()
@services_argument
@json_option
def status(names: tuple[str, ...], as_json: bool) -> None:
    """Tell where each SERVICE stands and how far it is behind.

    Exits with 4 if something is wrong, and says what mends it.
    """
    connections = connect_project()
    services = connections.project.select(names)
    found = [looking.status(service, connections) for service in services]
    if as_json:
        console.show_json(status_as_data(found))
    else:
        show_status(found)
    if any(one.warnings for one in found):
        sys.exit(NotReady.exit_code)


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


def show_status(found: Sequence[Status]) -> None:
    """Print where services stand, their tables, and what is wrong with them."""
    shown = table("service", "state", "mirror", ">lag", ">pending", ">synced", ">WAL")
    shown.columns[0].min_width = max(map(len, found[0].service.project.services))
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
            "" if one.synced_at is None else ago(one.synced_at).removesuffix(" ago"),
            "" if one.wal_kept_bytes is None else size(one.wal_kept_bytes),
        )
    out.print(shown)
    for one in found:
        if one.way_back:
            out.print(f"  {one.service.role}: {told_back(one)}", soft_wrap=True)
        elif one.reads_at == "service" and one.writes_at == "monolith":
            out.print(f"  {one.service.role}: reads from its own database, writes to the monolith")
    for one in found:
        for entity, (hits, misses) in one.caches.items():
            out.print(
                f"  {one.service.role}: shared {entity}s looked up: {hits:,} known,"
                f" {misses:,} asked of their owner",
                soft_wrap=True,
            )
    if any(one.rows for one in found):
        out.print("Rows, as the planner estimates them:")
    for one in found:
        if one.rows:
            rows = ", ".join(f"{name} {count:,}" for name, count in one.rows.items())
            said = fill(f"{one.service.role}: {rows}", out.width, subsequent_indent="    ")
            out.print(f"  {said}", soft_wrap=True)
    console.show_notes(note for one in found for note in one.notes)
    for one in found:
        for warning in one.warnings:
            out.print(f"[bold red]warning:[/] {escape(warning)}", soft_wrap=True)


def told_back(one: Status) -> str:
    """Say how the monolith follows a switched service."""
    lag, kept = one.way_back_lag_seconds, one.way_back_kept_bytes
    said = f"the monolith {one.way_back} it" if one.way_back == "follows" else one.way_back
    if lag is not None:
        said += f", {seconds(lag)} behind what is synced"
    return said + ("" if kept is None else f"; {size(kept)} of WAL kept for it")


def status_as_data(found: Sequence[Status]) -> dict[str, Any]:
    """Give where services stand as plain data for `--json`."""
    return {one.service.database: _as_data(one) for one in found}


def _as_data(one: Status) -> dict[str, Any]:
    data = {k: v for k, v in vars(one).items() if k not in ("service", "caches")}
    for model in one.service.project.shared_models:
        if model.has_read_through:
            hits, misses = one.caches.get(model.entity, (None, None))
            data |= {f"{model.entity}_cache_hits": hits, f"{model.entity}_cache_misses": misses}
    return {**data, "state": one.state.value}
