"""Are two generations of an instrument the same measurement? Statistics of paired readings, and a verdict.

A pair is one reading of the twin between two of the original, a few milliseconds apart. The original is interpolated
to the time of the twin, so that a drifting or moving truth does not look like a difference, and its rate of change is
known, so that a delay can be told from an error.

What is fitted, robustly, is ``twin - original = offset + (slope - 1) * original - lag * rate``. The verdict weighs
four things against what the user tolerates: the systematic difference over the range that was measured, differences in
part of it that are no straight line, the lag, and single readings that are off or missing. Two kinds of error are
bounded, each by :attr:`Tolerance.false_positive_rate`: that a sound pair is called different, by all of the tests
together, and that a pair is called equivalent whose systematic difference is as large as the tolerance. Neither assumes
normal noise. What the original does as often itself, such as a wild reading now and then, is no fault of the twin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from plans.shadow.fit import Fit, fit_difference
from plans.shadow.groups import worst_group
from plans.shadow.pairs import Floats, Pairs, Tolerance, chance_of_so_many

LIMITS_OF_AGREEMENT = 1.96
"""Standard deviations around the bias between which 95 % of normal differences lie (Bland and Altman, 1986)."""

MINIMUM_PAIRS = 12
"""Below this a spread is not known well enough for any of the tests."""

SHARES = {"difference": 0.2, "groups": 0.2, "lag": 0.15, "more often": 0.15, "gross": 0.15, "missing": 0.15}
"""How the tests share the rate of false positives (Bonferroni)."""

SUSPICIOUS = 0.25
"""A chance below this is worth to go on measuring."""

FEWEST_COMPARED = 10
MOST_IN_BOTH = 1 / 3
"""Share of what heavy tails throw far off, at the most, that is both readings of a row (Student's t: 0.1)."""

_WITHOUT_ORIGINAL = 200.0
_UNIT_RATIO_TOLERANCE = 0.15
_UNIT_SHARE = 0.9


Verdict = Literal["equivalent", "different", "insufficient evidence"]


_LARGEST_NUMBER = 10**9


@dataclass(frozen=True)
class Outlier:
    """A row that does not fit the others; `of_original` when it is the original whose two readings do not agree."""

    event: str
    original: float | str
    twin: float | str
    of_original: bool = False


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is known of one signal of a pair; errors are standard errors, `None` stands for what cannot be told.

    `bias`, `spread` (standard deviation of the differences without outliers) and `limits_of_agreement` are in the
    unit of the signal; `lag_s` is positive when the twin reports what the original reported earlier. `needed` is the
    number of pairs after which a verdict can be expected. Of the `discarded` rows, `twin_missing` lack a value of the
    twin only, and `original_missing` one of the original only.
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
    twin_missing: int = 0
    original_missing: int = 0

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
    signal: str,
    pairs: Pairs,
    tolerance: Tolerance | None = None,
    *,
    unit: str = "",
    twin_unit: str | None = None,
    among: int = 1,
) -> Comparison:
    """Compare the readings of one signal by both generations and say whether they are the same measurement.

    Parameters
    ----------
    signal
        What to call it.
    pairs
        Readings of both.
    tolerance
        What counts as the same.
    unit, twin_unit
        As the data keys of the two state them. Different ones are a reason by themselves.
    among
        How many signals are compared together: they share the rate of false positives.
    """
    tolerance = tolerance or Tolerance()
    findings = _Findings(signal=signal, unit=unit, tolerance=tolerance, among=among)
    if twin_unit is not None and twin_unit != unit:
        findings.reasons.append(f"the unit is {twin_unit or 'none'}, that of the original {unit or 'none'}")
    if _is_more_often(pairs.twin_missing, pairs.original_missing, findings.share("missing")):
        rows = len(pairs) + pairs.discarded
        findings.reasons.append(f"it has no number in {pairs.twin_missing} of {rows} rows where the original has one")
    if len(pairs) < MINIMUM_PAIRS:
        needed = max(MINIMUM_PAIRS, tolerance.pairs_for_outliers)
        return findings.comparison(pairs, None, needed, ["too few readings to know their spread"])
    if not pairs.original.any() and not pairs.twin.any():
        needed = len(pairs) + tolerance.pairs_for_outliers
        return findings.comparison(pairs, None, needed, ["it was 0 all the time, which says nothing of its scale"])
    fit = fit_difference(pairs, tolerance, findings.share("gross"))
    factor = _factor_of_another_unit(pairs, tolerance.for_pairs(pairs))
    if factor is None:
        return findings.concluded(pairs, fit)
    # Everything else that would be said follows from that.
    as_in = "another unit" if factor > 0 else "another sense" if factor == -1 else "another unit and sense"
    findings.reasons.append(f"its values are {factor:g} times those of the original, as in {as_in}")
    return findings.comparison(pairs, fit, MINIMUM_PAIRS, [])


