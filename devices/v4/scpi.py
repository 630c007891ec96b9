"""SCPI instruments as v4 devices."""

from __future__ import annotations

from typing import Annotated, Any

from ophyd_async.core import SignalR, SignalRW
from ophyd_async.core import StandardReadableFormat as Format

from coexistence import Connection
from devices.options import ScpiInstrumentOptions, ScpiMeterOptions
from devices.v4.wire_backend import FieldName, WireDeviceConnector, WireReadable

_FORMATS = {
    "hinted": Format.HINTED_UNCACHED_SIGNAL,
    "normal": Format.UNCACHED_SIGNAL,
    "config": Format.CONFIG_SIGNAL,
}


class ScpiInstrument(WireReadable):
    """Any SCPI instrument as a v4 device, with the signals its options declare.

    Parameters
    ----------
    connection
        The wire, from a VISA session's ``raw`` or a serial port.
    name
        Name of the device; columns are called ``<name>_<signal>``.
    options
        See :class:`devices.options.ScpiInstrumentOptions`; ``signals`` and ``waveforms`` for two.
    """

    identity: Annotated[SignalR[str], FieldName("identity"), Format.CONFIG_SIGNAL]

    def __init__(self, connection: Connection, *, name: str = "", **options: Any) -> None:
        own = ScpiInstrumentOptions(**options)
        self._protocol = protocol = own.protocol()
        self._wire = WireDeviceConnector(connection, protocol, begin=protocol.restore, restore=protocol.restore)
        super().__init__(connector=self._wire)
        for part_name, declared in own.parts.items():
            signal = self._wire.make_signal(part_name)
            setattr(self, part_name, signal)
            if declared.kind in _FORMATS:
                self.add_readables([signal], _FORMATS[declared.kind])
        self.set_name(name, child_name_separator="_")

    async def query(self, command: str) -> str:
        """Ask anything and return the reply. Cancelled, the reply is read and dropped in the background."""
        return await self._wire.hold(lambda: self._protocol.query(command))

    async def query_block(self, command: str) -> bytes:
        """Ask for a binary block and return its data. Cancelled as :meth:`query`."""
        return await self._wire.hold(lambda: self._protocol.query_block(command))


class ScpiMeter(WireReadable):
    """SCPI multimeter as a v4 device: the reading's column is ``<name>_reading``, in the function's units.

    Parameters
    ----------
    connection
        The wire, from a VISA session's ``raw`` or a serial port.
    name
        Name of the device.
    options
        See :class:`devices.options.ScpiMeterOptions`; ``function`` for one.
    """

    reading: Annotated[SignalR[float], FieldName("reading"), Format.HINTED_UNCACHED_SIGNAL]
    identity: Annotated[SignalR[str], FieldName("identity"), Format.CONFIG_SIGNAL]
    function: Annotated[SignalR[str], FieldName("function"), Format.CONFIG_SIGNAL]
    range: Annotated[SignalRW[float], FieldName("range"), Format.CONFIG_SIGNAL]
    auto_range: Annotated[SignalRW[bool], FieldName("auto_range"), Format.CONFIG_SIGNAL]

    def __init__(self, connection: Connection, *, name: str = "", **options: Any) -> None:
        own = ScpiMeterOptions(**options)
        protocol = own.protocol()
        wire = WireDeviceConnector(connection, protocol, begin=protocol.restore, restore=protocol.restore)
        super().__init__(connector=wire)
        if "nplc" in protocol.fields:
            self.nplc = wire.make_signal("nplc")
            self.add_readables([self.nplc], Format.CONFIG_SIGNAL)
        self.set_name(name, child_name_separator="_")
