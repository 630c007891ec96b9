"""Differences in part of the range or for part of the time: what a straight line through all readings does not show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plans.shadow.fit import Fit
from plans.shadow.pairs import Floats, Pairs, chance_of_so_many

FEWEST_ROWS = 16
MOST_GROUPS = 8
_WIDTH_OVER_NOISE = 6.0
"""Groups narrower than that would sort rows by their noise instead of by the truth."""


@dataclass(frozen=True)
class OffGroup:
    """Rows that differ by more than is tolerated: the median of their differences, and which rows they are."""

    difference: float
    where: str


def worst_group(pairs: Pairs, fit: Fit, difference: Floats, tolerated: float, chance: float) -> OffGroup | None:
    """Return the group of rows whose difference is most surely more than is tolerated, None when that may be chance.

    Of noise of any kind that both generations have alike, no more than half of the differences are beyond the true
    one to either side, so that a sign test in each group needs no other assumption. `chance` is shared by all groups.
    """
    groups = [*_by_level(pairs, fit), *_by_order(len(pairs), pairs.events)]
    found: list[tuple[float, OffGroup]] = []
    for rows, where in groups:
        for sign in (1, -1):
            beyond = int(np.sum(sign * difference[rows] - pairs.slack[rows] > tolerated))
            of_group = chance_of_so_many(beyond, int(rows.sum()))
            if of_group <= chance / (2 * len(groups)):
                found.append((of_group, OffGroup(float(np.median(difference[rows])), where)))
    return min(found, key=lambda each: each[0])[1] if found else None


def _by_level(pairs: Pairs, fit: Fit) -> Iterator[tuple[NDArray[np.bool_], str]]:
    """Yield groups of equal width, joined where there are few rows; one group where nothing varied."""
    level = (pairs.noise_ratio * pairs.twin + pairs.original) / (1 + pairs.noise_ratio)
    lowest, highest = float(np.min(level[fit.kept])), float(np.max(level[fit.kept]))
    count = int(min(MOST_GROUPS, (highest - lowest) / (_WIDTH_OVER_NOISE * fit.scatter))) if fit.scatter > 0 else 0
    if not fit.varies or count < 2:
        return
    place = np.clip(((level - lowest) / (highest - lowest) * count).astype(int), 0, count - 1)
    rows = np.zeros(len(level), dtype=bool)
    for group in range(count):
        rows = rows | (place == group)
        if rows.sum() >= FEWEST_ROWS:
            low, high = np.quantile(pairs.original[rows], [0.05, 0.95])
            yield rows, f"where the original reads {low:.3g} to {high:.3g}"
            rows = np.zeros(len(level), dtype=bool)


def _by_order(n: int, events: tuple[str, ...]) -> Iterator[tuple[NDArray[np.bool_], str]]:
    """Yield groups of rows that were measured one after the other."""
    names = events or tuple(str(index + 1) for index in range(n))
    for part in np.array_split(np.arange(n), max(1, min(MOST_GROUPS, n // FEWEST_ROWS))):
        rows = np.zeros(n, dtype=bool)
        rows[part] = True
        yield rows, f"from {names[part[0]]} to {names[part[-1]]}"
