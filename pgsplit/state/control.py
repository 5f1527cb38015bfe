"""The control database: where the ledger, the services' states and the runner's lock are.

It is the monolith until it moves elsewhere. `split.control` says so on both sides, in `stands`:
`arriving` where a move has begun to copy, `here` where everything is, `gone` where it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe, explained
from pgsplit.project.endpoints import Connections

Connection = psycopg.Connection[Any]

# What moves; in this order, and all rows of each.
TABLES = ("ledger", "states", "verifications")
NEEDED = (*TABLES, "runner")

ARRIVING, HERE, GONE = "arriving", "here", "gone"


@dataclass(frozen=True)
class Mark:
    """What a database says about the control database: see the module.

    `other` is the URL, without a password, of the database at the other end of the last move, and
    `last_step` the ledger's last entry that was moved.
    """

    move: str
    stands: str
    other: str
    last_step: int


def mark(database: Connection) -> Mark | None:
    """Read what a database says about the control database; None if it never had to do with it."""
    known = database.execute("select to_regclass('split.control') is not null").fetchone()
    if known != (True,):
        return None
    row = database.execute("select move::text, stands, other, last_step from split.control")
    found = row.fetchone()
    return Mark(*found) if found else None


@contextmanager
def open_control(connections: Connections) -> Iterator[Connection]:
    """Connect to the control database.

    Args:
        connections: where it is.

    Raises:
        ConnectionFailed: it can't be reached, or no longer.
        NotReady: it has moved, has not arrived, or lacks something.
    """
    with (
        connections.connect(connections.control) as control,
        explained(connections.control_url, connections.control, control),
    ):
        require_here(control, connections)
        yield control


def require_here(control: Connection, connections: Connections) -> None:
    """Refuse a database that is not the control database, or not whole.

    Args:
        control: a connection to what the settings call the control database.
        connections: the settings.

    Raises:
        NotReady: it has moved, has not arrived, or lacks something.
    """
    found, where = mark(control), describe(control.info.dsn)
    is_monolith = connections.control == connections.monolith
    if found is None and is_monolith:
        return
    variable = connections.project.variable("CONTROL_URL")
    if found is None:
        raise NotReady(
            f"{control.info.dbname} is not this project's control database: nothing was moved"
            " there.",
            where=where,
            hint=f"unset {variable}, then: runner.py control --to URL",
        )
    if found.stands == GONE:
        raise NotReady(
            "The control database has moved from here to another one. Nothing was changed.",
            where=where,
            hint=setting(connections, found.other),
        )
    if found.stands == ARRIVING:
        raise NotReady(
            f"The move of the control database to {control.info.dbname} was not finished.",
            where=where,
            hint=f"{setting(connections, found.other)}\nThen: runner.py control --to URL",
        )
    lacking = _lacking(control, found)
    if lacking:
        raise NotReady(
            f"The control database lacks {lacking}: it was restored or altered since it has moved.",
            where=where,
            hint="Restore it from a backup that has them.",
        )


def setting(connections: Connections, url: str) -> str:
    """Give the line that names a control database."""
    variable = connections.project.variable("CONTROL_URL")
    return f'export {variable}="{url}"  # with its password, if it has one'


def _lacking(control: Connection, found: Mark) -> str:
    """Name what a control database lacks of what was moved there; nothing if it is whole."""
    row = control.execute(
        "select string_agg('split.' || name, ', ') from unnest(%s::text[]) as name"
        " where to_regclass('split.' || name) is null",
        (list(NEEDED),),
    ).fetchone()
    if row and row[0]:
        return str(row[0])
    row = control.execute("select coalesce(max(id), 0) from split.ledger").fetchone()
    last = int(row[0]) if row else 0
    if last < found.last_step:
        return f"the entries {last + 1} to {found.last_step} of split.ledger"
    return ""
