"""From a calibrated half-wave plate to a positioner that is set in watt or as a fraction."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.power_calibration import CalibrationUnusable, PowerCalibration, PowerUnits

if TYPE_CHECKING:
    from bluesky_tiled_plugins import BlueskyRun

RESULT_STREAM = "result_half_wave_plate"


def calibration_from_run(run: BlueskyRun, signal: str | None = None) -> PowerCalibration:
    """Return the calibration that a run of `calibrate_half_wave_plate` has stored.

    Parameters
    ----------
    run
        A run in the catalog: `session.catalog[-1]`.
    signal
        Column of the meter; needed when the run has several.

    Raises
    ------
    CalibrationUnusable
        The run has none, several, or not this one.
    """
    uid = str(run.metadata["start"]["uid"])
    if RESULT_STREAM not in list(run):
        raise CalibrationUnusable(f"the run has no stream {RESULT_STREAM}.", uid)
    data = run[RESULT_STREAM].read()
    rows = [{name: data[name].values[number] for name in data} for number in range(len(data["signal"]))]
    chosen = [row for row in rows if signal is None or str(row["signal"]) == signal]
    if len(chosen) != 1:
        names = ", ".join(str(row["signal"]) for row in rows)
        raise CalibrationUnusable(f"give one signal of {names}, not {signal!r}.", uid)
    return PowerCalibration.from_result(chosen[0], uid)


def power_positioner(
    rotator: Any,
    calibration: PowerCalibration | BlueskyRun | str | os.PathLike[str],
    *,
    name: str = "beam_power",
    units: PowerUnits = "W",
    signal: str | None = None,
) -> Any:
    """Make a positioner of power of the rotator's generation.

    Parameters
    ----------
    rotator
        A device of either generation, in degrees.
    calibration
        A calibration, the run that has stored it, or a file it was saved to.
    name
        Name of the positioner, and of its column.
    units
        `W`, or `fraction` of the largest power.
    signal
        Column of the meter, when the run has calibrated several.

    Raises
    ------
    CalibrationUnusable
        There is no calibration, or the rotator cannot go where it needs it.
    """
    if isinstance(calibration, str | os.PathLike):
        known = PowerCalibration.load(Path(calibration))
    elif isinstance(calibration, PowerCalibration):
        known = calibration
    else:
        known = calibration_from_run(calibration, signal)
    core = sys.modules.get("ophyd_async.core")
    if core is not None and isinstance(rotator, core.Device):
        from devices.v4.half_wave_plate_power import HalfWavePlatePower as AsyncPower

        return AsyncPower(rotator, known, name=name, units=units)
    from devices.v2.half_wave_plate_power import HalfWavePlatePower

    return HalfWavePlatePower(rotator, known, name=name, units=units)
