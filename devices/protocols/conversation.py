"""Conversations: what is said on a wire within one hold, as generators that do no I/O.

A conversation yields what to send and is given what came back. Whoever drives it owns the wire: the same
conversation serves a blocking driver on its thread and an asynchronous one on the wire's worker, and a test that
is a table of sent and expected bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")


class Answer(NamedTuple):
    """One complete reply, without its terminator, and when it was complete (seconds since the epoch)."""

    data: bytes
    timestamp: float


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a command and wait for its reply.

    Parameters
    ----------
    command
        The bytes to send, with their terminator.
    accept
        Tells whether a line can be the reply to this command; lines it refuses are left to others.
    repeatable
        The command changes nothing, so it may be sent once more when its reply was lost.
    timeout_s
        How long the reply may take, for commands that are slower than the wire's usual time.
    until
        How the reply ends when it does not end with the wire's terminator: terminator, length, or a function of
        the buffer that gives the end of the reply or 0.
    """

    command: bytes
    accept: Callable[[bytes], bool] | None = None
    repeatable: bool = False
    timeout_s: float | None = None
    until: bytes | int | Callable[[bytes], int] | None = None


@dataclass(frozen=True, slots=True)
class Say:
    """Send a command that has no reply."""

    command: bytes


Step: TypeAlias = Ask | Say
Conversation: TypeAlias = Generator[Step, Answer, T]


class Stamped(NamedTuple, Generic[T]):
    """A value and when it was measured: the time at which the reply that holds it was complete."""

    value: T
    timestamp: float
