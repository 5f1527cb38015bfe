"""What a login needs where it may not even connect: nothing can be asked there, only granted.

psql works the statements out on the server: `\\gexec` runs what a query gives.
"""

from __future__ import annotations

from collections.abc import Sequence

from pgsplit.observe.check.places import LATER_SUPERUSER, SUPERUSER

REPLICATION = """\
SELECT coalesce((SELECT 'GRANT rds_replication TO {user}' FROM pg_roles
  WHERE rolname = 'rds_replication'), 'ALTER ROLE {user} REPLICATION') \\gexec"""
SUBSCRIPTION = """\
SELECT CASE WHEN current_setting('server_version_num')::int >= 160000
  THEN 'GRANT pg_create_subscription TO {user}'
  ELSE 'ALTER ROLE {user} SUPERUSER' END \\gexec"""
OWNERS = """\
SELECT DISTINCT format('GRANT %I TO {user}', pg_get_userbyid(relowner)) FROM pg_class
  WHERE relnamespace = to_regnamespace('{schema}') AND relkind IN ('r', 'p')
    AND relname IN ({tables}) AND NOT pg_has_role('{name}', relowner, 'usage') \\gexec"""


def statements(
    user: str,
    database: str,
    schema: str,
    tables: Sequence[str],
    attributes: Sequence[str],
    *,
    is_asked: bool,
) -> list[str]:
    """Give what an operator pastes for a login that may not connect to the monolith.

    Args:
        user: the login.
        database: the monolith's database; empty if it may not connect to a service's server.
        schema: the monolith's schema.
        tables: its tables that are followed.
        attributes: further ones that the login needs there, such as CREATEDB.
        is_asked: whether another of the server's databases tells who may subscribe.

    Returns:
        The statements, in order.
    """
    login = _quoted(user)
    # Within a literal, too.
    given = {"user": login.replace("'", "''"), "schema": _quoted(schema).replace("'", "''")}
    lines = [REPLICATION.format(**given)]
    if attributes:
        lines.append(f"ALTER ROLE {login} {' '.join(attributes)};")
    if database:
        listed = ", ".join("'" + one.replace("'", "''") + "'" for one in tables)
        lines += [
            f"GRANT CREATE ON DATABASE {_quoted(database)} TO {login};",
            f"\\connect {_quoted(database)}",
            f"GRANT USAGE ON SCHEMA {_quoted(schema)} TO {login};",
            OWNERS.format(tables=listed, name=user.replace("'", "''"), **given),
        ]
    if is_asked:
        return lines
    why = SUPERUSER if "CREATEDB" in attributes else LATER_SUPERUSER
    return [*lines, f"-- {why}", SUBSCRIPTION.format(**given)]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
