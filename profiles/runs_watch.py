"""`tandem runs watch`: follow a run that another process measures, from its journal."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import ProgressBar
from rich.table import Table
from rich.text import Text

from catalog import UnknownRun
from catalog.directory import DataDirectory, uid_of_journal
from catalog.errors import NoCatalog
from catalog.journal import JournalTail
from catalog.locking import is_locked
from profiles.console import say
from profiles.runs import duration_text

POLL_INTERVAL_S = 0.1
SHOWN_EVENTS = 12
RATE_WINDOW_S = 5.0
SILENCE_BEFORE_DEATH_S = 2.0
MOST_COLUMNS = 8


class WatchedRun:
    """A run as far as it is; to be fed with its documents.

    Parameters
    ----------
    stream : str
        The stream whose events are shown.
    """

    def __init__(self, stream: str = "primary") -> None:
        self.stream = stream
        self.start: dict[str, Any] = {}
        self.stop: dict[str, Any] = {}
        self.columns: dict[str, str] = {}
        """Units by column."""
        self.counts: dict[str, int] = {}
        self.latest: deque[dict[str, Any]] = deque(maxlen=SHOWN_EVENTS)
        self._streams: dict[str, str] = {}
        self._times: deque[float] = deque(maxlen=10_000)

    def take(self, name: str, document: dict[str, Any]) -> None:
        """Take the next document."""
        if name == "start":
            self.start = document
        elif name == "stop":
            self.stop = document
        elif name == "descriptor":
            self._take_descriptor(document)
        elif name == "event":
            self._take_event(document)
        elif name == "event_page":
            from event_model import unpack_event_page

            for event in unpack_event_page(document):  # type: ignore[arg-type]
                self._take_event(dict(event))
        elif name == "stream_datum":
            stream = self._streams[document["descriptor"]]
            self.counts[stream] = max(self.counts.get(stream, 0), document["indices"]["stop"])

    @property
    def points(self) -> int:
        """Events of the stream that is shown."""
        return self.counts.get(self.stream, 0)

    @property
    def expected(self) -> int | None:
        """How many events the plan has announced."""
        number = self.start.get("num_points")
        return number if isinstance(number, int) and number > 0 else None

    def rate(self, now: float) -> float:
        """Return events per second during the last seconds."""
        recent = [moment for moment in self._times if moment > now - RATE_WINDOW_S]
        since = max(now - RATE_WINDOW_S, self.start.get("time", now))
        return len(recent) / max(now - since, 1e-3)

    def elapsed(self, now: float) -> float:
        """Return for how long it has been going on, or took."""
        return float(self.stop.get("time", now) - self.start["time"]) if self.start else 0.0

    def view(self, now: float) -> Group:
        """Return what is shown of it."""
        head = Text(f"scan {self.start.get('scan_id', '')} ", "bold")
        head.append(f"{self.start.get('plan_name', '')} {self.start.get('uid', '')[:8]}")
        of = f" of {self.expected}" if self.expected else ""
        facts = f"{self.points}{of} events, {self.rate(now):.3g} a second, {duration_text(self.elapsed(now))}"
        others = [f"{name}: {count}" for name, count in self.counts.items() if name != self.stream]
        parts: list[Any] = [head, Text("; ".join([facts, *others]))]
        if self.expected:
            parts.append(ProgressBar(total=self.expected, completed=min(self.points, self.expected), width=60))
        table = Table("event", "time")
        for name, units in self.columns.items():
            table.add_column(f"{name} ({units})" if units else name)
        for event in self.latest:
            table.add_row(*self.cells(event))
        return Group(*parts, table)

    def cells(self, event: dict[str, Any]) -> list[str]:
        """Return an event as cells: number, time since the beginning, and the columns."""
        values = (event["data"].get(name) for name in self.columns)
        return [str(event["seq_num"]), f"{event['time'] - self.start['time']:.1f} s", *map(_cell, values)]

    def _take_descriptor(self, document: dict[str, Any]) -> None:
        name = document.get("name", "primary")
        self._streams[document["uid"]] = name
        self.counts.setdefault(name, 0)
        if name != self.stream:
            return
        keys = document["data_keys"]
        hinted = [key for hint in document.get("hints", {}).values() for key in hint.get("fields", ()) if key in keys]
        scanned = [fields[0] for fields, _ in self.start.get("hints", {}).get("dimensions", ()) if fields[0] in keys]
        names = list(dict.fromkeys((*scanned, *hinted))) or list(keys)
        self.columns = {key: keys[key].get("units") or "" for key in names[:MOST_COLUMNS]}

    def _take_event(self, event: dict[str, Any]) -> None:
        stream = self._streams[event["descriptor"]]
        self.counts[stream] += 1
        if stream == self.stream:
            self.latest.append(event)
            self._times.append(event["time"])


def watch_run(
    data_dir: str | os.PathLike[str],
    uid: str | None = None,
    *,
    stream: str = "primary",
    json_output: bool = False,
    console: Console | None = None,
) -> int:
    """Show a run that goes on, or the next one, until it ends; return the exit code, 0 for success.

    Reads the run's journal and needs no server. Ctrl-C ends the watching; the run goes on.

    Parameters
    ----------
    data_dir
        The data directory.
    uid
        Beginning of the uid of a run; the one that goes on by default, and the next when none does.
    stream
        The stream whose events are shown.
    json_output
        Print one JSON object at the end; everything else goes to stderr.
    console
        Where to show it.

    Raises
    ------
    NoCatalog
        No session has ever recorded there.
    UnknownRun
        No run that goes on has this uid, or more than one.
    """
    directory = DataDirectory.at(data_dir)
    if not directory.journals.is_dir():
        raise NoCatalog(directory.root)
    console = console or Console(stderr=json_output)
    path = _wait_for_run(directory, uid, console)
    watched = WatchedRun(stream)
    if console.is_terminal:
        with Live(console=console, refresh_per_second=8, get_renderable=lambda: watched.view(time.time())):
            _follow(path, watched)
    else:
        _follow(path, watched, _line_printer(watched, console))
    ended = watched.stop.get("exit_status", "")
    reason = watched.stop.get("reason") or ("" if ended else "The session ended without closing the run.")
    summary = f"{watched.points} events in {duration_text(watched.elapsed(time.time()))}, {ended or 'not ended'}"
    say(console, f"{summary}: {reason}" if reason else summary)
    if json_output:
        facts = {"run_uid": watched.start.get("uid"), "scan_id": watched.start.get("scan_id")}
        print(json.dumps({**facts, "events": watched.counts, "exit_status": ended or None, "reason": reason}))
    return 0 if ended == "success" else 1


def _wait_for_run(directory: DataDirectory, uid: str | None, console: Console) -> Path:
    """Return the journal of the run to watch, waiting for one to begin if need be."""
    told = False
    old = set(directory.journals.glob("*.jsonl"))
    while True:
        live = _live_journals(directory)
        if uid is not None:
            matching = [path for path in live if uid_of_journal(path).startswith(uid)]
            if len(matching) != 1:
                raise UnknownRun(uid, f"{directory.root} that goes on", [uid_of_journal(path) for path in matching])
            return matching[0]
        # A run may have begun and ended between two looks.
        if live := live or [path for path in directory.journals.glob("*.jsonl") if path not in old]:
            return max(live, key=lambda path: path.stat().st_ctime)
        if not told:
            say(console, f"Waiting for a run in {directory.root} ... (Ctrl-C ends it)")
            told = True
        time.sleep(POLL_INTERVAL_S)


def _live_journals(directory: DataDirectory) -> list[Path]:
    return [path for path in directory.journals.glob("*.jsonl") if is_locked(path)]


def _follow(path: Path, watched: WatchedRun, show: Callable[[], None] | None = None) -> None:
    """Read a journal to its stop document, or until its session has died and nobody closes the run."""
    # The open file stays readable when the run is delivered and the journal compressed.
    tail = JournalTail(path)
    silent_since: float | None = None
    try:
        while True:
            documents = tail.read()
            for name, document in documents:
                watched.take(name, document)
            if show is not None:
                show()
            if watched.stop:
                return
            if documents:
                silent_since = None
                continue
            if not is_locked(path):
                now = time.monotonic()
                silent_since = silent_since or now
                if now - silent_since > SILENCE_BEFORE_DEATH_S:
                    return
            time.sleep(POLL_INTERVAL_S)
    finally:
        tail.close()


def _line_printer(watched: WatchedRun, console: Console) -> Callable[[], None]:
    """Return what prints the header and each new event as a line, for output that is no terminal."""
    printed: set[int] = set()
    told: list[str] = []

    def show() -> None:
        if watched.columns and not told:
            start = watched.start
            told.append(f"scan {start.get('scan_id', '')} {start.get('plan_name', '')} {start['uid']}")
            say(console, told[0])
            say(console, "\t".join(("event", "time", *watched.columns)))
        for event in _unprinted(watched, printed):
            say(console, "\t".join(watched.cells(event)))

    return show


def _unprinted(watched: WatchedRun, printed: set[int]) -> Iterator[dict[str, Any]]:
    for event in watched.latest:
        if event["seq_num"] not in printed:
            printed.add(event["seq_num"])
            yield event


def _cell(value: Any) -> str:
    if hasattr(value, "shape") and value.shape:
        return " x ".join(map(str, value.shape))
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
