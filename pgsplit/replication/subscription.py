"""Publications and the subscriptions to them, as PostgreSQL has them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import class_row

from pgsplit.postgres.connect import CONNECT_TIMEOUT_SECONDS, LOCK_TIMEOUT, conninfo
from pgsplit.postgres.quiet import quiet
from pgsplit.project.project import Service

Connection = psycopg.Connection[Any]

TRY_TIMEOUT = "15s"

SUBSCRIPTION = """
    select
        subscription.oid,
        subscription.subslotname is not null as has_slot,
        subscription.subenabled as enabled,
        worker.pid is not null as running,
        coalesce(stats.apply_error_count, 0) as errors,
        coalesce(pg_blocking_pids(worker.pid), '{}') as blockers
    from pg_subscription as subscription
    left join pg_stat_subscription as worker
        on worker.subid = subscription.oid and worker.relid is null
        and to_jsonb(worker) ->> 'leader_pid' is null
    left join pg_stat_subscription_stats as stats on stats.subid = subscription.oid
    where
        subscription.subname = %s
        and subscription.subdbid = (select oid from pg_database where datname = current_database())
"""
# The server's own log file. A server that keeps none, such as the embedded one, has its starter's.
LOG_TAIL = """
    select pg_read_file(path, greatest(size - 65536, 0), 65536, true)
    from coalesce(
        pg_current_logfile(), current_setting('data_directory') || '/../log'
    ) as log (path)
    cross join lateral pg_stat_file(path, true)
    where size is not null
"""


@dataclass(frozen=True)
class Subscription:
    """A subscription: whether it is meant to run, whether it does, and how often it has failed.

    `blockers` are the processes whose locks its worker waits for. One without a slot is not
    complete; PostgreSQL refuses to enable it.
    """

    oid: int
    has_slot: bool
    enabled: bool
    running: bool
    errors: int
    blockers: tuple[int, ...]

    @property
    def stops_for_a_reason(self) -> bool:
        """Whether it is paused, waits for a lock or has failed, rather than starting."""
        return not self.enabled or bool(self.blockers) or self.errors > 0


def subscription(target: Connection, name: str) -> Subscription | None:
    """Look up a subscription by its name; None if the database has no such subscription."""
    with target.cursor(row_factory=class_row(Subscription)) as cursor:
        return cursor.execute(SUBSCRIPTION, (name,)).fetchone()


def alter(target: Connection, name: str, how: str) -> None:
    """Alter a subscription."""
    target.execute(sql.SQL("alter subscription {} {}").format(sql.Identifier(name), sql.SQL(how)))


def drop(target: Connection, name: str) -> None:
    """Drop a subscription if it is there; idempotent. Its slot is left alone."""
    if subscription(target, name):
        alter(target, name, "set (slot_name = none)")
        target.execute(sql.SQL("drop subscription {}").format(sql.Identifier(name)))


def last_error(target: Connection, oid: int) -> str:
    """Find a subscription's last error in its server's log; nothing if we may not read the log."""
    try:
        row = target.execute(LOG_TAIL).fetchone()
    except psycopg.Error:
        return ""
    lines = row[0].splitlines() if row and row[0] else []
    ours = f'replication origin "pg_{oid}"'
    found = [i for i, line in enumerate(lines) if "CONTEXT:" in line and ours in line]
    if not found:
        return ""
    words = [lines[found[-1]]]
    for line in reversed(lines[: found[-1]]):
        words.insert(0, line)
        if "ERROR:" in line:
            break
    return "\n  ".join(re.sub(r"^.*?(ERROR|DETAIL|CONTEXT):\s+", "", line) for line in words)


def listed(schema: str, tables: Mapping[str, tuple[str, ...]]) -> sql.Composed:
    """Write tables of a schema, with their columns, as a publication lists them."""
    return sql.SQL(", ").join(
        sql.SQL("{} ({})").format(
            sql.Identifier(schema, table), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        for table, columns in tables.items()
    )


def create_publication(
    source: Connection,
    name: str,
    schema: str,
    tables: Mapping[str, tuple[str, ...]],
    heartbeat_key: str,
) -> None:
    """Create a publication of tables of a schema and of one heartbeat.

    Every column is listed. A column that is added later is not published, since the apply worker
    would stop when the mirror has no such column.
    """
    source.execute(
        sql.SQL("create publication {} for table {}, split.heartbeats where (service = {})").format(
            sql.Identifier(name), listed(schema, tables), sql.Literal(heartbeat_key)
        )
    )


def publish(monolith: Connection, service: Service, tables: Mapping[str, tuple[str, ...]]) -> None:
    """Publish what a service owns or shares, and its heartbeats; atomic.

    Args:
        monolith: a connection to it.
        service: the service.
        tables: the columns of each table.
    """
    with monolith.transaction():
        monolith.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
        create_publication(monolith, service.replication, service.mirror, tables, service.database)


def published(connection: Connection, name: str) -> set[str]:
    """Name the tables that a publication has, except for the heartbeats."""
    rows = connection.execute(
        "select tablename from pg_publication_tables where pubname = %s and schemaname <> 'split'",
        (name,),
    )
    return {row[0] for row in rows}


def add_tables(
    connection: Connection, name: str, schema: str, tables: Mapping[str, tuple[str, ...]]
) -> None:
    """Add tables to a publication, in the caller's transaction; idempotent."""
    has = published(connection, name)
    if missing := {table: columns for table, columns in tables.items() if table not in has}:
        connection.execute(
            sql.SQL("alter publication {} add table {}; {}").format(
                sql.Identifier(name), listed(schema, missing), _changed(name, schema, missing)
            )
        )


