"""Copies a service's tables into its mirror, from one snapshot of the living monolith.

A logical slot is created with an exported snapshot; the tables are copied from it; primary keys are
built after the rows; the subscription starts from the slot. There is no gap and no overlap, since
the slot begins at the snapshot. The slot is not created by the subscription, because a subscription
to a database of the same cluster would wait for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from pgsplit.base.errors import BuildFailed, NotReady
from pgsplit.postgres import copy as snapshot_copy
from pgsplit.postgres.catalog import LiveTable, live_tables
from pgsplit.postgres.connect import LOCK_TIMEOUT, describe, explained, locked
from pgsplit.postgres.copy import Copied, Progress
from pgsplit.project import drift
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import continuity, login, reach, requirements, reverse
from pgsplit.replication.forgotten import Forgotten, forgotten, require_remembered
from pgsplit.replication.reverse import ReverseStream
from pgsplit.replication.shared import needs_monolith, require_owners_remembered
from pgsplit.replication.slot import exported_snapshot
from pgsplit.replication.stream import Stream
from pgsplit.replication.subscription import publish, subscribe
from pgsplit.replication.sync import apply_changes
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.saga import require_finished
from pgsplit.state.schema import prepare_service

Connection = psycopg.Connection[Any]

STALE = "update split.service_tables set is_stale = true where owned_rows <> 'false'"
KEPT = """
    select 'audit.' || kept_in, rows from split.quarantined
    where transaction = pg_current_xact_id() order by 1
