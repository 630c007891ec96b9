"""Two generations of instruments in one runtime: start, health, restart, shutdown."""

from coexistence.runtime.errors import ConnectTimeout, HealthTimeout, StopTimeout, UnknownName, WrongState
from coexistence.runtime.health import Health, InstrumentHealth, ProcessHealth
from coexistence.runtime.instrument import AsyncInstrument, BlockingInstrument, ManagedInstrument
from coexistence.runtime.limits import RuntimeLimits
from coexistence.runtime.manager import DualRuntimeManager
from coexistence.runtime.states import (
    GenerationState,
    GenerationStatus,
    InstrumentState,
    InstrumentStatus,
    RuntimeState,
    ShutdownReport,
    Transition,
)
from coexistence.runtime.supervisor import RestartPolicy, Supervisor
from coexistence.runtime.termination import exit_on_sigterm

__all__ = [
    "AsyncInstrument",
    "BlockingInstrument",
    "ConnectTimeout",
    "DualRuntimeManager",
    "GenerationState",
    "GenerationStatus",
    "Health",
    "HealthTimeout",
    "InstrumentHealth",
    "InstrumentState",
    "InstrumentStatus",
    "ManagedInstrument",
    "ProcessHealth",
    "RestartPolicy",
    "RuntimeLimits",
    "RuntimeState",
    "ShutdownReport",
    "StopTimeout",
    "Supervisor",
    "Transition",
    "UnknownName",
    "WrongState",
    "exit_on_sigterm",
]
