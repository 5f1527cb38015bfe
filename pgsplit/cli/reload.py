"""Reads the settings again on SIGHUP, as daemons do."""

from __future__ import annotations

import signal
from collections.abc import Callable

from pgsplit.base import service_manager
from pgsplit.base.errors import SplitError
from pgsplit.cli import console
from pgsplit.project.endpoints import Connections


class _Reload(BaseException):
    """SIGHUP has come; as with KeyboardInterrupt, nobody on the way takes it for an error."""


def reloadably(read: Callable[[], Connections], work: Callable[[Connections], None]) -> None:
    """Do work with the settings, and again with new ones each time that SIGHUP comes.

    If the new settings are wrong, a warning says so, and the former ones stay in force.

    Args:
        read: reads the settings.
        work: works until it is done, or until an exception ends it.

    Raises:
        SplitError: the first settings are wrong, or what `work` raises.
    """
    is_wanted = is_at_work = False

    def on_hangup(*_: object) -> None:
        nonlocal is_wanted, is_at_work
        is_wanted = True
        if is_at_work:
            is_at_work = False  # what ends the work is not interrupted again
            raise _Reload

    connections = read()
    before = signal.signal(signal.SIGHUP, on_hangup)
    try:
        while True:
            try:
                is_at_work = not is_wanted
                if is_at_work:
                    work(connections)
                    return
            except _Reload:
                service_manager.reloading()
            is_wanted = False
            try:
                connections = read()
            except SplitError as error:
                console.show_warnings([f"The settings are as before. {error}"])
            service_manager.tell(READY=1)
    finally:
        signal.signal(signal.SIGHUP, before)
