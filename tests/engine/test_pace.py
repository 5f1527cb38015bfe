"""How the throttle decides: from measurements to the share of the time that work may take."""

from __future__ import annotations

import pytest

from pgsplit.base.text import percent
from pgsplit.postgres.throttle.pace import (
    BEGINNING,
    LEAST,
    MOST,
    Limits,
    Load,
    Pace,
    adapt,
    percentile,
)

LIMITS = Limits(max_impact=0.1, max_lag_seconds=300)
AT_REST = [0.002] * 100
FAST, SLOW, SLOWER = [0.002] * 40, [0.0035] * 40, [0.02] * 40
QUIET = Load(sessions=3, checkpoints=7)


def decide(pace: Pace, at_work: list[float], load: Load = QUIET) -> Pace:
    return adapt(pace, LIMITS, at_work, AT_REST, load, QUIET)


def test_share_grows_by_a_step_shrinks_by_one_and_is_halved_when_writes_are_far_too_slow() -> None:
    assert decide(Pace(), FAST) == Pace()
    slowed = decide(Pace(), SLOW)
    assert slowed == Pace(0.9, "writes take 3.5 ms, 2.0 ms at rest")
    assert decide(slowed, SLOWER) == Pace(0.45, "writes take 20 ms, 2.0 ms at rest")
    assert decide(slowed, FAST) == Pace()  # at full speed there is nothing to explain


def test_work_begins_slowly_and_doubles_until_writes_are_too_slow_for_the_first_time() -> None:
    shares, pace = [], BEGINNING
    while pace != Pace():
        shares.append(pace.share)
        pace = decide(pace, FAST)
    assert shares == [0.1, 0.2, 0.4, 0.8]
    slowed = decide(decide(BEGINNING, FAST), SLOW)
    assert slowed.share == 0.1
    assert decide(slowed, FAST).share == decide(BEGINNING, FAST).share == 0.2
    assert decide(decide(slowed, FAST), FAST).share == 0.3


def test_work_pauses_at_the_least_share_and_then_goes_on_with_it() -> None:
    pace = Pace()
    while not pace.is_paused:
        was, pace = pace, decide(pace, SLOWER)
    assert was.share == pace.share == LEAST
    assert pace.why == "writes take 20 ms, 2.0 ms at rest"


def test_what_is_as_slow_at_rest_is_not_our_doing() -> None:
    assert adapt(Pace(0.5, "x"), LIMITS, SLOWER, [0.02] * 100, QUIET, QUIET).share == 0.6


def test_one_slow_write_in_forty_is_no_reason_and_neither_is_noise() -> None:
    assert decide(Pace(), [*FAST[:-1], 1.0]) == Pace()
    assert adapt(Pace(), LIMITS, [0.0002] * 40, [0.0001] * 100, QUIET, QUIET) == Pace()


@pytest.mark.parametrize(
    ("load", "said", "is_paused"),
    [
        (Load(lag_seconds=301, lagging="standby_2"), "standby_2 is 301 s behind", True),
        (Load(sessions=11), "11 sessions are active, 3 at rest", False),
        (Load(checkpoints=8), "WAL forces checkpoints", False),
    ],
)
def test_servers_load_counts_too(load: Load, said: str, is_paused: bool) -> None:
    pace = decide(Pace(), FAST, load)
    assert said in pace.why
    assert pace.is_paused is is_paused
    assert is_paused or pace.share < MOST


def test_percentile_and_percent() -> None:
    assert percentile([float(n) for n in range(1, 101)]) == 95
    assert percentile([3.0]) == 3
    assert [percent(one) for one in ("10%", "2.5 %", "0%", "10", "-1%", "")] == [
        *(0.1, 0.025),
        *(None,) * 4,
    ]
