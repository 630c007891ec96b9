"""Spectra-Physics Mai Tai laser as a v4 device."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any

from ophyd_async.core import SignalR, SignalRW, TriggerableCommand
from ophyd_async.core import StandardReadableFormat as Format

from coexistence import Connection
from devices.options import MaiTaiOptions
from devices.protocols.maitai import MaiTaiProtocol
from devices.v4.movable import WireMovable
from devices.v4.polled import PolledLogic
from devices.v4.wire_backend import CommandName, FieldName, WireDeviceConnector, WireReadable


class MaiTaiWavelength(WireMovable, WireReadable):
    """The wavelength in nm as a v4 movable. Made by :class:`MaiTai`."""

    readback: Annotated[SignalR[float], FieldName("readback"), Format.HINTED_UNCACHED_SIGNAL]
    setpoint: Annotated[SignalRW[float], FieldName("setpoint")]

    def __init__(self, connection: Connection, protocol: MaiTaiProtocol, tuning_timeout: float) -> None:
        self._protocol = protocol.wavelength
        self._tuning_timeout = tuning_timeout
        self._wire = WireDeviceConnector(connection, self._protocol)
        super().__init__(connector=self._wire)

    @cached_property
    def movable_logic(self) -> PolledLogic:
        """How the laser tunes."""
        return PolledLogic(self.setpoint, self.readback, self._wire, self._protocol, self._tuning_timeout)


class MaiTai(WireReadable):
    """Mai Tai as a v4 device.

    Opening the shutter is always an explicit act, and the shutter cannot be "stopped": what a plan has opened stays
    open when the plan has ended. Stopping the wavelength only ends tuning.

    Parameters
    ----------
    connection
        Wire, owner and default timeout.
    name
        Name of the device.
    options
        Options of the laser, see :class:`devices.options.MaiTaiOptions`.
    """

    power: Annotated[SignalR[float], FieldName("power"), Format.HINTED_UNCACHED_SIGNAL]
    pump_power: Annotated[SignalR[float], FieldName("pump_power"), Format.UNCACHED_SIGNAL]
    warmed_up: Annotated[SignalR[float], FieldName("warmed_up"), Format.UNCACHED_SIGNAL]
    modelocked: Annotated[SignalR[bool], FieldName("modelocked"), Format.UNCACHED_SIGNAL]
    shutter: Annotated[SignalRW[bool], FieldName("shutter"), Format.UNCACHED_SIGNAL]
    emission: Annotated[SignalRW[bool], FieldName("emission"), Format.UNCACHED_SIGNAL]
    humidity: Annotated[SignalR[float], FieldName("humidity")]
    identity: Annotated[SignalR[str], FieldName("identity"), Format.CONFIG_SIGNAL]
    warm_up: Annotated[TriggerableCommand, CommandName("warm_up")]

    def __init__(self, connection: Connection, *, name: str = "", **options: Any) -> None:
        own = MaiTaiOptions(**options)
        protocol = own.protocol()
        with self.add_children_as_readables():
            self.wavelength = MaiTaiWavelength(connection, protocol, own.tuning_timeout)
        super().__init__(
            connector=WireDeviceConnector(connection, protocol, begin=protocol.restore, restore=protocol.restore)
        )
        self.set_name(name, child_name_separator="_")
