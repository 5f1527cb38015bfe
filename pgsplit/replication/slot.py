"""Replication slots: what one keeps of its server's WAL, and how one is made and dropped."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row

from pgsplit.base.errors import NotReady
from pgsplit.base.text import few
from pgsplit.postgres import rights
from pgsplit.postgres.connect import describe
from pgsplit.postgres.retry import IN_USE, retrying
from pgsplit.project.endpoints import Connections

Connection = psycopg.Connection[Any]

EXPORT_SECONDS = 60
CREATE_SECONDS = 20
DROP_TRIES = 250
DROP_PAUSE_SECONDS = 0.02

SLOT = """
    select
        active,
        wal_status = 'lost' as lost,
        coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint as kept_bytes,
        nullif(pg_size_bytes(current_setting('max_slot_wal_keep_size')), -1) as limit_bytes,
        coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), 0)::bigint
            as behind_bytes
    from pg_replication_slots
    where slot_name = %s and database = current_database()
"""

# Each transaction that has written holds a lock on its own number, which everybody may see.
OLD_TRANSACTIONS = """
    select
        format(
            'process %%s in the database %%s, in a transaction since %%s', activity.pid,
            activity.datname, coalesce(activity.xact_start::timestamptz(0)::text, 'an unknown time')
        ),
        format('select pg_terminate_backend(%%s);', activity.pid)
    from pg_locks as lock
    inner join pg_stat_activity as activity on activity.pid = lock.pid
    where
        lock.locktype = 'transactionid' and lock.granted and lock.mode = 'ExclusiveLock'
        and lock.pid <> pg_backend_pid()
        and activity.backend_type is distinct from 'logical replication apply worker'
        and coalesce(
            clock_timestamp() - activity.xact_start > make_interval(secs => %s), %s
        )
    union
    select
        format('the prepared transaction %%L in the database %%s', gid, database),
        format('\\c %%I\nrollback prepared %%L;', database, gid)
    from pg_prepared_xacts
    order by 1
