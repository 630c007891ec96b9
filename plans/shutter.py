"""A shutter in the hands of a plan: closed whatever becomes of the plan, also where no clean-up of a plan runs."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Generator, Mapping
from typing import Any

from bluesky.protocols import Movable, Readable
from bluesky.utils import Msg

from plans.checks import Arguments, PlanError
from plans.relay import read_device

logger = logging.getLogger(__name__)

RETRY_PERIOD_S = 0.1


class ShutterNotClosed(PlanError):
    """A shutter was told to close and did not say that it has. The message is for whoever stands at the bench."""

    def __init__(self, shutter: str, timeout_s: float, cause: BaseException | None) -> None:
        self.shutter = shutter
        self.timeout_s = timeout_s
        reason = f": {cause}" if cause is not None and str(cause) else ""
        super().__init__(
            f"{shutter} WAS NOT CLOSED within {timeout_s:g} s{reason}. Take the beam to be open: close the shutter by "
            "hand, then look at its wire and its interlock."
        )


class LimitExceeded(PlanError):
    """Something that was watched has left its limits; the shutter was closed for it."""

    def __init__(self, column: str, value: float, low: float | None, high: float | None, units: str = "") -> None:
        self.column = column
        self.value = value
        self.low = low
        self.high = high
        allowed = " to ".join("any" if bound is None else f"{bound:g}" for bound in (low, high))
        super().__init__(
            f"{column} is {value:g}{f' {units}' if units else ''}, allowed is {allowed}. The shutter was closed. "
            "Find the reason before the scan is repeated."
        )


class ShutterClosed(PlanError):
    """A plan wanted to measure on after a failure for which the shutter had been closed."""

    def __init__(self, shutter: str, cause: BaseException) -> None:
        self.shutter = shutter
        self.cause = cause
        super().__init__(
            f"{shutter} was closed because of: {cause}. The plan would have measured on without light; it was ended."
        )


def find_shutter(device: Any) -> Any:
    """Return what opens and closes: the `shutter` of a laser, or the device itself."""
    return getattr(device, "shutter", device)


def check_shutter(arguments: Arguments, argument: str, shutter: Any, open_value: Any, closed_value: Any) -> None:
    """Expect a shutter that can be set and read, and that is now either open or closed."""
    if not arguments.device(argument, shutter, Movable, Readable):
        return

    async def look() -> None:
        reading = await _answer(shutter.read())
        value = next(iter(reading.values()))["value"]
        if value not in (open_value, closed_value):
            arguments.problem(argument, value, f"{open_value!r} (open) or {closed_value!r} (closed) on {shutter.name}")

    arguments.ask(look)


def set_shutter(shutter: Any, value: Any) -> Generator[Msg, Any, None]:
    """Set a shutter and wait until it says that it is set."""
    group = object()
    yield Msg("set", shutter, value, group=group)
    yield Msg("wait", None, group=group)


def read_shutter(shutter: Any) -> Generator[Msg, Any, Any]:
    """Measure a shutter and return what it says, outside of any event."""
    reading = yield from read_device(shutter)
    return next(iter(reading.values()))["value"] if reading else None


class ShutterGuard:
    """Stands for a shutter in the RunEngine, which stops what it has set on every way out of a plan.

    Stopping this closes the shutter. The RunEngine does so at the end of a plan, on failure, abort and stop, on halt
    (where no plan's clean-up runs), and when it pauses or is suspended. When it resumes, the shutter is opened again if
    it was open.

    Parameters
    ----------
    shutter
        What is set.
    open_value, closed_value
        What it is set to.
    timeout_s
        How long closing may take before it is given up and told.
    """

    parent = None

    def __init__(self, shutter: Any, open_value: Any, closed_value: Any, timeout_s: float) -> None:
        self.name = f"{shutter.name}_guard"
        self.shutter = shutter
        self.timeout_s = timeout_s
        self.tripped: LimitExceeded | None = None
        self._values = {True: open_value, False: closed_value}
        self._is_open = False
        self._was_open = False
        self._is_closed = False
        self._closing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched: list[Callable[[], None]] = []
        self._movers: list[Any] = []

    def set(self, is_open: bool) -> Any:
        """Open or close; returns the shutter's own status."""
        self._is_open, self._is_closed = is_open, False
        return self.shutter.set(self._values[is_open])

    async def stop(self, success: bool = True) -> None:  # noqa: ARG002
        """Close and wait until it is closed.

        Cancelled, closing goes on.

        Raises
        ------
        ShutterNotClosed
            It did not, or not in time.
        """
        self._was_open, self._is_open = self._is_open, False
        await self.close()

    def pause(self) -> None:
        """Do nothing: pausing has stopped everything, and with it closed the shutter."""

    async def resume(self) -> None:
        """Open again if it was open before the pause and nothing has left its limits since."""
        if self._was_open and self.tripped is None:
            self._was_open, self._is_open, self._is_closed = False, True, False
            await asyncio.wait_for(_finished(self.shutter.set(self._values[True])), self.timeout_s)

    async def close(self) -> None:
        """Close the shutter, trying again until it is closed or the time is over; see :meth:`stop`."""
        if self._is_closed:
            return
        if self._closing is None or self._closing.done():
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def arm(self, limits: Mapping[Any, tuple[float | None, float | None]], movers: list[Any]) -> None:
        """Begin to watch: whatever tells its value by itself is looked at whenever it does.

        Parameters
        ----------
        limits
            Lowest and highest value by what is watched.
        movers
            What to stop when a limit is exceeded.
        """
        self._loop = asyncio.get_running_loop()
        self._movers = movers
        for device, (low, high) in limits.items():
            self._watch(device, low, high)

    async def disarm(self) -> None:
        """End watching."""
        for end in self._watched:
            end()
        self._watched.clear()

    def trip(self, exceeded: LimitExceeded) -> None:
        """Close the shutter and stop what moves, now; from any thread."""
        if self.tripped is not None:
            return
        self.tripped = exceeded
        self._is_open = self._was_open = False
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._answer_trip)

    def _answer_trip(self) -> None:
        self._tripping = asyncio.ensure_future(self._stop_all())

    async def _stop_all(self) -> None:
        results = await asyncio.gather(
            self.close(), *(_answer(mover.stop(success=False)) for mover in self._movers), return_exceptions=True
        )
        for error in results:
            if isinstance(error, BaseException):
                logger.error("After %s: %s", self.tripped, error)

    def _watch(self, device: Any, low: float | None, high: float | None) -> None:
        def look(column: str, value: Any) -> None:
            exceeded = exceeds(column, value, low, high)
            if exceeded is not None:
                self.trip(exceeded)

        # A mover of ophyd-async tells of itself through its readback.
        source = next(
            (part for part in (device, getattr(device, "readback", None)) if hasattr(part, "subscribe_reading")), None
        )
        if source is not None:

            def on_reading(readings: Mapping[str, Any]) -> None:
                for column, reading in readings.items():
                    look(column, reading["value"])

            source.subscribe_reading(on_reading)
            self._watched.append(lambda: source.clear_sub(on_reading))
        elif callable(getattr(device, "subscribe", None)):

            def on_value(*, value: Any = None, **_: Any) -> None:
                look(device.name, value)

            token = device.subscribe(on_value, run=False)
            self._watched.append(lambda: device.unsubscribe(token))

    async def _close(self) -> None:
        cause: BaseException | None = None
        try:
            async with asyncio.timeout(self.timeout_s):
                while True:
                    try:
                        await _finished(self.shutter.set(self._values[False]))
                        self._is_closed = not self._is_open
                        return
                    except Exception as error:
                        cause = error
                    await asyncio.sleep(RETRY_PERIOD_S)
        except TimeoutError:
            failure = ShutterNotClosed(self.shutter.name, self.timeout_s, cause)
            logger.critical("%s", failure)
            raise failure from cause


def exceeds(column: str, value: Any, low: float | None, high: float | None, units: str = "") -> LimitExceeded | None:
    """Return what is to be raised when a value is outside of its limits or no number; None when all is well."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    inside = (low is None or number >= low) and (high is None or number <= high)
    return None if inside else LimitExceeded(column, number, low, high, units)


async def _answer(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def _finished(status: Any) -> None:
    """Wait for a status of either generation; raise what made it fail."""
    if inspect.isawaitable(status):
        await status
        return
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    status.add_callback(lambda *_: loop.call_soon_threadsafe(done.set))
    await done.wait()
    error = status.exception()
    if error is not None:
        raise error
