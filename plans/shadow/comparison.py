"""Are two generations of an instrument the same measurement? Statistics of paired readings, and a verdict.

A pair is one reading of the twin between two of the original, a few milliseconds apart. The original is interpolated
to the time of the twin, so that a drifting or moving truth does not look like a difference, and its rate of change is
known, so that a delay can be told from an error.

What is fitted, robustly, is ``twin - original = offset + (slope - 1) * original - lag * rate``. The verdict weighs
three things against what the user tolerates: the systematic difference over the range that was measured, the lag, and
single readings that are off. Two kinds of error are bounded, each by :attr:`Tolerance.false_positive_rate`: that a
sound pair is called different, and that a pair is called equivalent whose systematic difference is as large as the
tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import nnls

Floats = NDArray[np.float64]

LIMITS_OF_AGREEMENT = 1.96
"""Standard deviations around the bias between which 95 % of normal differences lie (Bland and Altman, 1986)."""

MINIMUM_PAIRS = 12
"""Below this a spread is not known well enough for any of the tests."""

_OUTLIER_PASSES = 8
_OUTLIER_MARGIN = 1.4
_REWEIGHTINGS = 8
_VARIATION_OVER_NOISE = 5.0
_MOTION_OVER_NOISE = 3.0
_UNIT_RATIO_TOLERANCE = 0.15
_UNIT_SHARE = 0.9


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What counts as the same measurement.

    Attributes
    ----------
    relative
        Share of the largest magnitude that the original had in the comparison, as "of full scale" in data sheets.
    absolute
        In the unit of the signal, added to the relative part. With both 0 any significant difference counts.
    lag_s
        Delay in seconds that does not matter.
    outlier_rate
        Share of readings that are off which has to be excluded before a pair is called equivalent; decides how many
        pairs are needed.
    false_positive_rate
        Probability, at the most, of calling a sound pair different, and of calling a pair equivalent that differs by
        as much as is tolerated.
    """

    relative: float = 0.01
    absolute: float = 0.0
    lag_s: float = 0.02
    outlier_rate: float = 0.005
    false_positive_rate: float = 0.01

    def __post_init__(self) -> None:
        for name in ("relative", "absolute"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"the {name} tolerance must be a number of 0 or more, not {value}")
        if not (math.isfinite(self.lag_s) and self.lag_s > 0):
            raise ValueError(f"the tolerated lag must be a time above 0 s, not {self.lag_s}")
        for name in ("outlier_rate", "false_positive_rate"):
            if not 0 < getattr(self, name) < 0.5:
                raise ValueError(f"the {name.replace('_', ' ')} must be between 0 and 0.5, not {getattr(self, name)}")

    @property
    def pairs_for_outliers(self) -> int:
        """How many pairs without an outlier exclude that they come at :attr:`outlier_rate`."""
        return math.ceil(math.log(self.false_positive_rate) / math.log1p(-self.outlier_rate))

    def for_values(self, original: Floats) -> float:
        """Return the difference that is tolerated, in the unit of the signal."""
        return self.absolute + self.relative * float(np.max(np.abs(original), initial=0.0))

    def __str__(self) -> str:
        parts = [f"{100 * self.relative:g} %"] if self.relative else []
        parts += [f"{self.absolute:g}"] if self.absolute else []
        return f"{' + '.join(parts) or '0'}, lag {1000 * self.lag_s:g} ms"


