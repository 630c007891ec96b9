"""Plan stubs that wait for what a test needs to happen."""

import time
from collections.abc import Callable
from typing import Any

import bluesky.plan_stubs as bps


def until(condition: Callable[[], object], timeout: float = 10.0) -> Any:
    """Wait in a plan until the condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not become true within {timeout} s"
        yield from bps.sleep(0.01)
