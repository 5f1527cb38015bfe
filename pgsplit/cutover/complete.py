"""The two ends of a migration: complete, after which nothing goes back, and abort, before a switch.

Both only go forward, and each step may be done again: one that was cut short is resumed by doing
all of it once more. Neither drops a row that a service has written, nor one of the monolith's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from psycopg import errors, sql

from pgsplit.backup.dump import Backup, backup
from pgsplit.base.errors import ConnectionFailed, NotReady
from pgsplit.cutover import preflight as preflight
from pgsplit.load.remove import remove, require_nothing_kept
from pgsplit.postgres.connect import describe
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import read_through, requirements, shared
from pgsplit.replication.fence import Fence
from pgsplit.replication.session import Session, open_session
from pgsplit.replication.stream import Connection, Stream
from pgsplit.replication.sync import apply_changes
from pgsplit.routing import env_file as env_file
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.saga import Saga, Step, require_finished, unfinished

Found = TypeVar("Found")

LOCK_TIMEOUT = "1s"
TRIES = 20

# Keys between a retired table and one that stays: nobody keeps them any more.
FOREIGN_KEYS = """
    select
        format('%%s %%I: %%s', conrelid::regclass, conname, pg_get_constraintdef(oid)),
        format('alter table %%s drop constraint %%I', conrelid::regclass, conname)
    from pg_constraint
    where
        contype = 'f'
        and (conrelid = any(%(retired)s::regclass[])) <> (confrelid = any(%(retired)s::regclass[]))
    order by 1
"""
CHECKS = """
    select format('alter table %%s drop constraint %%I', conrelid::regclass, conname)
    from pg_constraint
    where
        contype = 'c'
        and conname like '%%\\_fits\\_monolith'
        and connamespace = to_regnamespace(%s)
"""


@dataclass
class Completed:
    """What a completion has done: tables retired, keys dropped, services handed over to."""

    service: Service
    retired: list[str] = field(default_factory=list)
    detached: list[str] = field(default_factory=list)
    handed_over: list[str] = field(default_factory=list)
    backup: Backup | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass
class Aborted:
    """What an abort has removed, and what it has left for people to see to."""

    service: Service
    removed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check(
    service: Service, connections: Connections, ledger: Ledger, say: Callable[[str], None]
) -> Completed:
    """Check whether a service could be completed now, and change nothing.

    Args:
        service: a switched service.
        connections: where the servers are.
        ledger: the monolith's ledger.
        say: is told what is looked at.

    Returns:
        What would be retired, detached and handed over.

    Raises:
        NotReady: it could not; all that is in the way in one message.
    """
    with open_session(service, connections) as session:
        _require_ready(session, ledger, say)
        owned = list(service.owned_tables)
        return Completed(
            service,
            owned,
            [definition for definition, _ in _keys(session, owned)],
            [consumer.database for consumer in shared.consumers(service)],
        )


def complete(
    service: Service,
    connections: Connections,
    ledger: Ledger,
    say: Callable[[str], None],
    *,
    with_backup: bool = True,
    resumes: bool = False,
) -> Completed:
    """End a switched service's way back, and retire its tables in the monolith.

    Args:
        service: a switched service.
        connections: where the servers are.
        ledger: the monolith's ledger.
        say: is told each step.
        with_backup: dump the tables before they are retired.
        resumes: go on with one that was cut short.

    Returns:
        What was retired, detached and handed over.

    Raises:
        NotReady: it is not switched, the monolith is behind, or a service that shares columns of
            its tables has not been built; nothing was changed.
        Unfinished: something failed on the way; `resume` goes on.
    """
    done = Completed(service)
    with open_session(service, connections) as session:
        if not resumes:
            _require_ready(session, ledger, say)
        owned = list(service.owned_tables)

        def dump() -> Mapping[str, Any]:
            if with_backup:
                tables = [(service.mirror, name) for name in owned]
                done.backup = backup(
                    connections.monolith, connections, ledger, service, "complete", tables=tables
                )
            return {"path": str(done.backup.path) if done.backup else None}

        def reparent() -> Mapping[str, Any]:
            for consumer in shared.consumers(service):
                with connections.connect(consumer.database) as database:
                    stream = Stream(consumer, session.monolith, database)
                    apply_changes(session.database)
                    shared.reparent(session, consumer, stream, connections)
                done.handed_over.append(consumer.database)
            return {"consumers": done.handed_over}

        def end_way_back() -> None:
            if session.reverse.is_there():
                apply_changes(session.database)
                session.reverse.arrive()
                session.reverse.remove()

        def retire() -> Mapping[str, Any]:
            done.retired, done.detached = _retire(session, owned)
            return {"retired": done.retired, "detached": done.detached}

        def end_links() -> Mapping[str, Any]:
            _end_links(session, connections)
            if service in read_through.owners(service.project):
                done.warnings += read_through.reconnect_all(connections, ledger)
            return {"warnings": done.warnings}

        Saga(
            service,
            "complete",
            [
                Step("dump", dump),
                Step("hand over", reparent),
                Step("end way back", end_way_back),
                Step("retire", retire),
                Step("loosen", lambda: _loosen(session), enters=State.COMPLETED),
                Step("end links", end_links),
            ],
            is_committed=lambda: True,
        ).run(ledger, say, tables=owned)
    return done


def _require_ready(session: Session, ledger: Ledger, say: Callable[[str], None]) -> None:
    found = preflight.for_completion(session, ledger, say)
    _require_consumers(found, session, ledger)
    found.require(session, "completion")


def _require_consumers(found: preflight.PreflightReport, session: Session, ledger: Ledger) -> None:
    """Whoever shares columns of the owner's tables has to have them, and room for another feed."""
    for consumer in shared.consumers(session.service):
        if not ledger.state(consumer).reached(State.BUILT):
            found.add(
                f"{consumer.database} shares columns of its tables, and has not been built: it"
                " could not land any more",
                f"runner.py run {consumer.role}",
            )
            continue
        with session.connections.connect(consumer.database) as database:
            try:
                requirements.shared_stream(session.database, database, session.service, consumer)
            except NotReady as error:
                found.add(error.what, error.hint)


