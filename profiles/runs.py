"""`tandem runs list` and `show`: past runs as tables, for the terminal and for `%runs` in IPython.

Every function takes a data directory or an open catalog, and raises errors of `catalog` that say what to do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from catalog import UnknownRun, open_catalog, search_runs, wait_settled
from catalog.directory import DataDirectory
from catalog.notes import Annotations, wait_annotated
from profiles.console import elided, fits_to, json_text, say, say_table
from profiles.data_directory import CATALOG_WAIT_S
from profiles.result_table import result_table
from profiles.runs_going_on import events_so_far, goes_on

if TYPE_CHECKING:
    from catalog.run_catalog import RunCatalog

LONGEST_CELL = 200
_WIDEST = 1000
SIDE_BY_SIDE = 4
"""Up to how many rows of results stand side by side, which leaves their figures whole on a narrow terminal."""

SHOWN_ROWS = 20
"""Most rows of a stream of results that are shown."""

GAP = 2
"""Blanks between the columns of a table on a narrow terminal."""

NARROWEST_TEXT = 9
"""Least room of a column of text on a narrow terminal that is worth having."""

RESULT_PREFIX = "result_"
"""What names of streams begin with in which plans store what they found."""

_ALREADY_SHOWN = frozenset(
    {"uid", "time", "scan_id", "plan_name", "operator", "sample", "proposal", "instruments", "hints", "versions"}
)


def open_runs(data_dir: str | os.PathLike[str]) -> RunCatalog:
    """Return the catalog of a data directory with everything that has ended or been noted by now.

    Raises
    ------
    CatalogError
        There is no catalog, or its server is not there.
    """
    directory = Path(data_dir)
    runs = open_catalog(directory, wait=CATALOG_WAIT_S)
    wait_settled(directory)
    wait_annotated(directory)
    DataDirectory.at(directory).linger_mark.touch()
    return runs


def find_run(runs: RunCatalog, which: str | int) -> Any:
    """Return a run by scan number, beginning of its uid, or -1 for the latest.

    Raises
    ------
    UnknownRun
        No run, or more than one, is meant.
    """
    text = str(which)
    if text.lstrip("-").isdigit():
        number = int(text)
        if number and abs(number) <= 10**9:
            try:
                return runs[number]
            except UnknownRun:
                if text.startswith("-") or len(text) < 4:
                    raise  # too short for the digits with which a uid may begin
    return runs[text]


def latest(runs: RunCatalog, number: int) -> Iterator[Any]:
    """Yield the latest runs, newest first."""
    return iter(runs.values().tail(number)[::-1])


def summary_of(run: Any) -> dict[str, Any]:
    """Return what a list says of a run."""
    start = run.metadata["start"]
    stop = run.metadata.get("stop") or {}
    measured = goes_on(run)
    points = events_so_far(run) if measured else stop.get("num_events", {})
    until = time.time() if measured else stop.get("time")
    return {
        "scan_id": start.get("scan_id"),
        "uid": start["uid"],
        "plan_name": start.get("plan_name", ""),
        "time": start["time"],
        "duration": None if until is None else until - start["time"],
        "points": points.get("primary", max(points.values(), default=0)),
        "exit_status": "going on" if measured else stop.get("exit_status", "not ended"),
        "sample": start.get("sample"),
        "operator": start.get("operator"),
        "tags": list(Annotations.from_metadata(run.metadata).tags),
    }


def runs_table(summaries: list[dict[str, Any]], width: int | None = None) -> Table:
    """Return the table of a list of runs; columns that say nothing of any run are left out.

    Parameters
    ----------
    summaries
        What `summary_of` says of them.
    width
        Columns of the terminal, into which the table is made to fit: with less air, long texts cut, and those columns
        left out that have no room. None for all that it needs.
    """
    optional = [key for key in ("sample", "operator", "tags") if any(each[key] for each in summaries)]
    table = Table("scan", "uid", "plan", "began", "took", "points", "ended", *optional)
    for run in summaries:
        began = datetime.fromtimestamp(run["time"]).strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(
            _text(run["scan_id"]),
            run["uid"][:8],
            Text(run["plan_name"]),
            began,
            duration_text(run["duration"]),
            str(run["points"]),
            _status_text(run["exit_status"]),
            *(Text(_text(run[key])) for key in optional),
        )
    if width is None or Console(width=_WIDEST).measure(table).maximum <= width:
        return table
    return _narrow_runs_table(summaries, optional, width)


def _narrow_runs_table(summaries: list[dict[str, Any]], optional: list[str], width: int) -> Table:
    this_year = datetime.now().year
    fixed: dict[str, list[str]] = {"scan": [], "uid": [], "began": [], "took": [], "points": [], "ended": []}
    for run in summaries:
        began = datetime.fromtimestamp(run["time"])
        cells = (
            _text(run["scan_id"]),
            run["uid"][:8],
            began.strftime("%m-%d %H:%M" if began.year == this_year else "%Y-%m-%d"),
            duration_text(run["duration"]),
            str(run["points"]),
            run["exit_status"],
        )
        for column, cell in zip(fixed.values(), cells, strict=True):
            column.append(cell)
    texts = {key: [_text(run[key]) for run in summaries] for key in ("plan_name", *optional)}
    room = width - sum(max(map(len, (name, *column))) + GAP for name, column in fixed.items())
    while len(texts) > 1 and room < len(texts) * (NARROWEST_TEXT + GAP):
        texts.popitem()
    widths = _shared(room - GAP * len(texts), {key: max(map(len, (key, *column))) for key, column in texts.items()})
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold underline")
    shown = ["scan", "uid", "plan_name", "began", "took", "points", "ended", *(key for key in texts if key in optional)]
    for name in shown:
        table.add_column("plan" if name == "plan_name" else name, no_wrap=True)
    for row in range(len(summaries)):
        cells_of_row = [elided(texts[name][row], widths[name]) if name in texts else fixed[name][row] for name in shown]
        table.add_row(
            *(
                _status_text(cell) if name == "ended" else Text(cell)
                for name, cell in zip(shown, cells_of_row, strict=True)
            )
        )
    if left_out := [key for key in optional if key not in texts]:
        table.caption = f"not shown, for want of room: {', '.join(left_out)}"
        table.caption_justify = "left"
    return table


def _shared(room: int, needs: dict[str, int]) -> dict[str, int]:
    """Share room among columns, so that none gets more than it needs."""
    shares: dict[str, int] = {}
    for number, (name, need) in enumerate(sorted(needs.items(), key=lambda each: each[1])):
        shares[name] = max(min(need, (room - sum(shares.values())) // (len(needs) - number)), 1)
    return shares


def list_runs(
    data_dir: str | os.PathLike[str],
    number: int = 20,
    *,
    json_output: bool = False,
    catalog: RunCatalog | None = None,
    console: Console | None = None,
    where: Mapping[str, Any] = {},
    **filters: Any,
) -> int:
    """Print the latest runs that match, newest first; return the exit code, which is 1 when none does.

    Parameters
    ----------
    data_dir
        The data directory.
    number
        How many runs at most.
    json_output
        Print a list of objects instead of the table.
    catalog
        The catalog, when it is open already.
    console
        Where to print.
    where
        Further entries of the start document, as `catalog.search_runs` takes them.
    **filters
        What `catalog.search_runs` has parameters for; None and empty ones are no filters.
    """
    console = console or Console()
    runs = catalog if catalog is not None else open_runs(data_dir)
    wanted = {key: value for key, value in filters.items() if value is not None and value != ()} | dict(where)
    found = [summary_of(run) for run in latest(search_runs(runs, **wanted), number)]
    if json_output:
        print(json_text(found))
    elif found:
        say_table(console, runs_table(found, console.width if fits_to(console) else None))
    else:
        say(console, "No run matches." if wanted else "There are no runs yet.")
    return 0 if found or not wanted else 1


def show_run(
    data_dir: str | os.PathLike[str],
    which: str | int,
    *,
    json_output: bool = False,
    catalog: RunCatalog | None = None,
    console: Console | None = None,
) -> int:
    """Print everything about one run; return the exit code.

    Raises
    ------
    UnknownRun
        No run, or more than one, is meant.
    """
    run = find_run(catalog if catalog is not None else open_runs(data_dir), which)
    if json_output:
        print(json_text(details_of(run)))
    else:
        console = console or Console()
        console.print(run_view(run, console.width))
    return 0


def details_of(run: Any) -> dict[str, Any]:
    """Return everything about a run as plain data: documents, notes, streams, results, troubles of wires."""
    metadata = _plain(run.metadata)
    return {
        **{key: metadata.get(key) for key in ("start", "stop")},
        "annotations": Annotations.from_metadata(run.metadata).as_metadata(),
        "streams": {name: _plain(run[name].metadata["data_keys"]) for name in run},
        "results": {name.removeprefix(RESULT_PREFIX): rows_of(run, name) for name in run if _is_result(name)},
        "wires": rows_of(run, "wires") if "wires" in run else [],
    }


def run_view(run: Any, width: int) -> Group:
    """Return what `show` prints in so many columns: metadata, instruments, streams, results, troubles, notes."""
    metadata = _plain(run.metadata)
    parts: list[RenderableType] = [_facts(run, metadata)]
    if instruments := metadata["start"].get("instruments"):
        parts += ["", _instruments_table(instruments, width)]
    parts += ["", _streams_table(run, metadata, width)]
    for name in run:
        if _is_result(name):
            parts += ["", _result_table(run, name)]
    if "wires" in run and (troubles := rows_of(run, "wires")):
        parts += ["", _rows_table("Troubles of the wires", troubles, run["wires"])]
    annotations = Annotations.from_metadata(metadata)
    if annotations.tags:
        parts += ["", Text("Tags: " + ", ".join(annotations.tags))]
    for note in annotations.notes:
        when = datetime.fromtimestamp(note.time).strftime("%Y-%m-%d %H:%M")
        parts.append(Text(f"Note of {note.author}, {when}: {note.text}"))
    return Group(*parts)


def rows_of(run: Any, stream: str) -> list[dict[str, Any]]:
    """Return the events of a short stream as dictionaries."""
    data = run[stream].read()
    columns = {str(name): data[name].values.tolist() for name in data.data_vars}
    columns = {name: columns[name] for name in run[stream].metadata["data_keys"] if name in columns}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def cut(text: str, longest: int = LONGEST_CELL) -> str:
    """Return a text that may be whole arrays, cut where nobody reads on."""
    return text if len(text) <= longest else text[:longest] + " …"


def duration_text(seconds: float | None) -> str:
    """Return a time for people: 0.42 s, 12.3 s, 4:05 min, 2:04:05 h; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"


