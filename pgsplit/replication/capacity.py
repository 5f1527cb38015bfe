"""Whether a server has room for more streams, and offers what a stream needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from pgsplit.postgres import rights
from pgsplit.postgres.connect import describe
from pgsplit.postgres.managed import dialect
from pgsplit.postgres.need import Need, require

Connection = psycopg.Connection[Any]

# What a source has, and what is used of it without the streams that are named.
PUBLISHING = """
    select
        pg_is_in_recovery(),
        (
            select jsonb_object_agg(name, jsonb_build_array(setting, pending_restart))
            from pg_settings
            where name in ('wal_level', 'max_replication_slots', 'max_wal_senders')
        ),
        (select count(*)::integer from pg_replication_slots where slot_name <> all(%(ours)s)),
        (
            select count(*)::integer from pg_stat_replication
            where pid not in (
                select active_pid from pg_replication_slots
                where slot_name = any(%(ours)s) and active_pid is not null
            )
        )
"""
# What subscriptions of a server share, and what is used of it without those that are named. Until
# PostgreSQL 17 the limit of slots is also that of origins. The launcher is a worker process, too,
# and so are those of extensions.
SUBSCRIBING = """
    with

    others as (
        select count(*)::integer as number from pg_subscription where subname <> all(%(ours)s)
    )

    select
        current_setting('max_logical_replication_workers')::integer,
        others.number,
        current_setting('max_worker_processes')::integer,
        others.number + 1 + (
            select count(*)::integer from pg_stat_activity
            where
                backend_type not in (
                    'client backend', 'autovacuum launcher', 'autovacuum worker', 'archiver',
                    'background writer', 'checkpointer', 'io worker', 'logger', 'parallel worker',
                    'slotsync worker', 'standalone backend', 'startup', 'walreceiver', 'walsender',
                    'walsummarizer', 'walwriter'
                )
                and backend_type not like 'logical replication%%'
        ),
        coalesce(
            current_setting('max_active_replication_origins', true),
            current_setting('max_replication_slots')
        )::integer,
        (
            select count(*)::integer from pg_replication_origin
            where roname not in (
                select 'pg_' || oid from pg_subscription where subname = any(%(ours)s)
            )
        ),
        case
            when current_setting('max_active_replication_origins', true) is null
            then 'max_replication_slots'
            else 'max_active_replication_origins'
        end
    from others
"""


def publishing(source: Connection, ours: Sequence[str], name: str, wanted: int = 1) -> list[Need]:
    """Ask whether a server offers logical decoding, and has free slots and senders.

    Args:
        source: a connection to the database that is to publish.
        ours: the names of slots that don't count.
        name: the database, for people.
        wanted: how many slots and senders are needed.

    Returns:
        What was found.
    """
    row = source.execute(PUBLISHING, {"ours": list(ours)}).fetchone()
    assert row is not None
    is_standby, settings, *used = row
    here = dialect(source)
    level, is_pending = settings["wal_level"]
    logical = here.setting("wal_level", "logical")
    found = [
        Need(
            "primary, not a standby",
            "standby" if is_standby else "primary",
            "primary",
            not is_standby,
            f"The server of {name} is a standby, which can't be written.",
            "Give the URL of the primary.",
        ),
        Need(
            "wal_level",
            level + _pending(is_pending),
            "logical",
            level == "logical",
            f"wal_level is {level}; following {name} needs logical.",
            here.in_words(logical, server=f"the server of {name}"),
            logical,
            needs_restart=True,
        ),
    ]
    for setting, number, what in (
        ("max_replication_slots", used[0], "replication slot"),
        ("max_wal_senders", used[1], "WAL sender"),
    ):
        limit, is_pending = settings[setting]
        promised = f"{number + wanted - 1} of {limit} are in use"
        change = here.setting(setting, max(int(limit), number + wanted - 1) + 20)
        found.append(
            Need(
                setting,
                f"{limit}{_pending(is_pending)}, {number} used",
                f"{number + wanted}",
                number + wanted <= int(limit),
                f"No {what} is free: {promised}{', or will be' if wanted > 1 else ''}.",
                f"{here.in_words(change, server=f'the server of {name}').removesuffix('.')}; or"
                " drop a slot that nobody uses: select * from pg_replication_slots where not"
                " active;",
                change,
                needs_restart=True,
            )
        )
    return found


def subscribing(
    database: Connection, ours: Sequence[str], server: str, wanted: int = 1
) -> list[Need]:
    """Ask whether this login may subscribe in a database, and whether its server has room.

    All databases of a server share workers and origins.

    Args:
        database: a connection to it.
        ours: the names of subscriptions that don't count.
        server: the server, for people.
        wanted: how many subscriptions are needed.

    Returns:
        What was found.
    """
    row = database.execute(SUBSCRIBING, {"ours": list(ours)}).fetchone()
    assert row is not None
    workers, others, processes, busy, origins, used, setting = row
    before, here = wanted - 1, dialect(database)
    more_workers = here.setting("max_logical_replication_workers", others + before + 10)
    more_processes = here.setting("max_worker_processes", busy + before + 20)
    more_origins = here.setting(setting, used + before + 10)
    both = here.in_words(more_workers, more_processes, server=server)
    no_worker = "No logical replication worker is free: "
    return [
        rights.may_subscribe(database),
        Need(
            "max_logical_replication_workers",
            f"{workers}, {others} used",
            f"{others + wanted}",
            others + wanted <= workers,
            f"{no_worker}{others + before} subscriptions share {workers}.",
            both,
            more_workers,
            needs_restart=True,
        ),
        Need(
            "max_worker_processes",
            f"{processes}, {busy} used",
            f"{busy + wanted}",
            busy + wanted <= processes,
            f"{no_worker}{busy + before} of {processes} max_worker_processes are in use.",
            both,
            more_processes,
            needs_restart=True,
        ),
        Need(
            setting if setting != "max_replication_slots" else "replication origins",
            f"{origins}, {used} used",
            f"{used + wanted}",
            used + wanted <= origins,
            f"No replication origin is free: {used + before} of {origins} are in use.",
            here.in_words(more_origins, server=server),
            more_origins,
            needs_restart=True,
        ),
    ]


def can_publish(source: Connection, slot: str, name: str, promised: int = 0) -> None:
    """Check that a server offers logical decoding, and has a free slot and a free sender.

    Args:
        source: a connection to the database that is to publish.
        slot: the name of the slot that it is to have, which doesn't count.
        name: the database, for people.
        promised: how many slots and senders others are about to take.

    Raises:
        NotReady: it doesn't, or has none; or it is a standby.
    """
    require(publishing(source, [slot], name, promised + 1), describe(source.info.dsn))


def can_subscribe(database: Connection, subscription: str, server: str, promised: int = 0) -> None:
    """Check that this login may subscribe in a database, and that its server has room for it.

    Args:
        database: a connection to it.
        subscription: the subscription's name, which doesn't count.
        server: the server, for people.
        promised: how many subscriptions are about to be made there.

    Raises:
        NotReady: it may not, or no worker or no origin is free.
    """
    require(
        subscribing(database, [subscription], server, promised + 1), describe(database.info.dsn)
    )


def _pending(is_pending: bool) -> str:
    return ", restart pending" if is_pending else ""
