"""How a signal drifts: its slope with error, and the Allan deviation over averaging times."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plans.results import Result, Row, RunEvents
from plans.standard_errors import student_factor


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What a series of readings says about a signal's stability; in the signal's units, times in s."""

    mean: float
    mean_error: float
    """Standard error: right for white noise only."""
    standard_deviation: float
    slope: float
    """Of a straight line, in the signal's units per s."""
    slope_error: float
    allan_deviation: float
    """At the readings' own interval."""
    best_allan_deviation: float
    """The smallest one."""
    best_averaging_time: float
    """Where it is: averaging for longer gains nothing."""
    interval: float
    """Median time between two readings."""
    duration: float
    points: int
    """How many readings took part: those that are numbers."""
    gaps: int
    """How many times two readings were not an interval apart, by more than a quarter: late ones, and missed ones."""


@dataclass(frozen=True)
class AllanDeviation:
    """The overlapping Allan deviation at some averaging times, each of shape (times,)."""

    averaging_time_s: NDArray[np.float64]
    """Mean distance of the two stretches of a pair."""
    deviation: NDArray[np.float64]
    error: NDArray[np.float64]
    pairs: NDArray[np.int64]
    """How many pairs of stretches took part."""


UNEVEN = 0.25
"""By how much of an averaging time two stretches may be nearer or further than that, or be longer themselves."""


def allan_deviation(values: ArrayLike, interval_s: float, times_s: ArrayLike | None = None) -> AllanDeviation:
    """Return the overlapping Allan deviation at averaging times of 1, 2, 4, … intervals, to a third of the series.

    It is the root of half the mean square difference between averages of neighbouring stretches of 1, 2, 4, …
    readings. Where readings are late or missing, only pairs count whose stretches, and the distance between them, are
    as long as the averaging time within a quarter (`UNEVEN`); an averaging time that no pair has is left out. So white
    noise is right whatever is missing, and a drift is that of the distances there were.

    Parameters
    ----------
    values
        Readings in their order, shape (n,), all of them numbers.
    interval_s
        Usual time between two of them.
    times_s
        When each was taken, shape (n,); None when all are an interval apart.
    """
    y = np.asarray(values, dtype=float)
    t = np.arange(len(y)) * interval_s if times_s is None else np.asarray(times_s, dtype=float)
    total = np.concatenate(([0.0], np.cumsum(y - y.mean() if len(y) else y)))
    elapsed = np.concatenate(([0.0], np.cumsum(t - t[0] if len(t) else t)))
    known = len(y) >= 3 and interval_s > 0
    rows = []
    for length in [2**power for power in range(int(math.log2(len(y) // 3)) + 1)] if known else []:
        means, middles = ((sums[length:] - sums[:-length]) / length for sums in (total, elapsed))
        distances = middles[length:] - middles[:-length]
        spans = t[length - 1 :] - t[: len(t) - length + 1] + interval_s
        even = np.abs(spans / (length * interval_s) - 1) <= UNEVEN
        counts = even[length:] & even[:-length] & (np.abs(distances / (length * interval_s) - 1) <= UNEVEN)
        pairs = int(np.count_nonzero(counts))
        if not pairs:
            continue
        deviation = math.sqrt(float(np.mean((means[length:] - means[:-length])[counts] ** 2)) / 2)
        # As many independent pairs as stretches that do not overlap.
        independent = max(1.0, (len(y) // length - 1) * pairs / len(distances))
        rows.append((float(np.mean(distances[counts])), deviation, deviation / math.sqrt(2 * independent), pairs))
    times, deviations, errors, numbers = zip(*rows, strict=True) if rows else ((), (), (), ())
    return AllanDeviation(np.array(times), np.array(deviations), np.array(errors), np.array(numbers, dtype=np.int64))


def analyse_drift(times_s: ArrayLike, values: ArrayLike) -> tuple[Drift, AllanDeviation]:
    """Return slope, spread and Allan deviation of readings.

    Readings that are no numbers are left out, and those with time and value of the one before: read again, not
    measured again. What is left out is a gap.

    Parameters
    ----------
    times_s, values
        Shape (n,).

    Raises
    ------
    ValueError
        Fewer than three readings are numbers.
    """
    t, y = np.asarray(times_s, dtype=float), np.asarray(values, dtype=float)
    valid = np.isfinite(t) & np.isfinite(y)
    t, y = t[valid], y[valid]
    anew = np.concatenate(([True], (np.diff(t) != 0) | (np.diff(y) != 0)))[: len(y)]
    t, y = t[anew], y[anew]
    if len(y) < 3:
        raise ValueError(f"a drift needs at least 3 valid readings; there are {len(y)}")
    steps = np.diff(t)
    # One that there was: also between two kinds of intervals the median is one of them.
    interval = float(np.quantile(steps, 0.5, method="lower"))
    allan = allan_deviation(y, interval, t)
    slope, slope_error = _straight_line(t - t.mean(), y)
    deviations = allan.deviation if len(allan.deviation) else np.array([math.nan])
    best = int(np.argmin(deviations))
    deviation = float(np.std(y, ddof=1))
    drift = Drift(
        mean=float(np.mean(y)),
        mean_error=student_factor(len(y) - 1) * deviation / math.sqrt(len(y)),
        standard_deviation=deviation,
        slope=slope,
        slope_error=slope_error,
        allan_deviation=float(deviations[0]),
        best_allan_deviation=float(deviations[best]),
        best_averaging_time=float(allan.averaging_time_s[best]) if len(allan.averaging_time_s) else math.nan,
        interval=interval,
        duration=float(t[-1] - t[0]),
        points=len(y),
        gaps=int(np.count_nonzero(np.abs(steps - interval) > UNEVEN * interval)),
    )
    return drift, allan


def drift_results(events: RunEvents) -> list[Result]:
    """Return `result_drift` of a run, a row for each column of numbers, and `result_allan`, one for each time too."""
    results = []
    for column in events.number_columns():
        try:
            results.append((column, *analyse_drift(events.times(column), events.column(column))))
        except ValueError:
            continue
    if not results:
        return []
    units = _units({events.units(column) for column, *_ in results})
    drifts: list[Row] = [{"signal": column, **asdict(drift)} for column, drift, _ in results]
    return [Result("drift", drifts, units), Result("allan", _allan_rows(results), units | {"averaging_time": "s"})]


def _units(found: set[str]) -> dict[str, str]:
    # One data key has one unit: columns in different ones share none.
    up = found.pop() if len(found) == 1 else ""
    signal = ("mean", "standard_deviation", "allan_deviation", "best_allan_deviation", "deviation")
    units = dict.fromkeys(signal, up) | {"slope": f"{up}/s" if up else ""}
    return units | dict.fromkeys(("best_averaging_time", "interval", "duration"), "s")


def _allan_rows(results: list[tuple[str, Drift, AllanDeviation]]) -> list[dict[str, Any]]:
    return [
        {
            "signal": column,
            "averaging_time": float(time),
            "deviation": float(deviation),
            "deviation_error": float(error),
            "pairs": int(pairs),
        }
        for column, _, allan in results
        for time, deviation, error, pairs in zip(
            allan.averaging_time_s, allan.deviation, allan.error, allan.pairs, strict=True
        )
    ]


def _straight_line(t: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Return the slope and its standard error; `t` is centered."""
    spread = float(np.sum(t**2))
    if not spread:
        return math.nan, math.nan
    slope = float(np.sum(t * y)) / spread
    residuals = y - y.mean() - slope * t
    free = len(y) - 2
    return slope, student_factor(free) * math.sqrt(float(np.sum(residuals**2)) / max(1, free) / spread)
