"""What carries bytes to and from an instrument: the part of a wire that knows the operating system.

A transport is used by one thread at a time; the wire sees to that. Deadlines are absolute, on
:func:`time.perf_counter`'s clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

Ending = bytes | int | Callable[[bytes], int]
"""How a reply ends: a terminator, a length in bytes, or a function that returns the end's index in the bytes
received so far: 0 while incomplete, ``-n`` where it need not be asked again before there are ``n`` bytes."""

Accept = Callable[[bytes], bool]
"""Tells whether a reply (without terminator) can be the answer to the question asked."""

_NOISE_QUIET_S = 0.02
"""An unfinished line that grows no more within this time (20 characters at 9600 baud) is noise."""

_BABBLE_S = 0.3
"""An instrument that talks without a pause is listened to for this long before it is asked."""


def accepted(accept: Accept | None, reply: bytes) -> bool:
    """Tell whether a reply can be the answer, where others would suffer from a function that fails on a garbled one."""
    try:
        return accept is None or accept(reply)
    except Exception:
        return False


def never_failing(ending: Ending) -> Ending:
    """Return how a reply ends, where others would suffer from a function that fails: none is complete for it then."""
    if isinstance(ending, bytes | int):
        return ending

    def end(buffer: bytes) -> int:
        try:
            return int(ending(buffer))
        except Exception:
            return 0

    return end


class Interrupted(Exception):
    """A blocked send or receive was woken by :meth:`Transport.interrupt`; ``sent`` bytes had gone out."""

    def __init__(self, sent: int = 0) -> None:
        super().__init__()
        self.sent = sent


@dataclass
class Suspect:
    """What may still come in for a question whose reply did not come in time.

    Parameters
    ----------
    question
        The command that was sent.
    owner
        Who sent it.
    ending
        How its reply ends.
    accept
        Which replies can be its answer.
    until
        When to give the reply up for lost, on :func:`time.perf_counter`'s clock.
    replies
        How many replies may still come.
    examples
        Earlier replies to the same owner: an exchange that refuses them all cannot take the late one for its own.
    """

    question: bytes
    owner: str
    ending: Ending
    accept: Accept | None
    until: float
    replies: int = 1
    examples: tuple[bytes, ...] = ()

    def may_be(self, reply: bytes) -> bool:
        """Whether this can be a late reply to the question."""
        return accepted(self.accept, reply)

    def joined_by(self, later: Suspect) -> Suspect:
        """Return what both may still bring in, where an exchange that was let through stayed without reply, too."""

        def either(reply: bytes) -> bool:
            return self.may_be(reply) or later.may_be(reply)

        return Suspect(
            later.question,
            later.owner,
            later.ending,
            either,
            max(self.until, later.until),
            self.replies + later.replies,
            self.examples + later.examples if self.examples and later.examples else (),
        )

    def spares(self, accept: Accept | None) -> bool:
        """Whether an exchange may go on meanwhile: its ``accept`` tells these replies from its own."""
        return accept is not None and bool(self.examples) and not any(map(accept, self.examples))


class Transport(ABC):
    """A connection to one instrument, or to a bus with several on one line."""

    lost: tuple[type[BaseException], ...] = (OSError,)
    """What the methods raise when the hardware is gone."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def open(self) -> None:
        """Open or reopen.

        Raises
        ------
        WireDisconnected
            There is no such hardware now.
        WireInUse
            Somebody else has it.
        """

    @abstractmethod
    def close(self) -> None:
        """Close; harmless when closed already."""

    @abstractmethod
    def send(self, data: bytes, deadline: float) -> int:
        """Send what can be sent before the deadline; return how many bytes that was."""

    @abstractmethod
    def receive(self, ending: Ending, deadline: float) -> bytes | None:
        """Return one reply without its terminator, or ``None`` at the deadline; what came so far is kept.

        What has arrived is looked at once more then: who wakes late, because the machine stood still, finds it.

        Raises
        ------
        Interrupted
            :meth:`interrupt` was called.
        """

    @abstractmethod
    def unread(self) -> bytes:
        """Return what came so far of an unfinished reply, and leave it."""

    @abstractmethod
    def take_lines(self, terminator: bytes) -> list[bytes]:
        """Return at once the complete lines that have arrived and nobody asked for."""

    @abstractmethod
    def interrupt(self) -> None:
        """Wake a blocked :meth:`receive`, from any thread, without blocking."""

    def forget(self) -> None:  # noqa: B027 - not every medium lets go without telling the other side
        """Let go, in a forked child, of what is its parent's, without telling the hardware."""

    def reset(self) -> bool:
        """Make sure that no earlier reply can arrive any more, where the medium can; else return False."""
        return False


class StreamTransport(Transport):
    """A transport on a stream of bytes, with the buffer that framing needs."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._buffer = bytearray()

    @abstractmethod
    def _read_some(self, deadline: float) -> bytes:
        """Return what has arrived, at least one byte, or nothing at the deadline."""

    def receive(self, ending: Ending, deadline: float) -> bytes | None:
        buffer = self._buffer
        if isinstance(ending, bytes):
            size = len(ending)
            if not buffer:
                chunk = self._read_some(deadline)
                if chunk.find(ending) == len(chunk) - size >= 0:
                    return chunk[:-size]
                if not chunk:
                    return None
                buffer += chunk
            searched = 0
            late = False
            while True:
                index = buffer.find(ending, searched)
                if index >= 0:
                    reply = bytes(buffer[:index])
                    del buffer[: index + size]
                    return reply
                searched = max(len(buffer) - size + 1, 0)
                if perf_counter() >= deadline:
                    if late:
                        return None
                    late = True
                chunk = self._read_some(deadline)
                if not chunk:
                    return None
                buffer += chunk
        needed = 1
        late = False
        while True:
            if len(buffer) >= needed:
                end = self._end(ending)
                if end > 0:
                    reply = bytes(buffer[:end])
                    del buffer[:end]
                    return reply
                needed = -end
            if perf_counter() >= deadline:
                if late:
                    return None
                late = True
            chunk = self._read_some(deadline)
            if not chunk:
                return None
            buffer += chunk

    def _end(self, ending: int | Callable[[bytes], int]) -> int:
        if isinstance(ending, int):
            return ending if len(self._buffer) >= ending else 0
        return ending(bytes(self._buffer)) if self._buffer else 0

    def unread(self) -> bytes:
        return bytes(self._buffer)

    def take_lines(self, terminator: bytes) -> list[bytes]:
        buffer = self._buffer
        chunk = self._read_some(0.0)
        if not chunk and not buffer:
            return []
        patience = perf_counter() + _BABBLE_S
        while True:
            buffer += chunk
            complete = not terminator or buffer.endswith(terminator)
            chunk = self._read_some(0.0 if complete else perf_counter() + _NOISE_QUIET_S)
            if not chunk:
                break
            if terminator and perf_counter() >= patience:
                *lines, rest = bytes(buffer + chunk).split(terminator)
                buffer[:] = rest
                return [line for line in lines if line]
        lines = bytes(buffer).split(terminator) if terminator else [bytes(buffer)]
        buffer.clear()
        return [line for line in lines if line]
