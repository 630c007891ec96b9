"""Newport ESP300 motion controller as a v4 device."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any

from ophyd_async.core import AsyncStatus, DeviceVector, SignalR, SignalRW, TriggerableCommand
from ophyd_async.core import StandardReadableFormat as Format

from coexistence import Connection
from devices.options import ESP300Options
from devices.protocols.esp300 import Esp300Axis
from devices.v4.esp300_flyer import SweepingAxis
from devices.v4.polled import PolledLogic
from devices.v4.wire_backend import CommandName, FieldName, WireDeviceConnector, WireReadable


class ESP300Axis(SweepingAxis, WireReadable):
    """One axis as a v4 device, to be moved or swept at constant velocity. Made by :class:`ESP300`."""

    readback: Annotated[SignalR[float], FieldName("readback"), Format.HINTED_UNCACHED_SIGNAL]
    setpoint: Annotated[SignalRW[float], FieldName("setpoint")]
    velocity: Annotated[SignalRW[float], FieldName("velocity"), Format.CONFIG_SIGNAL]
    acceleration: Annotated[SignalRW[float], FieldName("acceleration"), Format.CONFIG_SIGNAL]
    deceleration: Annotated[SignalRW[float], FieldName("deceleration"), Format.CONFIG_SIGNAL]
    low_limit: Annotated[SignalRW[float], FieldName("low_limit"), Format.CONFIG_SIGNAL]
    high_limit: Annotated[SignalRW[float], FieldName("high_limit"), Format.CONFIG_SIGNAL]
    enabled: Annotated[SignalRW[bool], FieldName("enabled"), Format.CONFIG_SIGNAL]
    stage_model: Annotated[SignalR[str], FieldName("stage"), Format.CONFIG_SIGNAL]

    def __init__(self, connection: Connection, protocol: Esp300Axis, options: ESP300Options) -> None:
        self._protocol = protocol
        self._options = options
        self.wire = WireDeviceConnector(connection, protocol)
        super().__init__(connector=self.wire)

    @cached_property
    def movable_logic(self) -> PolledLogic:
        """How the axis moves."""
        return PolledLogic(self.setpoint, self.readback, self.wire, self._protocol, self._options.move_timeout)

    @AsyncStatus.wrap
    async def home(self, mode: int | None = None) -> None:
        """Search the home position.

        Parameters
        ----------
        mode
            0 zero count, 1 home and index, 2 home, 3/4 plus/minus limit, 5/6 plus/minus limit and index; by default
            that of the options.

        Raises
        ------
        MoveTimedOut
            When it takes too long; the axis is stopped then, and also when this is cancelled.
        """
        async with self.stopped_on_failure("homing", self._options.home_timeout):
            await self.wire.dialogue.hold_async(lambda: self._protocol.start_home(mode))
            await self.movable_logic.follow(None, lambda _: None)


class ESP300(WireReadable):
    """Newport ESP300 as a v4 device: each axis is a movable, ``axis[1]`` with the column ``<name>_axis_1``.

    Parameters
    ----------
    connection
        Wire, owner and default timeout.
    name
        Name of the device.
    options
        Options of the controller, see :class:`devices.options.ESP300Options`.
    """

    version: Annotated[SignalR[str], FieldName("version"), Format.CONFIG_SIGNAL]
    abort: Annotated[TriggerableCommand, CommandName("abort")]

    def __init__(self, connection: Connection, *, name: str = "", **options: Any) -> None:
        own = ESP300Options(**options)
        protocol = own.protocol()
        with self.add_children_as_readables():
            self.axis = DeviceVector(
                {number: ESP300Axis(connection, axis, own) for number, axis in protocol.axes.items()}
            )
        super().__init__(connector=WireDeviceConnector(connection, protocol))
        self.set_name(name, child_name_separator="_")
