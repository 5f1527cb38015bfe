"""Measures what idle followers cost: `python -m bench followers`.

All six services follow a monolith that nobody writes to, in one process, as an operator runs them.
The CPU is that of this process, of its connections' backends, and of the replication's workers on
both ends: all processes of the server, which has nothing else to do.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from bench.result import Result
from bench.server import server
from bench.splitting import SAMPLE_ROWS, say
from demo.project import MONOLITH, PROJECT, ROOT, SERVICES
from pgsplit.load import sample as demo
from pgsplit.postgres.embedded_url import data_directory
from pgsplit.project.endpoints import resolve

SETTLING_SECONDS = 10
INTERVALS = (0.2, 2)  # the default first


def cpu_seconds(head: psutil.Process) -> float:
    """Give the CPU that a process and all below it have used, those that have ended too."""
    total = sum(head.cpu_times()[2:4])
    for process in (head, *head.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:2])
    return total


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--seconds", type=float, default=60, help="how long they idle")


def measure(given: argparse.Namespace) -> Result:
    """Measure the server without followers, and with all of them."""
    result = Result()
    runner = [sys.executable, str(ROOT / "runner.py")]
    with server() as environ:
        say("a monolith, and runner.py run")
        demo.create(PROJECT, resolve(PROJECT, environ).urls[MONOLITH], SAMPLE_ROWS)
        if _quietly([*runner, "run", "--json"], environ).wait():
            raise SystemExit("run failed")
        data = data_directory(Path(environ["BLYTZ_HIRE_CONNECTIONS"]))
        postmaster = psutil.Process(int((data / "postmaster.pid").read_text().splitlines()[0]))
        say("no followers")
        (alone,) = _shares([postmaster], given.seconds)
        shares = dict[float, list[float]]()
        for interval in INTERVALS:
            say(f"{len(SERVICES)} followers, interval {interval} s")
            command = [*runner, "sync", "--follow", "--interval", f"{interval}"]
            with _quietly(command, environ) as follower:
                try:
                    process = psutil.Process(follower.pid)
                    shares[interval] = _shares([process, postmaster], given.seconds)
                finally:
                    follower.send_signal(signal.SIGINT)
                    follower.wait()
    result.add_row("the server without followers", f"{alone:.2f} %")
    for interval, (own, there) in shares.items():
        result.add_row(f"{len(SERVICES)} followers, interval {interval} s: they", f"{own:.2f} %")
        share = own + there - alone
        result.add_row("… with all that they cause in the server", f"{share:.2f} %", "< 1 %")
    own, there = shares[INTERVALS[0]]
    result.values["share"] = own + there - alone
    return result


def _quietly(command: list[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a command, without its output."""
    return subprocess.Popen(command, env=environ, cwd=ROOT, stdout=subprocess.DEVNULL)


def _shares(heads: list[psutil.Process], seconds: float) -> list[float]:
    """Give the share of a core that each process uses, with all below it, in percent."""
    time.sleep(SETTLING_SECONDS)
    before, started = [cpu_seconds(head) for head in heads], time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - started
    return [(cpu_seconds(head) - was) / took * 100 for head, was in zip(heads, before, strict=True)]
