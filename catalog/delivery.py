"""Move journals into the catalog, exactly once.

A run is written by the writer of bluesky-tiled-plugins, fed from the journal in batches. Whatever goes wrong on
the way - the server or this process killed, a reply lost - the run's node on the server is kept, so that it
stays at its place in the order of runs, everything below it is deleted, and the run is written again from the
journal's beginning. What was half written can therefore neither be missing nor be there twice. The stop
document is written last; a run that has it is complete.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow
from bluesky_tiled_plugins.writing.tiled_writer import (
    RESERVED_DATA_KEYS,
    RunNormalizer,
    _RunWriter,
)

from . import zarr_files  # noqa: F401 - the writer learns of Zarr by it
from .checksums import file_of
from .directory import DataDirectory, uid_of_journal
from .encoding import Document, as_json, encode
from .errors import JournalCorrupt
from .journal import JournalTail, compress_journal, sync_descriptor
from .locking import lock_descriptor

logger = logging.getLogger("catalog.delivery")

BATCH_BYTES = 4 * 2**20
"""Most that is read from one journal before it is written to the server, which bounds the memory needed."""

HDF5_MIMETYPE = "application/x-hdf5"
FRAMES_OF_AN_EVENT_NDIM = 4
"""Events, frames of each, rows, columns: files count frames along one axis."""

UNFINISHED_REASON = "The session ended without closing the run."

RAGGED = "ragged"
"""What a column of arrays becomes when their lengths differ, whatever its descriptor says."""


class ColumnTypeChanged(Exception):
    """A later value does not fit the type of its column on the server.

    Attributes
    ----------
    stream, column : str
        Where.
    promoted : str
        What fits all values: "number" or "text".
    """

    def __init__(self, stream: str, column: str, promoted: str) -> None:
        self.stream = stream
        self.column = column
        self.promoted = promoted
        super().__init__(f"column '{column}' of stream '{stream}' needs the type {promoted}")


class RowsMissing(Exception):
    """The server has not the rows that it has acknowledged.

    Attributes
    ----------
    table : str
        Path of the table on the server.
    sent, found : int
        Numbers of rows.
    """

    def __init__(self, table: str, sent: int, found: int) -> None:
        self.table = table
        self.sent = sent
        self.found = found
        super().__init__(f"the server has {found} of the {sent} rows of {table} that it has acknowledged.")


class RunDelivery:
    """Bring one journal into the catalog, while its run goes on or afterwards.

    Parameters
    ----------
    directory : DataDirectory
        The data directory.
    path : Path
        The run's journal.
    """

    def __init__(self, directory: DataDirectory, path: Path) -> None:
        self.directory = directory
        self.path = path
        self.uid = uid_of_journal(path)
        self.stopped = False
        self.files: dict[Path, None] = {}
        """Files that the run refers to, in the order in which it named them."""
        self._latest = 0.0
        self._tail: JournalTail | None = None
        self._writer: RunWriter | None = None
        self._normalizer: Any = None
        self._plain: set[str] = set()
        self._promoted: dict[tuple[str, str], str] = {}
        self._caught_up = False

    def step(self, runs: Any) -> bool:
        """Deliver what is new in the journal; return whether more is waiting already.

        Parameters
        ----------
        runs : CatalogOfBlueskyRuns
            Client of the container of runs.

        Raises
        ------
        JournalCorrupt
            A line of the journal is damaged.
        Exception
            Whatever the server or the writer objects to. Call `restart` before the next step.
        """
        if self._tail is None:
            self._tail = JournalTail(self.path)
            self._writer = RunWriter(runs, self.directory, self._promoted)
            self._normalizer = RunNormalizer()
            self._normalizer.subscribe(self._writer)
        begin = self._tail.offset
        documents = self._tail.read(BATCH_BYTES)
        if begin == 0:
            self._refuse_foreign_file(documents)
        if not documents:
            documents = self._documents_of_dead_session()
        more = self._tail.offset - begin >= BATCH_BYTES
        try:
            for name, document in documents:
                self._deliver(name, document)
            if self._writer is not None:
                self._writer.flush()
        except ColumnTypeChanged as change:
            logger.info("Run %s is written again: %s", self.uid, change)
            self._promoted[change.stream, change.column] = change.promoted
            self.restart()
            more = True
        if not more and not self._caught_up:
            self._caught_up = True
            self.directory.rewrite_mark(self.uid).unlink(missing_ok=True)
        return more

    def restart(self) -> None:
        """Forget how far this run is; the next step begins again."""
        if self._tail is not None:
            self._tail.close()
        self._tail = self._writer = self._normalizer = None
        self.stopped = self._caught_up = False

    def finish(self) -> None:
        """Put the journal of a delivered run away, compressed."""
        self.restart()
        self.directory.rewrite_mark(self.uid).unlink(missing_ok=True)
        compress_journal(self.directory, self.path)
        self.directory.delivery_problem(self.uid).unlink(missing_ok=True)

    def _deliver(self, name: str, document: Document) -> None:
        self._latest = max(self._latest, document.get("time", 0.0)) if name != "event_page" else self._latest
        if (file := file_of(name, document)) is not None:
            self.files[file] = None
        if self._writer is None or self._writer.complete:
            self.stopped = self.stopped or name == "stop"
            return
        if name not in ("event", "event_page"):
            document = as_json(document)
        if name == "descriptor":
            self._writer.note_undeclared_types(document)
            if _is_plain(document):
                self._plain.add(document["uid"])
        if name == "event" and document["descriptor"] in self._plain:
            self._writer.event(document)  # as the normalizer would pass it on, at a tenth of the time
        else:
            self._normalizer(name, document)
        if name == "stop":
            self.stopped = True

    def _refuse_foreign_file(self, documents: list[tuple[str, Document]]) -> None:
        """Make sure that a file is a run's journal before anything is done to it; those have a whole first line."""
        name, document = documents[0] if documents else ("", {})
        if name != "start" or document.get("uid") != self.uid:
            problem = "a journal begins with the start document of the run that it is named after; it is left alone"
            raise JournalCorrupt(self.path, 1, problem)

    def _documents_of_dead_session(self) -> list[tuple[str, Document]]:
        """Close the journal of a session that died, and return what was not read yet."""
        assert self._tail is not None
        if self.stopped:
            return []
        descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if not lock_descriptor(descriptor):
                return []  # the run goes on
            if documents := self._tail.read(BATCH_BYTES):
                return documents  # written between the last look and the lock
            stop = encode("stop", self._stop_document())
            os.ftruncate(descriptor, self._tail.offset)
            os.lseek(descriptor, self._tail.offset, os.SEEK_SET)
            os.write(descriptor, stop)
            sync_descriptor(descriptor)
        finally:
            os.close(descriptor)
        logger.warning("Run %s was left unfinished by its session and is closed now", self.uid)
        return self._tail.read(BATCH_BYTES)

    def _stop_document(self) -> Document:
        events = self._writer.events if self._writer is not None else {}
        return {
            "uid": str(uuid.uuid4()),
            "run_start": self.uid,
            # When the last document was emitted; the file system's clock may be some milliseconds behind.
            "time": max(self._latest, self.path.stat().st_mtime),
            "exit_status": "fail",
            "reason": UNFINISHED_REASON,
            "num_events": dict(events),
        }


