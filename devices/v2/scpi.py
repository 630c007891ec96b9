"""SCPI instruments, blocking driver and v2 devices."""

from __future__ import annotations

from typing import Any, Self

from coexistence import Connection
from devices.options import ScpiInstrumentOptions, ScpiMeterOptions
from devices.protocols.scpi import ScpiProtocol
from devices.v2.driver import BlockingDriver
from devices.v2.legacy import DriverSignal, LegacyDevice


class ScpiDriver(BlockingDriver[ScpiProtocol]):
    """Blocking driver of any SCPI instrument.

    Parameters
    ----------
    connection
        The wire, from a VISA session's ``raw`` or a serial port, owner and default timeout.
    protocol
        What to say to the instrument.
    """

    def connect(self) -> None:
        """Open the wire, check the identity and send the set-up commands."""
        super().connect()
        self.dialogue.hold(self.protocol.restore)
        self.restore_after_reconnect(self.protocol.restore)

    def query(self, command: str) -> str:
        """Ask anything and return the reply."""
        return self.dialogue.hold(lambda: self.protocol.query(command))

    def query_block(self, command: str) -> bytes:
        """Ask for a binary block and return its data."""
        return self.dialogue.hold(lambda: self.protocol.query_block(command))

    def command(self, command: str) -> None:
        """Send a command; InstrumentFault when the error queue has something against it."""
        self.dialogue.hold(lambda: self.protocol.command(command))

    def wait_complete(self) -> None:
        """Wait until all commands are done (``*OPC?``)."""
        self.dialogue.hold(self.protocol.wait_complete)


class ScpiInstrument(LegacyDevice):
    """Any SCPI instrument as a v2 device, with the signals its options declare.

    Parameters
    ----------
    connection
        The wire, from a VISA session's ``raw`` or a serial port.
    name
        Name of the device; columns are called ``<name>_<signal>``.
    options
        See :class:`devices.options.ScpiInstrumentOptions`; ``signals`` and ``waveforms`` for two.
    """

    identity = DriverSignal(kind="config")

    def __new__(cls, _connection: Connection, *, name: str, **options: Any) -> Self:  # noqa: ARG004
        """Make the class with the signals of the options: ophyd takes the parts of a device from its class."""
        declared = ScpiInstrumentOptions.split(options)[0].parts
        parts = {name: DriverSignal(kind=part.kind) for name, part in declared.items()}
        return super().__new__(type(cls.__name__, (cls,), parts))

    def __init__(self, connection: Connection, *, name: str, **options: Any) -> None:
        own, rest = ScpiInstrumentOptions.split(options)
        super().__init__(ScpiDriver(connection, own.protocol()), name=name, **rest)


class ScpiMeter(LegacyDevice):
    """SCPI multimeter as a v2 device: the reading's column is ``<name>_reading``, in the function's units.

    Parameters
    ----------
    connection
        The wire, from a VISA session's ``raw`` or a serial port.
    name
        Name of the device.
    options
        See :class:`devices.options.ScpiMeterOptions`; ``function`` for one.
    """

    reading = DriverSignal(kind="hinted")
    identity = DriverSignal(kind="config")
    function = DriverSignal(kind="config")
    range = DriverSignal(kind="config")
    auto_range = DriverSignal(kind="config")

    def __new__(cls, _connection: Connection, *, name: str, **options: Any) -> Self:  # noqa: ARG004
        """Make the class with an integration time where the function has one."""
        fields = ScpiMeterOptions.split(options)[0].protocol().fields
        parts = {"nplc": DriverSignal(kind="config")} if "nplc" in fields else {}
        return super().__new__(type(cls.__name__, (cls,), parts))

    def __init__(self, connection: Connection, *, name: str, **options: Any) -> None:
        own, rest = ScpiMeterOptions.split(options)
        rest.setdefault("timeout_s", own.reply_timeout + 10.0)
        super().__init__(ScpiDriver(connection, own.protocol()), name=name, **rest)
