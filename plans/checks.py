"""What a plan says of its arguments before anything moves: all that is wrong with them, at once."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from bluesky.protocols import Checkable, Flyable, Locatable, Movable, Preparable, Readable, Triggerable
from bluesky.utils import Msg, get_hinted_fields
from event_model import DataKey

from plans.parts import is_movable, such_as

MOST_POINTS = 1_000_000
"""As many points, readings or repetitions a plan may have at the most: more is a slip, and would fill the memory before
anything moves."""

_SHOWN_ITEMS = 12


class PlanError(Exception):
    """A plan cannot be run, or not to its end; the base of everything the plans raise themselves."""


@dataclass(frozen=True)
class ArgumentProblem:
    """One thing that is wrong with a plan's arguments."""

    argument: str
    value: Any
    allowed: str
    """What it may be."""

    def __str__(self) -> str:
        return f"{self.argument} = {_shown(self.value)}: must be {self.allowed}"


class PlanArgumentError(PlanError, ValueError):
    """A plan's arguments cannot be used; nothing has moved. `problems` has all that is wrong."""

    def __init__(self, plan: str, problems: Sequence[ArgumentProblem]) -> None:
        self.plan = plan
        self.problems = tuple(problems)
        told = [f"{plan}: {problem}" for problem in self.problems]
        super().__init__("\n".join([*told, "Nothing has moved."]))


FACES: dict[Any, str] = {
    Readable: "a device that can be read",
    Movable: "a device that can be moved",
    Flyable: "a device that can fly (kickoff and complete)",
    Triggerable: "a device that can be triggered",
}
"""What bluesky's protocols are called in messages."""


class Question:
    """Something to be awaited that changes nothing: also a plan that is only gone through may ask it."""

    def __init__(self, ask: Callable[[], Awaitable[Any]]) -> None:
        self._ask = ask

    def __call__(self) -> Awaitable[Any]:
        """Return what is to be awaited, anew each time."""
        return self._ask()


