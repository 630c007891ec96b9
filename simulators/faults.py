"""Faults on request: what goes wrong on a wire or in an instrument, once, n times or until cleared."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from .errors import SpecError

_Parameters = dict[str, tuple[type, ...]]

REPLY_FAULTS: dict[str, _Parameters] = {
    "silence": {},
    "late": {"delay_s": (int, float)},
    "garbage": {"data": (str,)},
    "drop": {"number": (int,), "at": (int,)},
}
"""What can happen to a reply on its way to the host, and the parameters of each."""

INPUT_FAULTS: dict[str, _Parameters] = {"echo": {}, "lose": {}}
"""What can happen to what the host sends: a command comes back before its answer, a byte gets lost."""

BEHAVIOUR_FAULTS: dict[str, _Parameters] = {
    "busy": {},
    "limit": {},
    "over_range": {},
    "saturation": {},
    "error": {"code": (int,)},
    "button": {"jog": (str,)},
}
"""What an instrument itself can do; each instrument names those it knows."""

FAULTS = {**REPLY_FAULTS, **INPUT_FAULTS, **BEHAVIOUR_FAULTS}


@dataclass
class Fault:
    """One thing that goes wrong `count` times, or until cleared when `count` is None."""

    kind: str
    count: int | None = 1
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise SpecError("unknown fault", self.kind, FAULTS)
        known = FAULTS[self.kind]
        for name, value in self.parameters.items():
            if name not in known:
                raise SpecError(f"fault {self.kind!r} has no parameter", name, known)
            if not isinstance(value, known[name]):
                raise SpecError(f"{name} of fault {self.kind!r} cannot be {value!r}")
        if self.count is not None and not (isinstance(self.count, int) and self.count >= 1):
            raise SpecError(f"a fault happens at least once, not {self.count!r} times")


@dataclass(frozen=True)
class Outgoing:
    """A reply as it will leave: bytes, and seconds to hold it back."""

    data: bytes
    delay_s: float = 0.0


class FaultSet:
    """The faults waiting at one place, oldest first.

    Args:
        rng: decides what garbage looks like and which bytes get lost.
        shared: faults of the wire, which happen to whichever instrument on it comes first.
    """

    def __init__(self, rng: random.Random, shared: FaultSet | None = None) -> None:
        self._rng = rng
        self._shared = shared
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Let `fault` happen from now on."""
        self._faults.append(fault)

    def clear(self, kind: str | None = None) -> None:
        """Drop the faults of `kind`, or all."""
        self._faults = [fault for fault in self._faults if kind is not None and fault.kind != kind]

    def active(self, kind: str) -> Fault | None:
        """Find the oldest fault of `kind`, without using it up."""
        own = next((fault for fault in self._faults if fault.kind == kind), None)
        return own if own or self._shared is None else self._shared.active(kind)

    def take(self, kind: str) -> Fault | None:
        """Find the oldest fault of `kind` and use it up by one."""
        fault = next((fault for fault in self._faults if fault.kind == kind), None)
        if fault is None:
            return self._shared.take(kind) if self._shared else None
        if fault.count is not None:
            fault.count -= 1
            if fault.count == 0:
                self._faults.remove(fault)
        return fault

    def spoil_reply(self, reply: Outgoing) -> Outgoing | None:
        """Return what becomes of a reply; None when it never leaves."""
        if self.take("silence"):
            return None
        data, delay_s = reply.data, reply.delay_s
        if garbage := self.take("garbage"):
            data = self._garbage(data, garbage.parameters.get("data"))
        if drop := self.take("drop"):
            number = drop.parameters.get("number", 1)
            at = drop.parameters.get("at")
            if at is None:
                at = self._rng.randrange(max(1, len(data) - number + 1))
            data = data[:at] + data[at + number :]
        if late := self.take("late"):
            delay_s += late.parameters.get("delay_s", 1.0)
        return Outgoing(data, delay_s)

    def spoil_input(self, data: bytes) -> bytes:
        """Return what arrives of the bytes the host sent."""
        if self.active("lose") is None:
            return data
        return bytes(byte for byte in data if self.take("lose") is None)

    def _garbage(self, data: bytes, wanted: str | None) -> bytes:
        if wanted is not None:
            return wanted.encode("latin-1")
        body = data.rstrip(b"\r\n")
        # No line ends in the noise: one reply stays one (wrong) reply.
        noise = bytes(self._rng.choice((*range(0x01, 0x09), *range(0x0E, 0x20), *range(0x7F, 0xFF))) for _ in body)
        return noise + data[len(body) :]
