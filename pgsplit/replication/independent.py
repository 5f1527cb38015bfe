"""What a service's data come from, as its own database tells it.

Its own database knows whether it has been switched or completed, and has the subscriptions. So
whoever keeps a service in step need not ask the monolith first. A service is *independent* if it
and all whose tables it shares are completed: it needs neither the monolith nor the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from psycopg import errors

from pgsplit.base.errors import ConnectionFailed
from pgsplit.postgres.connect import SHORT_TIMEOUT_SECONDS, explained
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import requirements
from pgsplit.replication.shared import SharedStream, owners, stream_name
from pgsplit.replication.slot import Connection
from pgsplit.replication.upstreams import (
    Upstreams,
    locks_explained,
    open_upstreams,
    require_built,
)

# A stream leaves its record when it is removed; one that somebody has only dropped is missed.
INDEPENDENT = """
    with

    streams as (
        select stream from split.streams
        union
        select subname::text from pg_subscription
        where subdbid = (select oid from pg_database where datname = current_database())
    )

    select
        completed_at is not null
        and not exists (select from streams where stream = %s)
        and not exists (
            select from unnest(%s::text[]) as wanted (stream)
            where not exists (select from streams where streams.stream = wanted.stream)
        )
    from split.service
"""
IS_ITS_OWN = "select switched_at is not null or completed_at is not null from split.service"
SUBSCRIPTIONS = """
    select subname::text from pg_subscription
    where subdbid = (select oid from pg_database where datname = current_database())
"""


@dataclass(frozen=True)
class Sources:
    """A connection to a service's database, and the way to all that its data come from.

    `owners` are the completed services from whose databases it gets what it shares.
    """

    service: Service
    connections: Connections
    database: Connection
    owners: tuple[Service, ...]
    needs_monolith: bool

    def have_changed(self) -> bool:
        """Tell whether the service has other sources now."""
        found = sources(self.service, self.connections, self.database)
        return found is None or (self.owners, self.needs_monolith) != (
            found.owners,
            found.needs_monolith,
        )

    @contextmanager
    def stream_from(self, owner: Service, database: Connection) -> Iterator[SharedStream]:
        """Connect to an owner; give the stream from there to this database of the service.

        Raises:
            ConnectionFailed: the owner's database, or the monolith if the service needs it, can't
                be reached, or no longer.
            Busy: somebody has locked a table there or here.
        """
        connections, control = self.connections, self.connections.control
        with ExitStack() as opened:
            there = opened.enter_context(connections.connect(owner.database))
            opened.enter_context(explained(connections.urls[owner.database], owner.database, there))
            monolith = None
            if self.needs_monolith:
                monolith = opened.enter_context(
                    connections.connect(control, connect_timeout=SHORT_TIMEOUT_SECONDS)
                )
                opened.enter_context(explained(connections.control_url, control, monolith))
            opened.enter_context(locks_explained([database, there]))
            yield SharedStream(self.service, monolith, database, owner, there)


def is_independent(service: Service, database: Connection) -> bool:
    """Tell from a service's own database whether it is independent.

    Args:
        service: the service.
        database: a connection to its database.

    Returns:
        False also if an earlier version has made it, or if one of its streams is being re-created.
    """
    shared = [stream_name(service, owner) for owner in owners(service)]
    try:
        row = database.execute(INDEPENDENT, (service.replication, shared)).fetchone()
    except (errors.UndefinedTable, errors.UndefinedColumn):
        return False
    return row == (True,)


def sources(service: Service, connections: Connections, database: Connection) -> Sources | None:
    """Tell from a service's own database where its data come from.

    Args:
        service: the service.
        connections: where the servers are.
        database: a connection to its database.

    Returns:
        None as long as the monolith is the source of truth: only that knows then.
    """
    if is_independent(service, database):
        return Sources(service, connections, database, tuple(owners(service)), False)
    try:
        row = database.execute(IS_ITS_OWN).fetchone()
    except (errors.UndefinedTable, errors.UndefinedColumn):
        return None
    if row != (True,):
        return None
    there = {name for (name,) in database.execute(SUBSCRIPTIONS)}
    found = [one for one in owners(service) if stream_name(service, one) in there]
    return Sources(service, connections, database, tuple(found), True)


@contextmanager
def open_streams(service: Service, connections: Connections) -> Iterator[Upstreams | Sources]:
    """Connect to a service's database, and to all that its data come from if it needs the monolith.

    Args:
        service: the service.
        connections: where the servers are.

    Raises:
        ConnectionFailed: its database can't be reached, or the monolith, if it needs that.
        NotReady: the service has not been built, or a stream has lost a part.
        SourceMismatch: the monolith's tables are no longer those that have landed.
    """
    with open_own(service, connections) as database:
        if is_independent(service, database):
            requirements.provisioned(database, service)
            with locks_explained([database]):
                yield Sources(service, connections, database, tuple(owners(service)), False)
        else:
            with open_upstreams(service, connections, database) as upstreams:
                yield upstreams


@contextmanager
def open_own(
    service: Service, connections: Connections, *, is_built: bool = False
) -> Iterator[Connection]:
    """Connect to a service's own database.

    Args:
        service: the service.
        connections: where the servers are.
        is_built: the caller knows that it has been built.

    Raises:
        ConnectionFailed: it can't be reached, or no longer.
        NotReady: the service has not been built, so there may be none yet.
    """
    with ExitStack() as opened:
        try:
            database = opened.enter_context(connections.connect(service.database))
        except ConnectionFailed as error:
            if not is_built:
                require_built(service, connections, error)
            raise
        url = connections.urls[service.database]
        opened.enter_context(explained(url, service.database, database))
        yield database


def on_their_own(services: Iterable[Service], connections: Connections) -> list[Service]:
    """Name those of some services that are independent, as far as their databases are reached."""
    found = []
    for service in services:
        try:
            with connections.connect(service.database) as database:
                if is_independent(service, database):
                    found.append(service)
        except ConnectionFailed:
            continue  # whoever needs it is told by name
    return found
