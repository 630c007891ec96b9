"""A request for a wire and, once it is granted, the ownership itself.

The uncontended path takes no lock and makes no system call. Who comes claims the arbiter's one slot by inserting itself
(``dict.setdefault``); who goes claims its own end by taking itself out of ``held`` (``dict.pop``): both are atomic.
Everything else happens in the arbiter, under its mutex, and whoever ends a hold from outside must win the same claim
first.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from enum import IntEnum
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from coexistence import parties
from coexistence.errors import ConfigError, GuardNotHeld, GuardRevoked
from coexistence.parties import Party, current_task, current_thread, ident, running_loop, unlink

if TYPE_CHECKING:
    from coexistence.arbiter import Arbiter
    from coexistence.mailbox import Mailbox

LONGEST_TIMEOUT_S = 86_400.0
"""The largest time limit that is accepted, in seconds: there is no "for ever"."""

SAMPLE_BATCH = 3 * 1024
"""How many figures of finished holds an arbiter keeps before it hands them on."""


class Rank(IntEnum):
    """Which line a request waits in; within a rank it is first in, first out."""

    URGENT = 0
    """Before everybody who waits: stop commands."""
    NORMAL = 1
    BACKGROUND = 2
    """Only when nobody else waits: polls and shadow readings."""


class State(IntEnum):
    """The life of a :class:`Hold`."""

    NEW = 0
    QUEUED = 1
    HELD = 2
    RELEASING = 3
    """Released, but an exchange made under it is still on the wire."""
    REVOKED = 4
    ENDED = 5


NEW, QUEUED, HELD, RELEASING, REVOKED, ENDED = State
HOLDING = frozenset((HELD, RELEASING, REVOKED))
_NORMAL = Rank.NORMAL

# Assigned, not imported: CPython calls methods of imported names by a longer way.
_held = parties.held
_threads = parties.threads


class Hold:
    """One request for an arbiter and, when granted, the ownership itself.

    A context manager for threads (``with``) and for tasks (``async with``). Ownership lasts from entering to leaving
    the block, on every way out. Cancelling a task that waits in line takes it out of the line; cancelling one that
    has just been granted hands the ownership on.
    """

    __slots__ = (
        "__weakref__",
        "_acquired_at",
        "_arbiter",
        "_asker",
        "_depth",
        "_entered",
        "_max_hold",
        "_operations",
        "_outer",
        "_reason",
        "_revocable",
        "_root",
        "_state",
        "_wake",
        "deadline",
        "future",
        "mailbox",
        "owner",
        "party",
        "rank",
        "server",
        "timeout",
        "waited",
    )

    _acquired_at: float
    _asker: Party
    _depth: int
    _outer: Hold | None
    _reason: str
    _root: Hold
    _wake: Callable[[], None]
    deadline: float
    """When the request's time in line is over, on :func:`time.perf_counter`'s clock."""
    future: asyncio.Future[Any]
    """What the asking task awaits, for requests made on an event loop."""
    mailbox: Mailbox | None
    party: Party
    server: threading.Thread
    """The worker thread that holds the wire on behalf of the asking task, where ``served``."""

    served: ClassVar[bool] = False
    """Whether a worker holds the wire for the asking task, so that no event loop is needed for the hold to end."""

    def __init__(
        self,
        arbiter: Arbiter,
        owner: str,
        timeout: float = 2.0,
        rank: Rank = Rank.NORMAL,
        max_hold: float | None = None,
    ) -> None:
        try:
            if not 0.0 <= timeout <= LONGEST_TIMEOUT_S or not owner:
                raise TypeError
            if max_hold is not None and not 0.0 < max_hold <= LONGEST_TIMEOUT_S:
                raise TypeError
            if rank is not _NORMAL:
                rank = Rank(rank)
        except (TypeError, ValueError):
            raise _wrong_request(owner, timeout, rank, max_hold) from None
        self._arbiter = arbiter
        self.owner = owner
        self.timeout = timeout
        self.rank = rank
        self.waited = 0.0
        self._max_hold = max_hold
        self._state = NEW
        self._entered = False
        self._operations = 0
        self._revocable = 0

    @property
    def state(self) -> State:
        """Where this request stands."""
        return self._state

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that must run for this hold to end; ``None`` where none is needed."""
        party = self.party
        return None if self.served or isinstance(party, threading.Thread) else party.get_loop()

    @property
    def held_for(self) -> float:
        """Seconds since the ownership was granted; 0 before that."""
        return perf_counter() - self._acquired_at if self._state > QUEUED else 0.0

    def __enter__(self) -> Self:
        loop = running_loop()
        party: Party = (
            _threads.get(ident()) or current_thread() if loop is None else current_task(loop) or current_thread()
        )
        arbiter = self._arbiter
        try:
            if (
                party not in _held
                and not arbiter._length
                and not self._entered
                and arbiter._slot.setdefault(None, self) is self
            ):
                self.party = party
                self._root = _held[party] = self
                self._depth = 1
                self._outer = None
                self._acquired_at = perf_counter()
                self._entered = True
                self._state = HELD
                return self
            arbiter._acquire_blocking(self, party, loop, newest_hold(party))
        except GuardNotHeld:
            raise  # in use already, by this party or another: there is nothing to undo
        except BaseException:
            arbiter._abandon(self)
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        arbiter = self._arbiter
        try:
            if exc_type is not None:
                self._left_by_exception()
            if (
                self._root is self
                and self._depth == 1
                and not self._operations
                and self._outer is None
                and _held.get(self.party) is self
                and _held.pop(self.party, None) is self
                and self._state is HELD
            ):
                self._state = ENDED
                self._entered = False
                if not arbiter._length:
                    del arbiter._slot[None]
                if arbiter._length:
                    with arbiter._mutex:
                        arbiter._vacate(self)
            else:
                with arbiter._mutex:
                    arbiter._leave(self)
                return
            samples = arbiter._samples
            samples += (self.owner, self.waited, perf_counter() - self._acquired_at)
            if len(samples) > SAMPLE_BATCH:
                arbiter.drain_samples(wait=False)
        except BaseException:
            arbiter._repair(self)
            raise

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        party: Party = current_task(loop) or current_thread()
        arbiter = self._arbiter
        try:
            if (
                party not in _held
                and not arbiter._length
                and not self._entered
                and arbiter._slot.setdefault(None, self) is self
            ):
                self.party = party
                self._root = _held[party] = self
                self._depth = 1
                self._outer = None
                self._acquired_at = perf_counter()
                self._entered = True
                self._state = HELD
                return self
            await arbiter._acquire_async(self, party, loop, newest_hold(party))
        except GuardNotHeld:
            raise  # in use already, by this party or another: there is nothing to undo
        except BaseException:
            arbiter._abandon(self)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.__exit__(exc_type, exc, traceback)

    def _left_by_exception(self) -> None:
        """Take note that an exception ends the block."""

    def serving_thread(self) -> threading.Thread:
        """Return the thread that becomes the holder of a ``served`` request, at the moment when it is granted."""
        return self.server

    def revoked(self) -> None:
        """Take note that this hold was ended from outside (mutex held; must not block)."""

    def gives_way_to(self, waiter: Hold) -> bool:  # noqa: ARG002
        """Tell whether this holder lets go as soon as such a one waits, so that it is not in its way."""
        return False

    def contended(self, waiter: Hold) -> None:
        """Take note that somebody has joined the line behind this hold (mutex held; must not block)."""

    def release(self) -> None:
        """End the ownership before the block does; doing so twice is harmless."""
        if self._entered:
            self.__exit__(None, None, None)

    def check(self) -> None:
        """Raise unless this hold still owns the wire.

        Raises
        ------
        GuardRevoked
            The hold was ended from outside.
        GuardNotHeld
            It has not been entered yet, or has been left.
        """
        if self._entered:
            root = self._root
            if root._state is HELD:
                return
            if root._state is REVOKED:
                raise GuardRevoked(self._arbiter.name, self.owner, root.held_for, root._reason)
        raise GuardNotHeld(self._arbiter.name, self.owner)

    def begin_operation(self, *, revocable: bool = False) -> None:
        """Note that something is under way on the wire; the ownership cannot pass on until it ends.

        Parameters
        ----------
        revocable
            Whether a revocation does not wait for its end: for a function that may use the wire, and may hang.

        Raises
        ------
        GuardRevoked, GuardNotHeld
            As :meth:`check`.
        """
        with self._arbiter._mutex:
            self.check()
            self._root._operations += 1
            self._root._revocable += revocable

    def end_operation(self, *, revocable: bool = False) -> None:
        """End what :meth:`begin_operation` began; hands on an ownership that was given up meanwhile."""
        arbiter = self._arbiter
        root = self._root
        try:
            with arbiter._mutex:
                if root._operations:
                    root._operations -= 1
                    root._revocable -= revocable
                if root._state is not HELD:
                    arbiter._pass_on(root)
        except BaseException:
            with arbiter._mutex:
                if root._state is not HELD:
                    arbiter._pass_on(root)
            raise


def newest_hold(party: Party) -> Hold | None:
    """Return the party's newest hold."""
    hold = _held.get(party)
    while hold is not None and hold._state is ENDED:
        unlink(hold)
        hold = _held.get(party)
    return hold


def _wrong_request(owner: object, timeout: object, rank: object, max_hold: object) -> ConfigError:
    if not isinstance(owner, str) or not owner:
        return ConfigError(f"owner must be a non-empty string, not {owner!r}: it names you to others who wait")
    if rank not in tuple(Rank):
        return ConfigError(f"rank must be Rank.URGENT, Rank.NORMAL or Rank.BACKGROUND, not {rank!r}")
    if not isinstance(timeout, int | float) or not 0.0 <= timeout <= LONGEST_TIMEOUT_S:
        return ConfigError(
            f"timeout must be between 0 (now or never) and {LONGEST_TIMEOUT_S:g} s, not {timeout!r}: "
            "nothing waits for ever"
        )
    return ConfigError(f"max_hold must be above 0 and at most {LONGEST_TIMEOUT_S:g} s, or None, not {max_hold!r}")
