"""Who runs this, where, and which versions of what."""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pgsplit import __version__

PACKAGES = ("dbt-core", "dbt-postgres", "psycopg")
GIT_SECONDS = 5.0


@cache
def made_by(folder: Path) -> dict[str, str]:
    """Say who runs this: the operator, the host, and the commit of the project in a folder.

    Args:
        folder: the project's. Outside of a git repository, or without git, `commit` is empty; one
            that ends in `-dirty` is not all that was there.
    """
    return {"operator": _operator(), "host": platform.node(), "commit": _commit(folder)}


def versions() -> dict[str, str]:
    """Give the versions of Python and of the packages that matter."""
    packages = {name: version(name) for name in PACKAGES}
    return {"pgsplit": __version__, "python": platform.python_version(), **packages}


def _operator() -> str:
    """Name the person, even behind sudo; an account without a name by its number."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _commit(folder: Path) -> str:
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=GIT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
