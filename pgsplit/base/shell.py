"""Runs an operator's shell command, with a time limit."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping

LAST_WORDS_BYTES = 4096


def run(
    command: str, environ: Mapping[str, str], seconds: float, given: str = ""
) -> tuple[str, str]:
    """Run a shell command; after its time it is killed, with its children.

    Args:
        command: for `/bin/sh`.
        environ: variables that it gets beside our own.
        seconds: the time limit.
        given: what it can read from its standard input.

    Returns:
        How it failed, such as "ended with exit code 1", or nothing; and the end of its output.
    """
    # Files, not pipes: a process that the command leaves running would keep those open.
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as asked:
        asked.write(given.encode())
        asked.seek(0)
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=asked,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environ},
            start_new_session=True,
        )
        try:
            how = f"ended with exit code {process.wait(seconds)}"
        except subprocess.TimeoutExpired:
            how = f"did not end within {seconds:g} seconds and was stopped"
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said.seek(max(0, said.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
        words = said.read().decode(errors="replace")
    return ("" if process.returncode == 0 else how), words
