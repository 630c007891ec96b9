"""A recorded run read piece by piece, from its journal or, where it has none, from the catalog.

Nothing here needs the server as long as a run has a journal and its values stand in its events; memory stays
bounded however long the run is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .directory import uid_of_journal
from .encoding import Document
from .errors import UnknownRun
from .journal import find_journal, read_run

BATCH_ROWS = 2000
BATCH_BYTES = 8 * 2**20


@dataclass
class Column:
    """One quantity of a stream.

    Attributes
    ----------
    name : str
        Its name in the events.
    data_key : dict
        What the descriptor says of it: source, units, precision, ….
    external : bool
        Whether its values lie in files beside the journal, as those of cameras do.
    dtype : numpy.dtype
        A type that holds every value exactly; object for text and for what is mixed.
    shape : tuple of int
        Largest shape of one value; empty for single numbers and text.
    missing : bool
        Whether some events lack it or have None.
    """

    name: str
    data_key: dict[str, Any]
    external: bool
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(object))
    shape: tuple[int, ...] = ()
    missing: bool = False

    @property
    def export_name(self) -> str:
        """Its name beside the columns ``seq_num`` and ``time``, and without what HDF5 takes for a path."""
        name = self.name.replace("/", "_")
        return f"data_{name}" if name in ("seq_num", "time") else name

    @property
    def units(self) -> str:
        """The unit, or nothing."""
        return str(self.data_key.get("units") or "")

    @property
    def is_number(self) -> bool:
        """Whether each value is one number."""
        return not self.external and self.shape == () and self.dtype.kind in "biuf"

    @property
    def is_array(self) -> bool:
        """Whether each value is an array of numbers, in the events or in files."""
        return self.external or self.shape != ()


@dataclass
class Stream:
    """What is known of a stream without its events.

    Attributes
    ----------
    name : str
        For example ``primary``.
    columns : dict of Column
        By name, in the order in which the descriptor has them.
    hints : dict
        By device, as the descriptor has them.
    configuration : dict
        By device, with ``data`` and ``data_keys``; the latest where it changed.
    rows : int
        Number of events.
    """

    name: str
    columns: dict[str, Column] = field(default_factory=dict)
    hints: dict[str, Any] = field(default_factory=dict)
    configuration: dict[str, Any] = field(default_factory=dict)
    rows: int = 0

    @property
    def hinted(self) -> list[str]:
        """Columns that the devices recommend to look at."""
        names = [name for hint in self.hints.values() for name in hint.get("fields", ())]
        return [name for name in dict.fromkeys(names) if name in self.columns]


@dataclass
class Batch:
    """Some consecutive events of a stream.

    Attributes
    ----------
    stream : str
        Name of the stream.
    seq_num, time : list
        Of each event.
    data : dict of list
        Values by column; None where an event lacks one, and for columns whose values lie in files.
    """

    stream: str
    seq_num: list[int] = field(default_factory=list)
    time: list[float] = field(default_factory=list)
    data: dict[str, list[Any]] = field(default_factory=dict)
    nbytes: int = 0


class RecordedRun:
    """One run, to be read piece by piece.

    Parameters
    ----------
    documents : callable
        Returns the run's documents from the beginning, each time it is called.

    Attributes
    ----------
    start, stop : dict
        Its first and last document; the last is empty while the run goes on.
    streams : dict of Stream
        By name. Types, shapes and numbers of events are those of what was recorded when this object was made.
    descriptors : list of dict
        As they were emitted.
    """

    def __init__(self, documents: Callable[[], Iterator[tuple[str, Document]]]) -> None:
        self.documents = documents
        self.start: Document = {}
        self.stop: Document = {}
        self.streams: dict[str, Stream] = {}
        self.descriptors: list[Document] = []
        self._names: dict[str, str] = {}
        self._frames: dict[str, int] = {}
        self._survey()

    @property
    def uid(self) -> str:
        """The run's uid."""
        return str(self.start["uid"])

    def batches(self, *streams: str, rows: int = BATCH_ROWS) -> Iterator[Batch]:
        """Yield the events of streams, all by default, in the order in which they came and some at a time."""
        open_batches: dict[str, Batch] = {}
        limit = {name: stream.rows for name, stream in self.streams.items()}
        for name, event in self._events():
            if (streams and name not in streams) or limit.get(name, 0) == 0:
                continue  # what a run that goes on has gained since is left out
            limit[name] -= 1
            columns = self.streams[name].columns
            batch = open_batches.get(name)
            if batch is None:
                batch = open_batches[name] = Batch(name, data={key: [] for key in columns})
            batch.seq_num.append(event["seq_num"])
            batch.time.append(event["time"])
            for key, column in columns.items():
                value = None if column.external else event["data"].get(key)
                batch.data[key].append(value)
                if column.shape and value is not None:
                    batch.nbytes += np.asarray(value).nbytes
            if len(batch.time) >= rows or batch.nbytes > BATCH_BYTES:
                yield open_batches.pop(name)
        yield from open_batches.values()

    def _events(self) -> Iterator[tuple[str, Document]]:
        streams: dict[str, str] = {}
        for name, document in self.documents():
            if name == "descriptor":
                streams[document["uid"]] = document.get("name", "primary")
            for event in _events_in(name, document):
                yield streams[event["descriptor"]], event

    def _survey(self) -> None:
        kinds: dict[tuple[str, str], set[np.dtype[Any]]] = {}
        for name, document in self.documents():
            if name == "start":
                self.start = document
            elif name == "stop":
                self.stop = document
            elif name == "descriptor":
                self.descriptors.append(document)
                self._take_descriptor(document)
            elif name == "stream_datum":
                self._take_frames(document)
            else:
                for event in _events_in(name, document):
                    self._take_event(event, kinds)
        for (stream, key), dtypes in kinds.items():
            self.streams[stream].columns[key].dtype = _common(dtypes)
        for stream, frames in self._frames.items():
            self.streams[stream].rows = self.streams[stream].rows or frames

    def _take_event(self, event: Document, kinds: dict[tuple[str, str], set[np.dtype[Any]]]) -> None:
        stream = self.streams[self._names[event["descriptor"]]]
        stream.rows += 1
        for key, column in stream.columns.items():
            value = event["data"].get(key)
            if value is None:
                column.missing = True
            elif not column.external:
                dtype, shape = _kind_of(value)
                kinds.setdefault((stream.name, key), set()).add(dtype)
                if shape != column.shape:
                    column.shape = _larger(column.shape, shape)

    def _take_descriptor(self, descriptor: Document) -> None:
        stream = self.streams.setdefault(descriptor.get("name", "primary"), Stream(descriptor.get("name", "primary")))
        stream.hints.update(descriptor.get("hints", {}))
        stream.configuration.update(descriptor.get("configuration", {}))
        self._names[descriptor["uid"]] = stream.name
        for key, data_key in descriptor["data_keys"].items():
            stream.columns.setdefault(key, Column(key, data_key, "external" in data_key))

    def _take_frames(self, datum: Document) -> None:
        name = self._names[datum["descriptor"]]
        self._frames[name] = max(self._frames.get(name, 0), datum["indices"]["stop"])


