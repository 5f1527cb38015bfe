"""Tells whether a monolith has forgotten a switch, after a restore or a failover."""

from __future__ import annotations

from datetime import datetime

from pgsplit.project.project import Service
from pgsplit.replication.slot import Connection
from pgsplit.state.ledger import State, state


def forgotten_switch(
    service: Service, monolith: Connection, database: Connection
) -> datetime | None:
    """Tell since when a service is the source of truth although the monolith doesn't know.

    That is so after the monolith was restored, or failed over, to a moment before the switch.

    Args:
        service: the service.
        monolith: a connection to it.
        database: a connection to the service's database.

    Returns:
        None if the monolith knows, or if the service is not switched.
    """
    known = database.execute("select to_regclass('split.service') is not null").fetchone()
    if known != (True,) or state(monolith, service).reached(State.SWITCHED):
        return None
    row = database.execute("select switched_at from split.service").fetchone()
    return row[0] if row else None
