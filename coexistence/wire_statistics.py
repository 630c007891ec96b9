"""Counts and distributions of what happens on a wire, in a fixed amount of memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import frexp
from typing import Any, NamedTuple

_STEPS = 16
"""Buckets for each factor of two: quantiles are at most 6 % too high."""

_LOWEST_EXPONENT = -24
"""2**-24 s = 60 ns: nothing shorter is told apart."""

_OCTAVES = 42


class Sketch:
    """Distribution of durations in seconds: count, sum, largest, and quantiles from logarithmic buckets."""

    __slots__ = ("_buckets", "count", "max", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self.max = 0.0
        self._buckets = [0] * (_OCTAVES * _STEPS)

    def add(self, value: float) -> None:
        """Count one duration (s)."""
        self.count += 1
        self.sum += value
        if value > self.max:
            self.max = value
        mantissa, exponent = frexp(value)
        index = (exponent - _LOWEST_EXPONENT) * _STEPS + int((mantissa - 0.5) * 2 * _STEPS)
        last = _OCTAVES * _STEPS - 1
        self._buckets[0 if index < 0 or value <= 0.0 else index if index < last else last] += 1

    def merge(self, other: Sketch) -> None:
        """Count in all that another sketch has counted."""
        self.count += other.count
        self.sum += other.sum
        self.max = max(self.max, other.max)
        self._buckets = [a + b for a, b in zip(self._buckets, other._buckets, strict=True)]

    @property
    def mean(self) -> float:
        """Mean duration in seconds; 0 when nothing was counted."""
        return self.sum / self.count if self.count else 0.0

    def quantile(self, fraction: float) -> float:
        """Return the duration (s) that ``fraction`` (0 to 1) of all stay below; 0 when nothing was counted."""
        if not self.count:
            return 0.0
        wanted = fraction * self.count
        seen = 0
        for index, number in enumerate(self._buckets):
            seen += number
            if number and seen >= wanted:
                octave, step = divmod(index, _STEPS)
                upper = (1.0 + (step + 1) / _STEPS) * 2.0 ** (octave + _LOWEST_EXPONENT - 1)
                return min(upper, self.max)
        return self.max

    @property
    def p50(self) -> float:
        """Median duration in seconds."""
        return self.quantile(0.50)

    @property
    def p95(self) -> float:
        """Duration in seconds that 95 % stay below."""
        return self.quantile(0.95)

    @property
    def p99(self) -> float:
        """Duration in seconds that 99 % stay below."""
        return self.quantile(0.99)


class LogEntry(NamedTuple):
    """One exchange as it was on the wire.

    ``time`` is the system time (s since 1970) at its end; ``wait`` and ``duration`` are seconds in line and on the
    wire; ``outcome`` is ``ok``, ``timeout``, ``not sent``, ``disconnected``, ``revoked``, ``interrupted``, or, for
    lines that are no reply, ``late``, ``stray`` and ``awaited`` (a listener was waiting for it).
    """

    time: float
    owner: str
    sent: bytes
    received: bytes
    wait: float
    duration: float
    outcome: str


class Trouble(NamedTuple):
    """Something that did not go as it should on a wire.

    ``number`` counts from 1 for each wire; ``time`` is the system time (s since 1970). ``kind`` is ``timeout`` (no
    reply in time), ``not sent`` (the time was over before the wire was free), ``retry`` (asked a second time),
    ``disconnected``, ``reconnect``, ``revoked`` or ``interrupted`` (the exchange was broken off), ``late`` (a reply
    after its timeout), ``stray`` (a line nobody asked for). ``owner`` is empty where no exchange was concerned, and
    ``line`` is the command, or the line that came late or astray.
    """

    number: int
    time: float
    wire: str
    owner: str
    kind: str
    line: bytes


@dataclass
class OwnerStatistics:
    """What one owner did on a wire, or what all did together."""

    exchanges: int = 0
    timeouts: int = 0
    """Replies that did not come in time, and commands whose time was over before they could be sent."""
    retries: int = 0
    errors: int = 0
    """Exchanges that ended otherwise than by a reply or a timeout."""
    bytes_sent: int = 0
    bytes_received: int = 0
    wait: Sketch = field(default_factory=Sketch)
    """Seconds in line, for each acquisition."""
    hold: Sketch = field(default_factory=Sketch)
    """Seconds of ownership, for each acquisition."""
    duration: Sketch = field(default_factory=Sketch)
    """Seconds on the wire, for each exchange."""

    def merge(self, other: OwnerStatistics) -> None:
        """Add another owner's figures to these."""
        self.exchanges += other.exchanges
        self.timeouts += other.timeouts
        self.retries += other.retries
        self.errors += other.errors
        self.bytes_sent += other.bytes_sent
        self.bytes_received += other.bytes_received
        self.wait.merge(other.wait)
        self.hold.merge(other.hold)
        self.duration.merge(other.duration)


@dataclass
class WireStatistics(OwnerStatistics):
    """A snapshot of one wire's figures; ``owners`` has them for each owner."""

    reconnects: int = 0
    late_replies: int = 0
    """Replies that came after their timeout and were kept from the next owner."""
    strays: int = 0
    """Lines that nobody had asked for."""
    owners: dict[str, OwnerStatistics] = field(default_factory=dict)


_MOST_OWNERS = 256
_OTHERS = "(others)"


class StatisticsCollector:
    """Takes what a wire reports, in batches, and makes snapshots of it.

    Owners are meant to be few and stable names; from the 257th on they are counted together as ``(others)``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owners: dict[str, OwnerStatistics] = {}
        self.reconnects = 0
        self.late_replies = 0
        self.strays = 0

    def _owner(self, name: str) -> OwnerStatistics:
        figures = self._owners.get(name)
        if figures is None:
            if len(self._owners) >= _MOST_OWNERS:
                name = _OTHERS
            figures = self._owners.setdefault(name, OwnerStatistics())
        return figures

    def add_holds(self, samples: list[Any]) -> None:
        """Count finished holds, given as a flat list of owner, seconds waited, seconds held, and so on."""
        fields = iter(samples)
        with self._lock:
            for owner, waited, held in zip(fields, fields, fields, strict=True):
                figures = self._owner(owner)
                figures.wait.add(waited)
                figures.hold.add(held)

    def add_exchanges(self, entries: Iterable[tuple[float, str, bytes, bytes, float, float, str]]) -> None:
        """Count exchanges given as the fields of :class:`LogEntry`."""
        with self._lock:
            for _, owner, sent, received, _, duration, outcome in entries:
                figures = self._owner(owner)
                figures.exchanges += 1
                figures.bytes_sent += len(sent)
                figures.bytes_received += len(received)
                figures.duration.add(duration)
                if outcome != "ok":
                    if outcome in ("timeout", "not sent"):
                        figures.timeouts += 1
                    else:
                        figures.errors += 1

    def add_retry(self, owner: str) -> None:
        """Count a query that was sent once more."""
        with self._lock:
            self._owner(owner).retries += 1

    def snapshot(self) -> WireStatistics:
        """Return all figures as they are now."""
        total = WireStatistics()
        with self._lock:
            for name, figures in self._owners.items():
                copy = OwnerStatistics()
                copy.merge(figures)
                total.owners[name] = copy
                total.merge(figures)
            total.reconnects = self.reconnects
            total.late_replies = self.late_replies
            total.strays = self.strays
        return total
