"""What every simulated instrument is: bytes in, bytes out, at its own pace, with faults on request."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from .faults import Fault, FaultSet, Outgoing
from .loop import Clock
from .optics import OpticalBench
from .settable import Settable


class Channel(Protocol):
    """The way back to one host: a serial line, or one client's connection."""

    def send(self, data: bytes) -> None:
        """Let `data` leave towards the host, at the speed of the line."""


@dataclass(frozen=True, kw_only=True)
class LineSettings:
    """How an instrument's line is set up when it leaves the factory."""

    kind: str = "serial"
    """`serial`, `tcp` or `hislip`."""
    baud_rate: int = 9600
    data_bits: int = 8
    parity: str = "none"
    stop_bits: float = 1
    flow_control: str = "none"


@dataclass(frozen=True)
class World:
    """What all instruments of one simulation share."""

    clock: Clock
    bench: OpticalBench
    seed: int = 0

    def rng(self, name: str) -> random.Random:
        """Make a random stream of `name`'s own: adding an instrument changes no other's noise."""
        return random.Random(f"{self.seed}:{name}")


class Instrument(Settable):
    """Base of all simulated instruments.

    A subclass gets bytes in `receive()` and answers with `reply()`. Every option is a keyword argument of its
    constructor; `settable` names what a test may change while it runs.
    """

    line: ClassVar[LineSettings] = LineSettings()
    faults_known: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, world: World, name: str, *, latency_s: float = 0.0) -> None:
        self.name = name
        self.world = world
        self.clock = world.clock
        self.bench = world.bench
        self.rng = world.rng(name)
        self.faults = FaultSet(world.rng(f"{name}:faults"))
        self.powered = True
        self.latency_s = latency_s
        self.commands = 0
        self._reply_free_at = 0.0
        self._power_cycles = 0

    def share_faults(self, wire_faults: FaultSet) -> None:
        """Let the faults of the wire happen to this instrument too."""
        self.faults = FaultSet(self.world.rng(f"{self.name}:faults"), wire_faults)

    def receive(self, channel: Channel, data: bytes) -> None:
        """Take bytes from the host in the moment they have arrived."""
        raise NotImplementedError

    def forget(self, channel: Channel) -> None:
        """Drop what an interrupted or departed host has left half said."""

    def status_byte(self) -> int:
        """Give the IEEE 488.2 status byte, for those that have one, to a serial poll."""
        return 0

    def reset(self) -> None:
        """Go to the power-up state; motion and measurements end."""
        raise NotImplementedError

    def truth(self) -> dict[str, Any]:
        """Tell the true state, as no host can ever know it."""
        raise NotImplementedError

    def command_seen(self, channel: Channel, command: bytes) -> None:
        """Count a complete command; an echo fault sends it back.

        To be called by subclasses before they execute what they received.
        """
        self.commands += 1
        if self.faults.take("echo"):
            channel.send(command)

    def reply(self, channel: Channel, data: bytes) -> None:
        """Answer, unless a fault has something else in mind; answers never overtake each other."""
        outgoing = self.faults.spoil_reply(Outgoing(data, self.latency_s))
        if outgoing is None:
            return
        now = self.clock.now()
        when = max(now + outgoing.delay_s, self._reply_free_at)
        self._reply_free_at = when
        if when <= now:
            channel.send(outgoing.data)
            return
        cycle = self._power_cycles

        def send() -> None:
            if self.powered and cycle == self._power_cycles:
                channel.send(outgoing.data)

        self.clock.call_at(when, send)

    def power(self, on: bool) -> None:
        """Switch the instrument off, or on again in its power-up state."""
        if on and not self.powered:
            self._power_cycles += 1
            self._reply_free_at = 0.0
        if on != self.powered:
            self.reset()
        self.powered = on

    def disturb(self, fault: Fault) -> None:
        """Let a fault happen from now on."""
        self.faults.add(fault)


class LineInstrument(Instrument):
    """An instrument whose commands end with a terminator."""

    terminators: ClassVar[bytes] = b"\r\n"
    longest_command: ClassVar[int] = 1024

    def __init__(self, world: World, name: str, **options: Any) -> None:
        super().__init__(world, name, **options)
        self._buffers: dict[Channel, bytearray] = {}

    def receive(self, channel: Channel, data: bytes) -> None:
        """Collect bytes and execute each line as it becomes complete."""
        buffer = self._buffers.setdefault(channel, bytearray())
        for byte in data:
            if byte not in self.terminators:
                # A real input buffer is finite too: what does not fit is lost, the line is no longer a command.
                if len(buffer) <= self.longest_command:
                    buffer.append(byte)
                continue
            line = bytes(buffer)
            buffer.clear()
            if line.strip():
                self.command_seen(channel, line + bytes([byte]))
                self.execute(channel, line)
        if not buffer:
            self._buffers.pop(channel, None)

    def execute(self, channel: Channel, line: bytes) -> None:
        """Do what one line, without its terminator, asks for."""
        raise NotImplementedError

    def forget(self, channel: Channel) -> None:
        """Drop what an interrupted or departed host has left half said."""
        self._buffers.pop(channel, None)

    def reset(self) -> None:
        """Go to the power-up state."""
        self._buffers.clear()
