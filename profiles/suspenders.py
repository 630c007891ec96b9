"""Suspenders for signals of both generations: they trip on a bad value, on NaN, and when there is no value at all."""

from __future__ import annotations

import asyncio
import logging
import math
import numbers
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from bluesky import RunEngine

from profiles.baseline import triggered

logger = logging.getLogger("profiles.suspenders")

POLL_PERIOD_S = 1.0
READ_TIMEOUT_S = 3.0
_INVALID = 3
"""Alarm severity of a reading that is no measurement."""


class SignalSuspender(ABC):
    """Suspends a plan while a signal is not as it should be; for `RE.install_suspender`.

    The plan stops what it moves, waits, goes back to its last checkpoint and goes on. Signals that are measured on
    demand, as those of our instruments are, are polled; others tell their changes themselves and are polled besides,
    to notice when they are gone. No value, NaN, an invalid reading and a failed poll all suspend.

    Parameters
    ----------
    signal
        A signal of an ophyd or an ophyd-async device.
    sleep
        Seconds for which the signal has to be good again before the plan goes on.
    period_s
        Seconds between two polls.
    pre_plan, post_plan
        What to do before the wait and after it: messages, or a function that gives them.
    """

    def __init__(
        self,
        signal: Any,
        *,
        sleep: float = 0.0,
        period_s: float = POLL_PERIOD_S,
        pre_plan: Any = None,
        post_plan: Any = None,
    ) -> None:
        self.signal = signal
        self.sleep = sleep
        self.period_s = period_s
        self._pre_plan = pre_plan
        self._post_plan = post_plan
        self._run_engine: RunEngine | None = None
        self._watch: asyncio.Task[None] | None = None
        self._good = asyncio.Event()
        self._reason = "no value yet"
        self._trips_reported = 0
        self._untold = False
        self._good_since: float | None = None

    @abstractmethod
    def trouble(self, value: Any) -> str:
        """Return what is wrong with a value in a few words, empty when it is good."""

    @property
    def tripped(self) -> bool:
        """Whether plans are suspended now."""
        return not self._good.is_set()

    @property
    def reason(self) -> str:
        """Why it is tripped; empty when it is not."""
        return self._reason if self.tripped else ""

    def install(self, run_engine: RunEngine, *, event_type: str | None = None) -> None:  # noqa: ARG002
        """Begin to watch the signal; the RunEngine calls this. The first value is waited for."""
        self._run_engine = run_engine
        first = threading.Event()
        asyncio.run_coroutine_threadsafe(self._begin(first), run_engine.loop)
        if threading.current_thread() is not run_engine._th:
            first.wait(READ_TIMEOUT_S)

    def remove(self) -> None:
        """Watch no more, and release what is suspended; the RunEngine calls this."""
        run_engine, self._run_engine = self._run_engine, None
        if run_engine is not None and run_engine.loop.is_running():
            run_engine.loop.call_soon_threadsafe(self._end)

    def get_futures(self) -> tuple[list[Callable[[], Any]], str]:
        """Return what a plan that is about to begin has to wait for, and why; the RunEngine calls this."""
        self._untold = False  # by what is returned; of a trip from here on, the plan is told when it runs
        return ([self._good.wait], self._justification()) if self.tripped else ([], "")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.signal.name!r}): {self.reason or 'good'}"

    # On the RunEngine's loop

    async def _begin(self, first: threading.Event) -> None:
        changed = asyncio.Event()
        unsubscribe = _subscribe(self.signal, asyncio.get_running_loop(), changed)
        self._watch = asyncio.create_task(self._keep_watching(first, changed, unsubscribe))

    def _end(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._good.set()

    async def _keep_watching(
        self, first: threading.Event, changed: asyncio.Event, unsubscribe: Callable[[], None]
    ) -> None:
        try:
            while True:
                changed.clear()
                self._judge(await self._look())
                first.set()
                due = self.period_s
                if self._good_since is not None and self.tripped:
                    due = min(due, max(0.0, self._good_since + self.sleep - time.monotonic()))
                try:
                    async with asyncio.timeout(due):
                        await changed.wait()
                except TimeoutError:
                    pass
        finally:
            unsubscribe()

    async def _look(self) -> str:
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                value = await _value_of(self.signal)
        except Exception as error:
            return f"it cannot be read: {str(error) or type(error).__name__}"
        if isinstance(value, numbers.Real) and math.isnan(value):
            return "it is not a number"
        return self.trouble(value)

    def _judge(self, trouble: str) -> None:
        if trouble:
            self._good_since, self._reason = None, trouble
            if self._good.is_set() or not self._trips_reported:
                self._good.clear()
                self._trips_reported += 1
                self._untold = True
                logger.info("%s suspends plans: %s", self.signal.name, trouble)
            self._suspend()
            return
        now = time.monotonic()
        if self._good_since is None:
            self._good_since = now
        is_first = not self._trips_reported and not self._good.is_set()
        if self.tripped and (is_first or now - self._good_since >= self.sleep):
            self._good.set()
            if not is_first:
                logger.info("%s is good again; suspended plans go on", self.signal.name)

    def _suspend(self) -> None:
        """Suspend the plan, if one runs that knows nothing of the trip: it was about to begin then, or paused."""
        run_engine = self._run_engine
        if self._untold and run_engine is not None and run_engine.state.is_running:
            self._untold = False
            run_engine.request_suspend(
                self._good.wait,
                pre_plan=self._pre_plan,
                post_plan=self._post_plan,
                justification=self._justification(),
            )

    def _justification(self) -> str:
        return f"{self.signal.name}: {self._reason}" if self.tripped else ""


class _Threshold(SignalSuspender):
    """Suspends on one side of a limit, until the signal is on the other side of another one."""

    _side: str

    def __init__(self, signal: Any, limit: float, *, resume_at: float | None = None, **settings: Any) -> None:
        super().__init__(signal, **settings)
        self.limit = limit
        self.resume_at = limit if resume_at is None else resume_at
        if self._is_bad(self.resume_at, limit):
            raise ValueError(f"resume_at ({self.resume_at:g}) must not be {self._side} the limit ({limit:g})")

    @abstractmethod
    def _is_bad(self, value: float, threshold: float) -> bool: ...

    def trouble(self, value: Any) -> str:
        """As :meth:`SignalSuspender.trouble`."""
        threshold = self.resume_at if self.tripped and self._trips_reported else self.limit
        return f"{value:g} is {self._side} {threshold:g}" if self._is_bad(value, threshold) else ""


class SuspendBelow(_Threshold):
    """Suspends while a signal is below `limit`, until it is at least `resume_at` (default: the limit)."""

    _side = "below"

    def _is_bad(self, value: float, threshold: float) -> bool:
        return value < threshold


class SuspendAbove(_Threshold):
    """Suspends while a signal is above `limit`, until it is at most `resume_at` (default: the limit)."""

    _side = "above"

    def _is_bad(self, value: float, threshold: float) -> bool:
        return value > threshold


class SuspendUnless(SignalSuspender):
    """Suspends unless a signal has the wanted value: `True` for a shutter that is open, `"ok"` for an interlock."""

    def __init__(self, signal: Any, wanted: Any = True, **settings: Any) -> None:
        super().__init__(signal, **settings)
        self.wanted = wanted

    def trouble(self, value: Any) -> str:
        """As :meth:`SignalSuspender.trouble`."""
        good = bool(value) is self.wanted if isinstance(self.wanted, bool) else value == self.wanted
        return "" if good else f"it is {value!r}, not {self.wanted!r}"


def suspender(
    signal: Any, *, below: float | None = None, above: float | None = None, unless: Any = None, **settings: Any
) -> SignalSuspender:
    """Return the suspender for one condition on a signal.

    Parameters
    ----------
    signal
        What to watch.
    below, above, unless
        One of them: see :class:`SuspendBelow`, :class:`SuspendAbove`, :class:`SuspendUnless`.
    settings
        For the suspender: `sleep`, `resume_at`, `period_s`, `pre_plan`, `post_plan`.

    Raises
    ------
    ValueError
        None or several conditions are given.
    """
    given = [name for name, value in (("below", below), ("above", above), ("unless", unless)) if value is not None]
    if len(given) != 1:
        raise ValueError(f"give one of below, above, unless; given: {', '.join(given) or 'none'}")
    if below is not None:
        return SuspendBelow(signal, below, **settings)
    if above is not None:
        return SuspendAbove(signal, above, **settings)
    return SuspendUnless(signal, unless, **settings)


def _is_asynchronous(signal: Any) -> bool:
    return callable(getattr(signal, "subscribe_reading", None))


def _measures_on_demand(signal: Any) -> bool:
    """Tell whether a synchronous signal has a new value only when it is triggered to measure one."""
    return callable(getattr(signal, "measure", None)) and callable(getattr(signal, "trigger", None))


async def _value_of(signal: Any) -> Any:
    if _is_asynchronous(signal):
        reading = await signal.read()
        (value,) = reading.values()
        if value.get("alarm_severity", 0) == _INVALID:
            raise ValueError("the reading is invalid")
        return value["value"]
    if _measures_on_demand(signal):
        await triggered(signal)
        return signal.get()
    return await asyncio.to_thread(signal.get)


def _subscribe(signal: Any, loop: asyncio.AbstractEventLoop, changed: asyncio.Event) -> Callable[[], None]:
    """Have `changed` set when a signal that tells its changes has another value; return what ends this."""
    if _is_asynchronous(signal):
        if _is_on_a_wire(signal):
            return lambda: None  # a subscription would poll, as is done here anyhow

        def note(_: Any) -> None:
            changed.set()

        signal.subscribe_reading(note)
        return lambda: signal.clear_sub(note)
    if _measures_on_demand(signal):
        return lambda: None
    token = signal.subscribe(lambda **_: loop.call_soon_threadsafe(changed.set), run=False)
    return lambda: signal.unsubscribe(token)


def _is_on_a_wire(signal: Any) -> bool:
    from devices.v4.wire_backend import WireSignalBackend

    backend = getattr(getattr(signal, "_connector", None), "backend", None)
    return isinstance(backend, WireSignalBackend)
