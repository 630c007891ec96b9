"""How an event loop is told what happens at an arbiter."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coexistence.arbiter import Arbiter

REAP_INTERVAL_S = 0.1
"""How often those who wait look whether the holder has died or outstayed its max_hold."""


class Mailbox:
    """What one event loop waits for at one arbiter: a single wake-up and a single timer serve all of it."""

    __slots__ = ("_arbiter", "_due", "_loop", "_posted", "_scheduled", "_timer")

    def __init__(self, arbiter: Arbiter, loop: asyncio.AbstractEventLoop) -> None:
        self._arbiter = arbiter
        self._loop = loop
        self._posted: deque[tuple[Callable[..., None], Any]] = deque()
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")

    @property
    def closed(self) -> bool:
        """Whether the loop is closed: nobody there waits for anything any more."""
        return self._loop.is_closed()

    def post(self, function: Callable[..., None], argument: Any) -> bool:
        """Have the loop call ``function(argument)`` soon; from any thread. False when the loop is closed."""
        self._posted.append((function, argument))
        if not self._scheduled:
            self._scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                self._posted.clear()
                return False
            except BaseException:
                self._scheduled = False  # whoever posts next wakes the loop
                raise
        return True

    def _deliver(self) -> None:
        self._scheduled = False
        posted = self._posted
        while posted:
            function, argument = posted.popleft()
            function(argument)

    def watch(self, deadline: float) -> None:
        """See to it that a request of this loop is ended when its deadline passes (loop thread only)."""
        if deadline < self._due:
            self._arm(deadline)

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        now = perf_counter()
        self._due = min(deadline, now + REAP_INTERVAL_S)
        self._timer = self._loop.call_later(max(self._due - now, 0.0), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._due = float("inf")
        following = self._arbiter._expire(self)
        if following is not None:
            self._arm(following)


def set_done(future: asyncio.Future[Any]) -> None:
    """Resolve what a task awaits, unless the task has given up."""
    if not future.done():
        future.set_result(None)
