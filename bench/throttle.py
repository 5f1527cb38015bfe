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
# In this order: a service that has landed again has to be built before it can be verified.
OPERATIONS = {
    "verify": ("verify", "payments", "--whole"),
    "totals": ("totals", "payments"),
    "land": ("land", "payments", "--recopy"),
    "build": ("build", "payments"),
}
# By how it is measured, the options of the operation; None stands for no operation.
HOW: dict[str, tuple[str, ...] | None] = {
    "rest": None,
    "without": (),
    "with": ("--max-impact", "10%"),
}
COLUMNS = (
    "operation",
    ">p95 at rest",
    ">without throttle",
    ">with",
    ">took without",
    ">with",
)


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--rows", type=int, default=1_000_000, help="payments")
    parser.add_argument("--rounds", type=int, default=5, help="of each operation")
    parser.add_argument("--operations", nargs="+", default=[*OPERATIONS], choices=OPERATIONS)


def measure(given: argparse.Namespace) -> Result:
    """Measure operations in turn: at rest, without and with the throttle."""
    result = Result(COLUMNS, values={"rows": given.rows, "throttled": 0.0})
    with split(given.rows) as place:
        for name in (one for one in OPERATIONS if one in given.operations):
            found: dict[str, list[tuple[float, float]]] = {}
            for number in range(given.rounds):
                for how, options in HOW.items():
                    say(f"{name}, {how}, round {number + 1}")
                    found.setdefault(how, []).append(_once(place, name, options))
            _add(result, name, found)
    return result


def _once(place: Split, name: str, options: Sequence[str] | None) -> tuple[float, float]:
    """Measure once: the p95 of writes, and how long the operation took."""
    if name == "build" and options is not None:
        operation(place, OPERATIONS["land"])
    arguments = (*OPERATIONS[name], *(options or ()))
    took, seconds = felt(place, rest if options is None else partial(operation, place, arguments))
    return p95(took), seconds


def _add(result: Result, name: str, found: dict[str, list[tuple[float, float]]]) -> None:
    middle = {
        how: [statistics.median(column) for column in zip(*found[how], strict=True)] for how in HOW
    }
    at = middle["rest"][0]
    ratios = {how: middle[how][0] / at for how in ("without", "with")}
    result.values[name] = {"p95_at_rest_ms": at, **{f"ratio_{k}": v for k, v in ratios.items()}}
    result.values["throttled"] = max(result.values["throttled"], ratios["with"])
    result.add_row(
        name,
        f"{at:.1f} ms",
        *(f"{middle[how][0]:.1f} ms, {ratios[how]:.2f} ×" for how in ratios),
        *(f"{middle[how][1]:.1f} s" for how in ratios),
    )
