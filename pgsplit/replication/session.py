"""A session: connections to the monolith and a service's database, with streams and fences."""

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
from pgsplit.replication.slot import Connection
from pgsplit.replication.stream import Stream

# Autovacuum cancels itself for whoever waits for its lock, but only after this long.
DEADLOCK_TIMEOUT = "20ms"
CLOCK_READINGS = 5


@dataclass(frozen=True)
class Session:
    """The monolith and a service's database, with the streams and fences between them.

    Once the control database has moved, all services are completed, and it stands for the monolith:
    only ledger and states are still asked of it.
    """

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
        """The write fence on the monolith's tables that the service owns."""
        owned = list(self.service.owned_tables)
        return Fence(self.service, self.monolith, self.service.mirror, owned)

    @property
    def service_fence(self) -> Fence:
        """The write fence on the service's own tables."""
        rows = self.database.execute(
            "select table_name from split.service_tables where owned_rows <> 'false' order by 1"
        )
        return Fence(self.service, self.database, self.service.database, [row[0] for row in rows])

    def clock_offset(self) -> float:
        """Measure how many seconds the service's clock is ahead of the monolith's.

        The reading with the shortest round trip counts, as in NTP.
        """
        monolith, service = self.monolith_fence, self.service_fence
        readings = []
        for _ in range(CLOCK_READINGS):
            before, there, after = monolith.clock(), service.clock(), monolith.clock()
            middle = before + (after - before) / 2
            readings.append((after - before, (there - middle).total_seconds()))
        return min(readings)[1]


def lock_syncs(database: Connection) -> None:
    """Take the sync lock of a service's database until the caller's transaction ends.

    No other sync runs meanwhile, so its mirror stands still.
    """
    database.execute("lock table split.turn in exclusive mode")


@contextmanager
def open_session(service: Service, connections: Connections) -> Iterator[Session]:
    """Connect to the monolith and a service's database.

    Raises:
        ConnectionFailed: one of them can't be reached.
        NotReady: the database is not the one that was provisioned for the service.
    """
    urls = connections.urls
    with (
        connections.connect(connections.control) as monolith,
        explained(connections.control_url, connections.control, monolith),
        connections.connect(service.database) as database,
        explained(urls[service.database], service.database, database),
    ):
        requirements.provisioned(database, service)
        for connection in (monolith, database):
            # Only a superuser can; see Cutover.close for what happens otherwise.
            with suppress(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"set deadlock_timeout = '{DEADLOCK_TIMEOUT}'")
        yield Session(service, connections, monolith, database)
