"""`tandem watch`: what the instruments of a session say, live in the terminal."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from profiles.console import json_text, say
from profiles.control import SessionGone, running_sessions

BARS = "▁▂▃▄▅▆▇█"
HISTORY = 40
RATE_WINDOW_S = 5.0
STALE_AFTER_S = 5.0
HINT_AFTER_S = 3.0

Take = Callable[[], list[dict[str, Any]]]


@dataclass
class LiveColumn:
    """What is known of one column: its latest value, those before it, and how often it is measured."""

    latest: dict[str, Any] = field(default_factory=dict)
    values: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))
    times: deque[float] = field(default_factory=lambda: deque(maxlen=1000))

    def take(self, measurement: dict[str, Any]) -> None:
        """Take the next measurement; one that is known already is left out."""
        if self.times and measurement["timestamp"] <= self.times[-1]:
            return
        self.latest = measurement
        self.times.append(measurement["timestamp"])
        value = measurement["value"]
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            self.values.append(float(value))

    def rate(self, now: float) -> float:
        """Return measurements a second, over the last seconds."""
        return sum(stamp > now - RATE_WINDOW_S for stamp in self.times) / RATE_WINDOW_S

    @property
    def sparkline(self) -> str:
        """Its latest values as small bars between the smallest and the largest."""
        return sparkline(self.values)


def sparkline(values: Iterable[float]) -> str:
    """Return numbers as bars; a line of middle height when they are all the same."""
    numbers = list(values)
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)
    if high == low:
        return BARS[3] * len(numbers)
    return "".join(BARS[round((number - low) / (high - low) * (len(BARS) - 1))] for number in numbers)


def watch(
    config: str | None,
    *,
    simulate: bool,
    data_dir: Path | None,
    columns: list[str],
    duration_s: float | None,
    json_output: bool,
) -> int:
    """Show live values of a running session, or of one opened for this; return the exit code.

    With a configuration a session is opened; else the latest running one of this user is looked into.
    """
    console = Console()
    if config is not None:
        from profiles.session import Session

        with Session.open(config, simulate=simulate, data_dir=data_dir, display=False) as session:
            for failure in session.failures.values():
                say(Console(stderr=True), f"not connected: {failure}")
            return _show(session.measurements.recent, console, columns, duration_s, json_output)
    with running_sessions(data_dir) as found:
        if not found:
            say(
                Console(stderr=True),
                "No session is running. Start one with tandem shell, or let this command open one: "
                "tandem watch -c FILE (with --simulate on simulated instruments).",
            )
            return 1
        session_of = found[-1]
        try:
            return _show(lambda: session_of.ask("measurements"), console, columns, duration_s, json_output)
        except SessionGone:
            say(Console(stderr=True), "The session has ended.")
            return 0


def _show(take: Take, console: Console, wanted: list[str], duration_s: float | None, json_output: bool) -> int:
    known: dict[str, LiveColumn] = {}
    others: set[str] = set()
    end = math.inf if duration_s is None else time.monotonic() + duration_s
    if json_output:
        told: dict[str, float] = {}
        hinted, hint_at = False, time.monotonic() + HINT_AFTER_S
        while time.monotonic() < end:
            for measurement in take():
                name = measurement["column"]
                if not _is_wanted(name, wanted):
                    others.add(name)
                elif measurement["timestamp"] > told.get(name, 0.0):
                    told[name] = measurement["timestamp"]
                    print(json_text(measurement), flush=True)
            if others and not told and not hinted and time.monotonic() >= hint_at:
                say(Console(stderr=True), _waiting(wanted, others))
                hinted = True
            time.sleep(0.2)
        return 0
    with Live(console=console, refresh_per_second=5) as live:
        while time.monotonic() < end:
            for measurement in take():
                if _is_wanted(measurement["column"], wanted):
                    known.setdefault(measurement["column"], LiveColumn()).take(measurement)
                else:
                    others.add(measurement["column"])
            live.update(view(known, time.time()) if known else Text(_waiting(wanted, others)))
            time.sleep(0.2)
    return 0


def _waiting(wanted: list[str], others: set[str]) -> str:
    """Return what is told as long as nothing that is wanted was measured."""
    if not others:
        return "waiting for the first measurement ..."
    return f"waiting for {', '.join(wanted)} ... what comes is {', '.join(sorted(others))}"


def _is_wanted(column: str, wanted: list[str]) -> bool:
    return not wanted or any(column == name or column.startswith(f"{name}_") for name in wanted)


def view(columns: dict[str, LiveColumn], now: float) -> Table:
    """Return the live table; values that were not measured for a while are dim."""
    table = Table(box=None)
    for heading in ("", "value", "", "", "per s", "age", ""):
        table.add_column(heading, justify="right" if heading in ("value", "per s", "age") else "left")
    for name, column in sorted(columns.items()):
        latest = column.latest
        age = now - latest["timestamp"]
        table.add_row(
            name,
            _value(latest),
            latest["units"] or "",
            latest["generation"] or "",
            f"{column.rate(now):.1f}",
            f"{age:.1f} s" if age < 100 else f"{age / 60:.0f} min",
            column.sparkline,
            style="dim" if age > STALE_AFTER_S else "",
        )
    return table


def _value(measurement: dict[str, Any]) -> str:
    value = measurement["value"]
    if measurement["kind"] != "scalar":
        return f"{measurement['kind']}" if value is None else f"mean {value:.6g}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
