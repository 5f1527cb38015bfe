"""Locks on what others use: waited for within limits, retried, and the holders named."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import psycopg
from psycopg import errors
from psycopg.conninfo import make_conninfo

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import connect, describe
from pgsplit.postgres.holders import milliseconds
from pgsplit.postgres.retry import LOCKED, Errors, retrying
from pgsplit.replication.fence import Fence
from pgsplit.replication.slot import Connection

Found = TypeVar("Found")

# How long one try to close a fence may keep writers waiting, and how long they have in between.
LOCK_SECONDS = 0.25
BETWEEN_TRIES_SECONDS = 0.5
DISABLE_TRIES = 5
# How long something that is tried, and rolled back, may wait for a lock.
TRY_SECONDS = 0.25

# How long to wait for other syncs where no writer waits.
SYNC_LOCK_SECONDS = 10.0

# Definitions are changed under a lock that stops readers, too.
DEFINITION_SECONDS = 1.0
DEFINITION_TRIES = 20
BETWEEN_DEFINITION_TRIES_SECONDS = 0.2

# A lock that is had at once needs no explanation.
LOOK_AFTER_SECONDS = 0.05
LAST_LOOK_SECONDS = 1.0

# A statement that was cut off since it would have waited for too long.
TOO_LATE: Errors = (*LOCKED, errors.QueryCanceled)

# Asked all the time, so it is short.
WAITS = "select exists (select from pg_locks where pid = any(%s) and not granted)"
# Whom a process waits for, why, and what ends it. A prepared transaction has no process; its locks
# have the same virtual transaction as the lock on its own number.
HOLDERS = """
    select distinct
        coalesce(
            'the prepared transaction ' || quote_literal(prepared.gid),
            format('process %%s', blocker.pid) || coalesce(
                ' (' || nullif(concat_ws(', ',
                    nullif(activity.application_name, ''),
                    nullif(activity.backend_type, 'client backend'),
                    'in ' || nullif(activity.datname, current_database())
                ), '') || ')',
                ''
            )
        ),
        coalesce(waiting.relation::regclass::text, ''),
        coalesce(
            'rollback prepared ' || quote_literal(prepared.gid) || ';',
            format('select pg_terminate_backend(%%s);', blocker.pid)
        ),
        blocker.pid,
        exists (select from pg_stat_progress_vacuum as vacuum where vacuum.pid = blocker.pid)
    from pg_locks as waiting
    cross join lateral unnest(pg_blocking_pids(waiting.pid)) as blocker (pid)
    left join pg_stat_activity as activity on activity.pid = blocker.pid
    left join lateral (
        select prepared.gid
        from pg_prepared_xacts as prepared
        inner join pg_locks as own
            on own.pid is null and own.transactionid = prepared.transaction
        inner join pg_locks as held
            on held.pid is null and held.virtualtransaction = own.virtualtransaction
        where
            blocker.pid = 0
            and (held.locktype, held.database, held.relation, held.transactionid)
            is not distinct from
            (waiting.locktype, waiting.database, waiting.relation, waiting.transactionid)
    ) as prepared on true
    where waiting.pid = any(%s) and not waiting.granted
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


@dataclass(frozen=True)
class Holder:
    """Who holds a lock that somebody waits for: a name, the table, and what ends it.

    `pid` is 0 for a prepared transaction. One that vacuums can be cancelled without a loss.
    """

    who: str
    table: str
    end: str
    pid: int
    vacuums: bool


