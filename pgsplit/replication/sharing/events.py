"""Reads the inbox of a shared table: what happened to its rows, in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Event
from typing import Any

import psycopg
from psycopg import sql

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe, explained
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service, SharedModel
from pgsplit.state.control import open_control
from pgsplit.state.ledger import state
from pgsplit.state.schema import require_current

BATCH = 1_000
# A notification may be missed while the connection is re-opened; looking is cheap.
LOOK_SECONDS = 5.0

Numbered = tuple[int, dict[str, Any]]


class Gone(NotReady):
    """The events asked for are older than those that are kept, or the inbox was re-created."""


def inbox(service: Service, entity: str = "") -> SharedModel:
    """Find the shared table whose events are wanted.

    Args:
        service: the service.
        entity: what the events are about, such as `order`; may be left out if there is only one.

    Raises:
        NotReady: the service shares no such table with events; or several, and none was named.
    """
    models = [one for one in service.project.shared_models if one.has_events]
    found = [
        one
        for one in models
        if entity in ("", one.entity)
        and any(service.project.tables[name].shared.get(service.database) for name in one.follows)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise NotReady(
            f"{service.database} has several inboxes.",
            where=service.database,
            hint=f"Name one: --of {' or --of '.join(one.entity for one in found)}",
        )
    owners = {service.project.tables[name].owner for one in models for name in one.follows}
    owned = ", ".join(f"{one.entity}s" for one in models)
    others = [one.role for one in service.project.services.values() if one.database not in owners]
    if service.database in owners:
        what = f"{service.database} owns the {owned}: it has no inbox of their events."
    else:
        what = f"{service.database} has no inbox{f' of {entity} events' if entity else ''}."
    raise NotReady(
        what,
        where=service.database,
        hint=f"Ask another service's: runner.py events {others[0]}" if others and models else "",
    )


def bounds(service: Service, connections: Connections, model: SharedModel) -> tuple[int, int]:
    """Give the sequence numbers of the last removed event and of the newest event.

    Raises:
        NotReady: the service's inbox has not been made yet.
    """
    with _connected(service, connections, model) as database:
        row = database.execute(
            sql.SQL(
                "select removed_to, coalesce((select max(sequence) from {}), removed_to)"
                " from split.inboxes where entity = {}"
            ).format(sql.Identifier(service.database, model.inbox), sql.Literal(model.entity))
        ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def read(
    service: Service, connections: Connections, model: SharedModel, since: int
) -> Iterator[Numbered]:
    """Give the events after a sequence number, in order, each as a JSON document.

    Args:
        service: a service that has the inbox.
        connections: where its database is.
        model: the shared table whose events they are; see `inbox`.
        since: the sequence number of the last event that was read; 0 for all that are kept.

    Raises:
        Gone: some of them are no longer kept, or there never was such a sequence number.
        NotReady: the service's inbox has not been made yet.
        ConnectionFailed: its database can't be reached, or no longer.
    """
    with _connected(service, connections, model) as database:
        yield from _read(database, service, model, since)


def follow(
    service: Service, connections: Connections, model: SharedModel, since: int, stop: Event
) -> Iterator[Numbered]:
    """Give the events after a sequence number as they happen, until told to stop; see `read`."""
    with _connected(service, connections, model) as database:
        database.execute(sql.SQL("listen {}").format(sql.Identifier(model.inbox)))
        while not stop.is_set():
            for sequence, event in _read(database, service, model, since):
                yield sequence, event
                since = sequence
            for _ in database.notifies(timeout=LOOK_SECONDS, stop_after=1):
                break


def keep(
    service: Service, connections: Connections, model: SharedModel, how_long: timedelta
) -> None:
    """Set how long a service's events are kept; older ones are removed when new ones arrive."""
    with _connected(service, connections, model) as database:
        database.execute("update split.service set keep_events = %s", (how_long,))


def _read(
    database: psycopg.Connection[Any], service: Service, model: SharedModel, since: int
) -> Iterator[Numbered]:
    query = sql.SQL("select * from {}(%s, %s)").format(
        sql.Identifier(service.database, f"{model.inbox}_since")
    )
    while True:
        try:
            rows = database.execute(query, (since, BATCH)).fetchall()
        except psycopg.errors.NoDataFound as error:
            raise Gone(
                str(error.diag.message_primary),
                where=describe(database.info.dsn),
                hint=str(error.diag.message_hint),
            ) from error
        for since, event in rows:
            yield since, event
        if len(rows) < BATCH:
            return


@contextmanager
def _connected(
    service: Service, connections: Connections, model: SharedModel
) -> Iterator[psycopg.Connection[Any]]:
    """Connect to the database of a service whose inbox exists."""
    url = connections.urls[service.database]
    with (
        connections.connect(service.database) as database,
        explained(url, service.database, database),
    ):
        found = database.execute(
            "select to_regclass(%s) is not null", (f"{service.database}.{model.inbox}",)
        ).fetchone()
        if found != (True,):
            with open_control(connections) as monolith:
                stands = state(monolith, service).value
            raise NotReady(
                f"{service.database} is {stands}, and has no inbox yet.",
                where=describe(database.info.dsn),
                hint=f"runner.py run {service.role}",
            )
        require_current(database, service)
        yield database
