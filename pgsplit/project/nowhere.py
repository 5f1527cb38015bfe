"""Tables and columns of the monolith that go nowhere, as seeds/column_ownership.csv says."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pgsplit.base.errors import NotReady
from pgsplit.project.ownership import pairs
from pgsplit.project.project import OWNERSHIP_FILE, Project

WHOLE_TABLE = "*"


def goes_nowhere(project: Project) -> Mapping[tuple[str, str], str]:
    """Give what goes nowhere, with the reason.

    Args:
        project: the project.

    Returns:
        The reasons by table and column; the column is `*` for a whole table.

    Raises:
        NotReady: a line gives no reason, or is about a whole table that a service owns.
    """
    found = {}
    for pair in pairs(project):
        table, column = pair.monolith_table, pair.monolith_column
        owner = project.tables[table].owner if table in project.tables else ""
        if column == WHOLE_TABLE and (owner or pair.service):
            raise _wrong(
                project,
                f"A line is about the whole table {table}, which {owner or pair.service} gets.",
                f"Write one line for each column of {table}; `*` is for a table that goes nowhere.",
            )
        if pair.service:
            continue
        if not (pair.reason or "").strip():
            raise _wrong(
                project,
                f"{table}.{column} goes nowhere, and nothing says why.",
                f"Give the reason, the last field: {table},{column},,,,,WHY",
            )
        found[table, column] = pair.reason
    return found


def as_json(project: Project) -> str:
    """Give what goes nowhere to the analyses' macro `goes_nowhere()`."""
    keys = ("monolith_table", "monolith_column", "reason")
    return json.dumps(
        [
            dict(zip(keys, (*where, why), strict=True))
            for where, why in goes_nowhere(project).items()
        ]
    )


def _wrong(project: Project, what: str, hint: str) -> NotReady:
    return NotReady(what, where=str(project.root / OWNERSHIP_FILE), hint=hint)
