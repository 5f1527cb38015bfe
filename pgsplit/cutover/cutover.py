"""A cutover: moves a service's source of truth from one side to the other.

`switch` and `rollback` are its two directions. The old side is closed on a lease, and what it holds
is replicated. On the new side a transaction publishes the owned tables and opens its fence, and is
held. Then one commit on the old side is the point of no return: its fence is closed for good, and
it no longer publishes the owned tables. What is left is the commit of the held transaction, which
waits for nobody. If anything fails or the pause is over before the point of no return, everything
is undone; after it, the cutover can only be finished.
"""

from __future__ import annotations

import gc
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any, ClassVar

import psycopg

from pgsplit.backup.dump import backup
from pgsplit.base.errors import NotReady
from pgsplit.cutover.holding import Holding
from pgsplit.cutover.locks import (
    BETWEEN_TRIES_SECONDS,
    LOCK_SECONDS,
    disable_triggers,
    lock_timeout,
    next_patience,
)
from pgsplit.cutover.moved import Moved
from pgsplit.cutover.operation import SagaOperation
from pgsplit.cutover.recall import recall
from pgsplit.postgres.retry import LOCKED, retrying
from pgsplit.replication.fence import Fence
from pgsplit.replication.session import Session
from pgsplit.replication.sharing import read_through
from pgsplit.replication.slot import Connection
from pgsplit.replication.stream import Stream
from pgsplit.routing import applications, env_file, pause
from pgsplit.routing.announce import AFTER_CHANGE_SECONDS, announce
from pgsplit.routing.env_file import Side
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.saga import Kind, Saga, Step

MAX_PAUSE_SECONDS = 5.0
FIRST_WRITE_SECONDS = 1.0


