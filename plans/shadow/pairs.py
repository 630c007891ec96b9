"""Readings of one signal by both generations, and what counts as the same measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LARGEST = 1e50
_COLUMNS = ("before", "before_s", "twin", "twin_s", "after", "after_s")


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
        """Return the pairs of which every number is one that an instrument may give."""
        columns = [getattr(self, name) for name in _COLUMNS]
        keep = np.all(np.abs(columns) < _LARGEST, axis=0)  # false for NaN, too
        events = tuple(event for event, kept in zip(self.events, keep, strict=True) if kept) if self.events else ()
        before, before_s, twin, twin_s, after, after_s = (column[keep] for column in columns)
        return Pairs(before, before_s, twin, twin_s, after, after_s, events)

    @property
    def original(self) -> Floats:
        """The original's value at the time of the twin's, interpolated between the two readings around it."""
        return self.before + self.share * (self.after - self.before)

    @property
    def rate(self) -> Floats:
        """How fast the original was changing, in units a second."""
        span = self.after_s - self.before_s
        rate: Floats = np.divide(self.after - self.before, span, out=np.zeros(len(self)), where=span > 0)
        return rate

    @property
    def share(self) -> Floats:
        """Where the twin's reading lies between the original's two: 0 at the first, 1 at the second."""
        span = self.after_s - self.before_s
        share: Floats = np.divide(self.twin_s - self.before_s, span, out=np.full(len(self), 0.5), where=span > 0)
        return np.clip(share, 0.0, 1.0)
