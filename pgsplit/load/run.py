"""Runs the phases of services: provision, land, build."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Protocol

from pgsplit.backup import dump
from pgsplit.load.build import Built, Tests, build, check_monolith
from pgsplit.load.land import Landed, land
from pgsplit.load.provision import Provisioned, provision
from pgsplit.load.snapshots import Snapshots
from pgsplit.postgres.copy import Progress
from pgsplit.postgres.locale import require_utf8
from pgsplit.project import dbt, drift
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.state.ledger import Ledger, State, completed, open_ledger, state


class Listener(Protocol):
    """Is told about the progress of one step."""

    def copied(self, progress: Progress) -> None:
        """More rows were copied."""

    def say(self, said: str) -> None:
        """There is news for people."""

    def finished_node(self, name: str) -> None:
        """dbt has finished a model or a test."""


class Watcher(Protocol):
    """Is told about the progress of a run."""

    def step(self, what: str) -> AbstractContextManager[Listener]:
        """A step begins; it ends with the block. Several may be under way at once."""


@dataclass(frozen=True)
class ServiceRun:
    """What a run did for one service."""

    service: Service
    provisioned: Provisioned
    landed: Landed
    built: Built
    seconds: float


@dataclass(frozen=True)
class RunReport:
    """What a run did: for each service, and the tests on the monolith itself."""

    services: list[ServiceRun]
    monolith: Tests
    seconds: float


def run(
    services: Sequence[Service],
    connections: Connections,
    watcher: Watcher,
    *,
    with_backup: bool = False,
) -> RunReport:
    """Provision, land, build and test services; idempotent, so it resumes an interrupted run.

    While the monolith is checked, dbt parses the services' models. Services are provisioned one
    after the other, in phase order, and land side by side. Each is built as soon as it has landed;
    as many builds run at once as there are processors.

    Args:
        services: in phase order.
        connections: where the servers are.
        watcher: is told about the progress.
        with_backup: dump the monolith first, once for each service that has not landed yet.

    Returns:
        What was done for each service.

    Raises:
        SourceMismatch: the monolith lacks a table, column, type or key; nothing was made.
        SplitError: the first failure, in phase order; the other services are finished first.
    """
    started = time.monotonic()
    _require_expected(services, connections)
    with open_ledger(connections) as ledger, ThreadPoolExecutor(1) as ahead:
        targets = [service.database for service in services]
        parsed = ahead.submit(dbt.parse_ahead, targets, connections)
        with watcher.step("monolith: who owns which column") as step:
            tests = check_monolith(connections, step.finished_node)
        work = _Work(len(services), connections, ledger, watcher, parsed)
        provisioned = [work.provision(service, with_backup) for service in services]
        with ThreadPoolExecutor(len(services)) as threads:
            filling = [threads.submit(work.fill, *one) for one in enumerate(provisioned)]
            try:
                wait(filling)
            except BaseException:
                work.snapshots.stop()
                connections.throttle.stop()
                raise
        done = [future.result() for future in filling]
    return RunReport(done, tests, time.monotonic() - started)


@dataclass(frozen=True)
class _Ready:
    """A service that has been provisioned, and the seconds that it took."""

    service: Service
    provisioned: Provisioned
    seconds: float


class _Work:
    """What a run does for each service."""

    def __init__(
        self,
        services: int,
        connections: Connections,
        ledger: Ledger,
        watcher: Watcher,
        parsed: Future[None],
    ) -> None:
        self.connections, self.ledger, self.watcher = connections, ledger, watcher
        self.parsed = parsed
        self.snapshots = Snapshots(services)
        self.builds = BoundedSemaphore(os.cpu_count() or 1)

    def provision(self, service: Service, with_backup: bool) -> _Ready:
        """Provision a service; back the monolith up first if the service has not landed yet."""
        begun = time.monotonic()
        connections, ledger = self.connections, self.ledger
        if with_backup and not ledger.state(service).reached(State.LANDED):
            with self.watcher.step("monolith: backup") as step:
                dump.backup(connections.monolith, connections, ledger, service, "run", say=step.say)
        with self.watcher.step(f"{service.role}: provision"):
            provisioned = provision(service, connections, ledger)
        return _Ready(service, provisioned, time.monotonic() - begun)

    def fill(self, number: int, ready: _Ready) -> ServiceRun:
        """Land and build a service, beside others."""
        service, snapshots = ready.service, self.snapshots

        def wait_for_others() -> None:
            snapshots.has_taken(number)
            snapshots.wait_for_all()

        snapshots.wait_for_turn(number)
        begun = time.monotonic()
        try:
            with self.watcher.step(f"{service.role}: land") as step:

                def copied(progress: Progress) -> None:
                    snapshots.require_not_stopped()
                    step.copied(progress)

                landed = land(
                    service, self.connections, self.ledger, copied, on_snapshot=wait_for_others
                )
        finally:
            snapshots.has_taken(number)  # also if it has landed before, or has failed
        snapshots.wait_for_all()
        with self.builds, self.watcher.step(f"{service.role}: build and test") as step:
            self.parsed.result()
            snapshots.require_not_stopped()
            built = build(service, self.connections, self.ledger, step.finished_node)
        seconds = ready.seconds + time.monotonic() - begun
        return ServiceRun(service, ready.provisioned, landed, built, seconds)


def _require_expected(services: Sequence[Service], connections: Connections) -> None:
    """Compare the monolith with what services are about to copy, before anything is made.

    A landing asks again, with the tables locked, but then there are a schema and databases already.
    """
    needed: dict[str, dict[str, None]] = {}
    with connections.connect(connections.monolith) as monolith:
        require_utf8(monolith)
        gone = completed(monolith)
        for service in services:
            if state(monolith, service).reached(State.LANDED):
                continue
            for table, columns in service.landed_tables.items():
                if service.project.tables[table].owner not in gone:
                    needed.setdefault(table, {}).update(dict.fromkeys(columns))
        wanted = {table: tuple(columns) for table, columns in needed.items()}
        drift.check(connections.project, monolith, wanted)
