"""One folder for all that a test run makes, and a process that removes it.

That process outlives the run: it waits on a pipe that closes when the run ends, even by SIGKILL.
Then it ends what the run has left running and removes the folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import psutil

from pgsplit.postgres import embedded

MEMORY = Path("/dev/shm")
TRACKER = "multiprocessing.resource_tracker"
ROOM_BYTES = 4 * 2**30

# Whoever inherits this belongs to the run. The embedded server does not: its folder tells.
VARIABLE = "SPLIT_TEST_RUN"


@contextmanager
def run_folder() -> Iterator[Path]:
    """Make a folder for the block; afterwards remove it and end all that ran in it."""
    folder = Path(tempfile.mkdtemp(prefix="split-tests-", dir=MEMORY if _has_room() else None))
    os.environ[VARIABLE] = str(folder)
    clearing = subprocess.Popen(
        [sys.executable, "-m", "tests.support.run_folder", str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C and a killed process group are not for this one
        env={name: value for name, value in os.environ.items() if name != VARIABLE},
        cwd=Path(__file__).resolve().parents[2],
    )
    try:
        yield folder
    finally:
        assert clearing.stdin
        clearing.stdin.close()
        clearing.wait()
        os.environ.pop(VARIABLE, None)


def _has_room() -> bool:
    """Tell whether there is a disk in memory, where servers are copied in no time."""
    if not MEMORY.is_dir() or os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        return False
    return shutil.disk_usage(MEMORY).free > ROOM_BYTES


def short_folder(prefix: str) -> Path:
    """Make a folder in the run's folder, with a path short enough for a socket (107 bytes)."""
    run = Path(os.environ[VARIABLE])
    run.chmod(0o711)  # servers run as accounts of their own
    return Path(tempfile.mkdtemp(prefix=prefix, dir=run))


def clear(folder: Path) -> None:
    """End all processes of a run's folder and remove it; idempotent."""
    for attempt in count():
        if not (found := belonging(folder)):
            break
        for process in found:
            # It removes the semaphores of those that are ended now, and ends after them.
            if attempt or TRACKER not in " ".join(process.info["cmdline"]):
                _end(process)
        deadline = time.monotonic() + 5
        while any(map(is_at_work, found)) and time.monotonic() < deadline:
            time.sleep(0.01)
    for home in folder.rglob(".postgres"):
        shutil.rmtree(embedded.socket_directory(home.parent), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _end(process: psutil.Process) -> None:
    # A server that is killed outright would leave its shared memory behind.
    server = process.info["name"] == "postgres"
    with suppress(psutil.Error):
        process.send_signal(signal.SIGQUIT if server else signal.SIGKILL)


def is_at_work(process: psutil.Process) -> bool:
    """Tell whether a process runs; a zombie is listed, but doesn't run."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def belonging(folder: Path) -> list[psutil.Process]:
    """Find a run's processes, by their inherited environment or a path on their command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ", "status", "name"]):
        here = process.pid == os.getpid() or process.info["status"] == psutil.STATUS_ZOMBIE
        inherited = (process.info["environ"] or {}).get(VARIABLE) == str(folder)
        named = any(f"{folder}/" in word for word in process.info["cmdline"] or ())
        if not here and (inherited or named):
            found.append(process)
    return found


if __name__ == "__main__":
    sys.stdin.read()
    clear(Path(sys.argv[1]))
