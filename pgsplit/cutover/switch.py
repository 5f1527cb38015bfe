"""The switch makes a service's database the source of truth instead of the monolith.

The functions that serve both directions of a cutover are here, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from pgsplit.cutover import preflight
from pgsplit.cutover.cutover import FIRST_WRITE_SECONDS, Cutover
from pgsplit.cutover.locks import SYNC_LOCK_SECONDS, disable_triggers
from pgsplit.cutover.moved import Moved
from pgsplit.cutover.preflight import PreflightReport
from pgsplit.cutover.rollback import Rollback
from pgsplit.cutover.stands import require_state
from pgsplit.postgres.holders import milliseconds
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import continuity, reverse
from pgsplit.replication.fence import Fence
from pgsplit.replication.own_changes import forget_resting_triggers
from pgsplit.replication.session import Session, lock_syncs, open_session
from pgsplit.replication.slot import Connection
from pgsplit.replication.subscription import add_tables, drop_tables
from pgsplit.replication.sync import apply_changes
from pgsplit.routing import applications, env_file
from pgsplit.routing.announce import AFTER_CHANGE_SECONDS, announce
from pgsplit.routing.env_file import Side
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.saga import Kind, require_finished
from pgsplit.state.schema import prepare_service

PREPARE_SECONDS = 5.0
BETWEEN_LOOKS_SECONDS = 0.02

FIRST_WRITE = "select first_write_at, switched_at from split.service"
START_SERVICE = """
    update split.service
    set switched_at = clock_timestamp(), first_write_at = null, keeps_replaced = true
"""


class Switch(Cutover):
    """The cutover from the monolith to the service; see `Cutover` for its arguments."""

    kind = Kind.SWITCH
    title = "a switch"
    enters = State.SWITCHED
    needs_finish = False
    side = Side.SERVICE
    clock_sign = 1

    @property
    def old(self) -> Fence:
        """The monolith's tables."""
        return self.monolith_fence

    @property
    def new(self) -> Fence:
        """The service's own tables."""
        return self.service_fence

    @property
    def old_database(self) -> str:
        """The monolith."""
        return self.connections.monolith

    @property
    def leads_to(self) -> str:
        """The service's database, for the message that writers get."""
        return f"database {self.service.database}"

    def preflight(self) -> PreflightReport:
        """Check that a switch would lose nothing, and that it can be rolled back."""
        return preflight.for_switch(
            self.session, self.ledger, self.say, with_backup=self.with_backup
        )

    def execute(self) -> None:
        """Upgrade the schema `split`, before our own locks keep it as it is, and switch."""
        prepare_service(self.session.database, self.service)
        super().execute()

    def prepare(self) -> None:
        """Make both fences and the reverse stream, which is idle until `open`; idempotent."""
        self.old.prepare()
        self.new.prepare("monolith", closed=True)  # nobody writes there yet
        with self.session.database.transaction():
            lock_syncs(self.session.database)  # else a deadlock: it locks tables one by one
            self.session.database.execute("select split.prepare_switch(%s)", (self.service.login,))
            self.new.lock(PREPARE_SECONDS)
            self.new.enable_triggers()
        reverse.prepare(self.session.reverse, self.connections)

    def undo_prepare(self) -> None:
        """Remove the reverse stream; fences that are open stay."""
        self.session.reverse.remove()

    def catch_up(self) -> dict[str, Any]:
        """Sync until a sync is short."""
        return preflight.catch_up(self.session)

    def drain(self) -> dict[str, Any]:
        """Let the service have the rest, within the pause."""
        arrived_after = self.arrive(self.session.forward)
        done = apply_changes(self.session.database, self.remaining())
        return {"arrived": round(arrived_after, 4), "rows": done.rows, "synced": done.seconds}

    def hold(self, seconds: float) -> None:
        """Publish the service's tables, open its fence and mark it as switched; uncommitted."""
        if self.new.is_open():
            return
        database, self.is_held = self.session.database, True
        database.execute("begin")
        database.execute(f"set local lock_timeout = {milliseconds(seconds)}")
        lock_syncs(database)
        add_tables(database, self.session.reverse.name, self.service.mirror, self.owned)
        self.new.open()
        database.execute("select split.wake_own_triggers()")
        database.execute(START_SERVICE)

    def held(self) -> Sequence[Connection]:
        """Name the connections whose transactions `hold` begins."""
        return (self.session.database,)

    def commit(self) -> None:
        """Close the monolith's fence for good and unpublish its tables; atomic."""
        if self.old.is_closed_for_good():
            return
        monolith = self.session.monolith
        with monolith.transaction():
            self.commit_old()
            drop_tables(monolith, self.session.forward.name, self.service.mirror, list(self.owned))

    def finish(self) -> dict[str, Any]:
        """Wait a moment for the first write, and let it arrive in the monolith."""
        disable_triggers(self.new)
        forget_resting_triggers(self.session.database)
        database, begun = self.session.database, time.monotonic()
        while True:
            apply_changes(database, SYNC_LOCK_SECONDS)
            row = database.execute(
                "select first_write_at, switched_at from split.service"
            ).fetchone()
            assert row is not None
            self.result.first_write_at = row[0]
            if self.result.first_write_at or time.monotonic() - begun >= self.wait_for_write:
                break
            time.sleep(BETWEEN_LOOKS_SECONDS)
        # The fence's triggers have changed since the stream was created, by our own hand.
        self.session.monolith.execute(
            "select split.triggers_changed(%s)", (self.session.reverse.name,)
        )
        continuity.look(self.session.reverse)
        self.session.reverse.arrive()
        return {
            "first_write_at": str(self.result.first_write_at or "none yet"),
            "switched_at": str(row[1]),
            # Nothing was replicated yet, but for what an earlier switch has left.
            "broken_keys": reverse.broken_keys(
                self.session.monolith, self.service, known=self.known_as_broken(), changed={}
            ),
        }


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
    """Make a service's database the source of truth, without losing a write.

    Args:
        service: a verified service.
        connections: where the servers are.
        ledger: the monolith's ledger.
        max_pause: seconds that writers may be kept out; after that everything is undone.
        say: called with each step's name.
        with_backup: dump the monolith first.
        wait_for_write: seconds to wait for the service's first write; see `Cutover`.

    Returns:
        How long writers stood still, and what an operator should know.

    Raises:
        NotReady: it is not ready, somebody holds the tables, or the pause was over; everything is
            as it was before.
        Unfinished: it is committed, but something failed later; `resume` finishes it.
    """
    with open_session(service, connections) as session:
        return Switch(
            session,
            ledger,
            say,
            max_pause=max_pause,
            with_backup=with_backup,
            wait_for_write=wait_for_write,
        ).run()


