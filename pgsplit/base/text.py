"""Formats sizes, times and names for people."""

from __future__ import annotations

import json
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
    """Show characters as escapes that are invisible, move the cursor or reverse the text.

    So a name that somebody has given to a table can't write over what a terminal shows. Lines and
    tabs stay.
    """
    return "".join(
        one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode()
        for one in text
    )


def printable_json(document: str) -> str:
    """Escape the same characters in a JSON document, which stays the same document."""
    return "".join(
        one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in document
    )
