"""Printing for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def say(console: Console, text: str) -> None:
    """Print plain text as it is: no line breaks of rich's own, no markup in names of files or devices."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def say_table(console: Console, table: Table) -> None:
    """Print a table as wide as it needs to be: a port or an error that is cut short cannot be copied."""
    width = console.width
    needed = console.measure(table, options=console.options.update(width=1000)).maximum
    try:
        console.width = max(width, needed)  # print() takes no width beyond the console's own
        console.print(table, markup=False, highlight=False, crop=False)
    finally:
        console.width = width
