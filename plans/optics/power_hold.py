"""Holding a power against drift: read, compare, correct, for as long as it is wanted."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.protocols import Movable, Readable
from bluesky.utils import Msg, get_hinted_fields
from event_model import DataKey

from plans.checks import Arguments, PlanError, position_column, run_metadata
from plans.results import Recorded, Result, Row, RunEvents, with_results
from plans.standard_errors import student_factor


class PowerOutOfReach(PlanError):
    """The power cannot be held: the correction would leave its limits."""

    def __init__(self, actuator: str, needed: float, low: float, high: float, measured: float, wanted: float) -> None:
        self.actuator = actuator
        self.needed = needed
        self.low = low
        self.high = high
        self.measured = measured
        self.wanted = wanted
        super().__init__(
            f"{actuator} would have to go to {needed:.4g} for {wanted:.4g} where {measured:.4g} is measured; allowed "
            f"is {low:.4g} to {high:.4g}. Look for what takes the light away, or hold a lower power."
        )


def power_hold(
    meter: Any,
    actuator: Any,
    power: float,
    duration_s: float,
    *,
    period_s: float = 1.0,
    gain: float = 0.5,
    tolerance: float = 0.02,
    deadband: float = 0.0,
    low: float | None = None,
    high: float | None = None,
    column: str | None = None,
    note: str | None = None,
    sample: str | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> Generator[Msg, Any, str]:
    """Hold what a meter reads by moving an actuator whose position is a power, and tell how well that went.

    After each reading the actuator is moved by `gain * (power - reading)`. Each event has the reading, the
    actuator's position and, in `power_command`, where it was sent. The stream `result_power_hold` says mean, standard
    deviation and largest deviation of the readings, the share of them within the tolerance, and the drift of the
    command per hour: what the actuator had to make up for.

    Parameters
    ----------
    meter
        What is held: the first hinted column of this device.
    actuator
        What is moved, in the meter's units: a power positioner, see `profiles.power.power_positioner`.
    power
        What is wanted, in the meter's units.
    duration_s
        For how long, in s.
    period_s
        From one reading to the next, in s; as fast as possible when that is not possible.
    gain
        Share of the deviation that is corrected at once; above 0, at most 1.
    tolerance
        Deviation, as a share of the wanted power, that counts as held.
    deadband
        Deviation, as a share of the wanted power, that is not corrected.
    low, high
        Limits of the actuator's position beside its own.
    column
        Another column of the meter.
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
    PowerOutOfReach
        The correction would leave the limits; the actuator is where it was.
    """
    given = dict(locals())
    arguments = Arguments("power_hold")
    arguments.detectors("meter", [meter])
    timed = arguments.number("duration_s", duration_s, above=0) & arguments.number("period_s", period_s, low=0)
    if timed and period_s:
        arguments.total_points("duration_s", duration_s / period_s)
    arguments.number("gain", gain, above=0, high=1)
    arguments.number("tolerance", tolerance, above=0)
    arguments.number("deadband", deadband, low=0)
    if arguments.number("power", power, above=0) and arguments.movable("actuator", actuator):
        arguments.positions("power", actuator, power)
    limits = getattr(actuator, "limits", None)
    lowest, highest = limits if isinstance(limits, tuple) and limits[0] < limits[1] else (-math.inf, math.inf)
    lowest = max(lowest, low) if low is not None and arguments.number("low", low) else lowest
    highest = min(highest, high) if high is not None and arguments.number("high", high) else highest
    if not lowest < highest:
        arguments.problem("high", high, f"above the lowest position, {lowest:g}")
    reading_column = column or next(iter(get_hinted_fields(meter)), "")
    arguments.column("column", reading_column, [meter])
    if isinstance(actuator, Movable) and isinstance(actuator, Readable):
        arguments.same_units("actuator", actuator, position_column(actuator), meter, reading_column)
    yield from arguments.check()
    metadata = run_metadata("power_hold", _arguments_of(given), note=note, sample=sample, operator=operator, md=md)
    metadata |= {"detectors": [meter.name], "motors": [actuator.name], "hints": {"dimensions": [(["time"], "primary")]}}
    key: DataKey = {"source": f"control:{actuator.name}", "dtype": "number", "shape": []}
    command = Recorded("power_command", {"power_command": key}, hints=["power_command"])

    @bpp.stage_decorator([meter, actuator])
    @bpp.run_decorator(md=metadata)
    def hold() -> Generator[Msg, Any, None]:
        target = power
        yield from bps.mv(actuator, target)
        began = time.monotonic()
        due = began
        while True:
            command.values = {"power_command": target}
            yield from bps.checkpoint()
            readings = yield from bps.trigger_and_read([meter, actuator, command])
            if time.monotonic() - began >= duration_s:
                return
            measured = (readings or {}).get(reading_column, {}).get("value", math.nan)
            if math.isfinite(measured) and abs(measured - power) > deadband * power:
                needed = target + gain * (power - measured)
                if not lowest <= needed <= highest:
                    raise PowerOutOfReach(actuator.name, needed, lowest, highest, measured, power)
                target = needed
                yield from bps.mv(actuator, target)
            due = max(due + period_s, time.monotonic())
            yield from bps.sleep(max(0.0, due - time.monotonic()))

    def analyse(events: RunEvents) -> Result:
        readings = events.column(reading_column)
        commands, times = events.column("power_command"), events.times(reading_column)
        units = events.units(reading_column)
        row: Row = {
            "signal": reading_column,
            "wanted": power,
            **hold_statistics(times, readings, commands, power, tolerance),
        }
        shared = dict.fromkeys(("wanted", "mean", "deviation", "largest_deviation"), units)
        return Result("power_hold", [row], shared | {"command_drift": f"{units}/h"})

    uid: str = yield from with_results(hold(), analyse)
    return uid


def hold_statistics(times: Any, readings: Any, commands: Any, wanted: float, tolerance: float) -> dict[str, float]:
    """Return what holding a power has come to.

    Parameters
    ----------
    times : array of float, shape (n,)
        In s.
    readings, commands : array of float, shape (n,)
        What was measured, and where the actuator was sent.
    wanted
        What the readings should have been.
    tolerance
        Share of it that counts as held.

    Returns
    -------
    dict
        `mean` and `mean_error`, `deviation` (standard deviation), `largest_deviation` from the wanted value, `held`
        (share within the tolerance), `command_drift` per hour with its standard error, `points`.
    """
    valid = np.isfinite(readings)
    times, readings, commands = np.asarray(times)[valid], np.asarray(readings)[valid], np.asarray(commands)[valid]
    if not readings.size:
        raise ValueError("no reading is a number")
    deviation = float(np.std(readings, ddof=1)) if readings.size > 1 else math.nan
    drift = drift_error = math.nan
    if readings.size > 2:
        hours = (times - times.mean()) / 3600.0
        spread = float(np.sum(hours**2))
        drift = float(np.sum(hours * commands)) / spread
        rest = commands - commands.mean() - drift * hours
        free = readings.size - 2
        drift_error = student_factor(free) * math.sqrt(float(np.sum(rest**2)) / free / spread)
    return {
        "mean": float(np.mean(readings)),
        "mean_error": student_factor(readings.size - 1) * deviation / math.sqrt(readings.size),
        "deviation": deviation,
        "largest_deviation": float(np.max(np.abs(readings - wanted))),
        "held": float(np.mean(np.abs(readings - wanted) <= tolerance * wanted)),
        "command_drift": drift,
        "command_drift_error": drift_error,
        "points": int(readings.size),
    }


def _arguments_of(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in ("note", "sample", "operator", "md")}
