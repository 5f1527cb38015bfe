"""Keeps the passwords of user mappings, by which a database reads another one, out of backups."""

from __future__ import annotations

from pathlib import Path

from pgsplit.project.endpoints import Connections

# As pg_dump asks, and as it writes them: what this login doesn't see, pg_dump doesn't get either.
PASSWORDS = """
    select distinct pg_catalog.convert_to(
        pg_catalog.quote_literal(options.option_value), pg_catalog.getdatabaseencoding()
    )
    from pg_catalog.pg_user_mappings as mappings
    cross join lateral pg_catalog.pg_options_to_table(mappings.umoptions) as options
    where options.option_name ~ 'password$' and options.option_value <> ''
"""


def passwords(connections: Connections, target: str) -> set[bytes]:
    """Give the passwords in a database's user mappings, as pg_dump writes them."""
    with connections.connect(target) as database:
        return {bytes(row[0]) for row in database.execute(PASSWORDS)}


def mask(part: Path, known: set[bytes]) -> None:
    """Overwrite passwords in a dump's table of contents, where pg_dump has written definitions.

    What replaces one is as long as it was, since the file gives the length of each text.

    Args:
        part: a dump in pg_dump's directory format.
        known: the passwords, as `passwords` gives them.
    """
    file = part / "toc.dat"
    before = after = file.read_bytes()
    for literal in sorted(known, key=len, reverse=True):
        masked = b"'" + b"x" * (len(literal) - 2) + b"'"
        after = after.replace(b"password " + literal, b"password " + masked)
    if after != before:
        file.write_bytes(after)
