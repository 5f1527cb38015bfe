"""A monolith and room for its six services, and the commands that a person would give."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import psycopg

import runner
from demo.project import MONOLITH, ROOT
from pgsplit.project import dbt
from pgsplit.project.endpoints import Connections
from tests.support.servers import Server

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Split:
    """A monolith and room for its six services, for one test.

    Processes find them through `environ`, called functions through `connections`.
    """

    server: Server
    connections: Connections
    environ: Mapping[str, str] = field(repr=False)

    def monolith(self) -> psycopg.Connection[Any]:
        """Connect to the monolith."""
        return self.connections.connect(MONOLITH)

    def service(self, database: str) -> psycopg.Connection[Any]:
        """Connect to a service's database."""
        return self.connections.connect(database)

    def replicate(self, database: str, statement: str, *parameters: object) -> None:
        """Change a mirror as replication does, which no application may."""
        with self.service(database) as connection:
            connection.execute("set session_replication_role = replica")
            connection.execute(statement, parameters)

    def runner(self, *arguments: str, **environ: str) -> Done:
        """Run runner.py as a person would, in this process: it starts in no time.

        Signals and the environment belong to the whole process, so a thread beside the test's own
        starts a process instead.
        """
        if threading.current_thread() is not threading.main_thread():
            return self.process(*arguments, **environ)
        with surrounded({**self.environ, **environ}):
            return command_line(*arguments)

    def process(self, *arguments: str, **environ: str) -> Done:
        """Run runner.py in its own process, for tests about processes."""
        return subprocess.run(
            [sys.executable, str(ROOT / "runner.py"), *arguments],
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            cwd=ROOT,
        )

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """Start runner.py in a process of its own, to be watched, interrupted or killed."""
        return subprocess.Popen(
            [sys.executable, str(ROOT / "runner.py"), *arguments],
            env={**self.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )

    def dbt(self, *arguments: str, **environ: str) -> Done:
        """Run dbt in the project's root, as a person would."""
        return subprocess.run(
            [*dbt.DBT, "--no-use-colors", *arguments],
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            cwd=ROOT,
        )


def command_line(*arguments: str, main: Callable[[Sequence[str]], int] = runner.main) -> Done:
    """Run runner.py, or the engine on another project, in this process and capture its output."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
    return Done(["runner.py", *arguments], code, out.getvalue(), err.getvalue())


@contextmanager
def surrounded(environ: Mapping[str, str]) -> Iterator[None]:
    """Change this process's environment for the block, only where it differs."""
    before = dict(os.environ)
    _become(environ)
    try:
        yield
    finally:
        _become(before)


def _become(environ: Mapping[str, str]) -> None:
    for name in os.environ.keys() - environ.keys():
        del os.environ[name]
    for name, value in environ.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
