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
from pgsplit.cutover import preflight as readiness
from pgsplit.cutover.cutover import AFTER_CHANGE_SECONDS, LOCK_SECONDS, Moved, Walk, disarm
from pgsplit.cutover.preflight import Readiness
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import reverse as way_back
from pgsplit.replication.fence import Gate
from pgsplit.replication.session import Ends, opened
from pgsplit.replication.sync import carry_over
from pgsplit.routing import env_file as targets
from pgsplit.routing.env_file import Place
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
) -> Readiness:
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
    with opened(service, connections) as ends:
        look = readiness.for_switch if operation == "switch" else readiness.for_rollback
        found = look(ends, ledger, say)
        found.require(ends, f"a {operation}")
    return found


def move_reads(service: Service, connections: Connections, ledger: Ledger, place: Place) -> str:
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
    with opened(service, connections) as ends:
        require_finished(service, ledger)
        if place is Place.SERVICE or ledger.state(service).reached(State.SWITCHED):
            readiness.require_state(ends, ledger, State.VERIFIED, "read from")
        with ledger.step(service, "point reads", at=place.value):
            targets.point(service, connections, reads_at=place)
    return targets.announce(service, connections, AFTER_CHANGE_SECONDS)


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
    with opened(service, connections) as ends:
        readiness.for_switch(ends, ledger, say).require(ends, "a switch")
        moved = Moved(service, "switch")
        if with_backup:
            say("backup")
            moved.backup = backup(connections.monolith, connections, ledger, service, "switch")
        walk = _Switch(ends, moved, max_pause, wait_for_write)
        walk.saga().run(ledger, say, max_pause=max_pause)
        walk.settle(ledger)
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
    with opened(service, connections) as ends:
        readiness.for_rollback(ends, ledger, say).require(ends, "a rollback")
        moved = Moved(service, "rollback")
        if with_backup:
            say("backup")
            moved.backup = backup(service.database, connections, ledger, service, "rollback")
        walk = _Rollback(ends, moved, max_pause)
        walk.saga().run(ledger, say, max_pause=max_pause)
        walk.settle(ledger)
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
    with opened(service, connections) as ends:
        moved = Moved(service, operation)
        walk = (_Switch if operation == "switch" else _Rollback)(ends, moved, max_pause=5.0)
        whole = walk.saga()
        if whole.is_decided():
            walk.saga(from_decision=True).run(ledger, say, resumes=True)
            walk.settle(ledger)
            moved.warnings.append(f"The {operation} had been decided, and is at its end now.")
        else:
            whole.undo(ledger, say)
            moved.warnings.append(f"The {operation} had not been decided, and is undone.")
    return moved


class _Switch(Walk):
    """From the monolith to the service."""

    operation = "switch"
    enters = State.SWITCHED
    place = Place.SERVICE

    def __init__(
        self,
        ends: Ends,
        moved: Moved,
        max_pause: float,
        wait_for_write: float = FIRST_WRITE_SECONDS,
    ) -> None:
        super().__init__(ends, moved, max_pause)
        self.wait_for_write = wait_for_write
        self.leads_to = f"database {ends.service.database}"

    @property
    def old(self) -> Gate:
        return self.monolith_gate

    @property
    def new(self) -> Gate:
        return self.service_gate

    def prepare(self) -> None:
        self.old.prepare()
        self.new.prepare("monolith", closed=True)  # as it is: nobody writes there yet
        with self.ends.database.transaction():
            self.ends.database.execute(
                "select split.prepare_switch(%s)", (self.ends.service.login,)
            )
            self.new.lock(PREPARE_SECONDS)
            self.new.arm()
        way_back.prepare(self.ends.way, self.ends.connections)

    def unprepare(self) -> None:
        self.ends.way.remove()

    def catch_up(self) -> dict[str, Any]:
        return readiness.catch_up(self.ends)

    def drain(self) -> dict[str, Any]:
        arrived_after = self.arrive(self.ends.link)
        done = carry_over(self.ends.database)
        self.remaining()
        return {"arrived": round(arrived_after, 4), "rows": done.rows, "synced": done.seconds}

    def decide(self) -> None:
        if self.old.is_closed_for_good():
            return
        with self.in_nobodys_way(), self.ends.monolith.transaction():
            if not self.old.decide(min(LOCK_SECONDS, self.remaining())):
                raise self.too_long()
            way_back.carry_no_more(
                self.ends.monolith, self.ends.link.name, self.ends.service.mirror, list(self.owned)
            )

    def open(self) -> dict[str, Any] | None:
        if self.new.is_open():
            return None
        database = self.ends.database
        with database.transaction():
            database.execute("lock table split.turn in exclusive mode")
            way_back.carry(database, self.ends.way.name, self.ends.service.mirror, self.owned)
            self.new.open()
            row = database.execute(OPEN_SERVICE).fetchone()
        assert row is not None
        self.moved.opened_at = row[0]
        return {"opened_at": row[0].isoformat()}

    def finish(self) -> dict[str, Any]:
        disarm(self.new)
        database, begun = self.ends.database, time.monotonic()
        while True:
            carry_over(database)
            row = database.execute("select first_write_at from split.service").fetchone()
            self.moved.first_write_at = row[0] if row else None
            if self.moved.first_write_at or time.monotonic() - begun >= self.wait_for_write:
                break
            time.sleep(0.02)
        self.ends.way.arrive()
        return {"first_write_at": str(self.moved.first_write_at or "none yet")}


