"""Waiting for what another process or thread does."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

PATIENCE_SECONDS = 60.0


def until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until a condition holds; fail the test if that takes too long."""
    gives_up, pause = time.monotonic() + seconds, 0.005
    while not condition():
        if time.monotonic() > gives_up:
            pytest.fail(f"it did not happen within {seconds:.0f} seconds")
        time.sleep(pause)
        pause = min(pause * 1.3, 0.1)
