"""Moves the truth of a service: from the monolith to the service's database, and back.

Both are one walk, in two directions; see `walk`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timezone
from typing import Any

from pgsplit.backup.dump import backup
from pgsplit.cutover import preflight as preflight
from pgsplit.cutover.cutover import AFTER_CHANGE_SECONDS, LOCK_SECONDS, Cutover, Moved, disarm
from pgsplit.cutover.preflight import PreflightReport
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import reverse
from pgsplit.replication.fence import Fence
from pgsplit.replication.session import Session, open_session
from pgsplit.replication.sync import apply_changes
from pgsplit.routing import env_file as env_file
from pgsplit.routing.announce import announce
from pgsplit.routing.env_file import Side
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.saga import require_finished

PREPARE_SECONDS = 5.0
FIRST_WRITE_SECONDS = 1.0

OPEN_SERVICE = """
    update split.service set switched_at = clock_timestamp(), first_write_at = null
    returning switched_at
"""
# From here on the tables follow the monolith again. They are compared whole once.
CLOSE_SERVICE = """
    update split.service set switched_at = null;
    update split.service_tables set is_stale = true where owned_rows <> 'false'
"""


def check(
    service: Service,
    operation: str,
    connections: Connections,
    ledger: Ledger,
    say: Callable[[str], None],
) -> PreflightReport:
    """Check whether a service could be switched or rolled back now, and change nothing.

    Args:
        service: a verified service, or for a rollback one that is switched.
        operation: `switch` or `rollback`.
        connections: where the servers are.
        ledger: the monolith's ledger.
        say: is told what is looked at.

    Returns:
        How long its ways take now.

    Raises:
        NotReady: it could not; all that is in the way in one message.
    """
    with open_session(service, connections) as session:
        look = preflight.for_switch if operation == "switch" else preflight.for_rollback
        found = look(session, ledger, say)
        found.require(session, f"a {operation}")
    return found


def move_reads(service: Service, connections: Connections, ledger: Ledger, place: Side) -> str:
    """Point only those who read at a service's database, or back at the monolith.

    Nothing else changes: the monolith stays the truth, and a follower keeps the tables current.

    Args:
        service: a verified service, or for the way back any that is not switched.
        connections: where the servers are.
        ledger: the monolith's ledger.
        place: where reads are to go.

    Returns:
        A warning, if the command that is to run after a change failed.

    Raises:
        NotReady: the service is not verified, or switched already, or was left on its way.
    """
    with open_session(service, connections) as session:
        require_finished(service, ledger)
        if place is Side.SERVICE or ledger.state(service).reached(State.SWITCHED):
            preflight.require_state(session, ledger, State.VERIFIED, "read from")
        with ledger.step(service, "point reads", at=place.value):
            env_file.route_to(service, connections, reads_at=place)
    return announce(service, connections, AFTER_CHANGE_SECONDS)


def switch(
    service: Service,
    connections: Connections,
    ledger: Ledger,
    max_pause: float,
    say: Callable[[str], None],
    *,
    with_backup: bool = True,
    wait_for_write: float = FIRST_WRITE_SECONDS,
) -> Moved:
    """Make a service's database the truth, without losing a write.

    Args:
        service: a verified service.
        connections: where the servers are.
        ledger: the monolith's ledger.
        max_pause: seconds that writers may be kept out; past that all is undone.
        say: is told each step.
        with_backup: dump the monolith first.
        wait_for_write: seconds to wait for the service's first write, which tells how long its
            writers really stood still. They are let in before.

    Returns:
        How long writers stood still, and what an operator should know.

    Raises:
        NotReady: it is not ready, somebody holds the tables, or the pause was over; all is as it
            was before.
        Unfinished: it is decided, but something failed after; `resume` brings it to its end.
    """
    with open_session(service, connections) as session:
        preflight.for_switch(session, ledger, say).require(session, "a switch")
        moved = Moved(service, "switch")
        if with_backup:
            say("backup")
            moved.backup = backup(connections.monolith, connections, ledger, service, "switch")
        cutover = _Switch(session, moved, max_pause, wait_for_write)
        cutover.saga().run(ledger, say, max_pause=max_pause)
        cutover.settle(ledger)
    return moved


def rollback(
    service: Service,
    connections: Connections,
    ledger: Ledger,
    max_pause: float,
    say: Callable[[str], None],
    *,
    with_backup: bool = True,
) -> Moved:
    """Make the monolith the truth again, with every write that the service has taken.

    Arguments, return and errors are those of `switch`; what the monolith can't hold is laid aside
    in the schema `audit` of the service's database, and said.
    """
    with open_session(service, connections) as session:
        preflight.for_rollback(session, ledger, say).require(session, "a rollback")
        moved = Moved(service, "rollback")
        if with_backup:
            say("backup")
            moved.backup = backup(service.database, connections, ledger, service, "rollback")
        cutover = _Rollback(session, moved, max_pause)
        cutover.saga().run(ledger, say, max_pause=max_pause)
        cutover.settle(ledger)
    return moved


def resume(
    service: Service,
    operation: str,
    connections: Connections,
    ledger: Ledger,
    say: Callable[[str], None],
) -> Moved:
    """Bring a switch or a rollback that was cut short to its end, or undo it.

    Args:
        service: whose operation it was.
        operation: `switch` or `rollback`.
        connections: where the servers are.
        ledger: the monolith's ledger.
        say: is told each step.

    Returns:
        What it came to: done if it had been decided, undone if not; `warnings` say which.
    """
    with open_session(service, connections) as session:
        moved = Moved(service, operation)
        cutover = (_Switch if operation == "switch" else _Rollback)(session, moved, max_pause=5.0)
        whole = cutover.saga()
        if whole.is_committed():
            cutover.saga(from_commit=True).run(ledger, say, resumes=True)
            cutover.settle(ledger)
            moved.warnings.append(f"The {operation} had been decided, and is at its end now.")
        else:
            whole.undo(ledger, say)
            moved.warnings.append(f"The {operation} had not been decided, and is undone.")
    return moved


class _Switch(Cutover):
    """From the monolith to the service."""

    operation = "switch"
    enters = State.SWITCHED
    place = Side.SERVICE

    def __init__(
        self,
        session: Session,
        moved: Moved,
        max_pause: float,
        wait_for_write: float = FIRST_WRITE_SECONDS,
    ) -> None:
        super().__init__(session, moved, max_pause)
        self.wait_for_write = wait_for_write
        self.leads_to = f"database {session.service.database}"

    @property
    def old(self) -> Fence:
        return self.monolith_fence

    @property
    def new(self) -> Fence:
        return self.service_fence

    def prepare(self) -> None:
        self.old.prepare()
        self.new.prepare("monolith", closed=True)  # as it is: nobody writes there yet
        with self.session.database.transaction():
            self.session.database.execute(
                "select split.prepare_switch(%s)", (self.session.service.login,)
            )
            self.new.lock(PREPARE_SECONDS)
            self.new.arm()
        reverse.prepare(self.session.reverse, self.session.connections)

    def unprepare(self) -> None:
        self.session.reverse.remove()

    def catch_up(self) -> dict[str, Any]:
        return preflight.catch_up(self.session)

    def drain(self) -> dict[str, Any]:
        arrived_after = self.arrive(self.session.forward)
        done = apply_changes(self.session.database)
        self.remaining()
        return {"arrived": round(arrived_after, 4), "rows": done.rows, "synced": done.seconds}

    def commit(self) -> None:
        if self.old.is_closed_for_good():
            return
        with self.in_nobodys_way(), self.session.monolith.transaction():
            if not self.old.commit(min(LOCK_SECONDS, self.remaining())):
                raise self.too_long()
            reverse.carry_no_more(
                self.session.monolith,
                self.session.forward.name,
                self.session.service.mirror,
                list(self.owned),
            )

    def open(self) -> dict[str, Any] | None:
        if self.new.is_open():
            return None
        database = self.session.database
        with database.transaction():
            database.execute("lock table split.turn in exclusive mode")
            reverse.carry(
                database, self.session.reverse.name, self.session.service.mirror, self.owned
            )
            self.new.open()
            row = database.execute(OPEN_SERVICE).fetchone()
        assert row is not None
        self.moved.opened_at = row[0]
        return {"opened_at": row[0].isoformat()}

    def finish(self) -> dict[str, Any]:
        disarm(self.new)
        database, begun = self.session.database, time.monotonic()
        while True:
            apply_changes(database)
            row = database.execute("select first_write_at from split.service").fetchone()
            self.moved.first_write_at = row[0] if row else None
            if self.moved.first_write_at or time.monotonic() - begun >= self.wait_for_write:
                break
            time.sleep(0.02)
        self.session.reverse.arrive()
        return {"first_write_at": str(self.moved.first_write_at or "none yet")}


class _Rollback(Cutover):
    """From the service to the monolith."""

    operation = "rollback"
    returns_to = State.VERIFIED
    place = Side.MONOLITH
    leads_to = "monolith"

    def __init__(self, session: Session, moved: Moved, max_pause: float) -> None:
        super().__init__(session, moved, max_pause)
        self.turn, self.is_switched = ExitStack(), True

    @property
    def old(self) -> Fence:
        return self.service_fence

    @property
    def new(self) -> Fence:
        return self.monolith_fence

    def prepare(self) -> None:
        self.session.reverse.require_unbroken()

    def unprepare(self) -> None:
        """Nothing was made."""

    def catch_up(self) -> dict[str, Any]:
        done = apply_changes(self.session.database)
        self.session.reverse.arrive()
        return {"rows": done.rows}

    def drain(self) -> dict[str, Any]:
        done = apply_changes(self.session.database)
        arrived_after = self.arrive(self.session.reverse)
        return {"arrived": round(arrived_after, 4), "rows": done.rows, "synced": done.seconds}

    def commit(self) -> None:
        if self.old.is_closed_for_good():
            return
        database = self.session.database
        with self.in_nobodys_way(), database.transaction():
            database.execute("lock table split.turn in exclusive mode")
            if not self.old.commit(min(LOCK_SECONDS, self.remaining())):
                raise self.too_long()
            reverse.carry_no_more(
                database, self.session.reverse.name, self.session.service.mirror, list(self.owned)
            )

    def open(self) -> dict[str, Any] | None:
        self._take_turn()
        if self.new.is_open():
            return None
        monolith = self.session.monolith
        with monolith.transaction():
            reverse.carry(
                monolith, self.session.forward.name, self.session.service.mirror, self.owned
            )
            self.new.open()
            opened_at = self.new.clock()
        self.moved.opened_at = opened_at
        return {"opened_at": opened_at.isoformat()}

    def finish(self) -> dict[str, Any]:
        self._let_follow()
        disarm(self.new)
        self.session.reverse.remove()
        broken = reverse.broken_keys(self.session.monolith, self.session.service)
        self.moved.warnings += [
            f"{rows:,} row(s) of {table} break its foreign key {key}, which replication does not"
            f" ask. To find them: runner.py parity {self.session.service.role}"
            for table, key, rows in broken
        ]
        return {"kept": dict(self.moved.kept), "broken_keys": broken}

    def _take_turn(self) -> None:
        """See the mirror, until the turn is over, as it is before anybody writes the monolith."""
        database = self.session.database
        with ExitStack() as turn:
            turn.enter_context(database.transaction())
            database.execute("set transaction isolation level repeatable read")
            database.execute("lock table split.turn in exclusive mode")
            row = database.execute("select switched_at is not null from split.service").fetchone()
            self.is_switched = row == (True,)
            self.turn = turn.pop_all()

    def _let_follow(self) -> None:
        """Lay aside what the monolith can't hold; only then do the tables follow it again."""
        database, label = self.session.database, f"{datetime.now(timezone.utc):%Y%m%d_%H%M%S}"
        with self.turn:
            if self.is_switched:
                for table, kept_in, rows in database.execute(
                    "select * from split.keep_unlike(%s)", (label,)
                ).fetchall():
                    self.moved.kept[table] = (f"audit.{kept_in}", rows)
                database.execute(CLOSE_SERVICE)
        apply_changes(database)
