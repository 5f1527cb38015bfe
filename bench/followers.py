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


def cpu_seconds(heads: list[psutil.Process]) -> float:
    """Give the CPU that processes and all below them have used, those that have ended too."""
    total = 0.0
    for head in heads:
        for process in (head, *head.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:2])
        total += sum(head.cpu_times()[2:4])
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
        alone = _share([postmaster], given.seconds)
        command = [*runner, "sync", "--follow"]
        with _quietly(command, environ) as follower:
            try:
                say(f"{len(SERVICES)} followers")
                process = psutil.Process(follower.pid)
                both = _share([postmaster, process], given.seconds)
                own = _share([process], given.seconds)
            finally:
                follower.send_signal(signal.SIGINT)
                follower.wait()
    result.add_row("the server without followers", f"{alone:.2f} %")
    result.add_row(f"{len(SERVICES)} followers: their process", f"{own:.2f} %")
    share = both - alone
    result.add_row("… with all that they cause in the server", f"{share:.2f} %", "< 1 % of a core")
    result.values["share"] = share
    return result


def _quietly(command: list[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a command, without its output."""
    return subprocess.Popen(command, env=environ, cwd=ROOT, stdout=subprocess.DEVNULL)


def _share(heads: list[psutil.Process], seconds: float) -> float:
    """Give the share of a core that processes use, in percent."""
    time.sleep(SETTLING_SECONDS)
    before, started = cpu_seconds(heads), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(heads) - before) / (time.monotonic() - started) * 100
