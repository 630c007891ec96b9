"""Compare what is in the catalog with what was emitted, document by document.

Three things are allowed to differ, because tiled does not keep them: the uids of events; resource and datum
documents, which come back as stream resources and stream datums; and metadata outside JSON's range, which tiled
stores as the nearest thing it has (integers beyond 53 bits, ``NaN`` and infinities, tuples, paths, bytes).
Events are compared in every value and timestamp of the data that they carry themselves.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .column_names import ColumnNames
from .columns import text_of
from .delivery import Normalizer
from .encoding import Document, as_json
from .journal import original_documents

LARGEST_JSON_INTEGER = 2**53 - 1
LARGEST_JSON_FLOAT = 1.7976e308


@dataclass(frozen=True)
class Difference:
    """One thing that is not in the catalog as it was emitted.

    Attributes
    ----------
    where : str
        Place, for example ``primary event 3: data.power_v2``.
    emitted, stored : object
        The two values; None for what is not there at all.
    """

    where: str
    emitted: Any
    stored: Any

    def __str__(self) -> str:
        return f"{self.where}: emitted {self.emitted!r}, stored {self.stored!r}"


@dataclass(frozen=True)
class NotCompared:
    """Why a run, or its files, could not be compared.

    Attributes
    ----------
    what : "run", "journal", "catalog" or "checksums"
        What could not be read.
    reason : str
        Why.
    """

    what: Literal["run", "journal", "catalog", "checksums"]
    reason: str

    def __str__(self) -> str:
        return f"the {self.what} cannot be read: {self.reason}"


def compare_run(data_dir: str | os.PathLike[str], run: Any) -> list[Difference]:
    """Compare a run of the catalog with its journal; an empty list means that nothing is lost or changed.

    Parameters
    ----------
    data_dir : path
        The data directory.
    run : BlueskyRun
        The run's client, for example ``cat[-1]``.

    Raises
    ------
    UnknownRun
        The run has no journal.
    JournalCorrupt
        The journal is damaged.
    """
    emitted = _named_as_there(original_documents(data_dir, run.metadata["start"]["uid"]))
    stored = list(run.documents())
    differences: list[Difference] = []
    for name in ("start", "stop"):
        before = next((document for kind, document in emitted if kind == name), None)
        after = next((document for kind, document in stored if kind == name), None)
        differences += _compare(name, as_stored(before), after or None)
    differences += _compare_descriptors(emitted, stored)
    differences += _compare_events(emitted, stored, run)
    differences += _compare("frames", _frames(_normalized(emitted)), _frames(stored))
    return differences


def _named_as_there(documents: Iterable[tuple[str, Document]]) -> list[tuple[str, Document]]:
    """Return documents with the names that streams and columns have in the catalog."""
    names = ColumnNames()
    events = ("event", "event_page")
    return [(name, names(name, document if name in events else as_json(document))) for name, document in documents]


def _compare_descriptors(
    emitted: Iterable[tuple[str, Document]], stored: Iterable[tuple[str, Document]]
) -> list[Difference]:
    before = {document["uid"]: document for name, document in emitted if name == "descriptor"}
    after = {document["uid"]: document for name, document in stored if name == "descriptor"}
    differences = _compare("descriptors", sorted(before), sorted(after))
    for uid in before.keys() & after.keys():
        mine, its = before[uid], after[uid]
        where = f"{mine['name']} descriptor"
        for part in ("hints", "time"):
            differences += _compare(f"{where}: {part}", as_stored(mine.get(part)), its.get(part))
        differences += _compare_data_keys(f"{where}: data_keys", mine["data_keys"], its["data_keys"])
        for device, settings in mine.get("configuration", {}).items():
            kept = its.get("configuration", {}).get(device, {})
            for part in ("data", "timestamps"):
                differences += _compare(
                    f"{where}: configuration.{device}.{part}",
                    as_stored(settings.get(part, {})),
                    kept.get(part, {}),
                )
            differences += _compare_data_keys(
                f"{where}: configuration.{device}.data_keys",
                settings.get("data_keys", {}),
                kept.get("data_keys", {}),
            )
    return differences


def _compare_data_keys(where: str, emitted: Mapping[str, Any], stored: Mapping[str, Any]) -> list[Difference]:
    """Compare what was said of each key; the catalog completes the entries, which takes nothing away."""
    differences = []
    for key, data_key in emitted.items():
        kept = {part: value for part, value in stored.get(key, {}).items() if part in data_key}
        if None in (kept.get("shape") or ()):
            kept["shape"] = data_key["shape"]  # arrays whose lengths differ, so that what was said does not hold
        differences += _compare(f"{where}.{key}", as_stored(data_key), kept)
    return differences


def _compare_events(
    emitted: Iterable[tuple[str, Document]], stored: Iterable[tuple[str, Document]], run: Any
) -> list[Difference]:
    before = _events_by_stream(emitted)
    after = _events_by_stream(stored)
    differences = []
    for stream in sorted(before.keys() | after.keys()):
        ours, theirs = before.get(stream, []), after.get(stream, [])
        if len({event["seq_num"] for event in ours}) < len(ours):
            theirs = _stored_rows(run[stream])
        if len(ours) != len(theirs):
            differences.append(Difference(f"{stream}: number of events", len(ours), len(theirs)))
        for ordinal, (mine, its) in enumerate(zip(ours, theirs, strict=False), start=1):
            where = f"{stream} event {ordinal}"
            for part in ("seq_num", "time", "data", "timestamps"):
                differences += _compare(f"{where}: {part}", as_json(mine[part]), its[part])
    return differences


def _normalized(documents: Iterable[tuple[str, Document]]) -> list[tuple[str, Document]]:
    """Return the documents as the catalog's writer gets them: of the present schema."""
    normalizer = Normalizer()
    present: list[tuple[str, Document]] = []
    normalizer.subscribe(lambda name, document: present.append((name, document)))
    for name, document in documents:
        normalizer(name, document if name in ("event", "event_page") else as_json(document))
    return present


