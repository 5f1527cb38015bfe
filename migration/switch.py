"""Moves the truth of a service: from the monolith to the service's database, and back.

Both are one walk. The side that was the truth is closed on a lease, what it holds is carried over,
and one commit on that side decides: its gate is closed for good, and it publishes the owned tables
no more. The other side then publishes them and opens. Until the decision all is undone if anything
fails or the pause is over; after it there is only forward.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import count
from typing import Any

from psycopg import errors

from migration import catalog, hold, read_through, readiness, targets, way_back
from migration.backup import Backup, backup
from migration.connections import Connections, describe
from migration.ends import Ends, opened
from migration.errors import NotReady
from migration.gate import Gate
from migration.ledger import Ledger, State
from migration.readiness import Readiness
from migration.replication import Link
from migration.saga import Saga, Step, require_finished
from migration.services import MONOLITH, Service
from migration.sync import carry_over
from migration.targets import Place

PREPARE_SECONDS = 5.0
# How long one try to close the gate may keep writers waiting, and how long they have in between.
LOCK_SECONDS = 0.25
BETWEEN_TRIES_SECONDS = 0.5
DISARM_TRIES = 5
FIRST_WRITE_SECONDS = 1.0
AFTER_CHANGE_SECONDS = 60.0

OPEN_SERVICE = """
    update split.service set switched_at = clock_timestamp(), first_write_at = null
    returning switched_at
"""
# From here on the tables follow the monolith again. They are compared whole once.
CLOSE_SERVICE = """
    update split.service set switched_at = null;
    update split.service_tables set is_stale = true where owned_rows <> 'false'
"""
BLOCKERS = """
    select string_agg(
        distinct format('%%s%%s', lock.pid, ' (' || nullif(activity.application_name, '') || ')'),
        ', '
    )
    from pg_locks as lock
    inner join pg_stat_activity as activity using (pid)
    where
        lock.relation = any(%s::regclass[]) and lock.granted and lock.pid <> pg_backend_pid()
        and lock.mode not in ('AccessShareLock', 'RowShareLock')
"""


@dataclass
class Moved:
    """What a switch or a rollback came to; moments are by the server's clock that they name.

    `closed_at` is when the last writer had left the old side, `opened_at` when the new one let
    writers in, `first_write_at` when it took the first write, if one came soon. Seconds stand
    corrected by the difference of the two clocks.
    """

    service: Service
    operation: str
    closed_at: datetime | None = None
    opened_at: datetime | None = None
    first_write_at: datetime | None = None
    paused_seconds: float | None = None
    gap_seconds: float | None = None
    kept: dict[str, tuple[str, int]] = field(default_factory=dict)
    backup: Backup | None = None
    warnings: list[str] = field(default_factory=list)


def check(
    service: Service, connections: Connections, ledger: Ledger, say: Callable[[str], None]
) -> Readiness:
    """Check whether a service could be switched now, and change nothing.

    Args:
        service: a verified service.
        connections: where the servers are.
        ledger: the monolith's ledger.
        say: is told what is looked at.

    Returns:
        How long its ways take now.

    Raises:
        NotReady: it could not; all that is in the way in one message.
    """
    with opened(service, connections) as ends:
        found = readiness.for_switch(ends, ledger, say)
        found.require(ends, "a switch")
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
) -> Moved:
    """Make a service's database the truth, without losing a write.

    Args:
        service: a verified service.
        connections: where the servers are.
        ledger: the monolith's ledger.
        max_pause: seconds that writers may be kept out; past that all is undone.
        say: is told each step.
        with_backup: dump the monolith first.

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
            moved.backup = backup(MONOLITH, connections, ledger, service, "switch")
        walk = _Switch(ends, moved, max_pause)
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


