"""Measures, prints, and keeps what was found: `python -m bench NAME`.

A measurement is a module of this package with `add_arguments(parser)` and `measure(given)`. What it
found goes to target/bench/NAME.json; with --publish to bench/results/, from which the tables in
README.md and docs/performance.md are made.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import FrameType, ModuleType

import psutil

import bench
from bench import pages
from bench.result import Result, record, save
from demo.project import ROOT
from pgsplit.cli import console

QUIET = 0.5  # the load of a machine that does nothing else
KEPT = ROOT / "target" / "bench"


def main(arguments: list[str] | None = None) -> int:
    """Run a measurement, or write the pages; give the exit code."""
    modules = measurements()
    given = _parser(modules).parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    if given.name == "pages":
        for path in pages.write():
            console.say(f"written: {path.relative_to(ROOT)}")
        return 0
    settings = {
        name: value for name, value in vars(given).items() if name not in ("name", "publish")
    }
    load, started = os.getloadavg()[0], time.monotonic()
    if load > QUIET:
        console.err.print(f"This machine is busy (load {load:.1f}); figures will show it.")
    try:
        result: Result = modules[given.name].measure(given)
    except KeyboardInterrupt:
        console.err.print("stopped; what was made for it is removed, and nothing is kept")
        return 130
    console.out.print(result.table())
    console.say(*result.notes)
    if result.wrong:
        console.say(*result.wrong)
        return 1
    seconds = time.monotonic() - started
    one = record(given.name, title(modules[given.name]), result, settings, seconds, load)
    path = save(one, pages.RESULTS if given.publish else KEPT)
    console.say(f"kept: {_shown(path)}")
    if given.publish:
        for page in pages.write():
            console.say(f"written: {_shown(page)}")
    return 0


def measurements() -> dict[str, ModuleType]:
    """Give the modules that measure something, by name."""
    names = [one.name for one in iter_modules(bench.__path__) if one.name != "__main__"]
    modules = {name: import_module(f"bench.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "add_arguments")}


def title(module: ModuleType) -> str:
    """Say what a module measures: the first line of its docstring, up to a colon."""
    return (module.__doc__ or "").partition("\n")[0].partition(":")[0].removeprefix("Measures ")


def _parser(modules: dict[str, ModuleType]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for name, module in modules.items():
        one = names.add_parser(name, help=title(module), description=module.__doc__)
        one.add_argument(
            "--publish", action="store_true", help="keep it in bench/results/, and write the pages"
        )
        module.add_arguments(one)
    names.add_parser("pages", help="write the tables of README.md and docs/performance.md")
    return parser


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Interrupt everything that was started as Ctrl-C does; the servers are ended afterwards."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.send_signal(signal.SIGINT)
    signal.default_int_handler(number, frame)


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
