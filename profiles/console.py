"""Printing for people."""

from __future__ import annotations

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
