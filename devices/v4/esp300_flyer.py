"""Sweeps of an ESP300's axis at constant velocity, as ophyd-async flies."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ophyd_async.core import FlyableLogic, StandardFlyable

from devices.protocols.conversation import Stamped
from devices.protocols.esp300 import Esp300Axis
from devices.sweep import (
    Hold,
    PositionSample,
    Program,
    SweepMotion,
    SweepRequest,
    SweptAxis,
    mocked_sweep,
    plan_sweep,
)
from devices.v4.movable import WireMovable
from devices.v4.wire_backend import WireDeviceConnector, WireSignalBackend


@dataclass
class SweepLogic(FlyableLogic[SweepRequest, SweepMotion]):
    """How an axis sweeps: `prepare` moves to the run-up, `kickoff` is done where the range begins."""

    axis: SweepingAxis

    async def on_prepare(self, value: SweepRequest) -> SweepMotion:
        """Check limits and velocity, then move to where the run-up begins.

        Raises
        ------
        SweepRefused
            When the sweep is not possible; nothing has moved then.
        """
        axis = self.axis
        if axis.mocked:
            sweep = mocked_sweep(value)
        else:
            sweep = await axis.wire.hold(lambda: plan_sweep(axis.swept_axis(), axis.name, value))
        await axis.set(sweep.ramp_start)
        return SweepMotion(axis.swept_axis(), axis.name, sweep)

    async def on_kickoff(self, ctx: SweepMotion) -> SweepMotion:
        """Set the velocity, start, and wait until the axis has entered the range."""
        axis, target = self.axis, ctx.sweep.ramp_start
        tolerance = axis.swept_axis().tolerance
        for _ in range(2):
            if abs(await axis.movable_logic.readback.get_value() - target) <= tolerance:
                break
            # A pause may have ended the way to the run-up.
            await axis.set(target)
        else:
            ctx.request_stop(True, "it did not get to its run-up")
        axis.begin_sweep(ctx)
        await asyncio.to_thread(ctx.begun.wait)
        return ctx

    async def on_complete(self, ctx: SweepMotion) -> None:  # noqa: ARG002
        """Wait until the axis stands and has its velocity back; raise what made the sweep fail."""
        await self.axis.end_of_sweep()

    async def stop(self) -> None:
        """End a sweep that is under way."""
        self.axis.end_sweep(True, "it was unstaged")


class SweepingAxis(SweptAxis, WireMovable, StandardFlyable[SweepRequest, SweepMotion]):
    """An axis that can be moved and swept.

    `stop()` ends a sweep as it ends a motion: with `success=True` the status of `complete()` is done, and the
    collected positions tell how far the axis came; with `success=False` it fails with SweepStopped. On every way out
    the axis stands and has the velocity it had before.
    """

    wire: WireDeviceConnector
    _sweep: SweepMotion | None = None
    _sweep_task: asyncio.Task[None] | None = None

    @cached_property
    def flyable_logic(self) -> SweepLogic:
        """How the axis sweeps."""
        return SweepLogic(self)

    @property
    def mocked(self) -> bool:
        """Whether the device was connected without a wire."""
        return self._mock is not None

    def swept_axis(self) -> Esp300Axis:
        """Return what to say to the axis."""
        protocol = self.wire.protocol
        assert isinstance(protocol, Esp300Axis)
        return protocol

    def set(self, new_position: float, *args: Any, **kwargs: Any) -> Any:
        """Move; a sweep under way is ended first."""
        self.end_sweep(False, f"a new target {new_position:g} was set")
        return super().set(new_position, *args, **kwargs)

    async def stop(self, success: bool = False) -> None:
        """Stop a sweep or a motion and return at once; see :meth:`WireMovable.stop`."""
        if not self.end_sweep(success, "it was stopped"):
            await super().stop(success)

    def begin_sweep(self, sweep: SweepMotion) -> None:
        """Start a sweep; it goes on in the background, whatever becomes of the status that asked for it."""
        self._begin_trajectory(sweep.trajectory)
        self._sweep = sweep
        task = asyncio.create_task(self._do_sweep(sweep))
        self._sweep_task = task
        # A later motion waits for what is in the background.
        self._background |= {task}
        task.add_done_callback(self._forget)
        task.add_done_callback(_look_at_error)

    def end_sweep(self, success: bool, reason: str) -> bool:
        """Have a sweep end, if there is one; the stop is sent before everybody else."""
        sweep = self._sweep
        if sweep is None:
            return False
        if sweep.request_stop(success, reason):
            self._halt_in_background()
        return True

    async def end_of_sweep(self) -> None:
        """Wait for the end of the sweep. Cancelled, the axis is stopped."""
        if self._sweep_task is None:
            return
        try:
            await asyncio.shield(self._sweep_task)
        except asyncio.CancelledError:
            self.end_sweep(False, "its status was cancelled")
            raise

    async def _do_sweep(self, sweep: SweepMotion) -> None:
        try:
            if self.mocked:
                await self._pretend(sweep)
            else:
                await drive(sweep.program(self._note_position), self.wire)
        except Exception:
            # A stopped sweep ends the way the one who stopped it asked for.
            if not sweep.stopping:
                raise
        finally:
            sweep.begun.set()
            if self._sweep is sweep:
                self._sweep = None
        if error := sweep.error_of_stop():
            raise error

    async def _pretend(self, sweep: SweepMotion) -> None:
        now, duration = time.time(), abs(sweep.sweep.end - sweep.sweep.start) / sweep.sweep.velocity
        sweep.trajectory.add(PositionSample(now, sweep.sweep.start, 0.0))
        sweep.trajectory.add(PositionSample(now + duration, sweep.sweep.end, 0.0))
        sweep.trajectory.ended = True
        await super().set(sweep.sweep.end)

    def _note_position(self, position: Stamped[float]) -> None:
        backend: WireSignalBackend[Any] = self.wire.backend(self.movable_logic.readback)
        backend.report(position)


async def drive(program: Program, wire: WireDeviceConnector) -> None:
    """Do what a program says. Never to be cancelled: it is what leaves the axis at rest."""
    value, error = None, None
    while True:
        try:
            step = program.send(value) if error is None else program.throw(error)
        except StopIteration:
            return
        value, error = None, None
        try:
            if isinstance(step, Hold):
                value = await wire.dialogue.hold_async(step.begin)
            else:
                await asyncio.sleep(step.seconds)
        except Exception as caught:
            error = caught


def _look_at_error(task: asyncio.Task[None]) -> None:
    """Keep asyncio from complaining when nobody asks how a sweep ended."""
    if not task.cancelled():
        task.exception()
