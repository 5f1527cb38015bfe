"""Whether a server has room for one more stream, and offers what a stream needs."""

from __future__ import annotations

from typing import Any

import psycopg

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe

Connection = psycopg.Connection[Any]

# What subscriptions of a server share, and what is used of it without the one that is named. Until
# PostgreSQL 17 the limit of slots is also that of origins. The launcher is a worker process, too,
# and so are those of extensions.
ROOM = """
    with

    others as (
        select count(*)::integer as number from pg_subscription where subname <> %(subscription)s
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
                select 'pg_' || oid from pg_subscription where subname = %(subscription)s
            )
        ),
        case
            when current_setting('max_active_replication_origins', true) is null
            then 'max_replication_slots'
            else 'max_active_replication_origins'
        end
    from others
"""


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
    where = describe(source.info.dsn)
    if source.execute("select pg_is_in_recovery()").fetchone() == (True,):
        raise NotReady(
            f"The server of {name} is a standby, which can't be written.",
            where=where,
            hint="Give the URL of the primary.",
        )
    settings = dict(
        source.execute(
            "select name, setting from pg_settings"
            " where name in ('wal_level', 'max_replication_slots', 'max_wal_senders')"
        ).fetchall()
    )
    if settings["wal_level"] != "logical":
        raise NotReady(
            f"wal_level is {settings['wal_level']}; following {name} needs logical.",
            where=where,
            hint=f"ALTER SYSTEM SET wal_level = 'logical'; then restart the server of {name}.",
        )
    row = source.execute(
        "select (select count(*) from pg_replication_slots where slot_name <> %s),"
        " (select count(*) from pg_stat_replication)",
        (slot,),
    ).fetchone()
    assert row is not None
    for setting, used, what in (
        ("max_replication_slots", row[0], "replication slot"),
        ("max_wal_senders", row[1], "WAL sender"),
    ):
        if used + promised >= int(settings[setting]):
            raise NotReady(
                f"No {what} is free: {used + promised} of {settings[setting]} are in use"
                f"{', or will be' if promised else ''}.",
                where=where,
                hint=f"ALTER SYSTEM SET {setting} = {int(settings[setting]) + 20}; then restart"
                f" the server of {name}; or drop a slot that nobody uses:"
                " select * from pg_replication_slots where not active;",
            )


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
    row = database.execute(
        "select rolsuper or (current_setting('server_version_num')::integer >= 160000"
        " and pg_has_role((select oid from pg_roles where rolname = 'pg_create_subscription'),"
        " 'usage'))"
        " from pg_roles where rolname = current_user"
    ).fetchone()
    if row != (True,):
        raise NotReady(
            f"{database.info.user} may not create a subscription.",
            where=describe(database.info.dsn),
            hint="Connect as a superuser, or on PostgreSQL 16 and later:"
            f' GRANT pg_create_subscription TO "{database.info.user}";',
        )
    _has_room(database, subscription, server, promised)


def _has_room(database: Connection, subscription: str, server: str, promised: int) -> None:
    """Check that a server has a worker and an origin left; all its databases share them."""
    row = database.execute(ROOM, {"subscription": subscription}).fetchone()
    assert row is not None
    workers, others, processes, busy, origins, used, setting = row
    others, busy, used = others + promised, busy + promised, used + promised
    if others >= workers or busy >= processes:
        what = f"{others} subscriptions share {workers}"
        if others < workers:
            what = f"{busy} of {processes} max_worker_processes are in use"
        raise NotReady(
            f"No logical replication worker is free: {what}.",
            where=describe(database.info.dsn),
            hint=f"ALTER SYSTEM SET max_logical_replication_workers = {others + 10};"
            f" ALTER SYSTEM SET max_worker_processes = {busy + 20};"
            f" then restart {server}.",
        )
    if used >= origins:
        raise NotReady(
            f"No replication origin is free: {used} of {origins} are in use.",
            where=describe(database.info.dsn),
            hint=f"ALTER SYSTEM SET {setting} = {used + 10}; then restart {server}.",
        )
