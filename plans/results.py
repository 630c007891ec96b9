"""Results that a plan stores with its run: the stream `result_<kind>`, one event for each analysed column."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import bluesky.preprocessors as bpp
import numpy as np
from bluesky.utils import IllegalMessageSequence, Msg
from event_model import DataKey
from numpy.typing import NDArray

from plans.relay import Messages, relay

logger = logging.getLogger(__name__)

RESULT_PREFIX = "result_"

Row = Mapping[str, float | int | str | bool]
"""One analysed column: `signal`, its name, then plain quantities by name; an uncertainty is `<quantity>_error`."""


@dataclass(frozen=True)
class Result:
    """What an analysis has found: a kind (`peak`, `drift`, …), a row for each analysed column, units by quantity."""

    kind: str
    rows: Sequence[Row]
    units: Mapping[str, str] = field(default_factory=dict)


class Recorded:
    """Values computed by a plan, readable like a device; equal to any other with the same columns."""

    parent = None

    def __init__(self, name: str, data_keys: Mapping[str, DataKey], hints: Sequence[str] = ()) -> None:
        self.name = name
        self.data_keys = dict(data_keys)
        self.values: dict[str, Any] = {}
        self.timestamp: float | None = None
        self.hints = {"fields": list(hints)}

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the present values, measured now unless `timestamp` says when."""
        timestamp = time.time() if self.timestamp is None else self.timestamp
        return {key: {"value": self.values[key], "timestamp": timestamp} for key in self.data_keys}

    def describe(self) -> dict[str, DataKey]:
        """Return the columns."""
        return self.data_keys

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recorded) and self._identity() == other._identity()

    def __hash__(self) -> int:
        # The RunEngine takes a stream's columns from the objects read into it: another call's must be the same object.
        return hash(self._identity())

    def __repr__(self) -> str:
        return f"<{self.name}: {', '.join(self.data_keys)}>"

    def _identity(self) -> tuple[Any, ...]:
        return self.name, tuple((key, data_key.get("units")) for key, data_key in self.data_keys.items())


def record_results(
    kind: str, rows: Iterable[Row], units: Mapping[str, str] | None = None
) -> Generator[Msg, Any, Sequence[Row]]:
    """Store results with the open run: stream `result_<kind>`, one event for each row.

    Parameters
    ----------
    kind
        What kind of result: `malus`, `peak`, `drift`; a name.
    rows
        One for each analysed column, all with the same keys: `signal` (name of the column), then numbers by plain
        quantity names. None becomes NaN: not determined.
    units
        By quantity; those that are missing have none. `<quantity>_error` has the units of its quantity.

    Returns
    -------
    list of Row
        The rows as they were stored.

    Raises
    ------
    ValueError
        `kind` is no name, or the rows differ in their keys.
    """
    stored = [{key: _plain(value) for key, value in row.items()} for row in rows]
    if not kind.isidentifier():
        raise ValueError(f"a kind of result is a name such as 'peak', not {kind!r}")
    if any(list(row) != list(stored[0]) for row in stored):
        raise ValueError(f"all rows of a result have the same keys; {kind!r} has {[list(row) for row in stored]}")
    if not stored:
        return stored
    recorded = Recorded(
        f"{RESULT_PREFIX}{kind}", {key: _data_key(kind, key, value, units) for key, value in stored[0].items()}
    )
    # A pause in here is resumed here: what was measured before is not repeated for it.
    yield Msg("checkpoint")
    for row in stored:
        recorded.values = dict(row)
        yield Msg("create", None, name=recorded.name)
        yield Msg("read", recorded)
        yield Msg("save")
        yield Msg("checkpoint")
    return stored