@dataclass(frozen=True)
class Pairs:
    """Readings of one signal by both generations, in the order in which they were made; arrays of one length.

    `before` and `after` are the original's values (at `before_s` and `after_s`, seconds since the epoch), `twin` is
    the twin's (at `twin_s`). `events` says where each comes from, for the list of outliers.
    """

    before: Floats
    before_s: Floats
    twin: Floats
    twin_s: Floats
    after: Floats
    after_s: Floats
    events: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: Sequence[Sequence[float]], events: Sequence[str] = ()) -> Pairs:
        """Return pairs from rows of `before, before_s, twin, twin_s, after, after_s`."""
        table = np.asarray(rows, dtype=float).reshape(-1, 6)
        before, before_s, twin, twin_s, after, after_s = table.T
        return cls(before, before_s, twin, twin_s, after, after_s, tuple(events))

    def __len__(self) -> int:
        return len(self.twin)

    def finite(self) -> Pairs:
        """Return the pairs of which every number is one."""
        columns = [getattr(self, name) for name in _COLUMNS]
        keep = np.all(np.isfinite(columns), axis=0)
        events = tuple(event for event, kept in zip(self.events, keep, strict=True) if kept) if self.events else ()
        before, before_s, twin, twin_s, after, after_s = (column[keep] for column in columns)
        return Pairs(before, before_s, twin, twin_s, after, after_s, events)

    @property
    def original(self) -> Floats:
        """The original's value at the time of the twin's, interpolated between the two readings around it."""
        return self.before + np.clip(_share(self), 0.0, 1.0) * (self.after - self.before)

    @property
    def rate(self) -> Floats:
        """How fast the original was changing, in units a second."""
        span = self.after_s - self.before_s
        rate: Floats = np.divide(self.after - self.before, span, out=np.zeros(len(self)), where=span > 0)
        return rate


_COLUMNS = ("before", "before_s", "twin", "twin_s", "after", "after_s")

Verdict = Literal["equivalent", "different", "insufficient evidence"]


