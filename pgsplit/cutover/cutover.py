"""The walk of a truth from one side to the other; `switch` has its two directions.

The side that was the truth is closed on a lease, what it holds is carried over, and one commit on
that side decides: its gate is closed for good, and it publishes the owned tables no more. The other
side then publishes them and opens. Until the decision all is undone if anything fails or the pause
is over; after it there is only forward.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Any

from psycopg import errors

from pgsplit.backup.dump import Backup
from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe
from pgsplit.project.project import Service
from pgsplit.replication import read_through
from pgsplit.replication.fence import Fence
from pgsplit.replication.session import Session
from pgsplit.replication.stream import Stream
from pgsplit.routing import env_file as env_file
from pgsplit.routing import pause as pause
from pgsplit.routing.announce import announce
from pgsplit.routing.env_file import Side
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.saga import Saga, Step

# How long one try to close the gate may keep writers waiting, and how long they have in between.
LOCK_SECONDS = 0.25
BETWEEN_TRIES_SECONDS = 0.5
DISARM_TRIES = 5
AFTER_CHANGE_SECONDS = 60.0

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


# How long a lock has to be waited for until autovacuum, if it is what holds one, gives way.
VACUUMED = """
    select max(extract(epoch from current_setting('deadlock_timeout')::interval))::float
    from pg_locks as lock
    inner join pg_stat_activity as activity using (pid)
    where
        lock.relation = any(%s::regclass[]) and lock.granted
        and activity.backend_type = 'autovacuum worker'
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


