"""Who notices that a blocking driver does not return: one thread for all devices, there while any of them works."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Watch:
    """One request that has to be done in time."""

    __slots__ = ("deadline", "overdue")

    def __init__(self, deadline: float, overdue: Callable[[], None]) -> None:
        self.deadline = deadline
        self.overdue = overdue


class Watchdog:
    """Calls somebody when a request takes too long.

    Its thread sleeps until the next request is overdue, and ends with the last of those that have entered. A request
    that is done in time costs it nothing: neither a thread nor a switch to one.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._watches: dict[Watch, None] = {}
        self._workers = 0
        self._wakes_at = math.inf
        self._thread: threading.Thread | None = None

    def enter(self) -> None:
        """Keep the thread until :meth:`leave`, from the first request on."""
        with self._changed:
            self._workers += 1

    def leave(self) -> None:
        """Let the thread end when nobody else has entered."""
        with self._changed:
            self._workers -= 1
            if not self._workers:
                self._changed.notify()

    def watch(self, limit_s: float, overdue: Callable[[], None]) -> Watch:
        """Have ``overdue()`` called after ``limit_s`` seconds, on the watchdog's thread, unless it is over by then."""
        watch = Watch(time.monotonic() + limit_s, overdue)
        with self._changed:
            self._watches[watch] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="watchdog (v2)", daemon=True)
                self._thread.start()
            elif watch.deadline < self._wakes_at:
                self._changed.notify()
        return watch

    def over(self, watch: Watch) -> None:
        """Note that a request is done."""
        with self._changed:
            self._watches.pop(watch, None)

    def _run(self) -> None:
        while (watch := self._next_overdue()) is not None:
            try:
                watch.overdue()
            except Exception:
                logger.exception("a request that took too long could not be ended")
            del watch

    def _next_overdue(self) -> Watch | None:
        """Wait for a request that is overdue; None when nobody needs the thread any more."""
        with self._changed:
            while True:
                watch = min(self._watches, key=lambda each: each.deadline, default=None)
                now = time.monotonic()
                if watch is not None and watch.deadline <= now:
                    del self._watches[watch]
                    return watch
                if watch is None and not self._workers:
                    self._thread = None
                    return None
                self._wakes_at = math.inf if watch is None else watch.deadline
                del watch  # or this thread would keep its device while it sleeps
                self._changed.wait(None if self._wakes_at == math.inf else self._wakes_at - now)


WATCHDOG = Watchdog()
"""The one of this process."""
