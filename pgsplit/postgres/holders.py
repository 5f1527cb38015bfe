"""Names those who hold a lock that keeps others from even reading a table, or from writing it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors

from pgsplit.base.errors import NotReady
from pgsplit.base.text import few
from pgsplit.postgres.connect import describe

# How long somebody who only reads waits for whoever has locked a table.
PATIENCE = "10s"
# Applications hold such locks on ordinary tables only. A prepared transaction has no process.
HOLDERS = """
    select distinct
        case
            when lock.pid is null then 'a prepared transaction'
            else format('process %%s', lock.pid)
                || coalesce(' (' || nullif(activity.application_name, '') || ')', '')
        end
        || format(' has locked %%s', lock.relation::regclass),
        case
            when lock.pid is null
                then 'select gid from pg_prepared_xacts; rollback prepared ''GID'';'
            else format('select pg_terminate_backend(%%s);', lock.pid)
        end
    from pg_locks as lock
    inner join pg_class as class on class.oid = lock.relation
    inner join pg_namespace as namespace on namespace.oid = class.relnamespace
    left join pg_stat_activity as activity on activity.pid = lock.pid
    where
        lock.database = (select oid from pg_database where datname = current_database())
        and lock.granted
        and lock.mode in (
            'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'
        )
        and lock.pid is distinct from pg_backend_pid()
        and class.relkind in ('r', 'p')
        and namespace.nspname !~ '^pg_'
    order by 1
"""


def refusal(waited: Sequence[psycopg.Connection[Any]], error: psycopg.Error) -> NotReady:
    """Give the message about a lock that could not be had, with those who hold such locks.

    Args:
        waited: connections to the databases in which it may have been, in no failed transaction.
        error: what the server said.

    Returns:
        The message.
    """
    found = [row for one in waited for row in one.execute(HOLDERS, ()).fetchall()]
    said = few([who for who, _ in found]) or (error.diag.message_primary or str(error)).strip()
    return NotReady(
        f"Somebody holds a lock that this waits for: {said}.",
        where=" or ".join(dict.fromkeys(describe(one.info.dsn) for one in waited)),
        hint="Wait for them, or end them:\n" + "\n".join(dict.fromkeys(end for _, end in found))
        if found
        else "Wait for them, then try again.",
    )


@contextmanager
def patience(database: psycopg.Connection[Any]) -> Iterator[None]:
    """Let a transaction wait for no lock for long; if it would, say who holds it.

    Args:
        database: a connection; the block becomes a transaction, unless it is part of one.

    Raises:
        NotReady: somebody holds a lock for longer; they are named, with what ends them.
    """
    try:
        with database.transaction():
            database.execute(f"set local lock_timeout = '{PATIENCE}'")
            yield
    except errors.LockNotAvailable as error:
        raise refusal([database], error) from error


def milliseconds(seconds: float) -> int:
    """Write a timeout as PostgreSQL's settings want it; 0 would be none."""
    return max(1, int(seconds * 1000))