def _frames(documents: Iterable[tuple[str, Document]]) -> dict[str, int]:
    """Count what lies in external files, by stream and key."""
    streams: dict[str, str] = {}
    keys: dict[str, str] = {}
    frames: dict[str, int] = {}
    for name, document in documents:
        if name == "descriptor":
            streams[document["uid"]] = document["name"]
        elif name == "stream_resource":
            keys[document["uid"]] = document["data_key"]
        elif name == "stream_datum":
            place = f"{streams[document['descriptor']]} {keys[document['stream_resource']]}"
            indices = document["indices"]
            frames[place] = frames.get(place, 0) + indices["stop"] - indices["start"]
    return frames


def _events_by_stream(documents: Iterable[tuple[str, Document]]) -> dict[str, list[Document]]:
    streams: dict[str, str] = {}
    external: dict[str, set[str]] = {}
    events: dict[str, list[Document]] = {}
    for name, document in documents:
        if name == "descriptor":
            streams[document["uid"]] = document["name"]
            external[document["uid"]] = {
                key for key, data_key in document["data_keys"].items() if "external" in data_key
            }
        elif name in ("event", "event_page"):
            for event in _unpack(document) if name == "event_page" else [document]:
                filled = event.get("filled", {})
                elsewhere = {key for key in external[event["descriptor"]] if not filled.get(key, False)}
                events.setdefault(streams[event["descriptor"]], []).append(
                    {
                        "seq_num": event["seq_num"],
                        "time": event["time"],
                        "data": {k: v for k, v in event["data"].items() if k not in elsewhere},
                        "timestamps": {k: v for k, v in event["timestamps"].items() if k not in elsewhere},
                    }
                )
    return events


def _stored_rows(stream: Any) -> list[Document]:
    """Return the events of a stream as they are stored.

    A plan that was paused emits the events since its last checkpoint again, with the numbers they had. All of them
    are stored; what tiled makes documents of keeps one event for each number.
    """
    table = stream.base["internal"].read()
    arrays = {key: stream.base[key].read() for key in stream.base if key != "internal"}
    rows = []
    for position, row in enumerate(table.to_dict("records")):
        data = {key: value for key, value in row.items() if key not in ("seq_num", "time") and key[:3] != "ts_"}
        rows.append(
            {
                "seq_num": row["seq_num"],
                "time": row["time"],
                "data": {**data, **{key: array[position].tolist() for key, array in arrays.items()}},
                "timestamps": {key[3:]: value for key, value in row.items() if key[:3] == "ts_"},
            }
        )
    return rows


def _unpack(page: Document) -> Iterable[Document]:
    from event_model import unpack_event_page

    return unpack_event_page(page)  # type: ignore[arg-type]


def as_stored(value: Any) -> Any:
    """Return a value as tiled's JSON can hold it."""
    return _within_range(as_json(value))


def _within_range(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _within_range(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_within_range(item) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float) or (value != value):
        return value
    if isinstance(value, float) and math.isinf(value):
        return math.copysign(LARGEST_JSON_FLOAT, value)
    if abs(value) > LARGEST_JSON_INTEGER and value % 1 == 0:
        return max(min(value, LARGEST_JSON_INTEGER), -LARGEST_JSON_INTEGER)
    return value


def _compare(where: str, emitted: Any, stored: Any) -> list[Difference]:
    if isinstance(emitted, Mapping) and isinstance(stored, Mapping):
        found = []
        for key in [*emitted, *(key for key in stored if key not in emitted)]:
            separator = "." if ":" in where else ": "
            found += _compare(f"{where}{separator}{key}", emitted.get(key), stored.get(key))
        return found
    return [] if _equal(emitted, stored) else [Difference(where, emitted, stored)]


def _equal(emitted: Any, stored: Any) -> bool:
    if isinstance(emitted, list) and isinstance(stored, list):
        return len(emitted) == len(stored) and all(map(_equal, emitted, stored))
    if isinstance(emitted, dict) and isinstance(stored, dict):
        return emitted.keys() == stored.keys() and all(_equal(emitted[key], stored[key]) for key in emitted)
    if _is_missing(emitted) and (_is_missing(stored) or _is_missing_array(stored)):
        return True
    if isinstance(stored, str):  # as a column of text has it
        return text_of(emitted) == stored
    return bool(np.array_equal(emitted, stored)) if isinstance(stored, np.ndarray) else bool(emitted == stored)


def _is_missing_array(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(_is_missing(item) or _is_missing_array(item) for item in value)
    )


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
