"""Runs PostgreSQL's client programs, and reads their messages."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgsplit.base.errors import NotReady
from pgsplit.base.text import SHOWN
from pgsplit.postgres import clients, session_settings
from pgsplit.postgres.clients import Needs

SECONDS_BETWEEN_LOOKS = 0.2
# What these programs write holds rows, so it is for its owner alone.
PRIVATE = 0o077

Command = tuple[list[str], dict[str, str]]
Ended = tuple[int, str]


class BackupIncomplete(NotReady):
    """A backup lacks something or can't be read."""


def program(
    name: str,
    url: str,
    *options: str,
    application: str = "pgsplit backup",
    wanted: Needs | None = None,
    least: int | None = None,
) -> Command:
    """Give a command line without the password, and an environment that holds it.

    Raises:
        ConnectionFailed: the server can't be reached.
        NotReady: no installed program fits the server; see `clients.find`.
    """
    found = clients.find(name, wanted or clients.needs(url), least)
    fields = {field: str(value) for field, value in conninfo_to_dict(url).items() if value}
    password = fields.pop("password", "")
    fields["application_name"] = application
    fields["options"] = session_settings.options(fields.get("options"))
    environ = {**os.environ, "LC_ALL": "C"}
    if password:  # everybody can read a command line
        environ["PGPASSWORD"] = password
    return [found.path, f"--dbname={make_conninfo(**fields)}", *options], environ


def run(command: Sequence[str], environ: Mapping[str, str], look: Callable[[], None]) -> Ended:
    """Run a program to its end; give its exit code and its messages. `look` is called meanwhile."""
    with TemporaryFile() as said:
        running = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=dict(environ),
            umask=PRIVATE,
        )
        try:
            while running.returncode is None:
                with suppress(subprocess.TimeoutExpired):
                    running.wait(SECONDS_BETWEEN_LOOKS)
                look()
        except BaseException:
            running.terminate()  # it then ends its workers and their queries
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
            raise
        return running.returncode, _read(said)


def pipe(writer: Command, reader: Command, look: Callable[[], None]) -> tuple[Ended, Ended]:
    """Let one program write to another, without a file between them.

    Args:
        writer: the program whose output is read.
        reader: the program that reads it.
        look: called now and then until the reader ends.

    Returns:
        The exit code and the messages of both. The writer ends by SIGPIPE if the reader fails.
    """
    with TemporaryFile() as writer_said, TemporaryFile() as reader_said:
        with (
            subprocess.Popen(
                writer[0], stdout=subprocess.PIPE, stderr=writer_said, env=writer[1]
            ) as writing,
            subprocess.Popen(
                reader[0], stdin=writing.stdout, stderr=reader_said, env=reader[1]
            ) as reading,
        ):
            assert writing.stdout is not None
            writing.stdout.close()  # so that the writer ends when the reader does
            try:
                while reading.poll() is None:
                    look()
                    time.sleep(SECONDS_BETWEEN_LOOKS)
            except BaseException:
                writing.kill()
                reading.kill()
                raise
        return (writing.returncode, _read(writer_said)), (reading.returncode, _read(reader_said))


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace").strip()


def errors(said: str) -> str:
    """Give the first errors of a PostgreSQL program, each with its statement."""
    found = [f"{what} at {at}" if at else what for what, at in failures(said)]
    return "\n".join((found or said.splitlines()[-SHOWN:])[:SHOWN])


def failures(said: str) -> list[tuple[str, str]]:
    """Give the errors of a PostgreSQL program: the message, and the first line of the statement."""
    found = []
    for error in re.split(r"^\w+: error: ", said, flags=re.MULTILINE)[1:]:
        what, _, command = error.partition("Command was: ")
        what = what.removeprefix("could not execute query: ").strip().splitlines()[0]
        at = command.splitlines()[0].rstrip(" (") if command.strip() else ""
        found.append((what, at))
    return found


def toc(path: Path) -> str:
    """List a backup's contents, one entry per line.

    Raises:
        BackupIncomplete: the list is missing or damaged.
    """
    done = subprocess.run(
        [clients.find("pg_restore").path, "--list", str(path)],
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode:
        raise incomplete(path, f"Its table of contents can't be read: {errors(done.stderr)}")
    return done.stdout


def unreadable(part: Path) -> str:
    """Let pg_restore read every row without a database; give the errors, or nothing."""
    command = [clients.find("pg_restore").path, "--data-only", f"--file={os.devnull}", str(part)]
    code, said = run(command, {**os.environ, "LC_ALL": "C"}, lambda: None)
    return (errors(said) or f"pg_restore ended with code {code}.") if code else ""


def incomplete(path: Path, why: str) -> BackupIncomplete:
    """Give the error for an incomplete backup."""
    return BackupIncomplete(
        f"The backup is not complete. {why}",
        where=str(path),
        hint="Use another one: runner.py backups",
    )
