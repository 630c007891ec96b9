"""Printing for people, and for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console, ConsoleDimensions
from rich.table import Table

_WIDEST = 1000


def say(console: Console, text: str) -> None:
    """Print plain text as it is: no line breaks of rich's own, no markup in names of files or devices."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def say_table(console: Console, table: Table) -> None:
    """Print a table as wide as it needs to be: a port or an error that is cut short cannot be copied."""
    width = console.width
    if console.is_dumb_terminal:
        # rich takes these to be 80 wide, whatever the table needs.
        console.size = ConsoleDimensions(_WIDEST, console.height)
    needed = console.measure(table, options=console.options.update(width=_WIDEST)).maximum
    try:
        console.width = max(width, needed)  # print() takes no width beyond the console's own
        console.print(table, markup=False, highlight=False, crop=False)
    finally:
        console.width = width


def say_fitted(console: Console, table: Table) -> None:
    """Print a table within the width of a terminal, whose own line breaks would tear its rows; else as `say_table`."""
    if fits_to(console):
        console.print(table, markup=False, highlight=False)
    else:
        say_table(console, table)


def fits_to(console: Console) -> bool:
    """Tell whether somebody looks at what is printed, in a window that has a width."""
    return console.is_terminal and not console.is_dumb_terminal


def elided(text: str, width: int) -> str:
    """Return a text in so many columns, with dots for what does not fit."""
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}…"


def json_text(value: Any) -> str:
    """Return JSON on one line that any program can read: what is no number is null, as JSON has no NaN."""
    return json.dumps(_finite(value), default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
