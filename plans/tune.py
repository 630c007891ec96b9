"""Finding a peak and going there."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Literal

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.protocols import NamedMovable, Readable
from bluesky.utils import Msg, get_hinted_fields

from plans.checks import Arguments, PlanError, check_column, locate, position_column, run_metadata
from plans.peak import MIN_POINTS, Peak, fit_peak, peak_models, peak_results
from plans.results import RunEvents, with_results

REACH_IN_WIDTHS = 2.0
"""How far beyond the center a finer pass reaches, in widths (FWHM) of the peak."""

SIGNIFICANT = 3.0
"""How many standard errors high a peak has to be, or its center away from the ends of the range."""
EXPLAINED = 0.9
"""Share of the variance, corrected for the four parameters, that shows a peak too wide for its height to be told."""
EDGE = 0.05
"""Share of the range at its ends in which a center without an error counts as being at the edge."""
PERFECT = 1 - 1e-9


class NoPeak(PlanError):
    """No peak was found; the motor is back where it was before."""

    def __init__(self, signal: str, motor: str, low: float, high: float, reason: str) -> None:
        self.signal = signal
        self.motor = motor
        self.low = low
        self.high = high
        self.reason = reason
        super().__init__(
            f"{signal} shows no peak between {low:g} and {high:g} of {motor}: {reason}. {motor} is back where it was. "
            "Scan another range, or with more points; for a dip say dip=True."
        )


def tune(
    detectors: Sequence[Readable[Any]],
    motor: NamedMovable[float],
    start: float,
    stop: float,
    num: int = 21,
    *,
    signal: str | None = None,
    passes: int = 2,
    model: Literal["gaussian", "lorentzian"] = "gaussian",
    dip: bool = False,
    note: str | None = None,
    sample: str | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> Generator[Msg, Any, str]:
    """Find the peak of a signal and move there.

    Each pass after the first covers two widths on either side of the peak found so far. The position is that of a fit
    over a constant background to all readings; `result_peak` has it beside other statistics. (bluesky's `tune_centroid`
    takes the center of mass, which any background pulls to the middle of the range.)

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
        Points of each pass.
    signal
        Column with the peak; the first detector's main one by default.
    passes
        How many passes.
    model
        What is fitted.
    dip
        Find a dip instead.
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
    NoPeak
        There is none. The run is closed as failed with what was measured, the motor is back where it was.
    """
    arguments = Arguments("tune")
    arguments.detectors("detectors", detectors)
    arguments.span("motor", motor, start, stop)
    if arguments.count("num", num, minimum=MIN_POINTS) & arguments.count("passes", passes):
        arguments.total_points("passes", num, passes)
    arguments.choice("model", model, peak_models())
    column = check_column(arguments, signal, detectors)
    yield from arguments.check()

    given = {
        "detectors": detectors,
        "motor": motor,
        "start": start,
        "stop": stop,
        "num": num,
        "signal": column,
        "passes": passes,
        "model": model,
        "dip": dip,
    }
    metadata = {
        "detectors": [detector.name for detector in detectors],
        "motors": [motor.name],
        "num_points": num * passes,
        "hints": {"dimensions": [(get_hinted_fields(motor) or [motor.name], "primary")]},
        **run_metadata("tune", given, note=note, sample=sample, operator=operator, md=md),
    }
    mover = position_column(motor)
    events = RunEvents()
    low, high = min(start, stop), max(start, stop)
    found: Peak | None = None

    @bpp.stage_decorator([*detectors, motor])
    @bpp.run_decorator(md=metadata)
    def search() -> Generator[Msg, Any, None]:
        nonlocal found
        first, last = start, stop
        for _ in range(passes):
            for position in np.linspace(first, last, num):
                yield from bps.one_nd_step(list(detectors), {motor: float(position)}, {motor: None})
            try:
                found = fit_peak(events.column(mover), events.column(column), model, dip=dip)
            except ValueError as error:
                raise NoPeak(column, motor.name, low, high, str(error)) from error
            wrong = _objection(found, low, high, dip)
            if wrong:
                raise NoPeak(column, motor.name, low, high, wrong)
            reach = REACH_IN_WIDTHS * found.fwhm
            first, last = (float(np.clip(found.center + side * reach, low, high)) for side in (-1, 1))
            if start > stop:
                first, last = last, first
        yield from bps.checkpoint()
        # From the side all positions were measured from, so that a play of the gears is the same.
        yield from bps.mv(motor, first)
        yield from bps.mv(motor, found.center if found is not None else first)

    searching = with_results(search(), lambda seen: peak_results(seen, mover, [column], model, dip=dip))
    watched = bpp.subs_wrapper(searching, {"all": [events]})

    before = yield from locate(motor)
    try:
        yield from watched
    except NoPeak:
        if before is not None:
            yield from bps.mv(motor, before)
        raise
    return str(events.start.get("uid", ""))


def _objection(peak: Peak, low: float, high: float, dip: bool) -> str:
    """Return why what was fitted is no peak; empty when it is one."""
    if (peak.height < 0) != dip:
        return f"what is there points {'upwards' if dip else 'downwards'}"
    # Readings without any noise leave a fit without errors.
    perfect = np.isnan(peak.height_error) and peak.r_squared > PERFECT
    # A slope is fitted as the flank of a peak at the end of the range; a very wide peak may leave no errors.
    known = not perfect and np.isfinite(peak.center_error)
    margin = SIGNIFICANT * peak.center_error if known else 0.0 if perfect else EDGE * (high - low)
    if not margin < min(peak.center - low, high - peak.center):
        uncertain = f" ± {peak.center_error:.2g}" if known else ""
        return f"the best fit has its center at the edge of the range, at {peak.center:g}{uncertain}"
    is_high = SIGNIFICANT * peak.height_error < abs(peak.height)
    # Of a peak wider than the range height and background cannot be told apart, but its center can.
    unexplained = (1 - peak.r_squared) * (peak.points - 1) / max(peak.points - 4, 1)
    if not (perfect or is_high or unexplained < 1 - EXPLAINED):
        return f"the best fit has a height of {peak.height:g} ± {peak.height_error:g}"
    return ""
