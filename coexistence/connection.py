"""What a device driver holds of the shared world: one wire, under one owner's name."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from coexistence.channel import Channel, ConnectionEvent
from coexistence.exchange import Reply
from coexistence.guard import Guard
from coexistence.hold import Rank
from coexistence.transport import Accept, Ending

T = TypeVar("T")


class Connection:
    """An owner's face of a channel; the blocking and the ``…_async`` methods do the same.

    Parameters
    ----------
    wire
        An opened channel (such as :class:`SharedSerialPort`), or a function without arguments that returns it; that
        is called by :meth:`open`, and may block.
    owner
        The name under which everything is done.
    timeout
        Default for exchanges, in seconds.
    description
        What to call the wire before it is open.
    rank
        What requests of normal rank are done with; ``Rank.BACKGROUND`` for who must not get in anybody's way. May be
        changed at any time.
    """

    def __init__(
        self,
        wire: Channel | Callable[[], Channel],
        owner: str,
        *,
        timeout: float = 1.0,
        description: str = "",
        rank: Rank = Rank.NORMAL,
    ) -> None:
        self.owner = owner
        self._own_rank = rank
        self._background_blocks = 0
        self._ranking = threading.Lock()
        self.timeout = timeout
        self._opening = threading.Lock()
        if isinstance(wire, Channel):
            self._channel: Channel | None = wire
            self._source: Callable[[], Channel] | None = None
        else:
            self._channel = None
            self._source = wire
        self._description = description

    @property
    def description(self) -> str:
        """The wire's name, such as ``/dev/ttyUSB0``."""
        return self._channel.name if self._channel is not None else self._description or f"the wire of '{self.owner}'"

    @property
    def wire(self) -> Channel:
        """The opened channel; opened by this if it was not."""
        if not self._is_open:
            self.open()
        assert self._channel is not None
        return self._channel

    @property
    def _is_open(self) -> bool:
        """Whether there is a wire to use; one that was given opened is used as it is."""
        return self._channel is not None and (self._source is None or not self._channel.wire.closed)

    @property
    def rank(self) -> Rank:
        """What requests of normal rank are done with now."""
        return Rank.BACKGROUND if self._background_blocks else self._own_rank

    @rank.setter
    def rank(self, rank: Rank) -> None:
        self._own_rank = rank

    @contextmanager
    def in_the_background(self) -> Iterator[None]:
        """Let requests of normal rank wait for everybody else's while the block goes on; blocks may overlap."""
        with self._ranking:
            self._background_blocks += 1
        try:
            yield
        finally:
            with self._ranking:
                self._background_blocks -= 1

    def _rank(self, asked: Rank) -> Rank:
        return self.rank if asked is Rank.NORMAL else asked

    def open(self) -> None:
        """Open the wire if it is not open.

        Raises
        ------
        WireDisconnected, WireInUse, ConfigError
            As :class:`SharedSerialPort` does.
        """
        with self._opening:
            if self._source is not None and not self._is_open:
                self._channel = self._source()

    def exchange(
        self,
        command: bytes,
        *,
        timeout: float | None = None,
        rank: Rank = Rank.NORMAL,
        accept: Accept | None = None,
        until: Ending | None = None,
        repeatable: bool = False,
    ) -> Reply:
        """Send a command and return its reply and time; see :meth:`Channel.exchange`."""
        return self.wire.exchange(
            command,
            owner=self.owner,
            timeout=self.timeout if timeout is None else timeout,
            rank=self._rank(rank),
            accept=accept,
            until=until,
            repeatable=repeatable,
        )

    def query(
        self,
        command: bytes,
        *,
        timeout: float | None = None,
        rank: Rank = Rank.NORMAL,
        accept: Accept | None = None,
        until: Ending | None = None,
        repeatable: bool = False,
    ) -> bytes:
        """Send a command and return its reply; see :meth:`Channel.exchange`."""
        return self.exchange(
            command, timeout=timeout, rank=rank, accept=accept, until=until, repeatable=repeatable
        ).data

    def write(self, command: bytes, *, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> None:
        """Send a command without reply; see :meth:`Channel.write`."""
        self.wire.write(
            command, owner=self.owner, timeout=self.timeout if timeout is None else timeout, rank=self._rank(rank)
        )

    def transact(self, function: Callable[[Guard], T], *, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> T:
        """Run ``function(guard)`` within one hold; see :meth:`Channel.transact`."""
        return self.wire.transact(
            function, owner=self.owner, timeout=self.timeout if timeout is None else timeout, rank=self._rank(rank)
        )

    async def exchange_async(
        self,
        command: bytes,
        *,
        timeout: float | None = None,
        rank: Rank = Rank.NORMAL,
        accept: Accept | None = None,
        until: Ending | None = None,
        repeatable: bool = False,
    ) -> Reply:
        """As :meth:`exchange`; cancelled as :meth:`Channel.exchange_async`."""
        if not self._is_open:
            await asyncio.to_thread(self.open)
        return await self.wire.exchange_async(
            command,
            owner=self.owner,
            timeout=self.timeout if timeout is None else timeout,
            rank=self._rank(rank),
            accept=accept,
            until=until,
            repeatable=repeatable,
        )

    async def query_async(
        self,
        command: bytes,
        *,
        timeout: float | None = None,
        rank: Rank = Rank.NORMAL,
        accept: Accept | None = None,
        until: Ending | None = None,
        repeatable: bool = False,
    ) -> bytes:
        """As :meth:`query`; cancelled as :meth:`Channel.exchange_async`."""
        reply = await self.exchange_async(
            command, timeout=timeout, rank=rank, accept=accept, until=until, repeatable=repeatable
        )
        return reply.data

    async def write_async(self, command: bytes, *, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> None:
        """As :meth:`write`; cancelled as :meth:`Channel.exchange_async`."""
        if not self._is_open:
            await asyncio.to_thread(self.open)
        await self.wire.write_async(
            command, owner=self.owner, timeout=self.timeout if timeout is None else timeout, rank=self._rank(rank)
        )

    async def transact_async(
        self, function: Callable[[Guard], T], *, timeout: float | None = None, rank: Rank = Rank.NORMAL
    ) -> T:
        """As :meth:`transact`, on the wire's worker; cancelled as :meth:`Channel.transact_async`."""
        if not self._is_open:
            await asyncio.to_thread(self.open)
        return await self.wire.transact_async(
            function, owner=self.owner, timeout=self.timeout if timeout is None else timeout, rank=self._rank(rank)
        )

    def collect_strays(self, *, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> int:
        """Give lines that arrived unasked to their listeners; see :meth:`Channel.collect_strays`."""
        return self.wire.collect_strays(
            owner=self.owner, timeout=self.timeout if timeout is None else timeout, rank=self._rank(rank)
        )

    async def collect_strays_async(self, *, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> int:
        """As :meth:`collect_strays`, on the wire's worker; cancelled as :meth:`Channel.collect_strays_async`."""
        if not self._is_open:
            await asyncio.to_thread(self.open)
        return await self.wire.collect_strays_async(
            owner=self.owner, timeout=self.timeout if timeout is None else timeout, rank=self._rank(rank)
        )

    def add_stray_listener(self, listener: Callable[[bytes, float], object]) -> Callable[[], None]:
        """See :meth:`Channel.add_stray_listener`."""
        return self.wire.add_stray_listener(listener)

    def add_reconnect_step(self, name: str, function: Callable[[Guard], object]) -> Callable[[], None]:
        """See :meth:`Channel.add_reconnect_step`."""
        return self.wire.add_reconnect_step(name, function)

    def add_listener(self, listener: Callable[[ConnectionEvent], object]) -> Callable[[], None]:
        """See :meth:`Channel.add_listener`."""
        return self.wire.add_listener(listener)