def recorded_run(data_dir: str | os.PathLike[str], uid: str, run: Any = None) -> RecordedRun:
    """Return a run of a data directory, to be read piece by piece.

    Parameters
    ----------
    data_dir : path
        The data directory.
    uid : str
        The run's uid or its beginning.
    run : BlueskyRun, optional
        The run's client, for a run of a common server that has no journal here.

    Raises
    ------
    UnknownRun
        No run, or more than one, has this uid.
    JournalCorrupt
        The journal is damaged.
    """
    try:
        uid = uid_of_journal(find_journal(data_dir, uid))
    except UnknownRun as unknown:
        if run is None or unknown.matches:
            raise
        return RecordedRun(run.documents)
    return RecordedRun(lambda: read_run(data_dir, uid))


def values_of(column: Column, values: list[Any]) -> np.ndarray[Any, Any]:
    """Return a batch's values of a column as one array; what is missing is NaN, zero, or empty text.

    Arrays smaller than the column's shape are filled up in the same way.
    """
    if column.dtype.kind not in "biufc":
        return np.array(["" if value is None else _text(value) for value in values], dtype=object)
    fill = np.nan if column.dtype.kind in "fc" else 0
    stacked = np.full((len(values), *column.shape), fill, column.dtype)
    for row, value in enumerate(values):
        if value is not None:
            array = np.asarray(value)
            place: Any = (row, *(slice(length) for length in array.shape))
            stacked[place] = array
    return stacked


def _events_in(name: str, document: Document) -> Iterator[Document]:
    if name == "event":
        yield document
    elif name == "event_page":
        from event_model import unpack_event_page

        for event in unpack_event_page(document):  # type: ignore[arg-type]
            yield dict(event)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _kind_of(value: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
    if isinstance(value, bool):
        return np.dtype(bool), ()
    if isinstance(value, int):
        return (np.dtype(np.int64) if -(2**63) <= value < 2**63 else np.dtype(object)), ()
    if isinstance(value, float):
        return np.dtype(np.float64), ()
    if isinstance(value, np.ndarray | np.generic | list | tuple):
        try:
            array = np.asarray(value)
        except ValueError:  # lists of unequal length
            return np.dtype(object), ()
        return (array.dtype, array.shape) if array.dtype.kind in "biufc" else (np.dtype(object), ())
    return np.dtype(object), ()


def _larger(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    if len(one) != len(other):
        return one or other
    return tuple(max(pair) for pair in zip(one, other, strict=True))


def _common(dtypes: set[np.dtype[Any]]) -> np.dtype[Any]:
    if len(dtypes) > 1 and (np.dtype(object) in dtypes or {dtype.kind for dtype in dtypes} > {"b"}):
        return np.dtype(object)
    return np.result_type(*dtypes)
