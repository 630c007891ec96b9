"""Columns that are worked out from what a device has read in the same event."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.protocols import Triggerable
from bluesky.utils import Msg
from event_model import DataKey

from plans.checks import position_column


class WithDerived:
    """Stands for a device in an event: reads it, and adds columns that follow from its position.

    Parameters
    ----------
    device
        A mover.
    data_keys
        The further columns.
    derive
        Gives their values for a position.
    """

    parent = None

    def __init__(
        self, device: Any, data_keys: Mapping[str, DataKey], derive: Callable[[float], Mapping[str, float]]
    ) -> None:
        self.name = device.name
        self.hints = {"fields": list(data_keys)}
        self.device = device
        self._data_keys = dict(data_keys)
        self._derive = derive
        self._column = position_column(device)

    async def read(self) -> dict[str, Any]:
        """Read the device and derive."""
        readings = dict(await _answer(self.device.read()))
        position = readings[self._column]
        derived = self._derive(position["value"])
        for column in self._data_keys:
            readings[column] = {"value": float(derived[column]), "timestamp": position["timestamp"]}
        return readings

    async def describe(self) -> dict[str, DataKey]:
        """Return the device's columns and the derived ones."""
        return {**await _answer(self.device.describe()), **self._data_keys}

    def read_configuration(self) -> Any:
        """Return the settings of the device."""
        return self.device.read_configuration()

    def describe_configuration(self) -> Any:
        """Return what the settings of the device are."""
        return self.device.describe_configuration()


def step_with(derived: WithDerived) -> Callable[..., Generator[Msg, Any, None]]:
    """Return what bluesky's `scan` takes as `per_step`: move, measure, and read with the derived columns."""

    def per_step(detectors: Sequence[Any], motor: Any, step: Any) -> Generator[Msg, Any, None]:
        yield from bps.checkpoint()
        yield from bps.mv(motor, step)
        yield from read_event([*detectors, motor], [*detectors, derived])

    return per_step


def read_event(triggered: Sequence[Any], read: Sequence[Any]) -> Generator[Msg, Any, None]:
    """Measure some devices and read some into one event; unlike bluesky's, also a part of a device beside it."""
    waiting = [device for device in triggered if isinstance(device, Triggerable)]
    for device in waiting:
        yield from bps.trigger(device, group="event")
    if waiting:
        yield from bps.wait(group="event")
    yield from bps.create("primary")
    for device in read:
        yield from bps.read(device)
    yield from bps.save()


async def _answer(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
