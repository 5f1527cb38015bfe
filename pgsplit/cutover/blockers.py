"""Who has locks now that a later step of an operation would have to wait for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pgsplit.replication.slot import Connection

LONG_TRANSACTION_SECONDS = 2.0

# The locks that conflict with what a step takes: each stops more than the one before it.
STOP_WRITERS = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")
STOP_PUBLISHING = ("ShareUpdateExclusiveLock", *STOP_WRITERS)
STOP_FENCING = ("RowExclusiveLock", *STOP_PUBLISHING)
STOP_MOVING = ("AccessShareLock", "RowShareLock", *STOP_FENCING)

# Transactions that hold such locks. Prepared ones have no process; their locks have the virtual
# transaction of the lock on their own number. Autovacuum goes away by itself, except for one that
# prevents a wraparound.
HOLDERS = """
    select distinct
        lock.virtualtransaction,
        lock.pid,
        prepared.gid,
        activity.application_name,
        case
            when activity.backend_type = 'autovacuum worker' then 'is vacuuming'
            when lock.mode in ('AccessShareLock', 'RowShareLock') then 'has read'
            when lock.mode = 'RowExclusiveLock' then 'has written'
            else 'has locked'
        end as did,
        lock.relation::regclass::text,
        extract(epoch from clock_timestamp() - activity.xact_start)::float as age
    from pg_locks as lock
    left join pg_stat_activity as activity on activity.pid = lock.pid
    left join pg_locks as own
        on lock.pid is null and own.pid is null and own.locktype = 'transactionid'
        and own.virtualtransaction = lock.virtualtransaction
    left join pg_prepared_xacts as prepared on prepared.transaction = own.transactionid
    where
        lock.locktype = 'relation'
        and lock.database in (0, (select oid from pg_database where datname = current_database()))
        and lock.relation = any(array(
            select to_regclass(name) from unnest(%s::text[]) as name
        ))
        and lock.granted
        and lock.mode = any(%s)
        and lock.pid is distinct from pg_backend_pid()
        and activity.backend_type is distinct from 'logical replication apply worker'
        and (
            activity.backend_type is distinct from 'autovacuum worker'
            or activity.query like '%%(to prevent wraparound)'
        )
"""


@dataclass(frozen=True)
class Needed:
    """Tables of one database, and the locks of others that a step would have to wait for."""

    database: Connection
    tables: Sequence[str]
    stopped_by: Sequence[str]


def blockers(needed: Sequence[Needed]) -> list[tuple[str, str]]:
    """Find transactions that have held such locks for long, and prepared ones.

    Where this login may not see since when a transaction is open, it is looked at twice.

    Args:
        needed: the tables and locks that later steps need.

    Returns:
        What each has done, and what ends it.
    """
    found: dict[str, str] = {}
    for one in needed:
        rows = _ask(one)
        if any(row[2] is None and row[-1] is None for row in rows):
            time.sleep(LONG_TRANSACTION_SECONDS)
            again = {row[0] for row in _ask(one)}
            rows = [
                (*row[:-1], LONG_TRANSACTION_SECONDS if row[-1] is None else row[-1])
                for row in rows
                if row[0] in again
            ]
        for _, pid, gid, name, did, table, age in rows:
            if gid is not None:
                quoted = gid.replace("'", "''")
                found[f"the prepared transaction '{gid}' {did} {table}"] = (
                    f"commit prepared '{quoted}'; or: rollback prepared '{quoted}';"
                )
            elif age is not None and age >= LONG_TRANSACTION_SECONDS:
                who = f" ({name})" if name else ""
                found[
                    f"process {pid}{who} {did} {table} in a transaction that is open for"
                    f" {age:.0f} s"
                ] = f"Wait for it, or end it: select pg_terminate_backend({pid});"
    return list(found.items())


def _ask(needed: Needed) -> list[tuple[Any, ...]]:
    return needed.database.execute(
        HOLDERS, (list(needed.tables), list(needed.stopped_by))
    ).fetchall()
