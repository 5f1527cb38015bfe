"""Measurements: `make bench` and similar targets."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.project import MONOLITH
from pgsplit.postgres import embedded


@contextmanager
def server() -> Iterator[dict[str, str]]:
    """Run a server for the block; give the environment in which all databases are on it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        embedded.start(root)
        try:
            yield {
                **{k: v for k, v in os.environ.items() if not k.endswith("_URL")},
                "BLYTZ_HIRE_URL": embedded.url(root, MONOLITH),
                "BLYTZ_HIRE_CONNECTIONS": folder,
                "DBT_TARGET_PATH": f"{folder}/target",
                "DBT_LOG_PATH": f"{folder}/logs",
            }
        finally:
            embedded.wipe(root)
