"""Copies what a service owns or may see into its mirror, at one instant of the living monolith.

A logical slot is created with an exported snapshot; the tables are copied from that snapshot;
primary keys are built after the rows; the subscription starts from the slot. No gap and no overlap:
the slot begins where the snapshot stands. Creating the slot apart from the subscription also avoids
the endless wait of a subscription to a database of the same cluster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from pgsplit.base.errors import NotReady
from pgsplit.postgres import copy as snapshot_copy
from pgsplit.postgres.catalog import LiveTable, live_tables
from pgsplit.postgres.connect import LOCK_TIMEOUT, describe, explained
from pgsplit.postgres.copy import Copied, Progress
from pgsplit.project import drift
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import requirements
from pgsplit.replication.shared import needs_monolith
from pgsplit.replication.slot import exported_snapshot
from pgsplit.replication.stream import Stream
from pgsplit.replication.subscription import publish, subscribe
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.saga import require_finished
from pgsplit.state.schema import prepare_service

Connection = psycopg.Connection[Any]


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
    *,
    again: bool = False,
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
        again: copy anew what has landed before, such as when its slot was lost.

    Returns:
        Rows by table, bytes in COPY's binary form, seconds.

    Raises:
        NotReady: not provisioned; `wal_level`, slots, senders, workers or privileges lacking; an
            old transaction holds the slot back.
        SourceMismatch: the monolith lacks a table, column, type or key.
        TargetOccupied: the mirror's schema holds tables that this project did not land.
    """
    started = time.monotonic()
    stands = ledger.state(service)
    if again and stands.reached(State.SWITCHED):
        raise NotReady(
            f"{service.database} is {stands.value}: it holds what nobody else does, and its mirror"
            " can't be copied anew. Nothing was changed.",
            where=describe(connections.urls[service.database]),
            hint=f"runner.py repair {service.role}",
        )
    if not stands.reached(State.PROVISIONED):
        raise NotReady(
            f"{service.database} has not been provisioned.",
            where=describe(connections.urls[service.database]),
            hint=f"runner.py provision {service.role}",
        )
    tables = service.landed_tables
    with (
        connections.connect(connections.monolith) as monolith,
        connections.connect(service.database) as target,
        explained(connections.monolith_url, connections.monolith),
    ):
        stream = Stream(service, monolith, target)
        requirements.provisioned(target, service)
        has_landed = stands.reached(State.LANDED)
        if has_landed and not again:
            if needs_monolith(monolith, service):
                _require_still_there(stream)
            done = ledger.last(service, "land")
            return Landed(done.get("rows", {}), done.get("bytes", 0), 0.0, already=True)
        with _definitions_held(service, connections, tables):
            drift.check(service.project, monolith, tables)
            requirements.source(monolith, service, tables)
            requirements.target(target, service)
            if has_landed:
                _release(stream, ledger)
            _clear(stream)
            requirements.nothing_in_the_way(monolith, target, service)
            intent = {"publication": service.replication, "slot": service.replication}
            with ledger.step(
                service, "land", enters=State.LANDED, **intent, tables=list(tables)
            ) as step:
                try:
                    copied = _copy(stream, connections, tables, on_progress)
                    subscribe(service, connections, target)
                except BaseException:
                    # What this can't clear away, because a server is gone or somebody's view
                    # needs a table, the next landing will, or will say why it can't.
                    with suppress(psycopg.Error):
                        _clear(stream)
                    raise
                seconds = round(time.monotonic() - started, 3)
                step.detail.update(rows=copied.rows, bytes=copied.bytes, seconds=seconds)
    return Landed(copied.rows, copied.bytes, seconds, already=False)


def _require_still_there(stream: Stream) -> None:
    if stream.subscription() is None:
        raise NotReady(
            f"{stream.service.database} has landed before, but not in this database, or its"
            " subscription has been dropped since.",
            where=describe(stream.database.info.dsn),
            hint=f"Check {stream.service.database.upper()}_URL, or"
            f" runner.py land {stream.service.role} --again",
        )


def _release(stream: Stream, ledger: Ledger) -> None:
    """Take a service back to before its landing; its own tables stay as they are.

    The state is changed before anything is removed: whatever happens on the way, the next landing
    knows that there is none. What the service's tables hold is compared, whole, once the mirror is
    there again.
    """
    require_finished(stream.service, ledger)
    known = stream.database.execute("select to_regclass('split.service_tables') is not null")
    is_built = known.fetchone() == (True,)
    if is_built:
        row = stream.database.execute("select switched_at from split.service").fetchone()
        if row and row[0]:
            raise NotReady(
                f"{stream.service.database} is written by the service since {row[0]}: its mirror"
                " can't be copied anew. Nothing was changed.",
                where=describe(stream.database.info.dsn),
                hint=f"runner.py repair {stream.service.role}",
            )
    with ledger.step(stream.service, "release", slot=stream.service.replication):
        ledger.return_to(stream.service, State.PROVISIONED)
        if is_built:
            stream.database.execute("update split.service_tables set is_stale = true")
        _clear(stream)


