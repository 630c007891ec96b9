"""Newport 1830-C optical power meter as a v4 device."""

from __future__ import annotations

from typing import Annotated, Any

from ophyd_async.core import SignalR, SignalRW, TriggerableCommand
from ophyd_async.core import StandardReadableFormat as Format

from coexistence import Connection
from devices.options import Newport1830COptions
from devices.v4.wire_backend import CommandName, FieldName, WireDeviceConnector, WireReadable


class Newport1830C(WireReadable):
    """Newport 1830-C: power in W, whatever its display shows; saturated or over range is an error, never a number.

    Parameters
    ----------
    connection
        Wire, owner and default timeout.
    name
        Name of the device; the power's column is ``<name>_power``, in W.
    options
        Options of the meter, see :class:`devices.options.Newport1830COptions`.
    """

    power: Annotated[SignalR[float], FieldName("power"), Format.HINTED_UNCACHED_SIGNAL]
    wavelength: Annotated[SignalRW[int], FieldName("wavelength"), Format.CONFIG_SIGNAL]
    units: Annotated[SignalRW[str], FieldName("units"), Format.CONFIG_SIGNAL]
    range: Annotated[SignalRW[int], FieldName("range"), Format.CONFIG_SIGNAL]
    filter: Annotated[SignalRW[int], FieldName("filter"), Format.CONFIG_SIGNAL]
    attenuator: Annotated[SignalRW[bool], FieldName("attenuator"), Format.CONFIG_SIGNAL]
    zero: Annotated[SignalRW[bool], FieldName("zero"), Format.CONFIG_SIGNAL]
    beeper: Annotated[SignalRW[bool], FieldName("beeper")]
    store_reference: Annotated[TriggerableCommand, CommandName("store_reference")]

    def __init__(self, connection: Connection, *, name: str = "", **options: Any) -> None:
        own = Newport1830COptions(**options)
        protocol = own.protocol()
        connector = WireDeviceConnector(
            connection,
            protocol,
            begin=lambda: protocol.apply(own.settings()),
            restore=lambda: protocol.apply(own.settings()),
        )
        super().__init__(connector=connector)
        self.set_name(name, child_name_separator="_")
