"""Proves a backup: it is restored, and every table is compared with the one it was made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from pgsplit.backup.dump import Backup
from pgsplit.backup.restore import restore
from pgsplit.backup.scope import Relation, relations_of
from pgsplit.base.errors import DataDiffers, NotReady
from pgsplit.base.text import few
from pgsplit.postgres.connect import connect, describe, explained, fields_of, with_database
from pgsplit.postgres.locale import create_like, locale_of
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.state.ledger import Ledger

Connection = psycopg.Connection[Any]
Totals = dict[str, tuple[int, str]]

STEP = "prove"
# Rows are compared as text whatever their order; money is the only type that has a locale.
SESSION = "set default_transaction_read_only = on; set lc_monetary = 'C'"
ROWS = """
    select
        count(*),
        coalesce(sum(hashtextextended(rows::text collate "C", 0)::numeric), 0)::text
    from only {} as rows
"""
SEQUENCE = "select 1, row(last_value, is_called)::text from {}"
LARGE_OBJECTS = """
    select count(*), coalesce(sum(hashtextextended(oid::text, 0)::numeric), 0)::text
    from pg_largeobject_metadata
"""
SCRATCH = """
    select intent ->> 'database', intent ->> 'server' from split.ledger
    where step = %s and service = %s and outcome is distinct from 'done'
        and intent ? 'database'
"""
MAY_CREATE = "select rolcreatedb or rolsuper from pg_roles where rolname = current_user"


@dataclass(frozen=True)
class Proof:
    """Where a backup was restored and compared, how much of it, and what the restore noted."""

    database: str
    tables: int
    rows: int
    seconds: float
    notes: tuple[str, ...] = ()


def require_provable(database: Connection, at: str) -> None:
    """Check that a backup of a database can be restored, before it is made.

    Args:
        database: a connection to it.
        at: the URL of an empty database to restore into; empty for one beside it.

    Raises:
        ConnectionFailed: the database to restore into can't be reached.
        NotReady: this login may not create a database.
    """
    if at:
        with connect(at, "database"):
            return
    if database.execute(MAY_CREATE).fetchone() != (True,):
        user = database.info.user
        raise NotReady(
            f"{user} may not create a database, into which the backup is restored to prove it."
            " Nothing was changed.",
            where=describe(database.info.dsn),
            hint=f'ALTER ROLE "{user}" CREATEDB;\nor give an empty one: --prove-at URL',
        )


def prove(
    made: Backup, connections: Connections, ledger: Ledger, say: Callable[[str], None], at: str = ""
) -> Proof:
    """Restore a backup, and compare each table's rows with those of the original; recorded.

    Nobody may write the original meanwhile. A scratch database is dropped at the end; one that was
    given stays.

    Args:
        made: a backup of all rows of a database.
        connections: where that database is.
        ledger: the ledger, in which the scratch database is recorded before it is made.
        say: called with what is being done.
        at: the URL of an empty database to restore into; empty for a scratch one beside it.

    Returns:
        What was compared.

    Raises:
        ConnectionFailed: a database can't be reached.
        NotReady: the scratch database can't be made, or the backup can't be restored.
        DataDiffers: a table of the restored database differs; it is named.
    """
    began, url = time.monotonic(), connections.url(made.target)
    whole = Service(connections.project.name, 0, "monolith", "", connections.project)
    name = made.path.name.lower()
    place = at or with_database(url, name)
    intent: dict[str, Any] = {"path": str(made.path), "at": describe(place)}
    if not at:
        intent |= {"database": name, "server": _server(url)}
    with connections.connect(made.target) as original, explained(url, made.target, original):
        _clear(original, url, ledger, whole)
        with ledger.step(whole, STEP, **intent) as step:
            with _scratch(original, "" if at else name):
                say("restore")
                restored = restore(connections.project, made.path, place)
                say("compare")
                totals = _compare(made, place, connections)
            rows = [count for name, (count, _) in totals.items() if name.startswith("table ")]
            proof = Proof(
                describe(place), len(rows), sum(rows), time.monotonic() - began, restored.notes
            )
            step.detail = vars(proof)
    return proof


def _compare(made: Backup, place: str, connections: Connections) -> Totals:
    with (
        connections.connect(made.target) as original,
        connect(place, "database") as copy,
        explained(place, "database", copy),
    ):
        totals = _totals(original)
        _require_alike(totals, _totals(copy), made, copy)
    return totals


def _server(url: str) -> str:
    fields = fields_of(url)
    return f"{fields['host']}:{fields['port']}"


def _clear(original: Connection, url: str, ledger: Ledger, whole: Service) -> None:
    """Drop the scratch databases that interrupted proofs have left on this server."""
    left = ledger.connection.execute(SCRATCH, (STEP, whole.database)).fetchall()
    for name, server in left:
        if server == _server(url):
            _drop(original, name)


@contextmanager
def _scratch(original: Connection, name: str) -> Iterator[None]:
    """Make a database like the original for the block; without a name, do nothing."""
    if not name:
        yield
        return
    create_like(original, name, "", locale_of(original))
    try:
        yield
    finally:
        _drop(original, name)


def _drop(original: Connection, name: str) -> None:
    statement = sql.SQL("drop database if exists {} with (force)")
    original.execute(statement.format(sql.Identifier(name)))


def _totals(database: Connection) -> Totals:
    """Count and sum up the rows of each table, and read each sequence."""
    database.execute(SESSION)
    row = database.execute(LARGE_OBJECTS).fetchone()
    assert row is not None
    found: Totals = {"the large objects": row}
    for one in relations_of(database):
        if one.kind != "p":
            kind, query = ("sequence", SEQUENCE) if one.kind == "S" else ("table", ROWS)
            found[f"{kind} {one.shown}"] = _read(database, query, one)
    return found


def _read(database: Connection, query: str, one: Relation) -> tuple[int, str]:
    name = sql.Identifier(one.schema_name, one.name)
    row = database.execute(sql.SQL(query).format(name)).fetchone()
    assert row is not None
    return int(row[0]), str(row[1])


def _require_alike(original: Totals, copy: Totals, made: Backup, database: Connection) -> None:
    wrong = [
        f"{name}: {_rows(original.get(name))} in {made.target}, {_rows(copy.get(name))} restored"
        for name in sorted(original.keys() | copy.keys())
        if original.get(name) != copy.get(name)
    ]
    if wrong:
        raise DataDiffers(
            f"The restored backup differs from {made.target}: {few(wrong)}.",
            where=f"{made.path.name}, {describe(database.info.dsn)}",
            hint=f"See that nobody writes {made.target}, and try again; the backup stays.",
        )


def _rows(total: Sequence[object] | None) -> str:
    return "missing" if total is None else f"{total[0]:,} row(s), checksum {total[1]}"
