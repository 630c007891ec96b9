"""Devices and the devices they consist of, by the name one would type: `stages.axis[1]`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bluesky.protocols import Locatable, Movable, Readable, WritesExternalAssets

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
        yield from _having(name, device, is_movable)


def detectors(devices: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield by name the devices that can be read, do not move, and write no files."""
    for name, device in devices.items():
        if isinstance(device, Readable) and not isinstance(device, WritesExternalAssets) and not _moves(device):
            yield name, device


def is_movable(device: Any) -> bool:
    """Whether a plan can move it as a whole and it knows where it is."""
    knows = isinstance(device, Locatable) or hasattr(device, "position")
    return isinstance(device, Movable) and knows and callable(getattr(device, "stop", None))


def parts_of(name: str, device: Any) -> Iterator[tuple[str, Any]]:
    """Yield by name the devices right below one, of either generation."""
    if isinstance(device, Mapping):
        items: Iterator[tuple[Any, Any]] = iter(device.items())
    elif callable(getattr(device, "children", None)):
        items = iter(device.children())
    else:
        items = ((each, getattr(device, each)) for each in getattr(device, "_sub_devices", ()))
    signals = _signal_class()
    for key, part in items:
        if not isinstance(part, signals):
            yield (f"{name}[{key}]" if str(key).isdigit() else f"{name}.{key}"), part


def _having(name: str, device: Any, wanted: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    if wanted(device):
        yield name, device
    for part_name, part in parts_of(name, device):
        yield from _having(part_name, part, wanted)


def _moves(device: Any) -> bool:
    return any(True for _ in _having("", device, is_movable))


def _signal_class() -> Any:
    """Return the class of v4 signals, which are devices too; nothing while no v4 device can exist."""
    core = sys.modules.get("ophyd_async.core")
    return core.Signal if core is not None else ()
