"""Scans over positions and over time: bluesky's own plans, with arguments that are checked before anything moves."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import bluesky.plans as bp
import numpy as np
from bluesky.protocols import NamedMovable, Readable, Triggerable
from bluesky.utils import Msg
from numpy.typing import NDArray

from plans.checks import Arguments, check_column, default_column, position_column, run_metadata
from plans.drift import drift_results
from plans.peak import MIN_POINTS, PeakModel, peak_models, peak_results
from plans.relay import relay
from plans.results import with_results


def scan(
    detectors: Sequence[Readable[Any]],
    motor: NamedMovable[float],
    start: float,
    stop: float,
    num: int,
    *,
    relative: bool = False,
    fit: Literal["none", "gaussian", "lorentzian"] = "none",
    signal: str | None = None,
    note: str | None = None,
    sample: str | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> Generator[Msg, Any, str]:
    """Move through equally spaced positions and read all detectors at each of them.

    Parameters
    ----------
    detectors
        What is read at each point.
    motor
        What moves.
    start
        First position, in the motor's units.
    stop
        Last position.
    num
        Number of positions.
    relative
        Count positions from where the motor stands, and return there afterwards.
    fit
        Fit a peak to the signal and store it as result_peak.
    signal
        Column that is fitted; the first detector's main one by default.
    note
        Remark on this run.
    sample
        What is measured.
    operator
        Who measures.
    md
        More metadata for the start document.

    Returns
    -------
    str
        The run's uid.

    Raises
    ------
    PlanArgumentError
        Something is wrong with the arguments; nothing has moved.
    """
    arguments = Arguments("scan")
    arguments.detectors("detectors", detectors)
    if arguments.movable("motor", motor):
        for name, value in (("start", start), ("stop", stop)):
            _check_position(arguments, name, motor, value, relative)
    arguments.count("num", num, minimum=MIN_POINTS if fit in peak_models() else 1 if start == stop else 2)
    _check_fit(arguments, fit, signal, detectors)
    yield from arguments.check()
    given = {
        "detectors": detectors,
        "motor": motor,
        "start": start,
        "stop": stop,
        "num": num,
        "relative": relative,
        "fit": fit,
        "signal": signal,
    }
    metadata = run_metadata("scan", given, note=note, sample=sample, operator=operator, md=md)
    plan = (bp.rel_scan if relative else bp.scan)(list(detectors), motor, start, stop, num, md=metadata)
    if fit != "none":
        column = signal or default_column(detectors)
        plan = with_results(plan, partial(_peak, mover=position_column(motor), signal=column, model=fit))
    return (yield from plan)


def nd_scan(
    detectors: Sequence[Readable[Any]],
    axes: Sequence[tuple[NamedMovable[float], float, float]],
    num: int,
    *,
    relative: bool = False,
    note: str | None = None,
    sample: str | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> Generator[Msg, Any, str]:
    """Move several motors together along a straight line and read all detectors at each point.

    Parameters
    ----------
    detectors
        What is read at each point.
    axes
        For each motor: the motor, its first and its last position.
    num
        Number of points.
    relative
        Count positions from where the motors stand, and return there afterwards.
    note, sample, operator, md
        What the start document says beside, as for `scan`.

    Returns
    -------
    str
        The run's uid.

    Raises
    ------
    PlanArgumentError
        Something is wrong with the arguments; nothing has moved.
    """
    arguments = Arguments("nd_scan")
    arguments.detectors("detectors", detectors)
    arguments.count("num", num)
    for axis in _checked_axes(arguments, axes, 3, "motor, start, stop"):
        for value in axis[1:]:
            _check_position(arguments, "axes", axis[0], value, relative)
    yield from arguments.check()
    given = {"detectors": detectors, "axes": axes, "num": num, "relative": relative}
    metadata = run_metadata("nd_scan", given, note=note, sample=sample, operator=operator, md=md)
    flat = [item for axis in axes for item in axis]
    return (yield from (bp.rel_scan if relative else bp.scan)(list(detectors), *flat, num=num, md=metadata))


def list_scan(
    detectors: Sequence[Readable[Any]],
    axes: Sequence[tuple[NamedMovable[float], Sequence[float] | NDArray[np.float64]]],
    *,
    relative: bool = False,
    note: str | None = None,
    sample: str | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> Generator[Msg, Any, str]:
    """Move through listed positions and read all detectors at each of them; several motors move together.

    Parameters
    ----------
    detectors
        What is read at each point.
    axes
        For each motor: the motor and the list (or array) of its positions; all lists are equally long.
    relative
        Count positions from where the motors stand, and return there afterwards.
    note, sample, operator, md
        What the start document says beside, as for `scan`.

    Returns
    -------
    str
        The run's uid.

    Raises
    ------
    PlanArgumentError
        Something is wrong with the arguments; nothing has moved.
    """
    arguments = Arguments("list_scan")
    arguments.detectors("detectors", detectors)
    lengths = set()
    for motor, points in _checked_axes(arguments, axes, 2, "motor, positions"):
        row = isinstance(points, np.ndarray) and points.ndim == 1
        if not (row or (isinstance(points, Sequence) and not isinstance(points, str))) or not len(points):
            arguments.problem("axes", points, "a list of positions")
            continue
        if not arguments.total_points("axes", len(points)):
            continue
        lengths.add(len(points))
        for value in points:
            _check_position(arguments, "axes", motor, value, relative)
    if len(lengths) > 1:
        arguments.problem("axes", sorted(lengths), "lists of positions of one length")
    yield from arguments.check()
    given = {"detectors": detectors, "axes": axes, "relative": relative}
    metadata = run_metadata("list_scan", given, note=note, sample=sample, operator=operator, md=md)
    flat: list[Any] = [item for motor, points in axes for item in (motor, [float(point) for point in points])]
    return (yield from (bp.rel_list_scan if relative else bp.list_scan)(list(detectors), *flat, md=metadata))


def grid_scan(
    detectors: Sequence[Readable[Any]],
    axes: Sequence[tuple[NamedMovable[float], float, float, int]],
    *,
    snake: bool = True,
    relative: bool = False,
    note: str | None = None,
    sample: str | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> Generator[Msg, Any, str]:
    """Visit every point of a grid and read all detectors at each of them.

    Parameters
    ----------
    detectors
        What is read at each point.
    axes
        For each motor: the motor, first and last position, number of positions. The first moves least often.
    snake
        Go back and forth instead of returning to the beginning of each line.
    relative
        Count positions from where the motors stand, and return there afterwards.
    note, sample, operator, md
        What the start document says beside, as for `scan`.

    Returns
    -------
    str
        The run's uid.

    Raises
    ------
    PlanArgumentError
        Something is wrong with the arguments; nothing has moved.
    """
    arguments = Arguments("grid_scan")
    arguments.detectors("detectors", detectors)
    numbers = []
    for motor, start, stop, num in _checked_axes(arguments, axes, 4, "motor, start, stop, num"):
        for value in (start, stop):
            _check_position(arguments, "axes", motor, value, relative)
        if arguments.count("axes", num):
            numbers.append(num)
    arguments.total_points("axes", *numbers)
    yield from arguments.check()
    given = {"detectors": detectors, "axes": axes, "snake": snake, "relative": relative}
    metadata = run_metadata("grid_scan", given, note=note, sample=sample, operator=operator, md=md)
    flat = [item for axis in axes for item in axis]
    plan = bp.rel_grid_scan if relative else bp.grid_scan
    return (yield from plan(list(detectors), *flat, snake_axes=bool(snake) and len(axes) > 1, md=metadata))


def time_series(
    detectors: Sequence[Readable[Any]],
    num: int,
    delay: float = 0.0,
    *,
    note: str | None = None,
    sample: str | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> Generator[Msg, Any, str]:
    """Read detectors again and again, and say how they drift: slope with error and Allan deviation.

    `result_drift` has a row for each column of numbers, `result_allan` one for each column and averaging time. A series
    that was aborted has them too.

    Parameters
    ----------
    detectors
        What is read.
    num
        Number of readings.
    delay
        Time from the beginning of one reading to that of the next, in s; what takes longer comes as fast as it can.
    note, sample, operator, md
        What the start document says beside, as for `scan`.

    Returns
    -------
    str
        The run's uid.

    Raises
    ------
    PlanArgumentError
        Something is wrong with the arguments.
    """
    arguments = Arguments("time_series")
    arguments.detectors("detectors", detectors)
    arguments.count("num", num)
    arguments.number("delay", delay, low=0, units="s")
    yield from arguments.check()
    given = {"detectors": detectors, "num": num, "delay": delay}
    metadata = run_metadata("time_series", given, note=note, sample=sample, operator=operator, md=md)
    return (yield from with_results(bp.count(list(detectors), num, delay, md=metadata), drift_results))


def adaptive_scan(
    detectors: Sequence[Readable[Any]],
    motor: NamedMovable[float],
    start: float,
    stop: float,
    min_step: float,
    max_step: float,
    target_delta: float,
    *,
    signal: str | None = None,
    backstep: bool = True,
    note: str | None = None,
    sample: str | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> Generator[Msg, Any, str]:
    """Scan with steps as small as the slope of a signal asks for: many points where it changes, few where it does not.

    Parameters
    ----------
    detectors
        What is read at each point.
    motor
        What moves.
    start
        First position, in the motor's units.
    stop
        Where to end; the last point lies before it.
    min_step
        Smallest step.
    max_step
        Largest step.
    target_delta
        By how much the signal may change from point to point, in its units.
    signal
        Column that decides; the first detector's main one by default.
    backstep
        Go back when a step turns out to be too large. Only for scans towards larger positions.
    note, sample, operator, md
        What the start document says beside, as for `scan`.

    Returns
    -------
    str
        The run's uid.

    Raises
    ------
    PlanArgumentError
        Something is wrong with the arguments; nothing has moved.
    """
    arguments = Arguments("adaptive_scan")
    arguments.detectors("detectors", detectors)
    arguments.span("motor", motor, start, stop)
    steps = arguments.number("min_step", min_step, above=0) and arguments.number("max_step", max_step, above=0)
    if steps and min_step >= max_step:
        arguments.problem("max_step", max_step, f"larger than min_step, {min_step:g}")
    if steps and arguments.number("start", start) and arguments.number("stop", stop):
        arguments.total_points("min_step", abs(stop - start) / min_step)
    arguments.number("target_delta", target_delta, above=0)
    column = check_column(arguments, signal, detectors)
    yield from arguments.check()
    given = {
        "detectors": detectors,
        "motor": motor,
        "start": start,
        "stop": stop,
        "min_step": min_step,
        "max_step": max_step,
        "target_delta": target_delta,
        "signal": column,
        "backstep": backstep,
    }
    metadata = run_metadata("adaptive_scan", given, note=note, sample=sample, operator=operator, md=md)
    plan = bp.adaptive_scan(
        list(detectors),
        column,
        motor,
        start,
        stop,
        min_step,
        max_step,
        target_delta,
        # Bluesky's step back always goes towards smaller positions.
        backstep and stop > start,
        md=metadata,
    )
    return (yield from relay(plan, before=partial(_measure_motor, motor)))


def _measure_motor(motor: Any, message: Msg) -> Generator[Msg, Any, Msg]:
    """Have the motor measured with the detectors, and trigger only what can be triggered."""
    if message.command == "wait" and isinstance(motor, Triggerable):
        group = message.kwargs.get("group") or (message.args[0] if message.args else None)
        if group == "B":
            yield Msg("trigger", motor, group=group)
    if message.command == "trigger" and not isinstance(message.obj, Triggerable):
        return Msg("null")
    return message


def _check_position(arguments: Arguments, name: str, motor: Any, value: Any, relative: bool) -> None:
    """Expect a position; one that counts from where the motor stands is checked there."""
    if not relative:
        arguments.positions(name, motor, value)
    elif arguments.number(name, value):
        arguments.relative_position(name, motor, value)


def _checked_axes(arguments: Arguments, axes: Any, length: int, form: str) -> list[Any]:
    """Return those axes that have the right form; no motor may be named twice."""
    if isinstance(axes, str) or not isinstance(axes, Sequence) or not axes:
        arguments.problem("axes", axes, f"a list of ({form})")
        return []
    if any(isinstance(axis, str) or not isinstance(axis, Sequence) for axis in axes):
        arguments.problem("axes", axes, f"a list of ({form}), also for one motor: [({form})]")
        return []
    well = []
    for axis in axes:
        if len(axis) != length:
            arguments.problem("axes", axis, form)
        elif arguments.movable("axes", axis[0]):
            well.append(axis)
    arguments.distinct("axes", [axis[0] for axis in well])
    return well


def _check_fit(arguments: Arguments, fit: str, signal: str | None, detectors: Any) -> None:
    if arguments.choice("fit", fit, ("none", *peak_models())) and fit != "none":
        check_column(arguments, signal, detectors)


def _peak(events: Any, *, mover: str, signal: str, model: PeakModel) -> Any:
    return peak_results(events, mover, [signal], model)
