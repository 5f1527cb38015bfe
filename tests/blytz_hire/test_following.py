"""Following: whatever happens in the live monolith, the services' tables match the models.

The seed doesn't decide how the writers' transactions interleave, so a failure may not come back
with its seed. FOLLOWING_SEED sets the seed.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from random import Random

import pytest

from demo.project import SERVICES_BY_NAME
from pgsplit.project.project import Service
from pgsplit.replication.follow import Tick, follow
from tests.support.following import sync_and_compare
from tests.support.split import Split
from tests.support.workload import (
    KINDS,
    LEAVES,
    SCOPES,
    TRUNCATED_WITH_DEPENDANTS,
    Done,
    Writer,
    prepare,
)

SEEDS = [os.environ.get("FOLLOWING_SEED", "1")]
WRITERS = 3
ROUNDS = 4
TRANSACTIONS = 200
PARENTS = ("users", "va_profiles", "companies")


@pytest.mark.parametrize("seed", SEEDS)
def test_services_follow_every_change_in_the_monolith(six: Split, seed: str) -> None:
    split = six
    with ExitStack() as stack:
        monolith = stack.enter_context(split.monolith())
        schema = prepare(monolith)
        writers = [
            Writer(stack.enter_context(split.monolith()), schema, f"{seed}-{number}")
            for number in range(WRITERS)
        ]
        followers = stack.enter_context(following(split))
        for number in range(ROUNDS):
            work(writers, tables_to_empty(Random(f"{seed}-{number}"), number))
            wrong = sync_and_compare(split, monolith)
            assert not wrong, with_seed(f"{seed}, round {number}", wrong)
        # In two steps: an empty parent has its children compared, whether or not they are emptied.
        for tables in (set(schema.tables) - set(PARENTS), PARENTS):
            names = ", ".join(f"blytz_hire.{table}" for table in sorted(tables))
            monolith.execute(f"truncate {names} cascade")
            wrong += sync_and_compare(split, monolith)
    for follower in followers:
        wrong += follower.complaints()
    done = sum((writer.done for writer in writers), Counter())
    refused = sum((writer.refused for writer in writers), Counter())
    wrong += missed(done, tuple(schema.tables))
    assert not wrong, with_seed(seed, [*wrong, f"The monolith refused: {dict(refused)}"])


def with_seed(seed: str, wrong: Sequence[str]) -> str:
    """Add the seed to what is wrong."""
    return "\n".join([f"FOLLOWING_SEED={seed}", *wrong])


# Writers


def work(writers: Sequence[Writer], emptied: Sequence[str]) -> None:
    """Let all writers work at once until all are done; the first also truncates tables."""

    def one(writer: Writer) -> None:
        writer.work(TRANSACTIONS // 2)
        for table in emptied if writer is writers[0] else ():
            writer.truncate(table)
        writer.work(TRANSACTIONS // 2)

    with ThreadPoolExecutor(len(writers)) as pool:
        for result in [pool.submit(one, writer) for writer in writers]:
            result.result()


def tables_to_empty(random: Random, number: int) -> list[str]:
    """Choose the tables that a round truncates."""
    leaves = random.sample(LEAVES, 2)
    return [*leaves, TRUNCATED_WITH_DEPENDANTS] if number == 1 else leaves


def missed(done: Done, tables: Sequence[str]) -> list[str]:
    """Name what never happened: a kind of operation, or a basic operation on some table."""
    kinds = {kind for kind, _ in done}
    wrong = [f"no {kind} was committed" for kind in (*KINDS, *SCOPES) if kind not in kinds]
    for table in tables:
        times = {
            "insert": done["insert", table],
            "update": done["update", table],
            "delete": done["delete", table] + done["delete with dependants", table],
        }
        wrong += [f"no {kind} of {table} was committed" for kind in times if not times[kind]]
    return wrong


# Followers


@dataclass
class Follower:
    """The follower of a service: rows written, every problem it reported, and its failure."""

    service: Service
    rows: int = 0
    met: set[str] = field(default_factory=set)
    failed: Exception | None = None

    def tick(self, tick: Tick) -> None:
        """Record a tick."""
        self.rows = tick.rows
        self.met |= {tick.trouble} - {""}

    def complaints(self) -> list[str]:
        """Say what was wrong with it."""
        found = [*self.met, *([repr(self.failed)] if self.failed else [])]
        if not self.rows:
            found.append("wrote no row")
        return [f"the follower of {self.service.database}: {what}" for what in found]


@contextmanager
def following(split: Split) -> Iterator[list[Follower]]:
    """Follow all six services for the block."""
    stop = threading.Event()
    followers = [Follower(service) for service in SERVICES_BY_NAME.values()]

    def run(follower: Follower) -> None:
        try:
            follow(follower.service, split.connections, stop, follower.tick, interval=0.1)
        except Exception as error:  # noqa: BLE001 whatever it is, the test is to show it
            follower.failed = error

    threads = [threading.Thread(target=run, args=[follower]) for follower in followers]
    for thread in threads:
        thread.start()
    try:
        yield followers
    finally:
        stop.set()
        for thread in threads:
            thread.join()
