"""The robust fit of what a twin reads beyond its original: offset, gain and lag, without wild readings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plans.shadow.pairs import Floats, Pairs, Tolerance

_OUTLIER_PASSES = 8
_OUTLIER_MARGIN = 1.4
_REWEIGHTINGS = 8
_VARIATION_OVER_NOISE = 5.0
_MOTION_OVER_NOISE = 3.0


@dataclass(frozen=True)
class Fit:
    """`difference = offset + gain * (original - center) - lag * rate`.

    The gain is 0 without an error where the original hardly varied, and so is the lag where it hardly moved.
    """

    offset: float
    gain: float
    lag: float
    covariance: Floats
    center: float
    kept: NDArray[np.bool_]
    varies: bool
    moves: bool

    @property
    def degrees_of_freedom(self) -> int:
        """Pairs beyond those that fix the coefficients."""
        return max(int(self.kept.sum()) - 1 - self.varies - self.moves, 1)

    def error(self, index: int) -> float:
        """Return the standard error of the offset (0), the gain (1) or the lag (2)."""
        return math.sqrt(max(float(self.covariance[index, index]), 0.0))

    def spread(self, pairs: Pairs) -> float:
        """Return the standard deviation of the differences, without what is far off."""
        return float(np.std((pairs.twin - pairs.original)[self.kept]))

    def difference_at(self, values: Floats) -> tuple[Floats, Floats]:
        """Return the systematic difference at values of the original, and its standard errors."""
        design = np.column_stack([np.ones(len(values)), values - self.center])
        errors = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", design, self.covariance[:2, :2], design), 0.0))
        return design @ np.array([self.offset, self.gain]), errors


def fit_difference(pairs: Pairs, tolerance: Tolerance) -> Fit:
    """Fit the difference, leaving out readings that are far off, with errors that allow for unequal spreads."""
    original, rate = pairs.original, pairs.rate
    difference = pairs.twin - original
    # Regressing on the original alone would take its noise for a scale error. The mean of both, weighted by how
    # noisy each is, is not correlated with the noise of the difference.
    noise = pairs.noise_ratio
    level = (noise * pairs.twin + original) / (1 + noise)
    center = float(np.median(level))
    largest = np.max(np.abs([original, pairs.twin]), initial=0.0)
    least = float(max(pairs.resolution, np.finfo(float).eps * largest))
    scatter = max(_robust_spread(difference - _trend(level, rate, difference)), least)
    varies = float(np.std(level)) > _VARIATION_OVER_NOISE * scatter
    noise_of_rate = scatter * float(np.median(pairs.noise_of_rate))
    moves = float(np.std(rate)) > _MOTION_OVER_NOISE * noise_of_rate
    columns = [np.ones(len(pairs))] + ([level - center] if varies else []) + ([-rate] if moves else [])
    design = np.column_stack(columns)
    scales = np.abs(design).max(axis=0)
    design = design / scales
    from scipy import stats  # takes most of a second to import, and most sessions compare nothing

    limit = _OUTLIER_MARGIN * float(stats.norm.isf(tolerance.false_positive_rate / (4 * len(pairs))))
    matters = max(tolerance.for_pairs(pairs), 3 * least)
    coefficients = _median_regression(design, difference)
    kept = np.ones(len(pairs), dtype=bool)
    weights = np.ones(len(pairs))
    for _ in range(_OUTLIER_PASSES):
        residuals = difference - design @ coefficients
        spreads = np.maximum(_spreads(np.abs(original), np.abs(rate), np.abs(residuals), kept), least / 2)
        # A truth that changed unevenly between the readings differs by up to `slack` for no fault of anybody.
        weights = 1 / np.hypot(spreads, pairs.slack)
        excess = np.abs(residuals) - pairs.slack
        now_kept = (excess <= limit * spreads) | (excess <= matters)
        coefficients = _least_squares(design[now_kept], difference[now_kept], weights[now_kept])
        if np.array_equal(now_kept, kept):
            break
        kept = now_kept
    covariance = _robust_covariance(
        design[kept], difference[kept] - design[kept] @ coefficients, weights[kept]
    ) / np.outer(scales, scales)
    coefficients = coefficients / scales
    places = [0] + ([1] if varies else []) + ([2] if moves else [])
    full, full_covariance = np.zeros(3), np.zeros((3, 3))
    full[places] = coefficients
    full_covariance[np.ix_(places, places)] = covariance
    # From the gain over the mean of both to that over the original.
    stretch = 1 - full[1] * float(np.mean(noise / (1 + noise)))
    center_of_original = center - float(np.mean(noise / (1 + noise))) * full[0]
    return Fit(
        offset=float(full[0]),
        gain=float(full[1]) / stretch,
        lag=float(full[2]),
        covariance=full_covariance / np.outer([1, stretch, 1], [1, stretch, 1]),
        center=center_of_original,
        kept=kept,
        varies=varies,
        moves=moves,
    )


def _robust_spread(values: Floats) -> float:
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _trend(level: Floats, rate: Floats, difference: Floats) -> Floats:
    """Return what a straight line in level and rate says about the difference, robustly."""
    design = np.column_stack([np.ones(len(level)), level - np.median(level), rate])
    scales = np.maximum(np.abs(design).max(axis=0), np.finfo(float).tiny)
    return np.asarray(design / scales @ _median_regression(design / scales, difference))


def _median_regression(design: Floats, values: Floats) -> Floats:
    """Return coefficients that single wild values cannot pull: least absolute residuals, by reweighting."""
    coefficients = _least_squares(design, values, np.ones(len(values)))
    for _ in range(_REWEIGHTINGS):
        residuals = np.abs(values - design @ coefficients)
        floor = max(1e-3 * float(np.median(residuals)), np.finfo(float).tiny)
        coefficients = _least_squares(design, values, 1 / np.sqrt(np.maximum(residuals, floor)))
    return coefficients


def _least_squares(design: Floats, values: Floats, weights: Floats) -> Floats:
    return np.asarray(np.linalg.lstsq(design * weights[:, None], values * weights, rcond=None)[0])


def _spreads(level: Floats, rate: Floats, residuals: Floats, kept: NDArray[np.bool_]) -> Floats:
    """Return the standard deviation expected of each difference: constant, and growing with level and rate."""
    design = np.column_stack([np.ones(len(level)), level, rate])
    scales = np.maximum(design.max(axis=0), np.finfo(float).tiny)
    capped = np.minimum(residuals, 5 * np.median(residuals[kept]) + np.finfo(float).tiny)
    unit = max(float(np.max(capped)), np.finfo(float).tiny)
    from scipy.optimize import nnls

    coefficients, _ = nnls((design / scales)[kept], capped[kept] / unit)
    expected = design / scales @ coefficients * unit
    # The mean of the absolute value of a normal variable is sqrt(2/pi) of its standard deviation.
    return np.asarray(np.maximum(expected, 0.25 * unit * float(np.mean(capped[kept])) / unit) * math.sqrt(math.pi / 2))


def _robust_covariance(design: Floats, residuals: Floats, weights: Floats) -> Floats:
    """Return the covariance of weighted least squares whatever the spreads are (HC3, MacKinnon and White, 1985)."""
    weighted = design * weights[:, None]
    inverse = np.linalg.pinv(weighted.T @ weighted)
    leverage = np.clip(np.einsum("ij,jk,ik->i", weighted, inverse, weighted), 0.0, 0.99)
    scores = weighted * (residuals * weights / (1 - leverage))[:, None]
    return np.asarray(inverse @ scores.T @ scores @ inverse)
