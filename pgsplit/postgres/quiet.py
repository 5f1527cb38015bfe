"""Keeps a statement that carries a secret out of its server's logs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

Connection = psycopg.Connection[Any]

# What a server would write the statement to, each with the value that keeps it out: its log, also
# when the statement fails, is slow or crashes the server; and extensions, where they are loaded.
FAILURES = "log_min_error_statement"
QUIET = {
    "log_statement": "none",
    FAILURES: "panic",
    "log_min_duration_statement": "-1",
    "log_min_duration_sample": "-1",
    "log_duration": "off",
    "log_transaction_sample_rate": "0",
    "track_activities": "off",
    "debug_print_parse": "off",
    "debug_print_rewritten": "off",
    "debug_print_plan": "off",
    "debug_print_raw_parse": "off",
    "auto_explain.log_min_duration": "-1",
    "pgaudit.log": "none",
    "pg_stat_statements.track_utility": "off",
    "pg_stat_monitor.pgsm_track_utility": "off",
}
WANTED = """
    select name, setting, wanted, context = 'user' or has_parameter_privilege(name, 'set') as may
    from pg_catalog.pg_settings
    inner join unnest(%s::text[], %s::text[]) as quiet (name, wanted) using (name)
    where setting is distinct from wanted
"""
SET = "select pg_catalog.set_config(name, value, false) from unnest(%s::text[], %s::text[])"
SET += " as given (name, value)"
# Of these, PostgreSQL's defaults write a statement that fails, and show it to other superusers.
HARMLESS_DEFAULTS = ("track_activities",)


@contextmanager
def quiet(connection: Connection) -> Iterator[None]:
    """Turn this session's logging of statements off for the block, as far as its login may.

    Outside of a transaction, so that no sampled transaction is logged either; inside of one it
    works for all else.

    Args:
        connection: the connection that is about to send a secret.
    """
    before = {name: value for name, value, _, may in _wanted(connection) if may}
    _set(connection, {name: QUIET[name] for name in before})
    try:
        yield
    finally:
        # A connection that broke, or a transaction that failed, forgets what was set in it.
        usable = (TransactionStatus.IDLE, TransactionStatus.INTRANS)
        if connection.info.transaction_status in usable:
            _set(connection, before)


def unquiet(connection: Connection) -> list[str]:
    """Name the settings by which this server logs statements, and which this login can't turn off.

    Args:
        connection: a connection to it.

    Returns:
        Their names, in order; nothing if `quiet` keeps everything out.
    """
    return sorted(
        name for name, _, _, may in _wanted(connection) if not may and name not in HARMLESS_DEFAULTS
    )


def _wanted(connection: Connection) -> list[tuple[str, str, str, bool]]:
    return connection.execute(WANTED, (list(QUIET), list(QUIET.values()))).fetchall()


def _set(connection: Connection, values: dict[str, str]) -> None:
    if values:
        connection.execute(SET, (list(values), list(values.values())))
