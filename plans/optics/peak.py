"""A Gaussian on a constant: where it is, how wide, and how high."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from plans.optics.harmonics import valid_rows

_PARAMETERS = ("centre", "sigma", "height", "background")


@dataclass(frozen=True, kw_only=True)
class PeakFit:
    """What `background + height * exp(-(x - centre)**2 / (2 * sigma**2))` says, with standard errors."""

    centre: float
    centre_error: float
    sigma: float
    """Standard deviation; the full width at half maximum is 2.355 times as large."""
    sigma_error: float
    height: float
    """Above the background; negative for a dip."""
    height_error: float
    background: float
    background_error: float
    r_squared: float
    """Share of the variance that is explained; 1 is a perfect fit."""
    points: int
    """How many readings took part."""

    def value(self, position: ArrayLike) -> Any:
        """Return the fitted signal."""
        return gaussian(position, self.centre, self.sigma, self.height, self.background)

    def as_dict(self) -> dict[str, float]:
        """Return the numbers by name."""
        return asdict(self)


def gaussian(position: ArrayLike, centre: float, sigma: float, height: float, background: float = 0.0) -> Any:
    """Return a Gaussian on a constant."""
    return background + height * np.exp(-((np.asarray(position) - centre) ** 2) / (2 * sigma**2))


def fit_peak(position: ArrayLike, signal: ArrayLike, *, background: bool = True) -> PeakFit:
    """Fit a Gaussian, with or without a constant below it; readings that are no numbers are left out.

    Parameters
    ----------
    position, signal : array of float, shape (n,)
        What was read where.
    background
        Whether there is a constant; without, it is zero.

    Raises
    ------
    ValueError
        The shapes differ, or there are not more readings than parameters.
    """
    import lmfit  # takes a second to import, and a scan need not wait for it

    positions, values = valid_rows(position, signal)
    parameters = 4 if background else 3
    if len(values) <= parameters:
        raise ValueError(f"a peak of {parameters} parameters needs more valid readings; there are {len(values)}")
    # The optimizer's step sizes are made for numbers of the order of one.
    scale = float(np.max(np.abs(values))) or 1.0
    middle, span = float(np.mean(positions)), float(np.ptp(positions)) or 1.0
    x, y = (positions - middle) / span, values / scale
    level = float(np.median(y)) if background else 0.0
    highest = int(np.argmax(np.abs(y - level)))
    height = float(y[highest] - level)
    above = np.abs(y - level) > abs(height) / 2
    width = max(float(np.sum(above)) / len(x) / 2.355, 0.5 / len(x))
    model = lmfit.Model(gaussian, independent_vars=["position"])
    start = model.make_params(
        centre={"value": float(x[highest]), "min": -1.5, "max": 1.5},
        sigma={"value": width, "min": 0.05 / len(x), "max": 10},
        height=height,
        background={"value": level, "vary": background},
    )
    result = model.fit(y, start, position=x)
    best = result.params
    scales = {"centre": span, "sigma": span, "height": scale, "background": scale}
    numbers: dict[str, float] = {}
    for name in _PARAMETERS:
        error = best[name].stderr
        numbers[name] = float(best[name].value) * scales[name] + (middle if name == "centre" else 0.0)
        numbers[f"{name}_error"] = math.nan if error is None else float(error) * scales[name]
    return PeakFit(**numbers, r_squared=float(result.rsquared), points=len(values))
