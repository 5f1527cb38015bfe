"""The abort removes everything that was made for a service, as long as it is not switched.

It can only go forward, and each step is idempotent: an interrupted abort is resumed by doing all of
it again. It drops no row that a service has written, and none of the monolith's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from pgsplit.base.errors import ConnectionFailed, NotReady
from pgsplit.cutover import later
from pgsplit.cutover.blockers import blockers
from pgsplit.cutover.locks import change_definitions, patiently
from pgsplit.cutover.operation import SagaOperation
from pgsplit.cutover.preflight import PreflightReport
from pgsplit.load import own_objects, remove
from pgsplit.postgres.connect import APPLICATION_NAME, describe
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import continuity, shared
from pgsplit.replication.fence import Fence
from pgsplit.replication.forgotten import require_remembered
from pgsplit.replication.session import Session, open_session
from pgsplit.replication.sharing import read_through
from pgsplit.replication.stream import Stream
from pgsplit.routing import env_file, flags, routes
from pgsplit.state.control import NEEDED
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.saga import Kind, Saga, Step, require_finished, unfinished


@dataclass
class Aborted:
    """The result of an abort: what it has removed, and notes on what is left for people to do."""

    service: Service
    removed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Abort(SagaOperation[Aborted]):
    """The abort of a service that is not switched."""

    kind = Kind.ABORT
    title = "an abort"

    def __init__(
        self,
        service: Service,
        connections: Connections,
        ledger: Ledger,
        say: Callable[[str], None],
        *,
        drops_own: bool = False,
    ) -> None:
        super().__init__(service, connections, ledger, say, Aborted(service))
        left = unfinished(ledger).get(service.database)
        # Whoever has confirmed it once need not do so again.
        self.drops_own = drops_own or bool(left and left.detail.get("drops_own"))

    def intent(self) -> dict[str, Any]:
        """Keep whether it was confirmed that what the service made itself is dropped."""
        return {"drops_own": self.drops_own}

    def preflight(self) -> PreflightReport:
        """Check that the service holds nothing that would be lost."""
        service, where = self.service, describe(self.connections.urls[self.service.database])
        if gone := shared.completed_owners(self.ledger.connection, service):
            names = ", ".join(one.database for one in gone)
            raise NotReady(
                f"{service.database} shares columns of tables that {names} took out of the"
                " monolith: it could not land any more. Nothing was changed.",
                where=where,
                hint=f"runner.py verify {service.role}, then runner.py switch {service.role}",
            )
        state = self.ledger.state(service)
        if state.reached(State.SWITCHED):
            raise NotReady(
                f"{service.database} is {state.value}: it holds rows that nobody else has. Nothing"
                " was changed.",
                where=where,
                hint=f"runner.py rollback {service.role}, then runner.py abort {service.role}"
                if state is State.SWITCHED
                else "runner.py history",
            )
        require_finished(service, self.ledger, but=[self.kind])
        found = PreflightReport()
        if service.database not in unfinished(self.ledger):
            with (
                suppress(ConnectionFailed),
                open_session(service, self.connections) as session,
            ):
                self._require_nothing_lost(session)
                is_dropped = self.ledger.has_made(service, "provision", "created")
                if not self.drops_own:
                    own_objects.require_none(session.database, service, whole=is_dropped)
                for what, hint in blockers(later.for_abort(session)):
                    found.add(what, hint)
                if is_dropped and (clients := remove.clients(session.database)):
                    found.add(
                        f"somebody is connected to {service.database}: {', '.join(clients)}",
                        _to_disconnect(session, clients),
                    )
        return found

    def _require_nothing_lost(self, session: Session) -> None:
        """Check that the service's database has nothing that nobody else has."""
        service, database = self.service, session.database
        remove.require_nothing_kept(database, service)
        require_remembered(service, session.monolith, database)
        if not self.ledger.state(service).reached(State.LANDED):
            return
        continuity.look(session.forward)
        was_switched = self.ledger.was_begun(service, Kind.SWITCH.entry("open"))
        suspect = was_switched or continuity.source_lost(session.forward)
        remove.require_proven(database, service, is_suspect=suspect)

    def steps(self) -> Saga:
        """Give the steps; there is nothing to undo, since all of them only remove."""
        return Saga(
            self.service,
            self.kind,
            [
                Step("ways", self.remove_streams),
                Step("database", self.remove_database),
                Step("records", self.forget),
            ],
            is_committed=lambda: True,
        )

    def remove_streams(self) -> Mapping[str, Any]:
        """Remove streams and fence, even if the database is gone already; idempotent.

        Users whose reads go to the database are sent back first.
        """
        if flags.remove(self.service, self.connections):
            self.result.removed.append(f"the flag {flags.key(self.service)}")
        with self.connections.connect(self.connections.monolith) as monolith, ExitStack() as stack:
            session = None
            # An interrupted abort has dropped or emptied it.
            with suppress(ConnectionFailed, NotReady):
                session = stack.enter_context(open_session(self.service, self.connections))
            if session:
                for stream in (session.reverse, session.forward):
                    if stream.is_there():
                        self.result.removed.append(f"replication {stream.name}")
                    patiently(stream.remove, stream.source, stream.target)
                return self._remove_fence(session.monolith_fence)
            # Without the database there is no subscription, only a slot that nobody reads.
            stream = Stream(self.service, monolith, monolith)
            if stream.slot():
                self.result.removed.append(f"slot {stream.name}")
            patiently(stream.remove, monolith)
            owned = list(self.service.owned_tables)
            return self._remove_fence(Fence(self.service, monolith, self.service.mirror, owned))

    def _remove_fence(self, fence: Fence) -> Mapping[str, Any]:
        if fence.exists():
            change_definitions(fence.database, fence.tables, fence.remove)
            self.result.removed.append("the write fence in the monolith")
        return {"removed": list(self.result.removed)}

    def remove_database(self) -> Mapping[str, Any]:
        """Drop the service's database and its roles; idempotent."""
        removed, self.result.notes[:] = remove.remove(
            self.service, self.connections, self.ledger, drops_own=self.drops_own
        )
        removed += read_through.remove(self.service, self.connections)
        self.result.removed += removed
        return {"removed": removed}

    def forget(self) -> Mapping[str, Any]:
        """Forget the service's state and routes; the ledger keeps what was done."""
        file = env_file.file(self.service, self.connections)
        if routes.remove(file):
            self.result.removed.append(str(file))
        left = self.ledger.forget(self.service)
        if not left:
            self.result.notes.append(
                "no service is left, but the ledger is: runner.py history. To remove it, too:"
                f" {self._removal()} in the monolith"
            )
        return {"services_left": left}

    def _removal(self) -> str:
        """Give what removes the ledger; in another project's service, its schema has to stay."""
        row = self.ledger.connection.execute(
            "select to_regclass('split.service') is not null"
        ).fetchone()
        if row == (True,):
            return f"DROP TABLE {', '.join(f'split.{name}' for name in (*NEEDED, 'control'))};"
        return "DROP SCHEMA split CASCADE;"