class Watch:
    """Sees, on a connection beside others to the same database, whom those wait for.

    Once a statement has given up waiting, PostgreSQL no longer tells for whom it did.
    """

    def __init__(self, waiters: Sequence[Connection]) -> None:
        self.info, self.pids = waiters[0].info, [waiter.info.backend_pid for waiter in waiters]
        password = {"password": self.info.password} if self.info.password else {}
        self.eyes = connect(make_conninfo(self.info.dsn, **password), self.info.dbname)
        self.holders = list[Holder]()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look again and again while the block waits."""
        over, self.holders = threading.Event(), []
        thread = threading.Thread(target=self._look, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(LAST_LOOK_SECONDS)

    def _look(self, over: threading.Event) -> None:
        # If the server is gone, the block itself says so.
        with suppress(psycopg.Error):
            while not over.wait(LOOK_AFTER_SECONDS):
                if self.eyes.execute(WAITS, (self.pids,)).fetchone() != (True,):
                    continue
                if rows := self.eyes.execute(HOLDERS, (self.pids,)).fetchall():
                    self.holders = [Holder(*row) for row in rows]


class Watches:
    """A watch for each database that some connections lead to; ends with its block."""

    def __init__(self, *waiters: Connection) -> None:
        self.waiters, self.all = waiters, list[Watch]()
        self._opened = ExitStack()

    def __enter__(self) -> Watches:
        by_database: dict[str, list[Connection]] = {}
        for waiter in self.waiters:
            by_database.setdefault(waiter.info.dsn, []).append(waiter)
        for waiters in by_database.values():
            self.all.append(Watch(waiters))
            self._opened.callback(self.all[-1].eyes.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def holders(self) -> list[Holder]:
        """Those who were last waited for."""
        return [holder for watch in self.all for holder in watch.holders]

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn a lock that can't be had in the block into a message that says who has it.

        Raises:
            NotReady: the message.
        """
        with ExitStack() as stack:
            for watch in self.all:
                stack.enter_context(watch.looking())
            try:
                yield
            except LOCKED as error:
                if not self.all:
                    raise
                raise self.refusal(error) from error

    def refusal(self, error: Exception, tried: str = "") -> NotReady:
        """Give the message about a lock that could not be had."""
        watch = next((one for one in self.all if one.holders), self.all[0])
        tables = ", ".join(sorted({one.table for one in watch.holders if one.table}))
        who = ", ".join(one.who for one in watch.holders)
        ends = "\n".join(one.end for one in watch.holders)
        said = str(error).strip().splitlines()[0]
        return NotReady(
            f"Somebody holds a lock{f' on {tables}' if tables else ''}: {who or said}.{tried}",
            where=describe(watch.info.dsn),
            hint=f"Wait for them, or end them: {ends}"
            if ends
            else "Wait for them, then try again.",
        )

    def cancel_vacuums(self) -> None:
        """Cancel the vacuums that are waited for, where this login may: they lose no work."""
        for watch in self.all:
            for holder in watch.holders:
                if holder.vacuums:
                    with suppress(errors.InsufficientPrivilege):
                        watch.eyes.execute("select pg_cancel_backend(%s)", (holder.pid,))


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


@contextmanager
def lock_timeout(seconds: float, *databases: Connection) -> Iterator[None]:
    """Let no statement of the block wait longer for a lock; for connections in autocommit."""
    before = [database.execute("show lock_timeout").fetchone() for database in databases]
    for database in databases:
        database.execute(f"set lock_timeout = {milliseconds(seconds)}")
    try:
        yield
    finally:
        for database, row in zip(databases, before, strict=True):
            assert row is not None
            with suppress(psycopg.Error):  # a broken connection has no setting either
                database.execute(f"set lock_timeout = '{row[0]}'")


def patiently(
    do: Callable[[], Found], *databases: Connection, hint: str = "runner.py resume"
) -> Found:
    """Do something that may wait for locks: no try waits for long, and there are many.

    Args:
        do: what is whole in itself, or can be done again.
        databases: the connections that it uses.
        hint: the command that goes on once the lock is free.

    Raises:
        NotReady: others kept a lock through all tries; they are named.
    """
    again = retrying(LOCKED, tries=DEFINITION_TRIES, seconds=BETWEEN_DEFINITION_TRIES_SECONDS)
    with Watches(*databases) as watches, lock_timeout(DEFINITION_SECONDS, *databases):
        try:
            with watches.explained():
                return again(do)
        except NotReady as error:
            if isinstance(error.__cause__, LOCKED):
                error.hint += f"\nThen: {hint}"
            raise


def change_definitions(
    database: Connection, tables: Sequence[str], change: Callable[[], Found]
) -> Found:
    """Change definitions of tables; atomic. No try waits long for a lock.

    Raises:
        NotReady: others kept the tables locked through all tries; nothing was changed.
    """

    def once() -> Found:
        with database.transaction():
            return change()

    try:
        return patiently(once, database)
    except NotReady as error:
        if isinstance(error.__cause__, LOCKED):
            error.what = (
                f"Somebody keeps reading or writing {', '.join(tables)}, or tables that refer to"
                f" them: {error.what}"
            )
        raise
