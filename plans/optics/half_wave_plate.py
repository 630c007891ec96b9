"""Calibration of a half-wave plate before a polarizer: which power passes at which position of the plate."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import bluesky.plans as bp
from bluesky.protocols import Readable
from bluesky.utils import Msg
from numpy.typing import ArrayLike

from plans.checks import Arguments, position_column, run_metadata
from plans.optics.columns import column_names, units_of
from plans.optics.harmonics import PERIODS_DEG, CosineSquared, fit_cosine_squared
from plans.results import Result, RunEvents, rows_of, with_results


def fit_half_wave_plate(position_deg: ArrayLike, power: ArrayLike) -> CosineSquared:
    """Fit the law of a half-wave plate before a polarizer; readings that are no numbers are left out.

    Parameters
    ----------
    position_deg : array of float, shape (n,)
        Positions of the plate in degrees; at least an eighth of a turn is needed for a good fit.
    power : array of float, shape (n,)
        What passed, in any units.

    Raises
    ------
    ValueError
        The shapes differ, or the readings do not determine the three parameters.
    """
    return fit_cosine_squared(position_deg, power, PERIODS_DEG["half_wave_plate"])


def calibrate_half_wave_plate(
    detectors: Sequence[Readable[Any]],
    rotator: Any,
    start: float = 0.0,
    stop: float = 90.0,
    num: int = 31,
    *,
    note: str | None = None,
    sample: str | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> Generator[Msg, Any, str]:
    """Turn a half-wave plate, read the power behind the polarizer that follows, and store the calibration.

    The stream `result_half_wave_plate` has a row for each detector: position of largest power, amplitude and offset
    with their standard errors. A power positioner of either generation can be made from it.

    Parameters
    ----------
    detectors
        Power meters of either generation.
    rotator
        What carries the plate.
    start, stop
        First and last position in degrees; 90 degrees are one period.
    num
        Number of positions, at least 6.
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
    """
    arguments = Arguments("calibrate_half_wave_plate")
    arguments.detectors("detectors", detectors)
    arguments.count("num", num, minimum=6)
    arguments.span("rotator", rotator, start, stop)
    if arguments.number("start", start) and arguments.number("stop", stop) and abs(stop - start) < 45:
        arguments.problem("stop", stop, f"at least 45 deg from start, half of a period; start is {start:g}")
    yield from arguments.check()
    given = {"detectors": detectors, "rotator": rotator, "start": start, "stop": stop, "num": num}
    metadata = run_metadata("calibrate_half_wave_plate", given, note=note, sample=sample, operator=operator, md=md)

    def analyse(events: RunEvents) -> Result:
        position = events.column(position_column(rotator))
        names = column_names(detectors)
        rows = rows_of(names, lambda name: fit_half_wave_plate(position, events.column(name)).as_row())
        return Result("half_wave_plate", rows, {"angle": "deg", "period": "deg"} | _powers(events, names))

    plan = bp.scan(list(detectors), rotator, start, stop, num, md=metadata)
    uid: str = yield from with_results(plan, analyse)
    return uid


def _powers(events: RunEvents, names: Sequence[str]) -> dict[str, str]:
    return dict.fromkeys(("amplitude", "offset"), units_of(events, names))
