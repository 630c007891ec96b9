"""All wires of one process: who holds and waits for what, and several of them taken at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING

from coexistence.channel import Channel
from coexistence.device_cache import DeviceCache
from coexistence.errors import ConfigError, WireClosed
from coexistence.guard import Guard
from coexistence.hold import Rank
from coexistence.serial_port import SerialPortPool
from coexistence.wire import Wire

if TYPE_CHECKING:
    from coexistence.config import DualConfig
    from coexistence.visa_manager import VisaSessionManager


@dataclass(frozen=True)
class Waiting:
    """One owner in line: its rank, and the seconds it has waited."""

    owner: str
    rank: Rank
    waited: float


@dataclass(frozen=True)
class WireUse:
    """Who has a wire and who waits for it; ``held_for`` in seconds."""

    wire: str
    connected: bool
    holder: str | None
    held_for: float
    waiting: tuple[Waiting, ...]


class SharedResources:
    """The serial ports, VISA sessions and device enumerations that both generations share.

    Parameters
    ----------
    config
        Says which VISA to use; nothing of it is loaded before it is used. Default: pyvisa-py.
    """

    def __init__(self, config: DualConfig | None = None) -> None:
        self.serial = SerialPortPool()
        self.devices = DeviceCache(lambda: self.visa.list_resources())
        self._visa_backend = "@py" if config is None else config.application.visa_backend
        self._visa: VisaSessionManager | None = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def visa(self) -> VisaSessionManager:
        """The VISA sessions; serial resources among them are the pool's ports."""
        with self._lock:
            if self._closed:
                raise WireClosed("VISA")
            if self._visa is None:
                from coexistence.visa_manager import VisaSessionManager

                self._visa = VisaSessionManager(self._visa_backend, pool=self.serial)
            return self._visa

    @property
    def wires(self) -> list[Wire]:
        """All open wires, in the global order of acquisition."""
        wires = {port.wire for port in self.serial.ports}
        if self._visa is not None:
            wires |= set(self._visa.wires)
        return sorted(wires, key=_order)

    def held(self) -> list[WireUse]:
        """Return for each open wire who holds it and who waits for it."""
        now = perf_counter()
        uses = []
        for wire in self.wires:
            holder = wire.arbiter.holder
            uses.append(
                WireUse(
                    wire=wire.name,
                    connected=all(channel.connected for channel in wire.channels),
                    holder=None if holder is None else holder.owner,
                    held_for=0.0 if holder is None else holder.held_for,
                    waiting=tuple(
                        Waiting(each.owner, each.rank, now - (each.deadline - each.timeout))
                        for each in wire.arbiter.queue
                    ),
                )
            )
        return uses

    def acquire_all(
        self, channels: Sequence[Channel], *, owner: str, timeout: float = 2.0, rank: Rank = Rank.NORMAL
    ) -> Guards:
        """Ask for several wires at once, to be used with ``with`` or ``async with``.

        They are acquired in the global order, so that two who ask for the same wires cannot block each other; all or
        none are held.

        Parameters
        ----------
        channels
            Ports and sessions, in any order; the guards come in this order.
        owner
            Who asks.
        timeout
            Seconds for all of them together.
        rank
            Which lines to wait in.

        Raises
        ------
        AcquireTimeout, LockOrderViolation, DeadlockDetected, WouldDeadlock, LoopBlocked
            On entering the block; those acquired before are released.
        """
        return Guards(channels, owner, timeout, rank)

    def close(self) -> None:
        """Close all wires, for good."""
        with self._lock:
            self._closed = True
            visa = self._visa
        if visa is not None:
            visa.close()
        self.serial.close()
        with self._lock:
            if self._visa is visa:
                self._visa = None


class Guards:
    """Several wires held together; see :meth:`SharedResources.acquire_all`.

    Cancellation while waiting in line releases what was acquired.
    """

    def __init__(self, channels: Sequence[Channel], owner: str, timeout: float, rank: Rank) -> None:
        if not channels:
            raise ConfigError("acquire_all was given no wires: name at least one port or session")
        self._channels = list(channels)
        self._owner = owner
        self._timeout = timeout
        self._rank = rank
        self._stack = ExitStack()
        self._async_stack = AsyncExitStack()

    def _requests(self) -> tuple[list[Guard], list[int]]:
        guards = [Guard(channel, self._owner, self._timeout, self._rank) for channel in self._channels]
        order = sorted(range(len(guards)), key=lambda index: _order(self._channels[index].wire))
        return guards, order

    def __enter__(self) -> list[Guard]:
        guards, order = self._requests()
        deadline = perf_counter() + self._timeout
        with ExitStack() as stack:
            for index in order:
                guards[index].timeout = max(deadline - perf_counter(), 0.0)
                stack.enter_context(guards[index])
            self._stack = stack.pop_all()
        return guards

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(exc_type, exc, traceback)

    async def __aenter__(self) -> list[Guard]:
        guards, order = self._requests()
        deadline = perf_counter() + self._timeout
        async with AsyncExitStack() as stack:
            for index in order:
                guards[index].timeout = max(deadline - perf_counter(), 0.0)
                await stack.enter_async_context(guards[index])
            self._async_stack = stack.pop_all()
        return guards

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._async_stack.__aexit__(exc_type, exc, traceback)


def _order(wire: Wire) -> tuple[int, str]:
    return wire.arbiter.order or (0, wire.name)
