"""Measures what watching costs: `python -m bench watching`, on the databases of the settings.

Prints how long `runner.py health` takes as a process of its own, how long a scrape of `metrics`
takes, and its CPU: that of the exporter and of its connections' backends, so servers have to be on
this machine. After `make demo` that is all six services, built.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
import urllib.request

import psutil

from bench.result import Result
from demo.project import PROJECT, ROOT
from pgsplit.project.endpoints import Connections, resolve

RUNNER = [sys.executable, str(ROOT / "runner.py")]
INTERVAL_SECONDS = 15
BACKENDS = "select pid from pg_stat_activity where application_name = 'pgsplit health'"


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """Give the CPU that processes have used so far."""
    return sum(sum(one.cpu_times()[:2]) for one in processes)


def health_seconds(times: int) -> list[float]:
    """Run `health` some times; give how long each took."""
    took = []
    for _ in range(times):
        started = time.monotonic()
        subprocess.run([*RUNNER, "health"], stdout=subprocess.DEVNULL, cwd=ROOT)
        took.append(time.monotonic() - started)
    return took


def scrapes(connections: Connections, times: int) -> tuple[list[float], float, float]:
    """Scrape some times; give how long each took, and the CPU of exporter and backends."""
    command = [*RUNNER, "metrics", "--serve", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as exporter:
        try:
            assert exporter.stdout is not None
            (url,) = re.findall(r"http://\S+/metrics", exporter.stdout.readline())
            urllib.request.urlopen(url).read()  # which opens the connections
            pids = set[int]()
            for target in (connections.control, *connections.project.services):
                with connections.connect_to_any(target) as server:
                    pids.update(pid for (pid,) in server.execute(BACKENDS))
            watched = [psutil.Process(exporter.pid)], [psutil.Process(pid) for pid in pids]
            before, took = [cpu_seconds(one) for one in watched], []
            for _ in range(times):
                started = time.monotonic()
                urllib.request.urlopen(url).read()
                took.append(time.monotonic() - started)
            after = [cpu_seconds(one) for one in watched]
        finally:
            exporter.terminate()
    here, there = (b - a for a, b in zip(before, after, strict=True))
    return took, here / times, there / times


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--times", type=int, default=50, help="how many scrapes; 50 by default")


def measure(given: argparse.Namespace) -> Result:
    """Measure `health` and scrapes of `metrics`."""
    result = Result(("what", ">median", ">slowest"))
    took = health_seconds(max(1, given.times // 10))
    result.add_row("health", f"{statistics.median(took):.2f} s", f"{max(took):.2f} s")
    took, here, there = scrapes(resolve(PROJECT), given.times)
    middle, most = statistics.median(took) * 1000, max(took) * 1000
    result.add_row("a scrape", f"{middle:.0f} ms", f"{most:.0f} ms")
    result.add_row("its CPU in the exporter", f"{here * 1000:.0f} ms")
    result.add_row("its CPU in the backends", f"{there * 1000:.0f} ms")
    share = (here + there) / INTERVAL_SECONDS
    result.add_row(f"of a core, every {INTERVAL_SECONDS} s", f"{share:.2%}")
    return result
