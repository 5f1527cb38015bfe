"""Decides what share of the time own work may take: pure functions, from measurements to a share.

As TCP does: work begins slowly, and its share doubles until writes are slower than they may be for
the first time. From then on it grows by a step as long as they are as fast as they may be, shrinks
by one when they are not, and is halved when they are far too slow. At the least share, work pauses
for a while instead. Then writes are measured at rest again: what they took before may be outdated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

MOST, LEAST, STEP = 1.0, 0.05, 0.1
FAR = 2.0  # so many times the limit is far too slow
PERCENTILE = 0.95
# A difference below this is noise, whatever it is in percent.
NOISE_SECONDS = 0.0002


@dataclass(frozen=True)
class Load:
    """What else the monolith's server says: see `Prober.load`."""

    lag_seconds: float = 0.0
    lagging: str = ""
    sessions: int = 0
    checkpoints: int = 0


@dataclass(frozen=True)
class Limits:
    """How much an application may feel: writes that take longer by a share, and a lag."""

    max_impact: float
    max_lag_seconds: float


@dataclass(frozen=True)
class Pace:
    """The share of the time that work may take; why it is less than all, and whether none.

    `is_first` is true as long as writes have never been too slow.
    """

    share: float = MOST
    why: str = ""
    is_paused: bool = False
    is_first: bool = False


# Nobody knows yet what applications will feel, so they shall not find it out at full speed.
BEGINNING = Pace(0.1, "work begins slowly", is_first=True)


def percentile(seconds: Sequence[float], part: float = PERCENTILE) -> float:
    """Give the value that so large a part of the values does not exceed."""
    return sorted(seconds)[max(0, math.ceil(len(seconds) * part) - 1)]


def adapt(
    pace: Pace,
    limits: Limits,
    at_work: Sequence[float],
    at_rest: Sequence[float],
    load: Load,
    load_at_rest: Load,
) -> Pace:
    """Decide how work goes on.

    Args:
        pace: how it has gone on so far.
        limits: how much an application may feel.
        at_work: how long writes took, in seconds, since the last decision.
        at_rest: how long the latest ones took while nothing of ours was at work.
        load: what the server says now.
        load_at_rest: what it said before work began.

    Returns:
        The new pace; `why` says what was found, for people, if work is slowed or paused.
    """
    if load.lag_seconds > limits.max_lag_seconds:
        why = (
            f"{load.lagging} is {load.lag_seconds:.0f} s behind,"
            f" the limit is {limits.max_lag_seconds:.0f} s"
        )
        return replace(pace, why=why, is_paused=True)
    found, rest = percentile(at_work), percentile(at_rest)
    limit = rest * (1 + limits.max_impact) + NOISE_SECONDS
    is_slow = found > limit
    why = f"writes take {_ms(found)} ms, {_ms(rest)} ms at rest"
    if not is_slow and load.checkpoints > load_at_rest.checkpoints:
        is_slow, why = True, "WAL forces checkpoints"
    if not is_slow and load.sessions > 2 * load_at_rest.sessions + 4:
        is_slow = True
        why = f"{load.sessions} sessions are active, {load_at_rest.sessions} at rest"
    if not is_slow:
        more = pace.share if pace.is_first else STEP
        share = round(min(MOST, pace.share + more), 3)
        return Pace(share, why, is_first=pace.is_first) if share < MOST else Pace()
    if pace.share <= LEAST and not pace.is_paused:
        return Pace(LEAST, why, is_paused=True)
    # A third of all samples exceed the limit by chance: where it is by little, the share only
    # shrinks as it grows.
    share = pace.share / 2 if found > FAR * limit else pace.share - STEP
    return Pace(round(max(LEAST, share), 3), why)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.{0 if seconds >= 0.01 else 1}f}"
