"""How long each step of a runtime may take, and what of the computer it may use before it warns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coexistence.config import DualConfig, Generation


@dataclass(frozen=True, kw_only=True)
class RuntimeLimits:
    """Time limits in seconds, and limits of use that warn when they are exceeded.

    Attributes
    ----------
    announce_s
        For all shutdown listeners together.
    plan_s
        For the running plan to end.
    v4_stop_s, v2_stop_s
        For the instruments of a generation to stop, together; blocking drivers cannot be cancelled.
    wires_s
        For all wires to close.
    connect_grace_s
        What an instrument gets beyond its own `connect_timeout` to say how it failed.
    health_s
        For an instrument to say how it is.
    cpu_percent
        Share of one core, averaged since the last check; more than this warns.
    memory_bytes
        Resident memory; more than this warns.
    """

    announce_s: float = 1.0
    plan_s: float = 12.0
    v4_stop_s: float = 5.0
    v2_stop_s: float = 10.0
    wires_s: float = 2.0
    connect_grace_s: float = 0.5
    health_s: float = 2.0
    cpu_percent: float = 90.0
    memory_bytes: int = 4 * 2**30

    @classmethod
    def of(cls, config: DualConfig | None) -> RuntimeLimits:
        """Return the limits with what `[v2]`, `[v4]` and `[application]` say."""
        if config is None:
            return cls()
        application = config.application
        return cls(
            v4_stop_s=config.v4.shutdown_timeout or cls.v4_stop_s,
            v2_stop_s=config.v2.shutdown_timeout or cls.v2_stop_s,
            cpu_percent=application.cpu_limit_percent,
            memory_bytes=int(application.memory_limit_mib * 2**20),
        )

    def stop_s(self, generation: Generation) -> float:
        """Return what the instruments of a generation get to stop (s)."""
        return self.v2_stop_s if generation == "v2" else self.v4_stop_s
