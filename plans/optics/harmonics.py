"""What a signal does while something is turned: a constant and waves that repeat n times in a turn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plans.standard_errors import student_factor

PERIODS_DEG = {"polarizer": 180.0, "half_wave_plate": 90.0}
"""After which turn the power is the same again: a half-wave plate turns the polarization by twice its own angle."""

_TURN_DEG = 360.0


@dataclass(frozen=True, kw_only=True)
class Harmonic:
    """One wave, `amplitude * cos(fold * (position - angle_deg))`."""

    fold: int
    """How often it repeats in a turn."""
    amplitude: float
    """Half of its largest minus its smallest value, never negative; in the signal's units."""
    amplitude_error: float
    """Standard error; NaN when there are no more readings than parameters."""
    angle_deg: float
    """Position of its first maximum, from 0 to below 360 / fold."""
    angle_error_deg: float
    """Standard error of that."""
    lowest_error: float
    """Standard error of the constant minus the amplitude: of the signal where this wave is lowest."""


@dataclass(frozen=True, kw_only=True)
class HarmonicFit:
    """What a linear least-squares fit of a constant and some waves says of one signal; positions in degrees."""

    offset: float
    """The constant, in the signal's units."""
    offset_error: float
    """Standard error of it."""
    harmonics: Mapping[int, Harmonic]
    """The waves by fold."""
    r_squared: float
    """Share of the variance that is explained; 1 is a perfect fit."""
    chi_error: float
    """Standard deviation of the readings from the fit, in the signal's units."""
    points: int
    """How many readings took part: those that are numbers."""
    degrees_of_freedom: int
    """How many more they are than fitted parameters; without any there are no errors."""

    def value(self, position_deg: ArrayLike) -> Any:
        """Return the fitted signal at positions in degrees."""
        position = np.asarray(position_deg, dtype=float)
        waves = (
            wave.amplitude * np.cos(np.radians(wave.fold * (position - wave.angle_deg)))
            for wave in self.harmonics.values()
        )
        return self.offset + sum(waves, np.zeros_like(position))


def fit_harmonics(position_deg: ArrayLike, signal: ArrayLike, folds: Sequence[int]) -> HarmonicFit:
    """Fit a constant and waves of these folds; readings that are no numbers are left out.

    Parameters
    ----------
    position_deg : array of float, shape (n,)
        Positions in degrees.
    signal : array of float, shape (n,)
        What was read there.
    folds
        How often each wave repeats in a turn; whole numbers from 1 on.

    Raises
    ------
    ValueError
        The shapes differ, the folds are no folds, the readings are all the same, or cannot determine all parameters.
    """
    position, values = valid_rows(position_deg, signal)
    if len(set(folds)) != len(folds) or any(fold != int(fold) or fold < 1 for fold in folds):
        raise ValueError(f"folds must be different whole numbers from 1 on, not {list(folds)}")
    columns = [np.ones_like(position)]
    for fold in folds:
        columns += [np.cos(np.radians(fold * position)), np.sin(np.radians(fold * position))]
    matrix = np.stack(columns, axis=1)
    parameters = matrix.shape[1]
    if len(values) < parameters:
        raise ValueError(f"a fit of {parameters} parameters needs as many valid readings; there are {len(values)}")
    if not np.ptp(values):
        raise ValueError(f"all readings are {values[0]:g}: something keeps the signal from changing, or takes it away")
    # Powers are some 1e-9: the rank is decided, and the squares are summed, among numbers of the order of one.
    scale = float(np.max(np.abs(values))) or 1.0
    best, _, rank, _ = np.linalg.lstsq(matrix, values / scale, rcond=1e-9)
    if rank < parameters:
        raise ValueError(
            f"positions from {position.min():g} to {position.max():g} deg do not tell waves of the folds "
            f"{', '.join(map(str, folds))} apart; measure over a larger range or at more positions"
        )
    residuals = values / scale - matrix @ best
    free = len(values) - parameters
    variance = float(residuals @ residuals) / free if free else math.nan
    covariance = np.linalg.inv(matrix.T @ matrix) * variance * student_factor(free) ** 2
    harmonics = {}
    for number, fold in enumerate(folds):
        own = [0, 1 + 2 * number, 2 + 2 * number]
        harmonics[int(fold)] = _wave(int(fold), best[own[1:]], covariance[np.ix_(own, own)], scale)
    total = float(np.sum((values / scale - np.mean(values / scale)) ** 2))
    return HarmonicFit(
        offset=float(best[0]) * scale,
        offset_error=math.sqrt(covariance[0, 0]) * scale,
        harmonics=harmonics,
        r_squared=1.0 - float(residuals @ residuals) / total if total else math.nan,
        chi_error=math.sqrt(variance) * scale,
        points=len(values),
        degrees_of_freedom=free,
    )


