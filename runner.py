#!/usr/bin/env python3
"""Split the Blytz Hire monolith into six service databases."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHON = HERE / ".venv" / "bin" / "python"
if sys.prefix == sys.base_prefix and PYTHON.exists():
    # Nobody has activated an environment: use the project's own.
    os.execv(PYTHON, [str(PYTHON), *sys.argv])

try:
    from pgsplit.cli.main import run
except ModuleNotFoundError as missing:
    sys.exit(f"error: {missing}\n  hint:  make .venv/ready && source .venv/bin/activate")
except KeyboardInterrupt:
    sys.exit(130)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command on the project in this folder.

    Args:
        arguments: the command's name and what follows it; by default, those of this process.

    Returns:
        The exit code.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    # Messages name commands as people type them, so that they can be pasted.
    called = "./runner.py" if sys.argv[0] == "./runner.py" else "runner.py"
    return run(["--project-dir", str(HERE), *arguments], called)


if __name__ == "__main__":
    os.chdir(HERE)
    # SIGTERM lets the runner clean up, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