class RunEvents:
    """Callback that keeps what the runs of a plan have emitted, as it was emitted.

    Points that were measured again after a pause replace what they were before, as they do for every other reader of
    the documents: plans that analyse readings take them from here, not from the replies to their own messages.
    """

    def __init__(self) -> None:
        self.start: Mapping[str, Any] = {}
        self.data_keys: dict[str, Mapping[str, DataKey]] = {}
        self.hints: dict[str, Mapping[str, Any]] = {}
        self._streams: dict[str, str] = {}
        self._events: dict[str, dict[int, Mapping[str, Any]]] = {}

    def __call__(self, name: str, document: Mapping[str, Any]) -> None:
        """Take a document; a start document begins anew."""
        if name == "event":
            stream = self._streams.get(document["descriptor"])
            if stream is not None:
                self._events[stream][document["seq_num"]] = document
        elif name == "event_page":
            from event_model import unpack_event_page

            for event in unpack_event_page(document):  # type: ignore[arg-type]
                self("event", event)
        elif name == "descriptor" and document["run_start"] == self.start.get("uid"):
            stream = document["name"]
            self._streams[document["uid"]] = stream
            self.data_keys[stream] = document["data_keys"]
            self.hints[stream] = document.get("hints", {})
            self._events.setdefault(stream, {})
        elif name == "start":
            self.__init__()  # type: ignore[misc]
            self.start = document

    def events(self, stream: str = "primary") -> list[Mapping[str, Any]]:
        """Return the stream's event documents in their order."""
        return [event for _, event in sorted(self._events.get(stream, {}).items())]

    def last(self, stream: str = "primary") -> Mapping[str, Any] | None:
        """Return the event with the highest number; None before the first."""
        events = self._events.get(stream)
        return events[max(events)] if events else None

    def count(self, stream: str = "primary") -> int:
        """Return how many events the stream has."""
        return len(self._events.get(stream, {}))

    def column(self, name: str, stream: str = "primary") -> NDArray[np.float64]:
        """Return a column as numbers, shape (events,); NaN where an event does not have it or has no single number."""
        return np.array([_number(event["data"].get(name)) for event in self.events(stream)], dtype=float)

    def times(self, column: str | None = None, stream: str = "primary") -> NDArray[np.float64]:
        """Return the times at which a column was measured, else those of the events, in s since the epoch."""
        events = self.events(stream)
        found = [event["timestamps"].get(column, event["time"]) if column else event["time"] for event in events]
        return np.array(found, dtype=float)

    def units(self, column: str, stream: str = "primary") -> str:
        """Return the column's units, empty when it has none."""
        data_key: Mapping[str, Any] = self.data_keys.get(stream, {}).get(column, {})  # type: ignore[call-overload]
        return data_key.get("units") or ""

    def number_columns(self, stream: str = "primary") -> list[str]:
        """Return the columns whose values are single numbers."""
        return [
            name
            for name, key in self.data_keys.get(stream, {}).items()
            if key["dtype"] in ("number", "integer") and not key.get("shape")
        ]


def rows_of(columns: Iterable[str], analyse: Callable[[str], Row]) -> list[Row]:
    """Return a row of results for each column that can be analysed; why one cannot is logged.

    Parameters
    ----------
    columns
        Names; they become the `signal` of the rows.
    analyse
        Returns the quantities of one.

    Raises
    ------
    ValueError
        None of them can be analysed.
    """
    rows: list[Row] = []
    refused: dict[str, ValueError] = {}
    for column in columns:
        try:
            rows.append({"signal": column, **analyse(column)})
        except ValueError as error:
            refused[column] = error
    reasons = "; ".join(f"{column}: {error}" for column, error in refused.items())
    if refused and not rows:
        raise ValueError(reasons)
    if refused:
        logger.warning("Not everything has a result: %s; its readings are stored", reasons)
    return rows


def with_results(
    plan: Messages, analyse: Callable[[RunEvents], Result | Iterable[Result] | None]
) -> Generator[Msg, Any, Any]:
    """Analyse each run of a plan before it is closed, and store what was found with the run.

    The run is also analysed when it ends by failure or abort, with what was measured until then. An analysis that
    fails is logged and leaves the measurement as it is.

    Parameters
    ----------
    plan
        Any plan.
    analyse
        Given the events of the run, returns a :class:`Result`, several, or None.
    """
    events = RunEvents()

    in_event = False

    def before(message: Msg) -> Generator[Msg, Any, Msg]:
        nonlocal in_event
        if message.command in ("create", "save", "drop"):
            in_event = message.command == "create"
        if message.command == "close_run" and events.start:
            if in_event:
                # A failure or an abort amid an event leaves it open, and nothing else could be stored.
                in_event = False
                yield from in_run(_drop_event(), message.run)
            for result in _analysed(analyse, events):
                yield from in_run(record_results(result.kind, result.rows, result.units), message.run)
        return message

    return (yield from bpp.subs_wrapper(relay(plan, before=before), {"all": [events]}))


def _drop_event() -> Generator[Msg, Any, None]:
    with contextlib.suppress(IllegalMessageSequence):
        yield Msg("drop")


def in_run(plan: Messages, run: Any) -> Generator[Msg, Any, Any]:
    """Send a plan's messages to the run with that key."""
    if run is None:
        return (yield from plan)
    return (yield from bpp.set_run_key_wrapper(plan, run))


def _analysed(analyse: Callable[[RunEvents], Any], events: RunEvents) -> list[Result]:
    try:
        found = analyse(events)
        return [] if found is None else [found] if isinstance(found, Result) else list(found)
    except ValueError as error:
        # Too few readings, most often: the run was ended before there were enough.
        logger.warning("Run %s has no result: %s; its readings are stored", events.start.get("uid"), error)
        return []
    except Exception:
        logger.exception("The analysis of run %s failed; its readings are stored", events.start.get("uid"))
        return []


def _data_key(kind: str, key: str, value: Any, units: Mapping[str, str] | None) -> DataKey:
    data_key: DataKey = {"source": f"analysis:{kind}", "dtype": "number", "shape": []}
    if isinstance(value, str):
        data_key["dtype"] = "string"
    elif isinstance(value, bool):
        data_key["dtype"] = "boolean"
    elif isinstance(value, int):
        data_key["dtype"] = "integer"
    known = units or {}
    unit = known.get(key, known.get(key.removesuffix("_error")))
    if unit:
        data_key["units"] = unit
    return data_key


def _plain(value: Any) -> Any:
    if value is None:
        return math.nan
    return value.item() if isinstance(value, np.generic) else value


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
