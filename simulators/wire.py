"""What all wires share: a name, the instruments on it, faults, and being plugged in or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .faults import FaultSet
from .instrument import Channel, Instrument, World
from .loop import Loop


class Wire:
    """One wire with its instruments; subclasses carry the bytes.

    `port` is what a client opens: the path of a pty, or `host:port`.
    """

    def __init__(self, loop: Loop, world: World, name: str, instruments: Sequence[Instrument]) -> None:
        self.loop = loop
        self.name = name
        self.instruments = list(instruments)
        self.faults = FaultSet(world.rng(f"{name}:wire"))
        self.plugged = False
        self.bytes_in = 0
        self.bytes_out = 0
        for instrument in self.instruments:
            instrument.share_faults(self.faults)

    @property
    def port(self) -> str:
        """What a client opens."""
        raise NotImplementedError

    def plug(self) -> None:
        """Make the port appear."""
        raise NotImplementedError

    def unplug(self) -> None:
        """Make the port vanish under whoever has it open."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave nothing behind."""
        if self.plugged:
            self.unplug()

    def truth(self) -> dict[str, Any]:
        """Counters of the wire, as seen by the instruments."""
        return {
            "port": self.port,
            "plugged": self.plugged,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "commands": sum(instrument.commands for instrument in self.instruments),
        }

    def hear(self, channel: Channel, data: bytes) -> None:
        """Let every instrument that has power hear what arrived from a host."""
        self.bytes_in += len(data)
        data = self.faults.spoil_input(data)
        if data:
            for instrument in self.instruments:
                if instrument.powered:
                    instrument.receive(channel, data)

    def forget(self, channel: Channel) -> None:
        """Let every instrument drop what a departed host left half said."""
        for instrument in self.instruments:
            instrument.forget(channel)
