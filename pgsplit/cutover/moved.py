"""The result of a cutover, and how long writers stood still."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pgsplit.backup.dump import Backup
from pgsplit.project.project import Service


@dataclass
class Moved:
    """The result of a switch or a rollback.

    `closed_at` is when the first writer had to wait for the old side's fence, `opened_at` when the
    new side let writers in, `first_write_at` when it took the first write, if one came soon; each
    by the clock of its own server. `paused_seconds` and `gap_seconds` are corrected by the
    difference of the clocks, and contain what writers waited in earlier tries to close the fence.
    `kept` names, by table, where rows were quarantined, and how many.
    """

    service: Service
    operation: str
    closed_at: datetime | None = None
    opened_at: datetime | None = None
    first_write_at: datetime | None = None
    paused_seconds: float | None = None
    gap_seconds: float | None = None
    kept: dict[str, tuple[str, int]] = field(default_factory=dict)
    backup: Backup | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def quarantined(self) -> list[str]:
        """What was quarantined, in words."""
        return [
            f"the monolith can't hold {rows:,} row(s) of {table} as they were; the originals are in"
            f" {kept_in}"
            for table, (kept_in, rows) in self.kept.items()
        ]

    def measure(self, clock_offset: float, waited_before: float) -> dict[str, Any]:
        """Work out how long writers stood still.

        Args:
            clock_offset: seconds that the new side's clock is ahead of the old side's.
            waited_before: what they waited in tries that failed.

        Returns:
            What the ledger is to keep; nothing if another runner has seen the pause.
        """
        if not self.closed_at or not self.opened_at:
            return {}
        more = waited_before - clock_offset
        self.paused_seconds = (self.opened_at - self.closed_at).total_seconds() + more
        if self.first_write_at:
            self.gap_seconds = (self.first_write_at - self.closed_at).total_seconds() + more
        return {
            "clock_offset": round(clock_offset, 6),
            "waited_before": round(waited_before, 6),
            "paused_seconds": round(self.paused_seconds, 6),
            "gap_seconds": self.gap_seconds and round(self.gap_seconds, 6),
        }
