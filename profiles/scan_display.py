"""What a user sees while a scan runs: a line for each event, and a bar that tells how far it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from bluesky import RunEngine
from bluesky.callbacks import LiveTable
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from profiles.console import say


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


@contextlib.contextmanager
def shown_scan(run_engine: RunEngine, columns: Sequence[str], console: Console) -> Iterator[None]:
    """Show table and progress bar of the runs made in this block.

    Parameters
    ----------
    run_engine
        Whose documents are shown.
    columns
        Names of the columns.
    console
        Where to write; the bar is shown on terminals only.
    """
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = progress.add_task("scan", total=None)

    def advance(name: str, document: Mapping[str, Any]) -> None:
        if name == "start":
            progress.update(task, total=document.get("num_points"))
        elif name == "event":
            progress.advance(task)

    table = ReadingsTable(list(columns), default_prec=6, separator_lines=False, out=partial(say, console))
    tokens = [run_engine.subscribe(table), run_engine.subscribe(advance)]
    try:
        with progress:
            yield
    finally:
        for token in tokens:
            run_engine.unsubscribe(token)
