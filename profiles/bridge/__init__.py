"""The measurement bridge: every measurement of both generations in one stream, inside and outside of runs."""

from profiles.bridge.bridge import BridgeStatistics, MeasurementBridge
from profiles.bridge.measurement import FrameReference, UnifiedMeasurement
from profiles.bridge.sources import DocumentSource, watch_device
from profiles.bridge.subscription import BridgeClosed, Missed, Subscription

__all__ = [
    "BridgeClosed",
    "BridgeStatistics",
    "DocumentSource",
    "FrameReference",
    "MeasurementBridge",
    "Missed",
    "Subscription",
    "UnifiedMeasurement",
    "watch_device",
]
