"""Readings of one signal by both generations, and what counts as the same measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Timed = tuple[Floats, Floats]
"""Values and their times in s."""

_LARGEST = 1e50
_SHARE_OF_MULTIPLES = 0.9
_NOISE_ALONE = 7.0


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

    def is_more_often(self, twin: int, original: int) -> bool:
        """Return whether the twin does something that the original may do as well too often for that to be chance.

        What the original never did is a fault of the twin; otherwise each of the two is as likely (sign test).
        """
        if not (twin and original):
            return twin > 0
        return chance_of_so_many(twin, twin + original) <= self.false_positive_rate

    def for_pairs(self, pairs: Pairs) -> float:
        """Return the difference that is tolerated, in the unit of the signal."""
        return self.absolute + self.relative * pairs.full_scale

    @classmethod
    def parse(cls, text: str, **others: Any) -> Tolerance:
        """Return the tolerance that a text such as `1%`, `0.002` or `1% + 0.002` states.

        Raises
        ------
        ValueError
            The text says something else.
        """
        relative = absolute = 0.0
        for part in text.split("+"):
            number, percent = part.strip().removesuffix("%"), part.strip().endswith("%")
            try:
                value = float(number)
            except ValueError:
                raise ValueError(
                    f"{text!r} is no tolerance: write a share such as 1%, a value such as 0.002 in the unit of the "
                    "signal, or both as 1%+0.002"
                ) from None
            relative, absolute = (relative + value / 100, absolute) if percent else (relative, absolute + value)
        return cls(relative=relative, absolute=absolute, **others)

    def __str__(self) -> str:
        parts = [f"{100 * self.relative:g} %"] if self.relative else []
        parts += [f"{self.absolute:g}"] if self.absolute else []
        return f"{' + '.join(parts) or '0'}, lag {1000 * self.lag_s:g} ms"


@dataclass(frozen=True)
class Pairs:
    """What both generations say of one signal, row by row; arrays of one length.

    A row is four readings in turn: original, twin, original, twin, or the twin first. Each generation is interpolated
    to the time of a reading of the other, once each way, and the mean of both is compared: a truth that changes evenly
    is no difference at all, one that begins or ceases to change in between hardly any.

    Attributes
    ----------
    original, twin
        What to compare, in the unit of the signal.
    rate
        How fast the truth was changing, in units a second.
    slack
        How much of a difference the change between the readings may explain, at most.
    noise_ratio
        Variance of `original` over that of `twin` when single readings of both are equally noisy.
    noise_of_rate
        Standard deviation of `rate` for readings with a standard deviation of 1.
    unsteady_original, unsteady_twin
        Whether the four readings come much closer to a straight line without one of this generation than without one of
        the other: what is far off then is a reading of this one.
    resolution
        The step that readings are rounded to; 0 when there is none.
    events
        Where each row comes from, for the list of outliers.
    twin_missing, original_missing
        Rows left out because a value of this one is no number, while both values of the other are.
    discarded
        All rows left out.
    """

    original: Floats
    twin: Floats
    rate: Floats
    slack: Floats
    noise_ratio: Floats
    noise_of_rate: Floats
    unsteady_original: NDArray[np.bool_]
    unsteady_twin: NDArray[np.bool_]
    resolution: float
    events: tuple[str, ...] = ()
    twin_missing: int = 0
    original_missing: int = 0
    discarded: int = 0

    @classmethod
    def of(cls, rows: Sequence[Sequence[float]], events: Sequence[str] = ()) -> Pairs:
        """Return pairs from rows of a value and its time (s), four times: original, twin, original and twin again.

        Rows with a value that is no number, or none that an instrument may give, are left out.
        """
        table = np.asarray(rows, dtype=float).reshape(-1, 8)
        is_number = np.abs(table) < _LARGEST  # false for NaN, too
        keep = np.all(is_number, axis=1)
        has_original, has_twin = np.all(is_number[:, [0, 4]], axis=1), np.all(is_number[:, [2, 6]], axis=1)
        kept_events = tuple(event for event, kept in zip(events, keep, strict=True) if kept) if events else ()
        kept_table = table[keep]
        # Half of the rows are measured the other way round: what a motion that has just begun does to one half, it
        # does to the other with the opposite sign.
        twin_first = kept_table[:, 3] < kept_table[:, 1]
        ordered = np.where(twin_first[:, None], kept_table[:, [2, 3, 0, 1, 6, 7, 4, 5]], kept_table)
        one, one_s, other, other_s, one_again, one_again_s, other_again, other_again_s = ordered.T
        early, late = _place(other_s, one_s, one_again_s), _place(one_again_s, other_s, other_again_s)
        spans = np.maximum(one_again_s - one_s, 0), np.maximum(other_again_s - other_s, 0)
        leading = (one + early * (one_again - one) + one_again) / 2
        following = (other + other + late * (other_again - other)) / 2
        variances = ((1 - early) ** 2 + (1 + early) ** 2) / 4, ((2 - late) ** 2 + late**2) / 4
        ratio = variances[0] / variances[1]
        original, twin = np.where(twin_first, following, leading), np.where(twin_first, leading, following)
        in_turn = (one, one_s), (other, other_s), (one_again, one_again_s), (other_again, other_again_s)
        bends = [_bend(*in_turn[:place], *in_turn[place + 1 :]) for place in range(4)]
        without_one, without_other = np.minimum(bends[0], bends[2]), np.minimum(bends[1], bends[3])
        without_original = np.where(twin_first, without_other, without_one)
        without_twin = np.where(twin_first, without_one, without_other)
        steps = np.abs(kept_table[:, 4] - kept_table[:, 0]), np.abs(kept_table[:, 6] - kept_table[:, 2])
        return cls(
            original=original,
            twin=twin,
            rate=_common_rate(_over(one_again - one, spans[0]), _over(other_again - other, spans[1])),
            slack=_slack(one, other, one_again, other_again),
            noise_ratio=np.where(twin_first, 1 / ratio, ratio),
            noise_of_rate=np.sqrt((_over(1.0, spans[0]) ** 2 + _over(1.0, spans[1]) ** 2) / 2),
            unsteady_original=without_original < without_twin / 2,
            unsteady_twin=without_twin < without_original / 2,
            resolution=_resolution(kept_table[:, ::2], np.concatenate(steps)),
            events=kept_events,
            twin_missing=int(np.sum(has_original & ~has_twin)),
            original_missing=int(np.sum(has_twin & ~has_original)),
            discarded=len(table) - int(keep.sum()),
        )

    def __len__(self) -> int:
        return len(self.twin)

    @property
    def full_scale(self) -> float:
        """The largest magnitude that was measured, without what noise adds to it."""
        if not len(self):
            return 0.0
        magnitude, difference = np.abs(self.original), self.twin - self.original
        noise = float(np.median(np.abs(difference - np.median(difference))))
        if np.std(self.original) <= _NOISE_ALONE * noise:
            return float(np.median(magnitude))
        return float(np.quantile(magnitude, 0.98))


def chance_of_so_many(number: int, cases: int, probability: float = 0.5) -> float:
    """Return the probability of at least so many of the cases, 1 when there is none (sign test)."""
    from scipy.special import bdtrc  # takes a while to import, and most sessions compare nothing

    return float(bdtrc(number - 1, cases, probability)) if number > 0 else 1.0


def _place(time: Floats, begin: Floats, end: Floats) -> Floats:
    """Return where a time lies between two others: 0 at the first, 1 at the second."""
    place: Floats = np.divide(time - begin, end - begin, out=np.full(len(time), 0.5), where=end > begin)
    return np.clip(place, 0.0, 1.0)


def _common_rate(one: Floats, other: Floats) -> Floats:
    """Return the mean of the rates that both saw, but no more than twice what either saw: 0 for opposite signs.

    A truth that changes does so for both; a single wild reading would otherwise look like a fast change, and what it is
    off by like a lag (limited as in van Leer, 1977).
    """
    least = np.minimum(np.abs(one + other) / 2, 2 * np.minimum(np.abs(one), np.abs(other)))
    return np.where(one * other > 0, np.sign(one) * least, 0.0)


def _slack(first: Floats, second: Floats, third: Floats, fourth: Floats) -> Floats:
    """Return what a truth that changes once may add to the difference of four readings in turn.

    A reading outside of those before and after it is no such change, so that this does not excuse it.
    """
    change = np.maximum(np.abs(third - first), np.abs(fourth - second)) / 2
    outside = np.maximum(_outside(second, first, third), _outside(third, second, fourth))
    return np.maximum(change - outside, 0.0)


def _bend(one: Timed, other: Timed, last: Timed) -> Floats:
    """Return how far the middle one of three readings is off the line through the others."""
    bend: Floats = np.abs(other[0] - one[0] - _place(other[1], one[1], last[1]) * (last[0] - one[0]))
    return bend


def _outside(value: Floats, one: Floats, other: Floats) -> Floats:
    return np.maximum(np.maximum(np.minimum(one, other) - value, value - np.maximum(one, other)), 0.0)


def _over(value: Floats | float, span: Floats) -> Floats:
    quotient: Floats = np.divide(value, span, out=np.zeros(len(span)), where=span > 1e-9)
    return quotient


def _resolution(values: Floats, within_rows: Floats) -> float:
    """Return the smallest step between values that were read, which rounding may add to a difference; else 0.

    Settings such as 700, 710, 720 nm look like that, too. What is rounded is now and then one step off within a row.
    """
    steps = np.diff(np.unique(values))
    steps = steps[steps > 0]
    if not len(steps):
        return 0.0
    # Unrounded values have steps of any size; only when most are multiples of one step is it a resolution.
    step = float(np.min(steps))
    multiples = steps / step if step > 1e-12 * float(np.max(steps)) else np.full(len(steps), 0.5)
    if np.mean(np.abs(multiples - np.round(multiples)) < 0.01) <= _SHARE_OF_MULTIPLES:
        return 0.0
    return step if np.any((within_rows > 0) & (within_rows < 1.5 * step)) else 0.0