def compare_texts(
    signal: str,
    before: Sequence[str],
    twin: Sequence[str],
    after: Sequence[str],
    tolerance: Tolerance | None = None,
    events: Sequence[str] = (),
) -> Comparison:
    """Compare a signal whose values are words: every one has to be the same.

    Rows in which the original changed between its two readings, or in which a value is empty, say nothing and are
    counted as `discarded`.
    """
    tolerance = tolerance or Tolerance()
    names = events or [str(index + 1) for index in range(len(twin))]
    steady = [
        (name, was, said)
        for name, was, said, then in zip(names, before, twin, after, strict=True)
        if was and was == then
    ]
    rows = [row for row in steady if row[2]]
    missing = len(steady) - len(rows)
    others = tuple(Outlier(name, was, said) for name, was, said in rows if was != said)
    needed = tolerance.pairs_for_outliers
    if others or missing:
        verdict: Verdict = "different"
        reasons: tuple[str, ...] = ()
        if others:
            first = others[0]
            reasons = (
                f"{len(others)} of {len(rows)} values are others, such as {first.twin!r} for {first.original!r}",
            )
        if missing:
            reasons += (f"it has no value in {missing} of {len(steady)} rows where the original has one",)
    elif len(rows) < needed:
        verdict, reasons = "insufficient evidence", (_could_be_missed(tolerance),)
    else:
        verdict, reasons = "equivalent", ()
    return Comparison(
        signal=signal,
        unit="",
        verdict=verdict,
        reasons=reasons,
        n=len(rows),
        needed=needed,
        tolerance=tolerance,
        outliers=others,
        discarded=len(twin) - len(rows),
        twin_missing=missing,
    )


def _could_be_missed(tolerance: Tolerance) -> str:
    return f"a wrong reading in {1 / tolerance.outlier_rate:.0f} could still have been missed"


