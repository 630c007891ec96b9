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
import pyarrow
from bluesky_tiled_plugins.utils import split_table, truncate_json_overflow
from bluesky_tiled_plugins.writing.tiled_writer import (
    MAX_TABLE_COLUMNS,
    RunNormalizer,
    _RunWriter,
)

from . import zarr_files  # noqa: F401 - the writer learns of Zarr by it
from .checksums import file_of
from .column_names import ColumnNames
from .columns import Column, Form, cells, measured, ragged, stacked
from .directory import DataDirectory, uid_of_journal
from .encoding import Document, as_json, encode
from .errors import JournalCorrupt
from .journal import JournalTail, compress_journal, sync_descriptor
from .locking import lock_descriptor

logger = logging.getLogger("catalog.delivery")

BATCH_BYTES = 4 * 2**20
"""Most that is read from one journal before it is written to the server, which bounds the memory needed."""

HDF5_MIMETYPE = "application/x-hdf5"

_ARROW_TYPES = {
    "boolean": pyarrow.bool_(),
    "integer": pyarrow.int64(),
    "number": pyarrow.float64(),
    "text": pyarrow.string(),
}

UNFINISHED_REASON = "The session ended without closing the run."


class ColumnChanged(Exception):
    """A value does not fit the form in which the server has its column.

    Attributes
    ----------
    stream, column : str
        Where.
    form : Form
        What fits all values.
    """

    def __init__(self, stream: str, column: str, form: Form) -> None:
        self.stream = stream
        self.column = column
        self.form = form
        super().__init__(f"column '{column}' of stream '{stream}' needs the form {form}")


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
        self._names = ColumnNames()
        self._plain: set[str] = set()
        self._forms: dict[tuple[str, str], Form] = {}
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
            self._writer = RunWriter(runs, self.directory, self._forms)
            self._normalizer = Normalizer()
            self._normalizer.subscribe(self._writer)
            self._names = ColumnNames()
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
        except ColumnChanged as change:
            logger.info("Run %s is written again: %s", self.uid, change)
            self._forms[change.stream, change.column] = change.form
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
        document = self._names(name, document)
        if name == "descriptor":
            for key, kept in self._names.changed[document["name"]].items():
                self._normalizer.notes.append(f"Column '{key}' of stream '{document['name']}' is called '{kept}' here.")
            self._writer.note_untyped(document)
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


class Normalizer(RunNormalizer):  # type: ignore[misc]
    """Brings documents to the present schema, and takes those, too, that keep to none: they were measured."""

    def emit(self, name: Any, doc: Document) -> None:
        """Pass a document on without validating it."""
        self.dispatcher.process(name, doc)


class StreamRows:
    """The rows of a stream that are to be written next, column by column."""

    def __init__(self) -> None:
        self.columns: dict[str, Column] = {}
        self.timestamps: dict[str, list[float | None]] = {}
        self.seq_num: list[int] = []
        self.time: list[float] = []

    def add(self, key: str, column: Column) -> None:
        """Add a column, which has no value in the rows that wait already."""
        self.columns[key] = column
        self.timestamps[key] = [None] * len(self.time)
        for _ in self.time:
            column.take(None)

    def clear(self) -> None:
        """Forget the rows, which are written."""
        self.time.clear()
        for timestamps in self.timestamps.values():
            timestamps.clear()
        self.seq_num.clear()
        for column in self.columns.values():
            column.clear()


