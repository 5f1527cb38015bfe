"""Formats sizes, times and names for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

SHOWN = 3


def few(names: Sequence[str], shown: int = SHOWN) -> str:
    """Give the first names and the number of the others: `a, b, c and 4 more`."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def size(count: float) -> str:
    """Give bytes as people read them: 1536 is `1.5 KB`."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"


def seconds(count: float | None) -> str:
    """Give a duration as people read it; `?` if it is unknown."""
    if count is None:
        return "?"
    if count < 10:
        return f"{count:.2f} s"
    return f"{count:.0f} s" if count < 600 else f"{count / 60:,.0f} min"


def ago(moment: datetime) -> str:
    """Say how long ago a moment was."""
    return f"{seconds(max(0.0, (datetime.now(timezone.utc) - moment).total_seconds()))} ago"


def printable(text: str) -> str:
    """Replace characters that are invisible, move the cursor or reverse the text."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
