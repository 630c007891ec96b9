"""The right to use a channel for one block of code, and the jobs that a wire's worker runs under such a right."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from coexistence.errors import AcquireTimeout, ConfigError
from coexistence.exchange import Exchange, Reply
from coexistence.hold import LONGEST_TIMEOUT_S, Hold, Rank
from coexistence.parties import forget_wait
from coexistence.transport import Accept, Ending
from coexistence.wire import resolve

if TYPE_CHECKING:
    from coexistence.channel import Channel

T = TypeVar("T")


class Guard(Hold):
    """The right to use a channel, for one block of code.

    The blocking methods are for the thread that entered the block with ``with``; the ``…_async`` methods are for the
    task that entered it with ``async with``, and run on the wire's worker thread. All raise :class:`GuardRevoked` when
    the hold was ended from outside and :class:`GuardNotHeld` outside the block. ``timeout`` is in seconds, by default
    the channel's.
    """

    __slots__ = ("_channel", "_expires", "_failed")

    def __init__(
        self,
        channel: Channel,
        owner: str,
        timeout: float = 2.0,
        rank: Rank = Rank.NORMAL,
        max_hold: float | None = None,
    ) -> None:
        Hold.__init__(self, channel._arbiter, owner, timeout, rank, max_hold)
        self._channel = channel
        self._failed = False
        self._expires = float("inf")

    def _left_by_exception(self) -> None:
        self._failed = True
        self._channel._abandon(self)
        if self._root is self:
            self._channel.wire.free_exchange()

    def revoked(self) -> None:
        """Leave the worker's thread to the function that runs on it, which may never return."""
        wire = self._channel.wire
        if self._occupies_worker() and not wire.closed:
            wire.worker.renew()

    def _occupies_worker(self) -> bool:
        return self._revocable > 0

    def _deadline(self, timeout: float | None) -> float:
        if timeout is None:
            timeout = self._channel.timeout
        elif not 0.0 <= timeout <= LONGEST_TIMEOUT_S:
            raise ConfigError(f"timeout must be between 0 and {LONGEST_TIMEOUT_S:g} s, not {timeout!r}")
        return min(perf_counter() + timeout, self._expires)

    def write(self, data: bytes, *, timeout: float | None = None) -> int:
        """Send a command that has no reply, or whose reply is read next; return the number of bytes.

        Raises
        ------
        CommandTimeout
            The line did not take all bytes in time (flow control).
        WireDisconnected
            The hardware is gone.
        """
        self._write(data, timeout, replies=1)
        return len(data)

    def write_all(self, data: bytes, *, timeout: float | None = None) -> None:
        """Send a large amount of data; the timeout is for each piece that the line takes, not for the whole."""
        piece = 1024
        for start in range(0, len(data), piece):
            self._write(data[start : start + piece], timeout, replies=0 if start else 1)

    def _write(self, data: bytes, timeout: float | None, replies: int) -> None:
        exchange = Exchange(data, self._channel.timeout if timeout is None else timeout, None)
        self._operate(partial(self._channel._ask, self, exchange, self._deadline(timeout), replies))

    def read(self, size: int, *, timeout: float | None = None) -> bytes:
        """Return exactly ``size`` bytes.

        Raises
        ------
        CommandTimeout
            Fewer came in time; they are in its ``received``.
        """
        return self._read(size, timeout)

    def read_line(self, *, timeout: float | None = None) -> bytes:
        """Return the next line, without its terminator.

        Raises
        ------
        CommandTimeout
            No complete line came in time.
        """
        return self._read(self._channel.terminator, timeout)

    def _read(self, ending: Ending, timeout: float | None) -> bytes:
        exchange = Exchange(b"", self._channel.timeout if timeout is None else timeout, ending)
        channel = self._channel
        deadline = self._deadline(timeout)
        return channel._on_the_wire(self, exchange, deadline, partial(channel._listen, self, exchange, deadline)).data

    def exchange(
        self,
        command: bytes,
        *,
        timeout: float | None = None,
        accept: Accept | None = None,
        until: Ending | None = None,
        repeatable: bool = False,
    ) -> Reply:
        """Send a command and return its reply with the time at which it was complete; see :meth:`Channel.exchange`."""
        channel = self._channel
        exchange = Exchange(
            command,
            channel.timeout if timeout is None else timeout,
            channel.terminator if until is None else until,
            accept,
            repeatable,
        )
        deadline = self._deadline(timeout)

        def perform() -> Reply:
            reply = channel._perform(self, exchange, deadline)
            channel._asked = None  # as long as this is an operation, for later it might be what others have asked
            assert reply is not None
            return reply

        return self._operate(perform)

    def query(
        self,
        command: bytes,
        *,
        timeout: float | None = None,
        accept: Accept | None = None,
        until: Ending | None = None,
        repeatable: bool = False,
    ) -> bytes:
        """Send a command and return its reply without terminator; see :meth:`Channel.exchange`."""
        return self.exchange(command, timeout=timeout, accept=accept, until=until, repeatable=repeatable).data

    def _operate(self, operation: Callable[[], T]) -> T:
        self.begin_operation()
        try:
            return operation()
        except BaseException as error:
            self._free_exchange_after(error)
            raise
        finally:
            self.end_operation()

    def _free_exchange_after(self, error: BaseException) -> None:
        """Free the exchange lock that a signal's exception may have left with this thread, at the outermost operation.

        The block may go on after such an exception, and be left as if nothing had been.
        """
        if not isinstance(error, Exception) and self._root._operations == 1:
            self._channel.wire.free_exchange()

    async def write_async(self, data: bytes, *, timeout: float | None = None) -> int:
        """As :meth:`write`. Cancellation: what has begun is completed on the wire."""
        return await self.run_async(lambda guard: guard.write(data, timeout=timeout))

    async def read_async(self, size: int, *, timeout: float | None = None) -> bytes:
        """As :meth:`read`. Cancellation: the bytes are read in the background and dropped."""
        return await self.run_async(lambda guard: guard.read(size, timeout=timeout))

    async def read_line_async(self, *, timeout: float | None = None) -> bytes:
        """As :meth:`read_line`. Cancellation: the line is read in the background and dropped."""
        return await self.run_async(lambda guard: guard.read_line(timeout=timeout))

    async def query_async(
        self,
        command: bytes,
        *,
        timeout: float | None = None,
        accept: Accept | None = None,
        until: Ending | None = None,
        repeatable: bool = False,
    ) -> bytes:
        """As :meth:`query`. Cancellation: the reply is read in the background and dropped."""
        return await self.run_async(
            lambda guard: guard.query(command, timeout=timeout, accept=accept, until=until, repeatable=repeatable)
        )

    async def run_async(self, function: Callable[[Guard], T]) -> T:
        """Run ``function(guard)``, which may block, on the wire's worker thread, within this hold.

        Cancellation: what has begun ends by itself, the hold lasts that long, and the result is dropped.
        """
        return await self._channel.wire.serve_guard(self, function)


