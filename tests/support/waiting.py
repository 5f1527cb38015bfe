"""Waiting for what another process or thread does."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

PATIENCE_SECONDS = 60.0


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; fail the test after a minute."""
    gives_up, pause = time.monotonic() + PATIENCE_SECONDS, 0.005
    while not condition():
        if time.monotonic() > gives_up:
            pytest.fail(f"it did not happen within {PATIENCE_SECONDS:.0f} seconds")
        time.sleep(pause)
        pause = min(pause * 1.3, 0.1)