def drop_tables(connection: Connection, name: str, schema: str, tables: Sequence[str]) -> None:
    """Take tables out of a publication, in the caller's transaction; idempotent.

    The subscriber still remembers them, so they can be added again without a copy.
    """
    if there := published(connection, name) & set(tables):
        connection.execute(
            sql.SQL("alter publication {} drop table {}; {}").format(
                sql.Identifier(name),
                sql.SQL(", ").join(sql.Identifier(schema, table) for table in sorted(there)),
                _changed(name, schema, there),
            )
        )


def _changed(name: str, schema: str, tables: Iterable[str]) -> sql.Composed:
    """Keep the evidence that the stream is unbroken in step with a change of its publication."""
    names = [f"{schema}.{table}" for table in tables]
    return sql.SQL(
        # Schemas of an older version have no evidence.
        "do $changed$ begin if to_regclass('split.streams') is not null then"
        " perform split.tables_changed({}, {}); end if; end $changed$"
    ).format(sql.Literal(name), sql.Literal(names))


def create_subscription(target: Connection, name: str, url: str, slot_name: str) -> None:
    """Create a disabled subscription to the publication of the same name; it copies nothing.

    Args:
        target: a connection to the database that subscribes.
        name: the name of publication and subscription.
        url: the publisher, as the target's server reaches it; it has been tried.
        slot_name: the slot that it reads; `none` if it is named later.
    """
    with quiet(target):
        target.execute(
            sql.SQL(
                "create subscription {} connection {} publication {} with"
                " (create_slot = false, slot_name = {}, copy_data = false, enabled = false)"
            ).format(
                sql.Identifier(name),
                sql.Literal(conninfo(url)),
                sql.Identifier(name),
                sql.Literal(slot_name),
            )
        )


def subscribe(target: Connection, name: str, url: str) -> None:
    """Create the subscription that goes on where its slot stands; it stays disabled.

    Args:
        target: a connection to the service's database, whose mirror is filled.
        name: the name of publication, slot and subscription.
        url: the monolith, as the service's server reaches it; it has been tried.
    """
    create_subscription(target, name, url, name)


def try_to_connect(target: Connection, url: str) -> str:
    """Let a server log in to another one as a subscription of it would; nothing is left behind.

    Args:
        target: a connection to the database that is to subscribe.
        url: the publisher, as the target's server reaches it.

    Returns:
        Why it can't; nothing if it can.
    """
    try:
        with quiet(target), target.transaction(force_rollback=True):
            target.execute(f"set local statement_timeout = '{TRY_TIMEOUT}'")
            trial = f"split_try_{target.info.backend_pid}"
            create_subscription(target, trial, _in_time(url), "none")
    except (psycopg.OperationalError, psycopg.errors.ProhibitedSqlStatementAttempted) as error:
        if target.broken:
            raise
        return str(error).strip()
    return ""


def _in_time(url: str) -> str:
    """Give a URL with a limit on how long connecting may take, unless it has one."""
    fields = {k: str(v) for k, v in conninfo_to_dict(url).items() if v is not None}
    return make_conninfo(**{"connect_timeout": str(CONNECT_TIMEOUT_SECONDS), **fields})
