"""Warns of files of routes that belong to other servers, before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape

from pgsplit.cli.console import err, named
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.routing import faults
from pgsplit.routing.routes import load


def warn_of_strange_files(services: Sequence[Service], connections: Connections) -> None:
    """Print a warning for each service whose file is for another server or another monolith."""
    for service in services:
        if routes := load(service, connections):
            for what, _ in faults.strange(service, connections, routes):
                said = escape(named(what))
                err.print(
                    f"[bold red]warning:[/] {said}; it will be written again.", soft_wrap=True
                )
