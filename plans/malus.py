"""Malus's law: rotate a polarizer or a half-wave plate, read the power behind, and find where it is largest."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import bluesky.plans as bp
import numpy as np
from bluesky.protocols import Movable, Readable
from bluesky.utils import Msg, get_hinted_fields
from numpy.typing import ArrayLike, NDArray

from plans.checks import Arguments, position_column, run_metadata
from plans.optics.harmonics import PERIODS_DEG, fit_cosine_squared
from plans.results import Result, RunEvents, rows_of, with_results

_CLEARLY = 0.5
"""How small the unexplained variance must be, beside that of a polarizer, for the rotator to carry a plate."""

_POWERS = ("amplitude", "amplitude_error", "offset", "offset_error")

Optic = Literal["auto", "polarizer", "half_wave_plate"]


@dataclass(frozen=True, kw_only=True)
class MalusFit:
    """What :func:`malus_law` says about one power over one rotation.

    Angles are rotator positions in degrees, powers in watt.
    """

    angle_deg: float
    """Position of largest power, 0 to below `period_deg`."""
    angle_error_deg: float
    """Standard error of the angle; NaN when the points leave it undetermined."""
    amplitude_w: float
    """Largest minus smallest power."""
    amplitude_error_w: float
    """Standard error of it."""
    offset_w: float
    """Smallest power: leakage of the polarizer and ambient light."""
    offset_error_w: float
    """Standard error of it."""
    r_squared: float
    """Share of the variance that the law explains; 1 is a perfect fit."""
    points: int
    """How many readings took part: those that are numbers."""
    degrees_of_freedom: int
    """How many more they are than the three parameters."""
    period_deg: float = 180.0
    """180 for a polarizer, 90 for a half-wave plate."""

    @property
    def contrast(self) -> float:
        """Largest divided by smallest power; infinite when the offset is not above zero."""
        return (self.amplitude_w + self.offset_w) / self.offset_w if self.offset_w > 0 else math.inf

    def power(self, position_deg: ArrayLike) -> Any:
        """Return the power in watt that the law gives at rotator positions in degrees."""
        return malus_law(position_deg, self.angle_deg, self.amplitude_w, self.offset_w, self.period_deg)

    def as_dict(self) -> dict[str, float]:
        """Return the numbers by name."""
        return asdict(self)


def malus_law(
    position_deg: ArrayLike, angle_deg: float, amplitude_w: float, offset_w: float, period_deg: float = 180.0
) -> Any:
    """Return `amplitude_w * cos(180 / period_deg * (position_deg - angle_deg))**2 + offset_w`."""
    turned = np.radians(np.asarray(position_deg) - angle_deg) * (180.0 / period_deg)
    return amplitude_w * np.cos(turned) ** 2 + offset_w


def fit_malus(position_deg: ArrayLike, power_w: ArrayLike, optic: Optic = "auto") -> MalusFit:
    """Fit Malus's law to powers read at rotator positions.

    Readings that are no numbers (NaN marks an invalid one) are left out.

    Parameters
    ----------
    position_deg : array of float, shape (n,)
        Rotator positions in degrees.
    power_w : array of float, shape (n,)
        Powers in watt.
    optic
        What the rotator carries. `auto` is a polarizer, unless the law of a half-wave plate leaves less than half of
        the variance unexplained that the law of a polarizer does.

    Raises
    ------
    ValueError
        The shapes differ, fewer than four readings are numbers, all of these are the same, or their positions are too
        close together to tell anything.
    """
    position = np.asarray(position_deg, dtype=float)
    power = np.asarray(power_w, dtype=float)
    if position.shape != power.shape or position.ndim != 1:
        raise ValueError(f"positions and powers must be two equally long rows, not {position.shape} and {power.shape}")
    valid = np.isfinite(position) & np.isfinite(power)
    position, power = position[valid], power[valid]
    if len(power) < 4:
        raise ValueError(f"Malus's law needs at least 4 valid readings for its 3 parameters; there are {len(power)}")
    return _fitted(position, power, PERIODS_DEG[_optic_of(position, power) if optic == "auto" else optic])


def _optic_of(position: NDArray[np.float64], power: NDArray[np.float64]) -> str:
    """Tell a half-wave plate from a polarizer by what each law leaves unexplained; not sure, it is a polarizer."""

    def unexplained(period_deg: float) -> float:
        phase = np.radians(position * 360.0 / period_deg)
        waves = np.stack([np.ones_like(phase), np.cos(phase), np.sin(phase)], axis=1)
        best = np.linalg.lstsq(waves, power, rcond=None)[0]
        return float(np.sum((power - waves @ best) ** 2))

    polarizer, plate = map(unexplained, PERIODS_DEG.values())
    return "half_wave_plate" if plate < _CLEARLY * polarizer else "polarizer"


def _fitted(position: NDArray[np.float64], power: NDArray[np.float64], period_deg: float) -> MalusFit:
    law = asdict(fit_cosine_squared(position, power, period_deg))
    return MalusFit(**{f"{name}_w" if name in _POWERS else name: value for name, value in law.items()})


def malus(
    detectors: Sequence[Readable[Any]],
    rotator: Movable[float],
    start: float = 0.0,
    stop: float = 180.0,
    num: int = 37,
    *,
    optic: Optic = "auto",
    note: str | None = None,
    sample: str | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> Generator[Msg, Any, str]:
    """Rotate a polarizer, or a half-wave plate before one, and read all detectors at equally spaced positions.

    Detectors on one wire are triggered together; the wire lets them in one after the other. The stream
    `result_malus` has a row for each detector: a :class:`MalusFit`, and the contrast. `period` says which optic the
    readings were taken for: 180 degrees for a polarizer, 90 for a half-wave plate.

    Parameters
    ----------
    detectors
        Power meters of either generation; each event has them all.
    rotator
        What carries the polarizer or the plate.
    start, stop
        First and last position in degrees.
    num
        Number of positions.
    optic
        What the rotator carries: `polarizer`, `half_wave_plate`, or `auto` for what the readings fit best.
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
    arguments = Arguments("malus")
    arguments.detectors("detectors", detectors)
    arguments.count("num", num, minimum=4)
    arguments.span("rotator", rotator, start, stop)
    arguments.choice("optic", optic, get_args(Optic))
    yield from arguments.check()
    given = {"detectors": detectors, "rotator": rotator, "start": start, "stop": stop, "num": num, "optic": optic}
    metadata = run_metadata("malus", given, note=note, sample=sample, operator=operator, md=md)

    def analyse(events: RunEvents) -> Result:
        position = events.column(position_column(rotator))
        columns = [name for detector in detectors for name in get_hinted_fields(detector)]
        rows = rows_of(columns, lambda name: _as_row(fit_malus(position, events.column(name), optic)))
        return Result("malus", rows, {"angle": "deg", "amplitude": "W", "offset": "W", "period": "deg"})

    uid: str = yield from with_results(bp.scan(list(detectors), rotator, start, stop, num, md=metadata), analyse)
    return uid


def _as_row(fit: MalusFit) -> dict[str, float]:
    numbers = {name.removesuffix("_deg").removesuffix("_w"): value for name, value in asdict(fit).items()}
    return {**numbers, "contrast": fit.contrast}
