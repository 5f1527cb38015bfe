"""The whole way of a service, phase by phase: provision, land, build."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from pgsplit.load.build import Built, Tests, build, check_monolith
from pgsplit.load.land import Landed, land
from pgsplit.load.provision import Provisioned, provision
from pgsplit.postgres.copy import Progress
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.state.ledger import Ledger, open_ledger


class Step(Protocol):
    """A step under way, which is told how far it is."""

    def copied(self, progress: Progress) -> None:
        """A landing has copied more."""

    def say(self, said: str) -> None:
        """There is something to tell."""

    def finished_node(self, name: str) -> None:
        """dbt has finished a model or a test."""


class Watcher(Protocol):
    """Whoever wants to know how far a run is."""

    def step(self, what: str) -> AbstractContextManager[Step]:
        """A step begins, and ends with the block; several may be under way at once."""


@dataclass(frozen=True)
class Report:
    """What a run did for one service."""

    service: Service
    provisioned: Provisioned
    landed: Landed
    built: Built
    seconds: float


@dataclass(frozen=True)
class RunReport:
    """What a run did: one report a service, and the tests that ask the monolith itself."""

    services: list[Report]
    monolith: Tests
    seconds: float


def run(services: Sequence[Service], connections: Connections, watcher: Watcher) -> RunReport:
    """Take services from wherever they are to built and tested.

    Databases are made and mirrors filled one after the other, in phase order; each service is
    built as soon as it is landed, as many at once as there are processors. What is done already
    is not done again, so a run that was cut short goes on where it stood.

    Args:
        services: in phase order.
        connections: where the servers are.
        watcher: is told how far the run is.

    Returns:
        What was done for each service.

    Raises:
        SplitError: the first thing that went wrong, in phase order; what else was under way is
            finished first.
    """
    started = time.monotonic()
    with open_ledger(connections) as ledger, ThreadPoolExecutor(os.cpu_count()) as builders:
        with watcher.step("monolith: who owns which column") as step:
            tests = check_monolith(connections, step.finished_node)
        filled = []
        for service in services:
            begun = time.monotonic()
            with watcher.step(f"{service.role}: provision"):
                provisioned = provision(service, connections, ledger)
            with watcher.step(f"{service.role}: land") as step:
                landed = land(service, connections, ledger, step.copied)
            seconds = time.monotonic() - begun
            building = builders.submit(_build, service, connections, ledger, watcher)
            filled.append((service, provisioned, landed, seconds, building))
        wait([building for *_, building in filled])
        reports = [
            Report(service, provisioned, landed, built := future.result(), seconds + built.seconds)
            for service, provisioned, landed, seconds, future in filled
        ]
    return RunReport(reports, tests, time.monotonic() - started)


def _build(service: Service, connections: Connections, ledger: Ledger, watcher: Watcher) -> Built:
    with watcher.step(f"{service.role}: build and test") as step:
        return build(service, connections, ledger, step.finished_node)
