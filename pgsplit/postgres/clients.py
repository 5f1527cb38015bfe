"""Finds the client programs that fit a server: its major version, and TLS if it asks for it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psycopg

from pgsplit.base.errors import NotReady
from pgsplit.postgres import wheel
from pgsplit.postgres.connect import connect, describe

# Where Debian's, Red Hat's and Homebrew's packages put a major version's programs.
FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
# A distribution has one version; Debian 12, for example, has 15 only.
PGDG = "/usr/share/postgresql-common/pgdg/apt.postgresql.org.sh"
REPOSITORY = f"apt-get install postgresql-common && {PGDG} -y"
NO_TLS = "SSL support is not compiled in"
TLS_MODES = ("require", "verify-ca", "verify-full")


@dataclass(frozen=True)
class Needs:
    """What a server asks of a program: its major version at least, and TLS or not."""

    version: int = 0
    tls: bool = False
    where: str = "PATH"


@dataclass(frozen=True)
class Client:
    """An installed program, its major version, and whether it knows TLS."""

    path: str
    version: int
    tls: bool

    def __str__(self) -> str:
        return f"{self.version}{'' if self.tls else ' without TLS'} ({self.path})"


def needs(url: str, target: str = "database") -> Needs:
    """Ask a server what it needs of a program.

    Args:
        url: the PostgreSQL URL that the program gets.
        target: the database's name in messages.

    Returns:
        Its major version; and TLS, if the URL requires it or the server takes no other connection.

    Raises:
        ConnectionFailed: the server can't be reached.
    """
    with connect(url, target) as database:
        version, where = database.info.server_version // 10000, describe(url)
        mode = next(
            (one.val or b"" for one in database.pgconn.info if one.keyword == b"sslmode"), b""
        ).decode()
        encrypted = bool(database.pgconn.ssl_in_use)
    if mode in TLS_MODES:
        return Needs(version, True, where)
    return Needs(version, encrypted and not _takes_plain(url), where)


def _takes_plain(url: str) -> bool:
    try:
        psycopg.connect(url, sslmode="disable", connect_timeout=10).close()
    except psycopg.OperationalError:
        return False
    return True


def find(name: str, wanted: Needs | None = None, least: int | None = None) -> Client:
    """Find the installed program that fits best: the server's own version, or the next later one.

    A pg_dump of another major version may write what the server's own would leave out, and an
    earlier one can't read a later server.

    Args:
        name: the program, such as pg_dump.
        wanted: what the server needs; by default the latest program is taken.
        least: the first version that will do, by default the server's own.

    Returns:
        The program.

    Raises:
        NotReady: none fits; the message lists those that are installed.
    """
    found = list(_installed(name))
    if wanted is None and found:
        return max(found, key=lambda one: one.version)
    needed = wanted or Needs()
    least = needed.version if least is None else least
    fitting = [one for one in found if one.version >= least and (one.tls or not needed.tls)]
    if fitting:
        return min(
            fitting, key=lambda one: (one.version < needed.version, one.version, not one.tls)
        )
    if not needed.version:
        raise NotReady(
            f"{name} is not installed.",
            where=needed.where,
            hint="Install PostgreSQL's client programs, or: pip install 'pgsplit[embedded]'",
        )
    there = ", ".join(map(str, found)) or "none"
    raise NotReady(
        f"No {name} fits this server: it takes version {max(least, 1)} or later"
        f"{' with TLS' if needed.tls else ''}. Installed: {there}. Nothing was changed.",
        where=needed.where,
        hint=f"apt-get install postgresql-client-{max(needed.version, least)}\n"
        f"If apt-get does not know it, add PostgreSQL's own packages first:\n{REPOSITORY}\n"
        f"Or put the folder of such a {name} on the PATH. A packaged one knows TLS.",
    )


def versions(name: str) -> list[str]:
    """Name the versions of a program that are installed, and whether they know TLS."""
    found = [f"{one.version}{'' if one.tls else ' without TLS'}" for one in _installed(name)]
    return list(dict.fromkeys(found))


def _installed(name: str) -> Iterator[Client]:
    """Give all that are installed, each once."""
    packaged = [path for pattern in FOLDERS for path in sorted(Path("/").glob(pattern[1:]))]
    ours = [path for path in (wheel.programs(),) if path]
    listed = os.environ.get("PATH", "").split(os.pathsep)
    seen = set[tuple[int, bool]]()
    for folder in (*packaged, *ours, *map(Path, filter(None, listed))):
        path = shutil.which(name, path=str(folder))
        one = _probe(path) if path else None
        if one and (one.version, one.tls) not in seen:
            seen.add((one.version, one.tls))
            yield one


@cache
def _probe(path: str) -> Client | None:
    """Ask a program for its version, and whether it knows TLS; None if it does not run."""
    environ = {**os.environ, "LC_ALL": "C"}
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, env=environ)
        # libpq looks at the mode first, and there is no server. pg_restore would read its file
        # before that; pg_dump beside it has the same libpq.
        asking = Path(path).with_name(
            "pg_dump" if Path(path).name == "pg_restore" else Path(path).name
        )
        asked = subprocess.run(
            [asking, f"--dbname=host={os.devnull} sslmode=require"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environ,
        )
    except OSError:
        return None
    version = re.search(r"\(PostgreSQL\) (\d+)", said.stdout)
    return Client(path, int(version[1]), NO_TLS not in asked.stderr) if version else None
