"""Says what the throttle of a running operation does, and changes it from another process."""

from __future__ import annotations

from typing import Any

import psycopg

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe
from pgsplit.postgres.throttle.throttle import NEWS

Connection = psycopg.Connection[Any]

# The throttle's session says it in its name, so nothing is left of one whose runner was killed.
# Anybody may call a session so, but not as a member of the role that owns the schema.
SAYS = """
    select substr(activity.application_name, length(%(news)s) + 1)
    from pg_stat_activity as activity
    inner join pg_namespace as namespace on namespace.nspname = 'split'
    where
        activity.datname = current_database() and starts_with(activity.application_name, %(news)s)
        and pg_has_role(activity.usesysid, namespace.nspowner, 'member')
    limit 1
"""
ASK = "update split.throttle set max_impact = %s, asked_at = clock_timestamp()"


def says(control: Connection) -> str | None:
    """Tell what the throttle of the running operation does; None if there is none."""
    row = control.execute(SAYS, {"news": NEWS}).fetchone()
    return row[0] if row else None


def ask(control: Connection, max_impact: float | None) -> str:
    """Change the throttle of the running operation, which looks every second.

    Args:
        control: a connection to the control database.
        max_impact: how much slower writes may be, as a share; None turns the throttle off.

    Returns:
        What the throttle does at this moment.

    Raises:
        NotReady: no operation runs that has a throttle.
    """
    said = says(control)
    if said is None:
        raise NotReady(
            "No operation runs that has a throttle. Nothing was changed.",
            where=describe(control.info.dsn),
            hint="Begin it with one: runner.py run --max-impact 10%",
        )
    control.execute(ASK, (max_impact,))
    return said
