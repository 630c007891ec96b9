"""v2: blocking drivers as synchronous ophyd devices that never block the event loop."""

from devices.v2.driver import BlockingDriver, Value
from devices.v2.elliptec import Elliptec, ElliptecDriver
from devices.v2.errors import DriverHung, NotMeasured, PositionRefused
from devices.v2.esp300 import ESP300, ESP300AxisDriver, ESP300Driver
from devices.v2.legacy import DriverSignal, LegacyDevice, MeasuredSignal
from devices.v2.maitai import MaiTai, MaiTaiDriver
from devices.v2.newport_1830c import Newport1830C, Newport1830CDriver
from devices.v2.polled import PolledDriver, PolledPositioner
from devices.v2.positioner import LegacyPositioner, Progress
from devices.v2.pvcam import PVCAMInstrument
from devices.v2.scpi import ScpiDriver, ScpiInstrument, ScpiMeter
from devices.v2.wrapping import wrap

__all__ = [
    "ESP300",
    "BlockingDriver",
    "DriverHung",
    "DriverSignal",
    "ESP300AxisDriver",
    "ESP300Driver",
    "Elliptec",
    "ElliptecDriver",
    "LegacyDevice",
    "LegacyPositioner",
    "MaiTai",
    "MaiTaiDriver",
    "MeasuredSignal",
    "Newport1830C",
    "Newport1830CDriver",
    "NotMeasured",
    "PVCAMInstrument",
    "PolledDriver",
    "PolledPositioner",
    "PositionRefused",
    "Progress",
    "ScpiDriver",
    "ScpiInstrument",
    "ScpiMeter",
    "Value",
    "wrap",
]