@dataclass
class _Findings:
    signal: str
    unit: str
    tolerance: Tolerance
    among: int = 1
    reasons: list[str] = field(default_factory=list)

    def share(self, test: str) -> float:
        """Return the rate of false positives that a test may have, so that all together keep to the one stated."""
        return self.tolerance.false_positive_rate * SHARES[test] / self.among

    def concluded(self, pairs: Pairs, fit: Fit) -> Comparison:
        lacking: list[str] = []
        needed = self._weigh_difference(pairs, fit, lacking)
        if fit.moves:
            needed = max(needed, self._weigh_lag(pairs, fit, lacking))
        if self._differs_in_part(pairs, fit):
            return self.comparison(pairs, fit, needed, [])
        needed = max(needed, self.tolerance.pairs_for_outliers, self._weigh_outliers(pairs, fit, lacking))
        if len(pairs) < self.tolerance.pairs_for_outliers:
            lacking.append(_could_be_missed(self.tolerance))
        return self.comparison(pairs, fit, needed, lacking)

    def _weigh_outliers(self, pairs: Pairs, fit: Fit, lacking: list[str]) -> int:
        """Count readings that are far off; those of the original say how many of the twin are no fault."""
        of_original = ~fit.kept & pairs.unsteady_original
        of_twin = ~fit.kept & ~of_original
        if not of_twin.any():
            return MINIMUM_PAIRS
        counted = f"{of_twin.sum()} of {len(pairs)} readings are far off"
        counted += f" (of the original {of_original.sum()})" if of_original.any() else ""
        if self._are_beyond_noise(pairs, fit):
            self.reasons.append(counted)
        elif _chance_of_far_off(pairs, fit) <= SUSPICIOUS:
            lacking.append(f"{counted}, which may be chance")
            return 2 * len(pairs)
        return MINIMUM_PAIRS

    def _are_beyond_noise(self, pairs: Pairs, fit: Fit) -> bool:
        """Return whether readings of the twin are too far off, or too often, for the noise of both to be the reason."""
        gross_of_original = int(np.sum(fit.gross & pairs.unsteady_original))
        gross_of_twin = int(np.sum(fit.gross)) - gross_of_original
        if _is_more_often(gross_of_twin, gross_of_original, self.share("gross")):
            return True
        return _chance_of_far_off(pairs, fit) <= self.share("more often")

    def _differs_in_part(self, pairs: Pairs, fit: Fit) -> bool:
        """Look for differences in part of the range, or for part of the time, as where a twin is clipped or stuck."""
        difference = pairs.twin - pairs.original + fit.lag * pairs.rate
        if self.reasons:  # the straight line is one already: look beside it
            difference = difference - fit.difference_at(pairs.original)[0]
        off = worst_group(pairs, fit, difference, self.tolerance.for_pairs(pairs), self.share("groups"))
        if off is None:
            return False
        unit = f" {self.unit}" if self.unit else ""
        beside = "and beside that" if self.reasons else "it is"
        why = "" if self.reasons else ", which neither scale nor offset explains"
        self.reasons.append(f"{beside} off by {off.difference:+.3g}{unit} {off.where}{why}")
        return True

    def _weigh_difference(self, pairs: Pairs, fit: Fit, lacking: list[str]) -> int:
        """Test the systematic difference at both ends of the measured range; return how many pairs that needs."""
        original = pairs.original[fit.kept]
        ends = np.array([original.min(), original.max()]) if fit.varies else np.array([fit.center])
        difference, errors = fit.difference_at(ends)
        tolerated = self.tolerance.for_pairs(pairs)
        # Two ends of the range, each of two signs.
        beyond = np.abs(difference) - fit.quantiles(self.share("difference") / 4, ends) * errors > tolerated
        if beyond.any():
            self.reasons.append(self._described_difference(pairs, ends, difference, fit))
            return MINIMUM_PAIRS
        margin = tolerated - np.abs(difference)
        uncertain = fit.quantiles(self.tolerance.false_positive_rate / 2, ends) * errors
        if np.all(uncertain < margin) or np.all((errors == 0) & (margin >= 0)):
            return MINIMUM_PAIRS
        if not self.tolerance.absolute and np.max(np.abs(ends)) < fit.spread(pairs):
            lacking.append("its values are hardly more than noise: state what is tolerated in their unit")
        elif np.any(margin <= 0):
            lacking.append("the difference is as large as what is tolerated")
        else:
            lacking.append("the difference is not known well enough")
        if np.any(margin <= 0):
            return _count(4 * len(pairs), max(1.0, _over(float(np.max(uncertain)), tolerated)))
        return _count(len(pairs), float(np.max(uncertain / margin)))

    def _described_difference(self, pairs: Pairs, ends: Floats, difference: Floats, fit: Fit) -> str:
        unit = f" {self.unit}" if self.unit else ""
        worst = int(np.argmax(np.abs(difference)))
        at_zero = fit.offset - fit.gain * fit.center
        largest = float(np.max(np.abs(ends)))
        if fit.varies and abs(fit.gain) > 4 * fit.error(1):
            if abs(fit.gain) > _WITHOUT_ORIGINAL:
                return (
                    f"it changed by up to {np.ptp(pairs.twin[fit.kept]):.3g}{unit} while the original stayed the same"
                )
            if abs(1 + fit.gain) <= 4 * fit.error(1):
                return f"it does not follow the original: its scale is {_with_error(abs(1 + fit.gain), fit.error(1))}"
            scale = f"its scale is {_with_error(1 + fit.gain, fit.error(1))} times that of the original"
            if abs(fit.gain) * largest > 4 * abs(at_zero):
                return scale
            return f"{scale} and it is offset by {at_zero:+.3g}{unit} at 0"
        return f"it is offset by {_with_error(difference[worst], fit.error(0), sign=True)}{unit}"

    def _weigh_lag(self, pairs: Pairs, fit: Fit, lacking: list[str]) -> int:
        lag, error = fit.lag, fit.error(2)
        if abs(lag) - fit.quantile_of_lag(self.share("lag") / 2) * error > self.tolerance.lag_s:
            word = "behind" if lag > 0 else "ahead of"
            self.reasons.append(f"it is {_with_error(1000 * abs(lag), 1000 * error)} ms {word} the original")
            return MINIMUM_PAIRS
        # A lag that shifts values by less than is tolerated does not keep a pair from being equivalent.
        steepest = float(np.quantile(np.abs(pairs.rate[fit.kept]), 0.95))
        tolerated = self.tolerance.for_pairs(pairs)
        uncertain = fit.quantile_of_lag(self.tolerance.false_positive_rate / 2) * error
        if (abs(lag) + uncertain) * steepest <= tolerated:
            return MINIMUM_PAIRS
        margin = self.tolerance.lag_s - abs(lag)
        if uncertain < margin:
            return MINIMUM_PAIRS
        lacking.append("the lag is not known well enough")
        return _count(len(pairs), uncertain / margin) if margin > 0 else 4 * len(pairs)

    def comparison(self, pairs: Pairs, fit: Fit | None, needed: int, lacking: list[str]) -> Comparison:
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
            discarded=pairs.discarded,
            twin_missing=pairs.twin_missing,
            original_missing=pairs.original_missing,
            **known,
        )


