"""The command line: each module holds some commands, and how what they found is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pgsplit.project.endpoints import Connections, resolve
from pgsplit.project.project import Project, Service, find

Command = TypeVar("Command", bound=Callable[..., Any])


def current_project() -> Project:
    """Give the project that this command is about; see `find`."""
    root = click.get_current_context().find_root()
    if root.obj is None:
        root.obj = find(root.params.get("project_dir"))
    project: Project = root.obj
    return project


def connect_project() -> Connections:
    """Give the databases of the project that this command is about; see `resolve`."""
    return resolve(current_project())


def services_argument(command: Command) -> Command:
    """Give a command the argument SERVICE…; none means all, in phase order."""
    return click.argument("names", metavar="[SERVICE]...", nargs=-1)(command)


def one_service(command: Command) -> Command:
    """Give a command the argument SERVICE, which it gets as `Service`."""
    return click.argument("service", metavar="SERVICE", callback=_service)(command)


def _service(ctx: click.Context, param: click.Parameter, value: str) -> Service:
    return current_project().select((value,))[0]


def json_option(command: Command) -> Command:
    """Give a command the option --json."""
    option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    return option(command)