class _Rollback(Walk):
    """From the service to the monolith."""

    operation = "rollback"
    returns_to = State.VERIFIED
    place = Place.MONOLITH
    leads_to = "monolith"

    def __init__(self, ends: Ends, moved: Moved, max_pause: float) -> None:
        super().__init__(ends, moved, max_pause)
        self.turn, self.is_switched = ExitStack(), True

    @property
    def old(self) -> Gate:
        return self.service_gate

    @property
    def new(self) -> Gate:
        return self.monolith_gate

    def prepare(self) -> None:
        self.ends.way.require_unbroken()

    def unprepare(self) -> None:
        """Nothing was made."""

    def catch_up(self) -> dict[str, Any]:
        done = carry_over(self.ends.database)
        self.ends.way.arrive()
        return {"rows": done.rows}

    def drain(self) -> dict[str, Any]:
        done = carry_over(self.ends.database)
        arrived_after = self.arrive(self.ends.way)
        return {"arrived": round(arrived_after, 4), "rows": done.rows, "synced": done.seconds}

    def decide(self) -> None:
        if self.old.is_closed_for_good():
            return
        database = self.ends.database
        with self.in_nobodys_way(), database.transaction():
            database.execute("lock table split.turn in exclusive mode")
            if not self.old.decide(min(LOCK_SECONDS, self.remaining())):
                raise self.too_long()
            way_back.carry_no_more(
                database, self.ends.way.name, self.ends.service.mirror, list(self.owned)
            )

    def open(self) -> dict[str, Any] | None:
        self._take_turn()
        if self.new.is_open():
            return None
        monolith = self.ends.monolith
        with monolith.transaction():
            way_back.carry(monolith, self.ends.link.name, self.ends.service.mirror, self.owned)
            self.new.open()
            opened_at = self.new.clock()
        self.moved.opened_at = opened_at
        return {"opened_at": opened_at.isoformat()}

    def finish(self) -> dict[str, Any]:
        self._let_follow()
        disarm(self.new)
        self.ends.way.remove()
        broken = way_back.broken_keys(self.ends.monolith, self.ends.service)
        self.moved.warnings += [
            f"{rows:,} row(s) of {table} break its foreign key {key}, which replication does not"
            f" ask. To find them: runner.py parity {self.ends.service.role}"
            for table, key, rows in broken
        ]
        return {"kept": dict(self.moved.kept), "broken_keys": broken}

    def _take_turn(self) -> None:
        """See the mirror, until the turn is over, as it is before anybody writes the monolith."""
        database = self.ends.database
        with ExitStack() as turn:
            turn.enter_context(database.transaction())
            database.execute("set transaction isolation level repeatable read")
            database.execute("lock table split.turn in exclusive mode")
            row = database.execute("select switched_at is not null from split.service").fetchone()
            self.is_switched = row == (True,)
            self.turn = turn.pop_all()

    def _let_follow(self) -> None:
        """Lay aside what the monolith can't hold; only then do the tables follow it again."""
        database, label = self.ends.database, f"{datetime.now(timezone.utc):%Y%m%d_%H%M%S}"
        with self.turn:
            if self.is_switched:
                for table, kept_in, rows in database.execute(
                    "select * from split.keep_unlike(%s)", (label,)
                ).fetchall():
                    self.moved.kept[table] = (f"audit.{kept_in}", rows)
                database.execute(CLOSE_SERVICE)
        carry_over(database)
