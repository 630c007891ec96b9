"""What a plan would do, found by going through its messages without doing any of it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bluesky.protocols import Triggerable
from bluesky.utils import Msg

from plans.checks import ArgumentProblem, PlanError, Question, columns_of, position_column, where
from plans.relay import Messages

MOST_MESSAGES = 400_000
"""How much of a plan is gone through: some ten seconds of it."""
DEFAULT_READING_S = 0.1
DEFAULT_MOVE_S = 1.0
EVENT_BYTES = 60
"""What an event costs in the journal beside its values."""
VALUE_BYTES = 45
"""What one scalar costs in an event: value, timestamp, and both names."""

Ask = Callable[[Callable[[], Awaitable[Any]]], Any]
"""Awaits what a coroutine function returns, on the event loop of the devices."""


@dataclass
class Travel:
    """What one mover would do."""

    name: str
    units: str = ""
    begins_at: float | None = None
    moves: int = 0
    low: float = math.inf
    high: float = -math.inf
    distance: float = 0.0
    velocity: float | None = None
    """In units per s, as the device is set; None when it does not say."""


@dataclass
class DryRun:
    """What a plan would do, as far as it can be told without doing it."""

    runs: int = 0
    devices: list[str] = field(default_factory=list)
    """What the runs say they use."""
    points: dict[str, int] = field(default_factory=dict)
    """Events by stream."""
    travels: dict[str, Travel] = field(default_factory=dict)
    path: list[dict[str, float]] = field(default_factory=list)
    """Positions of everything that has moved, at each event of `primary`."""
    sweeps: int = 0
    """How many sweeps at constant velocity: how many readings these have depends on how long one takes."""
    settings: list[str] = field(default_factory=list)
    """What else would be set."""
    duration_s: float = 0.0
    bytes: int = 0
    """Of scalars in the journal, and of frames."""
    problems: list[ArgumentProblem] = field(default_factory=list)
    """Positions that a device would refuse."""
    depends_on_readings: str = ""
    """Why the plan cannot be foreseen to its end; empty when it can."""
    cut_short: str = ""
    """How much of a long plan was gone through; empty when all of it was."""
    planned_points: int | None = None
    """How many points the plan itself says it has at the most."""

    @property
    def total_points(self) -> int:
        """How many events of `primary`: as gone through, or as the plan says when it depends on readings."""
        seen = self.points.get("primary", 0)
        return max(seen, self.planned_points or 0) if self.depends_on_readings or self.cut_short else seen

    @property
    def share_seen(self) -> float:
        """Which share of all points was gone through; durations and sizes are those of this share."""
        seen = self.points.get("primary", 0)
        return seen / self.total_points if seen else 1.0


@dataclass(frozen=True)
class Estimates:
    """What is known about durations, from past runs or by the user; in s, by device name."""

    reading_s: Mapping[str, float] = field(default_factory=dict)
    move_s: Mapping[str, float] = field(default_factory=dict)
    """Beyond the way itself: start, settling, asking."""


def dry_run(plan: Messages, ask: Ask, estimates: Estimates | None = None) -> DryRun:
    """Go through a plan's messages without doing what they say.

    Devices are only asked what they are and where they stand. Readings are answered with what the device read last,
    positions with where it would be: a plan that decides by its readings cannot be foreseen, which the result says.

    Parameters
    ----------
    plan
        Any plan.
    ask
        Awaits on the event loop that the devices live on.
    estimates
        What is known about durations.

    Raises
    ------
    PlanArgumentError
        The plan's arguments are wrong.
    """
    return _Rehearsal(ask, estimates or Estimates()).go_through(plan)


class _Rehearsal:
    def __init__(self, ask: Ask, estimates: Estimates) -> None:
        self._ask = ask
        self._estimates = estimates
        self._found = DryRun()
        self._positions: dict[int, float] = {}
        self._stream = "primary"
        self._in_event: list[Any] = []
        self._waiting: dict[Any, list[float]] = {}
        self._travels: dict[int, Travel] = {}
        self._described: dict[int, Mapping[str, Any]] = {}
        self._durations: dict[int, float] = {}
        self._sweeps: dict[str, _Sweep] = {}

    def go_through(self, plan: Messages) -> DryRun:
        """Return what the plan would do."""
        generator = iter(plan)
        reply: Any = None
        for _ in range(MOST_MESSAGES):
            try:
                message = generator.send(reply)  # type: ignore[attr-defined]
            except StopIteration:
                return self._found
            except PlanError as error:
                if not self._found.runs:
                    raise
                self._found.depends_on_readings = str(error)
                return self._found
            reply = self._answer(message)
            if self._found.points.get("primary", 0) > (self._found.planned_points or MOST_MESSAGES):
                break
        generator.close()  # type: ignore[attr-defined]
        seen = self._found.points.get("primary", 0)
        if seen < (self._found.planned_points or 0):
            self._found.cut_short = f"the first {seen} points"
            return self._found
        self._found.depends_on_readings = "it goes on for ever without real readings"
        return self._found

    def _answer(self, message: Msg) -> Any:
        handler = getattr(self, f"_on_{message.command}", None)
        return None if handler is None else handler(message)

    def _on_open_run(self, message: Msg) -> str:
        self._found.runs += 1
        self._found.devices += [*message.kwargs.get("detectors", ()), *message.kwargs.get("motors", ())]
        points = message.kwargs.get("num_points")
        if isinstance(points, int):
            self._found.planned_points = (self._found.planned_points or 0) + points
        return f"run {self._found.runs}"

    def _on_wait_for(self, message: Msg) -> list[_Answered]:
        return [_Answered(self._ask, question) for question in message.args[0] if isinstance(question, Question)]

    def _on_locate(self, message: Msg) -> dict[str, float]:
        position = self._position(message.obj) or 0.0
        return {"setpoint": position, "readback": position}

    def _on_set(self, message: Msg) -> None:
        device, target = message.obj, message.args[0]
        group = message.kwargs.get("group")
        if target is None:
            return
        if not isinstance(target, int | float) or isinstance(target, bool) or not _is_mover(device):
            self._found.settings.append(f"{device.name} = {target}")
            return
        self._check(device, float(target))
        self._waiting.setdefault(group, []).append(self._move(device, float(target)))

    def _on_prepare(self, message: Msg) -> None:
        request = message.args[0]
        if not hasattr(request, "time_for_move"):
            return
        start, end = float(request.start_position), float(request.end_position)
        self._sweeps[message.obj.name] = _Sweep(message.obj, start, end, float(request.time_for_move))
        self._waiting.setdefault(message.kwargs.get("group"), []).append(self._move(message.obj, start))

    def _on_kickoff(self, message: Msg) -> None:
        sweep = self._sweeps.get(message.obj.name)
        if sweep is not None:
            self._found.sweeps += 1
            sweep.began = self._found.duration_s

    def _on_complete(self, message: Msg) -> _UnderWay:
        sweep = self._sweeps.get(message.obj.name)
        if sweep is not None:
            self._move(sweep.axis, sweep.end)
        return _UnderWay()

    def _on_sleep(self, message: Msg) -> None:
        self._spend(float(message.args[0]))

    def _on_trigger(self, message: Msg) -> None:
        duration = self._reading_time(message.obj)
        self._waiting.setdefault(message.kwargs.get("group"), []).append(duration)

    def _on_wait(self, message: Msg) -> None:
        group = message.kwargs.get("group") or (message.args[0] if message.args else None)
        durations = self._waiting.pop(group, [])
        if durations:
            self._spend(max(durations))

    def _on_create(self, message: Msg) -> None:
        self._stream = message.kwargs.get("name", "primary")
        self._in_event = []

    def _on_read(self, message: Msg) -> dict[str, dict[str, Any]]:
        self._in_event.append(message.obj)
        keys = self._describe(message.obj)
        sweep = self._sweeps.get(message.obj.name)
        position: float | None
        if sweep is not None and sweep.began is not None:
            # What stands for a swept axis tells where that is by now.
            position, column = sweep.at(self._found.duration_s), sweep.axis.name
            self._positions[id(sweep.axis)] = position
        else:
            if not isinstance(message.obj, Triggerable):
                self._spend(self._reading_time(message.obj))
            position = self._positions.get(id(message.obj))
            column = position_column(message.obj) if position is not None else ""
        return {
            name: {"value": position if name == column else _plausible(key), "timestamp": 0.0}
            for name, key in keys.items()
        }

    def _on_save(self, _: Msg) -> None:
        self._found.points[self._stream] = self._found.points.get(self._stream, 0) + 1
        keys = [key for device in self._in_event for key in self._describe(device).values()]
        self._found.bytes += EVENT_BYTES + sum(_bytes_of(key) for key in keys)
        if self._stream == "primary":
            self._found.path.append({travel.name: self._positions[key] for key, travel in self._travels.items()})

    def _move(self, device: Any, target: float) -> float:
        """Note a move and return its duration in s."""
        begun = self._position(device)
        travel = self._travels.get(id(device))
        if travel is None:
            units = next((key.get("units") or "" for key in self._describe(device).values()), "")
            velocity = self._setting(device, "velocity", {"mm/s": 1.0, "deg/s": 1.0, f"{units}/s": 1.0})
            travel = Travel(device.name, units, begun, velocity=velocity or None)
            self._travels[id(device)] = self._found.travels[device.name] = travel
        distance = 0.0 if begun is None else abs(target - begun)
        travel.moves += 1
        travel.low, travel.high = min(travel.low, target), max(travel.high, target)
        travel.distance += distance
        self._positions[id(device)] = target
        beyond = self._estimates.move_s.get(device.name, 0.0 if travel.velocity else DEFAULT_MOVE_S)
        return beyond + (distance / travel.velocity if travel.velocity else 0.0)

    def _spend(self, seconds: float) -> None:
        self._found.duration_s += seconds

    def _position(self, device: Any) -> float | None:
        if id(device) not in self._positions:
            position = self._ask(lambda: where(device))
            if position is None:
                return None
            self._positions[id(device)] = position
        return self._positions[id(device)]

    def _check(self, device: Any, target: float) -> None:
        check = getattr(device, "check_value", None)
        if check is None:
            return
        try:
            self._asked(lambda: check(target))
        except Exception as error:
            allowed = getattr(error, "allowed", None) or str(error)
            problem = ArgumentProblem(device.name, target, str(allowed))
            if problem not in self._found.problems:
                self._found.problems.append(problem)

    def _describe(self, device: Any) -> Mapping[str, Any]:
        if id(device) not in self._described:
            self._described[id(device)] = self._ask(lambda: columns_of(device))
        return self._described[id(device)]

    def _reading_time(self, device: Any) -> float:
        if id(device) in self._positions or not hasattr(device, "describe"):
            return 0.0
        if id(device) not in self._durations:
            known = self._estimates.reading_s.get(device.name, DEFAULT_READING_S)
            exposure = self._setting(device, "exposure", {"s": 1.0, "ms": 1e-3})
            self._durations[id(device)] = known + (exposure or 0.0)
        return self._durations[id(device)]

    def _setting(self, device: Any, name: str, scales: Mapping[str, float]) -> float | None:
        """Return a number of a device's configuration, scaled by its units; None when it does not say."""
        if not (hasattr(device, "read_configuration") and hasattr(device, "describe_configuration")):
            return None
        readings, keys = self._asked(device.read_configuration), self._asked(device.describe_configuration)
        for column, reading in readings.items():
            units = keys[column].get("units") or ""
            if column.endswith(name) and units in scales:
                return float(reading["value"]) * scales[units]
        return None

    def _asked(self, method: Callable[[], Any]) -> Any:
        answer = method()
        return self._ask(lambda: answer) if inspect.isawaitable(answer) else answer


