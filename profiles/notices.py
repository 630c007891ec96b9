"""Lines for the user about what happens beside the plan."""

from __future__ import annotations

import sys

from catalog.errors import CatalogError, DiskFull, JournalWriteError


def tell(line: str) -> None:
    """Print a line to stderr, on a line of its own whatever is being typed or shown."""
    print(f"\n{line}", file=sys.stderr, flush=True)


def tell_of_trouble(error: CatalogError) -> None:
    """Say what is wrong with recording, and what becomes of the plan."""
    tell(f"{error}\n{_consequence(error)}")


def _consequence(error: CatalogError) -> str:
    if isinstance(error, DiskFull):
        return "The scan pauses; make room and resume it with RE.resume()."
    if isinstance(error, JournalWriteError):
        return "The scan pauses; resume it with RE.resume() once the disk can be written again, or end it: RE.abort()."
    return "Measuring goes on: every run is in its journal on the disk, and the catalog gets it later."
