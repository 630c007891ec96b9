"""Printing for people."""

from __future__ import annotations

from rich.console import Console


def say(console: Console, text: str) -> None:
    """Print plain text as it is: no line breaks of rich's own, no markup in names of files or devices."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
