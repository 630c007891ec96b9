"""A half-wave plate's rotator as a movable in units of power, for v4 rotators."""

from __future__ import annotations

import time
from typing import Any

from bluesky.protocols import Location, Reading
from event_model import DataKey
from ophyd_async.core import AsyncStatus, Device, Reference

from devices.power_calibration import PowerCalibration, PowerScale, PowerUnits
from devices.v4.movable import WireMovable


class HalfWavePlatePower(Device):
    """Sets the power behind a half-wave plate and a polarizer by turning the plate.

    What it reads is what the calibration says of the rotator's measured position, not a power that was measured.

    Parameters
    ----------
    rotator
        A movable in degrees that carries the plate.
    calibration
        Power by position, from a run or a file.
    name
        Name of the movable; its column has the same name, `<name>_rotator` is the rotator's position in degrees.
    units
        `W`, or `fraction` of the largest power.
    """

    def __init__(
        self,
        rotator: WireMovable,
        calibration: PowerCalibration,
        *,
        name: str,
        units: PowerUnits = "W",
    ) -> None:
        # Not as a child: the rotator keeps its name and its own place.
        self._rotator = Reference(rotator)
        limits = getattr(getattr(rotator.movable_logic, "protocol", None), "limits", None)
        self.scale = PowerScale(name, rotator.name, calibration, units, limits)
        self._calibrated_at = time.time()
        super().__init__(name)

    @property
    def rotator(self) -> WireMovable:
        """What carries the plate."""
        return self._rotator()

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest power that may be asked for."""
        return self.scale.limits

    @property
    def moving(self) -> bool:
        """Tell whether the rotator moves."""
        return self.rotator.moving

    @property
    def hints(self) -> dict[str, Any]:
        """The column that matters."""
        return {"fields": [self.name]}

    async def check_value(self, value: float) -> None:
        """Raise ValueRefused when the power cannot be set."""
        self.scale.check(value)

    def set(self, value: float) -> AsyncStatus:
        """Turn the plate to where the power is as wanted.

        The status fails as the rotator's does. Cancelled, the rotator is stopped.

        Raises
        ------
        ValueRefused
            When the power is outside of the limits; nothing is sent then.
        """
        return self._turn(self.scale.position(value))

    async def stop(self, success: bool = False) -> None:
        """Stop the rotator; returns at once."""
        await self.rotator.stop(success)

    async def locate(self) -> Location[float]:
        """Return where it was sent, and what the rotator's position means."""
        location = await self.rotator.locate()
        value = self.scale.value
        return Location(setpoint=value(location["setpoint"]), readback=value(location["readback"]))

    async def read(self) -> dict[str, Reading[Any]]:
        """Ask where the rotator is, and return the power that belongs to it."""
        reading = (await self.rotator.movable_logic.readback.read(cached=False))[self.rotator.name]
        return self.scale.read(reading["value"], reading["timestamp"])  # type: ignore[return-value]

    async def describe(self) -> dict[str, DataKey]:
        """Return the data keys."""
        return self.scale.describe()

    async def read_configuration(self) -> dict[str, Reading[Any]]:
        """Return the calibration."""
        return self.scale.read_configuration(self._calibrated_at)  # type: ignore[return-value]

    async def describe_configuration(self) -> dict[str, DataKey]:
        """Return the data keys of the calibration."""
        return self.scale.describe_configuration()

    @AsyncStatus.wrap
    async def _turn(self, angle_deg: float) -> None:
        await self.rotator.set(angle_deg)