def _facts(run: Any, metadata: Mapping[str, Any]) -> Table:
    start, stop = metadata["start"], metadata.get("stop") or {}
    summary = summary_of(run)
    began = datetime.fromtimestamp(start["time"]).astimezone().isoformat(" ", "seconds")
    ended = summary["exit_status"]
    if reason := stop.get("reason"):
        ended += f": {reason}"
    facts: dict[str, Any] = {
        "scan": start.get("scan_id", ""),
        "uid": start["uid"],
        "plan": start.get("plan_name", ""),
        "began": began,
        "took": duration_text(summary["duration"]),
        "ended": ended,
    }
    facts |= {key: start[key] for key in ("operator", "sample", "proposal") if key in start}
    facts |= {key: value for key, value in start.items() if key not in _ALREADY_SHOWN}
    if versions := start.get("versions"):
        facts["versions"] = ", ".join(f"{name} {number}" for name, number in versions.items())
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in facts.items():
        table.add_row(Text(key, "bold"), Text(cut(_text(value))))
    return table


def _streams_table(run: Any, metadata: Mapping[str, Any], width: int) -> Table:
    counts = events_so_far(run) if goes_on(run) else (metadata.get("stop") or {}).get("num_events", {})
    labels = ("stream", "events", "column", "units", "type", "source")
    rows: list[tuple[str, ...]] = []
    for name in run:
        stream = run[name].metadata
        for number, (key, data_key) in enumerate(stream["data_keys"].items()):
            shape = " x ".join(map(str, data_key.get("shape") or ()))
            kind = f"{data_key['dtype']} {shape}".strip()
            kind += " (in files)" if "external" in data_key else ""
            first = (name, str(counts.get(name, ""))) if number == 0 else ("", "")
            rows.append((*first, key, _text(data_key.get("units")), kind, _text(data_key.get("source"))))
    columns = list(zip(labels, *rows, strict=True))
    # Long sources are cut first, then the frame is left out, then the sources are.
    fixed = sum(max(map(len, column)) for column in columns[:-1])
    framed = fixed + NARROWEST_TEXT + 3 * len(labels) + 1 <= width
    table = (
        Table() if framed else Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold underline")
    )
    room = width - fixed - (3 * len(labels) + 1 if framed else GAP * len(labels))
    shown = len(labels) if room >= NARROWEST_TEXT else len(labels) - 1
    for label in labels[:shown]:
        table.add_column(label, no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, (*row[:-1], elided(row[-1], room))[:shown]))
    return table


