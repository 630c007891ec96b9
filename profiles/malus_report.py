"""A polarizer scan as the catalog tells it: fits of Malus's law, difference between the meters, and the picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plans import MalusFit, fit_malus

if TYPE_CHECKING:
    from bluesky_tiled_plugins import BlueskyRun


@dataclass(frozen=True, kw_only=True)
class MalusReport:
    """What one run in the catalog says; positions in degrees, powers in watt."""

    uid: str
    scan_id: int
    streams: list[str]
    position_deg: NDArray[np.float64]
    power_w: Mapping[str, NDArray[np.float64]]
    """Readings by meter."""
    fits: Mapping[str, MalusFit]
    duration_s: float

    @property
    def points(self) -> int:
        """How many events the run has."""
        return len(self.position_deg)

    @property
    def fit(self) -> MalusFit:
        """The fit to the first meter's readings."""
        return next(iter(self.fits.values()))

    @property
    def max_difference_w(self) -> float:
        """Largest difference between any two meters at one point; NaN when there is only one meter."""
        differences = [np.nanmax(np.abs(a - b)) for a, b in combinations(self.power_w.values(), 2)]
        return float(max(differences)) if differences else math.nan

    def as_json(self) -> dict[str, Any]:
        """Return the numbers a script wants, as JSON has them: what is no number is null."""
        fits = {meter: _finite(fit.as_dict()) for meter, fit in self.fits.items()}
        return {
            "run_uid": self.uid,
            "scan_id": self.scan_id,
            "points": self.points,
            "streams": self.streams,
            "fit": fits[next(iter(fits))],
            "fits": fits,
            **_finite({"contrast": self.fit.contrast, "max_generation_difference_w": self.max_difference_w}),
            "scan_duration_s": round(self.duration_s, 3),
        }


def read_report(run: BlueskyRun, meters: Sequence[str], rotator: str) -> MalusReport:
    """Ask the catalog for a run's data and fit Malus's law to each meter's readings.

    Parameters
    ----------
    run
        A run in the catalog.
    meters
        Ids of the power meters; their column is `<id>_power`.
    rotator
        Id of the rotator, which is also its column.

    Raises
    ------
    KeyError
        The run has no such columns.
    ValueError
        Too few readings are numbers.
    """
    start, stop = run.metadata["start"], run.metadata["stop"]
    data = run["primary"].read()
    position = np.asarray(data[rotator], dtype=float)
    power = {meter: np.asarray(data[f"{meter}_power"], dtype=float) for meter in meters}
    return MalusReport(
        uid=start["uid"],
        scan_id=start["scan_id"],
        streams=list(run),
        position_deg=position,
        power_w=power,
        fits={meter: fit_malus(position, values) for meter, values in power.items()},
        duration_s=stop["time"] - start["time"],
    )


def draw(report: MalusReport, path: Path) -> None:
    """Draw readings, fit and the difference between the meters into a PNG file; folders are made as needed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    fine = np.linspace(report.position_deg.min(), report.position_deg.max(), 721)
    upper.plot(fine, report.fit.power(fine) * 1e3, color="0.5", label="Malus's law")
    for marker, (meter, power) in zip("o+x^s", report.power_w.items(), strict=False):
        upper.plot(report.position_deg, power * 1e3, marker, fillstyle="none", label=meter)
        lower.plot(report.position_deg, (power - report.fit.power(report.position_deg)) * 1e6, marker, fillstyle="none")
    upper.axvline(report.fit.angle_deg, color="0.5", linestyle=":")
    upper.set_title(
        f"scan {report.scan_id}: largest power at {report.fit.angle_deg:.2f} deg, contrast {report.fit.contrast:.0f}"
    )
    upper.set_ylabel("power (mW)")
    upper.legend()
    lower.set_ylabel("reading - fit (µW)")
    lower.set_xlabel("rotator position (deg)")
    lower.axhline(0, color="0.5")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}
