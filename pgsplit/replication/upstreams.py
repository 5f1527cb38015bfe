"""Upstreams: all streams into one service's mirror, from the monolith and from completed owners."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from psycopg import errors

from pgsplit.base.errors import Busy, ConnectionFailed, NotReady, SplitError
from pgsplit.postgres.connect import describe, explained
from pgsplit.postgres.holders import refusal
from pgsplit.project import drift
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import continuity, requirements
from pgsplit.replication.continuity import Breach
from pgsplit.replication.reverse import ReverseStream
from pgsplit.replication.shared import SharedStream, completed_owners, needs_monolith
from pgsplit.replication.slot import Connection
from pgsplit.replication.stream import BaseStream, Stream
from pgsplit.state.ledger import State, completed, state

LOCK_TIMEOUT = "10s"


@dataclass(frozen=True)
class Upstreams(Stream):
    """All streams into a service's mirror, and the reverse stream if the service is switched.

    `incoming` is the stream from the monolith, as long as the service gets anything from there,
    and a shared stream from each completed owner of what the service shares. `breaches` tell which
    of all these were found to prove nothing any more. `owners` are the completed owners, whether or
    not the streams from them were opened.
    """

    incoming: tuple[BaseStream, ...] = ()
    owners: tuple[Service, ...] = ()
    back: ReverseStream | None = None
    breaches: tuple[Breach, ...] = ()

    @property
    def streams(self) -> tuple[BaseStream, ...]:
        """All of them."""
        return (*self.incoming, self.back) if self.back else self.incoming

    def have_changed(self) -> bool:
        """Tell whether the service has other streams now than when these were opened."""
        is_switched = state(self.monolith, self.service) is State.SWITCHED
        found = tuple(completed_owners(self.monolith, self.service))
        return found != self.owners or is_switched != (self.back is not None)

    def why_stopped(self, stream: BaseStream, otherwise: NotReady | None = None) -> SplitError:
        """Say why one of them does not move; tables that have changed are the first suspect."""
        try:
            drift.drift(self.monolith, self.database, self.service, completed(self.monolith))
        except SplitError as error:
            return error
        return otherwise or stream.stopped()


@contextmanager
def open_upstreams(
    service: Service,
    connections: Connections,
    database: Connection | None = None,
    *,
    with_owners: bool = True,
) -> Iterator[Upstreams]:
    """Connect to all databases that a service's data come from.

    Args:
        service: the service.
        connections: where the servers are.
        database: a connection to its database, if the caller has one.
        with_owners: connect to completed owners, too.

    Raises:
        ConnectionFailed: one of them can't be reached, or no longer; the message names it.
        NotReady: the service has not been built, or a stream has lost a part.
        SourceMismatch: the monolith's tables are no longer those that have landed.
    """
    looked_at: list[Connection] = []
    # Who holds a lock is asked before the connections are closed.
    with ExitStack() as opened, locks_explained(looked_at):

        def connected(target: str) -> Connection:
            found = opened.enter_context(connections.connect(target))
            opened.enter_context(explained(connections.url(target), target, found))
            return found

        # Once the control database has moved, nothing comes from the monolith any more.
        monolith = connected(connections.control)
        looked_at.append(monolith)
        monolith.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")
        stands = _built(service, monolith, connections.urls[service.database])
        if database is None:
            database = connected(service.database)
        looked_at.append(database)
        requirements.provisioned(database, service)
        drift.drift(monolith, database, service, completed(monolith))
        owners = tuple(completed_owners(monolith, service))
        incoming: list[BaseStream] = []
        if needs_monolith(monolith, service):
            incoming.append(Stream(service, monolith, database))
        for owner in owners if with_owners else ():
            there = connected(owner.database)
            incoming.append(SharedStream(service, monolith, database, owner, there))
        back = ReverseStream(service, monolith, database) if stands is State.SWITCHED else None
        streams = (*incoming, back) if back else incoming
        found = tuple(breach for stream in streams if (breach := continuity.look_if_due(stream)))
        for stream in streams:
            stream.require_unbroken()
        yield Upstreams(service, monolith, database, tuple(incoming), owners, back, found)


def require_built(service: Service, connections: Connections, otherwise: ConnectionFailed) -> None:
    """Check that a service has been built, as far as somebody can be asked.

    Args:
        service: the service.
        connections: where the monolith is.
        otherwise: why its own database can't be reached; it counts if the monolith can't, either.

    Raises:
        NotReady: it has not been built.
        ConnectionFailed: nobody knows.
    """
    try:
        with connections.connect(connections.control) as monolith:
            _built(service, monolith, connections.urls[service.database])
    except ConnectionFailed:
        raise otherwise from None


def _built(service: Service, monolith: Connection, url: str) -> State:
    """Give a service's state; refuse one that has not been built."""
    stands = state(monolith, service)
    if not stands.reached(State.BUILT):
        raise NotReady(
            f"{service.database} has not been built since it last landed, so it has no tables"
            " to look at.",
            where=describe(url),
            hint=f"runner.py run {service.role}",
        )
    return stands


@contextmanager
def locks_explained(looked_at: Sequence[Connection]) -> Iterator[None]:
    """Name whoever holds a lock that could not be had in time, in one of these databases."""
    try:
        yield
    except errors.LockNotAvailable as error:
        found = refusal(looked_at, error)
        raise Busy(found.what, where=found.where, hint=found.hint) from error
