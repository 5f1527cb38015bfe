"""How often a follower asks and looks, by a clock of the test's own."""

from __future__ import annotations

import pytest

from pgsplit.replication.rhythm import Rhythm


def test_follower_is_busy_then_at_rest_then_quiet_and_busy_again_with_the_next_change() -> None:
    now = 100.0
    rhythm = Rhythm(0.2, 300.0, lambda: now)

    def seconds() -> tuple[float, float, float]:
        return rhythm.pause_seconds, rhythm.look_seconds, rhythm.beat_seconds

    assert seconds() == (0.05, 1.0, 0.25)
    now += 2
    assert seconds() == (0.05, 1.0, 1.0)
    now += 10
    assert seconds() == (0.4, 3.0, 3.0)
    rhythm.note_work()
    assert seconds() == (0.05, 1.0, 0.25)


@pytest.mark.parametrize(("max_lag", "look"), [(300.0, 3.0), (4.0, 2.0), (0.5, 1.0)])
def test_quiet_follower_shows_no_lag_that_counts_as_one(max_lag: float, look: float) -> None:
    now = 0.0
    rhythm = Rhythm(2.0, max_lag, lambda: now)
    now = 60.0
    assert rhythm.look_seconds == look
    assert rhythm.pause_seconds == 0.5  # no more often than the interval says
