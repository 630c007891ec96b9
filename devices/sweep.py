"""Sweeps at constant velocity: what they ask of an axis, where it was at which time, and how they are driven.

A sweep is a program, a generator that says which conversation to hold next and how long to wait. The same program is
driven by a thread for v2 and by a task for v4.
"""

from __future__ import annotations

import bisect
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from event_model import DataKey

from coexistence import CoexistenceError
from devices.data_keys import field_data_key
from devices.protocols.conversation import Conversation, Stamped
from devices.protocols.errors import ProtocolError
from devices.protocols.esp300 import Esp300Axis

logger = logging.getLogger(__name__)

STEADY_S = 0.1
"""For how long the axis moves at its final velocity before the sweep's range begins, and after it ends."""
SAMPLE_PERIOD_S = 0.02
"""How often the position is asked for during a sweep, the exchange itself not included."""

_SAMPLES_PER_LOOK = 5
_STANDSTILL_S = 10.0
_INSIST_S = 5.0
_INSIST_PERIOD_S = 0.2
_TERMINATORS = 3  # of the question and of its answer


SWEEP_ERRORS = (CoexistenceError, ProtocolError, TimeoutError)
"""What a wire and a controller may have against a sweep."""


class SweepRequest(Protocol):
    """What a sweep is asked for with: ophyd-async's `FlyMotorInfo`, or anything with these attributes."""

    start_position: float
    """Where constant velocity begins."""
    end_position: float
    """Where constant velocity may end."""
    time_for_move: float
    """Time from one to the other in s."""


class SweepRefused(ValueError):
    """A sweep that the axis cannot do; nothing has moved.

    Attributes
    ----------
    axis
        Name of the axis.
    reason
        Why, and what would be possible.
    """

    def __init__(self, axis: str, reason: str) -> None:
        self.axis = axis
        self.reason = reason
        super().__init__(f"{axis} cannot be swept: {reason}")


