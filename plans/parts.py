"""What a device consists of, by the names one would type: `stages.axis[1]`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bluesky.protocols import Locatable, Movable

_MOST_NAMED = 6


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


def having(name: str, device: Any, wanted: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    """Yield by name a device and all it consists of, as far as they are wanted."""
    if wanted(device):
        yield name, device
    for part_name, part in parts_of(name, device):
        yield from having(part_name, part, wanted)


def such_as(name: str, device: Any, wanted: Callable[[Any], bool]) -> str:
    """Return words that name the wanted parts of a device, such as ``, such as stages.axis[1]``; empty without any."""
    names = [part for part, _ in having(name, device, wanted)]
    if not names:
        return ""
    if len(names) > _MOST_NAMED:
        return f", such as {', '.join(names[:_MOST_NAMED])} …"
    return f", such as {' or '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}"


def _signal_class() -> Any:
    """Return the class of v4 signals, which are devices too; nothing while no v4 device can exist."""
    core = sys.modules.get("ophyd_async.core")
    return core.Signal if core is not None else ()
