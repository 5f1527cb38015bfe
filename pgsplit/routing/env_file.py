"""The file with a service's routes: the URLs by which its applications read and write.

`connections/payments.env` has three variables; a shell, docker compose and python-dotenv read them
alike. With a PgBouncer, `connections/pgbouncer.ini` has the same routes, of all services.
"""

from __future__ import annotations

import fcntl
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import psycopg
from dotenv.parser import parse_stream
from psycopg.conninfo import conninfo_to_dict

from pgsplit.base import files
from pgsplit.base.errors import NotReady, SplitError
from pgsplit.postgres.connect import describe, same_database
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.routing import pgbouncer

CONTENT = """\
# Where the applications of {role} find their data. runner.py writes this file; don't edit it.
# SERVICE_URL: its own login on its own database. READ_URL, WRITE_URL: where they read and write.
{variable}_SERVICE_URL='{own}'
{variable}_READ_URL='{read}'
{variable}_WRITE_URL='{write}'
"""


class Side(Enum):
    """The side to which applications are routed."""

    MONOLITH = "monolith"
    SERVICE = "service"


@dataclass(frozen=True)
class Routes:
    """A service's own URL, and the URLs by which its applications read and write."""

    own: str
    read: str
    write: str

    @property
    def reads_at(self) -> Side:
        """Where applications read."""
        return Side.SERVICE if self.read == self.own else Side.MONOLITH

    @property
    def writes_at(self) -> Side:
        """Where applications write."""
        return Side.SERVICE if self.write == self.own else Side.MONOLITH


def file(service: Service, connections: Connections) -> Path:
    """Name the file with a service's routes."""
    return connections.folder / f"{service.role}.env"


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
    path = file(service, connections)
    found = _load(service, connections)
    if found is None:
        raise NotReady(
            f"There are no routes yet for the applications of {service.database}.",
            where=str(path),
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
            service's can't be understood, or PgBouncer doesn't use the new routes.
        ConnectionFailed: PgBouncer can't be reached.
    """
    with _locked(connections):
        was = read(service, connections)
        own = own_url(service, connections)
        reads, writes = reads_at or was.reads_at, writes_at or was.writes_at
        _store(service, connections, _routes(own, reads, writes, was, connections))
        try:
            _tell_pgbouncer(connections, service)
        except BaseException:
            _store(service, connections, was)
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
    found = _load(service, connections)
    return (found.reads_at, found.writes_at) if found else (otherwise, otherwise)


def establish(
    service: Service, connections: Connections, own: str, sides: tuple[Side, Side]
) -> list[str]:
    """Write a service's file, perhaps with a new URL of its own.

    The monolith's URL in it stays, unless another one was given for applications.

    Args:
        service: a service with a database and a login.
        connections: the folder with its file, and the PgBouncer.
        own: the service's own URL.
        sides: where its applications read and write.

    Returns:
        A note for the operator if PgBouncer doesn't use the new routes.

    Raises:
        NotReady: its file can't be understood.
    """
    with _locked(connections):
        was = _load(service, connections)
        _store(service, connections, _routes(own, *sides, was, connections))
        try:
            _tell_pgbouncer(connections, service)
        except SplitError as error:
            # At first, PgBouncer may need this file before it can start.
            return [f"{error.what} {error.hint}"]
    return []


def read_url(path: Path) -> str:
    """Read a service's own URL from its file.

    Args:
        path: `connections/SERVICE.env`.

    Returns:
        A PostgreSQL URL with a password; nothing if there is none.
    """
    return next((url for name, url in _urls(path).items() if name.endswith("_SERVICE_URL")), "")


def has_own_url(service: Service, connections: Connections) -> bool:
    """Tell whether a service has a URL of its own on its present server."""
    own = read_url(file(service, connections))
    return bool(own) and same_database(own, connections.urls[service.database])


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
    if not same_database(own, connections.urls[service.database]):
        raise NotReady(
            f"{path} is for another server; {service.database} is elsewhere now.",
            where=describe(connections.urls[service.database]),
            hint=f"runner.py provision {service.role} --new-password",
        )
    return own


def require_folder(connections: Connections) -> None:
    """Create the folder for the services' files, before there is a password to lose.

    Args:
        connections: where it shall be.

    Raises:
        NotReady: it can't be created.
    """
    folder = connections.folder
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise NotReady(
            f"The services' own URLs can't be written: {error}",
            where=str(folder),
            hint="Name a folder that you may write to: export"
            f" {connections.project.variable('CONNECTIONS')}=…",
        ) from error


def _routes(
    own: str, reads_at: Side, writes_at: Side, was: Routes | None, connections: Connections
) -> Routes:
    monolith = connections.application_url
    if was and monolith == connections.monolith_url:
        # No URL was given for applications: the one that they have used so far stays.
        used = [url for url in (was.write, was.read) if url != was.own]
        monolith = used[0] if used else monolith
    urls = {Side.MONOLITH: monolith, Side.SERVICE: own}
    return Routes(own, urls[reads_at], urls[writes_at])


def _urls(path: Path) -> dict[str, str]:
    """Read the variables of a file that are PostgreSQL URLs; none if there is no file."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8") as lines:
        return {
            one.key: one.value
            for one in parse_stream(lines)
            if one.key and one.value and _is_url(one.value)
        }


