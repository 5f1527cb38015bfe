"""What a measurement found: a table for people, values for the goals, and where it was taken."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.table import Table

from pgsplit import __version__
from pgsplit.base.text import size
from pgsplit.cli import console

COLUMNS = ("what", ">figure", ">target")
PACKAGES = ("dbt-core", "psycopg")


@dataclass
class Result:
    """A measurement's findings; `rows` has None where a section ends.

    Goals and charts know `values` by their names. `wrong` says what must not be: then nothing is
    kept, and the exit code is 1.
    """

    columns: tuple[str, ...] = COLUMNS
    rows: list[tuple[str, ...] | None] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add_row(self, *cells: str) -> None:
        """Add a row; missing cells are empty."""
        self.rows.append((*cells, *[""] * (len(self.columns) - len(cells))))

    def add_section(self) -> None:
        """End a section."""
        self.rows.append(None)

    def table(self) -> Table:
        """Give the findings for a terminal of 80 columns."""
        table = console.table(*self.columns)
        for row in self.rows:
            if row is None:
                table.add_section()
            else:
                table.add_row(*row)
        return table


@dataclass(frozen=True)
class Record:
    """A measurement that is kept: what was found, when, where and by which command."""

    name: str
    title: str
    command: str
    date: str
    seconds: float
    machine: str
    versions: dict[str, str]
    settings: dict[str, Any]
    columns: tuple[str, ...]
    rows: list[tuple[str, ...] | None]
    values: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def record(
    name: str,
    title: str,
    result: Result,
    settings: dict[str, Any],
    seconds: float,
    load: float,
) -> Record:
    """Make a record of a result that was just found.

    Args:
        name: the measurement's name.
        title: what it measures, in a line.
        result: what it found.
        settings: what it was called with.
        seconds: how long it took.
        load: the machine's load when it began.

    Returns:
        The record, with today's date and this machine.
    """
    ours = {"pgsplit": __version__, "Python": platform.python_version()}
    return Record(
        name,
        title,
        " ".join(["python -m bench", *sys.argv[1:]]),
        time.strftime("%Y-%m-%d"),
        round(seconds, 1),
        f"{machine()}, load {load:.1f} at the start",
        {**result.versions, **{package: version(package) for package in PACKAGES}, **ours},
        settings,
        result.columns,
        result.rows,
        result.values,
        result.notes,
    )


def machine() -> str:
    """Say what this machine is."""
    model = platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    cores, memory = os.cpu_count() or 1, size(psutil.virtual_memory().total)
    return f"{cores} cores ({model}), {memory}, {platform.system()} {platform.release()}"


def save(one: Record, folder: Path) -> Path:
    """Write a record into a folder; atomic.

    Args:
        one: the record.
        folder: where to; made if it doesn't exist.

    Returns:
        The file, which has the measurement's name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{one.name}.json"
    replace(path, json.dumps(asdict(one), indent=1, ensure_ascii=False) + "\n")
    return path


def load(path: Path) -> Record:
    """Read a record that `save` has written."""
    return Record(**json.loads(path.read_text(encoding="utf-8")))


def replace(path: Path, text: str) -> None:
    """Write a file as a whole, or not at all."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
