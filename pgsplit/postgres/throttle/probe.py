"""Measures on the monolith what an application feels: writes, and what the server says of itself.

The server measures, not this process: a copy keeps Python busy, and its clock would count that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

from pgsplit.postgres.throttle.pace import Load

Connection = psycopg.Connection[Any]

PROBE = Path(__file__).with_name("probe.sql").read_text(encoding="utf-8")
LOAD = Path(__file__).with_name("load.sql").read_text(encoding="utf-8")
APART_MS = 40
SINCE_17 = 170000


def writes(monolith: Connection, number: int, apart_ms: int = APART_MS) -> list[float]:
    """Measure some writes.

    Args:
        monolith: a session on the monolith, which does nothing else.
        number: how many.
        apart_ms: milliseconds between two.

    Returns:
        How many seconds each took.
    """
    done = PROBE.replace("{writes}", str(number)).replace("{apart_ms}", str(apart_ms))
    monolith.execute(done.encode())
    row = monolith.execute("select current_setting('split.took')").fetchone()
    return [float(one) for one in row[0].split()] if row else []


def load(monolith: Connection) -> Load:
    """Ask the monolith's server for its followers' lag, active sessions and forced checkpoints.

    A login that may not read pg_stat_replication is told of no lag.
    """
    is_new = monolith.info.server_version >= SINCE_17
    checkpoints = (
        "num_requested from pg_stat_checkpointer"
        if is_new
        else "checkpoints_req from pg_stat_bgwriter"
    )
    row = monolith.execute(LOAD.replace("{checkpoints}", checkpoints).encode()).fetchone()
    return Load(*row) if row else Load()
