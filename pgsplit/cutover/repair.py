"""The repair re-creates a switched service's broken streams, and writes only rows that differ.

A stream that has lost its slot has a gap that nothing can fill. So it gets a new slot; in the very
state from which that slot goes on, every row is compared and what differs is written. Before the
switch there is a simpler way: `land --recopy`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from psycopg import errors, sql

from pgsplit.base.errors import NotReady, SplitError
from pgsplit.cutover.complete import Complete, has_ended_reverse
from pgsplit.cutover.locks import patiently
from pgsplit.cutover.operation import Operation
from pgsplit.cutover.preflight import PreflightReport
from pgsplit.cutover.remember import record_switch, return_to_monolith
from pgsplit.postgres.connect import connect, describe
from pgsplit.postgres.row_diff import differing_keys
from pgsplit.postgres.row_hashes import RowSource, Shape
from pgsplit.project import drift
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import continuity, reach, triggers
from pgsplit.replication.forgotten import (
    COMPLETIONS,
    Forgotten,
    forgotten,
    require_remembered,
    switched_at,
)
from pgsplit.replication.reverse import stop
from pgsplit.replication.session import Session, open_session
from pgsplit.replication.shared import (
    SharedStream,
    completed_owners,
    needs_monolith,
    owners,
    require_owners_remembered,
    shared,
)
from pgsplit.replication.slot import Connection, exported_snapshot
from pgsplit.replication.stream import BaseStream
from pgsplit.replication.subscription import drop_tables
from pgsplit.replication.sync import apply_changes
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.saga import Kind, require_finished, unfinished_repairs

if TYPE_CHECKING:
    from typing import LiteralString

BATCH = 1_000
# From here the next sync compares all rows, even if this runner is killed.
STALE = """
    update split.service_tables set is_stale = true;
    update split.mirror_tables set is_stale = true
    where exists (select from split.service where switched_at is not null)
"""
QUARANTINE = """
    select kept_in, rows from split.quarantine(
        %(table)s, %(query)s, 'Rows as they were before a repair replaced them.', null, %(ids)s
    )
