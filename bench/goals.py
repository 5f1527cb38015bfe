"""The goals of speed, and the values of measurements that meet them or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.result import Record


@dataclass(frozen=True)
class Goal:
    """What is to be reached: `value` of the measurement `name` is at most `limit`."""

    what: str
    name: str
    value: str
    limit: float
    unit: str = "×"
    digits: int = 2


GOALS = (
    Goal("`run payments communication`, all tests : `pgcopydb clone`", "main", "run", 2.0),
    Goal("landing and building, all keys and indexes, no tests : pgcopydb", "main", "built", 1.5),
    Goal("`run`, all tests : `create table as` over postgres_fdw", "main", "run_by_fdw", 0.7),
    Goal("growth of `run`: exponent of rows", "main", "exponent", 1.05, ""),
    Goal("growth of the runner's memory: largest size : smallest", "main", "memory", 1.1),
    Goal("checks of a switch, proof unbroken", "switching", "switch_checks", 2.0, "s"),
    Goal("checks of a rollback, proof unbroken", "switching", "rollback_checks", 2.0, "s"),
    Goal(
        "checks of a switch: ten times the rows : a tenth", "switching", "switch_checks_growth", 1.2
    ),
    Goal("write gap of a switch at 200 writes/s, median", "switching", "gap_ms", 50, "ms", 0),
    Goal("… the worst", "switching", "worst_gap_ms", 150, "ms", 0),
    Goal("a write's p95 on the monolith, throttled : at rest", "throttle", "throttled", 1.1),
    Goal("`sync` of 1,000 changes", "following", "sync_ms", 40, "ms", 0),
    Goal("`verify` : one pass over both sides", "proof", "verify", 1.1),
    Goal("lag behind single-row transactions", "following", "worst_lag", 1.0, "s"),
    Goal("a transaction of a million rows, until it is applied", "following", "million", 20, "s"),
    Goal("six idle followers, of a core", "followers", "share", 1.0, "%"),
    Goal(
        "slowest of the application's queries, median after : before", "application", "worst", 1.1
    ),
)
GOAL_ROWS = 2_000_000  # of the payments; other sizes are named
UNKNOWN = "not measured"


def rows(records: Mapping[str, Record]) -> list[tuple[str, str, str, str]]:
    """Compare the goals with what was measured.

    Args:
        records: by the measurement's name.

    Returns:
        For each goal what it is about, what was measured, the goal, and whether it is met.
    """
    return [_row(goal, records.get(goal.name)) for goal in GOALS]


def _row(goal: Goal, one: Record | None) -> tuple[str, str, str, str]:
    target = f"≤ {goal.limit:g} {goal.unit}".strip()
    value = one.values.get(goal.value) if one else None
    if one is None or value is None:
        return goal.what, UNKNOWN, target, ""
    found = f"{value:,.{goal.digits}f} {goal.unit}".strip()
    if (rows := one.values.get("rows", GOAL_ROWS)) != GOAL_ROWS:
        found += f" at {rows:,} rows"
    return goal.what, found, target, "met" if value <= goal.limit else "not met"
