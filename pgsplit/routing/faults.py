"""What is wrong with the file that says where a service's applications read and write."""

from __future__ import annotations

from typing import Any

import psycopg

from pgsplit.base.errors import ConnectionFailed, NotReady
from pgsplit.postgres.connect import SHORT_TIMEOUT_SECONDS, connect, is_one_database
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.routing import applications, env_file
from pgsplit.routing.applications import Written
from pgsplit.routing.routes import Routes, file, load, place

Fault = tuple[str, str]


def of_file(
    service: Service, connections: Connections, monolith: psycopg.Connection[Any]
) -> list[Fault]:
    """Find what keeps a service's file from leading applications where they belong.

    Args:
        service: a service that is provisioned.
        connections: the folder with its file, and where its database is.
        monolith: a connection to it; its ledger remembers who wrote the file last.

    Returns:
        What is wrong, and the command that fixes it.
    """
    path, written = file(service, connections), applications.last_written(monolith, service)
    try:
        routes = load(service, connections)
        own = routes.own if routes else env_file.read_url(path)
    except NotReady as error:
        what = error.what if str(path) in error.what else f"{path}: {error.what}"
        return [(what.rstrip("."), error.hint)]
    another = another_password(service, connections, written)
    if not own:
        lost = f"{path} is missing, and with it the password of {service.login}"
        return [(lost, another)]
    if routes is None:
        return [
            (
                f"{path} does not say where the applications of {service.database} read and write",
                f"runner.py provision {service.role}",
            )
        ]
    found = strange(service, connections, routes)
    if not found and is_refused(service, connections):
        return [(f"{path} has a password that {service.login} no longer has", another)]
    return found


def strange(service: Service, connections: Connections, routes: Routes) -> list[Fault]:
    """Find out whether a file belongs to other servers, such as those of the demo."""
    path, here = file(service, connections), connections.urls[service.database]
    if not is_one_database(routes.own, here):
        return [
            (
                f"{path} is for another server, {place(routes.own)}; {service.database} is"
                f" {place(here)}",
                f"runner.py provision {service.role} --new-password\n"
                f"It keeps that file under another name. If {service.database} has not moved, set"
                f" {service.database.upper()}_URL instead.",
            )
        ]
    if applications.is_of_another_monolith(routes, connections):
        return [
            (
                f"{path} names another monolith, {place(routes.monolith)}; this one is"
                f" {place(connections.monolith_url)}",
                f"runner.py provision {service.role}",
            )
        ]
    return []


def wrong_sides(
    service: Service,
    connections: Connections,
    monolith: psycopg.Connection[Any],
    *,
    is_switched: bool,
) -> list[Fault]:
    """Find out whether a file leads applications to the wrong side, as an older copy of it does.

    Args:
        service: a provisioned service without an unfinished operation.
        connections: the folder with its file.
        monolith: a connection to it; its ledger knows the right sides.
        is_switched: whether the service is switched or completed.

    Returns:
        What is wrong, and the command that fixes it; nothing without a file.
    """
    if not (routes := load(service, connections)):
        return []
    reads, writes = applications.sides_wanted(monolith, service, routes, is_switched=is_switched)
    return [
        (
            f"{file(service, connections)} says that {what} go to the {says.value}; they belong to"
            f" the {wanted.value}",
            f"runner.py provision {service.role}",
        )
        for what, says, wanted in (
            ("writes", routes.writes_at, writes),
            ("reads", routes.reads_at, reads),
        )
        if says is not wanted
    ][:1]


def another_password(service: Service, connections: Connections, written: Written | None) -> str:
    """Give the command that gives a service another password, and where its file was written."""
    hint = f"runner.py provision {service.role} --new-password"
    if written and written.is_elsewhere(service, connections):
        hint += f"\nor, to keep the password, copy the file from {written.host}:{written.path}"
    return hint


def is_refused(service: Service, connections: Connections) -> bool:
    """Tell whether the server refuses the password in a service's file; not whether it answers."""
    try:
        own = env_file.own_url(service, connections)
        connect(own, service.database, connect_timeout=SHORT_TIMEOUT_SECONDS).close()
    except ConnectionFailed as error:
        return "password authentication failed" in error.what
    return False