def _rows_table(title: str, rows: list[dict[str, Any]], stream: Any) -> Table:
    data_keys = stream.metadata["data_keys"]
    names = [name for name in data_keys if rows and name in rows[0]]
    shown = [name for name in names if name.removesuffix("_error") not in names or not name.endswith("_error")]
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in shown:
        units = data_keys[name].get("units")
        table.add_column(f"{name} ({units})" if units else name)
    for row in rows[:SHOWN_ROWS]:
        table.add_row(*(Text(_with_error(row[name], row.get(f"{name}_error"))) for name in shown))
    if len(rows) > SHOWN_ROWS:
        table.caption = f"and {len(rows) - SHOWN_ROWS} more"
    return table


def _result_table(run: Any, stream: str) -> Table:
    title = f"Result: {stream.removeprefix(RESULT_PREFIX)}"
    rows = rows_of(run, stream)
    if len(rows) > SIDE_BY_SIDE:
        return _rows_table(title, rows, run[stream])
    units = {name: key["units"] for name, key in run[stream].metadata["data_keys"].items() if key.get("units")}
    return result_table(title, rows, units)


def _instruments_table(instruments: Mapping[str, Mapping[str, Any]], width: int) -> Table:
    keys = list(dict.fromkeys(key for facts in instruments.values() for key in facts))
    table = Table("instrument", *keys)
    for name, facts in instruments.items():
        table.add_row(Text(name), *(Text(cut(_text(facts.get(key)))) for key in keys))
    whole = Console(width=_WIDEST)
    if whole.measure(table).maximum <= width:
        return table
    narrow = Table.grid(padding=(0, 2))
    narrow.add_column(no_wrap=True)
    narrow.add_column(overflow="fold")
    for name, facts in instruments.items():
        narrow.add_row(Text(name, "bold"), Text(cut(_text(dict(facts)), _WIDEST)))
    return narrow


def _is_result(stream: str) -> bool:
    return stream.startswith(RESULT_PREFIX)


def _with_error(value: Any, error: Any) -> str:
    return f"{_text(value)} ± {error:.2g}" if isinstance(error, float) and error == error else _text(value)


def _status_text(status: str) -> Text:
    return Text(status, {"success": "green", "fail": "red", "abort": "yellow"}.get(status, ""))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.7g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items())
    return ", ".join(map(_text, value)) if isinstance(value, list | tuple) else str(value)


def _plain(value: Any) -> Any:
    """Return tiled's read-only views of metadata as dictionaries and lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
