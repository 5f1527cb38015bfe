"""Measures what watching costs: `python -m bench.watching`, on the databases of the settings.

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


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description="Measure what watching costs.")
    parser.add_argument("--times", type=int, default=50, help="how many scrapes; 50 by default")
    times = parser.parse_args().times
    took = health_seconds(max(1, times // 10))
    print(f"health: {statistics.median(took):.2f} s, the slowest {max(took):.2f} s")
    took, here, there = scrapes(resolve(PROJECT), times)
    share = (here + there) / INTERVAL_SECONDS
    print(
        f"scrape: {statistics.median(took) * 1000:.0f} ms, the slowest {max(took) * 1000:.0f} ms;"
        f" CPU {here * 1000:.0f} ms in the exporter and {there * 1000:.0f} ms in its backends;"
        f" every {INTERVAL_SECONDS} s that is {share:.2%} of a core"
    )


if __name__ == "__main__":
    main()
