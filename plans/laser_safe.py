"""The wrapper that opens a shutter for a plan, watches limits, and closes it on every way out."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

import bluesky.preprocessors as bpp
from bluesky.protocols import Movable, NamedMovable, Readable, Stoppable
from bluesky.utils import Msg

from plans.checks import Arguments, plain_argument, position_column, where
from plans.relay import Messages, marked, read_device, relay
from plans.results import RESULT_PREFIX
from plans.shutter import (
    LimitExceeded,
    ShutterClosed,
    ShutterGuard,
    check_shutter,
    exceeds,
    find_shutter,
)

CLOSING_TIMEOUT_S = 10.0


def laser_safe(
    plan: Messages,
    shutter: NamedMovable[Any],
    *,
    power: Readable[Any] | None = None,
    min_power: float | None = None,
    max_power: float | None = None,
    positions: Sequence[tuple[Movable[float], float, float]] = (),
    open_value: Any = True,
    closed_value: Any = False,
    timeout: float = CLOSING_TIMEOUT_S,
) -> Generator[Msg, Any, Any]:
    """Open a shutter for a plan, watch limits meanwhile, and close it whatever becomes of the plan.

    The shutter is closed when the plan has ended, has failed (before the plan's own clean-up moves anything), was
    aborted, stopped, **halted**, **paused** or suspended. A halt runs no plan's clean-up: there the RunEngine itself
    stops everything that was set, this guard among it, which closes the shutter. Resuming a paused plan opens it again.
    What this cannot do: act for a process that was killed or a computer that hangs. For that a Mai Tai has its own
    watchdog (option `watchdog`).

    Positions are checked before a move is sent, and followed during moves where the device tells them. Power is checked
    in every reading of the plan; a meter that the plan does not read itself is read once for each point.

    Parameters
    ----------
    plan
        Any plan, wrapped or not.
    shutter
        What is set to open and closed, or a laser that has it as `shutter`.
    power
        Power meter to watch.
    min_power, max_power
        Its limits, in the units of its first hinted column.
    positions
        Movers with lowest and highest position at which the beam may be on, in their units; they have to be there now.
    open_value, closed_value
        What the shutter is set to.
    timeout
        How long closing may take, in s, before :class:`~plans.shutter.ShutterNotClosed` is told.

    Returns
    -------
    Any
        What the plan returns.

    Raises
    ------
    PlanArgumentError
        Something is wrong with the arguments; the shutter was not opened.
    LimitExceeded
        Power or a position has left its limits; the shutter is closed.
    ShutterNotClosed
        The shutter did not close: close it by hand.
    """
    shutter = find_shutter(shutter)
    arguments = Arguments("laser_safe")
    check_shutter(arguments, "shutter", shutter, open_value, closed_value)
    column = _power_column(arguments, power, min_power, max_power)
    _check_positions(arguments, positions)
    yield from arguments.check()

    guard = ShutterGuard(shutter, open_value, closed_value, timeout)
    ranges: dict[Any, tuple[float | None, float | None]] = {mover: (low, high) for mover, low, high in positions}
    columns = {position_column(mover): bounds for mover, bounds in ranges.items()}
    if column:
        columns[column] = (min_power, max_power)
    read_by_plan = False
    failure: Exception | None = None
    settings = {
        "wrapper": "laser_safe",
        "shutter": shutter.name,
        **{key: value for key, value in {"min_power": min_power, "max_power": max_power}.items() if value is not None},
        **({"power": power.name} if power is not None else {}),
        **({"positions": plain_argument(positions)} if positions else {}),
    }

    def before(message: Msg) -> Generator[Msg, Any, Msg]:
        nonlocal read_by_plan
        _raise_trip(guard)
        if message.command == "set" and message.obj in ranges:
            low, high = ranges[message.obj]
            exceeded = exceeds(message.obj.name, message.args[0], low, high)
            if exceeded is not None:
                raise exceeded
        elif message.command == "prepare" and message.obj in ranges:
            # A sweep: its run-up lies beyond, where the axis is followed.
            low, high = ranges[message.obj]
            for name in ("start_position", "end_position"):
                exceeded = exceeds(message.obj.name, getattr(message.args[0], name, None), low, high)
                if exceeded is not None:
                    raise exceeded
        elif message.command in ("trigger", "read") and message.obj is power:
            read_by_plan = True
        elif message.command == "create" and not _is_result(message):
            if failure is not None:
                raise ShutterClosed(shutter.name, failure)
            if power is not None and not read_by_plan:
                yield from _look(power, columns)
        elif message.command == "open_run":
            return marked(message, settings)
        elif message.command == "set" and message.obj is shutter and message.args[0] in (open_value, closed_value):
            # Dark readings inside: the guard has to know what to open again after a pause.
            return message._replace(obj=guard, args=(message.args[0] == open_value,))
        return message

    def after(message: Msg, reply: Any) -> Generator[Msg, Any, None]:
        if message.command == "read" and isinstance(reply, dict):
            _check_readings(reply, columns)
        _raise_trip(guard)
        yield from ()

    def failed(error: Exception) -> Generator[Msg, Any, None]:
        nonlocal failure
        failure = failure or error
        yield Msg("wait_for", None, [guard.stop])

    def guarded() -> Generator[Msg, Any, Any]:
        yield Msg(
            "wait_for",
            None,
            [
                lambda: guard.arm(
                    ranges | ({power: (min_power, max_power)} if column else {}),
                    [mover for mover in ranges if isinstance(mover, Stoppable)],
                )
            ],
        )
        yield Msg("set", guard, True, group=guard)
        yield Msg("wait", None, group=guard)
        return (yield from relay(plan, before=before, after=after, failed=failed))

    def closed() -> Generator[Msg, Any, None]:
        tasks = yield Msg("wait_for", None, [guard.stop, guard.disarm])
        for task in tasks or ():
            task.result()

    return (yield from bpp.finalize_wrapper(guarded(), closed))


def _power_column(arguments: Arguments, power: Any, low: float | None, high: float | None) -> str:
    if power is None:
        if (low, high) != (None, None):
            arguments.problem("power", power, "the meter that min_power and max_power are about")
        return ""
    if not arguments.device("power", power, Readable):
        return ""
    for name, bound in (("min_power", low), ("max_power", high)):
        if bound is not None:
            arguments.number(name, bound)
    if (low, high) == (None, None):
        arguments.problem("max_power", None, "a finite number, or min_power one")
    elif low is not None and high is not None and low > high:
        arguments.problem("min_power", low, f"at most max_power, {high:g}")
    return position_column(power)


def _check_positions(arguments: Arguments, positions: Sequence[tuple[Any, float, float]]) -> None:
    for mover, low, high in positions:
        arguments.movable("positions", mover)
        if not (arguments.number("positions", low) and arguments.number("positions", high)):
            continue
        if low > high:
            arguments.problem("positions", [low, high], "the lower position first")
        elif isinstance(mover, Movable):
            arguments.ask(partial(_look_where, arguments, mover, low, high))
    arguments.distinct("positions", [mover for mover, *_ in positions])


async def _look_where(arguments: Arguments, mover: Any, low: float, high: float) -> None:
    place = await where(mover)
    if place is not None and not low <= place <= high:
        arguments.problem("positions", place, f"{low:g} to {high:g} for {mover.name} before the beam is let through")


def _look(power: Any, columns: dict[str, tuple[float | None, float | None]]) -> Generator[Msg, Any, None]:
    _check_readings((yield from read_device(power)), columns)


def _check_readings(readings: dict[str, Any], columns: dict[str, tuple[float | None, float | None]]) -> None:
    for column, reading in readings.items():
        if column in columns:
            exceeded = exceeds(column, reading["value"], *columns[column])
            if exceeded is not None:
                raise exceeded


def _is_result(message: Msg) -> bool:
    return str(message.kwargs.get("name", "")).startswith(RESULT_PREFIX)


def _raise_trip(guard: ShutterGuard) -> None:
    if guard.tripped is not None:
        tripped: LimitExceeded = guard.tripped
        raise tripped