class Arguments:
    """Collects what is wrong with a plan's arguments.

    A plan says what it expects of each argument, then does ``yield from arguments.check()`` before its first move:

        arguments = Arguments("sweep")
        arguments.detectors("detectors", detectors)
        arguments.movable("stage", stage)
        arguments.positions("start", stage, start)
        arguments.count("num", num, minimum=2)
        yield from arguments.check()

    Parameters
    ----------
    plan
        Name of the plan, for the message.
    """

    def __init__(self, plan: str) -> None:
        self.plan = plan
        self.problems: list[ArgumentProblem] = []
        self._questions: list[Callable[[], Awaitable[None]]] = []
        self._asked: set[tuple[str, int, float]] = set()

    def problem(self, argument: str, value: Any, allowed: str) -> None:
        """Say that an argument's value is not what it must be."""
        found = ArgumentProblem(argument, value, allowed)
        if found not in self.problems:
            self.problems.append(found)

    def device(self, argument: str, device: Any, *faces: type) -> bool:
        """Expect a device with these faces (protocols of bluesky); tell whether it has them all.

        Where parts of the device have them, these are named.
        """
        missing = [face for face in faces if not isinstance(device, face)]
        for face in missing:
            self.part_problem(argument, device, FACES.get(face, f"a device that is {face.__name__}"), _has(face))
        return not missing

    def part_problem(self, argument: str, device: Any, allowed: str, wanted: Callable[[Any], bool]) -> None:
        """Say that an argument is not the device it must be, and which parts of it are."""
        name = getattr(device, "name", None) or argument
        self.problem(argument, device, allowed + such_as(name, device, wanted))

    def movable(self, argument: str, device: Any) -> bool:
        """Expect a device that can be moved and read."""
        return self.device(argument, device, Movable, Readable)

    def detectors(self, argument: str, devices: Any) -> bool:
        """Expect one or more devices that can be read, none of them twice."""
        if isinstance(devices, str) or not isinstance(devices, Sequence):
            self.problem(argument, devices, "a list of devices")
            return False
        if not devices:
            self.problem(argument, devices, "at least one device")
        well = [self.device(argument, device, Readable) for device in devices]
        self.distinct(argument, devices)
        return bool(devices) and all(well)

    def distinct(self, argument: str, devices: Iterable[Any]) -> None:
        """Expect that no device is named twice."""
        seen: set[int] = set()
        for device in devices:
            if id(device) in seen:
                self.problem(argument, device, "named only once")
            seen.add(id(device))

    def count(self, argument: str, value: Any, *, minimum: int = 1) -> bool:
        """Expect a whole number from `minimum` to `MOST_POINTS`."""
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if whole and minimum <= value <= MOST_POINTS:
            return True
        largest = f" and at most {MOST_POINTS}" if whole and value > MOST_POINTS else ""
        self.problem(argument, value, f"a whole number of at least {minimum}{largest}")
        return False

    def total_points(self, argument: str, *numbers: Any) -> bool:
        """Expect that numbers which are multiplied, those of a grid's axes, give no more than `MOST_POINTS`."""
        total = math.prod(map(float, numbers))
        if total <= MOST_POINTS:
            return True
        told = " x ".join(f"{number:.15g}" for number in numbers)
        self.problem(argument, f"{told} points", f"at most {MOST_POINTS} points")
        return False

    def number(
        self,
        argument: str,
        value: Any,
        *,
        low: float | None = None,
        high: float | None = None,
        above: float | None = None,
        units: str = "",
    ) -> bool:
        """Expect a finite number: from `low`, to `high`, or greater than `above`."""
        finite = _is_finite(value)
        inside = (
            finite
            and (low is None or value >= low)
            and (high is None or value <= high)
            and (above is None or value > above)
        )
        if inside:
            return True
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (("above", above), ("at least", low), ("at most", high))
            if bound is not None
        ]
        self.problem(argument, value, " ".join(filter(None, ["a finite number", " and ".join(bounds), units])))
        return False

    def choice(self, argument: str, value: Any, choices: Iterable[Any]) -> bool:
        """Expect one of these values."""
        known = list(choices)
        if value in known:
            return True
        self.problem(argument, value, f"one of {', '.join(map(repr, known))}")
        return False

    def positions(self, argument: str, device: Any, *values: Any) -> bool:
        """Expect finite positions that the device accepts: its `check_value`, else its `limits`, are asked."""
        well = True
        for value in values:
            if not _is_finite(value):
                self.problem(argument, value, "a finite number")
                well = False
            elif (argument, id(device), float(value)) not in self._asked:
                self._asked.add((argument, id(device), float(value)))
                well &= self._accepts(argument, device, value)
        return well

    def span(self, argument: str, device: Any, start: Any, stop: Any) -> None:
        """Expect a mover that accepts the arguments `start` and `stop`, which differ."""
        if self.movable(argument, device):
            self.positions("start", device, start)
            self.positions("stop", device, stop)
        if start == stop:
            self.problem("stop", stop, "another position than start")

    def relative_position(self, argument: str, device: Any, distance: float) -> None:
        """Expect that the device accepts the position at that distance from where it stands."""

        async def look() -> None:
            position = await where(device)
            if position is None:
                self.problem(argument, distance, f"absolute: {device.name} does not tell where it stands")
            else:
                await self._ask(argument, device, position + distance, shown=distance)

        self._questions.append(look)

    def column(self, argument: str, name: Any, devices: Iterable[Any]) -> None:
        """Expect the name of a column that one of the devices has."""
        known = list(devices)

        async def look() -> None:
            columns = [column for device in known for column in await columns_of(device)]
            if name not in columns:
                self.problem(argument, name, f"one of the columns {', '.join(columns)}")

        self._questions.append(look)

    def same_units(self, argument: str, device: Any, column: str, other: Any, other_column: str) -> None:
        """Expect that a column of a device has the units of another device's; unknown ones are not compared."""

        async def look() -> None:
            units = (await columns_of(device)).get(column, {}).get("units")
            wanted = (await columns_of(other)).get(other_column, {}).get("units")
            if units and wanted and units != wanted:
                self.problem(argument, device, f"a device in {wanted}, as {other_column} is; {column} is in {units}")

        self._questions.append(look)

    def ask(self, question: Callable[[], Awaitable[None]]) -> None:
        """Have a question asked by :meth:`check` on the event loop; it calls :meth:`problem` if need be."""
        self._questions.append(question)

    def check(self) -> Generator[Msg, Any, None]:
        """Ask the devices what only they know, and raise when anything is wrong.

        Raises
        ------
        PlanArgumentError
            With all problems; nothing has moved.
        """
        if self._questions:
            for answered in (yield Msg("wait_for", None, list(map(Question, self._questions)))) or ():
                answered.result()
        if self.problems:
            raise PlanArgumentError(self.plan, self.problems)

    def _accepts(self, argument: str, device: Any, value: float) -> bool:
        if inspect.iscoroutinefunction(getattr(device, "check_value", None)):
            self._questions.append(lambda: self._ask(argument, device, value))
            return True
        if isinstance(device, Checkable):
            try:
                device.check_value(value)
            except Exception as error:
                self.problem(argument, value, _allowed(device, error))
                return False
            return True
        low, high = _limits(device)
        if low < high and not low <= value <= high:
            self.problem(argument, value, f"{low:g} to {high:g} for {device.name}")
            return False
        return True

    async def _ask(self, argument: str, device: Any, value: float, shown: float | None = None) -> None:
        try:
            answer = device.check_value(value) if isinstance(device, Checkable) else None
            if inspect.isawaitable(answer):
                await answer
        except Exception as error:
            self.problem(argument, value if shown is None else shown, _allowed(device, error))


