"""What of a run is plotted: lines over an axis, a map over two, or an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalog import CatalogError
from catalog.recorded import Column, RecordedRun, values_of
from catalog.scan_shape import scan_shape

MOST_LINES = 8


class NothingToPlot(CatalogError):
    """A run has not got what was to be plotted.

    Attributes
    ----------
    uid : str
        The run.
    stream : str
        The stream that was asked for.
    """

    def __init__(self, uid: str, stream: str, message: str) -> None:
        self.uid = uid
        self.stream = stream
        super().__init__(message)


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Columns over an axis."""

    title: str
    x_label: str
    x: NDArray[Any]
    y: dict[str, NDArray[Any]]
    """By label."""
    units: dict[str, str] = field(default_factory=dict)
    """Of those labels that have one."""

    @property
    def by_unit(self) -> dict[str, dict[str, NDArray[Any]]]:
        """What has the same unit, or none, together: it can share an axis."""
        groups: dict[str, dict[str, NDArray[Any]]] = {}
        for label, values in self.y.items():
            groups.setdefault(self.units.get(label, ""), {})[label] = values
        return groups


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Values over two axes: a map of a scan, or an image of a camera, whose axes are pixels."""

    title: str
    x_label: str
    y_label: str
    value_label: str
    extent: tuple[float, float, float, float]
    """Left, right, bottom and top edge."""
    values: NDArray[Any]
    """Rows from bottom to top for a map, from top to bottom for an image."""
    is_image: bool


def picture_of(
    recorded: RecordedRun,
    *,
    x: str | None = None,
    y: Sequence[str] = (),
    stream: str = "primary",
    frame: int = -1,
    run: Any = None,
) -> Lines | Picture:
    """Return what is plotted of a run.

    Parameters
    ----------
    recorded : RecordedRun
        The run.
    x : str, optional
        Column of the axis; what was scanned by default, and time when nothing was.
    y : sequence of str
        Columns to plot; what the devices recommend by default.
    stream : str
        The stream.
    frame : int
        Which image, from 0; negative ones count from the end.
    run : BlueskyRun, optional
        The run's client, for images that lie in files.

    Raises
    ------
    NothingToPlot
        There is no such stream, column or image.
    """
    if stream not in recorded.streams:
        known = ", ".join(recorded.streams) or "none"
        raise NothingToPlot(recorded.uid, stream, f"Run {recorded.uid[:8]} has no stream '{stream}'. It has: {known}.")
    columns = recorded.streams[stream].columns
    for name in (*y, *([x] if x else ())):
        if name not in columns and name not in ("time", "seq_num"):
            raise NothingToPlot(
                recorded.uid,
                stream,
                f"Stream '{stream}' of run {recorded.uid[:8]} has no column '{name}'. It has: {', '.join(columns)}.",
            )
    shape = scan_shape(recorded, stream)
    chosen = list(y) or shape.signals
    if chosen and columns[chosen[0]].is_array:
        return _image(recorded, stream, columns[chosen[0]], frame, run)
    signals = [name for name in chosen if columns[name].is_number][:MOST_LINES]
    if not signals or recorded.streams[stream].rows == 0:
        raise NothingToPlot(
            recorded.uid, stream, f"Stream '{stream}' of run {recorded.uid[:8]} has no numbers to plot."
        )
    axes = [name for name in shape.axes if columns[name].is_number]
    if x is None and shape.grid is not None and len(axes) == 2:
        data = columns_of(recorded, stream, [*axes, signals[0]])
        order = shape.grid.order([data[name] for name in axes])
        if order is not None:
            values = data[signals[0]][order.rows].reshape(shape.grid.shape)
            return Picture(
                title=title_of(recorded),
                x_label=label_of(columns[axes[1]]),
                y_label=label_of(columns[axes[0]]),
                value_label=label_of(columns[signals[0]]),
                extent=(*_edges(order.positions[1]), *_edges(order.positions[0])),
                values=values,
                is_image=False,
            )
    axis = x or (axes[0] if axes else "time")
    data = columns_of(recorded, stream, [axis, *signals])
    return Lines(
        title=title_of(recorded),
        x_label=label_of(columns[axis]) if axis in columns else "time (s)" if axis == "time" else axis,
        x=data[axis],
        y={label_of(columns[name]): data[name] for name in signals if name != axis},
        units={label_of(columns[name]): columns[name].units for name in signals if columns[name].units},
    )


def columns_of(recorded: RecordedRun, stream: str, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return columns of numbers; ``time`` in seconds since the run began."""
    columns = recorded.streams[stream].columns
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for batch in recorded.batches(stream):
        for name in parts:
            if name in columns:
                parts[name].append(_with_gaps(columns[name], batch.data[name]))
            elif name == "time":
                parts[name].append(np.asarray(batch.time) - recorded.start["time"])
            else:
                parts[name].append(np.asarray(batch.seq_num))
    return {name: np.concatenate(arrays) if arrays else np.empty(0) for name, arrays in parts.items()}


