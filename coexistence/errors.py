"""Everything that can go wrong on a shared wire, as classes that carry their facts.

Each message says what happened, who holds what and what to do. The facts stand on the exception as attributes,
so that programs need not read messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class CoexistenceError(Exception):
    """Base of all errors raised by the coexistence layer."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration or an argument.

    Parameters
    ----------
    message
        What is wrong.
    suggestion
        What to do about it.
    location
        ``file:line`` where the problem stands, or an empty string for values given in code.
    """

    message: str
    suggestion: str = ""
    location: str = ""

    def __str__(self) -> str:
        return " / ".join(part for part in (self.message, self.suggestion, self.location) if part)


class ConfigError(CoexistenceError, ValueError):
    """A configuration file or an argument cannot be right; all problems found are listed together."""

    def __init__(self, *problems: Problem | str) -> None:
        self.problems: tuple[Problem, ...] = tuple(p if isinstance(p, Problem) else Problem(p) for p in problems)
        super().__init__("\n".join(str(p) for p in self.problems))


def checked(*problems: Problem) -> None:
    """Raise :class:`ConfigError` with these problems if there are any."""
    if problems:
        raise ConfigError(*problems)


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 0.001 else f"{value:.3f} s"  # not 4e-05 s


def _queue_text(queue: Sequence[str]) -> str:
    return f"; also waiting: {', '.join(map(str, queue))}" if queue else ""


class AcquireTimeout(CoexistenceError, TimeoutError):
    """The wire did not become free in time."""

    def __init__(
        self,
        wire: str,
        owner: str,
        waited: float,
        held_by: str | None,
        held_for: float,
        queue: Sequence[str] = (),
    ) -> None:
        self.wire = wire
        self.owner = owner
        self.waited = waited
        self.held_by = held_by
        self.held_for = held_for
        self.queue = tuple(queue)
        holder = f"it is held by '{held_by}' for {_seconds(held_for)}" if held_by else "others are ahead in line"
        super().__init__(
            f"'{owner}' did not get {wire} within {_seconds(waited)}: {holder}{_queue_text(self.queue)}. "
            "Give a longer timeout, or make the holder's block shorter."
        )


class CommandTimeout(CoexistenceError, TimeoutError):
    """An exchange did not end before its deadline.

    ``sent`` tells whether the command went out; a command that was not sent had no effect on the instrument.
    """

    def __init__(
        self,
        wire: str,
        owner: str,
        command: bytes,
        timeout: float,
        *,
        sent: bool,
        received: bytes = b"",
        reason: str = "",
    ) -> None:
        self.wire = wire
        self.owner = owner
        self.command = command
        self.timeout = timeout
        self.sent = sent
        self.received = received
        self.reason = reason
        if sent:
            got = f"only {received!r} came" if received else "nothing came"
            text = (
                f"no complete reply to {command!r} ('{owner}' on {wire}) within {_seconds(timeout)}: {got}. "
                "Check that the instrument is on, its line settings and terminator, or give a longer timeout."
            )
        else:
            why = reason or "its deadline passed while it waited"
            text = f"{command!r} ('{owner}' on {wire}) was not sent within {_seconds(timeout)}: {why}."
        super().__init__(text)


class WireDisconnected(CoexistenceError, ConnectionError):
    """The hardware behind a wire cannot be reached: absent, unplugged or switched off."""

    def __init__(self, wire: str, reason: str, *, owner: str = "", remedy: str = "") -> None:
        self.wire = wire
        self.owner = owner
        self.reason = reason
        self.remedy = remedy
        who = f" ('{owner}')" if owner else ""
        super().__init__(f"{wire}{who} is not connected: {reason}." + (f" {remedy}" if remedy else ""))


class WireInUse(CoexistenceError):
    """Somebody else has opened the hardware already, in this process or another."""

    def __init__(self, wire: str, used_by: str = "") -> None:
        self.wire = wire
        self.used_by = used_by
        by = used_by or "another program"
        super().__init__(
            f"{wire} is in use by {by}. Close it there, or share it: within one process take the wire from the "
            "same SerialPortPool or VisaSessionManager."
        )


class GuardRevoked(CoexistenceError):
    """This hold was ended from outside; the wire belongs to the next in line."""

    def __init__(self, wire: str, owner: str, held_for: float, reason: str) -> None:
        self.wire = wire
        self.owner = owner
        self.held_for = held_for
        self.reason = reason
        super().__init__(
            f"the hold of '{owner}' on {wire} was ended after {_seconds(held_for)}: {reason}. "
            "Acquire the wire again; what was under way may not have reached the instrument."
        )


class GuardNotHeld(CoexistenceError):
    """A guard was used outside its ``with`` block."""

    def __init__(self, wire: str, owner: str) -> None:
        self.wire = wire
        self.owner = owner
        super().__init__(
            f"the guard of '{owner}' on {wire} does not hold the wire. Use it inside its 'with' block "
            "('async with' for acquire_async), and only there."
        )


class WireClosed(CoexistenceError):
    """The wire was closed by this program."""

    def __init__(self, wire: str, owner: str = "", reason: str = "") -> None:
        self.wire = wire
        self.owner = owner
        self.reason = reason
        who = f" ('{owner}')" if owner else ""
        super().__init__(f"{wire}{who} {reason or 'has been closed. Open it again before using it.'}")


class WouldDeadlock(CoexistenceError):
    """Waiting here would stop the event loop that somebody ahead needs in order to finish."""

    def __init__(self, wire: str, owner: str, held_by: str) -> None:
        self.wire = wire
        self.owner = owner
        self.held_by = held_by
        super().__init__(
            f"'{owner}' asks for {wire} on an event loop's thread, but '{held_by}', which is ahead, can only let go "
            "when that loop runs. Use acquire_async or query_async here, or call from another thread."
        )


class LoopBlocked(CoexistenceError):
    """A blocking acquisition on an event loop's thread was given up, to keep the loop alive."""

    def __init__(self, wire: str, owner: str, waited: float, held_by: str | None) -> None:
        self.wire = wire
        self.owner = owner
        self.waited = waited
        self.held_by = held_by
        super().__init__(
            f"'{owner}' blocked an event loop for {_seconds(waited)} waiting for {wire}"
            + (f", held by '{held_by}'" if held_by else "")
            + ". Use acquire_async or query_async here, or call from another thread."
        )


class LockOrderViolation(CoexistenceError):
    """Wires are acquired in one global order, and this acquisition goes against it."""

    def __init__(self, wire: str, owner: str, held: Sequence[str]) -> None:
        self.wire = wire
        self.owner = owner
        self.held = tuple(held)
        super().__init__(
            f"'{owner}' asks for {wire} while holding {', '.join(self.held)}, which comes later in the order "
            "(serial before VISA, then by name). Take several wires with SharedResources.acquire_all, or release first."
        )


@dataclass(frozen=True)
class DeadlockMember:
    """One party of a cycle: who waits for which wire, what it holds and for how long (s)."""

    owner: str
    waits_for: str
    holds: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        holds = ", ".join(f"{wire} for {_seconds(age)}" for wire, age in self.holds) or "nothing"
        return f"'{self.owner}' holds {holds} and waits for {self.waits_for}"


class DeadlockDetected(CoexistenceError):
    """Several parties wait for each other in a circle; raised to the one who would close it, before it waits."""

    def __init__(self, members: Sequence[DeadlockMember]) -> None:
        self.members = tuple(members)
        super().__init__(
            "deadlock: "
            + "; ".join(str(m) for m in self.members)
            + ". Take several wires with SharedResources.acquire_all."
        )
