"""Spectra-Physics Mai Tai laser, blocking driver and v2 device."""

from __future__ import annotations

from typing import Any

from ophyd import Component
from ophyd.status import DeviceStatus

from coexistence import Connection
from devices.options import MaiTaiOptions
from devices.protocols.maitai import MaiTaiProtocol
from devices.v2.driver import BlockingDriver, Value
from devices.v2.legacy import DriverSignal, LegacyDevice
from devices.v2.polled import PolledDriver, PolledPositioner


class MaiTaiDriver(BlockingDriver[MaiTaiProtocol]):
    """Blocking driver of a Mai Tai. Connecting changes neither wavelength nor shutter nor emission.

    Parameters
    ----------
    connection
        Wire, owner and default timeout.
    options
        Options of the laser, see :class:`devices.options.MaiTaiOptions`.
    """

    power = Value[float]()
    """Output power in W."""
    pump_power = Value[float]()
    """Pump power in W."""
    warmed_up = Value[float]()
    """Warm-up in percent."""
    humidity = Value[float]()
    """Humidity in percent."""
    modelocked = Value[bool]()
    """Whether the laser is modelocked."""
    shutter = Value[bool]()
    """Whether the shutter is open."""
    emission = Value[bool]()
    """Whether emission is possible; NotWarm when it is switched on before the laser is warm."""

    def __init__(self, connection: Connection, options: MaiTaiOptions | None = None) -> None:
        chosen = options or MaiTaiOptions()
        super().__init__(connection, chosen.protocol())
        self.wavelength = PolledDriver(connection, self.protocol.wavelength, move_timeout=chosen.tuning_timeout)

    def connect(self) -> None:
        """Open the wire and check that a Mai Tai answers; set the laser's watchdog if the options say so."""
        super().connect()
        self.dialogue.hold(self.protocol.restore)
        self.restore_after_reconnect(self.protocol.restore)

    def warm_up(self) -> None:
        """Start the two minutes of diode stabilisation; a laser that is warm or warming is left alone."""
        self.dialogue.hold(self.protocol.warm_up)


class MaiTaiWavelength(PolledPositioner):
    """The wavelength in nm as a v2 positioner. Made by :class:`MaiTai`."""

    def __init__(self, *, parent: MaiTai, name: str, **options: Any) -> None:
        super().__init__(parent.driver.wavelength, name=name, parent=parent, **options)


class MaiTai(LegacyDevice):
    """Mai Tai as a v2 device.

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

    wavelength = Component(MaiTaiWavelength)
    power = DriverSignal(kind="hinted")
    pump_power = DriverSignal()
    warmed_up = DriverSignal()
    modelocked = DriverSignal()
    shutter = DriverSignal()
    emission = DriverSignal()
    humidity = DriverSignal(kind="omitted")
    identity = DriverSignal(kind="config")

    def __init__(self, connection: Connection, *, name: str, **options: Any) -> None:
        own, rest = MaiTaiOptions.split(options)
        super().__init__(MaiTaiDriver(connection, own), name=name, **rest)

    def warm_up(self) -> DeviceStatus:
        """Start the two minutes of diode stabilisation; returns a status that is done when they have begun."""
        return self.do(self.driver.warm_up, f"starting the warm-up of {self.name}")
