"""Makes a switched service's broken ways anew, without copying what is right already.

A way that has lost its slot has a gap that nothing can fill: so it gets a new slot, and at the very
state from which that goes on, every row is compared and what differs is carried over. Before the
switch there is a simpler way: `land --again`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors, sql

from pgsplit.base.errors import NotReady, SplitError
from pgsplit.postgres.connect import ALIKE, connect, describe
from pgsplit.postgres.row_diff import differing_keys
from pgsplit.postgres.row_hashes import RowSource, Shape
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import stream as replication
from pgsplit.replication.reverse import carry_no_more, publish_and_subscribe
from pgsplit.replication.session import Session, open_session
from pgsplit.replication.shared import (
    SharedStream,
    completed_owners,
    needs_monolith,
    owners,
    shared,
)
from pgsplit.replication.stream import Stream
from pgsplit.replication.sync import apply_changes
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.saga import require_finished

if TYPE_CHECKING:
    from typing import LiteralString

Connection = psycopg.Connection[Any]

BATCH = 1_000


@dataclass(frozen=True)
class _Broken:
    """A way, the tables that its target notes, and those among them that it carries now."""

    stream: Stream
    source: str
    target: str
    noted: Mapping[str, tuple[str, ...]]
    carried: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Repaired:
    """A way that was made anew, and the rows that were carried over for it, by table."""

    stream: str
    rows: dict[str, int]


def repair(
    service: Service,
    connections: Connections,
    ledger: Ledger,
    say: Callable[[str], None],
    *,
    anew: bool = False,
) -> list[Repaired]:
    """Make every broken way of a switched service anew; leave the others alone.

    Idempotent: one that was cut short is broken still, and made anew by the next. A rollback that
    a broken way has cut short can be resumed after it; a completion goes on by itself.

    Args:
        service: a switched or completed service.
        connections: where the servers are.
        ledger: the monolith's ledger.
        say: is told what is looked at.
        anew: make those anew too that are whole, such as when their target was written by hand.

    Returns:
        What was made anew; nothing, if nothing is broken.

    Raises:
        NotReady: the service is not switched, or a completion was cut short.
    """
    require_finished(service, ledger, but=["switch", "rollback"])
    if not ledger.state(service).reached(State.SWITCHED):
        raise NotReady(
            f"{service.database} is {ledger.state(service).value}: the monolith is the truth, and"
            " can be copied anew.",
            where=describe(connections.urls[service.database]),
            hint=f"runner.py land {service.role} --again, then runner.py build {service.role}",
        )
    done = []
    with open_session(service, connections) as session:
        for broken in _needed(session, ledger):
            say(broken.stream.name)
            if anew or _is_broken(broken.stream):
                with ledger.step(service, "repair", way=broken.stream.name) as step:
                    rows = _recreate(broken, connections)
                    step.detail["rows"] = rows
                done.append(Repaired(broken.stream.name, rows))
        apply_changes(session.database)
    return done


def _needed(session: Session, ledger: Ledger) -> Iterator[_Broken]:
    """Give all ways that a service has to have in its state."""
    service, stands = session.service, ledger.state(session.service)
    retired = {one.database for one in completed_owners(session.monolith, service)}
    if needs_monolith(session.monolith, service):
        mirrored = {
            name: columns
            for name, columns in service.landed_tables.items()
            if service.project.tables[name].owner not in retired
            and not (stands is State.COMPLETED and name in service.owned_tables)
        }
        carried = {n: c for n, c in mirrored.items() if n not in service.owned_tables}
        yield _Broken(session.forward, service.project.name, service.database, mirrored, carried)
    if stands is State.SWITCHED:
        owned = service.owned_tables
        yield _Broken(session.reverse, service.database, service.project.name, owned, owned)
    for owner in owners(service):
        if owner.database in retired:
            with session.connections.connect(owner.database) as there:
                shared_stream = SharedStream(
                    service, session.monolith, session.database, owner, there
                )
                tables = shared(owner, service)
                yield _Broken(shared_stream, owner.database, service.database, tables, tables)


def _is_broken(stream: Stream) -> bool:
    try:
        stream.require_unbroken()
    except SplitError:
        return True
    return False


def _recreate(broken: _Broken, connections: Connections) -> dict[str, int]:
    stream = broken.stream
    stream.remove()
    publish_and_subscribe(stream, broken.noted, connections.for_servers(broken.source))
    idle = [name for name in broken.noted if name not in broken.carried]
    carry_no_more(stream.source, stream.name, stream.service.mirror, idle)
    with replication.exported_snapshot(connections, stream.name, broken.source) as snapshot:
        rows = {
            table: _apply_differences(broken, table, columns, snapshot, connections)
            for table, columns in broken.carried.items()
        }
    if broken.target != connections.monolith:
        # What was written here without replication was not captured.
        stream.target.execute("update split.service_tables set is_stale = true")
    stream.enable()
    stream.arrive()
    return rows


def _apply_differences(
    broken: _Broken, table: str, columns: tuple[str, ...], snapshot: str, connections: Connections
) -> int:
    """Make a target's table equal to its source's at a snapshot; give the rows that differed."""
    there = partial(_at_snapshot, connections.urls[broken.source], broken.source, snapshot)
    here = partial(connect, connections.urls[broken.target], broken.target)
    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    query = sql.SQL("select {} from {}").format(
        listed, sql.Identifier(broken.stream.service.mirror, table)
    )
    sides = RowSource(there, query), RowSource(here, query)
    differing = list(differing_keys(*sides, Shape("id", "text", columns)))
    statements = _statements(broken.stream.service, table, columns)
    with there() as source, here() as target:
        for end in (source, target):
            end.execute(ALIKE)
        # As replication writes: no foreign key is asked, and no trigger of applications' fires.
        with suppress(errors.InsufficientPrivilege):
            target.execute("set session_replication_role = replica")
        target.execute("set split.is_syncing = on")
        try:
            _write(source, target, differing, statements, makes_way=False)
        except errors.UniqueViolation:
            _write(source, target, differing, statements, makes_way=True)
    return len(differing)


@dataclass(frozen=True)
class _Statements:
    read: sql.Composed
    delete: sql.Composed
    make_way: sql.Composed | None
    upsert: sql.Composed
    id_at: int


def _statements(service: Service, table: str, columns: tuple[str, ...]) -> _Statements:
    relation, expected = sql.Identifier(service.mirror, table), service.project.tables[table]

    def each(template: LiteralString, names: Sequence[str]) -> sql.Composed:
        return sql.SQL(", ").join(
            sql.SQL(template).format(sql.Identifier(name), kind=sql.SQL(expected.columns[name]))
            for name in names
        )

    unique = [name for name in columns if name in expected.unique]
    return _Statements(
        sql.SQL("select {} from {} where id = any(%s)").format(each("{}::text", columns), relation),
        sql.SQL("delete from {} where id = any(%s) and id <> all(%s)").format(relation),
        sql.SQL("update {} set {} where id = any(%s)").format(
            relation, each("{} = 'repaired ' || id", unique)
        )
        if unique
        else None,
        # An update, never a delete with an insert: a row that others refer to stays throughout.
        sql.SQL(
            "insert into {} ({}) values ({}) on conflict (id) do update set ({}) = row({})"
        ).format(
            relation,
            each("{}", columns),
            each("%s::{kind}", columns),
            each("{}", columns),
            each("excluded.{}", columns),
        ),
        columns.index("id"),
    )


def _write(
    source: Connection,
    target: Connection,
    differing: list[str],
    statements: _Statements,
    *,
    makes_way: bool,
) -> None:
    """Write the rows that differ; in one transaction, so nobody sees half of it.

    Where rows have swapped what is unique, or one has what another gave up, all of them have to
    make way first.
    """
    batches = [differing[first : first + BATCH] for first in range(0, len(differing), BATCH)]
    with target.transaction(), target.cursor() as cursor:
        if makes_way and statements.make_way:
            for batch in batches:
                cursor.execute(statements.make_way, (batch,))
        for batch in batches:
            rows = source.execute(statements.read, (batch,)).fetchall()
            cursor.execute(statements.delete, (batch, [row[statements.id_at] for row in rows]))
            cursor.executemany(statements.upsert, rows)


@contextmanager
def _at_snapshot(url: str, target: str, snapshot: str) -> Iterator[Connection]:
    with connect(url, target) as connection, connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        connection.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)))
        yield connection
