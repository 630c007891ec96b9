"""The robust fit of what a twin reads beyond its original: offset, gain and lag, without wild readings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plans.shadow.pairs import Floats, Pairs, Tolerance

_OUTLIER_PASSES = 8
_OUTLIER_MARGIN = 1.4
_REWEIGHTINGS = 8
_VARIATION_OVER_NOISE = 5.0
_MOTION_OVER_NOISE = 3.0
_WILD = 8.0
_HEAVIEST_TAIL = 2.0
_TAILS = (30.0, 20.0, 12.0, 8.0, 6.0, 5.0, 4.0, 3.5, 3.0, 2.5)
"""Degrees of freedom of Student's t that stand for noise with lighter and heavier tails."""

_ENOUGH_FOR_TAIL = 30
_LEAST_STRETCH = 1e-3


@dataclass(frozen=True)
class Fit:
    """`difference = offset + gain * (original - center) - lag * rate`.

    The gain is 0 without an error where the original hardly varied, and so is the lag where it hardly moved. What is
    not `kept` is beyond normal noise; what is `gross` is beyond noise with tails as heavy as these readings may have.
    `farness` is how many times their spread the differences are off.
    """

    offset: float
    gain: float
    lag: float
    influences: Floats
    """How each row that was kept moved offset, gain and lag: their products are the covariance."""
    center: float
    kept: NDArray[np.bool_]
    gross: NDArray[np.bool_]
    farness: Floats
    scatter: float
    varies: bool
    moves: bool

    def error(self, index: int) -> float:
        """Return the standard error of the offset (0), the gain (1) or the lag (2)."""
        return float(np.linalg.norm(self.influences[:, index]))

    def spread(self, pairs: Pairs) -> float:
        """Return the standard deviation of the differences, without what is far off."""
        return float(np.std((pairs.twin - pairs.original)[self.kept]))

    def difference_at(self, values: Floats) -> tuple[Floats, Floats]:
        """Return the systematic difference at values of the original, and its standard errors."""
        return self._design(values) @ np.array([self.offset, self.gain]), np.linalg.norm(self._moved(values), axis=0)

    def quantiles(self, chance: float, values: Floats) -> Floats:
        """Return how many standard errors the differences at values are off with that probability, to one side."""
        return self._quantiles(chance, self._moved(values))

    def quantile_of_lag(self, chance: float) -> float:
        """Return how many standard errors the lag is off with that probability, to one side."""
        return float(self._quantiles(chance, self.influences[:, 2:])[0])

    def _moved(self, values: Floats) -> Floats:
        return np.asarray(self.influences[:, :2] @ self._design(values).T)

    def _design(self, values: Floats) -> Floats:
        return np.column_stack([np.ones(len(values)), values - self.center])

    def _quantiles(self, chance: float, moved: Floats) -> Floats:
        """Return quantiles of Student's t for errors that are known as well as the rows that matter tell them.

        Few rows that matter, at an end of the range or with heavy tails, make the variance itself uncertain: its
        degrees of freedom are those by which it scatters (Satterthwaite, 1946).
        """
        from scipy.special import stdtrit  # takes a while to import, and most sessions compare nothing

        most = max(int(self.kept.sum()) - 2 * (1 + self.varies + self.moves), 1)  # for coefficients and spreads
        scatter = np.sum(moved**4, axis=0)
        freedom = np.divide(
            3 * np.sum(moved**2, axis=0) ** 2, scatter, out=np.full(len(scatter), float(most)), where=scatter > 0
        )
        return np.asarray(-stdtrit(np.clip(freedom, 1.0, most), chance))


