"""Measures the main job beside other tools: `python -m bench main --rows 200000 2000000`.

On one PostgreSQL 15 for each size, in turns, several rounds: `run payments communication` with all
tests; the same without tests; `pgcopydb clone` of the same tables; `pg_dump` and `pg_restore`; two
copies by bare SQL, with the services' tables and unchanged; plain dbt `table` models over
postgres_fdw with the same SQL, keys and indexes; `create table as` over postgres_fdw with primary
keys only; and the strategy's own `insert … select` within one server. PostgreSQL is 15 because
Debian's pgcopydb 0.10 knows no later one. The monolith has so many payments, and as many
notifications.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import psutil

from bench import chart, peers
from bench.goals import GOAL_ROWS
from bench.result import Result
from bench.server import server_15
from bench.splitting import fill, fill_notifications, say
from demo.project import MONOLITH, PROJECT, ROOT, select
from pgsplit.load import sample as demo
from pgsplit.project.endpoints import Connections, resolve

SERVICES = ("payments", "communication")
RUN, BUILT = "run, all tests", "run, no tests"
OURS = (RUN, BUILT)
LOOK_SECONDS = 0.1
SMALL_SAMPLE = 10_000  # rows of all tables, from which the many are made
# Of larger sizes there is one round, with these of the other ways: the others take hours.
LARGE_ROWS = 2_000_000
WITH_LARGE = (peers.PGCOPYDB, peers.FLOOR)
PGSPLIT = (sys.executable, "-m", "pgsplit.cli.main")
# What dbt builds if it is not told what.
NO_TESTS = """
selectors:
  - name: no_tests
    default: true
    definition:
      union:
        - {method: fqn, value: "*"}
        - exclude:
            - {method: resource_type, value: test}
            - {method: resource_type, value: unit_test}
"""


@dataclass
class Size:
    """A monolith's size, and the seconds of each way, round by round."""

    rows: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak: int = 0
    version: str = ""

    def other_ways(self) -> list[peers.Peer]:
        """Give the other ways that are tried with so many rows."""
        return [
            peer
            for peer in peers.PEERS
            if peer.is_installed and (self.rows <= LARGE_ROWS or peer.name in WITH_LARGE)
        ]

    def median(self, way: str) -> float | None:
        """The median of a way's rounds; None if it did not run."""
        return statistics.median(self.seconds[way]) if self.seconds.get(way) else None

    def ratio(self, way: str, other: str) -> float | None:
        """The median of the ratios within each round."""
        pairs = zip(self.seconds.get(way, []), self.seconds.get(other, []), strict=False)
        ratios = [one / another for one, another in pairs]
        return statistics.median(ratios) if ratios else None


@dataclass
class Ours:
    """The runner on a monolith; `without_tests` is the same project whose builds run no tests."""

    environ: Mapping[str, str]
    size: Size
    without_tests: Path

    def run(self, project: Path = ROOT) -> None:
        """Run everything, and note the memory that the runner and its processes hold at most."""
        command = [*PGSPLIT, "--project-dir", str(project), "run", *SERVICES, "--json"]
        options: dict[str, Any] = {"env": self.environ, "cwd": ROOT, "stdout": subprocess.DEVNULL}
        with TemporaryFile() as said, subprocess.Popen(command, stderr=said, **options) as runner:
            try:
                while runner.poll() is None:
                    self.size.peak = max(self.size.peak, _memory(runner.pid))
                    time.sleep(LOOK_SECONDS)
            finally:
                runner.terminate()  # if it still runs
            if runner.returncode:
                said.seek(0)
                raise SystemExit(said.read().decode())

    def clean(self) -> None:
        """Remove what was made."""
        for service in SERVICES:
            command = [*PGSPLIT, "--project-dir", str(ROOT), "abort", service, "--yes"]
            subprocess.run(command, env=self.environ, cwd=ROOT, check=True, capture_output=True)
        with resolve(PROJECT, self.environ).connect(MONOLITH) as monolith:
            # The ledger stays after an abort; pgcopydb 0.10 can't copy its identity columns.
            monolith.execute("drop schema split cascade")


def without_tests(folder: Path) -> Path:
    """Make the same project whose builds run no tests, in a new folder."""
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name not in ("target", "logs", ".git"):
            (folder / path.name).symlink_to(path)
    (folder / "selectors.yml").write_text(NO_TESTS)
    return folder


