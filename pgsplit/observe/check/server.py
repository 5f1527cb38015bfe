"""What a check asks of each server: version, room, what others keep there, programs, and disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from pgsplit.base.errors import SplitError
from pgsplit.base.text import few, size
from pgsplit.observe.check.links import Link
from pgsplit.observe.check.places import Connection, Place
from pgsplit.postgres import clients, managed
from pgsplit.postgres.need import Need
from pgsplit.replication import capacity

SERVER = Path(__file__).with_name("server.sql").read_text(encoding="utf-8")
OLDEST, NEWEST = 15, 18
# What the runner and dbt open at once while they copy, build and compare.
CONNECTIONS = 20
MANY_BYTES = 1024**3
PROGRAMS = ("pg_dump", "pg_restore", "psql")
LOCAL = ("localhost", "127.0.0.1", "::1")


def about_server(place: Place, ours: Sequence[str]) -> None:
    """Ask a server for its version, and for what this login may use of it.

    Args:
        place: the server.
        ours: the slots of the services that are checked.
    """
    connection = place.first
    found = one_document(connection, SERVER)
    here = managed.dialect(connection)
    place.provider, place.version = here.provider, found["version"].split(" ")[0]
    place.is_super = found["is_super"]
    major = found["number"] // 10000
    place.add(
        [
            Need(
                "version",
                place.version,
                f"{OLDEST} to {NEWEST}",
                OLDEST <= major <= NEWEST,
                f"{place.name} has PostgreSQL {major}."
                + ("" if major < OLDEST else " Nobody has tried this version."),
                "Upgrade the server." if major < OLDEST else "",
                is_optional=major > NEWEST,
            )
        ],
        "everything",
    )
    if connection.info.backend_pid != found["pid"]:
        place.add([_proxy()], "everything")
    place.add(_connections(found, here), "land, build")
    place.add(_others(found, ours), "land")
    fix, sees = f"GRANT pg_monitor TO {found['user']};", bool(found["sees_statistics"])
    said = f"{place.user} can't see how late streams are. Without it health and metrics don't know."
    place.add(
        [Need("sees all statistics", "yes" if sees else "no", "yes", sees, said, fix, fix, True)],
        "health, metrics",
    )
    if found["expires"]:
        fix = f"ALTER ROLE {found['user']} VALID UNTIL 'infinity';"
        said = f"The password of {place.user} expires on {found['expires']}. Replication that keeps"
        said += " this login stops then."
        place.add(
            [Need("password", "expires soon", "lasts", False, said, fix, is_optional=True)], ""
        )


def _proxy() -> Need:
    said = "A proxy answers, not the server itself; it keeps the settings of a session."
    hint = "If it is a pooler, let the URL name the server."
    return Need("direct connection", "a proxy", "direct", False, said, hint, is_optional=True)


def _connections(found: dict[str, Any], here: managed.Dialect) -> Iterator[Need]:
    free = found["max_connections"] - found["reserved"] - found["connected"]
    change = here.setting("max_connections", found["max_connections"] + CONNECTIONS)
    yield Need(
        "max_connections",
        f"{found['max_connections']}, {found['connected']} used",
        f"{CONNECTIONS} free",
        free >= CONNECTIONS,
        f"Only {max(free, 0)} connections are free; a run opens up to {CONNECTIONS}.",
        change,
        change,
        needs_restart=True,
    )
    limit = found["login_limit"]
    if 0 <= limit < CONNECTIONS:
        fix = f"ALTER ROLE {found['user']} CONNECTION LIMIT -1;"
        said = f"This login may have only {limit} connections; a run opens up to {CONNECTIONS}."
        yield Need("login's connections", str(limit), str(CONNECTIONS), False, said, fix, fix)


def _others(found: dict[str, Any], ours: Sequence[str]) -> Iterator[Need]:
    slots = [one for one in found["slots"] if one["name"] not in ours]
    idle = [one for one in slots if not one["active"] and one["kept"] > MANY_BYTES]
    listed = few([f"{one['name']} ({size(one['kept'])})" for one in idle or slots], 3)
    yield Need(
        "slots of others",
        f"{len(slots)}" if slots else "none",
        "none that is idle",
        not idle,
        f"Nobody reads these slots, and the server keeps WAL for them: {listed}.",
        "If nobody needs them: "
        + " ".join(f"SELECT pg_drop_replication_slot('{one['name']}');" for one in idle),
        is_optional=True,
    )
    if found["slot_time_out"] not in ("0", "0s"):
        said = f"idle_replication_slot_timeout = {found['slot_time_out']} ends a stream that was"
        said += " paused for that long: its mirror has to be copied again."
        fix = "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();"
        yield Need("slot time-out", found["slot_time_out"], "0", False, said, fix, is_optional=True)
    limit = found["slot_limit"]
    yield Need(
        "max_slot_wal_keep_size", "no limit" if limit == "-1" else limit, "room for a pause", True
    )


def room(place: Place, publishes: Sequence[Link], subscribes: Sequence[Link]) -> None:
    """Ask a server for room for all streams that it will serve at once.

    Args:
        place: the server.
        publishes: the streams that begin there, each with a slot.
        subscribes: the streams that end there.
    """
    connection = place.first
    for streams, ask, server in (
        (publishes, capacity.publishing, place.name),
        (subscribes, capacity.subscribing, f"the server {place.name}"),
    ):
        if streams:
            needs = ask(connection, [one.name for one in streams], server, len(streams))
            place.add(needs, ", ".join(dict.fromkeys(one.purpose for one in streams)))


def programs(place: Place, url: str) -> None:
    """Look for client programs that fit a server."""
    needed = "yes"
    try:
        wanted = clients.needs(url)
        tls = " with TLS" if wanted.tls else ""
        needed = f"{wanted.version} or later{tls}"
        found = [clients.find(name, wanted, 0 if name == "psql" else None) for name in PROGRAMS]
    except SplitError as error:
        there = ", ".join(clients.versions(PROGRAMS[0])) or "none"
        place.refuse("client programs", error, "backup, switch, psql", there, needed)
        return
    shown = ", ".join(dict.fromkeys(str(one.version) for one in found))
    need = Need("client programs", f"{shown}{tls}", needed, True)
    place.add([need], "backup, switch, psql")


def disk(place: Place, database: Connection, needed: int) -> None:
    """Ask how much room a service's server has, where this login and this machine may know."""
    free = None
    if place.host.startswith("/") or place.host in LOCAL:
        with suppress(psycopg.errors.InsufficientPrivilege, OSError):
            row = database.execute("select current_setting('data_directory')").fetchone()
            free = shutil.disk_usage(row[0]).free if row else None
    found = size(free) if free is not None else "not known here"
    said = f"{place.name} has {found} of disk free; its services need about {size(needed)}."
    ok = free is None or free >= needed
    place.add(
        [Need("free disk", found, f"about {size(needed)}", ok, said, "Give it more.")], "land"
    )


def one_document(database: Connection, query: str) -> dict[str, Any]:
    """Ask a query that gives one JSON document."""
    row = database.execute(query.encode()).fetchone()
    assert row is not None
    return dict(row[0])
