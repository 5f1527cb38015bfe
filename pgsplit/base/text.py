"""Sizes, times and text as people read them."""

from __future__ import annotations

from datetime import datetime, timezone


def size(count: float) -> str:
    """Give bytes as people read them: 1536 is `1.5 KB`."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"


def seconds(count: float | None) -> str:
    """Give a time as people read it; `?` when it is not known."""
    if count is None:
        return "?"
    if count < 10:
        return f"{count:.2f} s"
    return f"{count:.0f} s" if count < 600 else f"{count / 60:,.0f} min"


def ago(moment: datetime) -> str:
    """Give how long ago something was."""
    return f"{seconds(max(0.0, (datetime.now(timezone.utc) - moment).total_seconds()))} ago"


def printable(text: str) -> str:
    """Give text in which nothing moves a cursor, turns a line around or is not to be seen."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
