"""How a runtime is: each instrument's own answer, the wires, and what the process uses of the computer."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from coexistence.runtime.states import GenerationStatus, InstrumentState, RuntimeState

if TYPE_CHECKING:
    from coexistence.config import Generation
    from coexistence.resources import WireUse
    from coexistence.runtime.limits import RuntimeLimits

_SHORTEST_WINDOW_S = 1.0


@dataclass(frozen=True)
class InstrumentHealth:
    """How one instrument is.

    Attributes
    ----------
    detail
        What it said, or what is wrong with it and what to do.
    latency_s
        How long its answer took (s); None when it was not asked because it does not run.
    """

    name: str
    generation: Generation
    state: InstrumentState
    healthy: bool
    detail: str
    latency_s: float | None = None
    restarts: int = 0


@dataclass(frozen=True)
class ProcessHealth:
    """What the process uses; ``cpu_percent`` of one core, averaged since the last check."""

    cpu_percent: float
    memory_bytes: int
    threads: int
    descriptors: int
    uptime_s: float


@dataclass(frozen=True)
class Health:
    """A runtime at one moment.

    Attributes
    ----------
    wires
        Who has which wire and who waits for it.
    warnings
        What a user should know: limits exceeded, threads left behind, wires that are lost.
    left_behind
        Names of threads that are in a call that does not return.
    """

    state: RuntimeState
    generations: Mapping[Generation, GenerationStatus]
    instruments: Mapping[str, InstrumentHealth]
    process: ProcessHealth
    wires: tuple[WireUse, ...] = ()
    warnings: tuple[str, ...] = ()
    left_behind: tuple[str, ...] = ()
    time: float = field(default_factory=time.time)

    @property
    def healthy(self) -> bool:
        """Whether the runtime runs and so does every instrument that was started."""
        return self.state is RuntimeState.RUNNING and all(each.healthy for each in self.instruments.values())

    def as_json(self) -> dict[str, Any]:
        """Return everything as what JSON knows."""
        return {"healthy": self.healthy, **_plain(asdict(self))}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, RuntimeState | InstrumentState) or hasattr(value, "_value_"):
        return value.value if isinstance(value.value, str) else value.name.lower()
    return value


class ProcessMeter:
    """Measures what this process uses; the processor's share is that since the meter was asked before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._window = (self._began, time.process_time())
        self._share = 0.0

    def measure(self) -> ProcessHealth:
        """Return what the process uses now."""
        import psutil  # takes 20 ms to import, and a session that nobody asks needs it not

        process = psutil.Process()
        with process.oneshot():
            memory, threads = process.memory_info().rss, process.num_threads()
        # Windows has handles instead.
        descriptors = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
        return ProcessHealth(self._cpu_percent(), memory, threads, descriptors, time.monotonic() - self._began)

    def _cpu_percent(self) -> float:
        with self._lock:
            now, used = time.monotonic(), time.process_time()
            (before, used_before) = self._window
            # A share of a few milliseconds means nothing: the last one stands until a second has gone by.
            if now - before >= _SHORTEST_WINDOW_S or not self._share:
                self._share = 100.0 * (used - used_before) / max(now - before, 1e-3)
                self._window = (now, used)
            return round(self._share, 1)


def warnings_of(process: ProcessHealth, limits: RuntimeLimits) -> list[str]:
    """Return a sentence for each limit that is exceeded."""
    warnings = []
    if process.cpu_percent > limits.cpu_percent:
        warnings.append(
            f"the process uses {process.cpu_percent:.0f} % of a core, more than {limits.cpu_percent:g} %: "
            "look for a callback or a plan that never waits"
        )
    if process.memory_bytes > limits.memory_bytes:
        warnings.append(
            f"the process uses {process.memory_bytes / 2**20:.0f} MiB of memory, more than "
            f"{limits.memory_bytes / 2**20:.0f} MiB: images kept in variables are the usual reason"
        )
    return warnings
