"""Lints SQL and conventions: `python -m tests.lint`. sqlfluff's dbt templater needs a server."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from migration import embedded
from migration.connections import connect
from tests.conventions import MANIFEST


def main() -> int:
    """Start a server, lint, and take it away; give the first exit code that is not 0."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        embedded.start(root, {"fsync": "off"})
        try:
            with connect(embedded.url(root, "postgres"), "payments_db") as connection:
                connection.execute("create database payments_db")
            environ = {**os.environ, "BLYTZ_HIRE_URL": embedded.url(root, "postgres")}
            for command in (
                ["sqlfluff", "lint", "--disable-progress-bar", "models", "tests", "analyses"],
                ["dbt", "--quiet", "parse", "--target", "payments_db", "--vars", "everything: true",
                 "--target-path", str(MANIFEST.parent)],
                ["dbt-score", "lint", "--manifest", str(MANIFEST)],
            ):  # fmt: skip
                print("$", *command, flush=True)
                code = subprocess.run(command, env=environ).returncode
                if code:
                    return code
        finally:
            embedded.wipe(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
