"""The completion ends a switched service's reverse replication; there is no rollback after it.

Once it has changed a stream it can only go forward, and each step is idempotent: an interrupted
completion is resumed by doing these steps again. It drops no row, neither of the service nor of the
monolith.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from pgsplit.backup.dump import Backup, backup
from pgsplit.cutover import consumers, lean, preflight, readers
from pgsplit.cutover.locks import SYNC_LOCK_SECONDS, change_definitions, patiently
from pgsplit.cutover.operation import SagaOperation
from pgsplit.cutover.preflight import PreflightReport
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import forgotten, shared
from pgsplit.replication.forgotten import require_remembered
from pgsplit.replication.session import Session, open_session
from pgsplit.replication.slot import Connection
from pgsplit.replication.sync import apply_changes
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.saga import Kind, Saga, Step, require_finished

# Foreign keys between a retired table and one that stays: nobody maintains them any more.
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
    """The result of a completion: tables retired, foreign keys dropped, consumers re-parented.

    `emptied` has the bytes that tables of its mirror gave back, and `kept` says which stay as they
    are. `is_undone` says that a resumed one had changed nothing yet, and `is_again` that the
    service was completed before.
    """

    service: Service
    retired: list[str] = field(default_factory=list)
    detached: list[str] = field(default_factory=list)
    handed_over: list[str] = field(default_factory=list)
    emptied: dict[str, int] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    backup: Backup | None = None
    warnings: list[str] = field(default_factory=list)
    is_undone: bool = False
    is_again: bool = False


class Complete(SagaOperation[Completed]):
    """The completion of a switched service."""

    kind = Kind.COMPLETE
    title = "completion"

    def __init__(
        self,
        session: Session,
        ledger: Ledger,
        say: Callable[[str], None],
        *,
        with_backup: bool = False,
    ) -> None:
        service = session.service
        super().__init__(service, session.connections, ledger, say, Completed(service))
        self.session, self.with_backup = session, with_backup
        self.owned = list(service.owned_tables)

    def preflight(self) -> PreflightReport:
        """Check that nothing that the service has written is missing in the monolith."""
        found = preflight.for_completion(
            self.session, self.ledger, self.say, with_backup=self.with_backup
        )
        consumers.check(self.session, self.ledger, found)
        if not found.problems:
            self.say("who reads")
            self.result.warnings += readers.still_reading(
                self.session.monolith, self.service.mirror, self.owned
            )
        return found

    def intent(self) -> dict[str, Any]:
        """Name the tables that it retires."""
        return {"tables": self.owned}

    def plan(self) -> Completed:
        """Give what it would retire, detach and re-parent."""
        self.result.retired = self.owned
        self.result.detached = [definition for definition, _ in self._keys(self.owned)]
        self.result.handed_over = [one.database for one in shared.consumers(self.service)]
        return self.result

    def recorded_in(self) -> Sequence[str]:
        """Name the databases in which this project's own tables have to stay writable."""
        return self.connections.control, self.service.database

    def waiters(self) -> Sequence[Connection]:
        """Name the connections whose waiting for locks is explained."""
        return self.session.monolith, self.session.database

    def steps(self, *, from_commit: bool = False) -> Saga:
        """Give the steps: all, or those from the point of no return on, each idempotent.

        From the first stream that is changed on, it can only go forward.
        """
        until_commit = [Step("dump", self.dump), Step("settle", self.settle)]
        after = [
            Step("hand over", self.reparent),
            Step("end way back", self.end_reverse),
            Step("retire", self.retire),
            Step("loosen", self.loosen, enters=State.COMPLETED),
            Step("end links", self.end_streams),
            Step("empty mirror", self.empty_mirror, needed=False),
        ]
        return Saga(
            self.service,
            self.kind,
            after if from_commit else until_commit + after,
            lambda: self.ledger.was_begun(self.service, self.kind.entry("hand over")),
            around=self.watches.explained,
        )

    def resume(self) -> Completed:
        """Finish it if its point of no return was passed; else there is nothing to undo."""
        with self.prepared():
            whole = self.steps()
            if whole.is_committed():
                rest = self.steps(from_commit=True)
                self.result.warnings += rest.run(self.ledger, self.say, **self.intent())
            else:
                whole.undo(self.ledger, self.say)
                self.result.is_undone = True
        return self.result

    def complete_again(self) -> Completed:
        """Complete a service whose completion one side has forgotten; `resume` goes on with it."""
        with self.prepared():
            rest = self.steps(from_commit=True)
            self.result.warnings += rest.run(self.ledger, self.say, **self.intent())
        return self.result

    def dump(self) -> Mapping[str, Any]:
        """Dump the monolith's tables before they are retired."""
        if self.with_backup:
            tables = [(self.service.mirror, name) for name in self.owned]
            self.result.backup = backup(
                self.connections.monolith,
                self.connections,
                self.ledger,
                self.service,
                self.kind.value,
                tables=tables,
            )
        return {"path": str(self.result.backup.path) if self.result.backup else None}

    def reparent(self) -> Mapping[str, Any]:
        """Let consumers get what they share from the service; idempotent."""
        if self._is_known():
            consumers.unpublish(self.session)  # they do already
            return {"consumers": []}
        for database in consumers.reparent(self.session):
            self.result.handed_over.append(database)
        return {"consumers": self.result.handed_over}

    def settle(self) -> None:
        """Let the rest arrive in the monolith, as long as nothing has been changed."""
        apply_changes(self.session.database, SYNC_LOCK_SECONDS)
        self.session.reverse.arrive()

    def end_reverse(self) -> None:
        """Remove the reverse stream; idempotent."""
        patiently(self.session.reverse.remove, self.session.monolith, self.session.database)

    def retire(self) -> Mapping[str, Any]:
        """Move the monolith's tables to another schema; atomic and idempotent.

        The fence goes, and the foreign keys that bind other tables.
        """
        self.result.retired = self.owned
        row = self.session.monolith.execute(
            "select coalesce(array_agg(name), '{}') from unnest(%s::text[]) as name"
            " where to_regclass(format('%%I.%%I', %s::text, name)) is not null",
            (self.owned, self.service.mirror),
        ).fetchone()
        tables: list[str] = row[0] if row else []
        if tables:
            self.result.detached = change_definitions(
                self.session.monolith, tables, lambda: self._move(tables)
            )
        return {"retired": self.result.retired, "detached": self.result.detached}

    def loosen(self) -> Mapping[str, Any]:
        """Drop the checks that kept the service's rows within what the monolith can hold.

        From here on the tables are the service's team's, and only what others share is captured.
        """
        database = self.session.database
        statements = [row[0] for row in database.execute(CHECKS, (self.service.database,))]

        def drop() -> None:
            for statement in statements:
                database.execute(statement)
            database.execute(
                "update split.service set completed_at = clock_timestamp()"
                " where completed_at is null"
            )
            database.execute("select split.keep_only_shared()")

        change_definitions(database, self.session.service_fence.tables, drop)
        return {"dropped": statements}

    def end_streams(self) -> Mapping[str, Any]:
        """Remove the streams from the monolith that nothing arrives by any more; idempotent."""
        self.result.warnings += consumers.end_streams(self.session, self.ledger)
        return {"warnings": self.result.warnings}

    def empty_mirror(self) -> Mapping[str, Any]:
        """Give back the disk of what the mirror holds for nobody; idempotent."""
        self.result.emptied, self.result.kept = lean.empty(self.session)
        return {"emptied": self.result.emptied, "kept": self.result.kept}

    def run_again(self, *, is_dry: bool = False) -> Completed:
        """Give back what could not be given back when the service was completed."""
        require_finished(self.service, self.ledger)
        require_remembered(self.service, self.session.monolith, self.session.database)
        self.result.is_again, found = True, lean.spare(self.session.database)
        if is_dry:
            self.result.emptied = {one.table: one.bytes for one in found if not one.needed_by}
            self.result.kept = [str(one) for one in found if one.needed_by]
        elif found:
            names = [one.table for one in found]
            with self.ledger.step(self.service, "empty mirror", tables=names) as step:
                step.detail.update(self.empty_mirror())
        return self.result

    def _is_known(self) -> bool:
        """Tell whether either side knows that the service is completed already."""
        known = forgotten.knows_completion(self.session.database)
        return bool(known) or self.ledger.state(self.service) is State.COMPLETED

    def _move(self, tables: list[str]) -> list[str]:
        """Do what `retire` says, in the caller's transaction; give the keys that were dropped."""
        monolith, retired = self.session.monolith, self.service.project.retired_schema
        monolith.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(retired)))
        self.session.monolith_fence.remove()
        keys = self._keys(tables)
        for _, statement in keys:
            monolith.execute(statement)
        for name in tables:
            monolith.execute(
                sql.SQL("alter table {} set schema {}").format(
                    sql.Identifier(self.service.mirror, name), sql.Identifier(retired)
                )
            )
        return [definition for definition, _ in keys]

    def _keys(self, tables: list[str]) -> list[tuple[str, str]]:
        """Find the foreign keys between these tables and others: definition, and what drops it."""
        qualified = [f"{self.service.mirror}.{name}" for name in tables]
        return self.session.monolith.execute(FOREIGN_KEYS, {"retired": qualified}).fetchall()


