"""Runs pg_dump and pg_restore, and reads what they say."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgsplit.base.errors import NotReady
from pgsplit.postgres import embedded

SHOWN = 3
SECONDS_BETWEEN_LOOKS = 0.2


class BackupIncomplete(NotReady):
    """A backup does not hold what it should, or can't be read."""


def program(name: str, url: str, *options: str) -> tuple[list[str], dict[str, str]]:
    """Give a command line without a password, and the environment that has it."""
    fields = {field: str(value) for field, value in conninfo_to_dict(url).items() if value}
    password = fields.pop("password", "")
    fields["application_name"] = "pgsplit backup"
    environ = {**os.environ, "LC_ALL": "C"}
    if password:  # everybody may read a command line
        environ["PGPASSWORD"] = password
    return [embedded.binary(name), f"--dbname={make_conninfo(**fields)}", *options], environ


def run(
    command: Sequence[str], environ: Mapping[str, str], look: Callable[[], None]
) -> tuple[int, str]:
    """Run a program to its end; give its exit code and what it said."""
    with TemporaryFile() as said:
        running = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=dict(environ),
        )
        try:
            while running.returncode is None:
                with suppress(subprocess.TimeoutExpired):
                    running.wait(SECONDS_BETWEEN_LOOKS)
                look()
        except BaseException:
            running.terminate()  # it ends its workers, and what they do in the server
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
            raise
        said.seek(0)
        return running.returncode, said.read().decode(errors="replace").strip()


def errors(said: str) -> str:
    """Give the first errors of a program of PostgreSQL, each with the statement it was at."""
    found = []
    for error in re.split(r"^\w+: error: ", said, flags=re.MULTILINE)[1:]:
        what, _, command = error.partition("Command was: ")
        what = what.removeprefix("could not execute query: ").strip().splitlines()[0]
        command = command.splitlines()[0].rstrip(" (") if command.strip() else ""
        found.append(what + (f" at {command}" if command else ""))
    return "\n".join(found[:SHOWN]) if found else "\n".join(said.splitlines()[-SHOWN:])


def toc(path: Path) -> str:
    """Give a backup's table of contents, a line an entry; BackupIncomplete if it has none."""
    done = subprocess.run(
        [embedded.binary("pg_restore"), "--list", str(path)],
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode:
        raise incomplete(path, f"Its table of contents can't be read: {errors(done.stderr)}")
    return done.stdout


def unreadable(part: Path) -> str:
    """Let pg_restore read every row without a database; say what it could not read."""
    command = [embedded.binary("pg_restore"), "--data-only", f"--file={os.devnull}", str(part)]
    code, said = run(command, {**os.environ, "LC_ALL": "C"}, lambda: None)
    return (errors(said) or f"pg_restore ended with code {code}.") if code else ""


def incomplete(path: Path, why: str) -> BackupIncomplete:
    """Say why a backup is not whole, and where others are."""
    return BackupIncomplete(
        f"The backup is not complete. {why}",
        where=str(path),
        hint="Use another one: runner.py backups",
    )


def few(names: Sequence[str]) -> str:
    """Give the first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
