"""Retries: the one place that says how a refused lock or a conflict is tried again.

What is retried must be whole in itself, such as one transaction: a try that fails leaves nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from psycopg import errors
from tenacity import Retrying, retry_if_exception_type, wait_exponential

Errors = tuple[type[psycopg.Error], ...]

# Somebody holds a lock, or waits for one of ours.
LOCKED: Errors = (errors.LockNotAvailable, errors.DeadlockDetected)
# Somebody has written the same rows.
CONFLICTS: Errors = (errors.SerializationFailure, errors.DeadlockDetected)
# The server has no room, memory or connection left, or takes no writes until it has.
EXHAUSTED: Errors = (
    *(errors.DiskFull, errors.OutOfMemory, errors.TooManyConnections),
    *(errors.InsufficientResources, errors.ConfigurationLimitExceeded),
    *(errors.IoError, errors.ReadOnlySqlTransaction),
)
# Whoever uses the object has been told to go, and takes a moment.
IN_USE: Errors = (errors.ObjectInUse,)


def retrying(
    on: Errors,
    *,
    seconds: float,
    doubles: bool = False,
    tries: int | None = None,
    until: Callable[[], bool] = lambda: False,
) -> Retrying:
    """Give what calls a function again as long as it fails with one of these errors.

    The last error is raised as it is. Any other is raised at once.

    Args:
        on: the errors.
        seconds: the pause between two tries.
        doubles: double the pause each time.
        tries: how often at most.
        until: asked after each failure; true ends it. For limits other than a number of tries.
    """
    return Retrying(
        retry=retry_if_exception_type(on),
        stop=lambda state: state.attempt_number == tries or until(),
        wait=wait_exponential(multiplier=seconds, exp_base=2 if doubles else 1),
        reraise=True,
    )
