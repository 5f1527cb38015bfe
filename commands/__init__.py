"""The command line: each module holds some commands, and how what they found is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def services_argument(command: Command) -> Command:
    """Give a command the argument SERVICE…; none means all six, in phase order."""
    return click.argument("names", metavar="[SERVICE]...", nargs=-1)(command)


def json_option(command: Command) -> Command:
    """Give a command the option --json."""
    option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    return option(command)
