"""Looks at all services at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pgsplit.observe.vitals.ask import Answer, Database
from pgsplit.observe.vitals.judge import problems
from pgsplit.observe.vitals.page import Page, Reply
from pgsplit.observe.vitals.vitals import Vitals, vitals
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service

# Longer than a time-out of a connection or a page, which says more than that nothing came.
ANSWER_SECONDS = 6.0


@dataclass(frozen=True)
class Health:
    """A service's vital signs, what its page said if it has one, and what is wrong."""

    vitals: Vitals
    page: Reply | None
    problems: Sequence[str]

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(frozen=True)
class Look:
    """How everything is: the control database, and each service."""

    control: Answer
    services: Sequence[Health]
    databases: Sequence[Answer]
    seconds: float

    @property
    def problems(self) -> list[str]:
        """All that is wrong; what many databases say of their server is said once."""
        first = [str(self.control.error)] if self.control.error else []
        found = first + [one for health in self.services for one in health.problems]
        once = dict[str, str]()
        for one in found:
            once.setdefault(one.partition("\n")[0], one)
        return list(once.values())

    @property
    def notes(self) -> list[str]:
        """What could not be seen."""
        return [note for one in self.databases for note in one.notes]

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


class Watch:
    """Looks at some services again and again, over connections that it keeps.

    Args:
        connections: where the servers are.
        services: the services.
        max_lag: the longest lag in seconds that is no problem.
    """

    def __init__(
        self, connections: Connections, services: Sequence[Service], max_lag: float
    ) -> None:
        self.connections, self.services, self.max_lag = connections, services, max_lag
        # Streams come from other services, too.
        targets = [connections.control, *connections.project.services]
        self.databases = {one: Database(connections, one) for one in targets}
        pages = connections.health_urls
        self.pages = {
            one.database: Page(one, pages[one.database])
            for one in services
            if pages.get(one.database)
        }
        self._one_at_a_time = threading.Lock()
        self._latest: tuple[float, Look] | None = None

    def look(self) -> Look:
        """Ask all databases and pages at once; one that does not answer keeps nobody waiting.

        Those who ask meanwhile share the next look, so that they don't queue up.
        """
        asked = time.monotonic()
        with self._one_at_a_time:
            if self._latest and self._latest[0] >= asked:
                return self._latest[1]
            started = time.monotonic()
            found = self._look(started)
            self._latest = started, found
            return found

    def _look(self, started: float) -> Look:
        for page in self.pages.values():
            page.begin()
        for database in self.databases.values():
            database.begin()
        until = started + ANSWER_SECONDS
        answers = {name: one.finish(until) for name, one in self.databases.items()}
        replies = {name: one.finish(until) for name, one in self.pages.items()}
        control = self.connections.control
        found = []
        for service in self.services:
            signs, reply = vitals(service, answers, control), replies.get(service.database)
            found.append(Health(signs, reply, problems(signs, reply, self.max_lag)))
        took = time.monotonic() - started
        return Look(answers[control], found, list(answers.values()), took)

    def close(self) -> None:
        """Close the connections."""
        for one in self.databases.values():
            one.close()
