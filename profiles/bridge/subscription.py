"""What a subscriber of the measurement bridge holds: its own queue, which nobody ever waits for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass

from profiles.bridge.measurement import UnifiedMeasurement

logger = logging.getLogger("profiles.bridge")


@dataclass(frozen=True)
class Missed:
    """Stands in the stream where measurements are missing: `count` of them came too fast, or too late for the order."""

    count: int


class BridgeClosed(RuntimeError):
    """The subscription or its bridge was closed, and everything that came before was taken."""

    def __init__(self) -> None:
        super().__init__("the measurement bridge is closed: no more measurements will come")


Item = UnifiedMeasurement | Missed


class Subscription:
    """Measurements in the order of their timestamps, for a thread or for a task; made by `bridge.subscribe()`.

    Iterating, blocking or with `async for`, ends when the bridge is closed and everything was taken. When more than
    `capacity` measurements wait, the oldest are given up and a :class:`Missed` says how many. Several threads or tasks
    may share one subscription; each item goes to one of them.
    """

    def __init__(
        self,
        capacity: int,
        select: Callable[[UnifiedMeasurement], bool] | None,
        since: int,
        remove: Callable[[Subscription], None],
    ) -> None:
        self.capacity = capacity
        self.since = since
        """How many measurements had been published when it began: those are others' business."""
        self.delivered = 0
        self.missed = 0
        self._select = select
        self._remove = remove
        self._items: deque[UnifiedMeasurement] = deque()
        self._untold = 0
        self._closed = False
        self._changed = threading.Condition()
        self._waiting_tasks: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @property
    def waiting(self) -> int:
        """How many measurements are waiting to be taken."""
        return len(self._items)

    def get(self, timeout: float | None = None) -> Item:
        """Return the next item, waiting for it at most `timeout` seconds; None waits until there is one.

        Raises
        ------
        TimeoutError
            None came in time.
        BridgeClosed
            None will come.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                if (item := self._next()) is not None:
                    return item
                if self._closed:
                    raise BridgeClosed
                rest = None if deadline is None else deadline - time.monotonic()
                if rest is not None and rest <= 0:
                    raise TimeoutError(f"no measurement came within {timeout:g} s")
                self._changed.wait(rest)

    async def get_async(self) -> Item:
        """Return the next item; raises :class:`BridgeClosed` as :meth:`get`. Cancelled, it takes none."""
        loop = asyncio.get_running_loop()
        while True:
            with self._changed:
                if (item := self._next()) is not None:
                    return item
                if self._closed:
                    raise BridgeClosed
                woken: asyncio.Future[None] = loop.create_future()
                self._waiting_tasks.append((loop, woken))
            await woken

    def take_all(self) -> list[Item]:
        """Return everything that is waiting, without waiting."""
        with self._changed:
            items: list[Item] = []
            while (item := self._next()) is not None:
                items.append(item)
            return items

    def close(self) -> None:
        """Receive no more; what waits can still be taken."""
        self._remove(self)
        self.end()

    def __iter__(self) -> Iterator[Item]:
        with contextlib.suppress(BridgeClosed):
            while True:
                yield self.get()

    async def __aiter__(self) -> AsyncIterator[Item]:
        with contextlib.suppress(BridgeClosed):
            while True:
                yield await self.get_async()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def push(
        self, measurements: Iterable[UnifiedMeasurement], late: Iterable[UnifiedMeasurement] = (), missed: int = 0
    ) -> None:
        """Add measurements, those that came too late to be told, and the number of others; for the bridge.

        A `select` that raises ends this subscription, and nobody else's.
        """
        if self._select is not None:
            try:
                measurements, late = list(filter(self._select, measurements)), list(filter(self._select, late))
            except Exception:
                logger.exception("A subscription of the measurement bridge was closed: its select has failed")
                self.close()
                return
        with self._changed:
            if self._closed:
                return
            self._items.extend(measurements)
            too_many = len(self._items) - self.capacity
            for _ in range(too_many):
                self._items.popleft()
            lost = max(too_many, 0) + sum(1 for _ in late) + missed
            self._untold += lost
            self.missed += lost
            self._wake()

    def end(self) -> None:
        """Have no more to come; for the bridge."""
        with self._changed:
            self._closed = True
            self._wake()

    def _next(self) -> Item | None:
        # What was given up is always older than what waits.
        if self._untold:
            untold, self._untold = self._untold, 0
            return Missed(untold)
        if not self._items:
            return None
        self.delivered += 1
        return self._items.popleft()

    def _wake(self) -> None:
        self._changed.notify_all()
        tasks, self._waiting_tasks = self._waiting_tasks, []
        for loop, woken in tasks:
            with contextlib.suppress(RuntimeError):  # its loop was closed: nobody waits any more
                loop.call_soon_threadsafe(_finish, woken)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