@dataclass
class _Sweep:
    """A sweep of an axis, on the clock of the rehearsal."""

    axis: Any
    start: float
    end: float
    takes_s: float
    began: float | None = None

    def at(self, now_s: float) -> float:
        """Return where the axis is."""
        assert self.began is not None
        share = min(1.0, (now_s - self.began) / self.takes_s) if self.takes_s else 1.0
        return self.start + share * (self.end - self.start)


class _UnderWay:
    """Stands for the status of a sweep: whoever reads meanwhile sees by the position when it is over."""

    done = False


class _Answered:
    """Stands for a finished task: asks when its result is wanted."""

    def __init__(self, ask: Ask, question: Callable[[], Awaitable[Any]]) -> None:
        self._error: BaseException | None = None
        self._value: Any = None
        try:
            self._value = ask(question)
        except Exception as error:
            self._error = error

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value


def _is_mover(device: Any) -> bool:
    return hasattr(device, "position") or hasattr(device, "locate")


def _plausible(key: Mapping[str, Any]) -> Any:
    return {"number": 0.0, "integer": 0, "string": "", "boolean": False}.get(key["dtype"], [])


def _bytes_of(key: Mapping[str, Any]) -> int:
    shape = [size for size in key.get("shape", ()) if size]
    return VALUE_BYTES if not shape else math.prod(shape) * 2
