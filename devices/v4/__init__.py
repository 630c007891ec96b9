"""v4: ophyd-async devices over shared wires."""

from devices.v4.elliptec import Elliptec
from devices.v4.movable import WireMovable, WireMovableLogic
from devices.v4.newport_1830c import Newport1830C
from devices.v4.wire_backend import CommandName, FieldName, WireDeviceConnector, WireSignalBackend

__all__ = [
    "CommandName",
    "Elliptec",
    "FieldName",
    "Newport1830C",
    "WireDeviceConnector",
    "WireMovable",
    "WireMovableLogic",
    "WireSignalBackend",
]
