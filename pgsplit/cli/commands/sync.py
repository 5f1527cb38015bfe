"""`sync`: brings services' tables up to date with the monolith, once or until Ctrl-C."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import rich_click as click

from pgsplit.base import service_manager
from pgsplit.base.notices import Notifier
from pgsplit.cli import console
from pgsplit.cli.console import out
from pgsplit.cli.following import following
from pgsplit.cli.options import connect_project, json_option, select_built, services_argument
from pgsplit.cli.reload import reloadably
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import sync
from pgsplit.replication.follow import follow_all
from pgsplit.replication.sync import Synced


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
    time: changes wait until it runs again. Into a file or a pipe it prints a line when something
    happens, and at least one a minute. With --json each line is a JSON document.
    """
    if follow:
        with suppress(KeyboardInterrupt):
            reloadably(connect_project, lambda now: _follow(names, now, interval, as_json))
        service_manager.tell(STOPPING=1)
        return
    connections = connect_project()
    services = select_built(connections, names)
    with console.watching() as watcher:
        synced = {}
        for service in services:
            with watcher.step(f"{service.role}: sync") as step:
                synced[service] = sync.sync(service, connections)
                step.say(f"{synced[service].rows:,} rows")
    console.present(synced, as_json, synced_as_data, show_synced)


def _follow(
    names: tuple[str, ...], connections: Connections, interval: float, as_json: bool
) -> None:
    """Follow until Ctrl-C, SIGTERM or SIGHUP."""
    services = select_built(connections, names)
    with (
        Notifier(connections.notify, connections.notify_url) as notifier,
        following(services, as_json, connections.max_lag_seconds, notifier) as view,
    ):
        follow_all(services, connections, view.tick, interval)


def synced_as_data(synced: Mapping[Service, Synced]) -> dict[str, Any]:
    """Give what was applied as plain data for `--json`."""
    return {"services": {service.database: vars(one) for service, one in synced.items()}}


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
