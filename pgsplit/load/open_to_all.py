"""Databases of a service's server to which everybody may connect, so its applications, too."""

from __future__ import annotations

from typing import Any

import psycopg

from pgsplit.project.project import Service

# Where PUBLIC may connect: whether others may need that, and whether this login does.
OPEN = """
    select
        datname,
        datname not in ('postgres', 'template1') as is_used,
        datname = 'postgres' and not (
            pg_has_role(current_user, datdba, 'usage')
            or exists (
                select from aclexplode(datacl) as entry
                where
                    entry.privilege_type = 'CONNECT' and entry.grantee <> 0
                    and pg_has_role(current_user, entry.grantee, 'usage')
            )
        ) as needs_grant
    from pg_catalog.pg_database
    where datallowconn and datname <> %s and has_database_privilege(%s, oid, 'connect')
    order by datname
"""


def notes(server: psycopg.Connection[Any], service: Service, database: str) -> list[str]:
    """Say where else a service's login may connect, and how to forbid it.

    The operator decides about that: other people may use these databases.

    Args:
        server: a connection to the server.
        service: the service.
        database: its own database.

    Returns:
        A note, or nothing.
    """
    found = server.execute(OPEN, (database, service.login)).fetchall()
    if not found:
        return []
    names = [name for name, _, _ in found]
    said = [f"services, like everybody, can also connect to {', '.join(names)}."]
    if closing := [_quoted(name) for name, is_used, _ in found if not is_used]:
        said[0] += " To forbid it:"
        if any(needs_grant for _, _, needs_grant in found):
            user = _quoted(server.info.user)
            said.append(f'  GRANT CONNECT ON DATABASE "postgres" TO {user};')
        said.append(f"  REVOKE CONNECT ON DATABASE {', '.join(closing)} FROM PUBLIC;")
    if used := [name for name, is_used, _ in found if is_used]:
        said.append(
            f"To forbid it in {', '.join(used)} would shut out every login that has no right of its"
            " own to connect there: first grant it to each of them."
        )
    return ["\n".join(said)]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
