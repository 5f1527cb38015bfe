"""Locks on tables that people use: taken for a moment, retried, explained if somebody has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe
from pgsplit.postgres.retry import LOCKED, retrying
from pgsplit.replication.fence import Fence
from pgsplit.replication.slot import Connection

Found = TypeVar("Found")

# How long one try to close a fence may keep writers waiting, and how long they have in between.
LOCK_SECONDS = 0.25
BETWEEN_TRIES_SECONDS = 0.5
DISABLE_TRIES = 5

# Definitions are changed under a lock that stops readers, too.
DEFINITION_TIMEOUT = "1s"
DEFINITION_TRIES = 20
BETWEEN_DEFINITION_TRIES_SECONDS = 0.2

BLOCKERS = """
    select string_agg(
        distinct format('%%s%%s', lock.pid, ' (' || nullif(activity.application_name, '') || ')'),
        ', '
    )
    from pg_locks as lock
    inner join pg_stat_activity as activity using (pid)
    where
        lock.relation = any(%s::regclass[]) and lock.granted and lock.pid <> pg_backend_pid()
        and lock.mode not in ('AccessShareLock', 'RowShareLock')
"""
# How long a lock has to be waited for before autovacuum, if it holds one, cancels itself.
VACUUMED = """
    select max(extract(epoch from current_setting('deadlock_timeout')::interval))::float
    from pg_locks as lock
    inner join pg_stat_activity as activity using (pid)
    where
        lock.relation = any(%s::regclass[]) and lock.granted
        and activity.backend_type = 'autovacuum worker'
"""


def locked(fence: Fence, tries: int) -> NotReady:
    """Say who holds a lock on a fence's tables, after so many tries."""
    names = [f"{fence.schema}.{name}" for name in fence.tables]
    row = fence.database.execute(BLOCKERS, (names,)).fetchone()
    held = f": process {row[0]}" if row and row[0] else ""
    return NotReady(
        f"Somebody holds a lock on {', '.join(names)}{held}. Tried {tries} times; writers waited"
        f" at most {LOCK_SECONDS:g} s each time.",
        where=describe(fence.database.info.dsn),
        hint="Wait for them, or end them: select pg_terminate_backend(PID);",
    )


def next_patience(fence: Fence) -> float:
    """Give how long the next try may wait: if autovacuum has the lock, until it cancels itself."""
    names = [f"{fence.schema}.{name}" for name in fence.tables]
    row = fence.database.execute(VACUUMED, (names,)).fetchone()
    return float(row[0]) + 0.1 if row and row[0] else LOCK_SECONDS


def disable_triggers(fence: Fence) -> None:
    """Disable an open fence's triggers; if somebody writes all the time they stay, and let pass."""
    with suppress(*LOCKED):
        retrying(LOCKED, tries=DISABLE_TRIES, seconds=BETWEEN_TRIES_SECONDS)(
            fence.disable_triggers, LOCK_SECONDS
        )


def change_definitions(
    database: Connection, tables: Sequence[str], change: Callable[[], Found]
) -> Found:
    """Change definitions of tables; atomic. No try waits long for a lock.

    Raises:
        NotReady: others kept the tables locked through all tries; nothing was changed.
    """

    def once() -> Found:
        with database.transaction():
            database.execute(f"set local lock_timeout = '{DEFINITION_TIMEOUT}'")
            return change()

    try:
        return retrying(LOCKED, tries=DEFINITION_TRIES, seconds=BETWEEN_DEFINITION_TRIES_SECONDS)(
            once
        )
    except LOCKED as error:
        raise NotReady(
            f"Somebody keeps reading or writing {', '.join(tables)}, or tables that refer to"
            f" them: {str(error).strip()}",
            where=describe(database.info.dsn),
            hint="Wait for them, or end them, then: runner.py resume",
        ) from error
