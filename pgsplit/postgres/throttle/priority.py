"""Lowers the priority of processes of this machine: dbt's, and our sessions' on a server here.

The runner itself keeps its own: a thread of low priority that holds Python's lock when it has to
give way would stop the one that watches.

Whether a server's process is on this machine, and which one it is, is certain only for a session
over a socket in the file system: the kernel tells who listens there. A number from another machine
or container may belong to somebody else's process here.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg

LOW = 10  # as the command `nice`; at 19, others that are always busy leave next to nothing
TRIES, BETWEEN_TRIES_SECONDS = 3, 0.1
PEER = "3i"  # struct ucred: process, user, group


def listener(connection: psycopg.Connection[object]) -> int | None:
    """Give the process that listens where a session is connected; None unless it is here."""
    if sys.platform != "linux" or not connection.info.host.startswith("/"):
        return None
    with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as end:
        found = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(PEER))
    process = int(struct.unpack(PEER, found)[0])
    return process or None  # 0: it is in another container


def lower(process: int, parent: int | None = None) -> str:
    """Give a process a low priority.

    Args:
        process: its number.
        parent: the process that must have started it; any, if not given.

    Returns:
        Why it keeps its priority, or nothing.
    """
    try:
        if parent is not None and psutil.Process(process).ppid() != parent:
            return f"process {process} is no session of that server"
        if os.getpriority(os.PRIO_PROCESS, process) >= LOW:
            return ""
        os.setpriority(os.PRIO_PROCESS, process, LOW)
        # PostgreSQL begins a session of the terminal for each of its own, and kernels with
        # autogroups weigh these against each other, not their processes.
        if parent is not None:
            with suppress(FileNotFoundError):
                _lower_group(process)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return ""  # it has ended
    except (PermissionError, psutil.AccessDenied):
        owner = psutil.Process(parent or process).username()
        return f"the server belongs to the user {owner}; only this user and root may"
    return ""


def _lower_group(process: int) -> None:
    """Weigh a process's autogroup less; the kernel lets a user do so ten times a second."""
    for _ in range(TRIES):
        with suppress(BlockingIOError):
            Path(f"/proc/{process}/autogroup").write_text(str(LOW))
            return
        time.sleep(BETWEEN_TRIES_SECONDS)
