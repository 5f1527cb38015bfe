"""Where a service's applications read and write: routing them, and their logins.

`connections/payments.env` says it; see `routes`. With a PgBouncer, `connections/pgbouncer.ini` has
the same routes, of all services.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timezone

from pgsplit.base.errors import NotReady, SplitError
from pgsplit.postgres.connect import describe, is_one_database
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.routing import pgbouncer
from pgsplit.routing.routes import (
    Routes,
    Side,
    file,
    keep,
    load,
    locked,
    place,
    read_url,
    require_folder,
    store,
    write,
)

__all__ = ["Routes", "Side", "file", "read_url", "require_folder"]


def read(service: Service, connections: Connections) -> Routes:
    """Read a service's routes.

    Args:
        service: a provisioned service.
        connections: the folder with its file.

    Returns:
        Its own URL, and those for reading and writing.

    Raises:
        NotReady: there is no such file, or it can't be understood.
    """
    found = load(service, connections)
    if found is None:
        raise NotReady(
            f"There are no routes yet for the applications of {service.database}.",
            where=str(file(service, connections)),
            hint=f"runner.py provision {service.role}",
        )
    return found


def route_to(
    service: Service,
    connections: Connections,
    *,
    reads_at: Side | None = None,
    writes_at: Side | None = None,
) -> Routes:
    """Route a service's applications to the monolith or to its own database.

    Atomic and idempotent: a reader finds either the old file or the new one. PgBouncer, if there is
    one, uses the new routes when this returns; if it refuses, the old ones are restored.

    Args:
        service: a provisioned service.
        connections: the folder with its file, and the PgBouncer.
        reads_at: where applications shall read; None leaves it unchanged.
        writes_at: where they shall write; None leaves it unchanged.

    Returns:
        The routes before.

    Raises:
        NotReady: the service has no login of its own on its server, its file or another
            service's can't be understood or written, or PgBouncer doesn't use the new routes.
        ConnectionFailed: PgBouncer can't be reached.
    """
    with locked(connections):
        was = read(service, connections)
        own = own_url(service, connections)
        monolith = connections.application_url or was.monolith or connections.monolith_url
        sides = reads_at or was.reads_at, writes_at or was.writes_at
        store(service, connections, _routes(own, sides, monolith, connections))
        try:
            _tell_pgbouncer(connections, service)
        except BaseException:
            store(service, connections, was)
            with suppress(SplitError):
                _tell_pgbouncer(connections, service)
            raise
        return was


def sides(
    service: Service, connections: Connections, otherwise: Side = Side.MONOLITH
) -> tuple[Side, Side]:
    """Tell where a service's applications read and write.

    Args:
        service: a service, provisioned or not.
        connections: the folder with its file.
        otherwise: the side to give if there is no such file.

    Returns:
        Where they read and where they write.

    Raises:
        NotReady: its file can't be understood.
    """
    found = load(service, connections)
    return (found.reads_at, found.writes_at) if found else (otherwise, otherwise)


def establish(
    service: Service,
    connections: Connections,
    own: str,
    monolith: str,
    sides: tuple[Side, Side],
) -> list[str]:
    """Write a service's file, perhaps with a new URL of its own.

    A file for another server, which only shares the folder, is kept under another name.

    Args:
        service: a service with a database and a login.
        connections: the folder with its file, and the PgBouncer.
        own: the service's own URL.
        monolith: the URL by which its applications log in to the monolith.
        sides: where its applications read and write.

    Returns:
        Notes for the operator: on a file that is kept, and if PgBouncer doesn't use the new routes.

    Raises:
        NotReady: the file can't be written.
    """
    with locked(connections):
        notes = _keep_of_others(service, connections)
        store(service, connections, _routes(own, sides, monolith, connections))
        try:
            _tell_pgbouncer(connections, service)
        except SplitError as error:
            # At first, PgBouncer may need this file before it can start.
            notes.append(f"{error.what} {error.hint}")
    return notes


def has_own_url(service: Service, connections: Connections) -> bool:
    """Tell whether a service has a URL of its own on its present server."""
    own = read_url(file(service, connections))
    return bool(own) and is_one_database(own, connections.urls[service.database])


def own_url(service: Service, connections: Connections) -> str:
    """Give the URL by which a service itself connects.

    Args:
        service: a provisioned service.
        connections: where its database is, and the folder with its file.

    Returns:
        A PostgreSQL URL with a password.

    Raises:
        NotReady: it has none yet, or one for another server.
    """
    path = file(service, connections)
    own = read_url(path)
    if not own:
        raise NotReady(
            f"{service.database} has no login of its own yet.",
            where=str(path),
            hint=f"runner.py provision {service.role}",
        )
    if not is_one_database(own, connections.urls[service.database]):
        raise NotReady(
            f"{path} is for another server; {service.database} is elsewhere now.",
            where=describe(connections.urls[service.database]),
            hint=f"runner.py provision {service.role} --new-password",
        )
    return own


def _routes(own: str, sides: tuple[Side, Side], monolith: str, connections: Connections) -> Routes:
    urls = {Side.MONOLITH: monolith, Side.SERVICE: own}
    reads, writes = (urls[side] for side in sides)
    return Routes(own, reads, writes, monolith, place(connections.monolith_url))


def _keep_of_others(service: Service, connections: Connections) -> list[str]:
    """Copy a file that is for another server; its password may be the only copy."""
    path = file(service, connections)
    own = read_url(path)
    if not own or is_one_database(own, connections.urls[service.database]):
        return []
    kept = path.with_name(f"{path.name}.{datetime.now(timezone.utc):%Y%m%d-%H%M%S}")
    keep(path, kept)
    return [f"{path} was for {place(own)}; that file is called {kept.name} now"]


def _tell_pgbouncer(connections: Connections, changed: Service) -> None:
    """Write PgBouncer's file from those of all services, and check that PgBouncer uses it."""
    if not connections.pgbouncer_url:
        return
    databases: dict[str, str] = {}
    for service in connections.project.services.values():
        if routes := load(service, connections):
            databases[service.role] = routes.write
            databases[pgbouncer.reads_of(service)] = routes.read
    path = connections.folder / "pgbouncer.ini"
    write(path, pgbouncer.render(path, databases))
    pgbouncer.reload(
        connections.pgbouncer_url,
        path,
        databases,
        reconnect=(changed.role, pgbouncer.reads_of(changed)),
    )
