"""`status`: shows where services stand and how far they lag behind."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import rich_click as click

from pgsplit.base.errors import ConnectionFailed, NotReady, SplitError
from pgsplit.base.text import ago, rfc3339, seconds, size
from pgsplit.cli import console
from pgsplit.cli.console import out
from pgsplit.cli.options import Duration, connect_project, json_option, services_argument
from pgsplit.observe import status
from pgsplit.observe.own_status import own_statuses
from pgsplit.observe.status import Status

NUMBERS = re.compile(r"\d[\d.,]*")
MIRROR = {"follows": "[green]follows[/]", "starting": "starting", "": ""}


@click.command("status")
@services_argument
@click.option(
    "--max-lag", type=Duration(most=86400.0), help="Warn of a longer lag [default: 5min]."
)
@click.option(
    "--watch",
    is_flag=False,
    flag_value="2s",
    type=Duration(least=0.5, most=3600.0),
    metavar="TIME",
    help="Look again and again until Ctrl-C; every 2s if no time is given.",
)
@json_option
def command(
    names: tuple[str, ...], max_lag: float | None, watch: float | None, as_json: bool
) -> None:
    """Show where each SERVICE stands and how far it lags behind.

    If something is wrong it prints how to fix it, and exits with 4. So does a lag above --max-lag,
    which the variable …_MAX_LAG sets for all commands. If the control database can't be reached, it
    shows what services' own databases tell, and exits with 3. With --watch, a terminal shows the
    present status; into a file or a pipe it prints a line when something has changed.
    """
    if watch and as_json:
        raise click.UsageError("--watch and --json exclude each other.")
    connections = connect_project()
    services = connections.project.select(names)
    limit = connections.max_lag_seconds if max_lag is None else max_lag

    def look() -> tuple[list[Status], ConnectionFailed | None]:
        try:
            return [status.status(service, connections, limit) for service in services], None
        except ConnectionFailed as error:  # of the control database; any other is a warning
            return own_statuses(services, connections, error, limit)

    if watch:
        with suppress(KeyboardInterrupt):
            _watch(look, watch)
        return
    found, unreached = look()
    if found:
        console.present(found, as_json, status_as_data, show_status)
    if unreached:
        raise unreached
    if any(one.warnings for one in found):
        sys.exit(NotReady.exit_code)


def _watch(
    look: Callable[[], tuple[list[Status], ConnectionFailed | None]], interval: float
) -> None:
    """Show the status again and again; a server that is down is shown, too."""
    told: dict[str, str] = {}
    while True:
        now = rfc3339(datetime.now(timezone.utc), "seconds")
        try:
            found, unreached = look()
            trouble = str(unreached or "")
        except SplitError as error:
            found, trouble = [], str(error)
        if out.is_terminal:
            out.clear()
            console.say(f"{now}, every {seconds(interval)}; press Ctrl-C to stop.")
            if found:
                show_status(found)
            console.show_warnings(filter(None, [trouble]))
        else:
            lines = {one.service.database: _line(one) for one in found}
            lines |= {"": " ".join(trouble.split())} if trouble else {}
            for name, line in lines.items():
                if told.get(name) != NUMBERS.sub("#", line):
                    print(f"{now} {name}{': ' * bool(name)}{console.named(line)}", flush=True)
            told = {name: NUMBERS.sub("#", line) for name, line in lines.items()}
        time.sleep(interval)


def _line(one: Status) -> str:
    """Say in a line how a service stands; but for numbers it stays the same if nothing happens."""
    back = f"the monolith {one.way_back} it" if one.way_back else ""
    parts = filter(None, [one.state.value, one.replication, back])
    return "; ".join([", ".join(parts), *(" ".join(text.split()) for text in one.warnings)])


def status_as_data(found: Sequence[Status]) -> dict[str, Any]:
    """Give where services stand as plain data for `--json`."""
    return {"services": {one.service.database: _as_data(one) for one in found}}


def _as_data(one: Status) -> dict[str, Any]:
    data = {k: v for k, v in vars(one).items() if k not in ("service", "caches")}
    for model in one.service.project.shared_models:
        if model.has_read_through:
            hits, misses = one.caches.get(model.entity, (None, None))
            data |= {f"{model.entity}_cache_hits": hits, f"{model.entity}_cache_misses": misses}
    warnings = [console.named(warning) for warning in one.warnings]
    return {**data, "state": one.state.value, "warnings": warnings}


def show_status(found: Sequence[Status]) -> None:
    """Print where services stand, their tables, and what is wrong with them."""
    _show_table(found)
    for one in found:
        role = one.service.role
        if one.way_back:
            console.say(f"  {role}: {reverse_replication(one)}")
        elif one.reads_at == "service" and one.writes_at == "monolith":
            console.say(f"  {role}: reads from its own database, writes to the monolith")
    for one in found:
        for entity, (hits, misses) in one.caches.items():
            console.say(
                f"  {one.service.role}: lookups of shared {entity}s: {hits:,} known here,"
                f" {misses:,} fetched from their owner"
            )
    if any(one.rows for one in found):
        out.print("Rows, as the planner estimates them:")
    for one in found:
        if one.rows:
            rows = [f"{name} {count:,}" for name, count in one.rows.items()]
            console.say(console.listed(f"  {one.service.role}:", rows))
    console.show_notes(note for one in found for note in one.notes)
    console.show_warnings(warning for one in found for warning in one.warnings)


def _show_table(found: Sequence[Status]) -> None:
    shown = console.table("service", "state", "mirror", ">lag", ">pending", ">synced", ">WAL")
    shown.columns[0].min_width = max(map(len, found[0].service.project.services))
    for one in found:
        shown.add_row(
            one.service.database,
            one.state.value,
            MIRROR.get(one.replication, f"[red]{one.replication}[/]"),
            "" if one.lag_seconds is None else seconds(one.lag_seconds),
            "" if one.pending is None else f"{one.pending:,}",
            "" if one.synced_at is None else ago(one.synced_at).removesuffix(" ago"),
            "" if one.wal_kept_bytes is None else size(one.wal_kept_bytes),
        )
    out.print(shown)


def reverse_replication(one: Status) -> str:
    """Say how the monolith follows a switched service."""
    lag, kept = one.way_back_lag_seconds, one.way_back_kept_bytes
    said = f"the monolith {one.way_back} it" if one.way_back == "follows" else one.way_back
    if lag is not None:
        said += f", {seconds(lag)} behind the last sync"
    return said + ("" if kept is None else f"; {size(kept)} of WAL kept for it")