def _described(pairs: Pairs, fit: Fit) -> dict[str, Any]:
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
            Outlier(
                events[index],
                float(pairs.original[index]),
                float(pairs.twin[index]),
                bool(pairs.unsteady_original[index]),
            )
            for index in np.flatnonzero(~fit.kept)
        ),
    }


def _is_more_often(twin: int, original: int, chance: float) -> bool:
    """Return whether a twin does what the original never does, or too often for that to be chance."""
    return twin > 0 and (original == 0 or chance_of_so_many(twin, twin + original) <= chance)


def _chance_of_far_off(pairs: Pairs, fit: Fit) -> float:
    """Return how probable it is that so much of what is farthest off is of the twin, if both have the same noise.

    Noise with heavy tails, whatever it is, throws readings of both far off alike, and seldom both readings that one of
    them has in a row. Looked at are those that are farthest off, ten and twice as many and so on, and all.
    """
    single = pairs.unsteady_original | pairs.unsteady_twin
    far = np.flatnonzero(~fit.kept & single)
    of_twin = pairs.unsteady_twin[far[np.argsort(-fit.farness[far])]]
    counts = [len(of_twin)]
    while (more := FEWEST_COMPARED * 2 ** (len(counts) - 1)) < len(of_twin):
        counts.append(more)
    chances = [chance_of_so_many(int(np.sum(of_twin[:count])), count) for count in counts]
    both = int(np.sum(~fit.kept & ~single))
    chances.append(chance_of_so_many(both, both + len(far), MOST_IN_BOTH))
    return min(1.0, min(chances) * len(chances))


def _over(value: float, divisor: float) -> float:
    return value / divisor if divisor > 0 else math.inf


def _count(pairs: int, ratio: float) -> int:
    """Return how many pairs make errors smaller by a ratio."""
    return math.ceil(min(pairs * min(ratio, 1e9) ** 2, _LARGEST_NUMBER))


def _factor_of_another_unit(pairs: Pairs, tolerated: float) -> float | None:
    """Return the power of ten and sign by which nearly all values of the twin differ, None when it matters not."""
    original, twin = pairs.original, pairs.twin
    if float(np.median(np.abs(twin - original))) <= tolerated:
        return None
    # Offsets and noise matter least for the larger values.
    large = (original != 0) & (twin != 0) & (np.abs(original) >= np.median(np.abs(original)))
    if large.sum() < 3:
        return None
    ratios = twin[large] / original[large]
    exponent = round(math.log10(abs(float(np.median(ratios)))))
    factor = math.copysign(10.0**exponent, float(np.median(ratios)))
    if factor == 1:
        return None
    near = np.abs(ratios / factor - 1) < _UNIT_RATIO_TOLERANCE
    return factor if near.mean() >= _UNIT_SHARE else None


def _with_error(value: float, error: float, *, sign: bool = False) -> str:
    """Return a value and its error with as many digits as the error deserves: `1.020 ± 0.001`."""
    if not math.isfinite(error) or error <= 0:
        return f"{value:{'+' if sign else ''}.4g}"
    digits = max(0, -math.floor(math.log10(error)))
    if digits > 6:
        return f"{value:{'+' if sign else ''}.3g} ± {error:.1g}"
    return f"{value:{'+' if sign else ''}.{digits}f} ± {error:.{digits}f}"
