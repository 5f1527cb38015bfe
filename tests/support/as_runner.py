"""runner.py in a process of its own, with what a test wants of that process.

`SPLIT_DBT` names the socket of a dbt that has started already. `SPLIT_KILL` is the number of the
SQL statement after which the process is killed, as `kill -9` would; with 0 nothing is killed.
`SPLIT_STATEMENTS` names a file to which each statement is written before it runs.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from pgsplit.cli.main import run
from pgsplit.project import dbt
from tests.support import statements, warm_dbt


def main() -> int:
    """Run one command; the arguments begin with the project's folder."""
    folder, *arguments = sys.argv[1:]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if address := os.environ.pop("SPLIT_DBT", ""):
        dbt.DBT, dbt.PARSER = warm_dbt.command(Path(address)), warm_dbt.PARSER
    number, listing = os.environ.pop("SPLIT_KILL", ""), os.environ.pop("SPLIT_STATEMENTS", "")
    if number or listing:
        statements.watch(int(number or 0), listing)
    return run(["--project-dir", folder, *arguments], "runner.py")


if __name__ == "__main__":
    sys.exit(main())