class Cutover(Holding, SagaOperation[Moved]):
    """One cutover, from the `old` fence to the `new` one; what both directions share.

    Args:
        session: connections to both sides.
        ledger: the monolith's ledger.
        say: called with each step's name.
        max_pause: seconds that writers may be kept out.
        with_backup: dump the old side first.
        wait_for_write: seconds that a switch waits for the service's first write, which tells how
            long its writers really stood still. Writers have been let in by then.
    """

    enters: ClassVar[State | None] = None
    returns_to: ClassVar[State | None] = None
    side: ClassVar[Side]
    needs_finish: ClassVar[bool]
    # 1 if the new side is the service, -1 if it is the monolith: the clock offset is the service's.
    clock_sign: ClassVar[int]

    def __init__(
        self,
        session: Session,
        ledger: Ledger,
        say: Callable[[str], None],
        *,
        max_pause: float = MAX_PAUSE_SECONDS,
        with_backup: bool = False,
        wait_for_write: float = FIRST_WRITE_SECONDS,
    ) -> None:
        super().__init__(
            session.service,
            session.connections,
            ledger,
            say,
            Moved(session.service, self.kind.value),
        )
        self.session, self.max_pause, self.with_backup = session, max_pause, with_backup
        self.wait_for_write = wait_for_write
        self.owned = session.service.owned_tables
        self.paused = ExitStack()  # clients, in PgBouncer
        self.ends_at = 0.0  # of the pause, by this process's clock
        self.clock_offset = 0.0
        self.tries, self.patience = 0, min(LOCK_SECONDS, max_pause / 2)
        self.waited = 0.0  # by writers, in tries to close the fence that failed
        self.is_announced = False
        self.was_decided = False
        # Asked once, before the pause: reading which tables there are takes time.
        self.monolith_fence, self.service_fence = session.monolith_fence, session.service_fence

    @property
    @abstractmethod
    def old(self) -> Fence:
        """The fence of the side that is the source of truth so far."""

    @property
    @abstractmethod
    def new(self) -> Fence:
        """The fence of the side that becomes it."""

    @property
    @abstractmethod
    def old_database(self) -> str:
        """The old side's database."""

    @property
    @abstractmethod
    def leads_to(self) -> str:
        """The new side by name, for the message that writers get."""

    @abstractmethod
    def prepare(self) -> None:
        """Make what the cutover needs; idempotent."""

    @abstractmethod
    def undo_prepare(self) -> None:
        """Remove it; idempotent."""

    @abstractmethod
    def catch_up(self) -> Mapping[str, Any] | None:
        """Replicate and apply what there is, so that little is left for the pause."""

    @abstractmethod
    def drain(self) -> Mapping[str, Any] | None:
        """Replicate and apply the rest, now that nobody writes."""

    @abstractmethod
    def commit(self) -> None:
        """Pass the point of no return, in one commit on the old side; idempotent."""

    @abstractmethod
    def finish(self) -> Mapping[str, Any] | None:
        """Do what can wait until the pause is over."""

    def steps(self, *, from_commit: bool = False) -> Saga:
        """Give the steps: all, or those that finish it after the point of no return."""
        until_commit = [
            Step("prepare", self._prepare, self.undo_prepare, "what it makes is removed"),
            Step("catch up", self.catch_up),
            Step("close", self.close, self.reopen, "the fence is opened"),
            Step("drain", self._drain, self.release, "what is held back is rolled back"),
        ]
        after = [
            Step("decide", self.commit, uninterruptible=True, commits=True),
            Step("open", self.open, uninterruptible=True),
            Step("point", self.route, uninterruptible=True),
            Step("finish", self.finish, needed=self.needs_finish),
            Step("measure", self.measure, needed=False),
        ]
        return Saga(
            self.service,
            self.kind,
            # A decision that the old side has forgotten is made again before its mirror is held.
            [after[0], Step("hold", self.hold_at_last), *after[1:]]
            if from_commit
            else until_commit + after,
            (lambda: True) if from_commit else self.old.is_closed_for_good,
            self.enters,
            self.returns_to,
            self.watches.explained,
        )

    def waiters(self) -> Sequence[Connection]:
        """Name the connections whose waiting for locks is explained."""
        return self.session.monolith, self.session.database, self.holder

    def execute(self) -> None:
        """Dump the old side, do the steps, and tell those who have to know."""
        if self.with_backup:
            self.say("backup")
            self.result.backup = backup(
                self.old_database, self.connections, self.ledger, self.service, self.kind.value
            )
        with self.prepared():
            warnings = self.steps().run(
                self.ledger, self.say, max_pause=self.max_pause, tried=self.report.tried
            )
        self.result.warnings += warnings
        self.announce()

    def resume(self) -> Moved:
        """Finish it if it was committed, else undo it; `warnings` say which."""
        with self.prepared():
            whole = self.steps()
            # An old side that has failed over may have forgotten it; the new one lets writers in.
            self.was_decided = self.new.was_opened()
            is_committed = self.was_decided or whole.is_committed()
            if is_committed:
                before = recall(self.service, self.kind.value, self.ledger)
                self.result.closed_at, self.result.opened_at = before.closed_at, before.opened_at
                self.clock_offset = self.session.clock_offset()
                rest = self.steps(from_commit=True)
                self.result.warnings += rest.run(self.ledger, self.say, resumes=True)
            else:
                whole.undo(self.ledger, self.say)
        if is_committed:
            self.announce()
            said = f"The {self.kind} had been committed and is finished now."
        else:
            said = f"The {self.kind} had not been committed and is undone."
        self.result.warnings.append(said)
        return self.result

    def recorded_in(self) -> Sequence[str]:
        """Name the databases in which this project's own tables have to stay writable."""
        return self.connections.control, self.service.database

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Connect once more to the service; wait for no lock for longer than the pause may be."""
        session = self.session
        with (
            self.connections.connect(self.service.database) as self.holder,
            lock_timeout(self.max_pause, session.monolith, session.database),
            super().prepared(),
        ):
            try:
                yield
            finally:
                self.release()

    def _prepare(self) -> None:
        """Make what the cutover needs, and try now what must not fail after the commit."""
        reads, writes = env_file.sides(self.service, self.connections)
        self._route(reads, writes)
        self.prepare()
        self.keep_writable()  # what it has made, too
        # A look at all that was loaded so far takes Python's collector 16 ms, in a pause of 25.
        gc.freeze()

    def close(self) -> dict[str, Any]:
        """Close the old side; try until the pause would be over, and never wait long in one try."""
        self.clock_offset = self.session.clock_offset()
        # Clients that PgBouncer pauses are waiting already while the tables' lock is waited for.
        share = self.max_pause / 2 if self.connections.pgbouncer_url else self.max_pause
        began_at = self.old.clock()
        self.paused.enter_context(pause.paused(self.service, self.connections, share))
        gives_up_at = time.monotonic() + share

        def is_over() -> bool:
            return time.monotonic() + self.patience + BETWEEN_TRIES_SECONDS > gives_up_at

        try:
            closed_at = retrying(LOCKED, seconds=BETWEEN_TRIES_SECONDS, until=is_over)(
                self._try_to_close
            )
        except LOCKED as error:
            raise self.watches.refusal(
                error,
                f" Tried {self.tries} times; writers waited at most {self.patience:g} s each time.",
            ) from error
        self.result.closed_at = began_at if self.connections.pgbouncer_url else closed_at
        return {"closed_at": self.result.closed_at.isoformat(), "tries": self.tries}

    def _try_to_close(self) -> datetime:
        """Close the fence; give the time when its lock was asked for, since writers wait for it."""
        self.tries += 1
        if self.tries > 1:
            self.patience = min(next_patience(self.old), self.max_pause / 2)
        began, began_at = time.monotonic(), self.old.clock()
        self.ends_at = began + self.max_pause
        try:
            self.old.close(self.leads_to, self.patience, self.max_pause)
        except LOCKED:
            if not self.connections.pgbouncer_url:
                self.waited += time.monotonic() - began
            raise
        return began_at

    def _drain(self) -> Mapping[str, Any] | None:
        found = self.drain()
        self.hold(self.remaining())
        self.remaining()
        return found

    def reopen(self) -> None:
        """Let writers in again on the old side; at once, whoever holds the tables."""
        if self.old.exists():
            self.old.open()
        self.paused.close()
        disable_triggers(self.old)

    def route(self) -> None:
        """Route the service's applications to the new side, and let paused clients go on."""
        self._route(self.side, self.side)
        self.paused.close()
        if self.connections.pgbouncer_url and self.result.opened_at:
            self.result.opened_at = self.new.clock()

    def _route(self, reads: Side, writes: Side) -> None:
        """Route applications; say so if they get the runner's own login to the monolith."""
        was = env_file.route_to(self.service, self.connections, reads_at=reads, writes_at=writes)
        if not (was.monolith or self.connections.application_url or self.connections.embedded):
            self.result.warnings.append(applications.note_of_own(self.connections))

    def remaining(self) -> float:
        """Tell how many seconds of the pause are left.

        Raises:
            NotReady: none.
        """
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise self.pause_over()
        return left

    def arrive(self, stream: Stream) -> float:
        """Wait for everything that was committed at a stream's source; give the seconds it took.

        Raises:
            NotReady: it did not arrive within the pause.
        """
        try:
            return stream.arrive(within_seconds=self.remaining())
        except TimeoutError as error:
            stream.require_running()
            raise self.pause_over(f"; {error}") from error

    def known_as_broken(self) -> list[tuple[str, str]]:
        """Name the monolith's foreign keys that rows violated at the last switch or rollback."""
        found = [
            self.ledger.last(self.service, kind.entry("finish")).get("broken_keys") or []
            for kind in (Kind.SWITCH, Kind.ROLLBACK)
        ]
        return [(table, key) for keys in found for table, key, _ in keys]

    def commit_old(self) -> None:
        """Close the old side's fence for good, in the caller's transaction.

        Raises:
            NotReady: the lease has run out, and the new side has not let writers in.
        """
        if self.was_decided:
            self.old.close_for_good(self.max_pause)
        elif not self.old.commit(self.remaining()):
            raise self.pause_over()

    def measure(self) -> dict[str, Any]:
        """Work out how long writers stood still."""
        return self.result.measure(self.clock_sign * self.clock_offset, self.waited)

    def announce(self) -> None:
        """Tell the service's applications, and reconnect services that read through to it."""
        warnings = self.result.warnings
        try:
            with self.ledger.step(self.service, self.kind.entry("tell")) as step:
                self._announce()
                step.detail["warnings"] = list(warnings)
                step.detail["routes"] = applications.as_written(self.service, self.connections)
        except psycopg.OperationalError as error:
            warnings.append(f"The ledger could not be told all of it: {str(error).strip()}")
            self._announce()

    def _announce(self) -> None:
        if self.is_announced:
            return
        self.is_announced = True
        if said := announce(self.service, self.connections, AFTER_CHANGE_SECONDS):
            self.result.warnings.append(said)
        if self.service in read_through.owners(self.service.project):
            self.result.warnings += read_through.reconnect_all(self.connections, self.ledger)

    def pause_over(self, why: str = "") -> NotReady:
        """Say that the pause is over."""
        return NotReady(
            f"The pause was longer than the {self.max_pause:g} s that are allowed{why}.",
            where=self.service.database,
            hint="Try again at a quieter moment, or allow more: --max-pause 10s",
        )
