"""Find runs by what people remember of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from datetime import datetime

    from bluesky_tiled_plugins import CatalogOfBlueskyRuns


def search_runs(
    catalog: CatalogOfBlueskyRuns,
    *,
    plan: str | None = None,
    detector: str | None = None,
    motor: str | None = None,
    exit_status: Literal["success", "abort", "fail"] | None = None,
    since: str | float | datetime | None = None,
    until: str | float | datetime | None = None,
    text: str | None = None,
    **metadata: Any,
) -> CatalogOfBlueskyRuns:
    """Return the runs for which everything given is true, as a catalog that can be searched further.

    Parameters
    ----------
    catalog : CatalogOfBlueskyRuns
        What to search.
    plan : str
        Name of the plan.
    detector, motor : str
        Name of a device among the run's detectors or motors.
    exit_status : "success", "abort" or "fail"
        How the run ended; runs that go on have none.
    since, until : str, float or datetime
        First and last start time; text such as "2025-06-01" or "2025-06-01 14:00", or seconds of Unix time.
    text : str
        Words that stand, in this order, anywhere in the run's metadata.
    **metadata
        Further entries of the start document and their values, for example ``sample="S7"``.
    """
    from bluesky_tiled_plugins.queries import TimeRange
    from tiled.queries import Contains, Eq, FullText

    queries: list[Any] = [Eq(f"start.{key}", value) for key, value in metadata.items()]
    if plan is not None:
        queries.append(Eq("start.plan_name", plan))
    for names, name in (("start.detectors", detector), ("start.motors", motor)):
        if name is not None:
            # The list is compared as text: with its quotes a name is not found inside a longer one.
            queries.append(Contains(names, json.dumps(name)))
    if exit_status is not None:
        queries.append(Eq("stop.exit_status", exit_status))
    if since is not None or until is not None:
        queries.append(TimeRange(since=since, until=until))
    if text is not None:
        queries.append(FullText('"' + text.replace('"', '""') + '"'))
    for query in queries:
        catalog = catalog.search(query)
    return catalog