class Cutover(ABC):
    """One walk of the truth from the `old` gate to the `new` one; what both directions share."""

    operation: str
    enters: State | None = None
    returns_to: State | None = None
    place: Side
    leads_to: str

    def __init__(self, session: Session, moved: Moved, max_pause: float) -> None:
        self.session, self.moved, self.max_pause = session, moved, max_pause
        self.owned = session.service.owned_tables
        self.paused = ExitStack()  # clients, in PgBouncer
        self.ends_at = 0.0  # of the pause, by this process's clock
        self.offset = 0.0
        # Asked once: reading what tables there are is not for the pause.
        self.monolith_fence, self.service_fence = session.monolith_fence, session.service_fence

    @property
    @abstractmethod
    def old(self) -> Fence:
        """The gate of the side that is the truth so far."""

    @property
    @abstractmethod
    def new(self) -> Fence:
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
    def commit(self) -> None:
        """Make it final, in one commit on the old side; nothing, if it is."""

    @abstractmethod
    def open(self) -> Mapping[str, Any] | None:
        """Let writers in on the new side, in one commit; nothing, if they are."""

    @abstractmethod
    def finish(self) -> Mapping[str, Any] | None:
        """Do what can wait until the pause is over."""

    def saga(self, *, from_commit: bool = False) -> Saga:
        """Give the steps: all, or those from the decision on."""
        steps = [
            Step("prepare", self._prepare, self.unprepare, "what it makes is removed"),
            Step("catch up", self.catch_up),
            Step("close", self.close, self.reopen, "the gate is opened"),
            Step("drain", self.drain),
            Step("decide", self.commit, in_one_go=True),
            Step("open", self.open, in_one_go=True),
            Step("point", self.point, in_one_go=True),
            Step("finish", self.finish),
            Step("measure", self.measure),
        ]
        if from_commit:
            steps = steps[4:]
        return Saga(
            self.session.service,
            self.operation,
            steps,
            self.old.is_closed_for_good,
            self.enters,
            self.returns_to,
        )

    def _prepare(self) -> None:
        """Make what the walk needs; and try now what must not fail behind the decision."""
        service, connections = self.session.service, self.session.connections
        reads, writes = env_file.sides(service, connections)
        env_file.route_to(service, connections, reads_at=reads, writes_at=writes)
        self.prepare()

    def close(self) -> dict[str, Any]:
        """Close the old side; try until the pause would be over, never long at a stretch."""
        service, connections = self.session.service, self.session.connections
        self.offset = self.session.clock_offset()
        # Clients that PgBouncer holds are waiting already while the tables' lock is waited for.
        share = self.max_pause / 2 if connections.pgbouncer_url else self.max_pause
        self.paused.enter_context(pause.paused(service, connections, share))
        gives_up_at = time.monotonic() + share
        patience = min(LOCK_SECONDS, self.max_pause / 2)
        for tries in count(1):
            self.ends_at = time.monotonic() + self.max_pause
            try:
                closed_at = self.old.close(self.leads_to, patience, self.max_pause)
                break
            except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
                if time.monotonic() + patience + BETWEEN_TRIES_SECONDS > gives_up_at:
                    raise self._in_the_way(tries) from error
                time.sleep(BETWEEN_TRIES_SECONDS)
                patience = self._patience()
        self.moved.closed_at = closed_at
        return {"closed_at": closed_at.isoformat(), "tries": tries}

    def reopen(self) -> None:
        """Let writers in again where they were; at once, whoever holds the tables."""
        if self.old.exists():
            self.old.open()
        self.paused.close()
        disarm(self.old)

    def point(self) -> None:
        """Point the service's applications at the new side, and let those go on that wait."""
        env_file.route_to(
            self.session.service,
            self.session.connections,
            reads_at=self.place,
            writes_at=self.place,
        )
        self.paused.close()

    def remaining(self) -> float:
        """Tell how many seconds of the pause are left.

        Raises:
            NotReady: none.
        """
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise self.too_long()
        return left

    def arrive(self, stream: Stream) -> float:
        """Wait for all that was committed on one side; give the seconds that it took.

        Raises:
            NotReady: it did not arrive within the pause.
        """
        try:
            return stream.arrive(within_seconds=self.remaining())
        except TimeoutError as error:
            stream.require_running()
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
        """Tell who has to be told: the service's applications, and who reads through to it."""
        service, connections = self.session.service, self.session.connections
        with ledger.step(service, f"{self.operation}: tell") as step:
            if said := announce(service, connections, AFTER_CHANGE_SECONDS):
                self.moved.warnings.append(said)
            if service in read_through.owners(service.project):
                self.moved.warnings += read_through.reconnect_all(connections, ledger)
            step.detail["warnings"] = list(self.moved.warnings)

    def too_long(self, why: str = "") -> NotReady:
        """Say that the pause is over."""
        return NotReady(
            f"The pause was longer than the {self.max_pause:g} s that it may be{why}.",
            where=self.session.service.database,
            hint="Try again at a quieter moment, or allow more: --max-pause 10s",
        )

    @contextmanager
    def in_nobodys_way(self) -> Iterator[None]:
        """Turn a lock that is not to be had into a message that says who has it."""
        try:
            yield
        except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
            raise self._in_the_way(1) from error

    def _patience(self) -> float:
        """Give how long the next try may wait: for autovacuum until it gives way, and it does."""
        row = self.old.database.execute(
            VACUUMED, ([f"{self.old.schema}.{name}" for name in self.old.tables],)
        ).fetchone()
        needed = row[0] + 0.1 if row and row[0] else LOCK_SECONDS
        return float(min(needed, self.max_pause / 2))

    def _in_the_way(self, tries: int) -> NotReady:
        fence = self.old
        names = [f"{fence.schema}.{name}" for name in fence.tables]
        row = fence.database.execute(BLOCKERS, (names,)).fetchone()
        held = f": process {row[0]}" if row and row[0] else ""
        return NotReady(
            f"Somebody holds a lock on {', '.join(names)}{held}. Tried {tries} times; writers"
            f" waited {LOCK_SECONDS:g} s each time at the most.",
            where=describe(fence.database.info.dsn),
            hint="Wait for them, or end them: select pg_terminate_backend(PID);",
        )


def disarm(fence: Fence) -> None:
    """Disable an open gate's triggers; where somebody writes without a pause they stay, open."""
    for _ in range(DISARM_TRIES):
        try:
            fence.disarm(LOCK_SECONDS)
            return
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            time.sleep(BETWEEN_TRIES_SECONDS)
