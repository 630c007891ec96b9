"""What the runtime, a generation and an instrument can be in, and what is told when that changes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coexistence.config import Generation


class RuntimeState(Enum):
    """Where the runtime as a whole is; it only ever goes forward."""

    UNINITIALIZED = "uninitialized"
    STARTING = "starting"
    RUNNING = "running"
    SHUTTING_DOWN = "shutting down"
    STOPPED = "stopped"


class GenerationState(Enum):
    """How a generation is: nothing of it started, something of it runs, or nothing runs although it was started."""

    INACTIVE = "inactive"
    ACTIVE = "active"
    ERROR = "error"


class InstrumentState(Enum):
    """Where one instrument is."""

    CONFIGURED = "configured"
    STARTING = "starting"
    RUNNING = "running"
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True)
class InstrumentStatus:
    """One instrument at one moment.

    ``error`` is what it failed with, ``took_s`` how long its last start took (s), ``restarts`` how often it was
    started again.
    """

    name: str
    generation: Generation
    state: InstrumentState
    error: BaseException | None = None
    took_s: float = 0.0
    restarts: int = 0


@dataclass(frozen=True)
class GenerationStatus:
    """One generation at one moment; ``failed`` has the reason for each instrument that does not run."""

    state: GenerationState
    running: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Transition:
    """A change of state: of the runtime (``subject`` is ``"runtime"``), or of the instrument ``subject`` names."""

    subject: str
    before: RuntimeState | InstrumentState
    after: RuntimeState | InstrumentState
    error: BaseException | None = None
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class ShutdownReport:
    """How a shutdown went.

    Attributes
    ----------
    duration_s
        Seconds from the call to ``STOPPED``.
    steps
        What each step took (s), in order.
    problems
        What did not end in order, one sentence each.
    left_behind
        Names of daemon threads that are still in a call that does not return.
    """

    duration_s: float
    steps: Mapping[str, float]
    problems: tuple[str, ...] = ()
    left_behind: tuple[str, ...] = ()
