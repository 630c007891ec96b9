"""Which columns of a run an analysis is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bluesky.utils import get_hinted_fields

from plans.results import RunEvents


def column_names(detectors: Sequence[Any]) -> list[str]:
    """Return the hinted columns of detectors, in their order."""
    return [field for detector in detectors for field in get_hinted_fields(detector)]


def units_of(events: RunEvents, names: Sequence[str]) -> str:
    """Return the units that all of these columns have; empty when they differ."""
    units = {events.units(name) for name in names}
    return units.pop() if len(units) == 1 else ""