"""


@dataclass(frozen=True)
class Repaired:
    """A stream that was re-created, and the rows that were written for it, by table.

    Without a stream, rows of the service's own tables and of its mirror. `kept` counts by table of
    the schema audit what was copied there before it was replaced. `returned` if the monolith is
    the source of truth again, since the service's database had forgotten the switch; `completed` if
    one side had forgotten that the service is completed.
    """

    stream: str
    rows: dict[str, int]
    kept: dict[str, int] = field(default_factory=dict)
    returned: bool = False
    completed: bool = False
    warning: str = ""


@dataclass(frozen=True)
class _Needed:
    """A stream that a service needs, between two databases.

    Its subscription remembers the tables `known`; those among them that it replicates now are
    `replicated`.
    """

    stream: BaseStream
    source: str
    target: str
    known: Mapping[str, tuple[str, ...]]
    replicated: Mapping[str, tuple[str, ...]]

    def is_broken(self) -> bool:
        """Tell whether it has lost a part, or may have left something out."""
        try:
            continuity.require_unbroken([self.stream])
        except SplitError:
            return True
        return False


class Repair(Operation[list[Repaired]]):
    """The repair of a switched or completed service; each stream is recorded by itself.

    Nothing has to be undone: a stream whose repair was interrupted is still broken, and the next
    repair re-creates it.
    """

    title = "a repair"

    def __init__(
        self,
        service: Service,
        connections: Connections,
        ledger: Ledger,
        say: Callable[[str], None],
        *,
        full: bool,
    ) -> None:
        super().__init__(service, connections, ledger, say, [])
        self.full = full

    def preflight(self) -> PreflightReport:
        """Check that the service is switched; before that, its mirror can be copied again."""
        service, ledger = self.service, self.ledger
        allowed = [Kind.SWITCH, Kind.ROLLBACK]
        if not has_ended_reverse(service, ledger):
            allowed.append(Kind.COMPLETE)  # its resume may need the streams that are repaired
        require_finished(service, ledger, but=allowed)
        if ledger.state(service).reached(State.LANDED):
            with open_session(service, self.connections) as session:
                what = self._forgotten(session)
                if what is Forgotten.SWITCH_BY_MONOLITH or what in COMPLETIONS:
                    return PreflightReport()
                if what is Forgotten.SWITCH_AND_COMPLETION_BY_SERVICE:
                    require_remembered(service, session.monolith, session.database)
                require_owners_remembered(session.monolith, service, self.connections)
                if ledger.state(service) is State.SWITCHED:
                    drift.check_written(
                        session.monolith, session.database, service, service.owned_tables
                    )
        if not ledger.state(service).reached(State.SWITCHED):
            raise NotReady(
                f"{service.database} is {ledger.state(service).value}: the monolith is its source"
                " of truth, and can be copied again.",
                where=describe(self.connections.urls[service.database]),
                hint=f"runner.py land {service.role} --recopy, then runner.py build {service.role}",
            )
        return PreflightReport()

    def execute(self) -> None:
        """Re-create what is broken; the ledger has an entry for each stream."""
        with open_session(self.service, self.connections) as session:
            # A stream that an interrupted repair has left looks whole, but may lack rows.
            left = unfinished_repairs(session.monolith, self.service)
            what = self._forgotten(session)
            if what is Forgotten.SWITCH_BY_SERVICE:
                warning = return_to_monolith(session, self.ledger)
                self.result.append(Repaired("", {}, returned=True, warning=warning))
                return
            if what is Forgotten.SWITCH_BY_MONOLITH:
                record_switch(session, self.ledger)
            if what is Forgotten.ROLLBACK_BY_MONOLITH and switched_at(session.database):
                with self.ledger.step(self.service, "repair", follows=True):
                    stop(session.reverse)  # what the rollback had still to do here
            if what in COMPLETIONS:
                again = Complete(session, self.ledger, self.say).complete_again()
                warning = "\n".join(again.warnings)
                self.result.append(Repaired("", {}, completed=True, warning=warning))
            for needed in self._needed(session):
                name = needed.stream.name
                self.say(name)
                if self.full or name in left or needed.is_broken():
                    reach.require_reachable(needed.stream, self.connections)
                    with self.ledger.step(self.service, "repair", way=name) as step:
                        rows, kept = _recreate(needed, self.connections)
                        step.detail.update(rows=rows, kept=kept)
                    self.result.append(Repaired(name, rows, kept))
            self._sync(session)

    def _forgotten(self, session: Session) -> Forgotten | None:
        ends = session.monolith, session.database
        found = forgotten(self.service, *ends, amid=True)
        # An interrupted rollback lets the service forget its switch; `resume` goes on with that.
        is_ours = found is Forgotten.SWITCH_BY_MONOLITH
        return found if is_ours else forgotten(self.service, *ends)

    def _sync(self, session: Session) -> None:
        """Compare the service's tables with its mirror, in both directions, and write what differs.

        A stream only brings both ends together; what captures changes may have missed some.
        """
        is_switched = self.ledger.state(self.service) is State.SWITCHED
        apply_changes(session.database)  # what was captured says nothing about what is broken
        session.database.execute(STALE)
        done = apply_changes(session.database)
        counted = {table: done.upserted[table] + done.deleted[table] for table in done.upserted}
        if rows := {table: count for table, count in counted.items() if count}:
            with self.ledger.step(self.service, "repair", tables=list(rows)) as step:
                step.detail.update(rows=rows, kept=done.quarantined)
            self.result.append(Repaired("", rows, dict(done.quarantined)))
        if is_switched:
            session.reverse.arrive()

    def _needed(self, session: Session) -> Iterator[_Needed]:
        """Give all streams that the service needs in its state."""
        service, stands = self.service, self.ledger.state(self.service)
        project = service.project
        retired = {one.database for one in completed_owners(session.monolith, service)}
        owned = service.owned_tables
        if needs_monolith(session.monolith, service):
            mirrored = {
                name: columns
                for name, columns in service.landed_tables.items()
                if project.tables[name].owner not in retired
                and not (stands is State.COMPLETED and name in owned)
            }
            followed = {n: c for n, c in mirrored.items() if n not in owned}
            yield _Needed(session.forward, project.name, service.database, mirrored, followed)
        if stands is State.SWITCHED:
            yield _Needed(session.reverse, service.database, project.name, owned, owned)
        for owner in owners(service):
            if owner.database in retired:
                with session.connections.connect(owner.database) as there:
                    stream = SharedStream(service, session.monolith, session.database, owner, there)
                    tables = shared(owner, service)
                    yield _Needed(stream, owner.database, service.database, tables, tables)


def repair(
    service: Service,
    connections: Connections,
    ledger: Ledger,
    say: Callable[[str], None],
    *,
    full: bool = False,
) -> list[Repaired]:
    """Re-create every broken stream of a switched service; leave the others alone.

    Idempotent: a stream whose repair was interrupted is still broken, and the next one re-creates
    it. A rollback that a broken stream has interrupted can be resumed after it; a completion goes
    on by itself.

    Args:
        service: a switched or completed service.
        connections: where the servers are.
        ledger: the monolith's ledger.
        say: called with what is being checked.
        full: also re-create healthy streams, such as when their target was written by hand.

    Returns:
        What was re-created; nothing, if nothing is broken.

    Raises:
        NotReady: the service is not switched, or a completion was interrupted.
    """
    return Repair(service, connections, ledger, say, full=full).run()


def _recreate(needed: _Needed, connections: Connections) -> tuple[dict[str, int], dict[str, int]]:
    stream, service = needed.stream, needed.stream.service
    written = {f"{service.mirror}.{name}": columns for name, columns in needed.replicated.items()}
    triggers.require_none(stream.target, written)
    patiently(stream.remove, stream.source, stream.target, hint=f"runner.py repair {service.role}")
    stream.create(needed.known, connections)
    idle = [name for name in needed.known if name not in needed.replicated]
    drop_tables(stream.source, stream.name, stream.service.mirror, idle)
    with exported_snapshot(connections, stream.name, needed.source) as snapshot:
        rows, kept = dict[str, int](), dict[str, int]()
        for table, columns in needed.replicated.items():
            rows[table] = _apply_differences(needed, table, columns, snapshot, connections, kept)
    if needed.target != connections.monolith:
        # What was written here without replication was not captured.
        stream.target.execute("update split.service_tables set is_stale = true")
    stream.enable()
    stream.arrive()
    continuity.look(stream)
    return rows, kept


def _apply_differences(
    needed: _Needed,
    table: str,
    columns: tuple[str, ...],
    snapshot: str,
    connections: Connections,
    kept: dict[str, int],
) -> int:
    """Make a target's table equal to its source's at a snapshot; count the rows that differed.

    What the target has is quarantined first, in its own database: the source may have lost it.
    """
    names, throttle = connections.naming, connections.throttle
    urls, place = connections.urls, connections.place
    there = partial(_at_snapshot, urls[needed.source], needed.source, snapshot, **names)
    here = partial(connect, urls[needed.target], needed.target, **names)
    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    query = sql.SQL("select {} from {}").format(
        listed, sql.Identifier(needed.stream.service.mirror, table)
    )
    sides = (
        RowSource(there, throttle.paced(place(needed.source), query)),
        RowSource(here, throttle.paced(place(needed.target), query)),
    )
    differing = list(differing_keys(*sides, Shape("id", "text", columns)))
    statements = _statements(needed.stream.service, table, columns)
    with there() as source, here() as target:
        # As replication writes: no foreign key is checked, and no trigger of applications fires.
        with suppress(errors.InsufficientPrivilege):
            target.execute("set session_replication_role = replica")
        target.execute("set split.is_syncing = on")
        try:
            found = _write(source, target, differing, statements, makes_way=False)
        except errors.UniqueViolation:
            found = _write(source, target, differing, statements, makes_way=True)
    if found:
        kept[f"{needed.target}.audit.{found[0]}"] = found[1]
    return len(differing)


@dataclass(frozen=True)
class _Statements:
    table: str
    of_target: sql.Composed
    read: sql.Composed
    delete: sql.Composed
    make_way: sql.Composed | None
    upsert: sql.Composed
    id_at: int

    def quarantine(self, ids: list[str]) -> dict[str, object]:
        """Give the parameters of `QUARANTINE` for rows that are about to be replaced."""
        return {"table": self.table, "query": self.of_target.as_string(), "ids": ids}


def _statements(service: Service, table: str, columns: tuple[str, ...]) -> _Statements:
    relation, expected = sql.Identifier(service.mirror, table), service.project.tables[table]

    def each(template: LiteralString, names: Sequence[str]) -> sql.Composed:
        return sql.SQL(", ").join(
            sql.SQL(template).format(sql.Identifier(name), kind=sql.SQL(expected.columns[name]))
            for name in names
        )

    unique = [name for name in columns if name in expected.unique]
    return _Statements(
        table,
        sql.SQL("select * from {} where id = any($1)").format(relation),
        sql.SQL("select {} from {} where id = any(%s)").format(each("{}::text", columns), relation),
        sql.SQL("delete from {} where id = any(%s) and id <> all(%s)").format(relation),
        sql.SQL("update {} set {} where id = any(%s)").format(
            relation, each("{} = 'repaired ' || id", unique)
        )
        if unique
        else None,
        # An update, never a delete and an insert: others may refer to the row.
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
) -> tuple[str, int] | None:
    """Write the rows that differ; atomic. Give the table that keeps what was there, and its rows.

    If rows have swapped unique values, or one has a value that another gave up, all of them have to
    make way first.
    """
    batches = [differing[first : first + BATCH] for first in range(0, len(differing), BATCH)]
    with target.transaction(), target.cursor() as cursor:
        kept = cursor.execute(QUARANTINE, statements.quarantine(differing)).fetchone()
        if makes_way and statements.make_way:
            for batch in batches:
                cursor.execute(statements.make_way, (batch,))
        for batch in batches:
            rows = source.execute(statements.read, (batch,)).fetchall()
            cursor.execute(statements.delete, (batch, [row[statements.id_at] for row in rows]))
            cursor.executemany(statements.upsert, rows)
    return kept if kept and kept[0] else None


@contextmanager
def _at_snapshot(url: str, target: str, snapshot: str, **parameters: str) -> Iterator[Connection]:
    with connect(url, target, **parameters) as connection, connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        connection.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)))
        yield connection
