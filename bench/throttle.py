"""Measures what an application feels while the runner works: `python -m bench throttle`.

A process of its own updates payments on the monolith, one row and one commit at a time, at a steady
pace, and notes how long each takes. Meanwhile nothing else runs, or one of the runner's operations,
without and with the throttle, in turn. Both databases are on one server.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.synchronize import Event
from typing import Any

import psycopg

from bench.result import Result
from bench.splitting import Split, say, split
from demo.project import MONOLITH, ROOT

CLIENTS = 2
PER_SECOND = 50.0  # updates of each client
REST_SECONDS = 8.0
WRITE = """
    update blytz_hire.payments set "updatedAt" = clock_timestamp() at time zone 'utc'
    where id = bench.id(%s)
"""
OPERATIONS = {
    "land": ("land", "payments", "--recopy"),
    "build": ("build", "payments"),
    "verify": ("verify", "payments"),
    "totals": ("totals", "payments"),
}
THROTTLE = ("--max-impact", "10%")


def client(url: str, last: int, stop: Event, seconds: Any) -> None:
    """Write at a steady pace until told to stop; give how long each write took."""
    took: list[float] = []
    with psycopg.connect(url, autocommit=True) as monolith:
        due = time.monotonic()
        while not stop.is_set():
            due = max(due + 1 / PER_SECOND, time.monotonic() - 1)
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.perf_counter()
            monolith.execute(WRITE, (random.randint(1, last),))
            took.append(time.perf_counter() - began)
    seconds.put(took)


def felt(place: Split, during: Callable[[], float]) -> tuple[list[float], float]:
    """Give how long each write took while something ran, and how long that took."""
    context = multiprocessing.get_context("spawn")
    stop, queue = context.Event(), context.Queue()
    url = place.connections.urls[MONOLITH]
    writers = [
        context.Process(target=client, args=(url, place.last, stop, queue), daemon=True)
        for _ in range(CLIENTS)
    ]
    for one in writers:
        one.start()
    time.sleep(2)  # until they write
    try:
        seconds = during()
    finally:
        stop.set()
    took = [one for _ in writers for one in queue.get()[int(2 * PER_SECOND) :]]
    for one in writers:
        one.join()
    return took, seconds


def p95(took: Sequence[float]) -> float:
    """Give the 95th percentile in milliseconds."""
    return statistics.quantiles(took, n=20)[-1] * 1000


def rest() -> float:
    """Do nothing for a while."""
    time.sleep(REST_SECONDS)
    return REST_SECONDS


def operation(place: Split, arguments: Sequence[str]) -> float:
    """Run one of the runner's commands; give how long it took."""
    began = time.monotonic()
    command = [sys.executable, str(ROOT / "runner.py"), *arguments]
    subprocess.run(command, env=place.environ, cwd=ROOT, check=True, capture_output=True)
    return time.monotonic() - began


def compare(place: Split, names: Sequence[str], rounds: int, result: Result) -> None:
    """Measure operations in turn."""
    for name in names:
        found: dict[str, list[tuple[float, float]]] = {}
        for number in range(rounds):
            for how, options in (("rest", None), ("without", ()), ("with", THROTTLE)):
                say(f"{name}, {how}, round {number + 1}")
                if name == "build" and options is not None:
                    operation(place, ("land", "payments", "--recopy"))
                arguments = (*OPERATIONS[name], *(options or ()))
                during = rest if options is None else partial(operation, place, arguments)
                took, seconds = felt(place, during)
                found.setdefault(how, []).append((p95(took), seconds))
        at, without, slowed = (
            [statistics.median(column) for column in zip(*found[how], strict=True)]
            for how in ("rest", "without", "with")
        )
        result.add_row(f"{name}: at rest", f"{at[0]:.1f} ms")
        for how, (felt_ms, seconds) in (("without", without), ("with", slowed)):
            ratio = f"{felt_ms / at[0]:.2f}"
            result.add_row(f"  {how} the throttle", f"{felt_ms:.1f} ms", ratio, f"{seconds:.1f}")
        worst = max(result.values.get("throttled", 0.0), slowed[0] / at[0])
        result.values["throttled"] = worst


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--rows", type=int, default=2_000_000, help="payments")
    parser.add_argument("--rounds", type=int, default=3, help="of each operation")
    parser.add_argument("operations", nargs="*", default=[*OPERATIONS], help="; ".join(OPERATIONS))


def measure(given: argparse.Namespace) -> Result:
    """Measure what writes feel while the runner works, without the throttle and with it."""
    columns = ("a write's p95", ">found", ">: at rest", ">seconds of the operation")
    result = Result(columns, values={"rows": given.rows})
    with split(given.rows) as place:
        compare(place, given.operations, given.rounds, result)
    return result
