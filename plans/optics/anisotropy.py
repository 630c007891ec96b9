"""Rotational anisotropy: polariser and analyser turned together, parallel or crossed, around a sample that stands."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import bluesky.plans as bp
from bluesky.protocols import Readable
from bluesky.utils import Msg
from cycler import cycler
from numpy.typing import ArrayLike

from plans.checks import Arguments, position_column, run_metadata
from plans.optics.columns import column_names, units_of
from plans.optics.harmonics import HarmonicFit, fit_harmonics
from plans.results import Result, RunEvents, rows_of, with_results

FOLDS = (2, 4)
_CROSSED_DEG = 90.0
_TURN_DEG = 360.0


@dataclass(frozen=True, kw_only=True)
class AnisotropyFit:
    """A constant and waves over the direction of polarization, see :class:`plans.optics.HarmonicFit`."""

    fit: HarmonicFit
    folds: tuple[int, ...]

    def as_row(self) -> dict[str, float]:
        """Return `offset`, and for each fold n `amplitude_n` and `angle_n` (deg), with their standard errors."""
        row: dict[str, float] = {"offset": self.fit.offset, "offset_error": self.fit.offset_error}
        for fold in self.folds:
            wave = self.fit.harmonics[fold]
            row |= {
                f"amplitude_{fold}": wave.amplitude,
                f"amplitude_{fold}_error": wave.amplitude_error,
                f"angle_{fold}": wave.angle_deg,
                f"angle_{fold}_error": wave.angle_error_deg,
            }
        return row | {
            "r_squared": self.fit.r_squared,
            "points": self.fit.points,
            "degrees_of_freedom": self.fit.degrees_of_freedom,
        }


def fit_anisotropy(angle_deg: ArrayLike, signal: ArrayLike, folds: Sequence[int] = FOLDS) -> AnisotropyFit:
    """Fit a constant and waves to what was read at directions of polarization in degrees.

    Raises
    ------
    ValueError
        As :func:`plans.optics.fit_harmonics`.
    """
    chosen = tuple(int(fold) for fold in folds)
    return AnisotropyFit(fit=fit_harmonics(angle_deg, signal, chosen), folds=chosen)


def rotational_anisotropy(
    detectors: Sequence[Readable[Any]],
    polariser: Any,
    analyser: Any,
    start: float = 0.0,
    stop: float = 350.0,
    num: int = 36,
    *,
    geometry: Literal["parallel", "crossed"] = "parallel",
    half_wave_plate: bool = False,
    polariser_zero: float = 0.0,
    analyser_zero: float = 0.0,
    folds: Sequence[int] = FOLDS,
    note: str | None = None,
    sample: str | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> Generator[Msg, Any, str]:
    """Turn polariser and analyser together around a sample, and fit how the signal repeats in a turn.

    The angle is the direction of polarization before the sample. Rotators are at `zero + angle`, the analyser 90
    degrees further when crossed; a half-wave plate, which turns the polarization by twice its own angle, at
    `zero + angle / 2`. What would go beyond 360 degrees begins a turn earlier.

    The stream `result_anisotropy` has a row for each detector: `offset`, and for each fold n `amplitude_n` and
    `angle_n` (deg) with their standard errors.

    Parameters
    ----------
    detectors
        What is read, of either generation.
    polariser
        What turns the polarization before the sample.
    analyser
        What carries the polarizer behind it.
    start, stop
        First and last direction in degrees.
    num
        Number of directions.
    geometry
        `parallel` or `crossed`.
    half_wave_plate
        The polariser is a half-wave plate.
    polariser_zero, analyser_zero
        Positions in degrees at which both are at direction 0.
    folds
        Which waves are fitted.
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
    arguments = Arguments("rotational_anisotropy")
    arguments.detectors("detectors", detectors)
    arguments.choice("geometry", geometry, ("parallel", "crossed"))
    numbers = {"start": start, "stop": stop, "polariser_zero": polariser_zero, "analyser_zero": analyser_zero}
    well = [arguments.number(name, value) for name, value in numbers.items()]
    if isinstance(folds, str) or not isinstance(folds, Sequence) or not folds:
        arguments.problem("folds", folds, "a list of whole numbers")
        folds = ()
    well.append(arguments.count("num", num, minimum=2 * len(folds) + 2))
    if all(arguments.count("folds", fold) for fold in folds) and len(set(folds)) < len(folds):
        arguments.problem("folds", folds, "different whole numbers")
    arguments.distinct("analyser", [polariser, analyser])
    movable = arguments.movable("polariser", polariser) and arguments.movable("analyser", analyser)
    ratio = 0.5 if half_wave_plate else 1.0
    crossing = _CROSSED_DEG if geometry == "crossed" else 0.0
    step = (stop - start) / (num - 1) if all(well) else 0.0
    angles = [start + number * step for number in range(num)] if all(well) else []
    before = _within_turn([polariser_zero + ratio * angle for angle in angles])
    behind = _within_turn([analyser_zero + angle + crossing for angle in angles])
    if movable and angles:
        arguments.positions("start", polariser, before[0])
        arguments.positions("stop", polariser, before[-1])
        arguments.positions("start", analyser, behind[0])
        arguments.positions("stop", analyser, behind[-1])
    yield from arguments.check()
    given = {
        "detectors": detectors,
        "polariser": polariser,
        "analyser": analyser,
        "start": start,
        "stop": stop,
        "num": num,
        "geometry": geometry,
        "half_wave_plate": half_wave_plate,
        "polariser_zero": polariser_zero,
        "analyser_zero": analyser_zero,
        "folds": list(folds),
    }
    metadata = run_metadata("rotational_anisotropy", given, note=note, sample=sample, operator=operator, md=md)

    def analyse(events: RunEvents) -> Result:
        angle = (events.column(position_column(polariser)) - polariser_zero) / ratio
        names = column_names(detectors)
        rows = rows_of(names, lambda name: fit_anisotropy(angle, events.column(name), folds).as_row())
        units = units_of(events, names)
        described = {"offset": units}
        for fold in folds:
            described |= {f"amplitude_{fold}": units, f"angle_{fold}": "deg"}
        return Result("anisotropy", rows, described)

    path = cycler(polariser, before) + cycler(analyser, behind)
    metadata["hints"] = {"dimensions": [([position_column(polariser), position_column(analyser)], "primary")]}
    plan = bp.scan_nd(list(detectors), path, md=metadata)
    uid: str = yield from with_results(plan, analyse)
    return uid


def _within_turn(positions: list[float]) -> list[float]:
    """Begin a turn earlier when the positions would end beyond a full turn."""
    too_far = max(positions, default=0.0) > _TURN_DEG
    return [position - _TURN_DEG for position in positions] if too_far else positions