class RunWriter(_RunWriter):  # type: ignore[misc]
    """The writer of bluesky-tiled-plugins for one run, able to begin again and to write when told.

    It differs in six things: a run that is there already is emptied and written anew; an append is never
    repeated blindly; rows are written by `flush`, not by their number; they are counted on the server before the run
    is complete; the type of a column follows the descriptor, not the first value; and rows and columns of a square
    image have names of their own.
    """

    def __init__(self, runs: Any, directory: DataDirectory, promoted: Mapping[tuple[str, str], str]) -> None:
        # Arrays in a table are read back as text by a client that reads the whole stream.
        super().__init__(runs.include_data_sources(), batch_size=2**62, max_array_size=0)
        self.complete = False
        self.events: dict[str, int] = {}
        self._directory = directory
        self._promoted = promoted
        self._cached_bytes = 0
        self._column_types: dict[str, dict[str, str]] = {}
        self._array_types: dict[tuple[str, str], np.dtype[Any]] = {}
        self._array_lengths: dict[tuple[str, str], int] = {}
        self._undeclared: set[tuple[str, str]] = set()
        self._rows_sent: Counter[str] = Counter()

    def note_undeclared_types(self, descriptor: Document) -> None:
        """Note whose machine type the descriptor does not tell; to be called before it is normalized."""
        for key, data_key in descriptor["data_keys"].items():
            if not any(data_key.get(part) for part in ("dtype_numpy", "dtype_str", "dtype_descr")):
                self._undeclared.add((descriptor["name"], key))

    def start(self, doc: Document) -> None:
        """Create the run's node, or take over the one that is there."""
        try:
            super().start(doc)
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.CONFLICT:
                raise
        else:
            return
        node = self.client[doc["uid"]]
        if "stop" in node.metadata:
            self.complete = True
            return
        logger.info("Run %s is in the catalog in part; it is written again", doc["uid"])
        node = getattr(node, "base", node)
        with contextlib.suppress(OSError):  # on a full disk readers may meet a gap; the run matters more
            self._directory.rewrite_mark(doc["uid"]).touch()
        node.delete_contents(recursive=True, external_only=False)
        # A crash between the database and the files leaves folders that nothing refers to any more.
        shutil.rmtree(self._directory.arrays.joinpath(*node.path_parts), ignore_errors=True)
        self.access_tags = None
        self.root_node = node

    def descriptor(self, doc: Document) -> None:
        """Create the stream, or note its new configuration."""
        stream = doc["name"]
        types = self._column_types.setdefault(stream, {})
        self.events.setdefault(stream, 0)
        ragged = {
            key: {**data_key, "shape": [None]}
            for key, data_key in doc["data_keys"].items()
            if self._promoted.get((stream, key)) == RAGGED
        }
        doc = {**doc, "data_keys": {**doc["data_keys"], **ragged}}
        for key, data_key in doc["data_keys"].items():
            if "external" in data_key:
                continue
            kind = np.dtype(data_key["dtype_numpy"]).kind if _is_simple(data_key.get("dtype_numpy")) else ""
            if data_key["dtype"] == "number" and kind in ("", "f"):
                types[key] = "number"
            elif data_key["dtype"] == "array" and kind == "f":
                types[key] = "numbers"
            else:
                types[key] = ""
        super().descriptor(doc)
        # The writer takes no shape for that of an array of one value, and cannot write a number as such.
        self._int_array_keys[stream] -= {key for key, data_key in doc["data_keys"].items() if not data_key["shape"]}

    def event(self, doc: Document) -> None:
        """Take one event; it reaches the server with the next `flush`."""
        stream = self._desc_nodes[doc["descriptor"]].item["id"]
        self.events[stream] = max(self.events[stream], doc["seq_num"])
        arrays = self._int_array_keys[stream]
        row: dict[str, Any] = {"seq_num": doc["seq_num"], "time": float(doc["time"])}
        for key, value in doc["data"].items():
            row[key] = self._cell(stream, key, value, keep_array=key in arrays)
        for key, timestamp in doc["timestamps"].items():
            row[f"ts_{key}"] = float(timestamp)
        self._internal_data_cache[stream].append(row)
        if self._cached_bytes > BATCH_BYTES:
            self.flush()

    def stop(self, doc: Document) -> None:
        """Write what is left and then the stop document, which makes the run complete."""
        # What is flushed is forgotten; the writer's own way out keeps the frames it has announced.
        self.flush()
        self._count_rows()
        if doc.get("reason") == UNFINISHED_REASON:
            self._leave_out_unannounced_frames()
        super().stop(doc)

    def _count_rows(self) -> None:
        """Make sure that the server has kept what it took: not every server does when it is read at the same time."""
        for table in self._internal_tables.values():
            path = "/".join(table.path_parts)
            found = len(table.read_partition(0, [table.columns[0]]))
            if found != self._rows_sent[path]:
                raise RowsMissing(path, self._rows_sent[path], found)

    def _leave_out_unannounced_frames(self) -> None:
        """Have the server read the frames that events tell of; a killed session's file may hold one more.

        The server refuses a file that is longer than what was announced.
        """
        for uid, consolidator in self._consolidators.items():
            if consolidator.mimetype != HDF5_MIMETYPE or consolidator._sres_parameters.get("slice"):
                continue
            shape = consolidator.shape
            frames = shape[0] * (shape[1] if len(shape) == FRAMES_OF_AN_EVENT_NDIM else 1)
            consolidator._sres_parameters["slice"] = f":{frames}"
            try:
                self._update_data_source_for_node(self._sres_nodes[uid], consolidator.get_data_source())
            except Exception:
                logger.exception("The files of a run without an end may be unreadable")

    def flush(self) -> None:
        """Write everything taken so far to the server."""
        self._cached_bytes = 0
        for stream, rows in self._internal_data_cache.items():
            if rows:
                self._even_out(stream, rows)
                _make_numbers_alike(rows)
                self._write_internal_data(rows, desc_node=self._desc_nodes[stream])
                rows.clear()
        while self._external_data_cache:
            _, datum = self._external_data_cache.popitem()
            self._write_external_data(datum)

    def _cell(self, stream: str, key: str, value: Any, keep_array: bool) -> Any:
        if keep_array and np.ndim(value) > 0:
            return self._array_cell(stream, key, np.asarray(value))
        if isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
        elif isinstance(value, tuple):
            value = list(value)
        kind = self._promoted.get((stream, key)) or self._column_types[stream].get(key, "")
        if kind == "number":
            return _as_number(value)
        if kind == "numbers":
            return _as_numbers(value)
        if kind == "text":
            return None if value is None else str(value)
        return value

    def _array_cell(self, stream: str, key: str, value: np.ndarray[Any, Any]) -> Any:
        """Return the array as it can be stored; an array's node has one type for the whole run."""
        self._cached_bytes += value.nbytes
        place = stream, key
        promoted = place in self._promoted
        if value.dtype.kind not in "biuf":
            return value
        if value.ndim == 1 and self._array_lengths.setdefault(place, len(value)) != len(value):
            raise ColumnTypeChanged(stream, key, RAGGED)
        if place not in self._array_types:
            declared = self.data_keys[key].get("dtype_numpy")
            if promoted:
                self._array_types[place] = np.dtype("<f8")
            elif place in self._undeclared or not _is_simple(declared):
                self._array_types[place] = value.dtype
            else:
                self._array_types[place] = np.dtype(declared)
            self.data_keys[key] = {**self.data_keys[key], "dtype_numpy": self._array_types[place].str}
        if not promoted and not _casts_exactly(value, self._array_types[place]):
            raise ColumnTypeChanged(stream, key, "number")
        return value

    def _even_out(self, stream: str, rows: list[dict[str, Any]]) -> None:
        # The writer pads lists of unequal length, but not arrays.
        for key in self._int_array_keys[stream]:
            cells = [row[key] for row in rows if key in row]
            if len({len(cell) for cell in cells}) > 1:
                for row in rows:
                    if isinstance(row.get(key), np.ndarray):
                        row[key] = row[key].tolist()

    def _internal_dims(self, desc_name: str, shape: tuple[int | None, ...]) -> tuple[str, ...]:
        # The writer names a dimension by its size, and xarray cannot work with one name twice in an array.
        taken: dict[str, int] = {}
        dims = []
        for name in super()._internal_dims(desc_name, shape):
            taken[name] = taken.get(name, 0) + 1
            dims.append(name if taken[name] == 1 else f"{name}_{taken[name]}")
        return tuple(dims)

    def _append_with_retry(self, df_client: Any, table: pyarrow.Table, desc_name: str) -> None:
        schema = df_client.structure().arrow_schema_decoded
        if set(table.column_names) - set(schema.names):
            unknown = ", ".join(sorted(set(table.column_names) - set(schema.names)))
            raise ValueError(f"The events of stream '{desc_name}' gained columns on the way: {unknown}.")
        columns = []
        for field in schema:
            if field.name not in table.column_names:
                columns.append(pyarrow.nulls(table.num_rows, field.type))
                continue
            column = table[field.name]
            if not _fits(column.type, field.type):
                raise ColumnTypeChanged(desc_name, field.name, _common_kind(column.type, field.type))
            try:
                columns.append(column.cast(field.type))
            except pyarrow.ArrowInvalid as error:
                raise ColumnTypeChanged(desc_name, field.name, _common_kind(column.type, field.type)) from error
        df_client.append_partition(0, pyarrow.Table.from_arrays(columns, schema=schema))
        self._rows_sent["/".join(df_client.path_parts)] += table.num_rows


