"""Takes a service's roles out of other databases of their server: its own is all that they need.

Whoever owns a table may grant a right to any role, or name it in a policy. A role that is named
anywhere can't be dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import connect, describe, with_database

Connection = psycopg.Connection[Any]

# Databases that name some roles; whether one owns something there, apart from the database.
NAMED = """
    select role.rolname, database.datname, bool_or(depends.deptype = 'o')
    from pg_shdepend as depends
    inner join pg_roles as role on role.oid = depends.refobjid
    inner join pg_database as database on database.oid = depends.dbid
    where
        depends.refclassid = 'pg_authid'::regclass and role.rolname = any(%s)
        and database.datname <> %s
    group by 1, 2
    order by 1, 2
"""


def owned(server: Connection, roles: Sequence[str], home: str) -> list[tuple[str, str]]:
    """Find what a service's roles own in other databases than theirs; nothing here drops that.

    Args:
        server: a connection to any database of their server.
        roles: the roles.
        home: the service's database.

    Returns:
        What was found, each with the statement that lets the role go.
    """
    return [
        (
            f"{role} owns something in the database {name}",
            f'In {name}: REASSIGN OWNED BY "{role}" TO "{server.info.user}";',
        )
        for role, name, owns in server.execute(NAMED, (list(roles), home)).fetchall()
        if owns
    ]


def take_away(server: Connection, role: str, home: str, url: str) -> None:
    """Take a role's rights in other databases away, and drop it; idempotent.

    Args:
        server: a connection to any database of its server.
        role: one of the service's roles, which exists.
        home: the service's database.
        url: any URL of that server.

    Raises:
        NotReady: it owns something there, or others would have to take its rights away.
        ConnectionFailed: such a database can't be reached.
    """
    if found := owned(server, [role], home):
        raise NotReady(
            f"The role {role} can't be dropped: {', '.join(what for what, _ in found)}.",
            where=describe(url),
            hint="\n".join([*(fix for _, fix in found), "Then: runner.py resume"]),
        )
    identifier = sql.Identifier(role)
    # It owns nothing in these databases, so this only takes rights away, those on databases, too.
    drop = sql.SQL("drop owned by {}").format(identifier)
    server.execute(drop)
    for _, name, _ in server.execute(NAMED, ([role], home)).fetchall():
        with connect(with_database(url, name), name) as there:
            there.execute(drop)
    try:
        server.execute(sql.SQL("drop role {}").format(identifier))
    except psycopg.errors.DependentObjectsStillExist as error:
        raise NotReady(
            f"The role {role} can't be dropped: others have given it rights, on"
            f" {error.diag.message_detail}",
            where=describe(url),
            hint=f'There, as a superuser: DROP OWNED BY "{role}";\nThen: runner.py resume',
        ) from error
