"""Warnings of a lag above the limit."""

from __future__ import annotations

from collections.abc import Iterator

from pgsplit.base.text import seconds
from pgsplit.project.project import Service


def warnings(
    service: Service,
    limit: float,
    *,
    mirror: float | None,
    tables: float | None,
    pending: int | None,
    monolith: float | None,
) -> Iterator[str]:
    """Say what lags too far behind, with a hint.

    Args:
        service: the service.
        limit: the longest lag in seconds that is no warning.
        mirror: how far its mirror is behind.
        tables: how far its tables are behind.
        pending: the changes that have arrived but not been applied to them.
        monolith: how far the monolith is behind a switched service.
    """
    database, least = service.database, f"the limit is {seconds(limit)}."
    look = (
        f"\n  hint:  If it does not shrink, see both servers' logs: runner.py status {service.role}"
    )
    if (mirror or 0.0) > limit:
        yield f"The mirror of {database} is {seconds(mirror)} behind its source; {least}{look}"
    elif (tables or 0.0) > limit:
        yield (
            f"{database} is up to {seconds(tables)} behind, and {pending or 0:,} changes wait to be"
            f" applied; {least}\n  hint:  runner.py sync {service.role} --follow"
        )
    if (monolith or 0.0) > limit:
        yield f"The monolith is {seconds(monolith)} behind {database}; {least}{look}"