def _retire(session: Session, owned: list[str]) -> tuple[list[str], list[str]]:
    """Move the monolith's tables aside, without the gate and the keys that bind others; atomic."""
    monolith, service = session.monolith, session.service
    row = monolith.execute(
        "select coalesce(array_agg(name), '{}') from unnest(%s::text[]) as name"
        " where to_regclass(format('%%I.%%I', %s::text, name)) is not null",
        (owned, service.mirror),
    ).fetchone()
    tables: list[str] = row[0] if row else []
    if not tables:
        return owned, []

    def retire() -> list[str]:
        monolith.execute(
            sql.SQL("create schema if not exists {}").format(
                sql.Identifier(service.project.retired_schema)
            )
        )
        session.monolith_fence.remove()
        keys = _keys(session, tables)
        for _, statement in keys:
            monolith.execute(statement)
        for name in tables:
            monolith.execute(
                sql.SQL("alter table {} set schema {}").format(
                    sql.Identifier(service.mirror, name),
                    sql.Identifier(service.project.retired_schema),
                )
            )
        return [definition for definition, _ in keys]

    return owned, _locking(monolith, ", ".join(tables), retire)


def _keys(session: Session, tables: list[str]) -> list[tuple[str, str]]:
    """Find the foreign keys between these tables and others: definition, and what drops it."""
    qualified = [f"{session.service.mirror}.{name}" for name in tables]
    return session.monolith.execute(FOREIGN_KEYS, {"retired": qualified}).fetchall()


def _loosen(session: Session) -> Mapping[str, Any]:
    """Drop the checks that only kept a service's rows within what the monolith can hold."""
    statements = [row[0] for row in session.database.execute(CHECKS, (session.service.database,))]

    def drop() -> None:
        for statement in statements:
            session.database.execute(statement)

    _locking(session.database, ", ".join(session.service_fence.tables), drop)
    return {"dropped": statements}


def _locking(database: Connection, what: str, change: Callable[[], Found]) -> Found:
    """Change definitions in one transaction, never waiting long for a lock; again, if need be."""
    for attempt in range(TRIES):
        try:
            with database.transaction():
                database.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
                return change()
        except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
            if attempt == TRIES - 1:
                raise NotReady(
                    f"Somebody reads or writes {what}, or what refers to them, without a pause:"
                    f" {str(error).strip()}",
                    where=describe(database.info.dsn),
                    hint="Wait for them, or end them, then: runner.py resume",
                ) from error
            time.sleep(0.2)
    raise AssertionError("the last attempt returns or raises")


