"""How values reach Python: a time or number that Python or JSON can't hold comes as text.

PostgreSQL's times reach from 4713 BC to 294276 and to infinity, Python's from year 1 to 9999. One
such value in any row must not stop a command, so this holds for every connection. JSON has no
infinity and no NaN.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.adapt import AdaptersMap, Buffer, Loader
from psycopg.types import datetime as times
from psycopg.types.numeric import FloatLoader

NOT_FINITE = (b"infinity", b"nan")
TEXT_LOADERS: dict[str, type[Loader]] = {
    "date": times.DateLoader,
    "time": times.TimeLoader,
    "timetz": times.TimetzLoader,
    "timestamp": times.TimestampLoader,
    "timestamptz": times.TimestamptzLoader,
    "interval": times.IntervalLoader,
    "float4": FloatLoader,
    "float8": FloatLoader,
}


def _tolerant(loader: type[Loader]) -> type[Loader]:
    """Make a loader give the text of what it can't read."""

    class Tolerant(loader):  # type: ignore[misc, valid-type]
        def load(self, data: Buffer) -> Any:
            said = bytes(data)
            # psycopg would read an infinite interval as an empty one.
            if said.lower().endswith(NOT_FINITE):
                return said.decode()
            try:
                return super().load(said)
            except (psycopg.Error, ValueError, OverflowError, NotImplementedError):
                return said.decode()

    return Tolerant


# Arrays and ranges of these types take their elements' loaders.
ADAPTERS = AdaptersMap(psycopg.adapters)
for _name, _loader in TEXT_LOADERS.items():
    ADAPTERS.register_loader(_name, _tolerant(_loader))
