"""Guards for byte streams: what an unmodified driver's writes and reads become on the wire."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, TypeVar

from coexistence.arbiter import GIVE_WAY_S
from coexistence.channel import Channel
from coexistence.errors import AcquireTimeout, CoexistenceError, CommandTimeout, WireDisconnected
from coexistence.exchange import Asked, Exchange
from coexistence.guard import Guard
from coexistence.hold import Hold, Rank, State
from coexistence.transport import Ending, Interrupted, Suspect
from coexistence.visa_transport import VisaTransport

T = TypeVar("T")

_NOT_THERE = (errno.EINVAL, errno.ENOTTY, errno.EOPNOTSUPP)
"""What the system says of modem lines where there are none, as on ptys."""

_LEAST_TO_SEND_S = 0.05
"""A write that must not wait for the wire still has this long to hand its bytes to the system, once it has the wire."""

SOON_S = 20.0
"""Longest single wait for bytes, in seconds; who waits longer asks again."""


def whatever(buffer: bytes) -> int:
    """Take what has arrived, as a reply's ending."""
    return len(buffer)


def whole_message(_: bytes) -> int:
    """Leave the end to the medium, as a reply's ending."""
    return 0


def _nothing(_: bytes) -> bool:
    """Claim no line."""
    return False


class StreamGuard(Guard):
    """A guard that sends and receives bytes as they come, without deciding what an answer is.

    Its methods may be called on any thread while the hold lasts, but on one at a time.
    """

    __slots__ = ()

    def send(self, data: bytes, deadline: float, reply_time: float) -> None:
        """Send all of ``data`` before the deadline, after what must happen before anybody may send.

        Where the deadline is near, the driver's own lease still gets time to leave the wire to this, and the system to
        take the bytes.

        If the hold is ended from outside, the reply is kept from others; it may take ``reply_time`` (s) and as long
        again. :meth:`answered` tells that it has come.

        Raises
        ------
        CommandTimeout
            Not sent, or only in part (``sent`` tells).
        WireDisconnected, WireClosed, GuardRevoked
            As for every exchange.
        """
        channel = self._channel
        exchange = Exchange(data, max(deadline - perf_counter(), 0.0), None)
        with self._alone(max(deadline, perf_counter() + GIVE_WAY_S), exchange):
            deadline = max(deadline, perf_counter() + _LEAST_TO_SEND_S)
            channel._doubt()
            if not channel._ready:
                channel._make_ready(self, exchange, deadline)
            before = channel._asked
            channel._asked = asked = Asked(self, Exchange(data, reply_time, None), 1)
            channel._out = False
            try:
                channel._converse(self, exchange, perf_counter(), deadline)
            except CoexistenceError:
                if channel._asked is asked and not channel._out:  # nothing went out
                    channel._asked = before
                raise
            finally:
                channel._out = False

    def answered(self) -> None:
        """Note that nothing more is expected for what was sent."""
        asked = self._channel._asked
        if asked is not None and asked.guard._root is self._root:
            asked.begun = False  # it stays where it is: what others have asked may be there by now

    def receive(self, ending: Ending, deadline: float) -> bytes | None:
        """Return what ``ending`` asks for; ``None`` at the deadline or when the channel was interrupted."""
        channel = self._channel
        transport = channel._transport
        with self._alone(deadline, Exchange(b"", 0.0, None)):
            if not channel._connected:
                raise channel._disconnected(self.owner)
            try:
                return transport.receive(ending, min(deadline, perf_counter() + SOON_S))
            except Interrupted:
                channel._check(self)
                return None
            except transport.lost as error:
                channel._lose(error)
                raise channel._disconnected(self.owner) from error

    def make_ready(self, deadline: float) -> bool:
        """Tell whether what arrives now is nobody's late reply, or one that its owner knows for its own."""
        channel = self._channel
        exchange = Exchange(b"", max(deadline - perf_counter(), 0.0), None, _nothing)
        with self._alone(deadline, exchange):
            if not channel._ready:
                try:
                    channel._make_ready(self, exchange, deadline)
                except CommandTimeout:
                    return False
        return True

    def with_hardware(self, function: Callable[[Any], T]) -> T:
        """Run a function with the pyserial object behind the channel, while nobody else uses it.

        Raises
        ------
        io.UnsupportedOperation
            There is none: the channel is no serial port.
        OSError
            The port does not have what was asked for.
        """
        channel = self._channel
        transport = channel._transport
        with self._alone(perf_counter() + SOON_S, Exchange(b"", 0.0, None)):
            port = getattr(transport, "_serial", None)
            if port is None:
                if not channel._connected:
                    raise channel._disconnected(self.owner)
                raise io.UnsupportedOperation(f"{channel.name} is not a serial port of this machine")
            try:
                return function(port)
            except transport.lost as error:
                if getattr(error, "errno", None) in _NOT_THERE:
                    raise
                channel._lose(error)
                raise channel._disconnected(self.owner) from error

    def on_session(self, function: Callable[[Any, Any], T]) -> T:
        """Run a function with the VISA library and its session behind the channel, while nobody else uses it.

        Raises
        ------
        io.UnsupportedOperation
            There is none: the channel is a stream.
        """
        transport = self._channel._transport
        with self._alone(perf_counter() + SOON_S, Exchange(b"", 0.0, None)):
            if not isinstance(transport, VisaTransport):
                raise io.UnsupportedOperation(f"{self._channel.name} has no messages, only a stream of bytes")
            if transport._session is None:
                raise self._channel._disconnected(self.owner)
            return function(transport._visalib, transport._session)

    def hand_to_others(self, line: bytes) -> None:
        """Give a line that is not this owner's to whoever listens for such."""
        self._channel._route([line])

    def expect_late(self, question: bytes, terminator: bytes, until: float, examples: tuple[bytes, ...]) -> Suspect:
        """Keep a reply that may still come before ``until`` from being taken for the answer to another's question.

        Raises
        ------
        GuardRevoked
            The hold was ended from outside: the reply has been expected, or has come, since.
        """
        channel = self._channel
        with self._alone(perf_counter() + SOON_S, Exchange(b"", 0.0, None)):
            channel._ready = False
            channel._asked = None
            suspect = channel._suspect = Suspect(
                question, self.owner, terminator or whatever, None, until, examples=examples
            )
        return suspect

    @contextmanager
    def _alone(self, deadline: float, exchange: Exchange) -> Iterator[None]:
        lock = self._channel.wire.exchange_lock
        self.begin_operation()
        try:
            if not lock.acquire(timeout=min(max(deadline - perf_counter(), 0.0), SOON_S)):
                raise self._channel._unsent(self, exchange, "another exchange is on the wire")
            try:
                if self._root._state is not State.HELD:
                    self._channel._check(self)
                yield
            finally:
                lock.release()
        except BaseException as error:
            self._free_exchange_after(error)
            raise
        finally:
            self.end_operation()