def _is_plain(descriptor: Document) -> bool:
    """Tell whether the events of a stream need no normalizing: no files, no name the catalog reserves."""
    data_keys = descriptor["data_keys"]
    return not any("external" in data_key for data_key in data_keys.values()) and not (
        data_keys.keys() & set(RESERVED_DATA_KEYS)
    )


def _is_simple(dtype: Any) -> bool:
    return isinstance(dtype, str) and bool(dtype)


def _casts_exactly(value: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> bool:
    if np.can_cast(value.dtype, dtype, "safe"):
        return True
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.array_equal(value.astype(dtype), value, equal_nan=value.dtype.kind == "f"))


def _as_number(value: Any) -> Any:
    if value is None:
        return float("nan")
    if isinstance(value, int) and int(float(value)) == value:
        return float(value)
    return value


def _as_numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_numbers(item) for item in value]
    return _as_number(value)


def _make_numbers_alike(rows: list[dict[str, Any]]) -> None:
    """Make columns of whole numbers and fractions all fractions, or text where a fraction could not keep a number.

    Arrow would do the same, but refuses whole numbers above 2**53 beside fractions.
    """
    for key in {key for row in rows for key in row}:
        if not {int, float} <= {type(row.get(key)) for row in rows}:
            continue
        numbers = [row for row in rows if type(row.get(key)) in (int, float)]
        exact = all(isinstance(_as_number(row[key]), float) for row in numbers)
        for row in numbers:
            row[key] = _as_number(row[key]) if exact else str(row[key])


