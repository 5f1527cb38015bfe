"""What must and must not be there in each state of a service: nothing of ours is left over.

`leftovers` compares every publication, slot, subscription, replication origin, fence, role and
session on all servers with what the services' states call for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication.fence import TRIGGERS, Fence
from pgsplit.replication.shared import completed_owners, needs_monolith
from pgsplit.replication.subscription import published
from pgsplit.routing import env_file
from pgsplit.routing.env_file import Side
from pgsplit.state.ledger import State, state
from pgsplit.state.saga import left_unfinished

Connection = psycopg.Connection[Any]

PATIENCE_SECONDS = 10.0
PUBLICATIONS = "select pubname from pg_publication order by 1"
SLOTS = """
    select slot_name from pg_replication_slots
    where database = current_database() and not temporary order by 1
"""
SUBSCRIPTIONS = """
    select subname from pg_subscription
    where subdbid = (select oid from pg_database where datname = current_database()) order by 1
"""
# Of the whole server: an origin belongs to a subscription, and has its number in its name.
STRAY_ORIGINS = """
    select roname from pg_replication_origin
    where roname not in (select 'pg_' || oid from pg_subscription) order by 1
"""
PREPARED = "select gid from pg_prepared_xacts order by 1"
SESSIONS = """
    select pid || ' ' || application_name || ' ' || state || ': ' || left(query, 60)
    from pg_stat_activity
    where application_name like 'pgsplit%' and pid <> pg_backend_pid() order by 1
"""
TRANSACTIONS = """
    select pid || ' ' || application_name || ': ' || left(query, 60) from pg_stat_activity
    where state like 'idle in transaction%' order by 1
"""
ENABLED_TRIGGERS = """
    select tgrelid::regclass::text || ' ' || tgname from pg_trigger
    inner join pg_class on pg_class.oid = tgrelid
    where tgname = any(%s) and relnamespace = to_regnamespace(%s) and relname = any(%s)
        and (tgenabled <> 'D' or %s)
    order by 1
"""


@dataclass
class _Expected:
    """What one database is to have."""

    publications: set[str] = field(default_factory=set)
    slots: set[str] = field(default_factory=set)
    subscriptions: set[str] = field(default_factory=set)


def leftovers(connections: Connections) -> list[str]:
    """Find what is there and should not be, or the other way round, on all servers.

    What ends by itself, such as the session of a killed runner, gets some seconds.

    Args:
        connections: where the servers are; all of them run, and no runner or client does.

    Returns:
        A line for each finding; nothing if all is as the services' states call for.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := list(_findings(connections))) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def _findings(connections: Connections) -> Iterator[str]:
    with ExitStack() as stack:
        # By another name than a runner's, so that sessions left by one can be told.
        def opened(target: str) -> Connection:
            return stack.enter_context(connections.connect(target, application_name="leftovers"))

        monolith = opened(connections.monolith)
        services = connections.project.services
        if not _one(monolith, "select to_regclass('split.states') is not null"):
            return
        yield from (
            f"{database}: {entry.detail['operation']} is unfinished"
            for database, entry in left_unfinished(monolith).items()
        )
        states = {name: state(monolith, one) for name, one in services.items()}
        databases = {connections.monolith: monolith}
        for name, service in services.items():
            if states[name] is State.ABSENT:
                yield from _of_absent(service, connections, monolith)
            else:
                databases[name] = opened(name)
        expected = _expected(connections, monolith, states)
        for name, database in databases.items():
            yield from _replication(name, database, expected[name])
            yield from _server(name, database)
        for name, service in services.items():
            if states[name] is not State.ABSENT:
                yield from _fences(service, states[name], monolith, databases[name])
                yield from _routes(service, states[name], connections)


def _expected(
    connections: Connections, monolith: Connection, states: Mapping[str, State]
) -> dict[str, _Expected]:
    expected = {target: _Expected() for target in connections.urls}
    for name, service in connections.project.services.items():
        here, there = expected[name], expected[connections.monolith]
        if states[name].reached(State.LANDED) and needs_monolith(monolith, service):
            _stream(service.replication, there, here)
        if states[name] is State.SWITCHED:
            _stream(service.reverse_replication, here, there)
        if states[name].reached(State.LANDED):
            for owner in completed_owners(monolith, service):
                shared = f"{service.replication}_from_{owner.database}"
                _stream(shared, expected[owner.database], here)
    return expected


def _stream(name: str, source: _Expected, target: _Expected) -> None:
    source.publications.add(name)
    source.slots.add(name)
    target.subscriptions.add(name)


