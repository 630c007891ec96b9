"""What a user sees while a scan runs: a line for each event, and a bar that tells how far it is and how long to go."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from bluesky import RunEngine
from bluesky.callbacks import LiveTable
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from profiles.console import say

MOST_COLUMNS = 8


class ReadingsTable(LiveTable):
    """bluesky's table, with as many digits as a number needs: powers span many decades."""

    _FMT_MAP = {**LiveTable._FMT_MAP, "number": "g"}  # noqa: RUF012

    def descriptor(self, doc: Mapping[str, Any]) -> None:
        """Begin the table; a column's precision counts decimals, which here would be taken for digits."""
        data_keys = {
            name: {fact: value for fact, value in data_key.items() if fact != "precision"}
            for name, data_key in doc["data_keys"].items()
        }
        super().descriptor({**doc, "data_keys": data_keys})


class HintedTable:
    """Callback that prints a table of the columns that the devices of a run hint at: positions first."""

    def __init__(self, console: Console) -> None:
        self._out = partial(say, console)
        self._start: Mapping[str, Any] = {}
        self._table: ReadingsTable | None = None

    def __call__(self, name: str, document: Mapping[str, Any]) -> None:
        """Take a document."""
        if name == "start":
            self._start, self._table = document, None
        elif name == "descriptor" and document["name"] == "primary" and self._table is None:
            columns = displayed_columns(self._start, document)
            self._table = ReadingsTable(columns, default_prec=6, separator_lines=False, out=self._out)
            self._table("start", dict(self._start))
        if self._table is not None and name != "start":
            self._table(name, dict(document))


def displayed_columns(start: Mapping[str, Any], descriptor: Mapping[str, Any]) -> list[str]:
    """Return the columns of a stream worth showing: what is scanned, then what the devices hint at."""
    keys = descriptor["data_keys"]
    scanned = [field for fields, _ in start.get("hints", {}).get("dimensions", ()) for field in fields]
    hinted = [field for hints in descriptor.get("hints", {}).values() for field in hints.get("fields", ())]
    numbers = [name for name in dict.fromkeys([*scanned, *hinted]) if name in keys and not keys[name].get("shape")]
    return numbers[:MOST_COLUMNS]


def expected_points(start: Mapping[str, Any]) -> int | None:
    """Return how many events a run is going to have; None when its plan does not know."""
    shape = start.get("shape")
    points = math.prod(shape) if shape else start.get("num_points")
    return points if isinstance(points, int) else None


@contextlib.contextmanager
def shown_scan(
    run_engine: RunEngine, console: Console, columns: Sequence[str] | None = None, *, label: str = "scan"
) -> Iterator[None]:
    """Show table and progress bar of the runs made in this block.

    Parameters
    ----------
    run_engine
        Whose documents are shown.
    console
        Where to write; the bar is shown on terminals only.
    columns
        Names of the columns; None for those the devices hint at.
    label
        What stands before the bar.
    """
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("to go"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = progress.add_task(label, total=None)
    primary: set[str] = set()

    def advance(name: str, document: Mapping[str, Any]) -> None:
        if name == "start":
            progress.reset(task, total=expected_points(document), description=f"{label} {document.get('scan_id', '')}")
        elif name == "descriptor" and document["name"] == "primary":
            primary.add(document["uid"])
        elif name == "event" and document["descriptor"] in primary:
            progress.update(task, completed=document["seq_num"])

    table: Any = HintedTable(console)
    if columns is not None:
        table = ReadingsTable(list(columns), default_prec=6, separator_lines=False, out=partial(say, console))
    tokens = [run_engine.subscribe(table), run_engine.subscribe(advance)]
    bars, run_engine.waiting_hook = run_engine.waiting_hook, None  # one bar is enough
    try:
        with progress:
            yield
    finally:
        run_engine.waiting_hook = bars
        for token in tokens:
            run_engine.unsubscribe(token)
