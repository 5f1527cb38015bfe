"""Tells the service manager, systemd, how this process is doing; nothing if there is none.

The protocol is that of sd_notify(3): lines of NAME=VALUE in a datagram to `$NOTIFY_SOCKET`.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress


def tell(**states: object) -> None:
    """Tell the service manager, if one has started this process.

    Args:
        states: such as `READY=1`, `STATUS="idle"`, `WATCHDOG=1`; see sd_notify(3).
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    said = "\n".join(f"{name}={value}" for name, value in states.items())
    # A name that begins with @ is one of Linux's abstract ones, which begin with a zero byte.
    place = f"\0{address[1:]}" if address.startswith("@") else address
    # A manager that doesn't listen stops nothing: its watchdog would notice the silence.
    with (
        suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending,
    ):
        sending.sendto(said.encode(), place)


def reloading() -> None:
    """Tell it that the settings are being read again; `tell(READY=1)` ends that."""
    tell(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
