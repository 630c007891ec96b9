"""One direction of a serial line, at the line's speed."""

from __future__ import annotations

from collections.abc import Callable

from .loop import Clock, Timer


class PacedLine:
    """Delivers bytes one after the other, each in the moment its stop bit has passed.

    The schedule is absolute: a late wake-up delivers all bytes that are due, so that nothing drifts and a long
    message takes exactly its bits' time.

    Args:
        clock: the simulation's clock.
        byte_s: simulated seconds a byte takes; 0 delivers at once.
        grain_s: bytes that are due within this time may be delivered together, except that a message's last
            byte comes in its own moment.
        deliver: takes the bytes that have arrived.
    """

    def __init__(self, clock: Clock, byte_s: float, grain_s: float, deliver: Callable[[bytes], None]) -> None:
        self._clock = clock
        self._byte_s = byte_s
        self._grain_s = grain_s
        self._deliver = deliver
        self._queue = bytearray()
        self._head_starts = 0.0
        self._timer: Timer | None = None
        self._paused = False

    def __len__(self) -> int:
        """Bytes under way."""
        return len(self._queue)

    def push(self, data: bytes) -> None:
        """Send bytes after those already under way."""
        if self._byte_s == 0 and not self._paused:
            self._deliver(data)
            return
        if not self._queue:
            self._head_starts = max(self._head_starts, self._clock.now())
        self._queue += data
        self._schedule()

    def pause(self) -> None:
        """Stop after the byte under way, as XOFF does."""
        self._paused = True
        self._cancel()

    def resume(self) -> None:
        """Go on with what waits."""
        self._paused = False
        self._head_starts = max(self._head_starts, self._clock.now())
        self._schedule()

    def clear(self) -> None:
        """Lose what is under way."""
        self._queue.clear()
        self._cancel()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        if self._timer is not None or self._paused or not self._queue:
            return
        first = self._head_starts + self._byte_s
        last = self._head_starts + len(self._queue) * self._byte_s
        when = max(first, min(last, self._clock.now() + self._grain_s))
        self._timer = self._clock.call_at(when, self._wake)

    def _wake(self) -> None:
        self._timer = None
        number = len(self._queue)
        if self._byte_s > 0:
            # The tolerance keeps rounding from putting off the byte this very timer was set for.
            number = min(number, int((self._clock.now() - self._head_starts) / self._byte_s + 1e-6))
        data = bytes(self._queue[:number])
        del self._queue[:number]
        self._head_starts += number * self._byte_s
        if data:
            self._deliver(data)
        self._schedule()
