"""Connection parameters that a URL takes from libpq's service file, as `?service=NAME`.

The runner looks them up once. So dbt and the other servers, which have no such file, get a whole
URL; and parameters that are missing are not filled in with defaults, which would win over the file.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Iterator
from pathlib import Path

SYSTEM_FOLDERS = ("/etc/postgresql-common", "/etc", "/etc/sysconfig/pgsql")


def parameters(name: str) -> dict[str, str] | None:
    """Give a service's parameters; None if no service file has it.

    Args:
        name: the service.
    """
    for path in files():
        services = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#",))
        services.optionxform = str  # type: ignore[assignment,method-assign]
        try:
            services.read(path, encoding="utf-8")
        except configparser.Error:
            continue
        if services.has_section(name):
            return {key.strip(): value.strip() for key, value in services.items(name)}
    return None


def files() -> Iterator[Path]:
    """Give the files that libpq would read, its user's own first."""
    own = os.environ.get("PGSERVICEFILE")
    folders = [os.environ.get("PGSYSCONFDIR", ""), *SYSTEM_FOLDERS]
    yield Path(own) if own else Path.home() / ".pg_service.conf"
    yield from (Path(folder) / "pg_service.conf" for folder in folders if folder)