def has_ended_reverse(service: Service, ledger: Ledger) -> bool:
    """Tell whether a completion has begun to remove a service's reverse stream."""
    return ledger.was_begun(service, Kind.COMPLETE.entry("end way back"))


def check(
    service: Service,
    connections: Connections,
    ledger: Ledger,
    say: Callable[[str], None],
    *,
    with_backup: bool = True,
) -> Completed:
    """Check whether a service could be completed now, and change nothing.

    Args:
        service: a switched service.
        connections: where the servers are.
        ledger: the monolith's ledger.
        say: called with what is being checked.
        with_backup: whether the tables would be dumped.

    Returns:
        What would be retired, detached and re-parented.

    Raises:
        NotReady: it could not; one message has all problems.
    """
    with open_session(service, connections) as session:
        operation = Complete(session, ledger, say, with_backup=with_backup)
        if ledger.state(service) is State.COMPLETED:
            return operation.run_again(is_dry=True)
        operation.check()
        return operation.plan()


def complete(
    service: Service,
    connections: Connections,
    ledger: Ledger,
    say: Callable[[str], None],
    *,
    with_backup: bool = True,
    resumes: bool = False,
) -> Completed:
    """End a switched service's reverse replication, and retire its tables in the monolith.

    Args:
        service: a switched service; of a completed one, only the mirror is emptied further.
        connections: where the servers are.
        ledger: the monolith's ledger.
        say: called with each step's name.
        with_backup: dump the tables before they are retired.
        resumes: go on with one that was interrupted.

    Returns:
        What was retired, detached, re-parented and emptied.

    Raises:
        NotReady: it is not switched, the monolith is behind, or a service that shares columns of
            its tables has not been built; nothing was changed.
        Unfinished: a step failed; `resume` goes on.
    """
    with open_session(service, connections) as session:
        operation = Complete(session, ledger, say, with_backup=with_backup)
        if resumes:
            return operation.resume()
        if ledger.state(service) is State.COMPLETED:
            return operation.run_again()
        return operation.run()
