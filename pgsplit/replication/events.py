"""Reads what happened to the users that a service shares: its ordered inbox, `user_events`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Event
from typing import Any

import psycopg
from psycopg import sql

from pgsplit.base.errors import NotReady
from pgsplit.project.endpoints import Connections, describe, explained
from pgsplit.project.project import MONOLITH, Service
from pgsplit.replication.read_through import owner_of_users
from pgsplit.replication.shared import consumers
from pgsplit.state.ledger import state

CHANNEL = "user_events"
BATCH = 1_000
# A notification may be missed while the connection is made anew; a look is cheap.
LOOK_SECONDS = 5.0

Numbered = tuple[int, dict[str, Any]]


class Gone(NotReady):
    """Events that were asked for are older than what is kept, or the inbox is another by now."""


def bounds(service: Service, connections: Connections) -> tuple[int, int]:
    """Give the sequence of the last event that is gone, and that of the newest.

    Raises:
        NotReady: the service has no inbox.
    """
    with _inbox(service, connections) as database:
        row = database.execute(
            sql.SQL(
                "select events_removed_to,"
                " coalesce((select max(sequence) from {}.user_events), events_removed_to)"
                " from split.service"
            ).format(sql.Identifier(service.database))
        ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def read(service: Service, connections: Connections, since: int) -> Iterator[Numbered]:
    """Give the events behind a sequence, in order, as the strategy's `UserEvent`.

    Args:
        service: a service that shares users.
        connections: where its database is.
        since: the sequence of the last event that was read; 0 for all that are kept.

    Raises:
        Gone: some of them are older than what is kept, or there never was such a sequence.
        NotReady: the service has no inbox.
        ConnectionFailed: its database can't be reached, or no longer.
    """
    with _inbox(service, connections) as database:
        yield from _read(database, service, since)


def follow(
    service: Service, connections: Connections, since: int, stop: Event
) -> Iterator[Numbered]:
    """Give the events behind a sequence as they come, until told to stop; see `read`."""
    with _inbox(service, connections) as database:
        database.execute(f"listen {CHANNEL}")
        while not stop.is_set():
            for sequence, event in _read(database, service, since):
                yield sequence, event
                since = sequence
            for _ in database.notifies(timeout=LOOK_SECONDS, stop_after=1):
                break


def keep(service: Service, connections: Connections, how_long: timedelta) -> None:
    """Set how long a service's events are kept; those that are older go when others come."""
    with _inbox(service, connections) as database:
        database.execute("update split.service set keep_events = %s", (how_long,))


def _read(database: psycopg.Connection[Any], service: Service, since: int) -> Iterator[Numbered]:
    query = sql.SQL("select * from {}.user_events_since(%s, %s)").format(
        sql.Identifier(service.database)
    )
    while True:
        try:
            rows = database.execute(query, (since, BATCH)).fetchall()
        except psycopg.errors.NoDataFound as error:
            raise Gone(
                str(error.diag.message_primary),
                where=describe(database.info.dsn),
                mend=str(error.diag.message_hint),
            ) from error
        for since, event in rows:
            yield since, event
        if len(rows) < BATCH:
            return


@contextmanager
def _inbox(service: Service, connections: Connections) -> Iterator[psycopg.Connection[Any]]:
    """Connect to the database of a service that has an inbox."""
    url = connections.urls[service.database]
    with (
        connections.connect(service.database) as database,
        explained(url, service.database, database),
    ):
        _require_inbox(service, connections, database)
        yield database


def _require_inbox(
    service: Service, connections: Connections, database: psycopg.Connection[Any]
) -> None:
    if service not in consumers(owner_of_users()):
        raise NotReady(
            f"{service.database} owns the users: it has no inbox of what happens to them.",
            where=describe(database.info.dsn),
            mend="Ask another service's: runner.py events payments",
        )
    row = database.execute(
        "select to_regclass(%s) is not null", (f"{service.database}.user_events",)
    ).fetchone()
    if row != (True,):
        with connections.connect(MONOLITH) as monolith:
            stands = state(monolith, service).value
        raise NotReady(
            f"{service.database} is {stands}, and has no inbox yet.",
            where=describe(database.info.dsn),
            mend=f"runner.py run {service.role}",
        )
