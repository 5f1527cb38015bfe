"""Where a service's applications read and write, and pointing them elsewhere all at once.

`connections/payments.env` says it, in three variables that a shell, docker compose and
python-dotenv read alike. Where there is a PgBouncer, `connections/pgbouncer.ini` says the same
of all services to it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgsplit.base.errors import NotReady, SplitError
from pgsplit.postgres.connect import describe
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.routing import pgbouncer

LINE = re.compile(r"""(?:export )?([A-Z_]+)=(['"]?)([^'"]*)\2""")
CONTENT = """\
# Where the applications of {role} find their data. runner.py writes all of this file.
# SERVICE_URL: its own login on its own database. READ_URL, WRITE_URL: where they read and write.
{variable}_SERVICE_URL='{own}'
{variable}_READ_URL='{read}'
{variable}_WRITE_URL='{write}'
"""
LAST_WORDS = 300


class Side(Enum):
    """Where applications can be pointed."""

    MONOLITH = "monolith"
    SERVICE = "service"


@dataclass(frozen=True)
class Routes:
    """A service's own URL, and those by which its applications read and write now."""

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
    """Name the file that tells a service's applications where to read and write."""
    return connections.folder / f"{service.role}.env"


def read(service: Service, connections: Connections) -> Routes:
    """Read where a service's applications are pointed.

    Args:
        service: a provisioned service.
        connections: the folder that its URLs were written to.

    Returns:
        Its own URL, and those for reading and writing.

    Raises:
        NotReady: there is no such file, or it can't be understood.
    """
    path = file(service, connections)
    found = _load(service, connections)
    if found is None:
        raise NotReady(
            f"Nothing says yet where the applications of {service.database} read and write.",
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
    """Point a service's applications at the monolith or at its own database.

    Atomic and idempotent: whoever reads the file finds either what it said before or all of what
    it says now. PgBouncer, if there is one, has taken it over when this returns; if it does not,
    everything is put back.

    Args:
        service: a provisioned service.
        connections: the folder that its URLs were written to, and the PgBouncer.
        reads_at: where applications are to read; unchanged if not given.
        writes_at: where they are to write; unchanged if not given.

    Returns:
        Where they were pointed before.

    Raises:
        NotReady: the service has no login of its own on its server, its file or another
            service's can't be understood, or PgBouncer does not take the change over.
        ConnectionFailed: PgBouncer can't be reached.
    """
    with _locked(connections):
        was = read(service, connections)
        own = own_url(service, connections)
        reads, writes = reads_at or was.reads_at, writes_at or was.writes_at
        _store(service, connections, _target(own, reads, writes, was, connections))
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
        connections: the folder that its URLs were written to.
        otherwise: what to say if there is no file that says it.

    Returns:
        Where they read and where they write.

    Raises:
        NotReady: its file can't be understood.
    """
    found = _load(service, connections)
    return (found.reads_at, found.writes_at) if found else (otherwise, otherwise)


def establish(
    service: Service, connections: Connections, own: str, places: tuple[Side, Side]
) -> list[str]:
    """Write a service's file with what may be another URL of its own.

    A monolith's URL that is there stays, unless another one was given for applications.

    Args:
        service: a service with a database and a login.
        connections: the folder that its URLs are written to, and the PgBouncer.
        own: the service's own URL.
        places: where its applications read and write.

    Returns:
        What an operator should know, if PgBouncer did not take it over.

    Raises:
        NotReady: its file can't be understood.
    """
    with _locked(connections):
        was = _load(service, connections)
        _store(service, connections, _target(own, *places, was, connections))
        try:
            _tell_pgbouncer(connections, service)
        except SplitError as error:
            # The first time PgBouncer may be waiting for the file before it can start.
            return [f"{error.what} {error.hint}"]
    return []


def announce(service: Service, connections: Connections, seconds: float) -> str:
    """Run the operator's command after a service was pointed elsewhere.

    Args:
        service: the service, which the command finds in `SERVICE`.
        connections: the command, and the folder of the file that it finds in `CONNECTIONS_FILE`.
        seconds: how long it may take; after that it is ended with all that it started.

    Returns:
        A warning with the command's last words if it failed, else nothing.
    """
    if not connections.after_change:
        return ""
    path = file(service, connections).resolve()
    environ = {**os.environ, "SERVICE": service.role, "CONNECTIONS_FILE": str(path)}
    # A file and not a pipe: what the command leaves running would keep a pipe open.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            ["/bin/sh", "-c", connections.after_change],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environ,
            start_new_session=True,
        )
        try:
            how = f"ended with exit code {process.wait(seconds)}"
        except subprocess.TimeoutExpired:
            how = f"did not end within {seconds:g} seconds and was stopped"
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode == 0:
            return ""
        said.seek(max(0, said.seek(0, os.SEEK_END) - 4096))
        words = _without_passwords(said.read().decode(errors="replace"), service, connections)
    variable = connections.project.variable("AFTER_CHANGE")
    words = " ".join(words.split())[-LAST_WORDS:]
    return (
        f"{service.database} is pointed elsewhere, but the command in {variable} {how}"
        f"{f': {words}' if words else '.'}\nTo run it again: SERVICE={service.role}"
        f' CONNECTIONS_FILE={shlex.quote(str(path))} sh -c "${variable}"'
    )


def read_url(path: Path) -> str:
    """Read a service's own URL from its file.

    Args:
        path: `connections/SERVICE.env`.

    Returns:
        A PostgreSQL URL with a password; nothing if the file has none.
    """
    values = _values(path)
    return next((url for name, url in values.items() if name.endswith("_SERVICE_URL")), "")


def has_own_url(service: Service, connections: Connections) -> bool:
    """Tell whether a service has a URL of its own for the server that it is on."""
    path = file(service, connections)
    own = read_url(path) if path.exists() else ""
    return bool(own) and same_place(own, connections.urls[service.database])


def own_url(service: Service, connections: Connections) -> str:
    """Give the URL that a service itself connects with.

    Args:
        service: a provisioned service.
        connections: where its database is, and the folder that its URL was written to.

    Returns:
        A PostgreSQL URL with a password.

    Raises:
        NotReady: it has none yet, or one for another server.
    """
    path = file(service, connections)
    own = read_url(path) if path.exists() else ""
    if not own:
        raise NotReady(
            f"{service.database} has no login of its own yet.",
            where=str(path),
            hint=f"runner.py provision {service.role}",
        )
    if not same_place(own, connections.urls[service.database]):
        raise NotReady(
            f"{path} is for another server than {service.database} is on now.",
            where=describe(connections.urls[service.database]),
            hint=f"runner.py provision {service.role} --new-password",
        )
    return own


def same_place(url: str, other: str) -> bool:
    """Tell whether two URLs name the same database, whoever logs in."""
    parts = ("host", "port", "dbname")
    one, two = ({"port": "5432", **conninfo_to_dict(place)} for place in (url, other))
    return [str(one.get(part)) for part in parts] == [str(two.get(part)) for part in parts]


def require_folder(connections: Connections) -> None:
    """Make the folder for the services' URLs before there is a password to lose.

    Args:
        connections: where they are to be.

    Raises:
        NotReady: it can't be made.
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


def _target(
    own: str, reads_at: Side, writes_at: Side, was: Routes | None, connections: Connections
) -> Routes:
    monolith = connections.application_url
    if was and monolith == connections.monolith_url:
        # No URL was given for applications, this time: what they have used so far still holds.
        used = [url for url in (was.write, was.read) if url != was.own]
        monolith = used[0] if used else monolith
    urls = {Side.MONOLITH: monolith, Side.SERVICE: own}
    return Routes(own, urls[reads_at], urls[writes_at])


def _values(path: Path) -> dict[str, str]:
    text = path.read_text(encoding="utf-8")
    lines = [LINE.fullmatch(line.strip()) for line in text.splitlines()]
    return {line[1]: line[3] for line in lines if line and _is_url(line[3])}


def _is_url(text: str) -> bool:
    try:
        return bool(conninfo_to_dict(text).get("dbname"))
    except psycopg.ProgrammingError:
        return False


def _load(service: Service, connections: Connections) -> Routes | None:
    """Read a service's file; None if there is none, or one from before it said where to write."""
    path = file(service, connections)
    if not path.exists():
        return None
    values, variable = _values(path), service.role.upper()
    own, read, write = (values.get(f"{variable}_{of}_URL") for of in ("SERVICE", "READ", "WRITE"))
    if own and read and write:
        return Routes(own, read, write)
    mentioned = path.read_text(encoding="utf-8")
    if own and not any(f"{variable}_{of}_URL=" in mentioned for of in ("READ", "WRITE")):
        return None
    lacking = [
        f"{variable}_{of}_URL"
        for of, url in (("SERVICE", own), ("READ", read), ("WRITE", write))
        if not url
    ]
    raise NotReady(
        f"The file has no {' and no '.join(lacking)} that can be understood.",
        where=str(path),
        hint="Write it as VARIABLE='postgresql://…', or have the file made anew:\n"
        f"rm {shlex.quote(str(path))} && runner.py provision {service.role} --new-password",
    )


def _store(service: Service, connections: Connections, target: Routes) -> None:
    variable, path = service.role.upper(), file(service, connections)
    for url in (target.own, target.read, target.write):
        if "'" in url or not url.isprintable():
            raise NotReady(
                f"A URL for the applications of {service.database} has a quote or a line break.",
                where=describe(url),
                hint="Write such characters percent-encoded: ' as %27.",
            )
    _replace(
        path,
        CONTENT.format(
            role=service.role,
            variable=variable,
            own=target.own,
            read=target.read,
            write=target.write,
        ),
    )


def _tell_pgbouncer(connections: Connections, changed: Service) -> None:
    """Write PgBouncer's file from those of all services, and see that it goes by it."""
    if not connections.pgbouncer_url:
        return
    databases: dict[str, str] = {}
    for service in connections.project.services.values():
        target = _load(service, connections)
        if target:
            databases[service.role] = target.write
            databases[pgbouncer.reads_of(service)] = target.read
    path = connections.folder / "pgbouncer.ini"
    _replace(path, pgbouncer.render(path, databases))
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


def _replace(path: Path, text: str) -> None:
    """Replace a file at once and for good; it stays with whoever was let read it.

    A new file is for the folder's owner alone. One that is there may have been given to a group.
    """
    folder, draft = path.parent.stat(), path.with_name(path.name + ".new")
    before = path.stat() if path.exists() else folder
    mode = stat.S_IMODE(before.st_mode) & 0o640 if before is not folder else 0o600
    owner = before.st_uid if os.geteuid() == 0 else -1
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        try:
            os.chown(out.fileno(), owner, before.st_gid)
        except PermissionError:
            mode = 0o600  # we are not in that group, and another one is not to read it
        os.fchmod(out.fileno(), mode)
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(path)
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _without_passwords(text: str, service: Service, connections: Connections) -> str:
    urls = [*connections.urls.values(), connections.application_url, connections.pgbouncer_url]
    with suppress(NotReady):
        target = read(service, connections)
        urls += [target.own, target.read, target.write]
    for url in filter(None, urls):
        password = str(conninfo_to_dict(url).get("password", ""))
        for written in filter(None, (password, quote(password, safe=""))):
            text = text.replace(written, "…")
    return text
