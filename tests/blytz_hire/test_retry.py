"""Retries: how often, how long in between, and which error comes out in the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from psycopg import errors

from pgsplit.postgres.retry import CONFLICTS, LOCKED, retrying


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses, which take no time."""
    pauses = list[float]()
    monkeypatch.setattr("time.sleep", pauses.append)
    return pauses


def fails(times: int, error: type[Exception] = errors.LockNotAvailable) -> Callable[[], int]:
    """Give what fails so often, and then tells how often it was called."""
    calls = list[int]()

    def call() -> int:
        calls.append(1)
        if len(calls) <= times:
            raise error(f"try {len(calls)}")
        return len(calls)

    return call


def test_pauses_stay_the_same_unless_they_double(slept: list[float]) -> None:
    assert retrying(LOCKED, tries=4, seconds=0.2)(fails(3)) == 4
    assert slept == [0.2, 0.2, 0.2]
    slept.clear()
    assert retrying(CONFLICTS, tries=10, seconds=0.01, doubles=True)(
        fails(4, errors.SerializationFailure)
    )
    assert slept == [0.01, 0.02, 0.04, 0.08]


def test_the_last_error_is_raised_as_it_is(slept: list[float]) -> None:
    with pytest.raises(errors.LockNotAvailable, match="try 3"):
        retrying(LOCKED, tries=3, seconds=0.5)(fails(9))
    assert slept == [0.5, 0.5]


@pytest.mark.parametrize("error", [errors.UniqueViolation, KeyboardInterrupt])
def test_any_other_error_is_raised_at_once(slept: list[float], error: type[Exception]) -> None:
    with pytest.raises(error, match="try 1"):
        retrying(LOCKED, tries=3, seconds=0.5)(fails(1, error))
    assert slept == []


def test_a_limit_of_its_own_ends_it(slept: list[float]) -> None:
    with pytest.raises(errors.LockNotAvailable, match="try 3"):
        retrying(LOCKED, seconds=0.5, until=lambda: len(slept) == 2)(fails(9))
