"""Runs the operator's command after a service's routes have changed."""

from __future__ import annotations

import shlex
from contextlib import suppress
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

from pgsplit.base import shell
from pgsplit.base.errors import NotReady
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.routing import env_file

LAST_WORDS = 300
AFTER_CHANGE_SECONDS = 60.0


def announce(service: Service, connections: Connections, seconds: float) -> str:
    """Run the operator's command after a service's routes have changed.

    Args:
        service: the service; the command finds its name in `SERVICE`.
        connections: the command, and the folder of the file that it finds in `CONNECTIONS_FILE`.
        seconds: the time limit; after that the command and its children are killed.

    Returns:
        A warning with the end of the command's output if it failed, else nothing.
    """
    if not connections.after_change:
        return ""
    path = env_file.file(service, connections).resolve()
    environ = {"SERVICE": service.role, "CONNECTIONS_FILE": str(path)}
    how, words = shell.run(connections.after_change, environ, seconds)
    if not how:
        return ""
    words = _without_passwords(words, service, connections)
    variable = connections.project.variable("AFTER_CHANGE")
    words = " ".join(words.split())[-LAST_WORDS:]
    return (
        f"The routes of {service.database} have changed, but the command in {variable} {how}"
        f"{f': {words}' if words else '.'}\nTo run it again: SERVICE={service.role}"
        f' CONNECTIONS_FILE={shlex.quote(str(path))} sh -c "${variable}"'
    )


def _without_passwords(text: str, service: Service, connections: Connections) -> str:
    urls = [*connections.urls.values(), connections.application_url, connections.pgbouncer_url]
    with suppress(NotReady):
        routes = env_file.read(service, connections)
        urls += [routes.own, routes.read, routes.write]
    for url in filter(None, urls):
        password = str(conninfo_to_dict(url).get("password", ""))
        for written in filter(None, (password, quote(password, safe=""))):
            text = text.replace(written, "…")
    return text
