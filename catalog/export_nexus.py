"""A run as an HDF5 file after the NeXus conventions: what NeXus readers open shows the scan at once.

``/entry`` (NXentry) holds an NXdata group for each stream with its units, axes and signals, the settings of each
device under ``instrument``, ``sample`` and ``user`` when known, people's notes, and the run's documents as JSON
under ``metadata``. The scan of a complete grid is there once more as a map, which is then what is plotted first.
"""

from __future__ import annotations

import json
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .encoding import as_json
from .notes import Annotations
from .recorded import Batch, RecordedRun, Stream, values_of
from .scan_shape import ScanShape, scan_shape

FRAMES_AT_A_TIME_BYTES = 16 * 2**20
CHUNK_ROWS = 1024


def write_nexus(recorded: RecordedRun, path: Path, *, file_name: str, run: Any, annotations: Annotations) -> None:
    """Write all streams of a run.

    Parameters
    ----------
    recorded : RecordedRun
        The run.
    path : Path
        The file; it is overwritten.
    file_name : str
        The name it will have in the end, which NeXus wants to be told.
    run : BlueskyRun or None
        The run's client, for images in files; they are copied a few frames at a time.
    annotations : Annotations
        Notes and tags.
    """
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs.update(NX_class="NXroot", default="entry", creator="ophyd-tandem", file_name=file_name)
        file.attrs["creator_version"] = version("ophyd-tandem")
        file.attrs["file_time"] = datetime.now().astimezone().isoformat()
        entry = _group(file, "entry", "NXentry")
        _describe(entry, recorded, annotations)
        for stream in recorded.streams.values():
            _create_stream(entry, recorded, stream, run)
        filled = dict.fromkeys(recorded.streams, 0)
        for batch in recorded.batches():
            _write_batch(entry[_group_name(batch.stream)], recorded.streams[batch.stream], batch, filled[batch.stream])
            filled[batch.stream] += len(batch.time)
        default = "primary" if "primary" in recorded.streams else next(iter(recorded.streams), "")
        if default:
            entry.attrs["default"] = _group_name(default)
            shape = scan_shape(recorded, default)
            if shape.grid is not None and _write_map(entry, recorded.streams[default], shape):
                entry.attrs["default"] = f"{_group_name(default)}_map"


RESERVED_NAMES = ("instrument", "metadata", "sample", "user")


def _group_name(stream: str) -> str:
    return f"stream_{stream}" if stream in RESERVED_NAMES else stream.replace("/", "_")


def _group(parent: Any, name: str, nexus_class: str) -> Any:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nexus_class
    return group


def _describe(entry: Any, recorded: RecordedRun, annotations: Annotations) -> None:
    start, stop = recorded.start, recorded.stop
    entry["title"] = f"scan {start.get('scan_id', '')} {start.get('plan_name', '')}".strip()
    entry["entry_identifier"] = recorded.uid
    entry["start_time"] = _iso(start["time"])
    entry["program_name"] = "ophyd-tandem"
    if stop:
        entry["end_time"] = _iso(stop["time"])
        entry["duration"] = float(stop["time"] - start["time"])
        entry["duration"].attrs["units"] = "s"
        entry["exit_status"] = str(stop.get("exit_status", ""))
    if operator := start.get("operator"):
        _group(entry, "user", "NXuser")["name"] = str(operator)
    if sample := start.get("sample"):
        group = _group(entry, "sample", "NXsample")
        if isinstance(sample, dict):
            group["name"] = str(sample.get("name", ""))
            group["description"] = json.dumps(as_json(sample))
        else:
            group["name"] = str(sample)
    if proposal := start.get("proposal"):
        entry["experiment_identifier"] = str(proposal)
    instrument = _group(entry, "instrument", "NXinstrument")
    for stream in recorded.streams.values():
        for device, settings in stream.configuration.items():
            if device not in instrument:
                _write_settings(_group(instrument, device, _class_of(device, start)), settings)
    for number, note in enumerate(annotations.notes, start=1):
        group = _group(entry, f"note_{number}", "NXnote")
        group["author"], group["date"], group["data"] = note.author, _iso(note.time), note.text
        group["type"] = "text/plain"
    metadata = _group(entry, "metadata", "NXcollection")
    metadata["start"] = json.dumps(as_json(start))
    metadata["stop"] = json.dumps(as_json(stop))
    metadata["descriptors"] = json.dumps(as_json(recorded.descriptors))
    metadata["tags"] = json.dumps(list(annotations.tags))


def _class_of(device: str, start: dict[str, Any]) -> str:
    if device in start.get("motors", ()):
        return "NXpositioner"
    return "NXdetector" if device in start.get("detectors", ()) else "NXcollection"


def _write_settings(group: Any, settings: dict[str, Any]) -> None:
    for key, value in settings.get("data", {}).items():
        value = np.asarray(value)
        if value.dtype.kind not in "biuf":
            value = json.dumps(as_json(settings["data"][key])) if value.ndim else str(value)
        group[key] = value
        if units := settings.get("data_keys", {}).get(key, {}).get("units"):
            group[key].attrs["units"] = str(units)


