"""Movable devices on a shared wire: motions that report progress and end when their status is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import cached_property
from typing import Any

from ophyd_async.core import (
    CalculatableTimeout,
    MovableLogic,
    StandardMovable,
    TimeoutCalculator,
    WatchableAsyncStatus,
    WatcherUpdate,
)

from coexistence import CoexistenceError
from devices.dialogue import tell_unheard
from devices.errors import STOP_PATIENCE_S, MoveStopped, MoveTimedOut, is_unsent
from devices.protocols.errors import ProtocolError

logger = logging.getLogger(__name__)


class WireMovableLogic(MovableLogic[float]):
    """How a device on a wire moves."""

    @abstractmethod
    async def travel(self, target: float, report: Callable[[float], None]) -> None:
        """Move to the target, report each position on the way, and return when the target is reached.

        Raises what made the motion fail. Cancelled when the motion is to end; the device is halted by others then.
        """

    @abstractmethod
    async def halt(self) -> None:
        """Send the stop, before everybody else on the wire."""

    async def move(self, new_position: float, timeout: TimeoutCalculator) -> None:
        """Move without reporting progress."""
        async with asyncio.timeout(timeout()):
            await self.travel(new_position, lambda _: None)


class _Motion:
    """One request to move, from ``set()`` to the end of its status."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.stopped_with: bool | None = None
        self.reason = ""
        self.updates: asyncio.Queue[float | None] = asyncio.Queue()

    def start(self, travel: Coroutine[Any, Any, None]) -> None:
        """Begin to travel; the end of it ends the updates."""
        self.task = asyncio.create_task(travel)
        self.task.add_done_callback(lambda _: self.updates.put_nowait(None))

    @property
    def failed(self) -> bool:
        """Tell whether it has begun and not ended well."""
        task = self.task
        if task is None:
            return False
        return not task.done() or task.cancelled() or self.fault is not None

    @property
    def fault(self) -> BaseException | None:
        """What made it fail, if it has ended so; looking also keeps asyncio from complaining that nobody did."""
        task = self.task
        return None if task is None or not task.done() or task.cancelled() else task.exception()


class WireMovable(StandardMovable[float]):
    """A movable on a shared wire.

    The wire is free during a motion. A status that is cancelled, fails or times out stops the device; ``stop()``
    returns at once and the stop goes before everybody else on the wire.
    """

    @cached_property
    @abstractmethod
    def movable_logic(self) -> WireMovableLogic:
        """How the device moves."""

    _motion: _Motion | None = None
    _background: frozenset[asyncio.Task[None]] = frozenset()

    @property
    def moving(self) -> bool:
        """Tell whether a motion of ours is under way, or a stop has still to be sent."""
        return self._motion is not None or bool(self._background)

    def set(
        self, new_position: float, timeout: CalculatableTimeout = "CALCULATE_TIMEOUT"
    ) -> WatchableAsyncStatus[float]:
        """Move and wait until the target is reached; a motion under way is stopped first.

        Parameters
        ----------
        new_position
            Where to go, in the readback's units.
        timeout
            Longest duration in s; by default the device's own, None for none.

        Returns
        -------
        WatchableAsyncStatus
            It reports progress and raises ValueRefused when the position is outside of the limits (nothing is sent
            then), MoveStopped after ``stop(success=False)`` or another ``set()``, MoveTimedOut when it took too long,
            and what the instrument says. Cancelled, the device is stopped.
        """
        # The motion is known from here on, so that a stop that comes before anything was sent is not lost.
        previous, self._motion = self._motion, _Motion()
        if previous is not None:
            self._end(previous, False, f"a new target {new_position:g} was set")
        return WatchableAsyncStatus(self._travel(self._motion, new_position, timeout), name=self.name)

    async def _travel(
        self, motion: _Motion, new_position: float, timeout: CalculatableTimeout
    ) -> AsyncIterator[WatcherUpdate[float]]:
        logic = self.movable_logic
        deadline = asyncio.timeout(None)
        limit: float | None = None
        try:
            await logic.check_move(new_position)
            target = float(new_position)
            if self._background:
                await asyncio.wait(self._background)
            if self._mock is not None:
                await logic.setpoint.set(target)
                return
            initial = await logic.readback.get_value()
            units, precision = await logic.get_units_precision()
            limit = await logic.calculate_timeout(initial, target) if isinstance(timeout, str) else timeout
            if motion.stopped_with is None:
                motion.start(logic.travel(target, motion.updates.put_nowait))
                deadline = asyncio.timeout(limit)
                async with deadline:
                    while (position := await motion.updates.get()) is not None:
                        yield WatcherUpdate(
                            current=position,
                            initial=initial,
                            target=target,
                            name=self.name,
                            unit=units,
                            precision=precision,
                        )
            if motion.stopped_with is False:
                raise MoveStopped(self.name, target, motion.reason)
            if motion.stopped_with is None and motion.task is not None:
                await motion.task
        except TimeoutError as error:
            if limit is None or not deadline.expired():
                raise
            raise MoveTimedOut(self.name, f"the motion to {new_position:g}", limit) from error
        finally:
            if self._motion is motion:
                self._motion = None
            if motion.stopped_with is not None:
                tell_unheard(motion.fault)
            if motion.failed and motion.stopped_with is None and motion.task is not None:
                motion.task.cancel()
                self._halt_in_background()

    async def stop(self, success: bool = False) -> None:
        """Stop the motion and return at once; the stop is sent in the background, before everybody else.

        Parameters
        ----------
        success
            Whether the status of the motion ends as finished or fails with MoveStopped. Without a motion of ours
            under way, ``success=True`` has nothing to do, and ``success=False`` still sends the stop.
        """
        if self._motion is not None:
            self._end(self._motion, success, "it was stopped")
        elif not success:
            self._halt_in_background()

    @contextlib.asynccontextmanager
    async def stopped_on_failure(self, what: str, timeout: float) -> AsyncIterator[None]:
        """Stop the device when the block fails or is cancelled, or with MoveTimedOut after the timeout in s."""
        done = False
        try:
            async with asyncio.timeout(timeout) as limit:
                yield
            done = True
        except TimeoutError as error:
            if limit.expired():
                raise MoveTimedOut(self.name, what, timeout) from error
            raise
        finally:
            if not done:
                self._halt_in_background()

    def _end(self, motion: _Motion, success: bool, reason: str) -> None:
        motion.stopped_with = success
        motion.reason = reason
        if self._motion is motion:
            self._motion = None
        if motion.task is not None:
            motion.task.cancel()
            self._halt_in_background()

    def _halt_in_background(self) -> None:
        if self._mock is not None:
            return
        task = asyncio.create_task(self._halt())
        # The loop itself keeps only weak references to tasks.
        self._background |= {task}
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._background -= {task}

    async def _halt(self) -> None:
        deadline = time.monotonic() + STOP_PATIENCE_S
        while True:
            try:
                await self.movable_logic.halt()
                return
            except (CoexistenceError, ProtocolError) as error:
                if is_unsent(error) and time.monotonic() < deadline:
                    continue
                logger.exception("%s could not be stopped", self.name)
                return