class Job(Guard, Generic[T]):
    """A guard that the wire's worker holds on behalf of a task, while it runs one function."""

    __slots__ = ("_begun", "_function", "abandoned")

    served = True

    def __init__(
        self,
        channel: Channel,
        owner: str,
        timeout: float,
        rank: Rank,
        function: Callable[[Guard], T],
        *,
        single: bool,
    ) -> None:
        Guard.__init__(self, channel, owner, timeout, rank)
        self._function = function
        self._operations = int(single)
        self._begun = False
        self.abandoned = False

    def serving_thread(self) -> threading.Thread:
        """Return the worker's thread of this moment: another may have taken the place of the one there was."""
        return self._channel.wire.worker.thread

    def _occupies_worker(self) -> bool:
        return self._begun

    def explained(self, error: BaseException) -> BaseException:
        """Return why this job was not served: while the wire is disconnected, that, and not who waits ahead."""
        channel = self._channel
        if not isinstance(error, AcquireTimeout):
            return error
        channel.note_refusal(self)
        if channel._connected:
            return error
        disconnected = channel._disconnected(self.owner)
        disconnected.__cause__ = error
        return disconnected

    def granted(self) -> None:
        """Have the worker run this job (called once, in this job's turn)."""
        self._channel.wire.worker.put(self._run)

    def _run(self) -> None:
        if self._begun:
            return  # a signal broke into the granting, and it was done again
        outcome: tuple[Any, BaseException | None] = (None, None)
        self._begun = True
        assert self.mailbox is not None
        try:
            if self.mailbox.closed:
                forget_wait(self._asker, self)
            elif not self.abandoned:
                self.check()  # a function that hangs would keep the worker: the revocation did not find it at work
                self._expires = self.deadline
                outcome = (self._function(self), None)
        except BaseException as error:
            outcome = (None, error)
        self._operations = 0
        self.__exit__(None if outcome[1] is None else type(outcome[1]), outcome[1], None)
        self.mailbox.post(resolve, (self.future, outcome))
