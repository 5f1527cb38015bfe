"""Runs the phases of services: provision, land, build."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from pgsplit.backup import dump
from pgsplit.load.build import Built, Tests, build, check_monolith
from pgsplit.load.land import Landed, land
from pgsplit.load.provision import Provisioned, provision
from pgsplit.postgres.copy import Progress
from pgsplit.postgres.locale import require_utf8
from pgsplit.project import drift
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

    Provisioning and landing go one service after the other, in phase order. Each service is built
    as soon as it has landed; as many builds run at once as there are processors.

    Args:
        services: in phase order.
        connections: where the servers are.
        watcher: is told about the progress.
        with_backup: dump the monolith first, once for each service that has not landed yet.

    Returns:
        What was done for each service.

    Raises:
        SourceMismatch: the monolith lacks a table, column, type or key; nothing was made.
        SplitError: the first failure, in phase order; builds under way are finished first.
    """
    started = time.monotonic()
    _require_expected(services, connections)
    with open_ledger(connections) as ledger, ThreadPoolExecutor(os.cpu_count()) as builders:
        with watcher.step("monolith: who owns which column") as step:
            tests = check_monolith(connections, step.finished_node)
        filled = []
        for service in services:
            begun = time.monotonic()
            if with_backup and not ledger.state(service).reached(State.LANDED):
                with watcher.step("monolith: backup") as step:
                    dump.backup(
                        connections.monolith, connections, ledger, service, "run", say=step.say
                    )
            with watcher.step(f"{service.role}: provision"):
                provisioned = provision(service, connections, ledger)
            with watcher.step(f"{service.role}: land") as step:
                landed = land(service, connections, ledger, step.copied)
            seconds = time.monotonic() - begun
            building = builders.submit(_build, service, connections, ledger, watcher)
            filled.append((service, provisioned, landed, seconds, building))
        wait([building for *_, building in filled])
        reports = [
            ServiceRun(
                service, provisioned, landed, built := future.result(), seconds + built.seconds
            )
            for service, provisioned, landed, seconds, future in filled
        ]
    return RunReport(reports, tests, time.monotonic() - started)


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


def _build(service: Service, connections: Connections, ledger: Ledger, watcher: Watcher) -> Built:
    with watcher.step(f"{service.role}: build and test") as step:
        return build(service, connections, ledger, step.finished_node)
