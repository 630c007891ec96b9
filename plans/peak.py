"""Where a peak is, how wide and how high: lmfit's models over a constant background, with bluesky's statistics."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plans.results import Result, RunEvents, rows_of
from plans.standard_errors import student_factor

PeakModel = Literal["gaussian", "lorentzian"]
FWHM_OF_SIGMA = 2 * math.sqrt(2 * math.log(2))
"""Full width at half maximum of a Gaussian, in its standard deviations."""

MIN_POINTS = 5
"""Center, width, height and background are four parameters; their errors need one point more."""

_PARAMETERS = 4


@dataclass(frozen=True, kw_only=True)
class Peak:
    """A peak, or a dip, in one signal over one mover; positions in the mover's units, heights in the signal's.

    Errors are standard errors of the fit, NaN when the points leave them undetermined.
    """

    center: float
    center_error: float
    fwhm: float
    """Full width at half maximum."""
    fwhm_error: float
    height: float
    """Above the background; negative for a dip."""
    height_error: float
    background: float
    background_error: float
    r_squared: float
    """Share of the variance that the model explains."""
    maximum: float
    """Largest reading (smallest, for a dip)."""
    maximum_at: float
    """Where it was."""
    centroid: float
    """Center of mass above the smallest reading."""
    half_maximum_center: float
    """Middle between the points of half maximum; NaN when there are none."""
    points: int
    """How many readings took part: those that are numbers."""
    degrees_of_freedom: int
    """How many more they are than fitted parameters."""

    def row(self, mover: str) -> dict[str, Any]:
        """Return the peak as a row of `result_peak`."""
        return {"mover": mover, **asdict(self)}

    def gaussian_row(self) -> dict[str, Any]:
        """Return a Gaussian by its `centre`, `sigma`, `height` and `background`, with standard errors."""
        return {
            "centre": self.center,
            "centre_error": self.center_error,
            "sigma": self.fwhm / FWHM_OF_SIGMA,
            "sigma_error": self.fwhm_error / FWHM_OF_SIGMA,
            "height": self.height,
            "height_error": self.height_error,
            "background": self.background,
            "background_error": self.background_error,
            "r_squared": self.r_squared,
            "points": self.points,
            "degrees_of_freedom": self.degrees_of_freedom,
        }


def fit_peak(
    position: ArrayLike,
    signal: ArrayLike,
    model: PeakModel = "gaussian",
    *,
    dip: bool = False,
    background: bool = True,
) -> Peak:
    """Fit a peak over a constant background.

    Readings that are no numbers are left out.

    Parameters
    ----------
    position, signal
        Shape (n,), in any order.
    model
        `gaussian` or `lorentzian`.
    dip
        Look for a dip instead.
    background
        Whether there is a constant; without, it is zero.

    Raises
    ------
    ValueError
        The shapes differ, or fewer than five readings are numbers, or all have one value.
    """
    x, y = np.asarray(position, dtype=float), np.asarray(signal, dtype=float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"positions and readings must be two equally long rows, not {x.shape} and {y.shape}")
    valid = np.isfinite(x) & np.isfinite(y)
    x, y = x[valid], y[valid]
    order = np.argsort(x, kind="stable")
    x, y = x[order], -y[order] if dip else y[order]
    span, step = float(np.ptp(y)) if len(y) else 0.0, float(np.ptp(x)) if len(x) else 0.0
    if len(x) < MIN_POINTS or not span or not step:
        raise ValueError(
            f"a peak needs at least {MIN_POINTS} valid readings that differ, at different positions; there are {len(x)}"
        )
    # Far from zero, or with steps far from one, the optimizer's own steps would be too coarse or too fine.
    middle = float(x[0] + x[-1]) / 2
    level, scale = (float(y.min()), span) if background else (0.0, float(np.max(np.abs(y))))
    best, r_squared = _fitted((x - middle) / step, (y - level) / scale, model, background=background)
    sign = -1.0 if dip else 1.0
    statistics = _statistics(x, y)
    top = int(np.argmax(y))
    return Peak(
        center=middle + best["center"][0] * step,
        center_error=best["center"][1] * step,
        fwhm=best["fwhm"][0] * step,
        fwhm_error=best["fwhm"][1] * step,
        height=sign * best["height"][0] * scale,
        height_error=best["height"][1] * scale,
        background=sign * (best["c"][0] * scale + level),
        background_error=best["c"][1] * scale,
        r_squared=r_squared,
        maximum=sign * float(y[top]),
        maximum_at=float(x[top]),
        centroid=statistics["com"],
        half_maximum_center=statistics["cen"],
        points=len(x),
        degrees_of_freedom=_degrees_of_freedom(len(x), background),
    )


def peak_results(events: RunEvents, mover: str, signals: list[str], model: PeakModel, *, dip: bool = False) -> Result:
    """Return `result_peak` of a run: a row for each signal in which a peak could be fitted.

    Raises
    ------
    ValueError
        There is none in any of them.
    """
    positions = events.column(mover)
    rows = rows_of(signals, lambda name: fit_peak(positions, events.column(name), model, dip=dip).row(mover))
    along, up = events.units(mover), events.units(signals[0])
    places = ("center", "fwhm", "maximum_at", "centroid", "half_maximum_center")
    units = dict.fromkeys(places, along) | dict.fromkeys(("height", "background", "maximum"), up)
    return Result("peak", rows, units)


def peak_curve(peak: Peak, position: ArrayLike, model: PeakModel = "gaussian") -> NDArray[np.float64]:
    """Return what the fitted model says at positions."""
    offset = (np.asarray(position, dtype=float) - peak.center) / peak.fwhm
    shape = np.exp(-4 * math.log(2) * offset**2) if model == "gaussian" else 1 / (1 + 4 * offset**2)
    return np.asarray(peak.background + peak.height * shape)


def peak_models() -> tuple[str, ...]:
    """Return the names of the models."""
    return get_args(PeakModel)


def _fitted(
    x: NDArray[np.float64], y: NDArray[np.float64], model: PeakModel, *, background: bool
) -> tuple[dict[str, tuple[float, float]], float]:
    """Fit readings of the order of one; return values with errors by parameter, and r²."""
    from lmfit import models  # takes a second to import, and a scan need not wait for it

    shape = (models.GaussianModel if model == "gaussian" else models.LorentzianModel)()
    parameters = shape.guess(y, x=x)
    spacing = float(np.min(np.diff(np.unique(x))))
    # Over no background a flank tells where the top is, also when that lies outside of the scan.
    beyond = 0.0 if background else 1.0
    parameters["center"].set(min=float(x[0]) - beyond, max=float(x[-1]) + beyond)
    parameters["sigma"].set(min=spacing / 10, max=4.0)
    composite = shape + models.ConstantModel()
    parameters.add("c", value=float(np.median(y)) if background else 0.0, vary=background)
    result = composite.fit(y, parameters, x=x)
    factor = student_factor(_degrees_of_freedom(len(x), background))
    best = {
        name: (float(result.params[name].value), factor * _error(result.params[name].stderr))
        for name in ("center", "fwhm", "height", "c")
    }
    if not background:
        best["c"] = (0.0, 0.0)
    return best, float(result.rsquared)


def _degrees_of_freedom(points: int, background: bool) -> int:
    return points - (_PARAMETERS if background else _PARAMETERS - 1)


def _statistics(x: NDArray[np.float64], y: NDArray[np.float64]) -> dict[str, float]:
    """Return what bluesky's PeakStats says, the background being the smallest reading."""
    from bluesky.callbacks.fitting import PeakStats

    stats = PeakStats("x", "y")
    for position, reading in zip(x, y - y.min(), strict=True):
        stats.event({"data": {"x": position, "y": reading}})
    stats.compute()
    return {name: _error(getattr(stats, name)) for name in ("com", "cen")}


def _error(value: Any) -> float:
    return math.nan if value is None else float(value)
