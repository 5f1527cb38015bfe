"""What the ledger remembers of an operation that was interrupted: its pause and its backup."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pgsplit.project.project import Service
from pgsplit.state.ledger import Ledger

# Entries since the last time that such an operation was finished or undone.
ENTRIES = """
    select
        max(detail ->> 'closed_at') filter (where step = %(operation)s || ': close'),
        max(detail ->> 'opened_at') filter (where step = %(operation)s || ': open'),
        max(detail ->> 'path')
            filter (where step = 'backup' and intent ->> 'phase' = %(operation)s)
    from split.ledger
    where
        service = %(service)s
        and outcome = 'done'
        and id > (
            select coalesce(max(id), 0) from split.ledger
            where
                service = %(service)s and step = %(operation)s and outcome is not null
                and not coalesce((detail ->> 'unfinished')::boolean, false)
        )
"""


@dataclass(frozen=True)
class Recalled:
    """When writers were kept out and let in, each by its own server's clock; the backup's path."""

    closed_at: datetime | None
    opened_at: datetime | None
    backup: str | None


def recall(service: Service, operation: str, ledger: Ledger) -> Recalled:
    """Read what an interrupted operation has done; a field that is not known is None."""
    row = ledger.connection.execute(
        ENTRIES, {"service": service.database, "operation": operation}
    ).fetchone()
    assert row is not None
    closed, opened, path = row
    return Recalled(
        datetime.fromisoformat(closed) if closed else None,
        datetime.fromisoformat(opened) if opened else None,
        path,
    )
