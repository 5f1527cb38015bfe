"""Arguments and options that several commands take, and the project that a command is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pgsplit.base.errors import SplitError
from pgsplit.base.text import duration
from pgsplit.project.endpoints import Connections, resolve
from pgsplit.project.project import Project, Service, find
from pgsplit.replication import sync

CONTROL = "control"
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


def select_built(connections: Connections, names: tuple[str, ...]) -> list[Service]:
    """Find the named services; without a name, those that have been built."""
    return connections.project.select(names) if names else sync.built(connections)


def complete_service(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Give the services' short names that begin so, for the shell; those given are left out."""
    return _beginning(ctx, incomplete)


def complete_target(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Give the services' short names and `monolith` that begin so, for the shell."""
    return _beginning(ctx, incomplete, "monolith")


def complete_backup(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Give the services' short names and `control` that begin so, for the shell."""
    return _beginning(ctx, incomplete, CONTROL)


def _beginning(ctx: click.Context, incomplete: str, *others: str) -> list[str]:
    try:
        services = find(ctx.find_root().params.get("project_dir")).services.values()
    except SplitError:
        return []
    given = ctx.params.get("names") or ()
    names = [*others, *(one.role for one in services)]
    return [name for name in names if name.startswith(incomplete) and name not in given]


def services_argument(command: Command) -> Command:
    """Give a command the argument SERVICE…; none means all, in phase order."""
    return click.argument(
        "names", metavar="[SERVICE]...", nargs=-1, shell_complete=complete_service
    )(command)


def one_service(command: Command) -> Command:
    """Give a command the argument SERVICE, which it gets as a `Service`."""
    return click.argument(
        "service", metavar="SERVICE", callback=_service, shell_complete=complete_service
    )(command)


def _service(ctx: click.Context, param: click.Parameter, value: str) -> Service:
    return current_project().select((value,))[0]


def json_option(command: Command) -> Command:
    """Give a command the option --json."""
    option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    return option(command)


class Duration(click.ParamType[float]):
    """A time such as 500ms, 5s or 1min, given in seconds.

    Args:
        least: the shortest time that is allowed, in seconds.
        most: the longest.
    """

    name = "time"

    def __init__(self, least: float = 0.05, most: float = 600.0) -> None:
        self.least, self.most = least, most

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read a time; a number without a unit is in seconds."""
        if isinstance(value, float):
            return value
        length = duration(str(value))
        if length is None or not self.least <= length <= self.most:
            self.fail(
                f"{value!r} is not a time between {self.least * 1000:g}ms and"
                f" {self.most / 60:g}min, such as 500ms or 5s",
                param,
                ctx,
            )
        return length


max_pause = click.option(
    "--max-pause",
    type=Duration(),
    default="5s",
    show_default=True,
    help="How long writers may be blocked; after that, everything is undone.",
)
dry_run = click.option("--dry-run", is_flag=True, help="Run all checks and change nothing.")
no_backup = click.option("--no-backup", is_flag=True, help="Don't make a backup first.")