def check_column(arguments: Arguments, signal: str | None, detectors: Any) -> str:
    """Expect the column of one of the detectors; return it, their main one when none is named."""
    known = [device for device in detectors if isinstance(device, Readable)] if isinstance(detectors, Sequence) else []
    column = signal or default_column(known)
    if known:
        arguments.column("signal", column, known)
    return column


def locate(device: Any) -> Generator[Msg, Any, float | None]:
    """Ask a device where it stands; None when it does not tell."""
    tasks = yield Msg("wait_for", None, [Question(partial(where, device))])
    return tasks[0].result() if tasks else None


async def where(device: Any) -> float | None:
    """Return where a device stands; None when it does not tell."""
    if isinstance(device, Locatable):
        location = device.locate()
        found = await location if inspect.isawaitable(location) else location
        return float(found["readback"])
    position = getattr(device, "position", None)
    return None if position is None else float(position)


def default_column(devices: Sequence[Any]) -> str:
    """Return the first hinted column of the first device that has one; empty when there is none."""
    return next((field for device in devices for field in get_hinted_fields(device)), "")


def position_column(device: Any) -> str:
    """Return the column in which a mover's position stands."""
    return next(iter(get_hinted_fields(device)), device.name)


def run_metadata(
    plan: str,
    arguments: Mapping[str, Any],
    *,
    note: str | None = None,
    sample: str | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what a plan adds to its start document: its name, its arguments, and what the user says of the run.

    Devices stand in `plan_args` by their names, so that the plan can be called again from it.
    """
    said = {"note": note, "sample": sample, "operator": operator}
    return {
        "plan_name": plan,
        "plan_args": {name: plain_argument(value) for name, value in arguments.items()},
        **{key: value for key, value in said.items() if value is not None},
        **(md or {}),
    }


def plain_argument(value: Any) -> Any:
    """Return an argument as a document can hold it: devices by name, numbers and lists as they are."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain_argument(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain_argument(item) for item in value]
    return getattr(value, "name", None) or repr(value)


def _has(face: Any) -> Callable[[Any], bool]:
    """Return what tells whether a part has a face; whatever can be set is not yet something that moves."""
    return is_movable if face is Movable else lambda part: isinstance(part, face)


async def columns_of(device: Any) -> Mapping[str, Any]:
    """Return a device's data keys; those of a detector that has them only when it is prepared are its hints."""
    try:
        described = device.describe()
        columns: Mapping[str, Any] = await described if inspect.isawaitable(described) else described
    except RuntimeError:
        if not isinstance(device, Preparable):
            raise
        hinted: DataKey = {"source": "not prepared", "dtype": "number", "shape": []}
        return dict.fromkeys(get_hinted_fields(device), hinted)
    return columns


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


def _limits(device: Any) -> tuple[float, float]:
    limits = getattr(device, "limits", None)
    return limits if isinstance(limits, tuple) and len(limits) == 2 else (0.0, 0.0)


def _allowed(device: Any, error: Exception) -> str:
    allowed = getattr(error, "allowed", None)
    if allowed is None:
        low, high = _limits(device)
        allowed = f"{low:g} to {high:g}" if low < high else f"what {device.name} accepts: {error}"
    return f"{allowed} for {device.name}"


def _shown(value: Any) -> str:
    if isinstance(value, bool | int | float | str) or value is None:
        return repr(value)
    if isinstance(value, Sequence):
        further = ["…"] if len(value) > _SHOWN_ITEMS else []
        return f"[{', '.join([*map(_shown, value[:_SHOWN_ITEMS]), *further])}]"
    return str(getattr(value, "name", None) or repr(value))
