"""How steadily an axis was swept: velocity and timing from the positions that were sampled on the way."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from plans.standard_errors import student_factor


@dataclass(frozen=True, kw_only=True)
class SweepFit:
    """What a straight line through positions over time says; NaN where there were too few samples.

    Velocities in the axis's units per second, positive towards larger positions; times in s.
    """

    velocity: float
    """Achieved velocity."""
    velocity_error: float
    """Its standard error."""
    timing_error_s: float
    """Standard deviation of the samples from the line, as time: how far the axis was ahead or behind."""
    largest_timing_error_s: float
    """The largest such deviation."""
    sample_time_error_s: float
    """How far the times of the samples themselves may be wrong at the most: half of an exchange with the controller."""
    samples: int
    """How many positions within the range took part."""

    def as_row(self) -> dict[str, float]:
        """Return the numbers by the names they are stored under: without units."""
        return {name.removesuffix("_s"): value for name, value in asdict(self).items()}


def fit_sweep(
    time_s: ArrayLike, position: ArrayLike, start: float, end: float, time_error_s: ArrayLike = 0.0
) -> SweepFit:
    """Fit a constant velocity to the positions between start and end.

    Parameters
    ----------
    time_s : array of float, shape (n,)
        Times in s.
    position : array of float, shape (n,)
        Where the axis was, in its units.
    start, end
        Range of constant velocity; samples outside of it take no part.
    time_error_s : float or array of float, shape (n,)
        How far the times may be wrong. A sample whose time is known worse than that of most has less weight.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    times, positions = np.asarray(time_s, dtype=float), np.asarray(position, dtype=float)
    if times.shape != positions.shape or times.ndim != 1:
        raise ValueError(f"times and positions must be two equally long rows, not {times.shape} and {positions.shape}")
    errors = np.broadcast_to(np.asarray(time_error_s, dtype=float), times.shape)
    low, high = sorted((start, end))
    inside = np.isfinite(times) & np.isfinite(positions) & (positions >= low) & (positions <= high)
    times, positions, errors = times[inside], positions[inside], errors[inside]
    worst = float(np.max(errors)) if errors.size else math.nan
    if times.size < 3:
        nothing = dict.fromkeys(("velocity", "velocity_error", "timing_error_s", "largest_timing_error_s"), math.nan)
        return SweepFit(**nothing, sample_time_error_s=worst, samples=int(times.size))
    known = np.maximum(errors, np.median(errors))
    weights = (known.min() / known) ** 2 if known.min() > 0 else np.ones(times.shape)
    # Times since 1970 leave too few digits for sums of their squares.
    elapsed = times - times[0]
    elapsed -= np.average(elapsed, weights=weights)
    way = positions - np.average(positions, weights=weights)
    spread = float(np.sum(weights * elapsed**2))
    velocity = float(np.sum(weights * elapsed * way) / spread)
    residuals = way - velocity * elapsed
    deviation = math.sqrt(float(np.average(residuals**2, weights=weights)) * times.size / (times.size - 2))
    speed = abs(velocity) or math.nan
    return SweepFit(
        velocity=velocity,
        velocity_error=student_factor(times.size - 2) * deviation * math.sqrt(float(np.mean(weights)) / spread),
        timing_error_s=deviation / speed,
        largest_timing_error_s=float(np.max(np.abs(residuals))) / speed,
        sample_time_error_s=worst,
        samples=int(times.size),
    )
