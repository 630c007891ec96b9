"""Devices and their parts by the names people write: `polarizer`, `stages.axis.1`, `stages_axis_1`, `laser.shutter`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from coexistence.errors import CoexistenceError

GENERATIONS = ("v2", "v4")


class UnknownDevice(CoexistenceError):
    """No device is called so; `suggestions` are names that are nearly the same."""

    def __init__(self, name: str, known: Iterable[str], failures: Mapping[str, object] | None = None) -> None:
        self.name = name
        self.known = tuple(known)
        self.suggestions = tuple(difflib.get_close_matches(name, self.known, n=3, cutoff=0.5))
        if failures and name in failures:
            super().__init__(f"not connected: {failures[name]}")
            return
        meant = f"did you mean {' or '.join(map(repr, self.suggestions))}? " if self.suggestions else ""
        super().__init__(f"no device is called {name!r}; {meant}there are: {', '.join(self.known) or 'none'}")


def split_name(name: str) -> list[str]:
    """Return the parts of a name: `stages.axis[1]` is `stages`, `axis`, `1`."""
    return [part for part in name.replace("[", ".").replace("]", "").split(".") if part]


def meant_ids(name: str, ids: Iterable[str]) -> list[str]:
    """Return the ids that a name stands for: itself, or one of each generation (`power`: `power_v2`, `power_v4`)."""
    known = list(ids)
    if name in known:
        return [name]
    return [twin for generation in GENERATIONS if (twin := f"{name}_{generation}") in known]


def find_devices(devices: Mapping[str, Any], name: str, failures: Mapping[str, object] | None = None) -> list[Any]:
    """Return what a name stands for: one device or part, or one of each generation.

    Parameters
    ----------
    devices
        By id.
    name
        An id, a part of a device (`stages.axis.1`, `laser.shutter`), a column (`stages_axis_1`), or what the ids of
        both generations begin with (`power` for `power_v2` and `power_v4`).
    failures
        Why others are not there, by id.

    Raises
    ------
    UnknownDevice
        There is none.
    """
    first, *rest = split_name(name) or [name]
    ids = meant_ids(first, devices)
    if ids:
        return [_part(devices[device_id], rest, name) for device_id in ids]
    for part_name, part in parts(devices):
        if part_name == name:
            return [part]
    raise UnknownDevice(name, devices, failures)


def find_device(devices: Mapping[str, Any], name: str, failures: Mapping[str, object] | None = None) -> Any:
    """Return the one device that a name stands for; of both generations, the newer. See :func:`find_devices`."""
    return find_devices(devices, name, failures)[-1]


def parts(devices: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield devices and all their parts with their own names."""
    for device in devices.values():
        yield from _walk(device)


def _walk(device: Any) -> Iterator[tuple[str, Any]]:
    yield getattr(device, "name", ""), device
    if callable(getattr(device, "walk_signals", None)):
        yield from ((part.name, part) for _, part in device.walk_subdevices())
        yield from ((walk.item.name, walk.item) for walk in device.walk_signals())
    elif callable(getattr(device, "children", None)):
        for _, child in device.children():
            yield from _walk(child)


def _part(device: Any, path: list[str], name: str) -> Any:
    so_far = split_name(name)[0]
    for word in path:
        try:
            device = device[int(word)] if word.isdigit() else getattr(device, word)
        except (KeyError, AttributeError, TypeError):
            raise UnknownDevice(name, [f"{so_far}.{part}" for part in _public_parts(device)]) from None
        so_far += f".{word}"
    return device


def _public_parts(device: Any) -> list[str]:
    if isinstance(device, Mapping):
        return [str(part) for part in device]
    if callable(getattr(device, "children", None)):
        return [str(part) for part, _ in device.children()]
    return list(getattr(device, "component_names", ()))
