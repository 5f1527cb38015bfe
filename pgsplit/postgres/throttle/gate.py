"""Stops and lets go what waits in SQL: rows that a query reads, by the function `split.breathe()`.

It waits while somebody holds an advisory lock in its database. A session that ends lets go of its
locks, so a runner that is killed leaves nobody waiting.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from pgsplit.postgres.throttle import priority
from pgsplit.postgres.throttle.unthrottled import AT_WORK

Connection = psycopg.Connection[Any]

KEY = "hashtext('split.breathe')"
SHUT = f"select pg_try_advisory_lock({KEY})"
OPEN = f"select pg_advisory_unlock({KEY})"
CAN_BREATHE = "select to_regprocedure('split.breathe()') is not null"
# One row in so many asks whether to wait. PostgreSQL may not leave out a volatile condition.
ROWS_BETWEEN = 100
BREATHING = """
    select * from ({query}) as paced
    where case when random() < {part} then split.breathe() else true end
"""
# A session is at rest while it waits in split.breathe(), or for a client that is at rest.
SESSIONS = f"""
    select pid, state = 'active' and coalesce(wait_event_type, '') not in ('Client', 'Timeout')
    from pg_catalog.pg_stat_activity
    where
        datname = current_database() and usename = current_user
        and application_name in ('{AT_WORK}', 'dbt')
        and backend_start >= clock_timestamp() - make_interval(secs => %s)
"""


def breathing(query: sql.Composable) -> sql.Composed:
    """Give a query with the same rows that waits between some of them while the gate is shut."""
    return sql.SQL(BREATHING).format(query=query, part=sql.Literal(1 / ROWS_BETWEEN))


class Gate:
    """The gate of one database."""

    def __init__(self, connection: Connection) -> None:
        """Begin with an open gate; the connection is a session that does nothing else."""
        self.connection = connection
        self.is_shut = False
        self.listener = priority.listener(connection)
        self.lowered: set[int] = set()

    def shut(self) -> None:
        """Have queries wait; if one is asking at this very moment, the next call does it."""
        if not self.is_shut:
            self.is_shut = self.connection.execute(SHUT).fetchone() == (True,)

    def open(self) -> None:
        """Let queries go on."""
        if self.is_shut:
            self.connection.execute(OPEN)
            self.is_shut = False

    def lower(self, seconds: float) -> str:
        """Lower the priority of our sessions at work.

        Args:
            seconds: how long ago the throttle began; older sessions are none of its work.

        Returns:
            Why that is impossible, or nothing.
        """
        if self.listener is None:
            return "the server is not on this machine, or is reached by TCP"
        for process, _ in self.connection.execute(SESSIONS, (seconds,)).fetchall():
            if process not in self.lowered:
                self.lowered.add(process)
                if said := priority.lower(process, self.listener):
                    return said
        return ""

    def is_quiet(self, seconds: float) -> bool:
        """Tell whether none of our sessions is at work at this moment; see `lower`."""
        found = self.connection.execute(SESSIONS, (seconds,)).fetchall()
        return not any(is_active for _, is_active in found)
