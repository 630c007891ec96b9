"""One thread, one selector, one heap of timers: the simulators' sense of time.

asyncio would do, but importing it takes longer than a simulator needs to be up, and simulated time has to be
scaled in exactly one place.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import time
from collections.abc import Callable
from typing import Protocol

Callback = Callable[[], None]


class Timer:
    """A callback due at one moment of simulated time; `cancel()` it as often as you like."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callback) -> None:
        self.when = when
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Keep the callback from running."""
        self.callback = None


class Clock(Protocol):
    """What an instrument may know about time: seconds since power-up, and timers."""

    def now(self) -> float:
        """Return simulated seconds since the clock started."""

    def call_at(self, when: float, callback: Callback) -> Timer:
        """Run `callback` at simulated time `when`; equal times run in the order they were asked for."""

    def call_later(self, delay: float, callback: Callback) -> Timer:
        """Run `callback` after `delay` simulated seconds."""


class Timers:
    """A heap of timers that stays in order of asking for equal times."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def add(self, when: float, callback: Callback) -> Timer:
        """Remember `callback` for `when`."""
        timer = Timer(when, callback)
        heapq.heappush(self._heap, (when, next(self._order), timer))
        return timer

    def next_due(self) -> float | None:
        """When the earliest timer that was not cancelled is due."""
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> Callback | None:
        """Take the earliest callback due at `now`, if there is one."""
        due = self.next_due()
        if due is None or due > now:
            return None
        return heapq.heappop(self._heap)[2].callback


class Loop:
    """Selector loop whose clock runs `1 / time_scale` times as fast as the wall's.

    It sleeps in the selector until a descriptor is ready or a timer is due, so an idle simulator uses no CPU.
    """

    def __init__(self, time_scale: float = 1.0) -> None:
        if not time_scale > 0:
            raise ValueError(f"time_scale must be positive, not {time_scale!r}")
        self.time_scale = time_scale
        self._started = time.monotonic()
        self._timers = Timers()
        # select() takes microseconds; epoll rounds up to whole milliseconds, as long as a byte at 9600 baud.
        self._selector = selectors.SelectSelector()
        self._running = False

    def now(self) -> float:
        """Return simulated seconds since the loop was made."""
        return (time.monotonic() - self._started) / self.time_scale

    def call_at(self, when: float, callback: Callback) -> Timer:
        """Run `callback` at simulated time `when`."""
        return self._timers.add(when, callback)

    def call_later(self, delay: float, callback: Callback) -> Timer:
        """Run `callback` after `delay` simulated seconds."""
        return self._timers.add(self.now() + delay, callback)

    def watch(self, fd: int, *, read: Callback | None = None, write: Callback | None = None) -> None:
        """Call `read`/`write` whenever `fd` is ready; with neither, stop watching it."""
        events = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
        known = fd in self._selector.get_map()
        if events and known:
            self._selector.modify(fd, events, (read, write))
        elif events:
            self._selector.register(fd, events, (read, write))
        elif known:
            self._selector.unregister(fd)

    def stop(self) -> None:
        """Make `run()` return after the callback that is running now."""
        self._running = False

    def run(self) -> None:
        """Serve descriptors and timers until `stop()`."""
        self._running = True
        while self._running:
            for key, events in self._selector.select(self._wait_s()):
                read, write = key.data
                # An earlier callback of this round may have stopped watching this descriptor.
                if self._selector.get_map().get(key.fd) is not key:
                    continue
                if events & selectors.EVENT_READ and read is not None:
                    read()
                if events & selectors.EVENT_WRITE and write is not None:
                    write()
            now = self.now()
            while self._running and (callback := self._timers.pop_due(now)) is not None:
                callback()

    def close(self) -> None:
        """Give the selector back."""
        self._selector.close()

    def _wait_s(self) -> float | None:
        due = self._timers.next_due()
        return None if due is None else max(0.0, (due - self.now()) * self.time_scale)