"""


@dataclass(frozen=True)
class Landed:
    """What a landing copied: rows by table, and how long it took.

    `quarantined` counts by table of the schema audit what was copied there before the mirror was
    dropped.
    """

    rows: Mapping[str, int]
    bytes: int
    seconds: float
    already: bool
    quarantined: Mapping[str, int] = field(default_factory=dict)


def land(
    service: Service,
    connections: Connections,
    ledger: Ledger,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    *,
    again: bool = False,
    on_snapshot: Callable[[], None] = lambda: None,
) -> Landed:
    """Fill a service's mirror from the monolith, and create a subscription that follows it.

    The subscription stays disabled: the first build must find parents and children in one state.
    Idempotent: a failed or killed landing is removed, by itself or by the next one, and nothing is
    done if the service has landed.

    Args:
        service: a provisioned service.
        connections: where the servers are.
        ledger: the monolith's ledger.
        on_progress: called often, from several threads in turn.
        again: copy again what has landed, for example because its slot was lost.
        on_snapshot: called when the slot has started, before any row is copied.

    Returns:
        Rows by table, bytes in COPY's binary format, seconds.

    Raises:
        NotReady: the service is not provisioned; `wal_level`, slots, senders, workers or privileges
            are missing; an old transaction holds the slot back.
        SourceMismatch: the monolith lacks a table, column, type or key.
        TargetOccupied: the mirror's schema holds tables that this project did not land.
    """
    started = time.monotonic()
    stands = ledger.state(service)
    _require_ready(service, connections, stands, again)
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
            reach.require_reachable(stream, connections)
            kept = _release(stream, ledger, connections) if has_landed else {}
            _clear(stream)
            requirements.nothing_in_the_way(monolith, target, service)
            intent = {"publication": service.replication, "slot": service.replication}
            with ledger.step(
                service, "land", enters=State.LANDED, **intent, tables=list(tables)
            ) as step:
                try:
                    url = login.url_for(stream, connections)
                    copied = _copy(stream, connections, tables, on_snapshot, on_progress)
                    subscribe(target, stream.name, url)
                    continuity.look(stream)
                except BaseException:
                    # If this fails, because a server is gone or somebody's view needs a table,
                    # the next landing clears, or says why it can't.
                    with suppress(psycopg.Error, NotReady):
                        _clear(stream)
                    raise
                seconds = round(time.monotonic() - started, 3)
                step.detail.update(rows=copied.rows, bytes=copied.bytes, seconds=seconds)
    return Landed(copied.rows, copied.bytes, seconds, already=False, quarantined=kept)


def _require_ready(service: Service, connections: Connections, stands: State, again: bool) -> None:
    if again and stands.reached(State.SWITCHED):
        raise NotReady(
            f"{service.database} is {stands.value}: it holds the only copy of its rows, so its"
            " mirror can't be copied again. Nothing was changed.",
            where=describe(connections.urls[service.database]),
            hint=f"runner.py repair {service.role}",
        )
    if not stands.reached(State.PROVISIONED):
        raise NotReady(
            f"{service.database} has not been provisioned.",
            where=describe(connections.urls[service.database]),
            hint=f"runner.py provision {service.role}",
        )


def _require_still_there(stream: Stream) -> None:
    if stream.subscription() is None:
        raise NotReady(
            f"{stream.service.database} has landed in another database, or its subscription has"
            " been dropped since.",
            where=describe(stream.database.info.dsn),
            hint=f"Check {stream.service.database.upper()}_URL, or"
            f" runner.py land {stream.service.role} --recopy",
        )


def _release(stream: Stream, ledger: Ledger, connections: Connections) -> Mapping[str, int]:
    """Return a service to the state before its landing; its own tables stay unchanged.

    The state changes before anything is removed, so that the next landing knows about it whatever
    happens. When the mirror is complete again, the service's tables are compared with all of it.
    """
    require_finished(stream.service, ledger)
    kept: Mapping[str, int] = {}
    known = stream.database.execute("select to_regclass('split.service_tables') is not null")
    is_built = known.fetchone() == (True,)
    if is_built:
        what = forgotten(stream.service, stream.monolith, stream.database)
        if what is Forgotten.ROLLBACK_BY_SERVICE:
            reverse.stop(ReverseStream(stream.service, stream.monolith, stream.database))
        require_remembered(stream.service, stream.monolith, stream.database)
        require_owners_remembered(stream.monolith, stream.service, connections)
        kept = _keep_what_arrived(stream)
    with ledger.step(stream.service, "release", slot=stream.service.replication):
        ledger.return_to(stream.service, State.PROVISIONED)
        if is_built:
            stream.database.execute("update split.service_tables set is_stale = true")
        reverse.remove_forgotten(ReverseStream(stream.service, stream.monolith, stream.database))
        _clear(stream)
    return kept


def _keep_what_arrived(stream: Stream) -> Mapping[str, int]:
    """Keep what a mirror has, and nothing else, before the mirror is dropped.

    The monolith may have lost it since, so the service's tables take it over; the next build
    compares them. What that replaces is quarantined, and so is what they can't take. Gives the rows
    by table of the schema audit.
    """
    prepare_service(stream.database, stream.service)
    continuity.look(stream)
    row = stream.database.execute("select keeps_replaced from split.service").fetchone()
    if row != (True,):
        return {}
    # Whole tables: only such a comparison quarantines what the mirror lacks.
    stream.database.execute(STALE)
    try:
        return apply_changes(stream.database).quarantined
    except BuildFailed:
        with stream.database.transaction():
            stream.database.execute("select split.keep_pending()")
            return dict(stream.database.execute(KEPT).fetchall())


@contextmanager
def _definitions_held(
    service: Service, connections: Connections, tables: Mapping[str, tuple[str, ...]]
) -> Iterator[None]:
    """Lock the monolith's tables against DDL for the block, as pg_dump does.

    A table that is rewritten after the snapshot was taken is empty in it. The lock is ACCESS SHARE,
    as of every SELECT; it blocks only DDL.
    """
    with connections.connect(connections.monolith) as locking, locking.transaction():
        locking.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
        for table in tables:
            try:
                with locking.transaction():
                    locking.execute(
                        sql.SQL("lock table {} in access share mode").format(
                            sql.Identifier(service.mirror, table)
                        )
                    )
            except psycopg.errors.LockNotAvailable as error:
                raise locked(f"{service.mirror}.{table}", connections.monolith_url) from error
            except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
                continue  # the following checks list everything that is missing
        yield


def _clear(stream: Stream) -> None:
    """Remove the remains of an unfinished landing of this service; idempotent.

    Nothing is removed if a landing is recorded as done, so no row that a service has written can be
    lost, or if the ledger has no landing of this project. Of the mirror, only marked tables are
    removed.
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
    live = live_tables(stream.monolith, service.mirror, sized=True)
    owner = sql.Identifier(service.owner)
    prepare_service(database, service)
    with database.transaction():
        database.execute("delete from split.heartbeats")
        # The same row on both sides, older than the snapshot; later heartbeats update it.
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
    on_snapshot: Callable[[], None],
    on_progress: Callable[[Progress], None],
) -> Copied:
    service, database = stream.service, stream.database
    publish(stream.monolith, service, tables)
    live = _create_mirror(stream, tables)
    with exported_snapshot(connections, service.replication, connections.monolith) as snapshot:
        on_snapshot()
        copied = snapshot_copy.copy(
            lambda: connections.connect(connections.monolith),
            lambda: connections.connect(service.database),
            snapshot,
            service.mirror,
            {table: (columns, live[table]) for table, columns in tables.items()},
            on_progress,
            connections.throttle.wait,
        )
    for table in tables:
        relation = sql.Identifier(service.mirror, table)
        key = sql.SQL(", ").join(map(sql.Identifier, live[table].primary_key))
        database.execute(sql.SQL("alter table {} add primary key ({})").format(relation, key))
        database.execute(sql.SQL("analyze {}").format(relation))
    return copied