def _fits(value: pyarrow.DataType, column: pyarrow.DataType) -> bool:
    """Tell whether the cast keeps what the value is: numbers must not silently become text."""
    if pyarrow.types.is_null(value) or value == column:
        return True
    if pyarrow.types.is_list(value) and pyarrow.types.is_list(column):
        return _fits(value.value_type, column.value_type)
    return _is_numeric(value) and _is_numeric(column)


def _is_numeric(kind: pyarrow.DataType) -> bool:
    return bool(pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind))


def _common_kind(value: pyarrow.DataType, column: pyarrow.DataType) -> str:
    if pyarrow.types.is_list(value) and (pyarrow.types.is_list(column) or pyarrow.types.is_string(column)):
        return "numbers"
    # A column that has had nothing but None so far was created as text.
    return "number" if _is_numeric(value) else "text"


class ReportedProblem:
    """A run that resists delivery: when to try again, and a note for who waits for it."""

    FIRST_PAUSE_S = 0.5
    LONGEST_PAUSE_S = 60.0
    PATIENCE = 3

    def __init__(self, directory: DataDirectory, uid: str) -> None:
        self.attempts = 0
        self._note = directory.delivery_problem(uid)
        self._next = 0.0

    @property
    def due(self) -> bool:
        """Whether it is time for another attempt."""
        return time.monotonic() >= self._next

    @property
    def given_up_for_now(self) -> bool:
        """Whether the daemon need not stay for this run."""
        return self.attempts >= self.PATIENCE

    def failed(self, error: BaseException) -> None:
        """Count a failed attempt; leave a note after the third."""
        self.attempts += 1
        pause = min(self.FIRST_PAUSE_S * 2 ** (self.attempts - 1), self.LONGEST_PAUSE_S)
        self._next = time.monotonic() + pause
        if self.given_up_for_now:
            with contextlib.suppress(OSError):  # the disk is full: perhaps that is the error
                self._note.write_text(f"{type(error).__name__}: {error}\n", "utf-8")
