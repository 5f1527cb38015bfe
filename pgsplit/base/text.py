"""Formats sizes, times and names for people."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime, timezone

SHOWN = 3
# Up to which length a duration is told in a unit, and that unit's length.
LENGTHS = ((600, 1, "s"), (36000, 60, "min"), (864000, 3600, "h"))
UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


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
    for limit, length, unit in LENGTHS:
        if count < limit:
            return f"{count / length:.0f} {unit}"
    return f"{count / 86400:,.0f} days"


def duration(text: str) -> float | None:
    """Read a duration such as 500ms, 5s, 2min, 1h or 1d, in seconds; None if it is none."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|min|h|d)?", text.strip())
    return float(found[1]) * UNITS[found[2] or "s"] if found else None


def percent(text: str) -> float | None:
    """Read a share such as 10% as 0.1; None if it is none, or not more than nothing."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?%", text.strip())
    return float(found[1]) / 100 or None if found else None


def ago(moment: datetime) -> str:
    """Say how long ago a moment was."""
    return f"{seconds(max(0.0, (datetime.now(timezone.utc) - moment).total_seconds()))} ago"


def rfc3339(moment: datetime, timespec: str = "auto") -> str:
    """Give a moment as RFC 3339 in UTC: `2026-01-31T12:00:00Z`; `seconds` leaves out fractions.

    Raises:
        ValueError: the moment has no time zone, so nobody knows when it was.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    return moment.astimezone(timezone.utc).isoformat(timespec=timespec).replace("+00:00", "Z")


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