def fit_difference(pairs: Pairs, tolerance: Tolerance, chance: float) -> Fit:
    """Fit the difference, leaving out readings that are far off, with errors that allow for unequal spreads.

    `chance` is the probability, at the most, that any reading of a sound pair is taken for `gross`.
    """
    original, rate = pairs.original, pairs.rate
    difference = pairs.twin - original
    # Regressing on the original alone would take its noise for a scale error. The mean of both, weighted by how
    # noisy each is, is not correlated with the noise of the difference.
    noise = pairs.noise_ratio
    level = (noise * pairs.twin + original) / (1 + noise)
    center = float(np.median(level))
    largest = np.max(np.abs([original, pairs.twin]), initial=0.0)
    least = float(max(pairs.resolution, np.finfo(float).eps * largest))
    bounded = _bounded_influence(difference, least)
    off_trend = difference - _trend(level, rate, difference, bounded)
    scatter = max(_robust_spread(off_trend), least)
    # A single wild reading moves the level, too: neither that nor what it seems to move is a truth that varies.
    calm = np.abs(off_trend) <= _WILD * scatter + pairs.slack
    varies = float(np.std(level[calm])) > _VARIATION_OVER_NOISE * scatter
    noise_of_rate = scatter * float(np.median(pairs.noise_of_rate))
    moves = float(np.std(rate[calm])) > _MOTION_OVER_NOISE * noise_of_rate
    columns = [np.ones(len(pairs))] + ([level - center] if varies else []) + ([-rate] if moves else [])
    design = np.column_stack(columns)
    scales = np.abs(design).max(axis=0)
    design = design / scales
    from scipy.special import ndtri

    limit = _OUTLIER_MARGIN * -float(ndtri(tolerance.false_positive_rate / (4 * len(pairs))))
    matters = max(tolerance.for_pairs(pairs), 3 * least)
    coefficients = _median_regression(design, difference, bounded)
    magnitude = np.minimum(np.abs(original), np.abs(pairs.twin))  # which no single wild reading can raise
    grows_with = ([magnitude] if varies else []) + ([np.abs(rate)] if moves else [])
    kept = np.ones(len(pairs), dtype=bool)
    weights = np.ones(len(pairs))
    for _ in range(_OUTLIER_PASSES):
        residuals = difference - design @ coefficients
        spreads = np.maximum(_spreads(grows_with, np.abs(residuals), kept), least / 2)
        # A truth that changed unevenly between the readings differs by up to `slack` for no fault of anybody.
        weights = 1 / np.hypot(spreads, pairs.slack)
        excess = np.abs(residuals) - pairs.slack
        now_kept = (excess <= limit * spreads) | (excess <= matters)
        coefficients = _least_squares(design[now_kept], difference[now_kept], weights[now_kept])
        if np.array_equal(now_kept, kept):
            break
        kept = now_kept
    farness = np.maximum(excess, 0.0) / spreads
    gross = ~kept & (farness > _tail_limit(np.abs(residuals) / spreads, chance / len(pairs)))
    influences = _influences(design[kept], difference[kept] - design[kept] @ coefficients, weights[kept])
    places = [0] + ([1] if varies else []) + ([2] if moves else [])
    full, full_influences = np.zeros(3), np.zeros((len(influences), 3))
    full[places] = coefficients / scales
    full_influences[:, places] = influences / scales
    # From the gain over the mean of both to that over the original.
    stretch = 1 - float(full[1]) * float(np.mean(noise / (1 + noise)))
    if abs(stretch) < _LEAST_STRETCH:  # the original did not change at all while the twin did
        stretch = math.copysign(_LEAST_STRETCH, stretch)
    center_of_original = center - float(np.mean(noise / (1 + noise))) * full[0]
    return Fit(
        offset=float(full[0]),
        gain=float(full[1]) / stretch,
        lag=float(full[2]),
        influences=full_influences / [1, stretch, 1],
        center=center_of_original,
        kept=kept,
        gross=gross,
        farness=farness,
        scatter=scatter,
        varies=varies,
        moves=moves,
    )


