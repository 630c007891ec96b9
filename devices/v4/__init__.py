"""v4: ophyd-async devices over shared wires."""

from devices.v4.elliptec import Elliptec
from devices.v4.esp300 import ESP300, ESP300Axis
from devices.v4.maitai import MaiTai, MaiTaiWavelength
from devices.v4.movable import WireMovable, WireMovableLogic
from devices.v4.newport_1830c import Newport1830C
from devices.v4.polled import PolledLogic
from devices.v4.pvcam import PVCAMInstrument
from devices.v4.scpi import ScpiInstrument, ScpiMeter
from devices.v4.wire_backend import CommandName, FieldName, WireDeviceConnector, WireReadable, WireSignalBackend

__all__ = [
    "ESP300",
    "CommandName",
    "ESP300Axis",
    "Elliptec",
    "FieldName",
    "MaiTai",
    "MaiTaiWavelength",
    "Newport1830C",
    "PVCAMInstrument",
    "PolledLogic",
    "ScpiInstrument",
    "ScpiMeter",
    "WireDeviceConnector",
    "WireMovable",
    "WireMovableLogic",
    "WireReadable",
    "WireSignalBackend",
]
