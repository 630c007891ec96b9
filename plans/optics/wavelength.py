"""Wavelength scans: the laser tunes, and the meters that are calibrated by wavelength follow."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
from bluesky.protocols import Movable, Readable
from bluesky.utils import Msg

from plans.checks import Arguments, position_column, run_metadata
from plans.optics.columns import column_names, units_of
from plans.optics.derived import read_event
from plans.peak import fit_peak
from plans.results import Result, RunEvents, rows_of, with_results


def wavelength_scan(
    detectors: Sequence[Readable[Any]],
    laser: Any,
    start: float,
    stop: float,
    num: int,
    *,
    settle_s: float = 0.0,
    note: str | None = None,
    sample: str | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> Generator[Msg, Any, str]:
    """Tune a laser in equal steps and read all detectors, each meter set to the wavelength first.

    A detector with a `wavelength` that can be set is a meter calibrated by wavelength: it follows, and the wavelength
    it was read with is a column of its own. The shutter is left alone. The stream `result_wavelength` has a row for
    each detector: centre and sigma of a Gaussian over the wavelength in nm, and its height.

    Parameters
    ----------
    detectors
        What is read, of either generation.
    laser
        A laser with a `wavelength`, or the wavelength itself.
    start, stop
        First and last wavelength in nm; the steps between are rounded to whole nm.
    num
        Number of wavelengths.
    settle_s
        How long to wait after tuning, in s.
    note, sample, operator, md
        More metadata for the start document.

    Returns
    -------
    str
        The run's uid.

    Raises
    ------
    PlanArgumentError
        Arguments that cannot be, wavelengths outside of the laser's range among them; nothing has moved.
    """
    mover = getattr(laser, "wavelength", laser)
    arguments = Arguments("wavelength_scan")
    known = detectors if arguments.detectors("detectors", detectors) else []
    meters = [signal for signal in map(_wavelength_of, known) if signal is not None]
    well = arguments.number("start", start, above=0) and arguments.number("stop", stop, above=0)
    well = arguments.count("num", num, minimum=2) and well
    arguments.number("settle_s", settle_s, low=0)
    wavelengths: list[Any] = []
    if well:
        wavelengths = [round(start + number * (stop - start) / (num - 1)) for number in range(num)]
        if len(set(wavelengths)) < num:
            arguments.problem("num", num, f"at most {abs(round(stop) - round(start)) + 1}: steps are whole nm")
    if arguments.movable("laser", mover):
        arguments.positions("start", mover, *wavelengths[:1])
        arguments.positions("stop", mover, *wavelengths[-1:])
    for meter in meters:
        arguments.positions("detectors", meter, *wavelengths[:1], *wavelengths[-1:])
    yield from arguments.check()
    given = {"detectors": detectors, "laser": laser, "start": start, "stop": stop, "num": num, "settle_s": settle_s}
    metadata = run_metadata("wavelength_scan", given, note=note, sample=sample, operator=operator, md=md)

    def per_step(detectors: Sequence[Any], motor: Any, step: Any) -> Generator[Msg, Any, None]:
        yield from bps.checkpoint()
        yield from bps.mv(motor, step)
        for meter in meters:
            yield from bps.mv(meter, round(step))
        if settle_s:
            yield from bps.sleep(settle_s)
        yield from read_event([*detectors, motor], [*detectors, motor, *meters])

    def analyse(events: RunEvents) -> Result:
        names = column_names(detectors)
        at = events.column(position_column(mover))
        rows = rows_of(names, lambda name: fit_peak(at, events.column(name), background=False).gaussian_row())
        signal = dict.fromkeys(("height", "background"), units_of(events, names))
        return Result("wavelength", rows, {"centre": "nm", "sigma": "nm"} | signal)

    stepwise: Any = per_step
    plan = bp.list_scan(list(detectors), mover, wavelengths, per_step=stepwise, md=metadata)  # type: ignore[arg-type]
    uid: str = yield from with_results(plan, analyse)
    return uid


def _wavelength_of(detector: Any) -> Any:
    signal = getattr(detector, "wavelength", None)
    return signal if isinstance(signal, Movable) and isinstance(signal, Readable) else None
