"""One question as a value: what to send and how its answer looks; and what came back."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from coexistence.errors import ConfigError, Problem
from coexistence.hold import State
from coexistence.transport import Accept, Ending

if TYPE_CHECKING:
    from coexistence.guard import Guard


class Reply(NamedTuple):
    """An answer and the system time (s since 1970) at which it was complete."""

    data: bytes
    timestamp: float


class Exchange:
    """One question: what to send, how its answer looks."""

    __slots__ = ("accept", "command", "ending", "mute", "repeatable", "timeout")

    def __init__(
        self,
        command: bytes,
        timeout: float,
        ending: Ending | None,
        accept: Accept | None = None,
        repeatable: bool = False,
        mute: bool = False,
    ) -> None:
        if ending is not None and (not ending or (isinstance(ending, int) and ending < 0)):
            raise _wrong_ending(ending)
        self.command = command
        self.timeout = timeout
        self.ending = ending
        self.accept = accept
        self.repeatable = repeatable
        self.mute = mute


def _wrong_ending(ending: object) -> ConfigError:
    return ConfigError(
        Problem(
            f"a reply must end with a terminator, after a length above 0 or where a function says, not {ending!r}",
            "a port whose replies have no terminator needs until= with each question" if ending == b"" else "",
        )
    )


class Asked:
    """What was written under a guard, and whose replies have not been read."""

    __slots__ = ("at", "begun", "doubtful", "exchange", "guard", "replies")

    def __init__(self, guard: Guard, exchange: Exchange, replies: int) -> None:
        self.guard = guard
        self.exchange = exchange
        self.replies = replies
        self.at = perf_counter()
        self.begun = False
        """Whether any of it may have gone out."""
        self.doubtful = False

    @property
    def is_abandoned(self) -> bool:
        """Whether the guard's time was over before it could read."""
        return self.begun and (self.doubtful or self.guard._root._state is State.REVOKED)