def _robust_spread(values: Floats) -> float:
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _tail_limit(multiples: Floats, chance: float) -> float:
    """Return how many times its spread a sound difference exceeds with a probability of `chance` at the most.

    The tail is taken from how much larger the large ones are than the median one, at the 90 % bound that is worse
    (order statistics): a few readings cannot exclude heavy tails, many of normal noise can.

    Parameters
    ----------
    multiples
        Absolute differences over their spreads, faults among them.
    chance
        The probability for one difference, of both signs.
    """
    from scipy.special import ndtri, stdtrit

    n = len(multiples)
    median = float(np.median(multiples)) if n else 0.0
    tail = _HEAVIEST_TAIL
    if n >= _ENOUGH_FOR_TAIL and median > 0:
        share = 0.9 if n < 10 * _ENOUGH_FOR_TAIL else 0.95
        rank = math.ceil(n * share - float(ndtri(0.1)) * math.sqrt(n * share * (1 - share)))
        ratio = float(np.sort(multiples)[min(rank, n - 1)]) / median
        expected = (stdtrit(freedom, (1 - share) / 2) / stdtrit(freedom, 0.25) for freedom in _TAILS)
        tail = next(
            (freedom for freedom, least in zip(_TAILS, expected, strict=True) if least >= ratio), _HEAVIEST_TAIL
        )
    unit = max(median, -float(ndtri(0.25))) / -float(stdtrit(tail, 0.25))
    return unit * -float(stdtrit(tail, chance / 2))


def _bounded_influence(difference: Floats, least: float) -> Floats:
    """Return weights with which a row that is far from the others cannot pull a line, whatever its level is.

    A wild reading is off in level and difference, and a line that has both as coordinates would go through it (as in
    the regression of Mallows).
    """
    off = np.abs(difference - np.median(difference)) / max(_robust_spread(difference), least, np.finfo(float).tiny)
    return np.asarray(np.minimum(1.0, (4 / np.maximum(off, 4.0)) ** 2))


def _trend(level: Floats, rate: Floats, difference: Floats, bounded: Floats) -> Floats:
    """Return what a straight line in level and rate says about the difference, robustly."""
    design = np.column_stack([np.ones(len(level)), level - np.median(level), rate])
    scales = np.maximum(np.abs(design).max(axis=0), np.finfo(float).tiny)
    return np.asarray(design / scales @ _median_regression(design / scales, difference, bounded))


def _median_regression(design: Floats, values: Floats, bounded: Floats) -> Floats:
    """Return coefficients that single wild values cannot pull: least absolute residuals, by reweighting."""
    coefficients = _least_squares(design, values, bounded)
    for _ in range(_REWEIGHTINGS):
        residuals = np.abs(values - design @ coefficients)
        floor = max(1e-3 * float(np.median(residuals)), np.finfo(float).tiny)
        coefficients = _least_squares(design, values, np.sqrt(bounded / np.maximum(residuals, floor)))
    return coefficients


def _least_squares(design: Floats, values: Floats, weights: Floats) -> Floats:
    return np.asarray(np.linalg.lstsq(design * weights[:, None], values * weights, rcond=None)[0])


def _spreads(grows_with: Sequence[Floats], residuals: Floats, kept: NDArray[np.bool_]) -> Floats:
    """Return the standard deviation expected of each difference: constant, and growing with level and rate."""
    design = np.column_stack([np.ones(len(residuals)), *grows_with])
    scales = np.maximum(design.max(axis=0), np.finfo(float).tiny)
    capped = np.minimum(residuals, 5 * np.median(residuals[kept]) + np.finfo(float).tiny)
    unit = max(float(np.max(capped)), np.finfo(float).tiny)
    from scipy.optimize import nnls

    coefficients, _ = nnls((design / scales)[kept], capped[kept] / unit)
    expected = design / scales @ coefficients * unit
    # The mean of the absolute value of a normal variable is sqrt(2/pi) of its standard deviation.
    return np.asarray(np.maximum(expected, 0.25 * unit * float(np.mean(capped[kept])) / unit) * math.sqrt(math.pi / 2))


def _influences(design: Floats, residuals: Floats, weights: Floats) -> Floats:
    """Return how each row moved the coefficients of weighted least squares.

    Their products are a covariance that holds whatever the spreads are (HC3, MacKinnon and White, 1985).
    """
    weighted = design * weights[:, None]
    inverse = np.linalg.pinv(weighted.T @ weighted)
    leverage = np.clip(np.einsum("ij,jk,ik->i", weighted, inverse, weighted), 0.0, 0.99)
    scores = weighted * (residuals * weights / (1 - leverage))[:, None]
    return np.asarray(scores @ inverse)