def title_of(recorded: RecordedRun) -> str:
    """Return what stands above a plot."""
    start = recorded.start
    parts = [f"scan {start['scan_id']}" if "scan_id" in start else recorded.uid[:8], start.get("plan_name", "")]
    return " ".join(part for part in (*parts, str(start.get("sample", ""))) if part)


def label_of(column: Column) -> str:
    """Return a column's name with its unit."""
    return f"{column.name} ({column.units})" if column.units else column.name


def _with_gaps(column: Column, values: list[Any]) -> NDArray[Any]:
    if column.missing and column.dtype.kind in "biu":
        return np.array([np.nan if value is None else float(value) for value in values])
    return values_of(column, values)


def _edges(positions: NDArray[Any]) -> tuple[float, float]:
    """Return the outer edges of pixels centred on positions."""
    first, last = float(positions[0]), float(positions[-1])
    half = (last - first) / (2 * (len(positions) - 1)) if len(positions) > 1 else 0.5
    return first - half, last + half


def _image(recorded: RecordedRun, stream: str, column: Column, frame: int, run: Any) -> Picture | Lines:
    """Return one image of a stack; only this one is read from files."""
    count = recorded.streams[stream].rows
    if column.external:
        if run is None or stream not in run:
            raise NothingToPlot(
                recorded.uid, stream, f"The images of '{column.name}' are not in the catalog yet: try again."
            )
        client = run[stream][column.name]
        count = client.shape[0]
    if not -count <= frame < count:
        raise NothingToPlot(
            recorded.uid, stream, f"Run {recorded.uid[:8]} has no image {frame} of '{column.name}': it has {count}."
        )
    number = frame % count
    values = np.asarray(client[number]) if column.external else _recorded_frame(recorded, stream, column, number)
    title = f"{title_of(recorded)}: {number + 1} of {count}"
    if values.ndim < 2:
        return Lines(title=title, x_label="index", x=np.arange(values.size), y={label_of(column): values.reshape(-1)})
    values = values.reshape(-1, *values.shape[-2:])[0]
    rows, length = values.shape
    return Picture(
        title=title,
        x_label="pixel",
        y_label="pixel",
        value_label=label_of(column),
        extent=(0, length, rows, 0),
        values=values,
        is_image=True,
    )


def _recorded_frame(recorded: RecordedRun, stream: str, column: Column, number: int) -> NDArray[Any]:
    seen = 0
    for batch in recorded.batches(stream, rows=100):
        if number < seen + len(batch.time):
            return values_of(column, [batch.data[column.name][number - seen]])[0]  # type: ignore[no-any-return]
        seen += len(batch.time)
    raise NothingToPlot(recorded.uid, stream, f"Run {recorded.uid[:8]} has no image {number} of '{column.name}'.")
