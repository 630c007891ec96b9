"""What can be told of a run that goes on: that it does, and how far it is."""

from __future__ import annotations

from typing import Any

from catalog import UnknownPart
from catalog.locking import is_locked
from catalog.rewriting import data_directory_of


def goes_on(run: Any) -> bool:
    """Tell whether a session of this computer still measures a run."""
    if "stop" in run.metadata:
        return False
    directory = data_directory_of(run.context.http_client)
    return directory is not None and is_locked(directory.journal_of(run.metadata["start"]["uid"]))


def events_so_far(run: Any) -> dict[str, int]:
    """Return how many events each stream has in the catalog, which is about a second behind."""
    counts = {}
    for name in run:
        try:
            counts[name] = int(run[name]["seq_num"].shape[0])
        except UnknownPart:  # none yet, or the stream has been announced in this moment
            counts[name] = 0
    return counts
