"""A service's routes, and the file that has them: `connections/SERVICE.env`.

A shell, docker compose and python-dotenv read it alike.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from io import StringIO
from pathlib import Path

import psycopg
from dotenv.parser import parse_stream
from psycopg.conninfo import conninfo_to_dict

from pgsplit.base import files
from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service

CONTENT = """\
# Where the applications of {role} find their data. runner.py writes this file; don't edit it.
# SERVICE_URL: its own login on its own database. READ_URL, WRITE_URL: where they read and write.
# MONOLITH_URL: how they log in to the monolith, which the runner knows as {monolith_is}.
{variable}_SERVICE_URL='{own}'
{variable}_READ_URL='{read}'
{variable}_WRITE_URL='{write}'
{variable}_MONOLITH_URL='{monolith}'
"""
KNOWN_AS = re.compile(r"^# MONOLITH_URL: .* knows as (.+)\.$", re.MULTILINE)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# More than such a file has; a disk that takes this takes the file.
ENOUGH = b"#" * 8192


class Side(Enum):
    """The side to which applications are routed."""

    MONOLITH = "monolith"
    SERVICE = "service"


@dataclass(frozen=True)
class Routes:
    """A service's own URL, and the URLs by which its applications read and write.

    `monolith` is the URL by which they log in to the monolith, even while they don't; empty if a
    file of an earlier version doesn't say. `monolith_is` names the monolith that it is for.
    """

    own: str
    read: str
    write: str
    monolith: str = field(default="", compare=False)
    monolith_is: str = field(default="", compare=False)

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


def place(url: str) -> str:
    """Name a URL's database and server for people, without the login."""
    return describe(url).rpartition(" as ")[0]


def load(service: Service, connections: Connections) -> Routes | None:
    """Read a service's file; None if there is none, or an old one without READ and WRITE.

    Raises:
        NotReady: it can't be read or understood.
    """
    path = file(service, connections)
    names = [f"{service.role.upper()}_{of}_URL" for of in ("SERVICE", "READ", "WRITE", "MONOLITH")]
    text = read_text(path)
    if text is None:
        return None
    urls = _urls(text)
    lacking = [name for name in names[:3] if name not in urls]
    lacking += [name for name in names[3:] if name not in urls and name in text]
    if not lacking:
        own, read, write = (urls[name] for name in names[:3])
        used = [url for url in (write, read) if url != own]
        known_as = KNOWN_AS.search(text)
        return Routes(
            own,
            read,
            write,
            urls.get(names[3]) or (used[0] if used else ""),
            known_as[1] if known_as else "",
        )
    if lacking == names[1:3] and not any(name in text for name in lacking):
        return None
    raise NotReady(
        f"The file has no {' and no '.join(lacking)} that can be understood.",
        where=str(path),
        hint="Write it as VARIABLE='postgresql://…', or have the file created again:\n"
        f"rm {shlex.quote(str(path))} && runner.py provision {service.role} --new-password",
    )


def read_url(path: Path) -> str:
    """Read a service's own URL from its file.

    Args:
        path: `connections/SERVICE.env`.

    Returns:
        A PostgreSQL URL with a password; nothing if there is none.

    Raises:
        NotReady: there is such a file, but it can't be read.
    """
    urls = _urls(read_text(path) or "")
    return next((url for name, url in urls.items() if name.endswith("_SERVICE_URL")), "")


def store(service: Service, connections: Connections, routes: Routes) -> None:
    """Replace a service's file; atomic and durable.

    Raises:
        NotReady: a URL would be misread by some readers, or the file can't be written.
    """
    urls = (routes.own, routes.read, routes.write, routes.monolith)
    for url in filter(None, urls):
        # A shell and python-dotenv would read two backslashes differently.
        if "'" in url or "\\\\" in url or not url.isprintable():
            raise NotReady(
                f"A URL for the applications of {service.database} has a quote, a line break or two"
                " backslashes in a row.",
                where=describe(url),
                hint="Write such characters percent-encoded: ' as %27.",
            )
    content = CONTENT.format(role=service.role, variable=service.role.upper(), **vars(routes))
    if not routes.monolith:
        content = "".join(one for one in content.splitlines(True) if "MONOLITH_URL" not in one)
    write(file(service, connections), content)


def write(path: Path, content: str) -> None:
    """Replace a file of the folder; atomic and durable.

    Raises:
        NotReady: it can't be written.
    """
    with _explained(path, "written"):
        files.replace(path, content)


def keep(path: Path, kept: Path) -> None:
    """Copy a file of the folder, with its owner's rights.

    Raises:
        NotReady: the copy can't be written.
    """
    with _explained(kept, "written"):
        shutil.copy2(path, kept)
        files.sync(kept.parent)


def remove(path: Path) -> bool:
    """Remove a file of the folder; tell whether there was one.

    Raises:
        NotReady: it can't be removed.
    """
    with _explained(path, "removed"):
        if not path.exists():
            return False
        path.unlink()
    return True


def open_folder(folder: Path) -> int:
    """Open the folder, which is made if there is none; give the handle, to lock it.

    Raises:
        NotReady: it can't be made or entered.
    """
    with _explained(folder / "SERVICE.env", "written"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


@contextmanager
def locked(connections: Connections) -> Iterator[None]:
    """Let one runner at a time write in the folder: some files are made from all others."""
    handle = open_folder(connections.folder)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def require_folder(connections: Connections) -> None:
    """Create the folder for the services' files, and try to write there.

    This comes before there is a password to lose.

    Args:
        connections: where it shall be.

    Raises:
        NotReady: it can't be created, or a file in it can't be written.
    """
    folder = connections.folder
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".try-") as draft:
            draft.write(ENOUGH)
            draft.flush()
            os.fsync(draft.fileno())
    except OSError as error:
        variable = connections.project.variable("CONNECTIONS")
        raise NotReady(
            f"The services' own URLs can't be written: {error.strerror or error}",
            where=str(folder),
            hint=f"{_remedy(folder, error)}\nor name a folder that you may write to:"
            f" export {variable}=…",
        ) from error


def read_text(path: Path) -> str | None:
    """Read a file of the folder; None if there is none.

    Raises:
        NotReady: it can't be read.
    """
    with _explained(path, "read"):
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else None


def _urls(text: str) -> dict[str, str]:
    """Find the variables of a file that are PostgreSQL URLs."""
    return {
        one.key: one.value
        for one in parse_stream(StringIO(text))
        if one.key and one.value and _is_url(one.value)
    }


def _is_url(text: str) -> bool:
    try:
        return text.isprintable() and bool(conninfo_to_dict(text).get("dbname"))
    except psycopg.ProgrammingError:
        return False


@contextmanager
def _explained(path: Path, done: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotReady(
            f"{path} can't be {done}: {error.strerror or error}",
            where=str(path.parent),
            hint=f"{_remedy(path if done == 'read' else path.parent, error)}\n"
            "Then the same command again",
        ) from error


def _remedy(where: Path, error: OSError) -> str:
    quoted = shlex.quote(str(where))
    if error.errno in NO_ROOM:
        return f"Make room on its disk: df -h {quoted}"
    if error.errno == errno.EROFS:
        return f"It is on a read-only file system; findmnt -T {quoted} names it"
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
        return f"Move it away: mv {quoted} {quoted}.old"
    who = os.environ.get("USER") or "the operator"
    return f"Let {who} read and write there: chmod u+rwX {quoted}"