def _replication(name: str, database: Connection, expected: _Expected) -> Iterator[str]:
    for what, query, wanted in (
        ("publication", PUBLICATIONS, expected.publications),
        ("slot", SLOTS, expected.slots),
        ("subscription", SUBSCRIPTIONS, expected.subscriptions),
    ):
        there = set(_all(database, query))
        yield from (f"{name}: the {what} {one} is left over" for one in sorted(there - wanted))
        yield from (f"{name}: the {what} {one} is missing" for one in sorted(wanted - there))


def _server(name: str, database: Connection) -> Iterator[str]:
    for what, query in (
        ("replication origin", STRAY_ORIGINS),
        ("prepared transaction", PREPARED),
        ("session", SESSIONS),
        ("open transaction", TRANSACTIONS),
    ):
        yield from (f"{name}: the {what} {one} is left over" for one in _all(database, query))


def _fences(
    service: Service, stands: State, monolith: Connection, database: Connection
) -> Iterator[str]:
    owned = list(service.owned_tables)
    old = Fence(service, monolith, service.mirror, owned)
    is_switched = stands is State.SWITCHED
    if old.is_closed_for_good() is not is_switched:
        yield f"{service.database}: the monolith's fence is not as {stands.value} calls for"
    if not old.is_open() and not old.is_closed_for_good():
        yield f"{service.database}: the monolith's fence is closed on a lease"
    if stands is State.COMPLETED and old.exists():
        yield f"{service.database}: the monolith's fence is left over"
    enabled = _triggers(old, stands is State.COMPLETED)
    if is_switched and len(enabled) != len(owned) * len(TRIGGERS):
        yield f"{service.database}: the monolith's fence lacks triggers, it has {enabled}"
    if stands.reached(State.LANDED):
        yield from _published(service, stands, monolith, database)
    if stands.reached(State.BUILT):
        row = database.execute(
            "select table_name from split.service_tables where owned_rows <> 'false'"
        ).fetchall()
        new = Fence(service, database, service.database, [one[0] for one in row])
        takes = stands.reached(State.SWITCHED)
        if new.exists() and new.is_open() is not takes:
            yield f"{service.database}: its own fence is not as {stands.value} calls for"
        marked = _one(database, "select switched_at is not null from split.service")
        if marked is not takes:
            yield f"{service.database}: split.service disagrees with {stands.value}"


def _published(
    service: Service, stands: State, monolith: Connection, database: Connection
) -> Iterator[str]:
    owned = set(service.owned_tables)
    forward = bool(published(monolith, service.replication) & owned)
    if forward is stands.reached(State.SWITCHED):
        yield f"{service.database}: the monolith publishes owned tables: {forward}"
    reverse = bool(published(database, service.reverse_replication) & owned)
    if reverse is not (stands is State.SWITCHED):
        yield f"{service.database}: the service publishes owned tables: {reverse}"


def _routes(service: Service, stands: State, connections: Connections) -> Iterator[str]:
    place = Side.SERVICE if stands.reached(State.SWITCHED) else Side.MONOLITH
    if env_file.sides(service, connections)[1] is not place:
        yield f"{service.database}: writes are not routed to the {place.value}"


def _of_absent(service: Service, connections: Connections, monolith: Connection) -> Iterator[str]:
    name = service.database
    if env_file.file(service, connections).exists():
        yield f"{name}: its routes are left over"
    fence = Fence(service, monolith, service.mirror, list(service.owned_tables))
    if fence.exists():
        yield f"{name}: the monolith's fence is left over"
    yield from (f"{name}: the trigger {one} is left over" for one in _triggers(fence, True))
    url = connections.urls[name]
    with psycopg.connect(url, dbname="postgres", application_name="leftovers") as server:
        where = [conninfo_to_dict(url)["dbname"]]
        if server.execute("select from pg_database where datname = %s", where).rowcount:
            yield f"{name}: its database is left over"
        marked = server.execute(
            "select rolname from pg_roles where shobj_description(oid, 'pg_authid') = %s",
            [service.mark],
        ).fetchall()
        yield from (f"{name}: the role {one} is left over" for (one,) in marked)


def _triggers(fence: Fence, disabled_too: bool) -> list[str]:
    values = (list(TRIGGERS), fence.schema, list(fence.tables), disabled_too)
    return [row[0] for row in fence.database.execute(ENABLED_TRIGGERS, values)]


def _all(connection: Connection, query: Any) -> list[str]:
    return [row[0] for row in connection.execute(query)]


def _one(connection: Connection, query: Any) -> Any:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]