def abort(
    service: Service,
    connections: Connections,
    ledger: Ledger,
    say: Callable[[str], None],
    *,
    drops_own: bool = False,
) -> Aborted:
    """Remove everything that was made for a service, as long as it is not switched.

    Args:
        service: a service that is not switched.
        connections: where the servers are.
        ledger: the monolith's ledger.
        say: called with each step's name.
        drops_own: also drop what the service has made itself, such as its own tables.

    Returns:
        What was removed, and notes on what is left for people to do.

    Raises:
        NotReady: it is switched or completed, another operation was interrupted, or its database
            holds rows that a rollback has quarantined, or what the service has made itself; nothing
            was changed.
    """
    return Abort(service, connections, ledger, say, drops_own=drops_own).run()


def _to_disconnect(session: Session, clients: Sequence[str]) -> str:
    """Say how to end those who are connected to a service's database."""
    end = (
        "Let them disconnect, or:\n"
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE datname = '{session.database.info.dbname}' AND pid <> pg_backend_pid();"
    )
    runners = [one for one in clients if one.endswith(f"({APPLICATION_NAME})")]
    if not runners:
        return end
    role = session.service.role
    stop = (
        f"{', '.join(runners)} is a runner's own session, most likely a follower's, which would"
        f" connect again: where `runner.py sync {role} --follow` runs, stop it."
    )
    return stop if len(runners) == len(clients) else f"{stop}\n{end}"
