"""How far the running plan is, counted from its documents."""

from __future__ import annotations

import math
from typing import Any


class RunProgress:
    """Subscribe :meth:`document` to a RunEngine; :meth:`as_json` may be asked from any thread.

    Runs that are open at once are all counted; the first of them is the one that is told about.
    """

    def __init__(self) -> None:
        self._open: dict[str, dict[str, Any]] = {}
        self._streams: dict[str, tuple[str, str]] = {}
        self._last: dict[str, Any] | None = None

    def document(self, name: str, document: dict[str, Any]) -> None:
        """Take note of a document."""
        if name == "event":
            self._count(document["descriptor"], 1, document["time"])
        elif name == "event_page":
            self._count(document["descriptor"], len(document["seq_num"]), document["time"][-1])
        elif name == "start":
            shape = document.get("shape")
            expected = math.prod(shape) if shape else document.get("num_points")
            self._open[document["uid"]] = {
                "uid": document["uid"],
                "scan_id": document.get("scan_id"),
                "plan_name": document.get("plan_name", ""),
                "began": document["time"],
                "points": 0,
                "expected_points": expected if isinstance(expected, int) else None,
                "last_point": None,
                "exit_status": None,
            }
        elif name == "descriptor":
            self._streams[document["uid"]] = (document["run_start"], document["name"])
        elif name == "stop":
            self._end(document)

    def as_json(self) -> dict[str, Any]:
        """Return `run`, the run that is open or None, and `last_run`, the one that ended last or None."""
        running = next(iter(list(self._open.values())), None)
        return {"run": None if running is None else dict(running), "last_run": self._last}

    def _count(self, descriptor: str, number: int, time: float) -> None:
        uid, stream = self._streams.get(descriptor, ("", ""))
        run = self._open.get(uid)
        if run is not None and stream == "primary":
            run["points"] += number
            run["last_point"] = time

    def _end(self, document: dict[str, Any]) -> None:
        uid = document["run_start"]
        run = self._open.pop(uid, None)
        if run is not None:
            self._last = {**run, "exit_status": document["exit_status"], "ended": document["time"]}
        self._streams = {key: value for key, value in self._streams.items() if value[0] != uid}
