"""The throttle's options, and the throttle for the time of a command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import click

from pgsplit.base.text import percent
from pgsplit.cli.progress import Steps
from pgsplit.postgres.throttle.pace import Limits
from pgsplit.postgres.throttle.throttle import Throttle
from pgsplit.project.endpoints import Connections

Command = TypeVar("Command", bound=Callable[..., Any])


class Percent(click.ParamType[float]):
    """A share such as 10%, given as 0.1."""

    name = "percent"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read a share."""
        if isinstance(value, float):
            return value
        share = percent(str(value))
        if share is None:
            self.fail(f"{value!r} is not a share such as 10%", param, ctx)
        return share


@dataclass(frozen=True)
class Asked:
    """What a command's options ask for: how much slower writes may be, and a low priority."""

    max_impact: float | None
    is_nice: bool


def throttle_options(command: Command) -> Command:
    """Give a command the options --max-impact and --nice, which it gets as `asked`."""

    def called(*args: Any, max_impact: float | None, nice: bool, **others: Any) -> Any:
        return command(*args, asked=Asked(max_impact, nice), **others)

    called.__doc__ = command.__doc__
    called.__dict__.update(command.__dict__)
    for option in (
        click.option("--nice", is_flag=True, help="Work with a low CPU priority."),
        click.option(
            "--max-impact",
            type=Percent(),
            metavar="PERCENT",
            help="Slow down or pause if writes on the monolith take so much longer, such as 10%.",
        ),
    ):
        called = option(called)
    return called  # type: ignore[return-value]


@contextmanager
def throttled(connections: Connections, asked: Asked, watcher: Steps) -> Iterator[Connections]:
    """Throttle a command's work for the block, if it is asked for; show what the throttle does.

    Args:
        connections: the command's.
        asked: what its options ask for; the project's settings count if they ask for nothing.
        watcher: shows progress.

    Yields:
        Connections whose work is throttled.
    """
    max_impact = asked.max_impact or connections.max_impact
    if not connections.has_monolith or not (max_impact or asked.is_nice):
        yield connections
        return
    lag = connections.max_lag_seconds
    throttle = Throttle(
        connections.place(connections.monolith),
        connections.place(connections.control),
        Limits(max_impact, lag) if max_impact else None,
        lag,
    )
    with watcher.step("throttle") as step:
        throttle.on_news = step.say
        with throttle:
            yield replace(connections, throttle=throttle)
        step.say(throttle.summary)
    for place, why in throttle.unlowered.items() if asked.is_nice else ():
        watcher.print_long(f"note: sessions in {place} kept their priority: {why}")
