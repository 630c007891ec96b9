"""Newport ESP300 motion controller, blocking driver and v2 device."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Self

from ophyd import Component
from ophyd.status import DeviceStatus

from coexistence import Connection, Rank
from devices.errors import MoveTimedOut
from devices.options import ESP300Options
from devices.protocols.esp300 import Esp300Axis, Esp300Protocol
from devices.v2.driver import BlockingDriver, Value
from devices.v2.esp300_flyer import SweepingPositioner
from devices.v2.legacy import DriverSignal, LegacyDevice
from devices.v2.polled import POLL_PERIOD_S, PolledDriver


class ESP300AxisDriver(PolledDriver):
    """Blocking driver of one axis."""

    protocol: Esp300Axis

    setpoint = Value[float]()
    """Where it was sent."""
    velocity = Value[float]()
    """Velocity of motions, in units per second."""
    acceleration = Value[float]()
    """Acceleration, in units per second squared."""
    deceleration = Value[float]()
    """Deceleration, in units per second squared."""
    low_limit = Value[float]()
    """Lower software limit."""
    high_limit = Value[float]()
    """Upper software limit."""
    enabled = Value[bool]()
    """Whether the motor is on."""
    stage = Value[str]()
    """Model and serial number of the stage."""

    def __init__(self, connection: Connection, protocol: Esp300Axis, options: ESP300Options) -> None:
        super().__init__(connection, protocol, move_timeout=options.move_timeout)
        self.home_timeout = options.home_timeout

    def home(self, mode: int | None = None) -> None:
        """Search the home position, and return when it is found.

        Parameters
        ----------
        mode
            0 zero count, 1 home and index, 2 home, 3/4 plus/minus limit, 5/6 plus/minus limit and index; by default
            that of the options.

        Raises
        ------
        MoveTimedOut
            When it takes too long; the axis is stopped then.
        """
        self.dialogue.hold(lambda: self.protocol.start_home(mode))
        self.follow(None)
        deadline = time.monotonic() + self.home_timeout
        while self.ask_motion().moving:
            if time.monotonic() >= deadline:
                self.stop()
                axis = f"{self.connection.owner}, axis {self.protocol.number}"
                raise MoveTimedOut(axis, "homing", self.home_timeout)
            time.sleep(POLL_PERIOD_S)


class ESP300Driver(BlockingDriver[Esp300Protocol]):
    """Blocking driver of an ESP300.

    Parameters
    ----------
    connection
        Wire, owner and default timeout.
    options
        Options of the controller, see :class:`devices.options.ESP300Options`.
    """

    version = Value[str]()
    """Version of the controller."""

    def __init__(self, connection: Connection, options: ESP300Options | None = None) -> None:
        chosen = options or ESP300Options()
        super().__init__(connection, chosen.protocol())
        self.axes: Mapping[int, ESP300AxisDriver] = {
            number: ESP300AxisDriver(connection, axis, chosen) for number, axis in self.protocol.axes.items()
        }

    def abort(self) -> None:
        """Stop all axes at once, before everybody else on the wire."""
        self.dialogue.hold(self.protocol.abort, rank=Rank.URGENT)


class ESP300Axis(SweepingPositioner):
    """One axis as a v2 device, to be moved or swept at constant velocity. Made by :class:`ESP300`."""

    readback = DriverSignal(kind="hinted")
    velocity = DriverSignal(kind="config")
    acceleration = DriverSignal(kind="config")
    deceleration = DriverSignal(kind="config")
    low_limit = DriverSignal(kind="config")
    high_limit = DriverSignal(kind="config")
    enabled = DriverSignal(kind="config")
    stage_model = DriverSignal("stage", kind="config")

    def __init__(self, *, number: int, parent: ESP300, name: str, **options: Any) -> None:
        super().__init__(parent.driver.axes[number], name=name, parent=parent, **options)

    def home(self, mode: int | None = None) -> DeviceStatus:
        """Search the home position; returns a status."""
        limit = self.driver.home_timeout + self.timeout_s
        return self.do_and_look(lambda: self.driver.home(mode), f"homing {self.name}", limit)


class ESP300(LegacyDevice):
    """Newport ESP300 as a v2 device: each axis is a positioner, ``axis[1]`` with the column ``<name>_axis_1``.

    Parameters
    ----------
    connection
        Wire, owner and default timeout.
    name
        Name of the device.
    options
        Options of the controller, see :class:`devices.options.ESP300Options`.
    """

    version = DriverSignal(kind="config")

    def __new__(cls, _connection: Connection, *, name: str, **options: Any) -> Self:  # noqa: ARG004
        """Make the class with the axes of the options: ophyd takes the parts of a device from its class."""
        numbers = ESP300Options.split(options)[0].axes
        parts = {f"axis_{number}": Component(ESP300Axis, number=number) for number in numbers}
        return super().__new__(type(cls.__name__, (cls,), parts))

    def __init__(self, connection: Connection, *, name: str, **options: Any) -> None:
        own, rest = ESP300Options.split(options)
        super().__init__(ESP300Driver(connection, own), name=name, **rest)

    @property
    def axis(self) -> Mapping[int, ESP300Axis]:
        """The axes by number."""
        return {number: getattr(self, f"axis_{number}") for number in self.driver.axes}
