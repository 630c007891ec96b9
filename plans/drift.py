"""How a signal drifts: its slope with error, and the Allan deviation over averaging times."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plans.results import Result, Row, RunEvents


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What a series of readings says about a signal's stability; in the signal's units, times in s."""

    mean: float
    mean_error: float
    """Standard deviation over the root of the number of readings: right for white noise only."""
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


@dataclass(frozen=True)
class AllanDeviation:
    """The overlapping Allan deviation at some averaging times."""

    averaging_time_s: NDArray[np.float64]
    deviation: NDArray[np.float64]
    error: NDArray[np.float64]


def allan_deviation(values: ArrayLike, interval_s: float) -> AllanDeviation:
    """Return the overlapping Allan deviation at averaging times of 1, 2, 4, … intervals, to a third of the series.

    It is the root of half the mean square difference between averages of neighbouring stretches.

    Parameters
    ----------
    values
        Equally spaced readings, shape (n,), all of them numbers.
    interval_s
        Time between two of them.
    """
    y = np.asarray(values, dtype=float)
    total = np.concatenate(([0.0], np.cumsum(y - y.mean() if len(y) else y)))
    lengths = [2**power for power in range(int(math.log2(max(1, len(y) // 3))) + 1)] if len(y) >= 3 else []
    deviations, errors = [], []
    for length in lengths:
        means = (total[length:] - total[:-length]) / length
        differences = means[length:] - means[:-length]
        deviation = math.sqrt(float(np.mean(differences**2)) / 2)
        deviations.append(deviation)
        # As many independent pairs as stretches that do not overlap.
        errors.append(deviation / math.sqrt(2 * max(1, len(y) // length - 1)))
    return AllanDeviation(np.array(lengths, dtype=float) * interval_s, np.array(deviations), np.array(errors))


def analyse_drift(times_s: ArrayLike, values: ArrayLike) -> tuple[Drift, AllanDeviation]:
    """Return slope, spread and Allan deviation of readings.

    Readings that are no numbers are left out.

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
    if len(y) < 3:
        raise ValueError(f"a drift needs at least 3 valid readings; there are {len(y)}")
    interval = float(np.median(np.diff(t)))
    allan = allan_deviation(y, interval)
    slope, slope_error = _straight_line(t - t.mean(), y)
    best = int(np.argmin(allan.deviation))
    deviation = float(np.std(y, ddof=1))
    drift = Drift(
        mean=float(np.mean(y)),
        mean_error=deviation / math.sqrt(len(y)),
        standard_deviation=deviation,
        slope=slope,
        slope_error=slope_error,
        allan_deviation=float(allan.deviation[0]),
        best_allan_deviation=float(allan.deviation[best]),
        best_averaging_time=float(allan.averaging_time_s[best]),
        interval=interval,
        duration=float(t[-1] - t[0]),
        points=len(y),
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
        }
        for column, _, allan in results
        for time, deviation, error in zip(allan.averaging_time_s, allan.deviation, allan.error, strict=True)
    ]


def _straight_line(t: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Return the slope and its standard error; `t` is centered."""
    spread = float(np.sum(t**2))
    if not spread:
        return math.nan, math.nan
    slope = float(np.sum(t * y)) / spread
    residuals = y - y.mean() - slope * t
    return slope, math.sqrt(float(np.sum(residuals**2)) / max(1, len(y) - 2) / spread)
