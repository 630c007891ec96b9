"""Wires and who may use them: arbitration, serial ports, VISA sessions, adoption of foreign drivers."""

from coexistence.adoption import Adoption, ExportedPort, LeaseRules, SharedSerial, adopt
from coexistence.arbiter import Arbiter
from coexistence.channel import Channel, ConnectionEvent
from coexistence.connection import Connection
from coexistence.device_cache import DeviceCache, SerialDevice
from coexistence.errors import (
    AcquireTimeout,
    CoexistenceError,
    CommandTimeout,
    ConfigError,
    DeadlockDetected,
    DeadlockMember,
    GuardNotHeld,
    GuardRevoked,
    LockOrderViolation,
    LoopBlocked,
    Problem,
    WireClosed,
    WireDisconnected,
    WireInUse,
    WouldDeadlock,
)
from coexistence.exchange import Reply
from coexistence.guard import Guard
from coexistence.hold import Hold, Rank
from coexistence.line_settings import LineSettings
from coexistence.resources import Guards, SharedResources, Waiting, WireUse
from coexistence.runtime import (
    DualRuntimeManager,
    GenerationState,
    Health,
    InstrumentHealth,
    InstrumentState,
    RestartPolicy,
    RuntimeLimits,
    RuntimeState,
)
from coexistence.serial_port import SerialPortPool, SharedSerialPort
from coexistence.visa_blocks import BlockError, block_end, block_payload, make_block
from coexistence.visa_manager import VisaSessionManager, VisaStatistics
from coexistence.visa_session import TextReply, VisaGuard, VisaSessionHandle
from coexistence.wire_statistics import LogEntry, OwnerStatistics, WireStatistics

__all__ = [
    "AcquireTimeout",
    "Adoption",
    "Arbiter",
    "BlockError",
    "Channel",
    "CoexistenceError",
    "CommandTimeout",
    "ConfigError",
    "Connection",
    "ConnectionEvent",
    "DeadlockDetected",
    "DeadlockMember",
    "DeviceCache",
    "DualRuntimeManager",
    "ExportedPort",
    "GenerationState",
    "Guard",
    "GuardNotHeld",
    "GuardRevoked",
    "Guards",
    "Health",
    "Hold",
    "InstrumentHealth",
    "InstrumentState",
    "LeaseRules",
    "LineSettings",
    "LockOrderViolation",
    "LogEntry",
    "LoopBlocked",
    "OwnerStatistics",
    "Problem",
    "Rank",
    "Reply",
    "RestartPolicy",
    "RuntimeLimits",
    "RuntimeState",
    "SerialDevice",
    "SerialPortPool",
    "SharedResources",
    "SharedSerial",
    "SharedSerialPort",
    "TextReply",
    "VisaGuard",
    "VisaSessionHandle",
    "VisaSessionManager",
    "VisaStatistics",
    "Waiting",
    "WireClosed",
    "WireDisconnected",
    "WireInUse",
    "WireStatistics",
    "WireUse",
    "WouldDeadlock",
    "adopt",
    "block_end",
    "block_payload",
    "make_block",
]
