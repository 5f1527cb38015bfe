"""Copies a schema into another database by pg_dump and pg_restore, as one instant had it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from pgsplit.base.errors import NotReady
from pgsplit.postgres import clients, programs
from pgsplit.postgres.archive import make_plain
from pgsplit.postgres.connect import LOCK_TIMEOUT, connect, describe

# Without keys, indexes and triggers: a split needs only primary keys, and the others may need
# something that the other server lacks.
OPTIONS = (
    *("--no-owner", "--no-privileges", "--no-publications", "--no-subscriptions"),
    *("--no-tablespaces", f"--lock-wait-timeout={LOCK_TIMEOUT}"),
)


class Unreadable(NotReady):
    """pg_dump can't read the original."""


def clone(
    url: str,
    copy: str,
    schema: str,
    without_rows: Sequence[str],
    home: Path,
    look: Callable[[], None],
) -> str:
    """Copy a schema's tables and rows; rows go from one program to the other, without a file.

    Args:
        url: the URL of the original, which is only read.
        copy: the URL of an empty database.
        schema: the schema's name.
        without_rows: tables of which only the definition is wanted.
        home: a folder for the definitions, which are removed at the end.
        look: called now and then.

    Returns:
        What pg_restore said: errors, if something could not be made.

    Raises:
        ConnectionFailed: a server can't be reached.
        NotReady: no installed program fits.
        Unreadable: pg_dump failed.
    """
    wanted, target = clients.needs(url), clients.needs(copy)
    least = clients.find("pg_dump", wanted).version
    quoted = ['"' + name.replace('"', '""') + '"' for name in without_rows]
    excluded = [f"--exclude-table-data={schema}.{name}" for name in quoted]
    with (
        TemporaryDirectory(dir=home, prefix="definitions-") as folder,
        connect(url, "database") as original,
    ):
        original.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        original.read_only = True
        with original.transaction():
            row = original.execute("select pg_export_snapshot()").fetchone()
            snapshot = f"--snapshot={row[0]}" if row else ""

            def dump(*options: str) -> programs.Command:
                return programs.program(
                    "pg_dump",
                    url,
                    *(f"--schema={schema}", snapshot, *OPTIONS, *options),
                    application="pgsplit dry run",
                    wanted=wanted,
                )

            def restore(*options: str) -> programs.Command:
                return programs.program(
                    "pg_restore",
                    copy,
                    *("--no-owner", "--no-privileges", *options),
                    wanted=target,
                    least=least,
                )

            path = Path(folder, "dump")
            definitions = ("--section=pre-data", "--extension=*", "--format=directory")
            _require(programs.run(*dump(*definitions, f"--file={path}"), look), url)
            make_plain(path)
            _, said = programs.run(*restore(str(path)), look)
            rows = dump("--section=data", "--format=custom", "--compress=0", *excluded)
            ended, (_, more) = programs.pipe(rows, restore(), look)
            _require(ended, url)
    return "\n".join(filter(None, (said, more)))


def _require(ended: programs.Ended, url: str) -> None:
    code, said = ended
    if code not in (0, -signal.SIGPIPE):
        raise Unreadable(said, where=describe(url))
