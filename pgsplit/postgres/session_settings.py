"""What every session of ours runs with, whatever a database, a role or a server sets for others.

`SETTINGS` travels with the connection as startup options, so it holds before the first statement
runs. dbt's profile has the same ones. `UNDO` then undoes what else a database or a role sets: the
owner of a database may give all its sessions a role, a search path or a time-out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

# Names are found in pg_catalog only: anybody may be allowed to create in any other schema.
SETTINGS: Mapping[str, str] = {
    "search_path": "pg_catalog,pg_temp",
    "role": "none",
    "local_preload_libraries": "",
    # A row that a policy would hide is an error, not a row that is missing.
    "row_security": "off",
    "check_function_bodies": "on",
    # Nothing interrupts a copy.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "exit_on_error": "off",
    # Transactions are what the code says.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "synchronous_commit": "on",
    # Statements mean what they say.
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "transform_null_equals": "off",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "default_tablespace": "",
    "temp_tablespaces": "",
    "default_table_access_method": "heap",
    # Compiling a catalogue query takes seconds where a server has JIT.
    "jit": "off",
    "client_min_messages": "notice",
    # Both sides write values alike where they are compared as text.
    "client_encoding": "UTF8",
    "timezone": "UTC",
    "datestyle": "ISO,MDY",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "xmloption": "content",
}

# Fails with a division by zero where a pooler has dropped the options: then no other statement may
# run, since it would find its functions and operators where somebody else says, and settings would
# reach the pooler's other clients. So it names everything with its schema, operators too.
HOLDS = """
    select pg_catalog.int4div(1, pg_catalog.int4(pg_catalog.booland_statefunc(
        pg_catalog.texteq(pg_catalog.current_setting('search_path'), 'pg_catalog,pg_temp'),
        pg_catalog.texteq(pg_catalog.current_setting('row_security'), 'off')
    )));
"""
# Undoes what is none of SETTINGS: the others are many, and differ by version. What tunes a session
# (memory, planner, logging) may stay.
UNDO = r"""
    select pg_catalog.set_config(name, coalesce(boot_val, ''), false)
    from pg_catalog.pg_settings
    where
        source in ('global', 'database', 'user', 'database user')
        and category ~ '^(Client|Connections|Developer|Error|Lock|Replication|Version|Write)'
        and (
            context = 'user'
            or context = 'superuser' and pg_catalog.current_setting('is_superuser') = 'on'
        )
"""
# Reading a view or a foreign table runs its owner's functions. Known since 15.8, 16.4 and 17.
ONLY_TABLES = """
    select pg_catalog.set_config('restrict_nonsystem_relation_kind', 'view, foreign-table', false)
    where pg_catalog.current_setting('restrict_nonsystem_relation_kind', true) is not null
"""
UNDONE = """
    select name, setting from pg_catalog.pg_settings
    where source = 'session' and category !~ '^Reporting' order by name
"""
# PostgreSQL 15 and 16 refuse it as an option. It comes early, and ends the time-out at once.
SINCE_17 = {"transaction_timeout": "0"}


def options(given: object = None, **changed: str) -> str:
    """Give libpq's parameter `options`, with which a session has our settings.

    Args:
        given: what the connection's URL says under `options`; ours win. None stands for the
            variable PGOPTIONS, which libpq would use.
        changed: settings that this session has another value for.

    Returns:
        The options, such as `-c search_path=pg_catalog,pg_temp`.
    """
    before = os.environ.get("PGOPTIONS", "") if given is None else str(given)
    ours = [f"-c {name}={_escaped(value)}" for name, value in {**SETTINGS, **changed}.items()]
    return " ".join([before, *ours] if before else ours)


def after_connecting(server_version: int) -> str:
    """Give the SQL with which a session begins, for PQserverVersion's number."""
    settings = SINCE_17 if server_version >= 170000 else {}
    return HOLDS + "".join(f"set {name} = {value}; " for name, value in settings.items()) + UNDO


def dbt_options(others: Mapping[str, str]) -> str:
    """Give settings as they follow the search path in dbt's profile.

    dbt knows a search path only, which it passes on as `-c search_path=…` with each blank escaped.
    A tab is not escaped, so it begins an option of its own.
    """
    return "".join(f"\t-c\t{name}={value}" for name, value in others.items())


def _escaped(value: str) -> str:
    return re.sub(r"([\s\\])", r"\\\1", value)
