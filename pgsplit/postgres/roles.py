"""Drops roles; one that can't be dropped loses its login, so that nobody keeps what it opened."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psycopg
from psycopg import errors, sql

from pgsplit.base.text import few

END_SESSIONS = "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s"


def join(server: psycopg.Connection[Any], name: str) -> None:
    """Let this login take away what a role may and owns, if it may give itself that right.

    Who has made a role with CREATEROLE may drop it, but not what it was granted.

    Args:
        server: a connection to any database of its server.
        name: the role, which is there.
    """
    grant = sql.SQL("grant {} to current_user").format(sql.Identifier(name))
    with suppress(errors.InsufficientPrivilege), server.transaction():
        server.execute(grant)


def drop(server: psycopg.Connection[Any], name: str) -> str:
    """Drop a role; or, if it owns something in another database, keep everybody from using it.

    Every login can make something that outlives it, such as a large object or default privileges,
    wherever it may connect. No operation may stop because of that.

    Args:
        server: a connection to any database of its server.
        name: the role, which is there.

    Returns:
        What depends on it; nothing if it is dropped.
    """
    role = sql.Identifier(name)
    try:
        with server.transaction():  # it may be part of another one, which goes on
            server.execute(sql.SQL("drop role {}").format(role))
    except errors.DependentObjectsStillExist as error:
        disable = "alter role {} nologin noreplication password null"
        can_replicate = server.execute(
            "select rolreplication from pg_catalog.pg_roles where rolname = %s", (name,)
        ).fetchone() == (True,)
        if not can_replicate:  # only who has this attribute may name it
            disable = "alter role {} nologin password null"
        server.execute(sql.SQL(disable).format(role))
        with suppress(errors.InsufficientPrivilege), server.transaction():
            server.execute(END_SESSIONS, (name,))
        return few((error.diag.message_detail or str(error).strip()).splitlines())
    return ""


def advice(name: str, owns: str, user: str) -> str:
    """Say what depends on a role that was not dropped, and how to drop it.

    Args:
        name: the role.
        owns: what `drop` gave.
        user: who is to own that instead.
    """
    role, heir = (sql.Identifier(one).as_string() for one in (name, user))
    return (
        f"The role {name} is still there, but nobody can log in as it any more. This depends on it:"
        f" {owns}. To drop it, look at that, and in each database that holds some of it: REASSIGN"
        f" OWNED BY {role} TO {heir}; DROP OWNED BY {role}; and at last: DROP ROLE {role}; If it"
        " has sessions: SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename ="
        f" {sql.Literal(name).as_string()};"
    )
