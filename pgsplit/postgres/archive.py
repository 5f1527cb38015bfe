"""Makes the table of contents of a dump plain: without what only the dumped server knows.

A vendor's PostgreSQL may keep storage parameters of its own on tables and columns, and a pg_dump of
another vendor writes them down like any other. No other server takes the tables then.
"""

from __future__ import annotations

import re
from pathlib import Path

CONTENTS = "toc.dat"
COLUMN_PARAMETERS = {b"n_distinct", b"n_distinct_inherited"}
# Of tables, on any supported version; autovacuum's own follow by their prefix.
TABLE_PARAMETERS = {
    *(b"fillfactor", b"parallel_workers", b"toast_tuple_target", b"user_catalog_table"),
    *(b"log_autovacuum_min_duration", b"vacuum_index_cleanup", b"vacuum_truncate"),
    *(b"log_autoanalyze_min_duration", b"vacuum_max_eager_freeze_failure_rate"),
}
COLUMN = re.compile(
    rb"^ALTER TABLE (?:ONLY )?[^\n;]+ ALTER COLUMN [^\n;]+ SET \((?P<all>[^()\n]+)\);$",
    re.MULTILINE,
)
TABLE = re.compile(rb"^WITH \((?P<all>[^()\n]+)\);$", re.MULTILINE)


def make_plain(folder: Path) -> list[str]:
    """Blank a dump's storage parameters that no plain PostgreSQL knows; the dump keeps its length.

    Args:
        folder: a dump in pg_dump's directory format.

    Returns:
        The parameters' names, each once.
    """
    contents, removed = folder / CONTENTS, set[bytes]()
    before = contents.read_bytes()
    after = COLUMN.sub(lambda found: _plain(found, COLUMN_PARAMETERS, removed), before)
    after = TABLE.sub(lambda found: _plain(found, TABLE_PARAMETERS, removed), after)
    if after != before:
        contents.write_bytes(after)
    return sorted(name.decode(errors="replace") for name in removed)


def _plain(found: re.Match[bytes], known: set[bytes], removed: set[bytes]) -> bytes:
    """Give a statement without unknown parameters, as long as it was: the file counts its bytes."""
    kept = []
    for one in found["all"].split(b", "):
        name = one.partition(b"=")[0].strip()
        of_a_table = name.removeprefix(b"toast.")
        if of_a_table in known or of_a_table.startswith(b"autovacuum_"):
            kept.append(one)
        else:
            removed.add(name)
    if not kept:
        return b" " * len(found[0][:-1]) + found[0][-1:]
    start, end = found.start("all") - found.start(), found.end("all") - found.start()
    return found[0][:start] + b", ".join(kept).ljust(end - start) + found[0][end:]
