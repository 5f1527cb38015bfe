"""Takes a service's roles out of other databases of their server: its own is all that they need.

Whoever owns a table may grant a right to any role, or name it in a policy. A role that is named
anywhere can't be dropped.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psycopg
from psycopg import sql

from pgsplit.base.errors import ConnectionFailed
from pgsplit.postgres import roles
from pgsplit.postgres.connect import connect, with_database

Connection = psycopg.Connection[Any]

# Databases that name a role, and in which it owns nothing.
NAMED = """
    select database.datname
    from pg_shdepend as depends
    inner join pg_roles as role on role.oid = depends.refobjid
    inner join pg_database as database on database.oid = depends.dbid
    where
        depends.refclassid = 'pg_authid'::regclass and role.rolname = %s
        and database.datname <> %s
    group by 1
    having not bool_or(depends.deptype = 'o')
    order by 1
"""


def take_away(server: Connection, role: str, home: str, url: str) -> None:
    """Take a role's rights in other databases away, where we may; nothing that it owns is dropped.

    Args:
        server: a connection to any database of its server.
        role: one of the service's roles, which exists.
        home: the service's database.
        url: any URL of that server.
    """
    drop = sql.SQL("drop owned by {}").format(sql.Identifier(role))
    named = server.execute(NAMED, (role, home)).fetchall()
    if named:
        roles.join(server, role)
    for (name,) in named:
        # Where we can't, dropping the role says what is left.
        with (
            suppress(ConnectionFailed, psycopg.errors.InsufficientPrivilege),
            connect(with_database(url, name), name) as there,
        ):
            there.execute(drop)