"""


@dataclass(frozen=True)
class Slot:
    """A slot: how much WAL its server keeps for it, and how far its subscriber is.

    `kept_bytes` is the WAL that is kept for it. `limit_bytes` is how much may be kept before the
    server gives the slot up; None means that only the disk limits it. `behind_bytes` is what the
    subscriber has not confirmed yet.
    """

    active: bool
    lost: bool
    kept_bytes: int
    limit_bytes: int | None
    behind_bytes: int


def slot(source: Connection, name: str) -> Slot | None:
    """Look up a slot by its name; None if the database has no such slot."""
    with source.cursor(row_factory=class_row(Slot)) as cursor:
        return cursor.execute(SLOT, (name,)).fetchone()


def create(source: Connection, name: str, *, is_temporary: bool = False) -> None:
    """Create a slot: whatever is committed from now on is replicated.

    A temporary one goes with the connection.

    Raises:
        NotReady: a transaction has been open for too long on that server.
    """
    try:
        with source.transaction():
            source.execute(f"set local statement_timeout = '{CREATE_SECONDS}s'")
            source.execute(
                "select pg_create_logical_replication_slot(%s, 'pgoutput', %s)",
                (name, is_temporary),
            )
    except psycopg.errors.QueryCanceled as error:
        old = old_transactions(source, 0.0)
        raise NotReady(
            f"The slot {name} could not start within {CREATE_SECONDS} seconds:"
            f" {few([what for what, _ in old]) or 'a transaction'} has been open for longer on that"
            " server.",
            where=describe(source.info.dsn),
            hint="\n".join(end for _, end in old) or "Try again.",
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise may_not_replicate(source) from error


def try_to_create(source: Connection, name: str, long_seconds: float) -> None:
    """Check that a slot can be created now; a temporary one is, and is dropped again.

    Args:
        source: a connection to the database that it would follow.
        name: the slot's name.
        long_seconds: a transaction that is open for longer is reported without waiting for it.

    Raises:
        NotReady: a transaction of any database of the server holds it back, or the login may not.
    """
    if old := old_transactions(source, long_seconds):
        raise NotReady(
            f"the slot {name} could not start before older transactions end:"
            f" {few([what for what, _ in old])}",
            where=describe(source.info.dsn),
            hint="Wait for them, or end them:\n" + "\n".join(end for _, end in old),
        )
    create(source, trial := f"split_try_{source.info.backend_pid}", is_temporary=True)
    source.execute("select pg_drop_replication_slot(%s)", (trial,))


def old_transactions(source: Connection, seconds: float) -> list[tuple[str, str]]:
    """Find the transactions that hold back a new slot: all that have written, in any database.

    Args:
        source: a connection to any database of the server.
        seconds: how long they have been open at least; prepared ones, for any time. Those of which
            this login may not see that are only given if it is 0.

    Returns:
        What each is, and the statement that ends it.
    """
    return source.execute(OLD_TRANSACTIONS, (seconds, not seconds)).fetchall()


def drop(source: Connection, name: str) -> None:
    """Drop a slot if it is there; idempotent. Its subscription is disabled or gone already.

    Whoever still reads it is about to leave by itself, and is disconnected where this login may.

    Raises:
        NotReady: somebody goes on reading it; they are named.
    """
    found = "from pg_replication_slots where slot_name = %s and database = current_database()"
    with suppress(psycopg.errors.InsufficientPrivilege):
        source.execute(f"select pg_terminate_backend(active_pid) {found} and active", (name,))
    try:
        retrying(IN_USE, tries=DROP_TRIES, seconds=DROP_PAUSE_SECONDS)(
            source.execute, f"select pg_drop_replication_slot(slot_name) {found}", (name,)
        )
    except IN_USE as error:
        raise _still_read(source, name) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise may_not_replicate(source) from error


def _still_read(source: Connection, name: str) -> NotReady:
    row = source.execute(
        "select slot.active_pid, concat_ws(' ', usename, 'from ' || client_addr)"
        " from pg_replication_slots as slot left join pg_stat_activity on pid = slot.active_pid"
        " where slot_name = %s",
        (name,),
    ).fetchone()
    pid, who = row or (None, "")
    return NotReady(
        f"The slot {name} can't be dropped: process {pid} ({who}) reads it, and this login may not"
        " end it.",
        where=describe(source.info.dsn),
        hint=f"As {who.split(' ')[0] or 'its owner'} or as a superuser: select"
        f" pg_terminate_backend({pid});",
    )


def may_not_replicate(source: Connection) -> NotReady:
    """Say that a login may neither create nor drop slots."""
    return NotReady(
        f"{source.info.user} may not replicate: it can neither create slots nor drop them.",
        where=describe(source.info.dsn),
        hint=rights.may_replicate(source).hint,
    )


@contextmanager
def exported_snapshot(connections: Connections, slot: str, source: str) -> Iterator[str]:
    """Create a slot and keep its snapshot open for the block.

    The server first waits for every transaction that is already open. A time limit turns an
    endless wait into a message. See CREATE_REPLICATION_SLOT in PostgreSQL's streaming replication
    protocol.

    Args:
        connections: where the source is.
        slot: the slot's name, which is free.
        source: the database that it follows.

    Yields:
        The snapshot's name. It shows the source in the state from which the slot goes on.

    Raises:
        NotReady: an old transaction holds the slot back, or the server refuses it.
    """
    where = describe(connections.urls[source])
    with connections.connect(source, replication="database") as walsender:
        result = _created(walsender, connections, slot, source)
        if result.status != psycopg.pq.ExecStatus.TUPLES_OK:
            raise NotReady(
                f"The slot could not be created: {result.error_message.decode().strip()}",
                where=where,
                hint="select * from pg_replication_slots;",
            )
        snapshot = result.get_value(0, 2)
        assert snapshot is not None
        yield snapshot.decode()


def _created(
    walsender: Connection, connections: Connections, slot: str, source: str
) -> psycopg.pq.abc.PGresult:
    """Create the slot over a replication connection, and wait for it no longer than allowed."""
    command = f"CREATE_REPLICATION_SLOT \"{slot}\" LOGICAL pgoutput (SNAPSHOT 'export')"
    with ThreadPoolExecutor(1) as waiter:
        future: Future[psycopg.pq.abc.PGresult] = waiter.submit(
            walsender.pgconn.exec_, command.encode()
        )
        try:
            started = bool(wait([future], timeout=EXPORT_SECONDS).done)
            oldest = "" if started else _oldest_transaction(connections, source)
        finally:  # on Ctrl-C too: the thread ends only when the server answers
            if not future.done():
                walsender.pgconn.get_cancel().cancel()
                wait([future])
        if not started:
            raise NotReady(
                f"The slot could not start within {EXPORT_SECONDS} seconds:"
                f" its server has a transaction open since {oldest}.",
                where=describe(connections.urls[source]),
                hint="Wait for it, or end it: select pg_terminate_backend(PID);",
            )
        return future.result()


def _oldest_transaction(connections: Connections, source: str) -> str:
    with connections.connect(source) as server:
        row = server.execute(
            "select format('%s (process %s)', xact_start::timestamptz(0), pid)"
            " from pg_stat_activity where xact_start is not null and pid <> pg_backend_pid()"
            " and backend_type = 'client backend' order by xact_start limit 1"
        ).fetchone()
    return str(row[0]) if row else "an unknown time"
