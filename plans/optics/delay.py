"""Delay scans: a stage in the path of a pulse, counted in picoseconds."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import bluesky.plans as bp
import numpy as np
from bluesky.protocols import Readable
from bluesky.utils import Msg
from event_model import DataKey

from plans.checks import Arguments, run_metadata
from plans.optics.columns import column_names, units_of
from plans.optics.derived import WithDerived, step_with
from plans.peak import fit_peak
from plans.results import Result, Row, RunEvents, rows_of, with_results

SPEED_OF_LIGHT_MM_PER_PS = 0.299792458


def delay_ps(position_mm: Any, zero_mm: float = 0.0, passes: int = 2) -> Any:
    """Return the delay in ps at stage positions in mm.

    Parameters
    ----------
    position_mm
        Where the stage is.
    zero_mm
        Where the delay is zero.
    passes
        How often the light runs the length of the stage: 2 for one retroreflector.
    """
    return passes * (np.asarray(position_mm, dtype=float) - zero_mm) / SPEED_OF_LIGHT_MM_PER_PS


def position_mm(delay_ps: Any, zero_mm: float = 0.0, passes: int = 2) -> Any:
    """Return the stage positions in mm for delays in ps; the inverse of :func:`delay_ps`."""
    return zero_mm + np.asarray(delay_ps, dtype=float) * SPEED_OF_LIGHT_MM_PER_PS / passes


def delay_scan(
    detectors: Sequence[Readable[Any]],
    stage: Any,
    start_ps: float,
    stop_ps: float,
    num: int,
    *,
    zero_mm: float,
    passes: int = 2,
    note: str | None = None,
    sample: str | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> Generator[Msg, Any, str]:
    """Scan a delay in equal steps, and find where pump and probe overlap.

    Each event has the delay of the position that was read, in the column `<stage>_delay` (ps). The stream
    `result_delay` has a row for each detector: centre and sigma of a Gaussian on a constant in ps, its height and
    the constant in the signal's units, and `centre_mm`, which is the `zero_mm` for the next scan.

    Parameters
    ----------
    detectors
        What is read, of either generation.
    stage
        The stage that delays, in mm.
    start_ps, stop_ps
        First and last delay.
    num
        Number of delays.
    zero_mm
        Where the delay is zero.
    passes
        How often the light runs the length of the stage: 2 for one retroreflector.
    note, sample, operator, md
        More metadata for the start document.

    Returns
    -------
    str
        The run's uid.

    Raises
    ------
    PlanArgumentError
        Arguments that cannot be, delays outside of the stage's limits among them; nothing has moved.
    """
    arguments = Arguments("delay_scan")
    arguments.detectors("detectors", detectors)
    arguments.count("num", num, minimum=2)
    numbers = {"start_ps": start_ps, "stop_ps": stop_ps, "zero_mm": zero_mm}
    well = [arguments.number(name, value) for name, value in numbers.items()]
    well.append(arguments.count("passes", passes))
    if arguments.movable("stage", stage) and all(well):
        arguments.positions("start_ps", stage, float(position_mm(start_ps, zero_mm, passes)))
        arguments.positions("stop_ps", stage, float(position_mm(stop_ps, zero_mm, passes)))
    yield from arguments.check()
    given = {"detectors": detectors, "stage": stage, "start_ps": start_ps, "stop_ps": stop_ps, "num": num}
    given |= {"zero_mm": zero_mm, "passes": passes}
    metadata = run_metadata("delay_scan", given, note=note, sample=sample, operator=operator, md=md)
    column = f"{stage.name}_delay"
    metadata["hints"] = {"dimensions": [([column], "primary")]}
    key: DataKey = {"source": f"delay:{stage.name}", "dtype": "number", "shape": [], "units": "ps"}
    derived = WithDerived(stage, {column: key}, lambda at: {column: delay_ps(at, zero_mm, passes)})

    def analyse(events: RunEvents) -> Result:
        names = column_names(detectors)
        delays = events.column(column)

        def row(name: str) -> Row:
            fit = fit_peak(delays, events.column(name))
            centre = float(position_mm(fit.center, zero_mm, passes))
            error = float(position_mm(fit.center_error, 0.0, passes))
            return {**fit.gaussian_row(), "centre_mm": centre, "centre_mm_error": error}

        rows = rows_of(names, row)
        units = units_of(events, names)
        signal = dict.fromkeys(("height", "background"), units)
        return Result("delay", rows, {"centre": "ps", "sigma": "ps", "centre_mm": "mm"} | signal)

    first, last = (float(position_mm(ps, zero_mm, passes)) for ps in (start_ps, stop_ps))
    plan = bp.scan(list(detectors), stage, first, last, num, per_step=step_with(derived), md=metadata)
    uid: str = yield from with_results(plan, analyse)
    return uid