class SweepStopped(RuntimeError):
    """A sweep that was ended before its range was done."""

    def __init__(self, axis: str, position: float | None, end: float, reason: str) -> None:
        self.axis = axis
        self.position = position
        self.end = end
        self.reason = reason
        where = "before it began" if position is None else f"at {position:g} of {end:g}"
        super().__init__(f"{axis}: the sweep was ended {where}: {reason}.")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One sweep; positions in the axis's units, velocity in units per second.

    The axis starts from `ramp_start`, so that it has its velocity from `start` to `end`, and stands at `ramp_end`.
    """

    start: float
    end: float
    velocity: float
    run_up: float
    """Distance from standing to moving steadily."""
    overshoot: float
    """Distance from the end of the range to standing."""

    @property
    def direction(self) -> int:
        """1 towards larger positions, -1 towards smaller ones."""
        return 1 if self.end > self.start else -1

    @property
    def ramp_start(self) -> float:
        """Where the motion begins."""
        return self.start - self.direction * self.run_up

    @property
    def ramp_end(self) -> float:
        """Where the motion ends."""
        return self.end + self.direction * self.overshoot

    def has_begun(self, position: float) -> bool:
        """Tell whether a position is past the start of the range."""
        return (position - self.start) * self.direction >= 0


@dataclass(frozen=True)
class PositionSample:
    """Where the axis was, at which time (s since 1970), and how far that time may be wrong (s)."""

    time_s: float
    position: float
    time_error_s: float


class Trajectory:
    """Where an axis was during a sweep. Written by the one who drives it, read by anybody."""

    def __init__(self) -> None:
        self.samples: list[PositionSample] = []
        self.ended = False

    def add(self, sample: PositionSample) -> None:
        """Take note of a position; times only ever grow."""
        if not self.samples or sample.time_s > self.samples[-1].time_s:
            self.samples.append(sample)

    def at(self, time_s: float) -> PositionSample | None:
        """Interpolate the position at a time (s since 1970).

        Returns None as long as the axis has not been asked since. Before the first sample, and after the last one of
        a sweep that has ended, the axis stood: that position is returned.
        """
        samples = self.samples
        if not samples:
            return None
        after = bisect.bisect_left(samples, time_s, key=lambda sample: sample.time_s)
        if after == len(samples):
            return PositionSample(time_s, samples[-1].position, samples[-1].time_error_s) if self.ended else None
        later = samples[after]
        if after == 0:
            return PositionSample(time_s, later.position, later.time_error_s)
        earlier = samples[after - 1]
        share = (time_s - earlier.time_s) / (later.time_s - earlier.time_s)
        position = earlier.position + share * (later.position - earlier.position)
        return PositionSample(time_s, position, max(earlier.time_error_s, later.time_error_s))


def plan_sweep(axis: Esp300Axis, name: str, request: SweepRequest) -> Conversation[Sweep]:
    """Ask for velocity and acceleration limits and work out a sweep; nothing moves.

    Raises
    ------
    SweepRefused
        When range, velocity, or the way to speed up and slow down are not possible.
    """
    start, end = float(request.start_position), float(request.end_position)
    units = axis.units
    if not request.time_for_move > 0 or not abs(end - start) > axis.tolerance:
        raise SweepRefused(name, f"from {start:g} to {end:g} {units} in {request.time_for_move:g} s is no motion.")
    velocity = abs(end - start) / request.time_for_move
    fastest = (yield from _value(axis, "max_velocity")).value
    if velocity > fastest:
        raise SweepRefused(
            name,
            f"{velocity:g} {units}/s are wanted, {fastest:g} are possible. Allow at least "
            f"{abs(end - start) / fastest:.3g} s.",
        )
    acceleration = (yield from _value(axis, "acceleration")).value
    deceleration = (yield from _value(axis, "deceleration")).value
    sweep = Sweep(
        start=start,
        end=end,
        velocity=velocity,
        run_up=velocity**2 / (2 * acceleration) + velocity * STEADY_S,
        overshoot=velocity**2 / (2 * deceleration) + velocity * STEADY_S,
    )
    low, high = axis.limits
    first, last = sorted((sweep.ramp_start, sweep.ramp_end))
    if low < high and not (low <= first and last <= high):
        before, after = (sweep.run_up, sweep.overshoot)[:: sweep.direction]
        raise SweepRefused(
            name,
            f"from {start:g} to {end:g} {units} at {velocity:g} {units}/s it moves from {sweep.ramp_start:.4g} to "
            f"{sweep.ramp_end:.4g}, run-up and overshoot included, and its limits are {low:g} and {high:g}. Stay "
            f"between {low + before:.4g} and {high - after:.4g} {units}, or sweep more slowly.",
        )
    return sweep


def mocked_sweep(request: SweepRequest) -> Sweep:
    """Return the sweep of an axis that does not exist, and needs no way to speed up."""
    start, end = float(request.start_position), float(request.end_position)
    return Sweep(start=start, end=end, velocity=abs(end - start) / request.time_for_move, run_up=0.0, overshoot=0.0)


def sample_position(axis: Esp300Axis) -> Conversation[PositionSample]:
    """Ask where the axis is, and work out when it was there.

    The controller looks at its encoder when the question is complete, and the answer takes its time on the line: the
    moment lies between the two in the proportion of their lengths, whatever the speed of the line. It is wrong by
    half the exchange at most.
    """
    asked = time.time()
    measured = yield from _value(axis, "readback")
    question, answer = len(f"{axis.number}TP"), len(f"{measured.value:.4f}")
    share = question / (question + answer + _TERMINATORS)
    took = measured.timestamp - asked
    return PositionSample(asked + share * took, measured.value, took / 2)


@dataclass(frozen=True)
class Hold:
    """Hold a conversation, and come back with what it concludes."""

    begin: Callable[[], Conversation[Any]]


@dataclass(frozen=True)
class Wait:
    """Wait for some seconds."""

    seconds: float


Program: TypeAlias = Generator[Hold | Wait, Any, None]


class SweepMotion:
    """One sweep under way, from the moment it is kicked off until the axis stands and has its velocity back.

    Parameters
    ----------
    axis
        What to say to the axis.
    name
        Name of the axis, for messages.
    sweep
        What it is to do.
    """

    def __init__(self, axis: Esp300Axis, name: str, sweep: Sweep) -> None:
        self.sweep = sweep
        self.trajectory = Trajectory()
        self.begun = threading.Event()
        """Set when the range has been entered, or when that will never be."""
        self._axis = axis
        self._name = name
        self._stop_reason: str | None = None
        self._stopped_well = False
        self._lock = threading.Lock()

    def request_stop(self, success: bool, reason: str) -> bool:
        """Have it end; False when that has been asked for before. The caller sends the stop."""
        with self._lock:
            if self._stop_reason is not None:
                return False
            self._stop_reason, self._stopped_well = reason, success
            return True

    @property
    def stopping(self) -> bool:
        """Whether somebody wants it to end."""
        return self._stop_reason is not None

    def error_of_stop(self) -> SweepStopped | None:
        """Return what the status of a stopped sweep fails with; None after `stop(success=True)` or no stop."""
        if self._stop_reason is None or self._stopped_well:
            return None
        samples = self.trajectory.samples
        position = samples[-1].position if samples else None
        return SweepStopped(self._name, position, self.sweep.end, self._stop_reason)

    def program(self, note: Callable[[Stamped[float]], None]) -> Program:
        """Sweep, and leave the axis standing, with the velocity it had before, on every way out.

        Parameters
        ----------
        note
            Called with each position.
        """
        axis, sweep = self._axis, self.sweep
        stands, before = True, None
        try:
            before = (yield Hold(lambda: _value(axis, "velocity"))).value
            if self.stopping:
                return
            yield Hold(lambda: _put_velocity(axis, sweep.velocity))
            stands = False
            yield Hold(lambda: axis.start_move(sweep.ramp_end))
            if self.stopping:
                # The stop may have gone out before the motion did.
                yield Hold(axis.stop)
            yield from self._follow(note)
            stands = True
            if not self.stopping:
                yield Hold(lambda: axis.end_motion(sweep.ramp_end))
        finally:
            if not stands:
                yield from self._insist(axis.stop, "stopped")
                yield from self._come_to_rest()
            self.trajectory.ended = True
            self.begun.set()
            if before is not None:
                velocity: float = before
                yield from self._insist(lambda: _put_velocity(axis, velocity), f"given its velocity {before:g} back")

    def _follow(self, note: Callable[[Stamped[float]], None]) -> Program:
        count = 0
        while True:
            sample: PositionSample = yield Hold(lambda: sample_position(self._axis))
            self.trajectory.add(sample)
            note(Stamped(sample.position, sample.time_s))
            if self.sweep.has_begun(sample.position):
                self.begun.set()
            near = abs(sample.position - self.sweep.ramp_end) <= self._axis.tolerance
            if near or self.stopping or count % _SAMPLES_PER_LOOK == _SAMPLES_PER_LOOK - 1:
                state = yield Hold(self._axis.ask_motion)
                if not state.moving:
                    self.trajectory.add(PositionSample(state.position.timestamp, state.position.value, 0.0))
                    note(state.position)
                    return
            count += 1
            yield Wait(SAMPLE_PERIOD_S)

    def _come_to_rest(self) -> Program:
        deadline = time.monotonic() + _STANDSTILL_S
        with contextlib.suppress(*SWEEP_ERRORS):
            while (yield Hold(self._axis.ask_motion)).moving and time.monotonic() < deadline:
                yield Wait(SAMPLE_PERIOD_S)

    def _insist(self, begin: Callable[[], Conversation[Any]], what: str) -> Program:
        """Hold a conversation that must not be left out, also when the wire is away for a moment."""
        deadline = time.monotonic() + _INSIST_S
        while True:
            try:
                yield Hold(begin)
                return
            except SWEEP_ERRORS:
                if time.monotonic() >= deadline:
                    logger.exception("%s could not be %s after a sweep", self._name, what)
                    return
            yield Wait(_INSIST_PERIOD_S)


class SweptAxis:
    """What both generations of an axis have in common as flyers: positions with their times, to be collected."""

    name: str
    _swept: Trajectory | None = None
    _collected = 0

    def swept_axis(self) -> Esp300Axis:
        """Return what to say to the axis."""
        raise NotImplementedError

    def swept_position(self, time_s: float) -> tuple[float, float] | None:
        """Return where the axis was at a time of the present or last sweep, and how far the time may be wrong.

        Parameters
        ----------
        time_s
            In s since 1970.

        Returns
        -------
        tuple or None
            Position in the axis's units and time error in s; None as long as the axis has not been asked since then.
        """
        found = None if self._swept is None else self._swept.at(time_s)
        return None if found is None else (found.position, found.time_error_s)

    def describe_collect(self) -> dict[str, dict[str, DataKey]]:
        """Return the data keys of the sampled positions: stream `<name>_sweep`."""
        source = f"sweep:{self.name}"
        error = DataKey(source=source, dtype="number", shape=[], dtype_numpy="<f8", units="s")
        key = field_data_key(self.swept_axis().fields["readback"], source)
        return {f"{self.name}_sweep": {self.name: key, f"{self.name}_time_error": error}}

    def collect(self) -> Iterator[dict[str, Any]]:
        """Yield an event for each sampled position of the last sweep that has not been collected yet."""
        if self._swept is None:
            return
        samples = self._swept.samples[self._collected :]
        self._collected += len(samples)
        for sample in samples:
            data = {self.name: sample.position, f"{self.name}_time_error": sample.time_error_s}
            yield {"data": data, "timestamps": dict.fromkeys(data, sample.time_s), "time": sample.time_s}

    def _begin_trajectory(self, trajectory: Trajectory) -> None:
        self._swept, self._collected = trajectory, 0


def _value(axis: Esp300Axis, name: str) -> Conversation[Stamped[float]]:
    get = axis.fields[name].get
    assert get is not None
    return (yield from get())


def _put_velocity(axis: Esp300Axis, velocity: float) -> Conversation[None]:
    put = axis.fields["velocity"].put
    assert put is not None
    yield from put(velocity)