class LeaseGuard(StreamGuard):
    """A guard that a lease's own thread holds on behalf of the driver's thread that asked for it."""

    __slots__ = ()

    served = True


class ListeningGuard(StreamGuard):
    """A guard for listening while nobody else wants the wire; it is given up as soon as somebody does.

    Those who only listen, too, wait until it ends: what it hears is given to them.
    """

    __slots__ = ("wanted",)

    def __init__(self, channel: Channel, owner: str, timeout: float) -> None:
        super().__init__(channel, owner, timeout, Rank.BACKGROUND)
        self.wanted = False
        """Whether somebody else waits for the wire."""

    def gives_way_to(self, waiter: Hold) -> bool:
        """Tell whether a waiter wants to do more than listen."""
        return not isinstance(waiter, ListeningGuard)

    def contended(self, waiter: Hold) -> None:
        """Give way to whoever has joined the line to do more than listen."""
        if self.gives_way_to(waiter):
            self.wanted = True
            self._channel._transport.interrupt()

    def give_way_to_those_in_line(self) -> None:
        """Take note of who joined the line before this was granted."""
        self.wanted = self.wanted or any(map(self.gives_way_to, self._arbiter.queue))


@contextmanager
def explained(channel: Channel, owner: str) -> Iterator[None]:
    """While the hardware is gone, say so rather than blame who waits ahead."""
    try:
        yield
    except AcquireTimeout as error:
        if channel.connected:
            raise
        disconnected: WireDisconnected = channel._disconnected(owner)
        raise disconnected from error