class _Walk(ABC):
    """One walk of the truth from the `old` gate to the `new` one; what both directions share."""

    operation: str
    enters: State | None = None
    returns_to: State | None = None
    place: Place
    leads_to: str

    def __init__(self, ends: Ends, moved: Moved, max_pause: float) -> None:
        self.ends, self.moved, self.max_pause = ends, moved, max_pause
        self.owned = catalog.owned_tables(ends.service)
        self.held = ExitStack()  # clients, in PgBouncer
        self.ends_at = 0.0  # of the pause, by this process's clock
        self.offset = 0.0
        # Asked once: reading what tables there are is not for the pause.
        self.monolith_gate, self.service_gate = ends.monolith_gate, ends.service_gate

    @property
    @abstractmethod
    def old(self) -> Gate:
        """The gate of the side that is the truth so far."""

    @property
    @abstractmethod
    def new(self) -> Gate:
        """The gate of the side that becomes it."""

    @abstractmethod
    def prepare(self) -> None:
        """Make what the walk needs; idempotent."""

    @abstractmethod
    def unprepare(self) -> None:
        """Remove it again."""

    @abstractmethod
    def catch_up(self) -> Mapping[str, Any] | None:
        """Carry over what there is, so that little is left for the pause."""

    @abstractmethod
    def drain(self) -> Mapping[str, Any] | None:
        """Carry over what is left, now that nobody writes."""

    @abstractmethod
    def decide(self) -> None:
        """Make it final, in one commit on the old side; nothing, if it is."""

    @abstractmethod
    def open(self) -> Mapping[str, Any] | None:
        """Let writers in on the new side, in one commit; nothing, if they are."""

    @abstractmethod
    def finish(self) -> Mapping[str, Any] | None:
        """Do what can wait until the pause is over."""

    def saga(self, *, from_decision: bool = False) -> Saga:
        """Give the steps: all, or those from the decision on."""
        steps = [
            Step("prepare", self.prepare, self.unprepare, "what it makes is removed"),
            Step("catch up", self.catch_up),
            Step("close", self.close, self.reopen, "the gate is opened"),
            Step("drain", self.drain),
            Step("decide", self.decide),
            Step("open", self.open),
            Step("point", self.point),
            Step("finish", self.finish),
            Step("measure", self.measure),
        ]
        if from_decision:
            steps = steps[4:]
        return Saga(
            self.ends.service,
            self.operation,
            steps,
            self.old.is_closed_for_good,
            self.enters,
            self.returns_to,
        )

    def close(self) -> dict[str, Any]:
        """Close the old side; try until the pause would be over, never long at a stretch."""
        service, connections = self.ends.service, self.ends.connections
        self.offset = self.ends.clock_offset()
        # Clients that PgBouncer holds are waiting already while the tables' lock is waited for.
        share = self.max_pause / 2 if connections.pgbouncer_url else self.max_pause
        self.held.enter_context(hold.held(service, connections, share))
        gives_up_at = time.monotonic() + share
        for tries in count(1):
            self.ends_at = time.monotonic() + self.max_pause
            patience = min(LOCK_SECONDS, self.max_pause / 2)
            try:
                closed_at = self.old.close(self.leads_to, patience, self.max_pause)
                break
            except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
                if time.monotonic() + patience + BETWEEN_TRIES_SECONDS > gives_up_at:
                    raise self._in_the_way(tries) from error
                time.sleep(BETWEEN_TRIES_SECONDS)
        self.moved.closed_at = closed_at
        return {"closed_at": closed_at.isoformat(), "tries": tries}

    def reopen(self) -> None:
        """Let writers in again where they were; at once, whoever holds the tables."""
        if self.old.exists():
            self.old.open()
        self.held.close()
        _disarm(self.old)

    def point(self) -> None:
        """Point the service's applications at the new side, and let those go on that wait."""
        targets.point(
            self.ends.service, self.ends.connections, reads_at=self.place, writes_at=self.place
        )
        self.held.close()

    def remaining(self) -> float:
        """Tell how many seconds of the pause are left.

        Raises:
            NotReady: none.
        """
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise self.too_long()
        return left

    def arrive(self, way: Link) -> float:
        """Wait for all that was committed on one side; give the seconds that it took.

        Raises:
            NotReady: it did not arrive within the pause.
        """
        try:
            return way.arrive(within_seconds=self.remaining())
        except TimeoutError as error:
            way.require_running()
            raise self.too_long(f"; {error}") from error

    def measure(self) -> dict[str, Any]:
        """Work out how long writers stood still."""
        moved = self.moved
        if not moved.closed_at or not moved.opened_at:
            return {}  # resumed: the pause was another runner's
        offset = self.offset if self.operation == "switch" else -self.offset
        moved.paused_seconds = (moved.opened_at - moved.closed_at).total_seconds() - offset
        if moved.first_write_at:
            moved.gap_seconds = (moved.first_write_at - moved.closed_at).total_seconds() - offset
        return {
            "clock_offset": round(self.offset, 6),
            "paused_seconds": round(moved.paused_seconds, 6),
            "gap_seconds": moved.gap_seconds and round(moved.gap_seconds, 6),
        }

    def settle(self, ledger: Ledger) -> None:
        """Tell who has to be told: the service's applications, and who asks it for users."""
        service, connections = self.ends.service, self.ends.connections
        with ledger.step(service, f"{self.operation}: tell") as step:
            if said := targets.announce(service, connections, AFTER_CHANGE_SECONDS):
                self.moved.warnings.append(said)
            if service == read_through.owner_of_users():
                self.moved.warnings += read_through.reconnect_all(connections, ledger)
            step.detail["warnings"] = list(self.moved.warnings)

    def too_long(self, why: str = "") -> NotReady:
        """Say that the pause is over."""
        return NotReady(
            f"The pause was longer than the {self.max_pause:g} s that it may be{why}.",
            where=self.ends.service.database,
            mend="Try again at a quieter moment, or allow more: --max-pause 10s",
        )

    @contextmanager
    def _in_nobodys_way(self) -> Iterator[None]:
        try:
            yield
        except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
            raise self._in_the_way(1) from error

    def _in_the_way(self, tries: int) -> NotReady:
        gate = self.old
        names = [f"{gate.schema}.{name}" for name in gate.tables]
        row = gate.database.execute(BLOCKERS, (names,)).fetchone()
        held = f": process {row[0]}" if row and row[0] else ""
        return NotReady(
            f"Somebody holds a lock on {', '.join(names)}{held}. Tried {tries} times; writers"
            f" waited {LOCK_SECONDS:g} s each time at the most.",
            where=describe(gate.database.info.dsn),
            mend="Wait for them, or end them: select pg_terminate_backend(PID);",
        )


