"""How tests wait: until something has happened, and how long for what is silent."""

import time
from collections.abc import Callable
from typing import Any

import bluesky.plan_stubs as bps
import pytest

hasty = pytest.mark.parametrize("patience_s", [1.5], ids=["hasty"])
"""For tests that let an instrument be silent: its connections do not wait for it as long as those of others."""

asking_again = pytest.mark.parametrize("patience_s", [2.0], ids=["asking again"])
"""For tests in which an instrument does not answer and is asked again: after half of this time, in the other half."""


def until(condition: Callable[[], object], timeout: float = 10.0) -> Any:
    """Wait in a plan until the condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not become true within {timeout} s"
        yield from bps.sleep(0.01)