def check(
    service: Service,
    operation: str,
    connections: Connections,
    ledger: Ledger,
    say: Callable[[str], None],
    *,
    with_backup: bool = True,
) -> PreflightReport:
    """Check whether a `switch` or a `rollback` could be done now, and change nothing.

    Returns:
        How long the service's streams take now.

    Raises:
        NotReady: it could not; one message has all problems.
    """
    with open_session(service, connections) as session:
        return _cutover(operation, session, ledger, say, with_backup=with_backup).check()


def resume(
    service: Service,
    operation: str,
    connections: Connections,
    ledger: Ledger,
    say: Callable[[str], None],
) -> Moved:
    """Finish a `switch` or a `rollback` that was interrupted, or undo it.

    Returns:
        The result: finished if it had been committed, else undone; `warnings` say which.
    """
    with open_session(service, connections) as session:
        return _cutover(operation, session, ledger, say).resume()


def _cutover(
    operation: str,
    session: Session,
    ledger: Ledger,
    say: Callable[[str], None],
    *,
    with_backup: bool = False,
) -> Cutover:
    kinds: dict[Kind, type[Cutover]] = {Kind.SWITCH: Switch, Kind.ROLLBACK: Rollback}
    return kinds[Kind(operation)](session, ledger, say, with_backup=with_backup)


def move_reads(service: Service, connections: Connections, ledger: Ledger, side: Side) -> str:
    """Route only those who read to a service's database, or back to the monolith.

    Nothing else changes: the monolith stays the source of truth, and a follower keeps the service's
    tables current.

    Args:
        service: a verified service; to go back to the monolith, any that is not switched.
        connections: where the servers are.
        ledger: the monolith's ledger.
        side: where reads are to go.

    Returns:
        A warning, if the command that runs after a change failed.

    Raises:
        NotReady: the service is not verified, is switched already, or has an unfinished operation.
    """
    with open_session(service, connections) as session:
        require_finished(service, ledger)
        if side is Side.SERVICE or ledger.state(service).reached(State.SWITCHED):
            require_state(session, ledger, State.VERIFIED, "read from")
        with ledger.step(service, "point reads", at=side.value) as step:
            env_file.route_to(service, connections, reads_at=side)
            step.detail["routes"] = applications.as_written(service, connections)
    return announce(service, connections, AFTER_CHANGE_SECONDS)
