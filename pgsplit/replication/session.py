"""Both ends of a service that can be switched: connections, ways and gates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg

from pgsplit.postgres.connect import explained
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import requirements
from pgsplit.replication.fence import Fence
from pgsplit.replication.reverse import ReverseStream
from pgsplit.replication.stream import Connection, Stream

# Autovacuum gives way to whoever waits for a lock, but only after this long.
DEADLOCK_TIMEOUT = "20ms"
CLOCK_READINGS = 5


@dataclass(frozen=True)
class Session:
    """The monolith and a service's database, with all that stands between them."""

    service: Service
    connections: Connections
    monolith: Connection
    database: Connection

    @property
    def forward(self) -> Stream:
        """The stream from the monolith to the mirror."""
        return Stream(self.service, self.monolith, self.database)

    @property
    def reverse(self) -> ReverseStream:
        """The stream from the service's mirror to the monolith."""
        return ReverseStream(self.service, self.monolith, self.database)

    @property
    def monolith_fence(self) -> Fence:
        """The gate before the tables of the monolith that the service owns."""
        owned = list(self.service.owned_tables)
        return Fence(self.service, self.monolith, self.service.mirror, owned)

    @property
    def service_fence(self) -> Fence:
        """The gate before the service's own tables."""
        rows = self.database.execute(
            "select table_name from split.service_tables where owned_rows <> 'false' order by 1"
        )
        return Fence(self.service, self.database, self.service.database, [row[0] for row in rows])

    def clock_offset(self) -> float:
        """Measure by how many seconds the service's clock is ahead of the monolith's.

        The reading with the shortest way there and back counts, as in NTP.
        """
        here, beyond = self.monolith_fence, self.service_fence
        readings = []
        for _ in range(CLOCK_READINGS):
            before, there, after = here.clock(), beyond.clock(), here.clock()
            middle = before + (after - before) / 2
            readings.append((after - before, (there - middle).total_seconds()))
        return min(readings)[1]


@contextmanager
def open_session(service: Service, connections: Connections) -> Iterator[Session]:
    """Connect to both ends of a service.

    Raises:
        ConnectionFailed: one of them can't be reached.
        NotReady: the database is not the one that was provisioned for the service.
    """
    urls = connections.urls
    with (
        connections.connect(connections.monolith) as monolith,
        explained(connections.monolith_url, connections.monolith, monolith),
        connections.connect(service.database) as database,
        explained(urls[service.database], service.database, database),
    ):
        requirements.provisioned(database, service)
        for connection in (monolith, database):
            # What decides must not be undone by a crash, whatever the database is set to.
            connection.execute("set synchronous_commit = on")
            # A login that is no superuser can't; see Walk.close.
            with suppress(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"set deadlock_timeout = '{DEADLOCK_TIMEOUT}'")
        yield Session(service, connections, monolith, database)