def _end_links(session: Session, connections: Connections) -> None:
    """Remove the ways from the monolith by which nothing comes any more; idempotent."""
    for one in {session.service, *shared.consumers(session.service)}:
        if not shared.needs_monolith(session.monolith, one):
            with connections.connect(one.database) as database:
                Stream(one, session.monolith, database).remove()
                database.execute("delete from split.heartbeats where service = %s", (one.database,))


def abort(
    service: Service, connections: Connections, ledger: Ledger, say: Callable[[str], None]
) -> Aborted:
    """Remove all that was made for a service anywhere, as long as it is not switched.

    Args:
        service: a service that is not switched.
        connections: where the servers are.
        ledger: the monolith's ledger.
        say: is told each step.

    Returns:
        What was removed, and what is left for people to see to.

    Raises:
        NotReady: it is switched or completed, another operation was cut short, or its database
            holds what a rollback laid aside; nothing was changed.
    """
    done, state = Aborted(service), ledger.state(service)
    if gone := shared.completed_owners(ledger.connection, service):
        names = ", ".join(one.database for one in gone)
        raise NotReady(
            f"{service.database} shares columns of what {names} took out of the monolith: it could"
            " not land any more. Nothing was changed.",
            where=describe(connections.urls[service.database]),
            hint=f"runner.py verify {service.role}, then runner.py switch {service.role}",
        )
    if state.reached(State.SWITCHED):
        raise NotReady(
            f"{service.database} is {state.value}: it holds what nobody else does. Nothing was"
            " changed.",
            where=describe(connections.urls[service.database]),
            hint=f"runner.py rollback {service.role}, then runner.py abort {service.role}"
            if state is State.SWITCHED
            else "runner.py history",
        )

    require_finished(service, ledger, but=["abort"])
    if service.database not in unfinished(ledger):
        with suppress(ConnectionFailed), open_session(service, connections) as session:
            require_nothing_kept(session.database, service)

    def drop() -> Mapping[str, Any]:
        dropped = remove(service, connections, ledger)
        dropped += read_through.remove(service, connections)
        done.removed += dropped
        return {"removed": dropped}

    Saga(
        service,
        "abort",
        [
            Step("ways", lambda: _remove_ways(service, connections, done)),
            Step("database", drop),
            Step("records", lambda: _forget(service, connections, ledger, done)),
        ],
        is_committed=lambda: True,
    ).run(ledger, say)
    return done


def _remove_ways(service: Service, connections: Connections, done: Aborted) -> Mapping[str, Any]:
    """Remove both ways and the gate; a database that is gone already is passed over."""
    with connections.connect(connections.monolith) as monolith, ExitStack() as stack:
        session = None
        # It is gone, or was emptied by an abort that was cut short.
        with suppress(ConnectionFailed, NotReady):
            session = stack.enter_context(open_session(service, connections))
        if session:
            for stream in (session.reverse, session.forward):
                if stream.is_there():
                    done.removed.append(f"replication {stream.name}")
                stream.remove()
            return _remove_fence(session.monolith_fence, done)
        # Without the database there is nobody who subscribes, and a slot that nobody reads.
        stream = Stream(service, monolith, monolith)
        if stream.slot():
            done.removed.append(f"slot {stream.name}")
        stream.remove()
        owned = list(service.owned_tables)
        return _remove_fence(Fence(service, monolith, service.mirror, owned), done)


def _remove_fence(fence: Fence, done: Aborted) -> Mapping[str, Any]:
    if fence.exists():
        _locking(fence.database, ", ".join(fence.tables), fence.remove)
        done.removed.append("the gate in the monolith")
    return {"removed": list(done.removed)}


def _forget(
    service: Service, connections: Connections, ledger: Ledger, done: Aborted
) -> Mapping[str, Any]:
    """Forget where the service stood; what was done stays in the ledger."""
    file = env_file.file(service, connections)
    if file.exists():
        file.unlink()
        done.removed.append(str(file))
    left = ledger.forget(service)
    if not left:
        done.notes.append(
            "nothing of any service is left; the ledger is: runner.py history. To remove it too:"
            " DROP SCHEMA split CASCADE; in the monolith"
        )
    return {"services_left": left}
