"""The command line: each module holds some commands, and how what they found is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pgsplit.project.project import Service, select

Command = TypeVar("Command", bound=Callable[..., Any])


def services_argument(command: Command) -> Command:
    """Give a command the argument SERVICE…; none means all six, in phase order."""
    return click.argument("names", metavar="[SERVICE]...", nargs=-1)(command)


def one_service(command: Command) -> Command:
    """Give a command the argument SERVICE, which it gets as `Service`."""
    return click.argument("service", metavar="SERVICE", callback=_service)(command)


def _service(ctx: click.Context, param: click.Parameter, value: str) -> Service:
    return select((value,))[0]


def json_option(command: Command) -> Command:
    """Give a command the option --json."""
    option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    return option(command)
