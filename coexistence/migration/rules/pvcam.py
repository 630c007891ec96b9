"""Old entries of PVCAM cameras."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coexistence.migration.draft import Draft, NeedsAHand, Source
from coexistence.migration.rules.common import enabled, rounded

_TRIGGERS = {
    "internal": "INTERNAL", "timed": "INTERNAL", "software": "INTERNAL", "free_run": "INTERNAL", "edge": "EDGE",
    "external": "EDGE", "external_edge": "EDGE", "hardware": "EDGE", "trigger_first": "EDGE",
}  # fmt: skip


def convert(source: Source, draft: Draft) -> list[Draft]:
    """Convert a camera."""
    enabled(source, draft)
    name, value = source.take("camera_name", "camera", "camera_id")
    if not isinstance(value, str) or not value.strip():
        raise NeedsAHand("it names no camera; give camera_name as the vendor's library lists it, PrimeBSI for one")
    draft.put("camera_name", value, name)
    _exposure(source, draft)
    _region(source, draft)
    name, value = source.take("trigger_mode", "trigger")
    if name:
        mode = _TRIGGERS.get(str(value).lower().replace("-", "_").replace(" ", "_"))
        if mode is None:
            stated = f"{name} = {source.shown(name)}"
            source.remark(f"{stated} left out: it is neither INTERNAL nor EDGE; the camera keeps its own")
        else:
            draft.put("trigger_mode", mode, name)
    name, value = source.take("output_dir", "save_path", "save_dir")
    if isinstance(value, str) and value:
        draft.put("output_dir", value, name)
    else:
        source.put_back(name)
    name, value = source.take("sdk_mode", "use_mock", "simulate")
    if name and str(value).lower() in ("mock", "true", "simulated"):
        source.remark(f"{name} = {source.shown(name)} left out: `--simulate` puts a simulated camera in its place")
    elif str(value).lower() not in ("real", "sdk", "hardware", "false"):
        source.put_back(name)
    name, value = source.number("timeout_ms", "frame_timeout_ms")
    if value is not None and 0 < value <= 3_600_000:
        draft.put("frame_timeout", value / 1000, name)
    elif value is not None:
        source.remark(f"{name} = {source.shown(name)} left out: the default of 10 s is used")
    return [draft]


def _exposure(source: Source, draft: Draft) -> None:
    name, value = source.number("exposure_ms", "exposure", "exposure_time_ms")
    if value is None:
        return
    if not 0 <= value <= 3_600_000:
        source.remark(f"{name} = {source.shown(name)} left out: no exposure in ms; the camera keeps its own")
        return
    if 0 < value < 1:
        source.remark(
            f"{name} = {source.shown(name)} left out: read as ms it is none, and it may be s; exposure is in ms"
        )
        return
    rounded(source, draft, "exposure", name, value, "ms: exposures are whole numbers")


def _region(source: Source, draft: Draft) -> None:
    name, roi = source.take("roi", "region")
    binning_name, binning = source.take("binning", "bin")
    if not name:
        if binning_name and _pair(binning) != (1, 1):
            source.remark(
                f"binning = {source.shown(binning_name)} left out: it needs the sensor's size; "
                "region = [0, 2047, 2, 0, 2047, 2] is the whole sensor of a Prime BSI, two by two"
            )
        return
    x, y, width, height = _rectangle(roi) or (0, 0, 0, 0)
    columns, rows = _pair(binning) if binning_name else (1, 1)
    full = (width - width % max(columns, 1), height - height % max(rows, 1))
    if min(x, y) < 0 or min(columns, rows) < 1 or min(full) < 1:
        stated = f"{name} = {source.shown(name)}"
        source.remark(f"{stated} left out: no region x, y, width, height; the camera keeps its own")
        return
    draft.put("region", [x, x + full[0] - 1, columns, y, y + full[1] - 1, rows], name)
    source.remark(f"{name} = {source.shown(name)} (x, y, width, height) has inclusive ends and its binning now")
    if full != (width, height):
        source.remark(f"the region is {full[0]} x {full[1]} pixels, so that every bin is full")


def _rectangle(roi: Any) -> tuple[int, int, int, int] | None:
    if isinstance(roi, Mapping):
        roi = [roi.get("x", 0), roi.get("y", 0), roi.get("width", roi.get("w")), roi.get("height", roi.get("h"))]
    if isinstance(roi, list) and len(roi) == 4 and all(_is_whole(number) for number in roi):
        return roi[0], roi[1], roi[2], roi[3]
    return None


def _pair(binning: Any) -> tuple[int, int]:
    if _is_whole(binning):
        return binning, binning
    if isinstance(binning, list) and len(binning) == 2 and all(_is_whole(number) for number in binning):
        return binning[0], binning[1]
    return 0, 0


def _is_whole(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)
