"""Gives back the disk that a completed service's mirror uses for rows which nobody needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pgsplit.base.text import size
from pgsplit.cutover.locks import SYNC_LOCK_SECONDS, patiently
from pgsplit.replication.session import Session
from pgsplit.replication.slot import Connection
from pgsplit.replication.sync import apply_changes

GAVE_BACK = "The mirror gave back"
SPARE = "select mirrored, is_whole, needed_by, bytes from split.spare_mirror()"


@dataclass(frozen=True)
class Spare:
    """A table of the mirror that holds more than anybody needs.

    `is_whole` if none of its rows is needed; else values of some columns aren't. `needed_by` names
    who still reads it, so that it stays as it is. `bytes` is its size with all that it holds.
    """

    table: str
    is_whole: bool
    needed_by: str | None
    bytes: int

    def __str__(self) -> str:
        """Say what becomes of it."""
        if self.needed_by:
            return f"the mirror of {self.table} stays as it is: {self.needed_by} needs it"
        return f"{'all rows' if self.is_whole else 'what nobody shares'} of {self.table}"


def spare(database: Connection) -> list[Spare]:
    """Find what a service's mirror holds for nobody.

    Args:
        database: a connection to the service's database.

    Returns:
        Its own tables, if it is completed; none before.
    """
    return [Spare(*row) for row in database.execute(SPARE).fetchall()]


def empty(session: Session) -> tuple[dict[str, int], list[str]]:
    """Remove from a completed service's mirror what nobody needs; idempotent, a table at a time.

    Args:
        session: the service's session.

    Returns:
        The bytes that each table gave back, and notes on those that stay.

    Raises:
        NotReady: others kept a table locked through all tries.
        BuildFailed: a sync fails, so changes are pending; nothing was removed.
    """
    database, emptied, notes = session.database, dict[str, int](), list[str]()
    apply_changes(database, SYNC_LOCK_SECONDS)
    for one in spare(database):
        if one.needed_by:
            notes.append(str(one))
            continue

        def remove(table: str = one.table) -> int:
            with database.transaction():
                row = database.execute("select split.empty_mirror(%s)", (table,)).fetchone()
                return int(row[0]) if row else 0

        hint = f"runner.py complete {session.service.role}"
        emptied[one.table] = patiently(remove, database, hint=hint)
    return emptied, notes


def summary(begins: str, emptied: Mapping[str, int]) -> list[str]:
    """Say for people what was given back, or would be; nothing if nothing was."""
    if not emptied:
        return []
    tables = ", ".join(f"{table} {size(count)}" for table, count in sorted(emptied.items()))
    return [f"{begins} {size(sum(emptied.values()))}: {tables}."]
