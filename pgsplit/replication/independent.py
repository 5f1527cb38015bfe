"""Independent services: completed, like all whose tables they share; they need no monolith.

Such a service gets everything from the owners' databases, and its own database tells that. So what
keeps it in step asks neither the monolith nor the ledger. An owner that can't be reached makes only
its own stream wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from psycopg import errors

from pgsplit.base.errors import ConnectionFailed
from pgsplit.postgres.connect import explained
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


@dataclass(frozen=True)
class Independent:
    """A connection to the database of an independent service, and the way to its owners'."""

    service: Service
    connections: Connections
    database: Connection

    @property
    def owners(self) -> list[Service]:
        """The services whose tables it shares."""
        return owners(self.service)

    def have_changed(self) -> bool:
        """Tell whether the service has other streams now."""
        return not is_independent(self.service, self.database)

    @contextmanager
    def stream_from(self, owner: Service, database: Connection) -> Iterator[SharedStream]:
        """Connect to an owner; give the stream from there to this database of the service.

        Raises:
            ConnectionFailed: the owner's database can't be reached, or no longer.
            Busy: somebody has locked a table there or here.
        """
        url = self.connections.urls[owner.database]
        with (
            self.connections.connect(owner.database) as there,
            explained(url, owner.database, there),
            locks_explained([database, there]),
        ):
            yield SharedStream(self.service, None, database, owner, there)


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


@contextmanager
def open_streams(
    service: Service, connections: Connections, *, is_built: bool = False
) -> Iterator[Upstreams | Independent]:
    """Connect to a service's database, and to all that its data come from if it needs the monolith.

    Args:
        service: the service.
        connections: where the servers are.
        is_built: the caller knows that it has been built.

    Raises:
        ConnectionFailed: its database can't be reached, or the monolith, if it needs that.
        NotReady: the service has not been built, or a stream has lost a part.
        SourceMismatch: the monolith's tables are no longer those that have landed.
    """
    url = connections.urls[service.database]
    with ExitStack() as opened:
        try:
            database = opened.enter_context(connections.connect(service.database))
        except ConnectionFailed as error:
            if not is_built:  # then there may be none yet
                require_built(service, connections, error)
            raise
        opened.enter_context(explained(url, service.database, database))
        if is_independent(service, database):
            requirements.provisioned(database, service)
            opened.enter_context(locks_explained([database]))
            yield Independent(service, connections, database)
        else:
            yield opened.enter_context(open_upstreams(service, connections, database))


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
