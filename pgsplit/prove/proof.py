"""What is proven already: all rows, at some time, and what may have changed since.

A verification of all rows is the start. As long as its streams are unbroken and nobody has altered
what it depends on, only rows whose keys were noted since can have changed. The service's database
notes them, and knows what it depends on: state/sql/service/proof.sql.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from pgsplit.postgres.row_hashes import Connection, RowSource
from pgsplit.prove.checks import Check

KNOWN = """
    select proven_at, coalesce(rebuilt, '{}'), coalesce(split.proof_problem(), '')
    from (values (true)) as here (is_here)
    left join split.proof on true
"""


@dataclass(frozen=True)
class Proof:
    """A proof of all rows: its time, and why it is not enough any more; empty if it is.

    `rebuilt` names the mirror's tables that the reverse models were found to rebuild.
    """

    proven_at: datetime | None
    broken: str
    rebuilt: tuple[str, ...] = ()

    def told(self, rows: int | None) -> str:
        """Say which rows were looked at, for people; None if all of them, although none is lost."""
        if self.broken:
            return f"all rows, since {self.broken}"
        if rows is None:
            return "all rows, since nothing tells which have changed"
        what = "1 row that has" if rows == 1 else f"{rows:,} rows that have"
        return f"{what} changed since all were proven on {self.proven_at:%Y-%m-%d %H:%M:%S %Z}"


def can_tell(database: Connection) -> bool:
    """Tell whether a service's schema `split` is new enough to note what has changed."""
    row = database.execute("select to_regclass('split.unproven') is not null").fetchone()
    return row == (True,)


def known(database: Connection) -> Proof:
    """Tell what is proven of a service's tables, judged by its own database.

    Streams have evidence of their own: `continuity`.

    Args:
        database: a connection to the database of a service that has been built.
    """
    if not can_tell(database):
        return Proof(None, "the schema split is of an older version")
    row = database.execute(KNOWN).fetchone()
    assert row is not None
    return Proof(row[0], row[2], tuple(row[1]))


def changed_ids(database: Connection, tables: Iterable[str]) -> dict[str, list[str] | None]:
    """Give the ids of the mirror's rows that may have changed since the proof, which is unbroken.

    Args:
        database: a connection to the service's database.
        tables: tables of the mirror that the service owns.

    Returns:
        The ids by table; None for one of which nothing tells.
    """
    asked = "select name, split.ids_since_proof(name) from unnest(%s::text[]) as name"
    return dict(database.execute(asked, (list(tables),)).fetchall())


def begin(database: Connection, *, goes_on: bool) -> None:
    """Begin a verification: whatever is noted from here on stays noted if it proves the rows.

    Args:
        database: a connection to the service's database.
        goes_on: it continues an interrupted one.
    """
    if can_tell(database):
        database.execute("select split.begin_proof(%s)", (goes_on,))


def end(database: Connection, *, is_whole: bool, rebuilt: Sequence[str]) -> bool:
    """End a verification that has found every row right.

    Args:
        database: a connection to the service's database.
        is_whole: all rows were compared.
        rebuilt: if so, the mirror's tables that the reverse models rebuild.

    Returns:
        False if what the proof depends on was altered meanwhile, so that it proves nothing.
    """
    if not can_tell(database):
        return False
    asked = "select split.end_proof(%s, %s)"
    row = database.execute(asked, (is_whole, list(rebuilt))).fetchone()
    return row == (True,)


def only_changed(check: Check, database: Connection) -> Check | None:
    """Narrow a check to the rows that may have changed since the proof, which is unbroken.

    Args:
        check: what is compared.
        database: a connection to the service's database.

    Returns:
        The narrower check, whose estimate is its number of keys; None if nothing tells which
        rows have changed.
    """
    if check.mirrored:
        ids = changed_ids(database, [check.mirrored])[check.mirrored]
        touched = None if ids is None else {"id": ids}
    else:
        asked = "select split.touched_since_proof(%s)"
        row = database.execute(asked, (check.name,)).fetchone() if check.is_made else None
        touched = row[0] if row else None
    if touched is None:
        return None
    return check.narrowed(
        _having(check.expected, touched),
        _having(check.actual, touched),
        sum(map(len, touched.values())),
    )


def _having(side: RowSource, touched: Mapping[str, list[str]]) -> RowSource:
    """Leave only rows that have one of some keys."""
    conditions = [
        sql.SQL("changed.{} = any({}::text[])").format(sql.Identifier(name), sql.Literal(keys))
        for name, keys in touched.items()
        if keys
    ]
    condition = sql.SQL(" or ").join(conditions) if conditions else sql.SQL("false")
    query = sql.SQL("select * from ({}) as changed where {}").format(side.query, condition)
    return RowSource(side.connect, query)