class _Switch(_Walk):
    """From the monolith to the service."""

    operation = "switch"
    enters = State.SWITCHED
    place = Place.SERVICE

    def __init__(self, ends: Ends, moved: Moved, max_pause: float) -> None:
        super().__init__(ends, moved, max_pause)
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
        with self._in_nobodys_way(), self.ends.monolith.transaction():
            if not self.old.decide(min(LOCK_SECONDS, self.remaining())):
                raise self.too_long()
            way_back.carry_no_more(self.ends.monolith, self.ends.link.name, list(self.owned))

    def open(self) -> dict[str, Any] | None:
        if self.new.is_open():
            return None
        database = self.ends.database
        with database.transaction():
            database.execute("lock table split.turn in exclusive mode")
            way_back.carry(database, self.ends.way.name, self.owned)
            self.new.open()
            row = database.execute(OPEN_SERVICE).fetchone()
        assert row is not None
        self.moved.opened_at = row[0]
        return {"opened_at": row[0].isoformat()}

    def finish(self) -> dict[str, Any]:
        _disarm(self.new)
        database, begun = self.ends.database, time.monotonic()
        while self.moved.first_write_at is None and time.monotonic() - begun < FIRST_WRITE_SECONDS:
            carry_over(database)
            row = database.execute("select first_write_at from split.service").fetchone()
            self.moved.first_write_at = row[0] if row else None
            time.sleep(0.02)
        self.ends.way.arrive()
        return {"first_write_at": str(self.moved.first_write_at or "none yet")}


class _Rollback(_Walk):
    """From the service to the monolith."""

    operation = "rollback"
    returns_to = State.VERIFIED
    place = Place.MONOLITH
    leads_to = "monolith"

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
        with self._in_nobodys_way(), database.transaction():
            database.execute("lock table split.turn in exclusive mode")
            if not self.old.decide(min(LOCK_SECONDS, self.remaining())):
                raise self.too_long()
            way_back.carry_no_more(database, self.ends.way.name, list(self.owned))

    def open(self) -> dict[str, Any] | None:
        if self.new.is_open():
            return None
        monolith = self.ends.monolith
        with monolith.transaction():
            way_back.carry(monolith, self.ends.link.name, self.owned)
            self.new.open()
            opened_at = self.new.clock()
        self.moved.opened_at = opened_at
        return {"opened_at": opened_at.isoformat()}

    def finish(self) -> dict[str, Any]:
        _disarm(self.new)
        self._let_follow()
        self.ends.way.remove()
        return {"kept": dict(self.moved.kept)}

    def _let_follow(self) -> None:
        """Lay aside what the monolith can't hold; only then do the tables follow it again."""
        database, label = self.ends.database, f"{datetime.now(timezone.utc):%Y%m%d_%H%M%S}"
        with database.transaction():
            database.execute("set transaction isolation level repeatable read")
            database.execute("lock table split.turn in exclusive mode")
            row = database.execute("select switched_at from split.service").fetchone()
            if row and row[0]:
                for table, kept_in, rows in database.execute(
                    "select * from split.keep_unlike(%s)", (label,)
                ).fetchall():
                    self.moved.kept[table] = (f"audit.{kept_in}", rows)
                database.execute(CLOSE_SERVICE)
        carry_over(database)


def _disarm(gate: Gate) -> None:
    """Disable an open gate's triggers; where somebody writes without a pause they stay, open."""
    for _ in range(DISARM_TRIES):
        try:
            gate.disarm(LOCK_SECONDS)
            return
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            time.sleep(BETWEEN_TRIES_SECONDS)
