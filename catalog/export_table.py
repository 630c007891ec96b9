"""One stream of a run as a table: CSV with its metadata beside it, or Parquet with its metadata inside."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from .encoding import as_json
from .recorded import Column, RecordedRun, Stream, values_of

LONGEST_SPREAD_ARRAY = 32
"""Arrays of up to so many values get a column for each value in CSV."""

METADATA_KEY = "bluesky"
"""Key of a Parquet file's metadata that holds the run's documents as JSON."""


def write_csv(recorded: RecordedRun, stream: Stream, path: Path, metadata_path: Path) -> dict[str, str]:
    """Write a stream as CSV, and what a table cannot say (metadata, units, settings) as JSON beside it.

    The columns are ``seq_num``, ``time`` (seconds of Unix time) and the stream's own. Short one-dimensional arrays
    get a column for each value (``spectrum_0``, ``spectrum_1``, …).

    Returns
    -------
    dict
        Columns left out, with the reason.
    """
    left_out = {name: _why_not_csv(column) for name, column in stream.columns.items() if _why_not_csv(column)}
    columns = [column for name, column in stream.columns.items() if name not in left_out]
    header = ["seq_num", "time"]
    for column in columns:
        header += (
            [f"{column.export_name}_{index}" for index in range(column.shape[0])]
            if column.shape
            else [column.export_name]
        )
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(header)
        for batch in recorded.batches(stream.name):
            cells = [_cells(column, batch.data[column.name]) for column in columns]
            for row, (number, moment) in enumerate(zip(batch.seq_num, batch.time, strict=True)):
                table.writerow([number, repr(float(moment)), *(cell for each in cells for cell in each[row])])
    metadata_path.write_text(json.dumps(_metadata(recorded, stream), indent=1) + "\n", "utf-8")
    return left_out


def write_parquet(recorded: RecordedRun, stream: Stream, path: Path) -> dict[str, str]:
    """Write a stream as Parquet; arrays are lists (in C order, with their shape in the field's metadata).

    Units are in the metadata of each field, the run's metadata under the key ``bluesky`` of the file's.

    Returns
    -------
    dict
        Columns left out, with the reason.
    """
    import pyarrow
    import pyarrow.parquet

    left_out = {
        name: "its images lie in files; HDF5 holds them" for name, column in stream.columns.items() if column.external
    }
    columns = [column for name, column in stream.columns.items() if name not in left_out]
    fields = [pyarrow.field("seq_num", pyarrow.int64()), pyarrow.field("time", pyarrow.float64(), metadata=_units("s"))]
    for column in columns:
        metadata = _units(column.units)
        kind = pyarrow.string() if column.dtype.kind == "O" else pyarrow.from_numpy_dtype(column.dtype)
        if column.shape:
            kind = pyarrow.list_(kind, int(np.prod(column.shape)))
            metadata[b"shape"] = json.dumps(column.shape).encode()
        fields.append(pyarrow.field(column.export_name, kind, metadata=metadata))
    schema = pyarrow.schema(fields, metadata={METADATA_KEY: json.dumps(_metadata(recorded, stream))})
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in recorded.batches(stream.name):
            arrays = [pyarrow.array(batch.seq_num, pyarrow.int64()), pyarrow.array(batch.time, pyarrow.float64())]
            for column, field in zip(columns, fields[2:], strict=True):
                arrays.append(_arrow_column(pyarrow, column, field.type, batch.data[column.name]))
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
    return left_out


def _arrow_column(pyarrow: Any, column: Column, kind: Any, values: list[Any]) -> Any:
    gaps = np.array([value is None for value in values])
    filled = values_of(column, values)
    if column.shape:
        flat = pyarrow.array(filled.reshape(-1))
        mask = pyarrow.array(gaps) if gaps.any() else None
        return pyarrow.FixedSizeListArray.from_arrays(flat, type=kind, mask=mask)
    return pyarrow.array(filled, kind, mask=gaps if gaps.any() else None)


def _why_not_csv(column: Column) -> str:
    if column.external:
        return "its images lie in files; HDF5 holds them"
    if len(column.shape) > 1 or (column.shape and column.shape[0] > LONGEST_SPREAD_ARRAY):
        shape = " x ".join(map(str, column.shape))
        return f"each value is an array of {shape}; HDF5 and Parquet hold them"
    return ""


def _cells(column: Column, values: list[Any]) -> list[list[Any]]:
    if column.shape:
        return [list(map(_cell, row)) for row in values_of(column, values).tolist()]
    return [[_cell(value)] for value in values]


def _cell(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return "" if value is None else repr(value) if isinstance(value, float) else value


def _units(units: str) -> dict[bytes, bytes]:
    return {b"units": units.encode()} if units else {}


def _metadata(recorded: RecordedRun, stream: Stream) -> dict[str, Any]:
    described: dict[str, Any] = as_json(
        {
            "start": recorded.start,
            "stop": recorded.stop,
            "stream": stream.name,
            "data_keys": {name: column.data_key for name, column in stream.columns.items()},
            "configuration": stream.configuration,
        }
    )
    return described
