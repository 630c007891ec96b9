"""`tandem runs compare`: in what two runs differ."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from catalog.encoding import as_json
from catalog.recorded import RecordedRun, recorded_run
from profiles.console import fits_to, json_text, say, say_fitted
from profiles.runs import cut, find_run, open_runs
from profiles.runs_picture import Lines, NothingToPlot, columns_of, picture_of
from profiles.runs_plot import check_picture_file, figure_of, save

if TYPE_CHECKING:
    from catalog.run_catalog import RunCatalog

ALWAYS_DIFFERENT = ("uid", "time", "scan_id")
STATISTICS = ("points", "mean", "deviation", "smallest", "largest")


def compare_runs(
    data_dir: str | os.PathLike[str],
    first: str | int,
    second: str | int,
    *,
    stream: str = "primary",
    output: Path | None = None,
    json_output: bool = False,
    catalog: RunCatalog | None = None,
    console: Console | None = None,
) -> int:
    """Tell in what two runs differ; return the exit code.

    Parameters
    ----------
    data_dir
        The data directory.
    first, second
        Scan number, beginning of a uid, or -1 for the latest.
    stream
        The stream whose columns are compared.
    output
        Also draw both over each other into this new PNG, PDF or SVG file.
    json_output
        Print one JSON object instead of the tables.
    catalog
        The catalog, when it is open already.
    console
        Where to print.

    Raises
    ------
    UnknownRun
        No run, or more than one, is meant.
    NothingToPlot, ExportError
        They cannot be drawn over each other, or not there.
    """
    console = console or Console()
    if output is not None:
        check_picture_file(output)
    runs = catalog if catalog is not None else open_runs(data_dir)
    found = [find_run(runs, which) for which in (first, second)]
    both = [recorded_run(data_dir, run.metadata["start"]["uid"], run) for run in found]
    metadata = metadata_differences(both[0], both[1], stream)
    columns = [statistics_of(recorded, stream) for recorded in both]
    if output is not None:
        save(figure_of(*(_lines(recorded, stream) for recorded in both)), output)
    if json_output:
        print(json_text({"runs": [each.uid for each in both], "metadata": metadata, "columns": columns}))
        return 0
    names = [f"{each.start.get('scan_id', '')} ({each.uid[:8]})" for each in both]
    if metadata:
        table = Table()
        for label in ("metadata", *names):
            table.add_column(label, overflow="fold")
        for key, values in metadata.items():
            table.add_row(Text(key), *(Text("" if value is None else cut(str(value), 60)) for value in values))
        say_fitted(console, table)
    else:
        say(console, "Their metadata are the same.")
    narrow = fits_to(console)
    labels = [str(each.start.get("scan_id", each.uid[:8])) for each in both] if narrow else names
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False) if narrow else Table()
    table.add_column("column", overflow="fold")
    for label in ("run", *STATISTICS):
        table.add_column(label, no_wrap=True)
    for name in dict.fromkeys((*columns[0], *columns[1])):
        for run_name, amounts in zip(labels, columns, strict=True):
            told = amounts.get(name)
            cells = [f"{told[key]:.6g}" if told[key] is not None else "" for key in STATISTICS] if told else ["-"]
            table.add_row(Text(name), run_name, *cells)
    say_fitted(console, table)
    if output is not None:
        say(console, f"Drawn: {output}")
    return 0


def metadata_differences(first: RecordedRun, second: RecordedRun, stream: str = "primary") -> dict[str, list[Any]]:
    """Return what differs in metadata, settings of devices, units and outcome: both values by name of the entry."""
    flat = [_flat(as_json(_described(recorded, stream))) for recorded in (first, second)]
    keys = dict.fromkeys((*flat[0], *flat[1]))
    return {key: [each.get(key) for each in flat] for key in keys if flat[0].get(key) != flat[1].get(key)}


def statistics_of(recorded: RecordedRun, stream: str = "primary") -> dict[str, dict[str, float | None]]:
    """Return points, mean, standard deviation and range of each column of numbers."""
    if stream not in recorded.streams:
        return {}
    names = [name for name, column in recorded.streams[stream].columns.items() if column.is_number]
    found: dict[str, dict[str, float | None]] = {}
    for name, values in columns_of(recorded, stream, names).items():
        finite = np.asarray(values, float)
        finite = finite[np.isfinite(finite)]
        numbers: dict[str, float] = {"points": float(finite.size)}
        if finite.size:
            numbers |= {"mean": finite.mean(), "smallest": finite.min(), "largest": finite.max()}
        if finite.size > 1:
            numbers["deviation"] = finite.std(ddof=1)
        found[name] = {key: _number(numbers.get(key, math.nan)) for key in STATISTICS}
    return found


def _described(recorded: RecordedRun, stream: str) -> dict[str, Any]:
    described = {key: value for key, value in recorded.start.items() if key not in ALWAYS_DIFFERENT}
    described["ended"] = {key: recorded.stop.get(key) for key in ("exit_status", "reason")}
    if stream in recorded.streams:
        here = recorded.streams[stream]
        described["events"] = here.rows
        described["settings"] = {device: each.get("data", {}) for device, each in here.configuration.items()}
        described["units"] = {name: column.units for name, column in here.columns.items()}
    return described


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return found


def _lines(recorded: RecordedRun, stream: str) -> Lines:
    picture = picture_of(recorded, stream=stream)
    if not isinstance(picture, Lines):
        raise NothingToPlot(
            recorded.uid, stream, f"Run {recorded.uid[:8]} is a map or an image, which cannot be drawn over another."
        )
    return picture


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