class RunWriter(_RunWriter):  # type: ignore[misc]
    """The writer of bluesky-tiled-plugins for one run, able to begin again and to write when told.

    It differs in seven things: a run that is there already is emptied and written anew; an append is never
    repeated blindly; rows are written by `flush`, not by their number; they are counted on the server before the run
    is complete; a column has the form that holds all of its values (see `catalog.columns`); rows and columns of a
    square image have names of their own; and no more of a file is read than was announced.
    """

    def __init__(self, runs: Any, directory: DataDirectory, forms: Mapping[tuple[str, str], Form]) -> None:
        super().__init__(runs.include_data_sources())
        self.complete = False
        self.events: dict[str, int] = {}
        self._directory = directory
        self._forms = forms
        self._streams: dict[str, StreamRows] = {}
        self._cached_bytes = 0
        self._untyped: set[tuple[str, str]] = set()
        self._rows_sent: Counter[str] = Counter()
        self._array_rows: Counter[tuple[str, str]] = Counter()

    def note_untyped(self, descriptor: Document) -> None:
        """Note whose machine type the descriptor does not tell; to be called before it is normalized."""
        for key, data_key in descriptor["data_keys"].items():
            if not any(data_key.get(part) for part in ("dtype_numpy", "dtype_str", "dtype_descr")):
                self._untyped.add((descriptor["name"], key))

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
        self.events.setdefault(stream, 0)
        for data_key in doc["data_keys"].values():
            if isinstance(data_key.get("dtype_numpy"), list):
                data_key["dtype_numpy"] = list(map(tuple, data_key["dtype_numpy"]))  # as numpy wants it
        super().descriptor(doc)
        rows = self._streams.setdefault(stream, StreamRows())
        known = [key for of_stream, key in self._forms if of_stream == stream]
        for key in (*(key for key, data_key in doc["data_keys"].items() if "external" not in data_key), *known):
            if key not in rows.columns and stream not in self._internal_tables:
                self._add_column(stream, key)

    def _add_column(self, stream: str, key: str) -> None:
        data_key = self.data_keys.get(key, {"dtype": "unknown"})
        column = Column(data_key, self._forms.get((stream, key)), (stream, key) not in self._untyped)
        self._streams[stream].add(key, column)

    def event(self, doc: Document) -> None:
        """Take one event; it reaches the server with the next `flush`."""
        stream = self._desc_nodes[doc["descriptor"]].item["id"]
        rows = self._streams[stream]
        self.events[stream] = max(self.events[stream], doc["seq_num"])
        data, timestamps = doc["data"], doc["timestamps"]
        for key in data.keys() - rows.columns.keys():
            if stream in self._internal_tables:
                raise ColumnChanged(stream, key, measured(data[key])[1])
            self._add_column(stream, key)
        rows.seq_num.append(doc["seq_num"])
        rows.time.append(float(doc["time"]))
        for key, column in rows.columns.items():
            self._cached_bytes += column.take(data.get(key))
            timestamp = timestamps.get(key)
            rows.timestamps[key].append(None if timestamp is None else float(timestamp))
        if self._cached_bytes > BATCH_BYTES:
            self.flush()

    def stop(self, doc: Document) -> None:
        """Write what is left and then the stop document, which makes the run complete."""
        # What is flushed is forgotten; the writer's own way out keeps the frames it has announced.
        self.flush()
        self._count_rows()
        super().stop(truncate_json_overflow(doc))

    def _count_rows(self) -> None:
        """Make sure that the server has kept what it took: not every server does when it is read at the same time."""
        for table in self._internal_tables.values():
            path = "/".join(table.path_parts)
            found = len(table.read_partition(0, [table.columns[0]]))
            if found != self._rows_sent[path]:
                raise RowsMissing(path, self._rows_sent[path], found)

    def _update_data_source_for_node(self, node: Any, data_source: Any, patch: Any = None) -> None:
        """Tell the server how many frames there are, and to read no more of the file, which may be ahead of events.

        It would refuse altogether what is counted along one axis in the file and along two in the catalog. Where the
        file has both axes this is more than there is, and the server cuts by itself.
        """
        shape = data_source.structure.shape
        if data_source.mimetype == HDF5_MIMETYPE and len(shape) > 1:
            data_source.parameters.setdefault("slice", f":{shape[0] * shape[1]}")
        super()._update_data_source_for_node(node, data_source, patch)

    def flush(self) -> None:
        """Write everything taken so far to the server."""
        self._cached_bytes = 0
        for stream, rows in self._streams.items():
            if rows.time:
                self._write_rows(stream, rows)
                rows.clear()
        while self._external_data_cache:
            _, datum = self._external_data_cache.popitem()
            self._write_external_data(datum)

    def _write_rows(self, stream: str, rows: StreamRows) -> None:
        for key, column in rows.columns.items():
            if column.settle() != (column.written or column.form):
                raise ColumnChanged(stream, key, column.settle())
        table: dict[str, Any] = {
            "seq_num": pyarrow.array(rows.seq_num, pyarrow.int64()),
            "time": pyarrow.array(rows.time, pyarrow.float64()),
        }
        for key, column in rows.columns.items():
            form = column.written = column.settle()
            if form.is_array:
                self._write_array(stream, key, form, column.arrays)
            else:
                table[key] = pyarrow.array(cells(column.values, form), _ARROW_TYPES[form.kind])
        for key, timestamps in rows.timestamps.items():
            table[f"ts_{key}"] = pyarrow.array(timestamps, pyarrow.float64())
        whole = pyarrow.table(table)
        parts = {"": whole}
        if whole.num_columns > MAX_TABLE_COLUMNS:
            parts = {f"_{number}": part for number, part in enumerate(split_table(whole, MAX_TABLE_COLUMNS))}
        for suffix, part in parts.items():
            self._append(stream, suffix, part)

    def _append(self, stream: str, suffix: str, table: pyarrow.Table) -> None:
        node = self._internal_tables.get(stream + suffix)
        if node is None:
            metadata = {key: self.data_keys[key] for key in table.column_names if key in self.data_keys}
            node = self._desc_nodes[stream].create_appendable_table(
                schema=table.schema,
                key=f"internal{suffix}",
                metadata=truncate_json_overflow(metadata),
                access_tags=self.access_tags,
            )
            self._internal_tables[stream + suffix] = node
        node.append_partition(0, table)
        self._rows_sent["/".join(node.path_parts)] += table.num_rows

    def _write_array(self, stream: str, key: str, form: Form, values: list[Any]) -> None:
        node = self._internal_arrays.get(f"{stream}/{key}")
        array = stacked(values, form) if form.kind == "array" else ragged(values, form)
        if node is not None:
            offset = (self._array_rows[stream, key],)
            node.patch(array, offset=offset, extend=True)
        else:
            write = (
                self._desc_nodes[stream].write_array if form.kind == "array" else self._desc_nodes[stream].write_ragged
            )
            self._internal_arrays[f"{stream}/{key}"] = write(
                array,
                key=key,
                metadata=truncate_json_overflow({**self.data_keys.get(key, {}), "dtype_numpy": form.dtype.str}),
                dims=self._internal_dims(stream, (len(values), *form.shape)),
                access_tags=self.access_tags,
            )
        self._array_rows[stream, key] += len(values)

    def _internal_dims(self, desc_name: str, shape: tuple[int | None, ...]) -> tuple[str, ...]:
        # The writer names a dimension by its size, and xarray cannot work with one name twice in an array.
        taken: dict[str, int] = {}
        dims = []
        for name in super()._internal_dims(desc_name, shape):
            taken[name] = taken.get(name, 0) + 1
            dims.append(name if taken[name] == 1 else f"{name}_{taken[name]}")
        return tuple(dims)


def _is_plain(descriptor: Document) -> bool:
    """Tell whether the events of a stream need no normalizing, as there are no files."""
    return not any("external" in data_key for data_key in descriptor["data_keys"].values())


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
