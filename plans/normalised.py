"""The wrapper that divides a signal by a monitor, point by point, in the stream `normalised` of the same run."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import bluesky.preprocessors as bpp
import numpy as np
from bluesky.utils import Msg
from event_model import DataKey

from plans.checks import Arguments, PlanError
from plans.relay import Messages, marked, relay
from plans.results import Recorded, Result, Row, RunEvents, in_run, with_results
from plans.standard_errors import student_factor
from plans.with_dark import DARK_STREAM

NORMALISED_STREAM = "normalised"


class ColumnMissing(PlanError):
    """A column that is to be analysed is not among those that the plan measures."""

    def __init__(self, column: str, present: list[str]) -> None:
        self.column = column
        self.present = tuple(present)
        super().__init__(f"the plan measures no column {column!r}; it measures: {', '.join(present) or 'nothing'}")


def normalised(plan: Messages, signal: str, monitor: str, *, subtract_dark: bool = True) -> Generator[Msg, Any, Any]:
    """Divide a signal by a monitor at each point of a plan, and store the ratio with the run.

    The stream `normalised` has an event for each of `primary`, under the same number: the column `<signal>_normalised`
    beside the scanned positions. `result_normalised` has its mean, standard deviation and the error of the mean. A
    ratio is NaN where the monitor is zero or one of the two is no number. It is calculated from what the run recorded,
    so that it also belongs to its point when a pause made the RunEngine measure that point again.

    Parameters
    ----------
    plan
        Any plan, wrapped or not, that reads both columns in one event.
    signal, monitor
        Names of the columns.
    subtract_dark
        Subtract the mean of the dark readings (stream `dark`) from both, where the run has some.

    Returns
    -------
    Any
        What the plan returns.

    Raises
    ------
    PlanArgumentError
        `signal` and `monitor` are the same.
    ColumnMissing
        The plan does not measure them together.
    """
    arguments = Arguments("normalised")
    if signal == monitor:
        arguments.problem("monitor", monitor, "another column than signal")
    yield from arguments.check()
    events = RunEvents()
    column = f"{signal}_normalised"
    stream = ""
    recorded: _Ratio | None = None
    settings = {"wrapper": "normalised", "signal": signal, "monitor": monitor, "subtract_dark": subtract_dark}

    def before(message: Msg) -> Generator[Msg, Any, Msg]:
        nonlocal stream, recorded
        if message.command == "open_run":
            recorded = None
            return marked(message, settings)
        if message.command == "create":
            stream = message.kwargs.get("name", "primary")
        yield from ()
        return message

    def after(message: Msg, _reply: Any) -> Generator[Msg, Any, None]:
        nonlocal recorded
        if message.command == "save" and stream == "primary" and events.count():
            recorded = recorded or _Ratio(events, signal, monitor, subtract_dark)
            yield from in_run(_event(recorded), message.run)

    def summary(seen: RunEvents) -> Result | None:
        ratios = seen.column(column, NORMALISED_STREAM)
        ratios = ratios[np.isfinite(ratios)]
        if not len(ratios):
            return None
        deviation = float(np.std(ratios, ddof=1)) if len(ratios) > 1 else math.nan
        row: Row = {
            "signal": signal,
            "monitor": monitor,
            "mean": float(np.mean(ratios)),
            "mean_error": student_factor(len(ratios) - 1) * deviation / math.sqrt(len(ratios)),
            "standard_deviation": deviation,
            "points": len(ratios),
        }
        return Result("normalised", [row])

    watched = bpp.subs_wrapper(relay(plan, before=before, after=after), {"all": [events]})
    return (yield from with_results(watched, summary))


class _Ratio(Recorded):
    """The ratio at the newest point, beside the positions that were scanned."""

    def __init__(self, events: RunEvents, signal: str, monitor: str, subtract_dark: bool) -> None:
        self._events = events
        self._signal, self._monitor, self._subtract_dark = signal, monitor, subtract_dark
        self._ratio = f"{signal}_normalised"
        present = events.data_keys["primary"]
        for name in (signal, monitor):
            if name not in present:
                raise ColumnMissing(name, events.number_columns())
        dimensions = events.start.get("hints", {}).get("dimensions", ())
        scanned = [field for fields, _ in dimensions for field in fields if field in present]
        ratio: DataKey = {"source": f"{signal} / {monitor}", "dtype": "number", "shape": []}
        keys: dict[str, DataKey] = {self._ratio: ratio}
        for name in scanned:
            known = {key: value for key, value in present[name].items() if key != "object_name"}
            keys[name] = known  # type: ignore[assignment]
        super().__init__(NORMALISED_STREAM, keys, hints=[self._ratio])

    def read(self) -> dict[str, dict[str, Any]]:
        event = self._events.last()
        assert event is not None, "read after the first point only"
        data, times = event["data"], event["timestamps"]
        self.values = {name: data[name] for name in self.data_keys if name != self._ratio}
        below = self._net(data, self._monitor)
        self.values[self._ratio] = self._net(data, self._signal) / below if below else math.nan
        self.timestamp = times.get(self._signal, event["time"])
        return super().read()

    def _net(self, data: dict[str, Any], column: str) -> float:
        dark = self._events.column(column, DARK_STREAM) if self._subtract_dark else np.array([])
        dark = dark[np.isfinite(dark)]
        return float(data[column]) - (float(np.mean(dark)) if len(dark) else 0.0)


def _event(recorded: Recorded) -> Generator[Msg, Any, None]:
    yield Msg("create", None, name=recorded.name)
    yield Msg("read", recorded)
    yield Msg("save")
