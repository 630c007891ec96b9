"""Devices and the devices they consist of, by the name one would type: `stages.axis[1]`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bluesky.protocols import Readable, WritesExternalAssets

from plans.parts import having, is_movable, parts_of

_NAME = re.compile(r"(?P<device>[^\W\d]\w*)(?P<part>(?:\.[^\W\d]\w*|\[\d+\])*)\Z")
_STEP = re.compile(r"\.(?P<attribute>[^\W\d]\w*)|\[(?P<index>\d+)\]")


def find_part(devices: Mapping[str, Any], name: str) -> Any:
    """Return a device, or the part of one that a dotted name with indices means.

    Raises
    ------
    KeyError
        No such device is connected; says why.
    ValueError
        The device has no such part, or the name is none.
    """
    match = _NAME.match(name)
    if match is None:
        raise ValueError(f"{name!r} is no name of a device; write it like power, stages.axis[1] or laser.wavelength")
    found = devices[match["device"]]
    so_far = match["device"]
    for step in _STEP.finditer(match["part"]):
        try:
            found = getattr(found, step["attribute"]) if step["attribute"] else found[int(step["index"])]
        except (AttributeError, LookupError, TypeError):
            there = ", ".join(part for part, _ in parts_of(so_far, found))
            raise ValueError(f"{so_far} has no part {step[0]}" + (f"; there are: {there}" if there else "")) from None
        so_far += step[0]
    return found


def movables(devices: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield by name everything that has a position of its own: devices, and axes of devices; signals are not."""
    for name, device in devices.items():
        yield from having(name, device, is_movable)


def detectors(devices: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield by name the devices that can be read, do not move, and write no files."""
    for name, device in devices.items():
        if isinstance(device, Readable) and not isinstance(device, WritesExternalAssets) and not _moves(device):
            yield name, device


def _moves(device: Any) -> bool:
    return any(True for _ in having("", device, is_movable))
