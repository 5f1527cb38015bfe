"""Copies what a service owns or may see into its mirror, at one instant of the living monolith.

A logical slot is created with an exported snapshot; the tables are copied from that snapshot;
primary keys are built after the rows; the subscription starts from the slot. No gap and no overlap:
the slot begins where the snapshot stands. Creating the slot apart from the subscription also avoids
the endless wait of a subscription to a database of the same cluster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from migration import catalog, preflight, snapshot_copy
from migration.connections import Connections, conninfo, describe, explained
from migration.errors import NotReady
from migration.ledger import Ledger, State
from migration.services import MIRROR_SCHEMA, MONOLITH, Service
from migration.snapshot_copy import Copied, Progress

Connection = psycopg.Connection[Any]

SLOT_TIMEOUT_SECONDS = 60
LOCK_TIMEOUT = "5s"
MIRROR_MARK = "mirror of the monolith's table, made by the blytz_hire split"


@dataclass(frozen=True)
class Landed:
    """What a landing copied: rows by table, and how long it took."""

    rows: Mapping[str, int]
    bytes: int
    seconds: float
    already: bool


def land(
    service: Service,
    connections: Connections,
    ledger: Ledger,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Landed:
    """Fill a service's mirror from the monolith and leave a subscription ready to follow it.

    The subscription stays disabled: the first build must find parents and children in one state.
    A landing that failed or was killed is cleared away, by itself or by the next one; one that is
    done is left alone.

    Args:
        service: a provisioned service.
        connections: where the servers are.
        ledger: the monolith's ledger.
        on_progress: called often, from several threads in turn.

    Returns:
        Rows by table, bytes in COPY's binary form, seconds.

    Raises:
        NotReady: not provisioned; `wal_level`, slots, senders, workers or privileges lacking; an
            old transaction holds the slot back.
        SourceMismatch: the monolith lacks a table, column, type or key.
        TargetOccupied: the mirror's schema holds tables that this project did not land.
    """
    started = time.monotonic()
    if not ledger.state(service).reached(State.PROVISIONED):
        raise NotReady(
            f"{service.database} has not been provisioned.",
            where=describe(connections.urls[service.database]),
            mend=f"runner.py provision {service.role}",
        )
    tables = catalog.landed_tables(service)
    with (
        connections.connect(MONOLITH) as monolith,
        connections.connect(service.database) as target,
        explained(connections.urls[MONOLITH], MONOLITH),
    ):
        preflight.provisioned(target, service)
        if ledger.state(service).reached(State.LANDED):
            _require_still_there(target, service)
            done = ledger.last(service, "land")
            return Landed(done.get("rows", {}), done.get("bytes", 0), 0.0, already=True)
        with _definitions_held(connections, tables):
            catalog.check(monolith, tables)
            preflight.source(monolith, service, tables)
            preflight.target(target)
            _clear(monolith, target, service)
            preflight.nothing_in_the_way(monolith, target, service)
            intent = {"publication": service.replication, "slot": service.replication}
            with ledger.step(
                service, "land", enters=State.LANDED, **intent, tables=list(tables)
            ) as step:
                try:
                    copied = _copy(service, connections, monolith, target, tables, on_progress)
                    _subscribe(service, connections, target)
                except BaseException:
                    # What this can't clear away, because a server is gone or somebody's view
                    # needs a table, the next landing will, or will say why it can't.
                    with suppress(psycopg.Error):
                        _clear(monolith, target, service)
                    raise
                seconds = round(time.monotonic() - started, 3)
                step.detail.update(rows=copied.rows, bytes=copied.bytes, seconds=seconds)
    return Landed(copied.rows, copied.bytes, seconds, already=False)


def _require_still_there(target: Connection, service: Service) -> None:
    row = target.execute(
        "select true from pg_subscription where subname = %s"
        " and subdbid = (select oid from pg_database where datname = current_database())",
        (service.replication,),
    ).fetchone()
    if not row:
        raise NotReady(
            f"{service.database} has landed before, but not in this database, or its subscription"
            " has been dropped since.",
            where=describe(target.info.dsn),
            mend=f"Check {service.database.upper()}_URL. To land anew, in the monolith:"
            f" DELETE FROM split.states WHERE service = '{service.database}';"
            f" SELECT pg_drop_replication_slot('{service.replication}');"
            f" DROP PUBLICATION {service.replication};"
            f"\nthen runner.py run {service.role}",
        )


@contextmanager
def _definitions_held(
    connections: Connections, tables: Mapping[str, tuple[str, ...]]
) -> Iterator[None]:
    """Keep the monolith's tables from being altered for the block, as pg_dump does.

    A table that is rewritten after the snapshot was taken reads as empty in it. The lock is ACCESS
    SHARE, which every SELECT takes; it stops nobody but DDL.
    """
    with connections.connect(MONOLITH) as guard, guard.transaction():
        guard.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
        for table in tables:
            try:
                with guard.transaction():
                    guard.execute(
                        sql.SQL("lock table {} in access share mode").format(
                            sql.Identifier(MIRROR_SCHEMA, table)
                        )
                    )
            except psycopg.errors.LockNotAvailable as error:
                raise NotReady(
                    f"{MIRROR_SCHEMA}.{table} is locked by somebody who alters it.",
                    where=describe(connections.urls[MONOLITH]),
                    mend="Wait for them: select * from pg_locks where mode ="
                    f" 'AccessExclusiveLock' and relation = '{MIRROR_SCHEMA}.{table}'::regclass;",
                ) from error
            except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
                continue  # the checks that follow say what is missing, all of it at once
        yield


def _clear(monolith: Connection, target: Connection, service: Service) -> None:
    """Remove what an unfinished landing of this service left; idempotent.

    Only before a landing has been recorded as done, so no row that a service has written can be
    among it; only if the ledger says that this project set out to make it, which it does when
    nothing of that name is there; and of the mirror only tables that bear its mark.
    """
    begun = monolith.execute(
        "select true from split.ledger"
        " where service = %s and step = 'land' and (outcome is distinct from 'done')",
        (service.database,),
    ).fetchone()
    if not begun:
        return
    name = sql.Identifier(service.replication)
    # The monolith first: a slot that is left behind keeps its WAL for ever.
    slot = "from pg_replication_slots where slot_name = %s and database = current_database()"
    monolith.execute(
        f"select pg_terminate_backend(active_pid) {slot} and active", (service.replication,)
    )
    for _ in range(50):
        with suppress(psycopg.errors.ObjectInUse):
            monolith.execute(
                f"select pg_drop_replication_slot(slot_name) {slot}", (service.replication,)
            )
            break
        time.sleep(0.1)
    monolith.execute(sql.SQL("drop publication if exists {}").format(name))
    if target.execute(
        "select true from pg_subscription where subname = %s"
        " and subdbid = (select oid from pg_database where datname = current_database())",
        (service.replication,),
    ).fetchone():
        target.execute(sql.SQL("alter subscription {} disable").format(name))
        target.execute(sql.SQL("alter subscription {} set (slot_name = none)").format(name))
        target.execute(sql.SQL("drop subscription {}").format(name))
    marked = target.execute(
        "select relname from pg_class where relnamespace = %s::regnamespace"
        " and obj_description(oid, 'pg_class') = %s",
        (MIRROR_SCHEMA, MIRROR_MARK),
    ).fetchall()
    for (table,) in marked:
        target.execute(sql.SQL("drop table {}").format(sql.Identifier(MIRROR_SCHEMA, table)))


def _publish(monolith: Connection, service: Service, tables: Mapping[str, tuple[str, ...]]) -> None:
    # Columns are listed for owned tables too: one that the monolith gains later must not stop
    # the apply worker, which finds no such column in the mirror.
    listed = sql.SQL(", ").join(
        sql.SQL("{} ({})").format(
            sql.Identifier(MIRROR_SCHEMA, table), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        for table, columns in tables.items()
    )
    with monolith.transaction():
        monolith.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
        monolith.execute(
            sql.SQL("create publication {} for table {}").format(
                sql.Identifier(service.replication), listed
            )
        )


@contextmanager
def _exported_snapshot(connections: Connections, service: Service) -> Iterator[str]:
    """Create the slot and hold its snapshot open for the block.

    The server waits for every transaction that was open before; a timer turns an endless wait
    into a message. See CREATE_REPLICATION_SLOT in PostgreSQL's streaming replication protocol.
    """
    with connections.connect(MONOLITH, replication="database") as walsender:
        slot = service.replication
        command = f"CREATE_REPLICATION_SLOT \"{slot}\" LOGICAL pgoutput (SNAPSHOT 'export')"
        with ThreadPoolExecutor(1) as waiter:
            future = waiter.submit(walsender.pgconn.exec_, command.encode())
            try:
                started = bool(wait([future], timeout=SLOT_TIMEOUT_SECONDS).done)
                oldest = "" if started else _oldest_transaction(connections)
            finally:  # on Ctrl-C too: the waiter ends only when the server answers
                if not future.done():
                    walsender.pgconn.get_cancel().cancel()
                    wait([future])
            if not started:
                raise NotReady(
                    f"The slot could not start within {SLOT_TIMEOUT_SECONDS} seconds:"
                    f" the monolith has a transaction open since {oldest}.",
                    where=describe(connections.urls[MONOLITH]),
                    mend="Wait for it, or end it: select pg_terminate_backend(PID);",
                )
            result = future.result()
        if result.status != psycopg.pq.ExecStatus.TUPLES_OK:
            raise NotReady(
                f"The slot could not be created: {result.error_message.decode().strip()}",
                where=describe(connections.urls[MONOLITH]),
                mend="select * from pg_replication_slots;",
            )
        snapshot = result.get_value(0, 2)
        assert snapshot is not None
        yield snapshot.decode()


def _oldest_transaction(connections: Connections) -> str:
    with connections.connect(MONOLITH) as monolith:
        row = monolith.execute(
            "select format('%s (process %s)', xact_start::timestamptz(0), pid)"
            " from pg_stat_activity where xact_start is not null and pid <> pg_backend_pid()"
            " and backend_type = 'client backend' order by xact_start limit 1"
        ).fetchone()
    return str(row[0]) if row else "an unknown time"


def _create_mirror(
    monolith: Connection,
    target: Connection,
    service: Service,
    tables: Mapping[str, tuple[str, ...]],
) -> dict[str, catalog.LiveTable]:
    live = catalog.live(monolith)
    for table, columns in tables.items():
        definitions = sql.SQL(", ").join(
            sql.SQL("{} {}{}").format(
                sql.Identifier(column),
                sql.SQL(live[table].columns[column]),
                sql.SQL(" not null" if column in live[table].not_null else ""),
            )
            for column in columns
        )
        relation = sql.Identifier(MIRROR_SCHEMA, table)
        with target.transaction():
            target.execute(sql.SQL("create table {} ({})").format(relation, definitions))
            target.execute(
                sql.SQL("alter table {} owner to {}").format(
                    relation, sql.Identifier(service.owner)
                )
            )
            target.execute(sql.SQL("comment on table {} is {}").format(relation, MIRROR_MARK))
    return live


def _copy(
    service: Service,
    connections: Connections,
    monolith: Connection,
    target: Connection,
    tables: Mapping[str, tuple[str, ...]],
    on_progress: Callable[[Progress], None],
) -> Copied:
    _publish(monolith, service, tables)
    live = _create_mirror(monolith, target, service, tables)
    with _exported_snapshot(connections, service) as snapshot:
        copied = snapshot_copy.copy(
            lambda: connections.connect(MONOLITH),
            lambda: connections.connect(service.database),
            snapshot,
            {table: (columns, live[table]) for table, columns in tables.items()},
            on_progress,
        )
    for table in tables:
        relation = sql.Identifier(MIRROR_SCHEMA, table)
        key = sql.SQL(", ").join(map(sql.Identifier, live[table].primary_key))
        target.execute(sql.SQL("alter table {} add primary key ({})").format(relation, key))
        target.execute(sql.SQL("analyze {}").format(relation))
    return copied


def _subscribe(service: Service, connections: Connections, target: Connection) -> None:
    name = sql.Identifier(service.replication)
    try:
        target.execute(
            sql.SQL(
                "create subscription {} connection {} publication {} with"
                " (create_slot = false, slot_name = {}, copy_data = false, enabled = false)"
            ).format(
                name,
                sql.Literal(conninfo(connections.replication_url)),
                name,
                sql.Literal(service.replication),
            )
        )
    except psycopg.OperationalError as error:
        raise NotReady(
            f"The service's server can't reach the monolith: {str(error).strip()}",
            where=describe(connections.urls[service.database]),
            mend="export BLYTZ_HIRE_REPLICATION_URL=postgresql://… as that server reaches it.",
        ) from error
