"""Measurements as bluesky documents, for everything that takes those: 0MQ, live tables, other programs."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np

from profiles.bridge.bridge import MeasurementBridge
from profiles.bridge.measurement import FrameReference, UnifiedMeasurement
from profiles.bridge.subscription import Missed

DocumentTaker = Callable[[str, dict[str, Any]], object]

END_TIMEOUT_S = 2.0
PURPOSE = "measurement bridge"


class MeasurementDocuments:
    """Turns measurements into the documents of one endless run: a stream for each column, an event for each reading.

    The start document has `purpose: "measurement bridge"`, so that nobody takes it for an experiment. Images that lie
    in files are told as text, `<uri>#<first>:<end>`. What was missed is counted in the stop document.
    """

    def __init__(self, take: DocumentTaker) -> None:
        self._take = take
        self._run = str(uuid.uuid4())
        self._descriptors: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}
        self._missed = 0
        take("start", {"uid": self._run, "time": time.time(), "purpose": PURPOSE, "plan_name": "measurements"})

    def put(self, item: UnifiedMeasurement | Missed) -> None:
        """Emit the documents of the next item of a subscription."""
        if isinstance(item, Missed):
            self._missed += item.count
            return
        value = item.value
        if isinstance(value, FrameReference):
            value = f"{value.uri}#{value.start}:{value.stop}"
        descriptor = self._descriptor(item, value)
        self._counts[item.column] = number = self._counts.get(item.column, 0) + 1
        self._take(
            "event",
            {
                "uid": str(uuid.uuid4()),
                "descriptor": descriptor,
                "seq_num": number,
                "time": item.timestamp,
                "data": {item.column: value},
                "timestamps": {item.column: item.timestamp},
                "filled": {},
            },
        )

    def end(self) -> None:
        """Emit the stop document."""
        self._take(
            "stop",
            {
                "uid": str(uuid.uuid4()),
                "run_start": self._run,
                "time": time.time(),
                "exit_status": "success",
                "num_events": self._counts,
                "missed": self._missed,
            },
        )

    def _descriptor(self, item: UnifiedMeasurement, value: Any) -> str:
        kind = _dtype(value)
        known = self._descriptors.get((item.column, kind))
        if known is not None:
            return known
        uid = str(uuid.uuid4())
        key: dict[str, Any] = {
            "source": f"{item.generation or 'device'}:{item.instrument}",
            "dtype": kind,
            "shape": list(np.shape(value)) if kind == "array" else [],
        }
        if item.units is not None:
            key["units"] = item.units
        self._take(
            "descriptor",
            {
                "uid": uid,
                "run_start": self._run,
                "time": item.timestamp,
                "name": item.column,
                "data_keys": {item.column: key},
                "object_keys": {item.instrument: [item.column]},
                "configuration": {item.instrument: {"data": {}, "timestamps": {}, "data_keys": {}}},
                "hints": {item.instrument: {"fields": [item.column]}},
            },
        )
        self._descriptors[item.column, kind] = uid
        return uid


def forward(bridge: MeasurementBridge, take: DocumentTaker, *, after_s: float = 0.0) -> Callable[[], None]:
    """Give every measurement of a bridge to a taker of documents, on a thread of its own; return what ends that.

    `take` may be bluesky's 0MQ `Publisher`; a `RemoteDispatcher` elsewhere then receives the measurements. Until
    `after_s` measurements are kept: a taker that is not connected yet would lose the first documents, without which
    the others mean nothing.
    """
    subscription = bridge.subscribe()
    ended = threading.Event()

    def work() -> None:
        ended.wait(after_s)
        documents = MeasurementDocuments(take)
        for item in subscription:
            documents.put(item)
        documents.end()

    thread = threading.Thread(target=work, name="measurements to documents", daemon=True)
    thread.start()

    def end() -> None:
        ended.set()
        subscription.close()
        thread.join(END_TIMEOUT_S)

    return end


def _dtype(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "boolean"
    if isinstance(value, int | np.integer):
        return "integer"
    if isinstance(value, float | np.floating):
        return "number"
    return "string" if isinstance(value, str) else "array"