@dataclass(frozen=True, kw_only=True)
class CosineSquared:
    """What `offset + amplitude * cos(180 / period_deg * (position - angle_deg))**2` says of a signal."""

    angle_deg: float
    """Position of the largest signal, 0 to below `period_deg`."""
    angle_error_deg: float
    """Standard error of it; NaN when the points leave it undetermined."""
    amplitude: float
    """Largest minus smallest signal, in its units."""
    amplitude_error: float
    """Standard error of it."""
    offset: float
    """Smallest signal: leakage and ambient light."""
    offset_error: float
    """Standard error of it."""
    r_squared: float
    """Share of the variance that the law explains; 1 is a perfect fit."""
    points: int
    """How many readings took part: those that are numbers."""
    degrees_of_freedom: int
    """How many more they are than the three parameters; without any there are no errors."""
    period_deg: float
    """After which turn the signal is the same again: 180 for a polarizer, 90 for a half-wave plate before one."""

    @property
    def contrast(self) -> float:
        """Largest divided by smallest signal; infinite when the offset is not above zero."""
        return (self.amplitude + self.offset) / self.offset if self.offset > 0 else math.inf

    def power(self, position_deg: ArrayLike) -> Any:
        """Return the signal at positions in degrees."""
        turned = np.radians(np.asarray(position_deg, dtype=float) - self.angle_deg) * (180.0 / self.period_deg)
        return self.offset + self.amplitude * np.cos(turned) ** 2

    def as_row(self) -> dict[str, float]:
        """Return the numbers by the names they are stored under: `angle` and `angle_error` (deg), and so on."""
        return {name.removesuffix("_deg"): value for name, value in asdict(self).items()}


def fit_cosine_squared(position_deg: ArrayLike, signal: ArrayLike, period_deg: float) -> CosineSquared:
    """Fit a cosine squared of that period; readings that are no numbers are left out.

    Raises
    ------
    ValueError
        As :func:`fit_harmonics`.
    """
    fold = round(_TURN_DEG / period_deg)
    fit = fit_harmonics(position_deg, signal, (fold,))
    wave = fit.harmonics[fold]
    return CosineSquared(
        angle_deg=wave.angle_deg,
        angle_error_deg=wave.angle_error_deg,
        amplitude=2 * wave.amplitude,
        amplitude_error=2 * wave.amplitude_error,
        offset=fit.offset - wave.amplitude,
        offset_error=wave.lowest_error,
        r_squared=fit.r_squared,
        points=fit.points,
        degrees_of_freedom=fit.degrees_of_freedom,
        period_deg=period_deg,
    )


def valid_rows(position: ArrayLike, signal: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the pairs that are numbers; ValueError when there are not equally many of both."""
    positions, values = np.asarray(position, dtype=float), np.asarray(signal, dtype=float)
    if positions.shape != values.shape or positions.ndim != 1:
        raise ValueError(
            f"positions and readings must be two equally long rows, not {positions.shape} and {values.shape}"
        )
    valid = np.isfinite(positions) & np.isfinite(values)
    return positions[valid], values[valid]


def _wave(fold: int, best: NDArray[Any], covariance: NDArray[Any], scale: float) -> Harmonic:
    """Return a wave from its cosine and sine, and their covariance with the constant, which comes first."""
    cosine, sine = float(best[0]), float(best[1])
    amplitude = math.hypot(cosine, sine)
    along = np.array([cosine, sine]) / amplitude if amplitude else np.array([1.0, 0.0])
    across = np.array([-along[1], along[0]])
    lowest, waves = np.array([1.0, *-along]), covariance[1:, 1:]
    turn = _TURN_DEG / fold
    return Harmonic(
        fold=fold,
        amplitude=amplitude * scale,
        amplitude_error=math.sqrt(float(along @ waves @ along)) * scale,
        # Twice: the remainder of a tiny negative angle is rounded to a full turn.
        angle_deg=math.degrees(math.atan2(sine, cosine)) / fold % turn % turn,
        angle_error_deg=(
            math.degrees(math.sqrt(float(across @ waves @ across)) / (fold * amplitude)) if amplitude else math.nan
        ),
        lowest_error=math.sqrt(max(float(lowest @ covariance @ lowest), 0.0)) * scale,
    )
