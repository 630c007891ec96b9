"""Blocking drivers that move something, as ophyd positioners whose motions run off the event loop."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from bluesky.protocols import Location
from ophyd import Kind
from ophyd.positioner import PositionerBase
from ophyd.status import DeviceStatus, MoveStatus

from devices.dialogue import tell_unheard
from devices.errors import STOP_PATIENCE_S, MoveStopped, is_unsent
from devices.protocols.conversation import Stamped
from devices.protocols.errors import NotOnTarget
from devices.statuses import ended
from devices.v2.errors import PositionRefused
from devices.v2.legacy import LegacyDevice
from devices.v2.worker import Worker

logger = logging.getLogger(__name__)

_STANDSTILL_S = 10.0
_STOP_GRACE_S = 1.0


class Progress(NamedTuple):
    """Where a motion stands: still moving or not, and the position when the driver could tell it."""

    moving: bool
    position: Stamped[float] | None


class _Motion:
    """One request to move, from ``set()`` to the end of its status."""

    def __init__(self, target: float, status: MoveStatus) -> None:
        self.target = target
        self.status = status
        self.halt = threading.Event()
        self.halt_is_success = False
        self.halt_reason = ""

    def request_halt(self, success: bool, reason: str) -> bool:
        """Ask for the end of the motion; False when that has been asked for already."""
        if self.halt.is_set():
            return False
        self.halt_is_success = success
        self.halt_reason = reason
        self.halt.set()
        return True


class LegacyPositioner(LegacyDevice, PositionerBase):
    """A movable blocking driver.

    The motion runs on a thread of its own and measurements go on beside it. Only that thread ends the status of the
    motion: finished when the target is reached or after ``stop(success=True)``, with the real error otherwise.

    Subclasses declare a ``readback`` signal and say how to begin a motion, how it goes on and how to halt it.

    Parameters
    ----------
    driver, name, timeout_s
        As for :class:`LegacyDevice`.
    egu
        Units of the position.
    precision
        Digits after the decimal point worth showing.
    limits
        Lowest and highest position; None for no limits.
    tolerance
        How far from its target a motion may end; None leaves that judgement to the driver.
    poll_period_s
        How often to ask the driver during a motion.
    settle_time, timeout
        As ophyd has them, in seconds.
    """

    def __init__(
        self,
        driver: Any,
        *,
        name: str,
        egu: str = "",
        precision: int = 3,
        limits: tuple[float, float] | None = None,
        tolerance: float | None = None,
        poll_period_s: float = 0.05,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("labels", {"motors"})
        self._egu = egu
        self._precision = precision
        self._limits = limits
        self._tolerance = tolerance
        self._poll_period_s = poll_period_s
        self._mover = Worker(f"{name} motion (v2)", self)
        self._motion: _Motion | None = None
        self._sent_to: float | None = None
        self._motion_lock = threading.Lock()
        super().__init__(driver, name=name, **kwargs)
        self.readback.name = self.name

    def begin_motion(self, target: float) -> None:
        """Start the motion; returns when it is under way. Runs on the motion's thread."""
        raise NotImplementedError

    def ask_motion(self) -> Progress:
        """Ask how the motion goes on; raises what made it fail. Runs on the motion's thread."""
        raise NotImplementedError

    def halt_motion(self) -> None:
        """Stop whatever moves. Runs on a thread of its own, also while the motion's thread is at work."""
        raise NotImplementedError

    @property
    def position(self) -> float | None:
        """The position as it was measured last; None before the first measurement and after a failed one."""
        position: float | None = self.readback.last
        return position

    @property
    def egu(self) -> str:
        """Units of the position."""
        return self._egu

    @property
    def precision(self) -> int:
        """Digits after the decimal point worth showing."""
        return self._precision

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest position that may be asked for; equal when there are none."""
        return (0.0, 0.0) if self._limits is None else self._limits

    @property
    def tolerance(self) -> float:
        """How far from where it was sent it may stand and still be there."""
        return self._tolerance or 0.0

    async def locate(self) -> Location[float]:
        """Measure where it is, and tell where it was sent, which is where relative moves begin.

        Once somebody else has moved it, it counts as sent to where it stands. Does not block the event loop; cancelled,
        the measurement goes on.
        """
        await ended(self.readback.trigger())
        position: float = self.readback.get()
        motion, sent_to = self._motion, self._sent_to
        if motion is not None:
            return Location(setpoint=motion.target, readback=position)
        if sent_to is None or abs(position - sent_to) > self.tolerance:
            sent_to = position
        return Location(setpoint=sent_to, readback=position)

    @property
    def moving(self) -> bool:
        """Tell whether a motion of ours is under way."""
        return self._motion is not None

    def check_value(self, pos: float) -> None:
        """Raise PositionRefused, which is a LimitError, when the position is not a number within the limits."""
        low, high = self.limits
        allowed = f"{low:g} to {high:g} {self.egu}".rstrip() if low < high else "any finite number"
        try:
            value = float(pos)
        except (TypeError, ValueError):
            value = float("nan")
        inside = low <= value <= high if low < high else abs(value) < float("inf")
        if not inside:
            raise PositionRefused("position", pos, allowed, instrument=self.name)

    def move(
        self,
        position: float,
        wait: bool = False,
        timeout: float | None = None,
        moved_cb: Callable[..., None] | None = None,
    ) -> MoveStatus:
        """Start a motion and return its status; a motion under way is stopped first.

        Parameters
        ----------
        position
            Where to go, in ``egu``.
        wait
            Return when the motion has ended, for scripts.
        timeout
            Longest duration in seconds; the motion is stopped and the status fails after it.
        moved_cb
            Called with the status when it ends.

        Raises
        ------
        PositionRefused
            When the position is outside of the limits; nothing is sent then.
        """
        self.check_value(position)
        # A failing MoveStatus would stop the device, and with it the motion that has replaced the failed one.
        status = MoveStatus(
            self,
            position,
            timeout=self.timeout if timeout is None else timeout,
            settle_time=self.settle_time,
            call_stop_on_failure=False,
        )
        if moved_cb is not None:
            status.add_callback(partial(moved_cb, obj=self))
        motion = _Motion(float(position), status)
        status.add_callback(lambda ended: self._halt_failed(motion, ended))
        with self._motion_lock:
            previous, self._motion = self._motion, motion
            self._sent_to = motion.target
        if previous is not None and previous.request_halt(False, f"a new target {position:g} was set"):
            self._halt_in_background()
        self._mover.submit(partial(self._run, motion))
        if wait:
            status.wait()
        return status

    def stop(self, *, success: bool = False) -> None:
        """Stop the motion; returns at once, from any thread, as often as one likes.

        Parameters
        ----------
        success
            Whether the status of the motion ends as finished or as failed with MoveStopped. Without a motion of ours
            under way, ``success=True`` has nothing to do, and ``success=False`` still sends the stop.
        """
        motion = self._motion
        if motion is None:
            if not success:
                self._halt_in_background()
        elif motion.request_halt(success, "it was stopped"):
            self._halt_in_background()

    def do_and_look(self, work: Callable[[], None], what: str, timeout: float) -> DeviceStatus:
        """Have a motion without a target done on the driver's thread, homing for one, and measure where it ended."""

        def work_and_look() -> None:
            work()
            self._measure(Kind.normal)

        return self.do(work_and_look, what, timeout=timeout)

    def _end_threads(self) -> None:
        self._mover.stop()
        super()._end_threads()

    def _halt_failed(self, motion: _Motion, status: MoveStatus) -> None:
        if not status.success and self._motion is motion and motion.request_halt(False, "it took too long"):
            self._halt_in_background()

    def _run(self, motion: _Motion) -> None:
        error: Exception | None = None
        try:
            self._move_to(motion)
        except Exception as caught:
            error = caught
        with self._motion_lock:
            if self._motion is motion:
                self._motion = None
        if motion.halt.is_set():
            # A halted motion ends the way the one who halted it asked for, whatever the driver made of it.
            tell_unheard(error)
            error = None if motion.halt_is_success else MoveStopped(self.name, motion.target, motion.halt_reason)
        self._moving = False
        if error is None:
            self._run_subs(sub_type=self.SUB_DONE, timestamp=time.time(), value=self.position)
            motion.status.set_finished()
        else:
            motion.status.set_exception(error)

    def _move_to(self, motion: _Motion) -> None:
        if motion.halt.is_set():
            return
        with self.exclusive():
            self.begin_motion(motion.target)
            if motion.halt.is_set():
                # The stop may have gone out before the motion did.
                self.halt_motion()
        self._moving = True
        self._run_subs(sub_type=self.SUB_START, timestamp=time.time())
        while self._note(self._ask()).moving:
            if motion.halt.wait(self._poll_period_s):
                self._wait_for_standstill()
                return
        position = self.position
        if self._tolerance is not None and position is not None and abs(position - motion.target) > self._tolerance:
            raise NotOnTarget(motion.target, position, self.egu, instrument=self.name)

    def _wait_for_standstill(self) -> None:
        deadline = time.monotonic() + _STANDSTILL_S
        while self._note(self._ask()).moving and time.monotonic() < deadline:
            time.sleep(self._poll_period_s)

    def _ask(self) -> Progress:
        with self.exclusive():
            return self.ask_motion()

    def _note(self, progress: Progress) -> Progress:
        if progress.position is not None:
            self.readback.take(progress.position)
            self._set_position(progress.position.value, timestamp=progress.position.timestamp)
        return progress

    def _measure(self, kind: Kind) -> None:
        super()._measure(kind)
        if kind & Kind.normal:
            self._set_position(self.readback.get(), timestamp=self.readback.timestamp)

    def _halt_in_background(self) -> None:
        threading.Thread(target=self._halt, name=f"{self.name} stop", daemon=True).start()

    def _halt(self) -> None:
        deadline = time.monotonic() + STOP_PATIENCE_S
        while True:
            try:
                with self.exclusive(grace_s=_STOP_GRACE_S):
                    self.halt_motion()
                return
            except Exception as error:
                if is_unsent(error) and time.monotonic() < deadline:
                    continue
                logger.exception("%s could not be stopped", self.name)
                return


class WrappedPositioner(LegacyPositioner):
    """A movable third-party driver; made by :func:`devices.v2.wrap`."""

    move_attribute: str
    moving_attribute: str | Callable[[Any], bool] | None
    stop_attribute: str | None

    def begin_motion(self, target: float) -> None:
        """Hand the target to the driver: through its method, or by setting its attribute."""
        if callable(inspect.getattr_static(self.driver, self.move_attribute, None)):
            getattr(self.driver, self.move_attribute)(target)
        else:
            setattr(self.driver, self.move_attribute, target)

    def ask_motion(self) -> Progress:
        """Ask the driver whether it moves, then where it is."""
        moving = False
        if isinstance(self.moving_attribute, str):
            state = getattr(self.driver, self.moving_attribute)
            moving = bool(state() if callable(state) else state)
        elif self.moving_attribute is not None:
            moving = bool(self.moving_attribute(self.driver))
        return Progress(moving, self.readback.measure())

    def halt_motion(self) -> None:
        """Call the driver's stop, if it has one."""
        if self.stop_attribute is not None:
            getattr(self.driver, self.stop_attribute)()
