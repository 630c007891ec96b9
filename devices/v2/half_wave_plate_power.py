"""A half-wave plate's rotator as a positioner of power, for v2 rotators."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bluesky.protocols import Location
from ophyd import Device
from ophyd.positioner import PositionerBase
from ophyd.status import DeviceStatus, MoveStatus

from devices.power_calibration import PowerCalibration, PowerScale, PowerUnits
from devices.statuses import ended


class HalfWavePlatePower(Device, PositionerBase):
    """Sets the power behind a half-wave plate and a polarizer by turning the plate.

    What it reads is what the calibration says of the rotator's measured position, not a power that was measured.

    Parameters
    ----------
    rotator
        A positioner in degrees that carries the plate.
    calibration
        Power by position, from a run or a file.
    name
        Name of the positioner; its column has the same name, `<name>_rotator` is the rotator's position in degrees.
    units
        `W`, or `fraction` of the largest power.
    """

    def __init__(
        self, rotator: Any, calibration: PowerCalibration, *, name: str, units: PowerUnits = "W", **kwargs: Any
    ) -> None:
        self.rotator = rotator
        self.scale = PowerScale(name, rotator.name, calibration, units, rotator.limits)
        self._calibrated_at = time.time()
        super().__init__("", name=name, **kwargs)

    @property
    def position(self) -> float | None:
        """What the rotator's last measured position means; None before the first measurement."""
        angle = self.rotator.position
        return None if angle is None else self.scale.value(angle)

    async def locate(self) -> Location[float]:
        """Measure where the rotator is, and return the power that means: relative moves begin there.

        Does not block the event loop; cancelled, the measurement goes on.
        """
        await ended(self.trigger())
        position = self.scale.value(self.rotator.position)
        return Location(setpoint=position, readback=position)

    @property
    def egu(self) -> str:
        """Units of the position."""
        return self.scale.units

    @property
    def precision(self) -> int:
        """Digits after the decimal point worth showing."""
        return self.scale.precision

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest power that may be asked for."""
        return self.scale.limits

    @property
    def moving(self) -> bool:
        """Tell whether the rotator moves."""
        return bool(self.rotator.moving)

    @property
    def hints(self) -> dict[str, Any]:
        """The column that matters."""
        return {"fields": [self.name]}

    def check_value(self, pos: float) -> None:
        """Raise ValueRefused when the power cannot be set."""
        self.scale.check(pos)

    def move(
        self,
        position: float,
        wait: bool = False,
        timeout: float | None = None,
        moved_cb: Callable[..., None] | None = None,
    ) -> MoveStatus:
        """Turn the plate to where the power is as wanted; see ophyd's positioners.

        Raises
        ------
        ValueRefused
            When the power is outside of the limits; nothing is sent then.
        """
        angle = self.scale.position(position)
        status = MoveStatus(self, position, timeout=timeout, call_stop_on_failure=False)
        if moved_cb is not None:
            status.add_callback(partial(moved_cb, obj=self))
        self.rotator.set(angle).add_callback(lambda turned: _pass_on(turned, status))
        if wait:
            status.wait()
        return status

    def stop(self, *, success: bool = False) -> None:
        """Stop the rotator; returns at once."""
        self.rotator.stop(success=success)

    def trigger(self) -> DeviceStatus:
        """Measure the rotator's position."""
        status = DeviceStatus(self, call_stop_on_failure=False)
        self.rotator.trigger().add_callback(lambda measured: _pass_on(measured, status))
        return status

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the power and the rotator's position as they were measured last."""
        reading = self.rotator.read()[self.rotator.name]
        return self.scale.read(reading["value"], reading["timestamp"])

    def describe(self) -> dict[str, Any]:
        """Return the data keys."""
        return dict(self.scale.describe())

    def read_configuration(self) -> dict[str, Any]:
        """Return the calibration."""
        return self.scale.read_configuration(self._calibrated_at)

    def describe_configuration(self) -> dict[str, Any]:
        """Return the data keys of the calibration."""
        return dict(self.scale.describe_configuration())


def _pass_on(ended: Any, status: DeviceStatus) -> None:
    if status.done:
        return
    error = ended.exception(timeout=0)
    if error is None:
        status.set_finished()
    else:
        status.set_exception(error)
