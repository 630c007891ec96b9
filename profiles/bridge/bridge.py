"""The measurement bridge: producers of both generations on one side, subscribers on the other."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from profiles.bridge.measurement import FrameReference, UnifiedMeasurement
from profiles.bridge.subscription import Subscription

ORDERING_WINDOW_S = 0.2
INBOX_CAPACITY = 200_000
SUBSCRIPTION_CAPACITY = 20_000
RELEASE_INTERVAL_S = 0.01
END_TIMEOUT_S = 2.0

Reading = tuple[str, float, Any]


@dataclass(frozen=True)
class BridgeStatistics:
    """What has passed the bridge.

    Attributes
    ----------
    published
        Measurements that were handed in.
    released
        Those that went to whoever subscribed.
    duplicates
        Those that were known already: a reading is seen by a device's subscription and again in the run's document.
    late
        Those that were older than what had been released; subscribers are told that they missed them.
    overflowed
        Those that came faster than they could be sorted; subscribers are told that they missed them.
    waiting
        Those that wait for the order to be certain.
    subscribers
        For each: taken, missed, waiting.
    """

    published: int
    released: int
    duplicates: int
    late: int
    overflowed: int
    waiting: int
    subscribers: tuple[tuple[int, int, int], ...]


class MeasurementBridge:
    """One stream of measurements in the order of their timestamps, for any number of subscribers.

    Publishing costs microseconds, from any thread and any event loop, and never waits: not for the order, which a
    thread of the bridge establishes, and not for subscribers, of which each has a bounded queue of its own. A
    measurement is released `window_s` after it was made; what comes later than that cannot be put into the order any
    more and is told as missed. Without subscribers nothing is kept.

    Parameters
    ----------
    window_s
        How long measurements are held back for older ones to arrive, in s.
    capacity
        How many may wait to be sorted.
    """

    def __init__(self, *, window_s: float = ORDERING_WINDOW_S, capacity: int = INBOX_CAPACITY) -> None:
        self._window_s = window_s
        self._capacity = capacity
        self._inbox: deque[tuple[float, int, UnifiedMeasurement]] = deque()
        self._heap: list[tuple[float, int, Reading]] = []
        self._held: dict[Reading, UnifiedMeasurement] = {}
        self._latest: dict[str, Reading] = {}
        self._released_until = float("-inf")
        self._begins_at: int | None = None
        self._wanted_from = 0
        self._overflow = itertools.count()
        self._told_overflow = 0
        self._released = self._duplicates = self._late = 0
        self._published = itertools.count()
        self._subscriptions: tuple[Subscription, ...] = ()
        self._changing = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False

    def publish(self, measurement: UnifiedMeasurement) -> None:
        """Hand in a measurement. Never waits, from wherever it is called."""
        number = next(self._published)
        if not self._subscriptions:
            return
        if len(self._inbox) >= self._capacity:
            next(self._overflow)
            return
        # A clock that is ahead must not hold up everybody else's measurements.
        self._inbox.append((min(measurement.timestamp, time.time()), number, measurement))

    def publish_together(self, measurements: Iterable[UnifiedMeasurement]) -> None:
        """As :meth:`publish`, of several: none is released before all are there, so that none is late for another."""
        numbered = [(next(self._published), measurement) for measurement in measurements]
        if not self._subscriptions:
            return
        room = max(0, self._capacity - len(self._inbox))
        for _ in numbered[room:]:
            next(self._overflow)
        now = time.time()
        self._inbox.extend([(min(each.timestamp, now), number, each) for number, each in numbered[:room]])

    def subscribe(
        self,
        *,
        capacity: int = SUBSCRIPTION_CAPACITY,
        select: Callable[[UnifiedMeasurement], bool] | None = None,
    ) -> Subscription:
        """Receive every measurement from now on.

        Parameters
        ----------
        capacity
            How many may wait to be taken; beyond that the oldest are given up, and their number is told.
        select
            Which ones; called on the bridge's thread, for each, and must be quick; one that raises ends the
            subscription. None for all. What came faster than it could be sorted counts as missed whatever it was.
        """
        if capacity < 1:
            raise ValueError(f"a subscription holds at least one measurement, not {capacity}")
        subscription = Subscription(capacity, select, _value(self._published), self._remove)
        with self._changing:
            if self._closed:
                subscription.end()
                return subscription
            if not self._subscriptions:
                self._begins_at = subscription.since
            self._subscriptions = (*self._subscriptions, subscription)
            if self._thread is None:
                self._thread = threading.Thread(target=self._sort, name="measurement bridge", daemon=True)
                self._thread.start()
        self._wake.set()
        return subscription

    @property
    def is_used(self) -> bool:
        """Whether anybody subscribes."""
        return bool(self._subscriptions)

    @property
    def statistics(self) -> BridgeStatistics:
        """What has passed so far."""
        return BridgeStatistics(
            published=_value(self._published),
            released=self._released,
            duplicates=self._duplicates,
            late=self._late,
            overflowed=_value(self._overflow),
            waiting=len(self._inbox) + len(self._held),
            subscribers=tuple((each.delivered, each.missed, each.waiting) for each in self._subscriptions),
        )

    def close(self) -> None:
        """Release what waits, and end all subscriptions. Closing twice is harmless."""
        with self._changing:
            self._closed = True
            subscriptions = self._subscriptions
            thread = self._thread
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(END_TIMEOUT_S)
        with self._changing:
            self._subscriptions = ()
        for subscription in subscriptions:
            subscription.end()

    def _remove(self, subscription: Subscription) -> None:
        with self._changing:
            self._subscriptions = tuple(each for each in self._subscriptions if each is not subscription)
        self._wake.set()

    def _sort(self) -> None:
        while not self._closed:
            self._wake.wait(RELEASE_INTERVAL_S)
            self._wake.clear()
            self._take_in()
            self._release(time.time() - self._window_s)
            with self._changing:
                if not self._subscriptions:
                    # Nobody listens: nothing is kept, and nothing is done until somebody does.
                    self._inbox.clear()
                    self._forget()
                    self._thread = None
                    return
        self._take_in()
        self._release(float("inf"))

    def _forget(self) -> None:
        """Begin a new stream: what those before were told is neither known nor too early for who listens now."""
        self._heap.clear()
        self._held.clear()
        self._latest.clear()
        self._released_until = float("-inf")

    def _take_in(self) -> None:
        with self._changing:
            begins_at, self._begins_at = self._begins_at, None
        if begins_at is not None:
            self._forget()
            self._wanted_from = begins_at
        if self._released_until > time.time():
            # The clock was set back: what comes now is not late.
            self._released_until = float("-inf")
        late: list[tuple[int, UnifiedMeasurement]] = []
        for _ in range(len(self._inbox)):
            key, number, measurement = self._inbox.popleft()
            if number < self._wanted_from:
                continue
            reading = _reading_of(measurement)
            held = self._held.get(reading)
            if held is not None:
                self._duplicates += 1
                if held.run is None and measurement.run is not None:
                    self._held[reading] = replace(held, run=measurement.run, stream=measurement.stream)
            elif self._latest.get(measurement.column) == reading:
                self._duplicates += 1
            elif key < self._released_until:
                late.append((number, measurement))
            else:
                self._held[reading] = measurement
                heapq.heappush(self._heap, (key, number, reading))
        overflow = _value(self._overflow)
        missed = overflow - self._told_overflow
        self._late += len(late)
        self._told_overflow = overflow
        if late or missed:
            for each in self._subscriptions:
                each.push((), [measurement for number, measurement in late if number >= each.since], missed)

    def _release(self, until: float) -> None:
        batch: list[tuple[int, UnifiedMeasurement]] = []
        while self._heap and self._heap[0][0] <= until:
            key, number, reading = heapq.heappop(self._heap)
            measurement = self._held.pop(reading)
            self._released_until = key
            self._latest[measurement.column] = reading
            batch.append((number, measurement))
        self._released += len(batch)
        if batch:
            for subscription in self._subscriptions:
                subscription.push([measurement for number, measurement in batch if number >= subscription.since])


def _reading_of(measurement: UnifiedMeasurement) -> Reading:
    """Return what makes two reports the same reading: column, time and value; of arrays, their shape."""
    value = measurement.value
    if isinstance(value, float) and math.isnan(value):
        value = "NaN"  # which equals nothing
    elif not isinstance(value, float | int | str | FrameReference):
        value = np.shape(value)
    return measurement.column, measurement.timestamp, value


def _value(counter: Any) -> int:
    """Return how often a counter was advanced; `next` on it is atomic, which adding to a number is not."""
    return int(repr(counter).removeprefix("count(").removesuffix(")"))
