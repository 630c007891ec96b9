"""Fly scans: an axis sweeps at constant velocity while detectors are read, and each reading gets its position."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import EventCollectable, Flyable, Preparable, Readable, Stoppable, Triggerable
from bluesky.utils import Msg, get_hinted_fields
from event_model import DataKey

from plans.checks import Arguments, PlanError, run_metadata
from plans.fly_fit import fit_sweep
from plans.results import Result, RunEvents, with_results

POSITION_TIMEOUT_S = 10.0
REST_TIMEOUT_S = 10.0
READY_STREAM = "ready"
"""What the detectors read before anything moves."""
_POLL_S = 0.005
_MOST_SEGMENTS = 100


@runtime_checkable
class SweepingAxis(Flyable, Preparable, EventCollectable, Stoppable, Protocol):
    """What a fly scan needs of its axis, beside bluesky's protocols of flyers.

    `prepare()` takes ophyd-async's `FlyMotorInfo`; `kickoff()` is done where constant velocity begins.
    """

    def swept_position(self, time_s: float) -> tuple[float, float] | None:
        """Return position and time error in s for a time since 1970; None as long as it is not known."""


class PositionUnknown(PlanError):
    """The axis did not tell where it was when a detector was read."""

    def __init__(self, axis: str, detector: str) -> None:
        self.axis = axis
        self.detector = detector
        super().__init__(
            f"{axis} has not told within {POSITION_TIMEOUT_S:g} s where it was when {detector} was read. Check its "
            "wire: somebody may keep it, or the controller does not answer."
        )


@dataclass
class _Segment:
    """One sweep in one piece: a pass, or what a pause has left of it."""

    pass_number: int
    start: float
    end: float
    began: float
    ended: float = 0.0
    interrupted: bool = False


def fly_scan(
    detectors: Sequence[Readable[Any]],
    axis: SweepingAxis,
    start: float,
    stop: float,
    *,
    velocity: float | None = None,
    duration: float | None = None,
    passes: int = 1,
    snake: bool = True,
    latency_s: Mapping[str, float] | None = None,
    note: str | None = None,
    sample: str | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> Generator[Msg, Any, str]:
    """Sweep an axis at constant velocity and read all detectors over and over, as fast as they can be read.

    Each event has, in the axis's column, where the axis was when the first detector was read, interpolated between
    positions that were sampled with their times; `<axis>_at_<detector>` says it for each further detector,
    `<axis>_time_error` how far the times of the samples may be wrong (s), `<axis>_pass` counts the passes from 1.
    The samples are in the stream `<axis>_sweep`; the stream `result_fly` has a row for each sweep with the achieved
    velocity and the timing error.

    Before anything moves all detectors are read once, in the stream `ready`: a camera that takes long for its first
    frame does not miss the beginning of the sweep, and a detector that fails does so with the axis at rest.

    The axis speeds up before `start` and slows down after `stop`: it moves beyond both, and limits are checked with
    that before anything moves. A pause stops it; resumed, the rest is swept with a new run-up. On every way out it
    stands and has its velocity back.

    Parameters
    ----------
    detectors
        What is read; of either generation. Cameras take one frame at a time.
    axis
        An axis that can be swept: one of an ESP300.
    start, stop
        Range of constant velocity, in the axis's units.
    velocity
        In the axis's units per second; else `duration`.
    duration
        Time from start to stop in s; one of the two must be given.
    passes
        How many times the range is swept.
    snake
        Whether every second pass goes backwards.
    latency_s
        By detector, how long before its timestamp it measured, in s: half of the exposure of a camera, or the time
        that a meter's reply takes on the line. What is left out counts as 0.
    note, sample, operator, md
        More metadata for the start document.

    Returns
    -------
    str
        The run's uid.

    Raises
    ------
    PlanArgumentError
        Arguments that cannot be; nothing has moved.
    FailedStatus
        With SweepRefused as its cause when the sweep does not fit the axis's limits, nothing has moved then; with
        SweepStopped when somebody has stopped the axis.
    PositionUnknown
        The axis stopped telling its position.
    """
    given = dict(locals())
    arguments = Arguments("fly_scan")
    arguments.detectors("detectors", detectors)
    if not isinstance(axis, SweepingAxis):
        arguments.part_problem(
            "axis",
            axis,
            "an axis that can be swept at constant velocity, one of an ESP300",
            lambda part: isinstance(part, SweepingAxis),
        )
    elif arguments.number("start", start) and arguments.number("stop", stop):
        arguments.positions("start", axis, start)
        arguments.positions("stop", axis, stop)
        if start == stop:
            arguments.problem("stop", stop, f"another position than start, {start!r}")
    if velocity is None and duration is None:
        arguments.problem("velocity", velocity, "given, or else duration")
    elif velocity is not None and duration is not None:
        arguments.problem("velocity", velocity, f"left out when there is a duration, which is {duration!r}")
    for name, value in (("velocity", velocity), ("duration", duration)):
        if value is not None:
            arguments.number(name, value, above=0)
    arguments.count("passes", passes)
    latencies = dict(latency_s) if isinstance(latency_s, Mapping) else {}
    if latency_s and not latencies:
        arguments.problem("latency_s", latency_s, "a time in s by the name of a detector")
    for name, value in latencies.items():
        arguments.choice("latency_s", name, [detector.name for detector in detectors])
        arguments.number(f"latency_s[{name!r}]", value)
    yield from arguments.check()

    speed = velocity if velocity is not None else abs(stop - start) / duration  # type: ignore[operator]
    metadata = {
        "detectors": [detector.name for detector in detectors],
        "motors": [axis.name],
        "hints": {"dimensions": [([axis.name], "primary")]},
        **run_metadata("fly_scan", _arguments_of(given), note=note, sample=sample, operator=operator, md=md),
    }
    sweeps = _Sweeps(detectors, axis, speed, latencies)

    @bpp.stage_decorator([*detectors, axis])
    @bpp.run_decorator(md=metadata)
    def run() -> Generator[Msg, Any, None]:
        yield from sweeps.declare()
        yield from sweeps.make_ready()
        for number in range(1, passes + 1):
            backwards = snake and number % 2 == 0
            yield from sweeps.sweep(number, *((stop, start) if backwards else (start, stop)))

    uid: str = yield from with_results(run(), sweeps.analyse)
    return uid


class _Sweeps:
    """The sweeps of one run."""

    def __init__(self, detectors: Sequence[Any], axis: Any, velocity: float, latency_s: Mapping[str, float]) -> None:
        self._detectors = detectors
        self._axis = axis
        self._velocity = velocity
        self._brake = _Brake(axis)
        self._position = _SweptPosition(axis, detectors, latency_s)
        self._segments: list[_Segment] = []

    def declare(self) -> Generator[Msg, Any, None]:
        """Describe the events while nothing moves: asking for all settings takes its time."""
        from ophyd_async.core import TriggerInfo

        for detector in self._detectors:
            if isinstance(detector, Preparable):
                # A detector that can fly has columns only when it is prepared for something: here for single frames.
                yield from bps.prepare(detector, TriggerInfo(), wait=True)
        yield from bps.declare_stream(*self._detectors, self._position, name="primary")

    def make_ready(self) -> Generator[Msg, Any, None]:
        """Read all detectors once while nothing moves: a first frame may take much longer than those that follow."""
        yield from bps.checkpoint()
        yield from bps.trigger_and_read(self._detectors, name=READY_STREAM)
        yield from bps.checkpoint()

    def sweep(self, number: int, start: float, end: float) -> Generator[Msg, Any, None]:
        """Sweep the range once, in pieces when it is paused."""
        self._position.pass_number = number

        def pieces() -> Generator[Msg, Any, None]:
            direction = 1 if end > start else -1
            begin = start
            for _ in range(_MOST_SEGMENTS):
                reached = yield from self._segment(number, begin, end)
                if (end - reached) * direction <= 0:
                    return
                begin = reached if (reached - begin) * direction > 0 else begin

        # A sweep cannot be taken up from a checkpoint: what is left of it is swept anew instead.
        yield from bpp.rewindable_wrapper(pieces(), False)

    def analyse(self, events: RunEvents) -> Result:
        """Return velocity and timing of each sweep."""
        name = self._axis.name
        stream = f"{name}_sweep"
        position, errors = events.column(name, stream), events.column(f"{name}_time_error", stream)
        times = events.times(name, stream)
        rows = []
        for segment in self._segments:
            during = (times >= segment.began) & (times <= segment.ended)
            fit = fit_sweep(times[during], position[during], segment.start, segment.end, errors[during])
            rows.append(
                {
                    "signal": name,
                    "pass_number": segment.pass_number,
                    "start": segment.start,
                    "stop": segment.end,
                    "wanted_velocity": self._velocity if segment.end > segment.start else -self._velocity,
                    **fit.as_row(),
                    "interrupted": segment.interrupted,
                }
            )
        units = events.units(name, stream)
        lengths = dict.fromkeys(("start", "stop"), units)
        speeds = dict.fromkeys(("velocity", "wanted_velocity"), f"{units}/s")
        seconds = ("timing_error", "largest_timing_error", "sample_time_error")
        return Result("fly", rows, lengths | speeds | dict.fromkeys(seconds, "s"))

    def _segment(self, number: int, start: float, end: float) -> Generator[Msg, Any, float]:
        """Sweep until the end or a pause; return up to where there are readings, or the end."""
        from ophyd_async.core import FlyMotorInfo

        axis, brake = self._axis, self._brake
        segment = _Segment(number, start, end, time.time(), interrupted=True)
        yield Msg("set", brake, None)
        brake.pulled = False
        direction = 1 if end > start else -1
        request = FlyMotorInfo(start_position=start, end_position=end, time_for_move=abs(end - start) / self._velocity)
        reached = start

        def fly() -> Generator[Msg, Any, None]:
            nonlocal reached
            yield from bps.prepare(axis, request, wait=True)
            if brake.pulled:
                return
            self._segments.append(segment)
            yield from bps.kickoff(axis, wait=True)
            if brake.pulled:
                return
            done = yield from bps.complete(axis, group="sweep", wait=False)
            while not (brake.pulled or done.done):
                position = yield from self._measure()
                if position is None:
                    break
                reached = position
                if (end - position) * direction <= 0:
                    break
            if not brake.pulled:
                yield from bps.wait(group="sweep")
                segment.interrupted = brake.pulled

        def come_to_rest() -> Generator[Msg, Any, None]:
            yield Msg("wait_for", None, [brake.rest])
            segment.ended = time.time()
            if self._segments and self._segments[-1] is segment:
                yield from bps.collect(axis)

        yield from bpp.finalize_wrapper(fly(), come_to_rest)
        if brake.pulled:
            return reached
        last = axis.swept_position(time.time())
        if last is None or (end - last[0]) * direction > 0:
            return reached
        return end

    def _measure(self) -> Generator[Msg, Any, float | None]:
        """Read all detectors into one event; return where the axis was, or None after a pause."""
        triggered = False
        for detector in self._detectors:
            if isinstance(detector, Triggerable):
                yield from bps.trigger(detector, group="readings")
                triggered = True
        if triggered:
            yield from bps.wait(group="readings")
        if self._brake.pulled:
            return None
        yield from bps.create("primary")
        for detector in self._detectors:
            reading = yield from bps.read(detector)
            if self._brake.pulled:
                yield from bps.drop()
                return None
            self._position.note(detector, reading)
        found = yield from bps.read(self._position)
        if self._brake.pulled:
            yield from bps.drop()
            return None
        yield from bps.save()
        return float(found[self._axis.name]["value"])


class _Brake:
    """Stops the axis whenever the RunEngine stops what a plan has set, and knows that it did.

    The RunEngine stops what was set when it pauses, aborts, fails and halts, but not what was kicked off.
    """

    parent = None

    def __init__(self, axis: Any) -> None:
        self.name = f"{axis.name}_brake"
        self.pulled = False
        self._axis = axis

    def set(self, _: None) -> Any:
        """Do nothing: from here on the RunEngine stops the axis."""
        return _Done()

    def stop(self, success: bool = True) -> Any:
        """Stop the axis."""
        self.pulled = True
        return self._axis.stop(success=success)

    async def rest(self) -> None:
        """Stop the axis if it moves, and wait until it stands."""
        deadline = time.monotonic() + REST_TIMEOUT_S
        if getattr(self._axis, "moving", False):
            stopping = self._axis.stop(success=True)
            if inspect.isawaitable(stopping):
                await stopping
        while getattr(self._axis, "moving", False) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)


class _Done:
    """A status that is done."""

    done = success = True

    def add_callback(self, callback: Any) -> None:
        callback(self)

    def exception(self, timeout: float | None = 0.0) -> None:  # noqa: ARG002
        return None


class _SweptPosition:
    """Where the axis was when the detectors were read, as a device among them; configured like the axis."""

    parent = None

    def __init__(self, axis: Any, detectors: Sequence[Any], latency_s: Mapping[str, float]) -> None:
        self.name = axis.name
        self.hints = {"fields": [axis.name]}
        self.pass_number = 1
        self._axis = axis
        self._latency_s = latency_s
        self._first = detectors[0].name
        self._columns = {
            detector.name: axis.name if number == 0 else f"{axis.name}_at_{detector.name}"
            for number, detector in enumerate(detectors)
        }
        self._times: dict[str, float] = {}

    def note(self, detector: Any, reading: Mapping[str, Any]) -> None:
        """Take note of when a detector measured."""
        hinted = [reading[field] for field in get_hinted_fields(detector) if field in reading]
        values = hinted or list(reading.values())
        if values:
            self._times[detector.name] = values[0]["timestamp"] - self._latency_s.get(detector.name, 0.0)

    async def describe(self) -> dict[str, DataKey]:
        """Return the axis's column, once for each detector, and those of the sweep."""
        described = self._axis.describe()
        source = f"sweep:{self.name}"
        key = (await described if inspect.isawaitable(described) else described)[self.name].copy()
        key["source"] = source
        return {
            **dict.fromkeys(self._columns.values(), key),
            f"{self.name}_time_error": DataKey(source=source, dtype="number", shape=[], units="s"),
            f"{self.name}_pass": DataKey(source=source, dtype="integer", shape=[]),
        }

    async def read(self) -> dict[str, dict[str, Any]]:
        """Interpolate, as soon as the axis has been asked after the last detector had measured."""
        readings: dict[str, dict[str, Any]] = {}
        worst = 0.0
        for detector, column in self._columns.items():
            when = self._times.get(detector, time.time())
            position, error = await self._at(when, detector)
            worst = max(worst, error)
            readings[column] = {"value": position, "timestamp": when}
        when = readings[self.name]["timestamp"]
        readings[f"{self.name}_time_error"] = {"value": worst, "timestamp": when}
        readings[f"{self.name}_pass"] = {"value": self.pass_number, "timestamp": when}
        return readings

    def read_configuration(self) -> Any:
        """Return the settings of the axis."""
        return self._axis.read_configuration()

    def describe_configuration(self) -> Any:
        """Return what the settings of the axis are."""
        return self._axis.describe_configuration()

    async def _at(self, when: float, detector: str) -> tuple[float, float]:
        deadline = time.monotonic() + POSITION_TIMEOUT_S
        while (found := self._axis.swept_position(when)) is None:
            if time.monotonic() >= deadline:
                raise PositionUnknown(self.name, detector)
            await asyncio.sleep(_POLL_S)
        position: tuple[float, float] = found
        return position


def _arguments_of(given: Mapping[str, Any]) -> dict[str, Any]:
    metadata = ("note", "sample", "operator", "md")
    return {name: value for name, value in given.items() if name not in metadata}