@contextmanager
def _definitions_held(
    service: Service, connections: Connections, tables: Mapping[str, tuple[str, ...]]
) -> Iterator[None]:
    """Keep the monolith's tables from being altered for the block, as pg_dump does.

    A table that is rewritten after the snapshot was taken reads as empty in it. The lock is ACCESS
    SHARE, which every SELECT takes; it stops nobody but DDL.
    """
    with connections.connect(connections.monolith) as guard, guard.transaction():
        guard.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
        for table in tables:
            try:
                with guard.transaction():
                    guard.execute(
                        sql.SQL("lock table {} in access share mode").format(
                            sql.Identifier(service.mirror, table)
                        )
                    )
            except psycopg.errors.LockNotAvailable as error:
                raise NotReady(
                    f"{service.mirror}.{table} is locked by somebody who alters it.",
                    where=describe(connections.monolith_url),
                    hint="Wait for them: select * from pg_locks where mode ="
                    f" 'AccessExclusiveLock' and relation = '{service.mirror}.{table}'::regclass;",
                ) from error
            except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
                continue  # the checks that follow say what is missing, all of it at once
        yield


def _clear(stream: Stream) -> None:
    """Remove what a landing of this service has left; idempotent.

    Only while none is recorded as done, so no row that a service has written can be among it;
    only if the ledger says that this project set out to make it, which it does when nothing of
    that name is there; and of the mirror only tables that bear its mark.
    """
    begun = stream.monolith.execute(
        "select true from split.ledger"
        " where service = %s"
        " and (step = 'release' or (step = 'land' and outcome is distinct from 'done'))",
        (stream.service.database,),
    ).fetchone()
    if not begun:
        return
    stream.remove()
    marked = stream.database.execute(
        "select relname from pg_class where relnamespace = %s::regnamespace"
        " and obj_description(oid, 'pg_class') = %s",
        (stream.service.mirror, stream.service.mirror_mark),
    ).fetchall()
    for (table,) in marked:
        relation = sql.Identifier(stream.service.mirror, table)
        stream.database.execute(sql.SQL("drop table {}").format(relation))


def _create_mirror(stream: Stream, tables: Mapping[str, tuple[str, ...]]) -> dict[str, LiveTable]:
    service, database = stream.service, stream.database
    live, owner = live_tables(stream.monolith, service.mirror), sql.Identifier(service.owner)
    prepare_service(database, service)
    with database.transaction():
        database.execute("delete from split.heartbeats")
        # The same row on either side, older than the snapshot: the later ones update it.
        database.execute(
            "insert into split.heartbeats values (%s, %s)", (service.database, stream.beat())
        )
    for table, columns in tables.items():
        definitions = sql.SQL(", ").join(
            sql.SQL("{} {}{}").format(
                sql.Identifier(column),
                sql.SQL(live[table].columns[column]),
                sql.SQL(" not null" if column in live[table].not_null else ""),
            )
            for column in columns
        )
        relation = sql.Identifier(service.mirror, table)
        with database.transaction():
            database.execute(sql.SQL("create table {} ({})").format(relation, definitions))
            database.execute(sql.SQL("alter table {} owner to {}").format(relation, owner))
            database.execute(
                sql.SQL("comment on table {} is {}").format(relation, service.mirror_mark)
            )
    return live


def _copy(
    stream: Stream,
    connections: Connections,
    tables: Mapping[str, tuple[str, ...]],
    on_progress: Callable[[Progress], None],
) -> Copied:
    service, database = stream.service, stream.database
    publish(stream.monolith, service, tables)
    live = _create_mirror(stream, tables)
    with exported_snapshot(connections, service.replication, connections.monolith) as snapshot:
        copied = snapshot_copy.copy(
            lambda: connections.connect(connections.monolith),
            lambda: connections.connect(service.database),
            snapshot,
            service.mirror,
            {table: (columns, live[table]) for table, columns in tables.items()},
            on_progress,
        )
    for table in tables:
        relation = sql.Identifier(service.mirror, table)
        key = sql.SQL(", ").join(map(sql.Identifier, live[table].primary_key))
        database.execute(sql.SQL("alter table {} add primary key ({})").format(relation, key))
        database.execute(sql.SQL("analyze {}").format(relation))
    return copied
