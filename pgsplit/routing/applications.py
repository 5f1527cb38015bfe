"""By which URL a service's applications log in to the monolith, and how that is remembered.

Its file remembers the URL even while they don't use it. The ledger remembers it without the
password, for when the file is lost: applications never get the runner's own login in its place
without a word.
"""

from __future__ import annotations

import shlex
import socket
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgsplit.base.errors import NotReady
from pgsplit.postgres import embedded_url
from pgsplit.postgres.connect import (
    DEFAULTS,
    is_one_database,
    same_database,
    url_of,
    with_database,
)
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.routing.routes import Routes, Side, file, load, place

# What was written last, and since the last abort.
LAST = """
    select detail -> 'routes' from split.ledger
    where
        service = %(service)s and detail ? 'routes'
        and id > (
            select coalesce(max(id), 0) from split.ledger
            where service = %(service)s and step = 'abort' and outcome = 'done'
        )
    order by id desc
    limit 1
"""
# Where readers were moved last; a switch moves them for good, and a rollback back. So does a
# repair, if the service has forgotten its switch.
READS = """
    select case when step = 'point reads' then intent ->> 'at' else 'monolith' end
    from split.ledger
    where
        service = %s and outcome = 'done'
        and (step in ('point reads', 'rollback', 'abort') or step = 'repair' and intent ? 'back')
    order by id desc
    limit 1
"""


@dataclass(frozen=True)
class Written:
    """What the ledger remembers of a service's file: where it is, and the monolith's URL in it.

    The URL has no password here; `had_password` tells whether it has one there.
    """

    host: str
    path: str
    monolith: str
    had_password: bool

    def is_elsewhere(self, service: Service, connections: Connections) -> bool:
        """Tell whether it was written on another machine, or to another folder."""
        here = socket.gethostname(), str(file(service, connections).resolve())
        return (self.host, self.path) != here


def as_written(service: Service, connections: Connections) -> dict[str, object]:
    """Give what the ledger is to remember of a service's file, after it was written."""
    routes = load(service, connections)
    monolith = routes.monolith if routes else ""
    found = conninfo_to_dict(monolith) if monolith else {}
    return {
        "host": socket.gethostname(),
        "path": str(file(service, connections).resolve()),
        "monolith": _without_password(found) if found else "",
        "had_password": bool(found.get("password")),
    }


def last_written(monolith: psycopg.Connection[Any], service: Service) -> Written | None:
    """Read what the ledger remembers of a service's file; None if nothing."""
    row = monolith.execute(LAST, {"service": service.database}).fetchone()
    return Written(**row[0]) if row else None


def sides_wanted(
    monolith: psycopg.Connection[Any], service: Service, routes: Routes | None, *, is_switched: bool
) -> tuple[Side, Side]:
    """Tell where a service's applications are to read and write, by the ledger.

    Args:
        monolith: a connection to it.
        service: a provisioned service without an unfinished operation.
        routes: what its file says, if there is one; it is believed where the ledger is silent.
        is_switched: whether it is switched or completed.

    Returns:
        Where they are to read, and where to write.
    """
    if is_switched:
        return Side.SERVICE, Side.SERVICE
    row = monolith.execute(READS, (service.database,)).fetchone()
    if row:
        return Side(row[0]), Side.MONOLITH
    return (routes.reads_at if routes else Side.MONOLITH), Side.MONOLITH


def monolith_of(
    service: Service, routes: Routes | None, written: Written | None, connections: Connections
) -> tuple[str, str]:
    """Give the URL by which applications log in to the monolith, and a note if it is our own.

    Args:
        service: a service that is provisioned.
        routes: what its file says, if there is one.
        written: what the ledger remembers of it.
        connections: the URL that was given for applications, if one was.

    Returns:
        The URL that was given, or else the one that they have used so far, or else the runner's
        own, with a note.

    Raises:
        NotReady: they have used another login than the runner's, whose URL for this monolith is
            not known.
    """
    if connections.application_url:
        return connections.application_url, ""
    if routes and routes.monolith and not is_of_another_monolith(routes, connections):
        return routes.monolith, ""
    own, known = connections.monolith_url, routes.monolith if routes else ""
    if not known and written:
        known = written.monolith
        if known and not written.had_password:
            return known, ""
    if known and user_of(known) != user_of(own):
        raise NotReady(
            f"The applications of {service.database} log in to the monolith as {user_of(known)};"
            f" their URL for {place(own)} is not known here. Nothing was changed.",
            where=str(file(service, connections)),
            hint=f"{_export(connections, user_of(known))}\nrunner.py provision {service.role}\n"
            f"or, to give them your own login, first: {_export(connections)}",
        )
    return own, "" if connections.embedded else note_of_own(connections)


def is_of_another_monolith(routes: Routes, connections: Connections) -> bool:
    """Tell whether a file's URL of the monolith is for another one than this runner's."""
    if not connections.has_monolith:
        return False
    here = connections.monolith_url
    if not routes.monolith or connections.application_url or same_database(routes.monolith, here):
        return False
    if routes.monolith_is:
        is_here = routes.monolith_is == place(here) or is_one_database(routes.monolith, here)
        return not is_here
    # A file of an earlier version: applications may call the server by another name.
    return embedded_url.is_url(routes.monolith)


def user_of(url: str) -> str:
    """Name the login of a URL."""
    return str(conninfo_to_dict(url).get("user") or "")


def note_of_own(connections: Connections) -> str:
    """Say that applications get the runner's own login, and how to give them another."""
    return (
        f"applications log in to the monolith as {user_of(connections.monolith_url)}, the runner's"
        " own login, since no other was given. To give them one with fewer rights:"
        f" {_export(connections, 'LOGIN')}, then: runner.py provision"
    )


def _export(connections: Connections, user: str = "") -> str:
    """Give the command that names a login for applications; without one, the runner's own."""
    variable, own = (connections.project.variable(of) for of in ("APPLICATION_URL", "URL"))
    if not user:
        return f'export {variable}="${own}"'
    name = str(conninfo_to_dict(connections.monolith_url)["dbname"])
    url = with_database(connections.monolith_url, name, user=user, password="PASSWORD")
    return f"export {variable}={shlex.quote(url)}"


def _without_password(found: dict[str, Any]) -> str:
    return url_of({**DEFAULTS, **{k: str(v) for k, v in found.items() if k != "password"}})