def _is_url(text: str) -> bool:
    try:
        return text.isprintable() and bool(conninfo_to_dict(text).get("dbname"))
    except psycopg.ProgrammingError:
        return False


def _load(service: Service, connections: Connections) -> Routes | None:
    """Read a service's file; None if there is none, or an old one without READ and WRITE."""
    path = file(service, connections)
    if not path.exists():
        return None
    names = [f"{service.role.upper()}_{of}_URL" for of in ("SERVICE", "READ", "WRITE")]
    urls, text = _urls(path), path.read_text(encoding="utf-8")
    lacking = [name for name in names if name not in urls]
    if not lacking:
        return Routes(*(urls[name] for name in names))
    if lacking == names[1:] and not any(name in text for name in lacking):
        return None
    raise NotReady(
        f"The file has no {' and no '.join(lacking)} that can be understood.",
        where=str(path),
        hint="Write it as VARIABLE='postgresql://…', or have the file created again:\n"
        f"rm {shlex.quote(str(path))} && runner.py provision {service.role} --new-password",
    )


def _store(service: Service, connections: Connections, routes: Routes) -> None:
    for url in (routes.own, routes.read, routes.write):
        # A shell and python-dotenv would read two backslashes differently.
        if "'" in url or "\\\\" in url or not url.isprintable():
            raise NotReady(
                f"A URL for the applications of {service.database} has a quote, a line break or two"
                " backslashes in a row.",
                where=describe(url),
                hint="Write such characters percent-encoded: ' as %27.",
            )
    content = CONTENT.format(role=service.role, variable=service.role.upper(), **vars(routes))
    files.replace(file(service, connections), content)


def _tell_pgbouncer(connections: Connections, changed: Service) -> None:
    """Write PgBouncer's file from those of all services, and check that PgBouncer uses it."""
    if not connections.pgbouncer_url:
        return
    databases: dict[str, str] = {}
    for service in connections.project.services.values():
        if routes := _load(service, connections):
            databases[service.role] = routes.write
            databases[pgbouncer.reads_of(service)] = routes.read
    path = connections.folder / "pgbouncer.ini"
    files.replace(path, pgbouncer.render(path, databases))
    pgbouncer.reload(
        connections.pgbouncer_url,
        path,
        databases,
        reconnect=(changed.role, pgbouncer.reads_of(changed)),
    )


@contextmanager
def _locked(connections: Connections) -> Iterator[None]:
    """Let one runner at a time write in the folder: PgBouncer's file is made from all others."""
    require_folder(connections)
    handle = os.open(connections.folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
