"""What of a run to plot against what: axes and signals as its hints tell, and the grid of a complete grid scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .recorded import RecordedRun


@dataclass(frozen=True)
class GridOrder:
    """How the points of a scan fill its grid.

    Attributes
    ----------
    rows : numpy.ndarray
        Number of the event at each place of the grid, in C order.
    positions : list of numpy.ndarray
        Mean position along each axis.
    """

    rows: np.ndarray[Any, Any]
    positions: list[np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Grid:
    """The grid of a scan.

    Attributes
    ----------
    shape : tuple of int
        Points along each axis, the slowest first.
    """

    shape: tuple[int, ...]

    def order(self, measured: list[np.ndarray[Any, Any]]) -> GridOrder | None:
        """Return which event is where, however the scan went to and fro; None when they fill no grid.

        Parameters
        ----------
        measured : list of numpy.ndarray
            Positions along each axis, one for each event.
        """
        count = int(np.prod(self.shape))
        if any(len(axis) != count or not np.isfinite(axis).all() for axis in measured):
            return None
        rows = np.arange(count)
        # Sorted by the slowest axis first, then within each of its lines by the next: readbacks scatter, so that
        # equal positions are told by their rank and not by their value.
        rows = _sorted_lines(rows, measured, self.shape)
        places = [axis[rows].reshape(self.shape) for axis in measured]
        positions = []
        for dimension, place in enumerate(places):
            others = tuple(each for each in range(len(self.shape)) if each != dimension)
            mean = place.mean(axis=others)
            steps = np.abs(np.diff(mean))
            scatter = np.abs(place - np.expand_dims(mean, others)).max()
            if len(mean) > 1 and scatter > steps.min() / 2:
                return None
            positions.append(mean)
        return GridOrder(rows, positions)


@dataclass(frozen=True)
class ScanShape:
    """What to plot of a stream.

    Attributes
    ----------
    axes : list of str
        Columns that were varied, the slowest first; empty when only time went by.
    signals : list of str
        Columns to look at, in the order in which the devices recommend them.
    grid : Grid or None
        For scans of two and more axes over a grid.
    """

    axes: list[str]
    signals: list[str]
    grid: Grid | None


def scan_shape(recorded: RecordedRun, stream: str = "primary") -> ScanShape:
    """Tell what of a stream to plot against what, as the plan's and the devices' hints have it."""
    columns = recorded.streams[stream].columns
    axes: list[str] = []
    for fields, of_stream in recorded.start.get("hints", {}).get("dimensions", ()):
        name = fields[0] if fields else "time"
        if of_stream == stream and name in columns:
            axes.append(name)
    hinted = [name for name in recorded.streams[stream].hinted if name not in axes]
    plottable = [name for name, column in columns.items() if column.is_number or column.is_array]
    signals = [name for name in hinted if name in plottable] or [name for name in plottable if name not in axes]
    shape = tuple(int(length) for length in recorded.start.get("shape", ()))
    is_grid = len(axes) > 1 and len(shape) == len(axes) and recorded.streams[stream].rows == np.prod(shape)
    return ScanShape(axes, signals, Grid(shape) if is_grid else None)


def _sorted_lines(
    rows: np.ndarray[Any, Any], measured: list[np.ndarray[Any, Any]], shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    ordered = rows[np.argsort(measured[0][rows], kind="stable")]
    if len(shape) == 1:
        return ordered
    lines = ordered.reshape(shape[0], -1)
    return np.concatenate([_sorted_lines(line, measured[1:], shape[1:]) for line in lines])
