"""What has come in for an unmodified driver, and the driver's threads that wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from time import perf_counter
from typing import Final, Protocol

STALL_S: Final = 0.01
"""Waking later than this is no matter of the system's clock: nothing ran meanwhile."""
_LAST_LOOK_S: Final = 0.1

Complete = Callable[[bytearray], int]
"""Returns where in the bytes received so far a read ends; 0 while it does not."""


@dataclass(eq=False)
class Reader:
    """A thread that waits for bytes."""

    complete: Complete
    exact: bool
    """Whether what it waits for is the end of a reply, and not just a number of bytes."""
    deadline: float
    """When it gives up."""


class Inbox(Protocol):
    """Takes the bytes a lease receives. All methods are called with ``changed`` held."""

    changed: threading.Condition

    def put(self, data: bytes, *, late: bool) -> None:
        """Take bytes; ``late`` ones came after their lease had ended."""

    def forget_late(self) -> None:
        """Drop late bytes that nobody has read: what they answered has been given up."""

    def fail(self, error: BaseException) -> None:
        """Let those who wait for bytes know that none will come."""

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for bytes now."""

    @property
    def touched(self) -> float:
        """When bytes were last asked for, on :func:`time.perf_counter`'s clock."""

    @property
    def gave_up(self) -> float:
        """When a read last ended without all it waited for, on the same clock."""

    @property
    def waits_until(self) -> float:
        """When those who wait now give up, on the same clock; 0 when nobody waits, infinite when never."""

    def answered(self) -> tuple[bool, bool]:
        """Return whether a reader has all it waits for, and whether that is the end of a reply."""


class ReadBuffer:
    """An inbox that threads read from as from a serial port."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.data = bytearray()
        self.touched = 0.0
        self.gave_up = 0.0
        self._late = False
        self._readers: list[Reader] = []
        self._errors: dict[Reader, BaseException] = {}
        self._cancelled: set[Reader] = set()

    @property
    def waiting(self) -> bool:
        """Whether a thread waits for bytes now."""
        return len(self._readers) > len(self._errors)

    @property
    def waits_until(self) -> float:
        """When the last of those who wait now gives up."""
        return max((reader.deadline for reader in self._readers), default=0.0)

    def put(self, data: bytes, *, late: bool) -> None:
        """Append bytes."""
        self._late = late and (self._late or not self.data)
        self.data += data
        self.changed.notify_all()

    def forget_late(self) -> None:
        """Drop what is unread if all of it came late."""
        if self._late:
            self.data.clear()
            self._late = False

    def fail(self, error: BaseException) -> None:
        """Have the error raised where threads wait now."""
        for reader in self._readers:
            self._errors[reader] = error
        self.changed.notify_all()

    def cancel(self) -> None:
        """Have those who wait now return with what they have."""
        with self.changed:
            self._cancelled.update(self._readers)
            self.changed.notify_all()

    def available(self) -> int:
        """Return how many bytes there are; asking counts as waiting for them."""
        with self.changed:
            self.touched = perf_counter()
            return len(self.data)

    def clear(self) -> None:
        """Drop what is there."""
        with self.changed:
            self.data.clear()

    def take_ready(self, complete: Complete) -> bytes:
        """Return what ``complete`` asks for if it is there, else nothing."""
        with self.changed:
            return self._cut(complete(self.data))

    def _cut(self, end: int) -> bytes:
        data = bytes(self.data[:end])
        del self.data[:end]
        return data

    def answered(self) -> tuple[bool, bool]:
        """Return whether a reader has all it waits for, and whether that is the end of a reply."""
        satisfied = [reader for reader in self._readers if reader.complete(self.data)]
        return bool(satisfied), any(reader.exact for reader in satisfied)

    def take(
        self,
        complete: Complete,
        timeout: float | None,
        *,
        most: int | None = None,
        exact: bool = False,
        gap: float | None = None,
        fetch: Callable[[float], None] | None = None,
    ) -> bytes:
        """Return the bytes up to where ``complete`` says, or fewer at the end of the time.

        Parameters
        ----------
        complete
            Where the read ends.
        timeout
            Seconds; ``None``: until it is complete.
        most
            How many bytes to return at the end of the time; ``None``: all.
        exact
            Whether completion means the end of a reply.
        gap
            Seconds without a byte after which a read that has begun is over; ``None``: no such limit.
        fetch
            Reads from the wire until a deadline and puts it here, on this thread; without it another thread does.

        Raises
        ------
        BaseException
            What the inbox was told by :meth:`fail` while this waited.
        """
        deadline = inf if timeout is None else perf_counter() + timeout
        reader = Reader(complete, exact, deadline)
        with self.changed:
            self._readers.append(reader)
            self.changed.notify_all()
            size, grew, stood_still = 0, 0.0, False
            try:
                while not (end := complete(self.data)):
                    if reader in self._errors:
                        raise self._errors[reader]
                    now = self.touched = perf_counter()
                    until = deadline
                    if len(self.data) != size:
                        size, grew = len(self.data), now
                    if gap is not None and size:
                        until = min(until, grew + gap)
                    if now > until + STALL_S and timeout and fetch is None and not stood_still:
                        # Nothing ran for a while: what came meanwhile is about to be put here.
                        stood_still = True
                        deadline = until = now + min(now - until, _LAST_LOOK_S)
                    if now >= until or reader in self._cancelled:
                        self.gave_up = now if timeout != 0 else 0.0
                        break
                    self._wait(until, fetch)
                return self._cut(end or (len(self.data) if most is None else min(most, len(self.data))))
            finally:
                self.touched = perf_counter()
                self._readers.remove(reader)
                self._errors.pop(reader, None)
                self._cancelled.discard(reader)

    def _wait(self, until: float, fetch: Callable[[float], None] | None) -> None:
        """Let something come, at most until a deadline (``changed`` held)."""
        if fetch is None:
            self.changed.wait(None if until == inf else until - perf_counter())
            return
        self.changed.release()
        try:
            fetch(until)
        finally:
            self.changed.acquire()
