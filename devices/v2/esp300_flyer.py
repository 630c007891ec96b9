"""Sweeps of an ESP300's axis at constant velocity, as ophyd's flyers: `prepare`, `kickoff`, `complete`, `collect`."""

from __future__ import annotations

import time
from typing import Any

from ophyd.status import DeviceStatus, MoveStatus

from devices.dialogue import Dialogue
from devices.protocols.conversation import Stamped
from devices.protocols.esp300 import Esp300Axis
from devices.sweep import Hold, Program, SweepMotion, SweepRequest, SweptAxis, plan_sweep
from devices.v2.polled import PolledPositioner
from devices.v2.positioner import Progress


class SweepingPositioner(SweptAxis, PolledPositioner):
    """A positioner that can be swept.

    `stop()` ends a sweep as it ends a motion: with `success=True` the status of `complete()` is done, and the
    collected positions tell how far the axis came; with `success=False` it fails with SweepStopped. On every way out
    the axis stands and has the velocity it had before.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._prepared: SweepMotion | None = None
        self._sweep: SweepMotion | None = None
        self._completed: DeviceStatus | None = None
        super().__init__(*args, **kwargs)

    def swept_axis(self) -> Esp300Axis:
        """Return what to say to the axis."""
        axis: Esp300Axis = self.driver.protocol
        return axis

    @property
    def moving(self) -> bool:
        """Tell whether a motion or a sweep of ours is under way."""
        return self._sweep is not None or super().moving

    def prepare(self, value: SweepRequest) -> DeviceStatus:
        """Check limits and velocity, then move to where the run-up begins.

        Parameters
        ----------
        value
            `start_position`, `end_position` in the axis's units and `time_for_move` in s, as ophyd-async's
            `FlyMotorInfo` has them.

        Returns
        -------
        DeviceStatus
            Fails with SweepRefused when the sweep is not possible; nothing has moved then.
        """

        def work() -> None:
            self._prepared = None
            sweep = self.driver.dialogue.hold(lambda: plan_sweep(self.swept_axis(), self.name, value))
            self.move(sweep.ramp_start).wait()
            self._prepared = SweepMotion(self.swept_axis(), self.name, sweep)

        return self.do(work, f"preparing a sweep of {self.name}", timeout=self._limit_s)

    def kickoff(self) -> DeviceStatus:
        """Set the velocity and start; done where the range begins.

        Raises
        ------
        RuntimeError
            When nothing was prepared.
        """
        sweep, self._prepared = self._prepared, None
        if sweep is None:
            raise RuntimeError(f"{self.name}: prepare() must be called before kickoff()")
        self._completed = DeviceStatus(self, call_stop_on_failure=False)

        def work() -> None:
            target = sweep.sweep.ramp_start
            for _ in range(2):
                if abs(self.readback.measure().value - target) <= self.swept_axis().tolerance:
                    break
                # A pause may have ended the way to the run-up.
                self.move(target).wait()
            else:
                sweep.request_stop(True, "it did not get to its run-up")
            self._begin_trajectory(sweep.trajectory)
            self._sweep = sweep
            self._mover.submit(lambda: self._do_sweep(sweep))
            sweep.begun.wait()

        return self.do(work, f"starting a sweep of {self.name}", timeout=self._limit_s)

    def complete(self) -> DeviceStatus:
        """Return the status of the sweep: done when the axis stands and has its velocity back.

        Raises
        ------
        RuntimeError
            When no sweep was kicked off.
        """
        if self._completed is None:
            raise RuntimeError(f"{self.name}: kickoff() must be called before complete()")
        return self._completed

    def move(self, position: float, *args: Any, **kwargs: Any) -> MoveStatus:
        """Move; a sweep under way is ended first. See :meth:`LegacyPositioner.move`."""
        self._end_sweep(False, f"a new target {position:g} was set")
        return super().move(position, *args, **kwargs)

    def stop(self, *, success: bool = False) -> None:
        """Stop a sweep or a motion; returns at once. See :meth:`LegacyPositioner.stop`."""
        if not self._end_sweep(success, "it was stopped"):
            super().stop(success=success)

    @property
    def _limit_s(self) -> float:
        return 2 * float(self.driver.move_timeout) + self.timeout_s

    def _end_sweep(self, success: bool, reason: str) -> bool:
        sweep = self._sweep
        if sweep is None:
            return False
        if sweep.request_stop(success, reason):
            self._halt_in_background()
        return True

    def _do_sweep(self, sweep: SweepMotion) -> None:
        error: Exception | None = None
        try:
            drive(sweep.program(self._note_position), self.driver.dialogue)
        except Exception as caught:
            error = caught
        sweep.begun.set()
        self._sweep = None
        error = sweep.error_of_stop() or (None if sweep.stopping else error)
        assert self._completed is not None
        if error is None:
            self._completed.set_finished()
        else:
            self._completed.set_exception(error)

    def _note_position(self, position: Stamped[float]) -> None:
        self._note(Progress(True, position))


def drive(program: Program, dialogue: Dialogue) -> None:
    """Do what a program says on the calling thread."""
    value, error = None, None
    while True:
        try:
            step = program.send(value) if error is None else program.throw(error)
        except StopIteration:
            return
        value, error = None, None
        try:
            if isinstance(step, Hold):
                value = dialogue.hold(step.begin)
            else:
                time.sleep(step.seconds)
        except Exception as caught:
            error = caught
