"""`rollout`: lets a share of users read a service's database before the switch."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import rich_click as click

from pgsplit.base.errors import NotReady
from pgsplit.base.notices import Notice, Notifier
from pgsplit.cli import console
from pgsplit.cli.options import Duration, connect_project, json_option, one_service
from pgsplit.cutover import rollout
from pgsplit.cutover.rollout import Rollout
from pgsplit.observe.vitals.gather import Watch
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.state.ledger import State

LOOKS_APART_SECONDS = 1.0
# A single look may fail for a moment, as when a server restarts.
LOOKS_THAT_COUNT = 2


class Percent(click.ParamType[int]):
    """A share such as 25% or 25, given in percent."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read a whole number from 0 to 100, with or without its sign."""
        text = str(value).removesuffix("%").strip()
        if not text.isascii() or not text.isdigit() or int(text) > 100:
            self.fail(f"{value!r} is no share from 0% to 100% in whole percent", param, ctx)
        return int(text)


@click.command("rollout")
@one_service
@click.option("--reads", type=Percent(), help="The share of users to let read it, such as 5%.")
@click.option("--guard", is_flag=True, help="Stay; send all users back if it becomes unhealthy.")
@click.option(
    "--max-lag",
    type=Duration(most=86400.0),
    help="With --guard: a longer lag is unhealthy [default: 5min].",
)
@json_option
def command(
    service: Service, reads: int | None, guard: bool, max_lag: float | None, as_json: bool
) -> None:
    """Show or set which share of users reads SERVICE's database before the switch.

    A feature flag in connections/flags.json says so, in the format of flagd; applications ask it
    with the OpenFeature SDK of their language. The monolith remains the source of truth. A larger
    share needs a verified service that follows; a smaller one needs no server at all. With --guard
    the command stays, and sets the share to 0% as soon as the service is unhealthy.
    """
    if guard and as_json:
        raise click.UsageError("--guard and --json exclude each other.")
    connections = connect_project()
    if reads is None:
        done = rollout.show(service, connections)
    else:
        done = rollout.roll_out(service, connections, reads)
    console.present(done, as_json, as_data, show)
    if guard:
        with suppress(KeyboardInterrupt):
            _guard(service, connections, max_lag or connections.max_lag_seconds)


def _guard(service: Service, connections: Connections, max_lag: float) -> None:
    """Look at a service's health until it has failed twice, one look after the other.

    While it is switched nobody is sent anywhere: both answers of the flag lead to its database.

    Raises:
        NotReady: it has, and all users were sent back.
    """
    watch, failed = Watch(connections, [service], max_lag), 0
    console.err.print("Guarding; press Ctrl-C to stop, which leaves the share as it is.")
    while rollout.show(service, connections).percent:
        found = watch.look()
        state = found.services[0].vitals.state
        failed = 0 if found.is_well or state is State.SWITCHED else failed + 1
        if state is State.COMPLETED:
            break
        if failed == LOOKS_THAT_COUNT:
            done = rollout.roll_out(service, connections, 0)
            show(done)
            why = "; ".join(one.splitlines()[0] for one in found.problems)
            text = f"All users of {service.role} were sent back: {why}"
            with Notifier(connections.notify, connections.notify_url) as notifier:
                notifier.send(Notice("rollout", service.database, text, {"before": done.before}))
            raise NotReady(
                text,
                where=service.database,
                hint=f"runner.py health {service.role}\n"
                f"Once it is well: runner.py rollout {service.role} --reads {done.before}% --guard",
            )
        time.sleep(LOOKS_APART_SECONDS)
    console.err.print("No user could be sent back to the monolith: there is nothing to guard.")


def as_data(done: Rollout) -> dict[str, Any]:
    """Give the share as plain data for `--json`."""
    return {
        "service": done.service.database,
        "percent": done.percent,
        "before": done.before,
        "flag": done.flag,
        "file": str(done.file),
        "notes": done.notes,
    }


def show(done: Rollout) -> None:
    """Print the share, and the flag that has it."""
    was = f"; it was {done.before}%" * (done.before != done.percent)
    console.say(f"{done.percent}% of users read {done.service.database}{was}.")
    console.say(f"Flag {done.flag} in {done.file} says so.")
    console.show_notes(done.notes)
