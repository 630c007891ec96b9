"""A simulated instrument's host and clock, without any port and without waiting."""

from collections.abc import Callable

from simulators.instrument import Instrument
from simulators.loop import Timer, Timers


class ManualClock:
    """Simulated time that passes only when a test says so."""

    def __init__(self) -> None:
        self._now = 0.0
        self._timers = Timers()

    def now(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        return self._timers.add(when, callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        return self._timers.add(self._now + delay, callback)

    def advance(self, seconds: float) -> None:
        end = self._now + seconds
        while (due := self._timers.next_due()) is not None and due <= end:
            self._now = max(self._now, due)
            callback = self._timers.pop_due(self._now)
            assert callback is not None
            callback()
        self._now = end


class Host:
    """Stands for the computer at the other end of one channel."""

    def __init__(self, instrument: Instrument, clock: ManualClock) -> None:
        self.instrument = instrument
        self.clock = clock
        self._received = bytearray()

    def send(self, data: bytes) -> None:
        self._received += data

    def received(self) -> bytes:
        data = bytes(self._received)
        self._received.clear()
        return data

    def say(self, data: bytes) -> bytes:
        """Send bytes and return what comes back at once."""
        self.instrument.receive(self, data)
        self.clock.advance(0.0)
        return self.received()

    def wait(self, seconds: float) -> bytes:
        """Let time pass and return what has come in it."""
        self.clock.advance(seconds)
        return self.received()
