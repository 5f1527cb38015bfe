"""The embedded server's URLs, without the wheel, and without what starting a server needs."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

NAME = "pgsplit"
SOCKETS = re.compile("host=/tmp/[a-z0-9_]+-[0-9a-f]{12}(&|$)")


def home(root: Path) -> Path:
    """Name the folder in a project folder that has everything but the socket."""
    return root.resolve() / ".postgres"


def data_directory(root: Path) -> Path:
    """Name the server's data directory."""
    return home(root) / "data"


def socket_directory(root: Path, name: str = NAME) -> Path:
    """Name the directory of the server's socket; the project's profiles.yml computes it too."""
    # Not in the project folder: a socket's path is limited to 107 bytes.
    digest = hashlib.md5(os.fsencode(root.resolve()), usedforsecurity=False).hexdigest()
    return Path(f"/tmp/{name}-{digest[:12]}")


def url(root: Path, database: str, name: str = NAME) -> str:
    """Give the superuser's URL of a database, whether or not the server is running."""
    lines = pid_file(data_directory(root))
    port = lines[3] if len(lines) > 3 else "5432"
    # Without a port in the URL, libpq takes PGPORT.
    port = "" if port == os.environ.get("PGPORT", "5432") else f"&port={port}"
    host = f"host={socket_directory(root, name)}{port}"
    return f"postgresql://postgres@/{quote(database, safe='')}?{host}"


def is_url(url: str) -> bool:
    """Tell whether a URL is an embedded server's."""
    return SOCKETS.search(url) is not None


def pid_file(data: Path) -> list[str]:
    """Read postmaster.pid: process, data directory, time, port, socket directory, …, status."""
    # We can't see another account's server; `embedded.start` says so.
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        return os.fsdecode((data / "postmaster.pid").read_bytes()).splitlines()
    return []
