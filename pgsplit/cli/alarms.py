"""Tells others how followers are doing: receivers of notices, and the service manager."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from pgsplit.base import service_manager
from pgsplit.base.notices import Notice, Notifier

# Trouble that ends sooner by itself, such as a server that restarts, is told to nobody.
PASSING_SECONDS = 30.0


class Condition(str, Enum):
    """How a follower is doing."""

    IDLE = "idle"
    WORKS = "works"
    LAGS = "lags"
    TROUBLE = "trouble"
    HUNG = "hung"

    @property
    def is_bad(self) -> bool:
        """Whether somebody should know."""
        return self in (Condition.LAGS, Condition.TROUBLE, Condition.HUNG)


@dataclass(frozen=True)
class Report:
    """How one follower is doing, in words, and whether it has answered yet."""

    condition: Condition
    said: str
    has_begun: bool


@dataclass
class Alarms:
    """What was told of each follower. `clock` is for tests."""

    notifier: Notifier
    clock: Callable[[], float] = time.monotonic
    bad_since: dict[str, float] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    is_ready: bool = False

    def look(self, reports: Mapping[str, Report]) -> None:
        """Take in how all followers are doing now.

        The service manager hears that all have begun, once; then what they do, and that they live,
        as long as none of them hangs. Its watchdog restarts the process otherwise.

        Args:
            reports: by service.
        """
        for service, report in reports.items():
            self._note(service, report)
        states = {"STATUS": "; ".join(f"{name}: {one.said}" for name, one in reports.items())}
        states["STATUS"] = states["STATUS"].replace("\n", " ")
        if not self.is_ready and all(one.has_begun for one in reports.values()):
            states["READY"], self.is_ready = "1", True
        if all(one.condition is not Condition.HUNG for one in reports.values()):
            states["WATCHDOG"] = "1"
        service_manager.tell(**states)

    def _note(self, service: str, report: Report) -> None:
        now, condition = self.clock(), report.condition
        if not condition.is_bad:
            self.bad_since.pop(service, None)
            if service in self.told:
                self.told.remove(service)
                self._send("recovered", service, report)
            return
        since = self.bad_since.setdefault(service, now)
        is_over = now - since >= PASSING_SECONDS or condition is Condition.HUNG
        if is_over and service not in self.told:
            self.told.add(service)
            self._send("trouble", service, report)

    def _send(self, event: str, service: str, report: Report) -> None:
        fields = {"condition": report.condition.value}
        self.notifier.send(Notice(event, service, f"{service}: {report.said}", fields))
