"""How long a point of a plan took in past runs with the same devices."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from catalog.errors import CatalogError
from catalog.journal import read_run, recorded_runs

MOST_JOURNALS = 50


@dataclass(frozen=True)
class PastPoints:
    """What a past run says of the time that a point takes."""

    scan_id: int | None
    uid: str
    point_s: float
    """Median time from point to point."""
    points: int


def past_points(data_dir: Path, plan: str, devices: set[str]) -> PastPoints | None:
    """Return the newest run of a plan with the same devices that has at least three points; None without one.

    Only the newest journals are looked at.

    Parameters
    ----------
    data_dir
        Where runs are kept; it need not exist.
    plan
        Name of the plan.
    devices
        Names of its detectors and movers.
    """
    for uid in recorded_runs(data_dir)[:MOST_JOURNALS]:
        try:
            documents = read_run(data_dir, uid)
            _, start = next(documents)
            used = {*start.get("detectors", ()), *start.get("motors", ())}
            if start.get("plan_name") != plan or used != devices:
                continue
            times = _point_times(documents)
        except (CatalogError, OSError, StopIteration, ValueError):
            continue
        if len(times) >= 3:
            typical = statistics.median(later - earlier for earlier, later in pairwise(times))
            return PastPoints(start.get("scan_id"), start["uid"], typical, len(times))
    return None


def _point_times(documents: Iterator[tuple[str, Any]]) -> list[float]:
    times = []
    primary: set[str] = set()
    for name, document in documents:
        if name == "descriptor" and document["name"] == "primary":
            primary.add(document["uid"])
        elif name == "event" and document["descriptor"] in primary:
            times.append(document["time"])
    return times
