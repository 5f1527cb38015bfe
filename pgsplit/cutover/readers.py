"""Finds who still reads the monolith's tables that are about to be retired."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from pgsplit.base.text import few, printable
from pgsplit.postgres.connect import APPLICATION_NAME

# A busy session hands its counters over once a second.
MOMENT_SECONDS = 2.5
LOOK_SECONDS = 0.1
# Whoever replicates here looks up each row that it changes; that is no reader.
SCANS = """
    select
        relname,
        seq_scan + coalesce(idx_scan, 0), n_tup_ins + n_tup_upd + n_tup_del
    from pg_catalog.pg_stat_user_tables
    where schemaname = %s and relname = any(%s)
"""
# Who has just named one of them; a view or a function would not show.
WHO = """
    select distinct
        coalesce(nullif(activity.application_name, ''), 'a session'), activity.usename,
        coalesce(host(activity.client_addr), 'this machine')
    from pg_catalog.pg_stat_activity as activity
    where activity.datname = current_database()
        and activity.backend_type = 'client backend'
        and activity.pid <> pg_backend_pid()
        and activity.application_name not like %s
        and activity.query_start >= %s
        and exists (
            select from unnest(%s::text[]) as names (name)
            where position(lower(name) in lower(activity.query)) > 0
        )
"""

Connection = psycopg.Connection[Any]


def still_reading(monolith: Connection, schema: str, tables: Sequence[str]) -> list[str]:
    """Count for a moment how often tables are scanned; give a warning if anybody does.

    Args:
        monolith: a connection to the monolith.
        schema: the tables' schema.
        tables: their names.

    Returns:
        A warning with the tables, the number of scans and who was seen, or nothing.
    """
    if not tables:
        return []
    names = list(tables)
    monolith.execute("select pg_stat_force_next_flush()")  # else our own scans come later
    row = monolith.execute("select clock_timestamp()").fetchone()
    began = row[0] if row else None
    before, ends = _scans(monolith, schema, names), time.monotonic() + MOMENT_SECONDS
    seen = set[str]()
    while time.monotonic() < ends:
        time.sleep(LOOK_SECONDS)
        found = monolith.execute(WHO, (f"{APPLICATION_NAME}%", began, names))
        seen |= {f"{one} of {user} from {address}" for one, user, address in found}
    after = _scans(monolith, schema, names)
    scans = {
        name: more
        for name, (scanned, written) in after.items()
        if (more := scanned - before[name][0] - (written - before[name][1])) > 0
    }
    if not scans:
        return []
    who = f" Seen: {few([printable(one) for one in sorted(seen)])}." if seen else ""
    read = few([f"{schema}.{name} ({count} scans)" for name, count in scans.items()])
    return [
        f"Somebody still reads the monolith's tables: in {MOMENT_SECONDS:g} seconds {read}."
        f"{who} Once they are retired, these reads fail. To see more:"
        " select * from pg_stat_activity where query ~ "
        f"'{next(iter(scans))}';"
    ]


def _scans(
    monolith: Connection, schema: str, names: Sequence[str]
) -> Mapping[str, tuple[int, int]]:
    rows = monolith.execute(SCANS, (schema, list(names)))
    return {name: (scans, written) for name, scans, written in rows}