def _memory(pid: int) -> int:
    """Give the bytes that a process and all below it hold."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        head = psutil.Process(pid)
        for process in (head, *head.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total


def measure_size(rows: int, rounds: int) -> Size:
    """Make a monolith, and copy it in all ways, in turns."""
    size = Size(rows)
    with server_15() as environ:
        connections = resolve(PROJECT, environ)
        say(f"a monolith of {rows:,} payments and as many notifications")
        demo.create(PROJECT, connections.urls[MONOLITH], SMALL_SAMPLE)
        fill(connections, rows)
        fill_notifications(connections, rows)
        with connections.connect(MONOLITH) as monolith:
            monolith.execute("vacuum analyze")
            found = monolith.execute("show server_version").fetchone()
            assert found is not None
            size.version = str(found[0]).split()[0]
        folder = Path(environ["BLYTZ_HIRE_CONNECTIONS"])
        reads = {one.database: one.landed_tables for one in select(SERVICES)}
        source = peers.Source(connections.urls[MONOLITH], folder / "peers", reads)
        ours = Ours(environ, size, without_tests(folder / "without_tests"))
        ways = _ways(ours, source, connections)
        for number in range(1 if rows > LARGE_ROWS else rounds):
            for way in range(len(ways)):
                # The first round begins with ours, from which the peers learn what to build.
                name, prepare, work, clean = ways[(way + number) % len(ways)]
                say(f"{rows:,} rows, round {number + 1}: {name}")
                prepare()
                with connections.connect(MONOLITH) as monolith:
                    monolith.execute("checkpoint")
                started = time.monotonic()
                work()
                size.seconds.setdefault(name, []).append(time.monotonic() - started)
                clean()
    return size


Way = tuple[str, Callable[[], None], Callable[[], None], Callable[[], None]]


def _ways(ours: Ours, source: peers.Source, connections: Connections) -> list[Way]:
    """Give each way's name, and how to prepare, do and undo it."""

    def learn_and_clean() -> None:
        if not source.tables:
            for service in select(SERVICES):
                url = connections.urls[service.database]
                source.tables[service.database] = peers.read_shape(url)
        ours.clean()

    def none() -> None:
        """Prepare nothing."""

    return [
        (RUN, none, ours.run, learn_and_clean),
        (BUILT, none, partial(ours.run, ours.without_tests), ours.clean),
        *(_way(peer, source, ours.size.rows) for peer in ours.size.other_ways()),
    ]


def _way(peer: peers.Peer, source: peers.Source, rows: int) -> Way:
    def clean() -> None:
        peer.require(source, rows)
        peer.clean(source)

    return peer.name, partial(peer.prepare, source), partial(peer.work, source), clean


def show(sizes: list[Size], result: Result) -> None:
    """Give a section for each size."""
    for size in sizes:
        result.add_row(f"twice {size.rows:,} rows")
        for peer in peers.PEERS:
            if not peer.is_installed:
                result.add_row(f"  {peer.name}", "not installed")
        for way, seconds in size.seconds.items():
            others = (peers.PGCOPYDB, peers.FLOOR, peers.CREATE_AS)
            ratios = [size.ratio(way, other) for other in others]
            result.add_row(
                f"  {way}",
                f"{statistics.median(seconds):.1f}",
                f"{min(seconds):.1f}–{max(seconds):.1f}",
                *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
            )
        result.add_row("  memory of run, MB", f"{size.peak / 2**20:,.0f}")
        result.add_section()


def keep(sizes: list[Size], result: Result) -> None:
    """Keep what the goals and the chart name."""
    at = next((size for size in sizes if size.rows == GOAL_ROWS), sizes[-1])
    ways = (*OURS, *(peer.name for peer in peers.PEERS))
    lines = {
        way: [(size.rows, middle) for size in sizes if (middle := size.median(way)) is not None]
        for way in ways
    }
    result.values = {
        "rows": at.rows,
        "run": at.ratio(RUN, peers.PGCOPYDB),
        "built": at.ratio(BUILT, peers.PGCOPYDB),
        "run_by_fdw": at.ratio(RUN, peers.CREATE_AS),
        "exponent": chart.exponent(lines[RUN]),
        "memory": sizes[-1].peak / sizes[0].peak if len(sizes) > 1 else None,
        "lines": {way: points for way, points in lines.items() if points},
        "rounds": {f"{size.rows}": size.seconds for size in sizes},
    }
    result.versions["PostgreSQL"] = at.version
    if peers.PEERS[0].is_installed:
        said = subprocess.run(["pgcopydb", "version"], capture_output=True, text=True).stdout
        result.versions["pgcopydb"] = said.split()[2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=[200_000, 2_000_000],
        help="payments, and as many notifications, of each size; above 2 million there is one"
        " round, beside pgcopydb and the floor alone",
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is tried")


def measure(given: argparse.Namespace) -> Result:
    """Measure all sizes, the smallest first."""
    result = Result(("what", ">seconds", ">range", ">: pgcopydb", ">: floor", ">: create"))
    sizes = [measure_size(rows, given.rounds) for rows in sorted(given.rows)]
    show(sizes, result)
    keep(sizes, result)
    return result