def _create_stream(entry: Any, recorded: RecordedRun, stream: Stream, run: Any) -> None:
    group = _group(entry, _group_name(stream.name), "NXdata")
    shape = scan_shape(recorded, stream.name)
    axes = [name for name in shape.axes if name in stream.columns and stream.columns[name].is_number]
    _say_what_to_plot(group, stream, [axes[0] if axes else "time", *axes[1:]], shape.signals)
    time = _dataset(group, "time", np.dtype(float), stream.rows, ())
    time.attrs.update(units="s", long_name="time since the beginning of the run", start=_iso(recorded.start["time"]))
    _dataset(group, "seq_num", np.dtype(np.int64), stream.rows, ())
    for name, column in stream.columns.items():
        if column.external:
            dataset = _copy_frames(group, column.export_name, run[stream.name][name])
        else:
            dataset = _dataset(group, column.export_name, column.dtype, stream.rows, column.shape)
        if column.units:
            dataset.attrs["units"] = column.units
        dataset.attrs["long_name"] = f"{name} ({column.units})" if column.units else name
        if dataset.ndim >= 3:
            dataset.attrs["interpretation"] = "image"
        elif dataset.ndim == 2:
            dataset.attrs["interpretation"] = "spectrum"


def _say_what_to_plot(group: Any, stream: Stream, axes: list[str], signals: list[str]) -> None:
    plotted = [name for name in signals if name not in axes]
    if plotted:
        group.attrs["signal"] = plotted[0]
        rank = max(1, 1 + len(stream.columns[plotted[0]].shape))
        group.attrs["axes"] = [axes[0], *["."] * (rank - 1)]
        # Only signals of the same rank may be shown along with the first.
        alike = [name for name in plotted[1:] if stream.columns[name].shape == stream.columns[plotted[0]].shape]
        if alike:
            group.attrs["auxiliary_signals"] = alike
    for axis in axes:
        group.attrs[f"{axis}_indices"] = 0


def _dataset(group: Any, name: str, dtype: np.dtype[Any], rows: int, shape: tuple[int, ...]) -> Any:
    import h5py

    whole = (rows, *shape)
    if not rows or 0 in whole:
        return group.create_dataset(name, whole, h5py.string_dtype() if dtype.kind == "O" else dtype)
    if dtype.kind == "O":
        return group.create_dataset(name, whole, h5py.string_dtype(), chunks=(min(rows, CHUNK_ROWS),))
    chunks = (1, *shape) if shape else (min(rows, CHUNK_ROWS),)
    fill = np.nan if dtype.kind in "fc" else None
    return group.create_dataset(name, whole, dtype, chunks=chunks, compression=4, shuffle=True, fillvalue=fill)


def _write_batch(group: Any, stream: Stream, batch: Batch, begin: int) -> None:
    rows = slice(begin, begin + len(batch.time))
    group["time"][rows] = np.asarray(batch.time) - datetime.fromisoformat(group["time"].attrs["start"]).timestamp()
    group["seq_num"][rows] = batch.seq_num
    for name, column in stream.columns.items():
        if not column.external:
            group[column.export_name][rows] = values_of(column, batch.data[name])


def _copy_frames(group: Any, name: str, client: Any) -> Any:
    """Copy images that lie in files, a few at a time."""
    dtype, shape = np.dtype(client.dtype), tuple(client.shape)
    dataset = _dataset(group, name, dtype, shape[0], shape[1:])
    step = max(1, FRAMES_AT_A_TIME_BYTES // max(1, dtype.itemsize * int(np.prod(shape[1:]))))
    for begin in range(0, shape[0], step):
        dataset[begin : begin + step] = np.asarray(client[begin : begin + step])
    return dataset


def _write_map(entry: Any, stream: Stream, shape: ScanShape) -> bool:
    """Add the scan of a complete grid as maps over its axes; return whether there was one."""
    signals = [name for name in shape.signals if stream.columns[name].is_number and name not in shape.axes]
    if not signals or shape.grid is None:
        return False
    source = entry[_group_name(stream.name)]
    order = shape.grid.order([source[name][:] for name in shape.axes])
    if order is None:
        return False
    group = _group(entry, f"{_group_name(stream.name)}_map", "NXdata")
    for dimension, (name, places) in enumerate(zip(shape.axes, order.positions, strict=True)):
        group[name] = places
        group.attrs[f"{name}_indices"] = dimension
        _copy_attributes(source[name], group[name])
    for name in signals:
        group[name] = source[name][:][order.rows].reshape(shape.grid.shape)
        _copy_attributes(source[name], group[name])
    group.attrs.update(signal=signals[0], axes=shape.axes)
    if signals[1:]:
        group.attrs["auxiliary_signals"] = signals[1:]
    return True


def _copy_attributes(source: Any, target: Any) -> None:
    for key in ("units", "long_name"):
        if key in source.attrs:
            target.attrs[key] = source.attrs[key]


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment).astimezone().isoformat()
