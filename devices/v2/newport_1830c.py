"""Newport 1830-C optical power meter, blocking driver and v2 device."""

from __future__ import annotations

from typing import Any

from coexistence import Connection
from devices.options import Newport1830COptions
from devices.protocols.conversation import Conversation
from devices.protocols.newport_1830c import Newport1830CProtocol
from devices.v2.driver import BlockingDriver, Value
from devices.v2.legacy import DriverSignal, LegacyDevice


class Newport1830CDriver(BlockingDriver[Newport1830CProtocol]):
    """Blocking driver of a Newport 1830-C.

    Parameters
    ----------
    connection
        Wire, owner and default timeout.
    options
        Options of the meter, see :class:`devices.options.Newport1830COptions`.
    """

    power = Value[float]()
    """Power in W, whatever the display shows; OutOfScale when saturated or over range."""
    wavelength = Value[int]()
    """Wavelength in nm."""
    units = Value[str]()
    """Units of the display: W, dB, dBm or REL."""
    range = Value[int]()
    """0 for auto range, 1 (most sensitive) to 8, one decade each."""
    filter = Value[int]()
    """Samples averaged: 16, 4 or 1."""
    attenuator = Value[bool]()
    """Whether the detector's attenuator is declared to be in."""
    zero = Value[bool]()
    """Whether the stored zero is subtracted; setting it stores the present reading as zero."""
    beeper = Value[bool]()
    """Whether keys beep."""

    def __init__(self, connection: Connection, options: Newport1830COptions | None = None) -> None:
        self.options = options or Newport1830COptions()
        super().__init__(connection, self.options.protocol())

    def connect(self) -> None:
        """Open the wire, switch the echo off, check that an 1830-C answers, and apply the options."""
        super().connect()
        self.dialogue.hold(self._apply_settings)
        self.restore_after_reconnect(self._apply_settings)

    def store_reference(self) -> None:
        """Store the present reading as the reference of dB and relative readings."""
        self.dialogue.hold(self.protocol.store_reference)

    def _apply_settings(self) -> Conversation[None]:
        return self.protocol.apply(self.options.settings())


class Newport1830C(LegacyDevice):
    """Newport 1830-C as a v2 device.

    Parameters
    ----------
    connection
        Wire, owner and default timeout.
    name
        Name of the device; the power's column is ``<name>_power``, in W.
    options
        Options of the meter, see :class:`devices.options.Newport1830COptions`.
    """

    power = DriverSignal(kind="hinted")
    wavelength = DriverSignal(kind="config")
    units = DriverSignal(kind="config")
    range = DriverSignal(kind="config")
    filter = DriverSignal(kind="config")
    attenuator = DriverSignal(kind="config")
    zero = DriverSignal(kind="config")
    beeper = DriverSignal(kind="omitted")

    def __init__(self, connection: Connection, *, name: str, **options: Any) -> None:
        device_options, rest = Newport1830COptions.split(options)
        super().__init__(Newport1830CDriver(connection, device_options), name=name, **rest)

    def store_reference(self) -> Any:
        """Store the present reading as the reference of dB and relative readings; returns a status."""
        return self.do(self.driver.store_reference, f"storing the reference of {self.name}")