@dataclass(frozen=True)
class Outlier:
    """A reading of the twin that does not fit the others."""

    event: str
    original: float
    twin: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is known of one signal of a pair; errors are standard errors, `None` stands for what cannot be told.

    `bias`, `spread` (standard deviation of the differences without outliers) and `limits_of_agreement` are in the
    unit of the signal; `lag_s` is positive when the twin reports what the original reported earlier. `needed` is the
    number of pairs after which a verdict can be expected.
    """

    signal: str
    unit: str
    verdict: Verdict
    reasons: tuple[str, ...]
    n: int
    needed: int
    tolerance: Tolerance
    bias: float | None = None
    bias_error: float | None = None
    spread: float | None = None
    limits_of_agreement: tuple[float, float] | None = None
    slope: float | None = None
    slope_error: float | None = None
    correlation: float | None = None
    lag_s: float | None = None
    lag_error_s: float | None = None
    outliers: tuple[Outlier, ...] = ()
    discarded: int = 0

    def __str__(self) -> str:
        if self.verdict == "different":
            return f"different because {'; '.join(self.reasons)}"
        if self.verdict == "insufficient evidence":
            return f"insufficient evidence ({self.n} of {self.needed}): {'; '.join(self.reasons)}"
        return "equivalent"

    def as_json(self) -> dict[str, Any]:
        """Return everything as what JSON knows."""
        return asdict(self)


def compare(
    signal: str, pairs: Pairs, tolerance: Tolerance | None = None, *, unit: str = "", twin_unit: str | None = None
) -> Comparison:
    """Compare the readings of one signal by both generations and say whether they are the same measurement.

    Parameters
    ----------
    signal
        What to call it.
    pairs
        Readings of both; pairs with a value that is no number are left out and counted as `discarded`.
    tolerance
        What counts as the same.
    unit, twin_unit
        As the data keys of the two state them. Different ones are a reason by themselves.
    """
    tolerance = tolerance or Tolerance()
    usable = pairs.finite()
    findings = _Findings(signal=signal, unit=unit, tolerance=tolerance, discarded=len(pairs) - len(usable))
    if twin_unit is not None and twin_unit != unit:
        findings.reasons.append(f"the unit is {twin_unit or 'none'}, that of the original {unit or 'none'}")
    if len(usable) < MINIMUM_PAIRS:
        return findings.concluded(usable, None)
    fit = _fit(usable, tolerance)
    factor = _factor_of_another_unit(usable)
    if factor is None:
        return findings.concluded(usable, fit)
    # Everything else that would be said follows from that.
    findings.reasons.append(f"its values are {factor:g} times those of the original, as in another unit")
    return findings.comparison(usable, fit, MINIMUM_PAIRS, [])


@dataclass(frozen=True)
class _Fit:
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
        return max(int(self.kept.sum()) - 1 - self.varies - self.moves, 1)

    def error(self, index: int) -> float:
        return math.sqrt(max(float(self.covariance[index, index]), 0.0))

    def difference_at(self, values: Floats) -> tuple[Floats, Floats]:
        """Return the systematic difference at values of the original, and its standard errors."""
        design = np.column_stack([np.ones(len(values)), values - self.center])
        errors = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", design, self.covariance[:2, :2], design), 0.0))
        return design @ np.array([self.offset, self.gain]), errors


@dataclass
class _Findings:
    signal: str
    unit: str
    tolerance: Tolerance
    discarded: int
    reasons: list[str] = field(default_factory=list)

    def concluded(self, pairs: Pairs, fit: _Fit | None) -> Comparison:
        if fit is None:
            needed = max(MINIMUM_PAIRS, self.tolerance.pairs_for_outliers)
            return self.comparison(pairs, None, needed, ["too few readings to know their spread"])
        lacking: list[str] = []
        needed = self.tolerance.pairs_for_outliers
        quantile = float(stats.t.isf(self.tolerance.false_positive_rate / 2, fit.degrees_of_freedom))
        # The tests for a difference share the rate of false positives: two ends of the range, two signs of the lag.
        strict_quantile = float(stats.t.isf(self.tolerance.false_positive_rate / 8, fit.degrees_of_freedom))
        needed = max(needed, self._weigh_difference(pairs, fit, quantile, strict_quantile, lacking))
        if fit.moves:
            needed = max(needed, self._weigh_lag(pairs, fit, quantile, strict_quantile, lacking))
        outliers = np.flatnonzero(~fit.kept)
        if len(outliers):
            self.reasons.append(f"{len(outliers)} of {len(pairs)} readings are far off")
        if len(pairs) < self.tolerance.pairs_for_outliers:
            share = 1 / self.tolerance.outlier_rate
            lacking.append(f"a wrong reading in {share:.0f} could still have been missed")
        return self.comparison(pairs, fit, needed, lacking)

    def _weigh_difference(
        self, pairs: Pairs, fit: _Fit, quantile: float, strict_quantile: float, lacking: list[str]
    ) -> int:
        """Test the systematic difference at both ends of the measured range; return how many pairs that needs."""
        original = pairs.original[fit.kept]
        ends = np.array([original.min(), original.max()]) if fit.varies else np.array([fit.center])
        difference, errors = fit.difference_at(ends)
        tolerated = self.tolerance.for_values(original)
        beyond = np.abs(difference) - strict_quantile * errors > tolerated
        if beyond.any():
            self.reasons.append(self._described_difference(ends, difference, fit))
            return MINIMUM_PAIRS
        margin = tolerated - np.abs(difference)
        if np.all(quantile * errors < margin) or np.all((errors == 0) & (margin >= 0)):
            return MINIMUM_PAIRS
        if np.any(margin <= 0):
            lacking.append("the difference is as large as what is tolerated")
            return 4 * len(pairs)
        lacking.append("the difference is not known well enough")
        return math.ceil(len(pairs) * float(np.max(quantile * errors / margin)) ** 2)

    def _described_difference(self, ends: Floats, difference: Floats, fit: _Fit) -> str:
        unit = f" {self.unit}" if self.unit else ""
        worst = int(np.argmax(np.abs(difference)))
        at_zero = fit.offset - fit.gain * fit.center
        largest = float(np.max(np.abs(ends)))
        if fit.varies and abs(fit.gain) > 4 * fit.error(1):
            scale = f"its scale is {_with_error(1 + fit.gain, fit.error(1))} times that of the original"
            if abs(fit.gain) * largest > 4 * abs(at_zero):
                return scale
            return f"{scale} and it is offset by {at_zero:+.3g}{unit} at 0"
        return f"it is offset by {_with_error(difference[worst], fit.error(0), sign=True)}{unit}"

    def _weigh_lag(self, pairs: Pairs, fit: _Fit, quantile: float, strict_quantile: float, lacking: list[str]) -> int:
        lag, error = fit.lag, fit.error(2)
        if abs(lag) - strict_quantile * error > self.tolerance.lag_s:
            word = "behind" if lag > 0 else "ahead of"
            self.reasons.append(f"it is {_with_error(1000 * abs(lag), 1000 * error)} ms {word} the original")
            return MINIMUM_PAIRS
        # A lag that shifts values by less than is tolerated does not keep a pair from being equivalent.
        steepest = float(np.quantile(np.abs(pairs.rate[fit.kept]), 0.95))
        tolerated = self.tolerance.for_values(pairs.original[fit.kept])
        if (abs(lag) + quantile * error) * steepest <= tolerated:
            return MINIMUM_PAIRS
        margin = self.tolerance.lag_s - abs(lag)
        if quantile * error < margin:
            return MINIMUM_PAIRS
        lacking.append("the lag is not known well enough")
        return math.ceil(len(pairs) * (quantile * error / margin) ** 2) if margin > 0 else 4 * len(pairs)

    def comparison(self, pairs: Pairs, fit: _Fit | None, needed: int, lacking: list[str]) -> Comparison:
        verdict: Verdict = "different" if self.reasons else "insufficient evidence" if lacking else "equivalent"
        known: dict[str, Any] = {}
        if fit is not None:
            known = _described(pairs, fit)
        return Comparison(
            signal=self.signal,
            unit=self.unit,
            verdict=verdict,
            reasons=tuple(self.reasons or lacking),
            n=len(pairs),
            needed=max(needed, len(pairs) + 1) if verdict == "insufficient evidence" else needed,
            tolerance=self.tolerance,
            discarded=self.discarded,
            **known,
        )


def _described(pairs: Pairs, fit: _Fit) -> dict[str, Any]:
    original, twin = pairs.original[fit.kept], pairs.twin[fit.kept]
    difference = twin - original
    bias, spread = float(difference.mean()), float(difference.std(ddof=1))
    varies = original.std() > 0 and twin.std() > 0
    events = pairs.events or tuple(str(index + 1) for index in range(len(pairs)))
    return {
        "bias": bias,
        "bias_error": spread / math.sqrt(len(difference)),
        "spread": spread,
        "limits_of_agreement": (bias - LIMITS_OF_AGREEMENT * spread, bias + LIMITS_OF_AGREEMENT * spread),
        "slope": 1 + fit.gain if fit.varies else None,
        "slope_error": fit.error(1) if fit.varies else None,
        "correlation": float(np.corrcoef(original, twin)[0, 1]) if varies else None,
        "lag_s": fit.lag if fit.moves else None,
        "lag_error_s": fit.error(2) if fit.moves else None,
        "outliers": tuple(
            Outlier(events[index], float(pairs.original[index]), float(pairs.twin[index]))
            for index in np.flatnonzero(~fit.kept)
        ),
    }


def _factor_of_another_unit(pairs: Pairs) -> float | None:
    """Return the power of ten by which nearly all values of the twin differ, None when there is none."""
    original, twin = pairs.original, pairs.twin
    usable = (original != 0) & (twin != 0)
    if usable.sum() < 3:
        return None
    ratios = twin[usable] / original[usable]
    exponent = round(math.log10(abs(float(np.median(ratios)))))
    if exponent == 0:
        return None
    factor = math.copysign(10.0**exponent, float(np.median(ratios)))
    near = np.abs(ratios / factor - 1) < _UNIT_RATIO_TOLERANCE
    return factor if near.mean() >= _UNIT_SHARE else None


def _fit(pairs: Pairs, tolerance: Tolerance) -> _Fit:
    """Fit the difference, leaving out readings that are far off, with errors that allow for unequal spreads."""
    original, rate = pairs.original, pairs.rate
    difference = pairs.twin - original
    # Regressing on the original alone would take its noise for a scale error. The mean of both, weighted by how
    # noisy each is (the original is the mean of two readings), is not correlated with the noise of the difference.
    share = np.clip(_share(pairs), 0.0, 1.0)
    noise = (1 - share) ** 2 + share**2
    level = (noise * pairs.twin + original) / (1 + noise)
    center = float(np.median(level))
    least = float(max(_resolution(pairs), np.finfo(float).eps * np.max(np.abs(original), initial=0.0)))
    scatter = max(_robust_spread(difference - _trend(level, rate, difference)), least)
    varies = float(np.std(level)) > _VARIATION_OVER_NOISE * scatter
    noise_of_rate = math.sqrt(2.0) * scatter / max(float(np.median(pairs.after_s - pairs.before_s)), 1e-9)
    moves = float(np.std(rate)) > _MOTION_OVER_NOISE * noise_of_rate
    columns = [np.ones(len(pairs))] + ([level - center] if varies else []) + ([-rate] if moves else [])
    design = np.column_stack(columns)
    scales = np.abs(design).max(axis=0)
    design = design / scales
    limit = _OUTLIER_MARGIN * float(stats.norm.isf(tolerance.false_positive_rate / (4 * len(pairs))))
    matters = max(tolerance.for_values(original), 3 * least)
    coefficients = _median_regression(design, difference)
    kept = np.ones(len(pairs), dtype=bool)
    weights = np.ones(len(pairs))
    for _ in range(_OUTLIER_PASSES):
        residuals = difference - design @ coefficients
        spreads = np.maximum(_spreads(np.abs(original), np.abs(rate), np.abs(residuals), kept), least / 2)
        weights = 1 / spreads
        now_kept = (np.abs(residuals) <= limit * spreads) | (np.abs(residuals) <= matters)
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
    return _Fit(
        offset=float(full[0]),
        gain=float(full[1]) / stretch,
        lag=float(full[2]),
        covariance=full_covariance / np.outer([1, stretch, 1], [1, stretch, 1]),
        center=center_of_original,
        kept=kept,
        varies=varies,
        moves=moves,
    )


def _share(pairs: Pairs) -> Floats:
    span = pairs.after_s - pairs.before_s
    share: Floats = np.divide(pairs.twin_s - pairs.before_s, span, out=np.full(len(pairs), 0.5), where=span > 0)
    return share


def _resolution(pairs: Pairs) -> float:
    """Return the smallest step between values that were read: what rounding does to a difference."""
    steps = np.diff(np.unique(np.concatenate([pairs.before, pairs.twin, pairs.after])))
    steps = steps[steps > 0]
    # Unrounded values have steps of any size; only when most are multiples of one step is it a resolution.
    if not len(steps):
        return 0.0
    step = float(np.min(steps))
    multiples = steps / step
    return step if np.mean(np.abs(multiples - np.round(multiples)) < 0.01) > _UNIT_SHARE else 0.0


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


def _with_error(value: float, error: float, *, sign: bool = False) -> str:
    """Return a value and its error with as many digits as the error deserves: `1.020 ± 0.001`."""
    if not math.isfinite(error) or error <= 0:
        return f"{value:{'+' if sign else ''}.4g}"
    digits = max(0, -math.floor(math.log10(error)))
    if digits > 6:
        return f"{value:{'+' if sign else ''}.3g} ± {error:.1g}"
    return f"{value:{'+' if sign else ''}.{digits}f} ± {error:.{digits}f}"
