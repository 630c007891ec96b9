"""`tandem runs note` and `tag`: what people add to a run afterwards."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from catalog import CatalogError, annotate
from profiles.console import say
from profiles.runs import find_run, open_runs

if TYPE_CHECKING:
    from catalog.run_catalog import RunCatalog


class NoAnnotation(CatalogError, ValueError):
    """A note or tag cannot be added as it is."""


def add(
    data_dir: str | os.PathLike[str],
    which: str | int,
    *,
    note: str = "",
    tags: Sequence[str] = (),
    untag: Sequence[str] = (),
    author: str = "",
    catalog: RunCatalog | None = None,
    console: Console | None = None,
) -> int:
    """Add a note or tags to a run, or take tags away, and tell what it has now; return the exit code.

    Raises
    ------
    UnknownRun
        No run, or more than one, is meant.
    NoAnnotation
        A tag has blanks around it, or there is nothing to add.
    """
    run = find_run(catalog if catalog is not None else open_runs(data_dir), which)
    start = run.metadata["start"]
    try:
        now = annotate(data_dir, start["uid"], note=note, tags=tags, untag=untag, author=author)
    except ValueError as error:
        raise NoAnnotation(str(error)) from error
    number = len(now.notes)
    parts = [f"{number} note{'' if number == 1 else 's'}", f"tags: {', '.join(now.tags) or 'none'}"]
    say(console or Console(), f"Run {start['uid'][:8]} (scan {start.get('scan_id', '')}) has {'; '.join(parts)}")
    return 0
