"""Retries: the one place that says how a refused lock or a conflict is tried again.

What is retried must be whole in itself, such as one transaction: a try that fails leaves nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from psycopg import errors
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

Errors = tuple[type[psycopg.Error], ...]

# Somebody holds a lock, or waits for one of ours.
LOCKED: Errors = (errors.LockNotAvailable, errors.DeadlockDetected)
# Somebody has written the same rows.
CONFLICTS: Errors = (errors.SerializationFailure, errors.DeadlockDetected)
# Whoever uses the object has been told to go, and takes a moment.
IN_USE: Errors = (errors.ObjectInUse,)


def retrying(
    on: Errors,
    *,
    seconds: float,
    tries: int | None = None,
    doubles: bool = False,
    until: Callable[[], bool] | None = None,
) -> Retrying:
    """Give what calls a function until it no longer fails with one of these errors.

    The last error is raised as it is; any other is raised at once.

    Args:
        on: the errors to retry on.
        seconds: the pause between two tries; the first one if it doubles.
        tries: how often at most.
        doubles: double the pause each time.
        until: asked after each failure; stops when true. For a limit other than a number of tries.
    """
    return Retrying(
        retry=retry_if_exception_type(on),
        stop=stop_after_attempt(tries) if tries else lambda _: until is not None and until(),
        wait=wait_exponential(multiplier=seconds, exp_base=2 if doubles else 1),
        reraise=True,
    )
