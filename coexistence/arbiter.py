"""Who owns a wire: one fair line for threads and asyncio tasks.

An :class:`Arbiter` hands ownership to the next in line itself; nobody can grab it in passing. Every request names an
owner and a time limit. Before anyone waits, the wait-for graph over all arbiters is walked, so that a circle is an
error for the one who would close it and never a hang.

The uncontended path takes no lock and makes no system call. Who comes claims the wire's one slot by inserting itself
(``dict.setdefault``); who goes claims its own end by taking itself out of ``_held`` (``dict.pop``): both are atomic.
Everything else happens under the mutex, and whoever ends a hold from outside must win the same claim first.

Signal handlers may raise between any two bytecodes of the main thread; every change of state is therefore a step that
can be repeated (:meth:`Arbiter._advance`), and the ways in and out repeat it when an exception passes. They may also
use wires, and so may what the garbage collector ends, a forgotten task inside of its block for one, wherever it
strikes: therefore the locks can be entered again by the thread that has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from enum import IntEnum
from time import perf_counter
from types import TracebackType
from typing import Any, ClassVar, Self

from coexistence.errors import (
    AcquireTimeout,
    CoexistenceError,
    ConfigError,
    DeadlockDetected,
    DeadlockMember,
    GuardNotHeld,
    GuardRevoked,
    LockOrderViolation,
    LoopBlocked,
    WouldDeadlock,
)

LOOP_PATIENCE_S = 0.05
"""How long a blocking acquisition may stop an event loop, in seconds."""

LONGEST_TIMEOUT_S = 86_400.0
"""The largest time limit that is accepted, in seconds: there is no "for ever"."""

GIVE_WAY_S = 0.5
"""How long a holder that gives way may take to do so, in seconds."""

_REAP_INTERVAL_S = 0.1
"""How often those who wait look whether the holder has died or outstayed its max_hold."""

_SAMPLE_BATCH = 3 * 1024

Party = threading.Thread | asyncio.Task[Any]
"""Who waits or holds: reentrancy and the wait-for graph go by this object's identity, never by name or number."""

_running_loop = asyncio._get_running_loop
_current_task = asyncio.current_task
_threads: dict[int, threading.Thread] = threading._active  # type: ignore[attr-defined]
_ident = threading.get_ident


def _current_thread() -> threading.Thread:
    """Return the running thread: :func:`threading.current_thread` at a third of its cost."""
    return _threads.get(_ident()) or threading.current_thread()


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
_HOLDING = frozenset((HELD, RELEASING, REVOKED))
_NORMAL = Rank.NORMAL

_held: dict[Party, Hold] = {}
"""The newest hold of each party; older ones hang on it by ``_outer``."""

_waiting: dict[Party, Hold] = {}
"""What each party that waits is waiting for. Changed under ``_graph`` only."""

_graph = threading.RLock()


def current_party() -> Party:
    """Return the running task, or the running thread where there is no task."""
    loop = _running_loop()
    if loop is None:
        return _current_thread()
    return _current_task(loop) or _current_thread()


class Mailbox:
    """What one event loop waits for at one arbiter: a single wake-up and a single timer serve all of it."""

    __slots__ = ("_arbiter", "_due", "_loop", "_posted", "_scheduled", "_timer")

    def __init__(self, arbiter: Arbiter, loop: asyncio.AbstractEventLoop) -> None:
        self._arbiter = arbiter
        self._loop = loop
        self._posted: deque[tuple[Callable[..., None], Any]] = deque()
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")

    @property
    def closed(self) -> bool:
        """Whether the loop is closed: nobody there waits for anything any more."""
        return self._loop.is_closed()

    def post(self, function: Callable[..., None], argument: Any) -> bool:
        """Have the loop call ``function(argument)`` soon; from any thread. False when the loop is closed."""
        self._posted.append((function, argument))
        if not self._scheduled:
            self._scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                self._posted.clear()
                return False
            except BaseException:
                self._scheduled = False  # whoever posts next wakes the loop
                raise
        return True

    def _deliver(self) -> None:
        self._scheduled = False
        posted = self._posted
        while posted:
            function, argument = posted.popleft()
            function(argument)

    def watch(self, deadline: float) -> None:
        """See to it that a request of this loop is ended when its deadline passes (loop thread only)."""
        if deadline < self._due:
            self._arm(deadline)

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        now = perf_counter()
        self._due = min(deadline, now + _REAP_INTERVAL_S)
        self._timer = self._loop.call_later(max(self._due - now, 0.0), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._due = float("inf")
        following = self._arbiter._expire(self)
        if following is not None:
            self._arm(following)


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
        loop = _running_loop()
        party: Party = (
            _threads.get(_ident()) or _current_thread() if loop is None else _current_task(loop) or _current_thread()
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
            arbiter._acquire_blocking(self, party, loop, _newest(party))
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
            if len(samples) > _SAMPLE_BATCH:
                arbiter.drain_samples(wait=False)
        except BaseException:
            arbiter._repair(self)
            raise

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        party: Party = _current_task(loop) or _current_thread()
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
            await arbiter._acquire_async(self, party, loop, _newest(party))
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


def _newest(party: Party) -> Hold | None:
    """Return the party's newest hold."""
    hold = _held.get(party)
    while hold is not None and hold._state is ENDED:
        _unlink(hold)
        hold = _held.get(party)
    return hold


def _claim_end(hold: Hold) -> bool:
    """Win the right to end a hold from its party, which claims it by taking the hold out of ``_held``."""
    party = hold.party
    if _held.get(party) is hold:
        taken = _held.pop(party, None)
        if taken is hold:
            if hold._outer is not None:
                _held.setdefault(party, hold._outer)
            return True
        if taken is not None:
            _held.setdefault(party, taken)  # the party has gone on to another wire between the two steps
        return False
    return any(each is hold for each in holds_of(party))


def _unlink(hold: Hold) -> None:
    """Take a hold out of its party's chain, wherever it stands there."""
    party = hold.party
    newest = _held.get(party)
    if newest is hold:
        if hold._outer is None:
            del _held[party]
        else:
            _held[party] = hold._outer
        return
    while newest is not None:
        if newest._outer is hold:
            newest._outer = hold._outer
            return
        newest = newest._outer


def holds_of(party: Party) -> Iterator[Hold]:
    """Yield what a party holds, newest first."""
    hold = _held.get(party)
    while hold is not None:
        yield hold
        hold = hold._outer


def waiting_parties() -> list[tuple[Party, Hold]]:
    """Return who waits for what, over all arbiters."""
    with _graph:
        return list(_waiting.items())


def _party_is_gone(party: Party) -> bool:
    if isinstance(party, threading.Thread):
        return not party.is_alive()
    return party.done() or party.get_loop().is_closed()


def _set_done(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)


def forget_wait(party: Party, hold: Hold) -> None:
    """Take a wait out of the wait-for graph."""
    if _waiting.get(party) is hold:
        with _graph:
            if _waiting.get(party) is hold:
                del _waiting[party]


def forget_all_waits() -> None:
    """Have nobody hold or wait, in a forked child."""
    global _graph
    _graph = threading.RLock()
    _held.clear()
    _waiting.clear()


class Arbiter:
    """The one line in front of a wire.

    Parameters
    ----------
    name
        The wire's name in messages.
    order
        The wire's place in the global order; while holding a wire one may only acquire wires that sort after it.
        ``None``: outside the order.
    check_order
        Whether to raise :class:`LockOrderViolation`; without it, circles are still found when they close.
    on_samples
        Called with a flat list of owner, seconds waited, seconds held, owner, … for finished holds, in batches.
    on_revoked
        Called when a hold is ended from outside. The arbiter's mutex is held: it must not block.
    """

    def __init__(
        self,
        name: str,
        *,
        order: tuple[int, str] | None = None,
        check_order: bool = True,
        on_samples: Callable[[list[Any]], None] | None = None,
        on_revoked: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.order = order
        self.check_order = check_order
        self._on_samples = on_samples
        self._on_revoked = on_revoked
        self._mutex = threading.RLock()
        self._slot: dict[None, Hold] = {}  # the holder, when there is one
        self._lines: tuple[deque[Hold], deque[Hold], deque[Hold]] = (deque(), deque(), deque())
        self._length = 0
        self._unnotified: Hold | None = None
        self._samples: list[str | float] = []  # flat: tuples kept would set off the garbage collector
        self._draining = threading.Lock()
        self._mailboxes: dict[asyncio.AbstractEventLoop, Mailbox] = {}
        self._closed: Callable[[str], BaseException] | None = None

    def acquire(
        self, owner: str, timeout: float = 2.0, rank: Rank = Rank.NORMAL, max_hold: float | None = None
    ) -> Hold:
        """Ask for ownership; the request is made when the returned hold is entered (``with`` or ``async with``).

        Parameters
        ----------
        owner
            A stable name for whoever asks; shown to others who wait, and in the statistics.
        timeout
            Seconds to wait in line; ``0`` means now or :class:`AcquireTimeout`.
        rank
            Which line to wait in.
        max_hold
            Seconds after which others who wait may end this hold; ``None``: never.
        """
        return Hold(self, owner, timeout, rank, max_hold)

    @property
    def holder(self) -> Hold | None:
        """Who owns the wire now; a holder that died is noticed here."""
        if self._slot:
            with self._mutex:
                self._reap()
        holder = self._slot.get(None)
        return holder if holder is not None and holder._state in _HOLDING else None

    @property
    def queue(self) -> list[Hold]:
        """Who waits, in the order in which they will be served."""
        with self._mutex:
            return [hold for line in self._lines for hold in line]

    def __len__(self) -> int:
        return max(self._length, 0)

    def revoke(self, owner: str | None = None, reason: str = "it was revoked") -> bool:
        """End the present hold (of ``owner`` only, when given); its next use raises :class:`GuardRevoked`.

        The next in line gets the wire at once, or when the exchange that is on the wire has been broken off.
        Returns whether there was such a hold.
        """
        with self._mutex:
            hold = self._slot.get(None)
            if hold is None or (owner is not None and hold.owner != owner):
                return False
            return self._end_from_outside(hold, reason)

    def close(self, error: Callable[[str], BaseException]) -> None:
        """End the line: all who wait, and all who ask later, get ``error(owner)``; the holder is revoked.

        May be repeated after an interruption.
        """
        with self._mutex:
            if self._closed is None:
                self._closed = error
            for line in self._lines:
                for hold in line:
                    hold._state = ENDED
                    if hold.mailbox is not None:
                        hold.mailbox.post(_set_done, hold.future)
                    else:
                        with contextlib.suppress(RuntimeError):  # woken by a call that a signal broke into
                            hold._wake()
                line.clear()
            self._recount()
            holder = self._slot.get(None)
            if holder is not None:
                self._end_from_outside(holder, "the wire was closed")
            self._mailboxes.clear()

    def forget(self, error: Callable[[str], BaseException]) -> None:
        """End the line in a forked child, whatever its parent's threads were about: none of them is here."""
        self._mutex, self._draining = threading.RLock(), threading.Lock()
        self._closed = error
        for hold in tuple(self._slot.values()):
            hold._reason = "the process was forked"
            hold._state = REVOKED
        self._slot.clear()
        for line in self._lines:
            line.clear()
        self._mailboxes.clear()
        self._unnotified = None
        self._recount()

    def drain_samples(self, *, wait: bool = True) -> None:
        """Hand the finished holds not reported yet to ``on_samples``; without ``wait``, unless that is being done."""
        if not self._draining.acquire(wait):
            return
        try:
            number = len(self._samples) // 3 * 3
            batch = self._samples[:number]
            del self._samples[:number]
            if batch and self._on_samples is not None:
                self._on_samples(batch)
        finally:
            self._draining.release()

    # Requests

    def _acquire_blocking(
        self, hold: Hold, party: Party, loop: asyncio.AbstractEventLoop | None, outer: Hold | None
    ) -> None:
        if self._reenter(hold, party, outer):
            return
        self._check_unused(hold)
        self._wait_in_line(hold, party, loop)

    def acquire_for(self, hold: Hold, server: threading.Thread) -> None:
        """Wait in line on the calling thread for ownership that another thread will have.

        The caller stands in the wait-for graph while it waits; the hold lasts until ``server`` leaves it or dies.

        Parameters
        ----------
        hold
            The request, of a class that is ``served``.
        server
            The thread that becomes the holder; it must run.

        Raises
        ------
        AcquireTimeout, WouldDeadlock, LoopBlocked, LockOrderViolation, DeadlockDetected, WireClosed
            As on entering a hold.
        """
        loop = _running_loop()
        party = current_party()
        outer = _newest(party)
        if outer is not None:
            self._check_order(hold, outer)
        hold.server = server
        try:
            self._wait_in_line(hold, party, loop, lonely=outer is None)
        except BaseException:
            self._abandon(hold)
            raise

    def _wait_in_line(
        self, hold: Hold, party: Party, loop: asyncio.AbstractEventLoop | None, *, lonely: bool = False
    ) -> None:
        gate = threading.Lock()
        gate.acquire()
        hold._wake = gate.release
        started = perf_counter()
        if self._enqueue(hold, party, started, None, blocks=loop, lonely=lonely):
            return
        patience = hold.timeout if loop is None else min(hold.timeout, LOOP_PATIENCE_S)
        deadline = started + patience
        try:
            while not gate.acquire(timeout=max(min(deadline - perf_counter(), _REAP_INTERVAL_S), 0.0)):
                with self._mutex:
                    self._reap()
                    if hold._state is not QUEUED:
                        break
                    if perf_counter() >= deadline:
                        self._leave_line(hold)
                        raise self._late(hold, on_loop=patience < hold.timeout)
        finally:
            forget_wait(party, hold)
        if hold._state is ENDED:
            raise self._ended(hold)
        hold._entered = True

    async def _acquire_async(
        self, hold: Hold, party: Party, loop: asyncio.AbstractEventLoop, outer: Hold | None
    ) -> None:
        if self._reenter(hold, party, outer):
            return
        self._check_unused(hold)
        mailbox = self.mailbox(loop)
        future: asyncio.Future[None] = loop.create_future()
        hold.future = future

        def wake() -> None:
            mailbox.post(_set_done, future)

        hold._wake = wake
        if self._enqueue(hold, party, perf_counter(), mailbox):
            return
        mailbox.watch(hold.deadline)
        try:
            await future
        finally:
            forget_wait(party, hold)
        if hold._state is ENDED:
            raise self._ended(hold)
        hold._entered = True

    def submit(
        self,
        hold: Hold,
        server: threading.Thread,
        wake: Callable[[], None],
        mailbox: Mailbox,
        party: Party,
    ) -> None:
        """Put a request in line that a worker serves and that needs no event loop to end (loop thread only).

        Parameters
        ----------
        hold
            The request, of a class that is ``served``.
            ``hold.future`` is resolved by whoever serves it, or with ``None`` when it leaves the line
            unserved: :meth:`unserved` then has the reason.
        server
            The worker's thread, which becomes the holder.
        wake
            Called once when the request is granted, with the mutex held; it must not block.
        mailbox
            The asking loop's.
        party
            The task that waits; it stays in the wait-for graph until :func:`forget_wait`.
        """
        hold.server = server
        hold._wake = wake
        outer = _newest(party)
        if outer is not None:
            self._check_order(hold, outer)
        try:
            if not self._enqueue(hold, party, perf_counter(), mailbox, lonely=outer is None):
                mailbox.watch(hold.deadline)
        except BaseException:
            self._abandon(hold)
            raise

    def withdraw(self, hold: Hold) -> bool:
        """Take a request out of the line. False when it was granted already: then its holder must end it."""
        with self._mutex:
            if hold._state is QUEUED:
                self._leave_line(hold)
                if hold.mailbox is None:
                    hold._wake()
                return True
            return hold._state is not HELD

    def unserved(self, hold: Hold) -> BaseException:
        """Return why a submitted request left the line without being served."""
        return self._ended(hold)

    def mailbox(self, loop: asyncio.AbstractEventLoop) -> Mailbox:
        """Return the loop's mailbox at this arbiter (loop thread only)."""
        mailbox = self._mailboxes.get(loop)
        if mailbox is None:
            with self._mutex:
                for other in [other for other in self._mailboxes if other.is_closed()]:
                    del self._mailboxes[other]
                mailbox = self._mailboxes[loop] = Mailbox(self, loop)
        return mailbox

    def held_by(self, party: Party) -> Hold | None:
        """Return the hold that ``party`` has here, if any."""
        hold = _held.get(party)
        while hold is not None and hold._arbiter is not self:
            hold = hold._outer
        return hold

    # The line

    def _reenter(self, hold: Hold, party: Party, outer: Hold | None) -> bool:
        """Take part in a hold that the same party has, or see that the order allows a new one."""
        if outer is None:
            return False
        mine = self.held_by(party)
        if mine is None:
            self._check_order(hold, outer)
            return False
        with self._mutex:
            if mine._state is REVOKED:
                raise GuardRevoked(self.name, mine.owner, mine.held_for, mine._reason)
            if mine is hold or mine._state is not HELD:
                raise GuardNotHeld(self.name, hold.owner)
            hold._root = mine
            hold._outer = None
            hold.party = party
            hold._acquired_at = perf_counter()
            hold._state = HELD
            hold._entered = True
            mine._depth += 1
        return True

    def _check_unused(self, hold: Hold) -> None:
        """Refuse a request that somebody else has made with the same object and that has not ended."""
        if hold._state is not NEW and hold._state is not ENDED:
            raise GuardNotHeld(self.name, hold.owner)

    def _check_order(self, hold: Hold, outer: Hold | None) -> None:
        if not self.check_order or self.order is None:
            return
        later: list[str] = []
        while outer is not None:
            other = outer._arbiter
            if other is not self and other.order is not None and other.order > self.order:
                later.append(other.name)
            outer = outer._outer
        if later:
            raise LockOrderViolation(self.name, hold.owner, later)

    def _enqueue(
        self,
        hold: Hold,
        party: Party,
        started: float,
        mailbox: Mailbox | None,
        *,
        blocks: asyncio.AbstractEventLoop | None = None,
        lonely: bool = False,
    ) -> bool:
        """Grant the request now (True), or put it in line (False) if no circle closes.

        ``blocks`` is the loop that a blocking request would stop. A ``lonely`` request's party holds nothing, so
        that a grant needs no entry in the wait-for graph.
        """
        hold._asker = hold.party = party
        hold.mailbox = mailbox
        hold._acquired_at = started
        hold.deadline = started + hold.timeout
        with self._mutex:
            if self._closed is not None:
                raise self._closed(hold.owner)
            self._reap()
            if (lonely or not hold.served) and not self._length and self._slot.setdefault(None, hold) is hold:
                self._grant(hold, started)
                if hold.served:
                    self._notify(hold)
                else:
                    self._unnotified = None
                    hold._entered = True
                return True
        with _graph:
            _waiting[party] = hold
            with self._mutex:
                if self._closed is not None:
                    self._drop_wait(party)
                    raise self._closed(hold.owner)
                holder = self._slot.get(None)  # which may leave at any moment, without the mutex
                if holder is not None and hold.timeout == 0.0:
                    if not holder.gives_way_to(hold):
                        self._drop_wait(party)
                        raise self._late(hold)
                    hold.timeout = GIVE_WAY_S
                    hold.deadline = started + GIVE_WAY_S
                hold._root = hold
                hold._state = QUEUED
                self._lines[hold.rank].append(hold)
                self._length += 1
                self._advance()
                holder = self._slot.get(None)
                if holder is not None and holder is not hold:
                    holder.contended(hold)
            if blocks is None and party not in _held:
                return False  # nobody waits for a party that holds nothing, so no circle can close here
            try:
                self._walk(hold, party, blocks)
            except CoexistenceError:
                with self._mutex:
                    refused = hold._state is QUEUED
                    if refused:
                        self._leave_line(hold)
                if refused:
                    self._drop_wait(party)
                    raise
        return False

    @staticmethod
    def _drop_wait(party: Party) -> None:
        _waiting.pop(party, None)

    def _walk(self, hold: Hold, party: Party, blocks: asyncio.AbstractEventLoop | None) -> None:
        """Follow who waits for whom; raise if it leads back to ``party`` or to the loop it would block."""
        thread = _current_thread() if blocks is not None else None
        trail: list[Hold] = []
        seen: set[int] = set()

        def follow(waiter: Hold) -> None:
            trail.append(waiter)
            seen.add(id(waiter))
            for ahead in waiter._arbiter._ahead_of(waiter, whole_line=blocks is not None):
                if blocks is not None and (ahead.loop is blocks or ahead.party is thread):
                    raise WouldDeadlock(self.name, hold.owner, ahead.owner)
                if ahead.party is party and ahead is not hold:
                    raise DeadlockDetected([_member(each) for each in trail])
                following = _waiting.get(ahead.party)
                if following is not None and id(following) not in seen:
                    follow(following)
            trail.pop()

        follow(hold)

    def _ahead_of(self, waiter: Hold, *, whole_line: bool) -> list[Hold]:
        """Return whose turn comes before the waiter's: the holder, and on request those before it in line."""
        with self._mutex:
            if waiter._state is not QUEUED:
                return [waiter] if waiter.served and waiter._state is HELD else []
            holder = self._slot.get(None)
            ahead = [holder] if holder is not None and holder._state is HELD else []  # others end by themselves
            if not whole_line:
                return ahead
            for line in self._lines[: waiter.rank + 1]:
                for each in line:
                    if each is waiter:
                        return ahead
                    ahead.append(each)
            return ahead

    def _grant(self, hold: Hold, now: float) -> None:
        """Make a request that has the slot the holder (mutex held). Every step may be repeated."""
        hold._root = hold
        hold._depth = 1
        hold.waited = max(now - (hold.deadline - hold.timeout), 0.0)
        hold._acquired_at = now
        self._unnotified = hold
        if hold.served:
            hold.party = hold.serving_thread()
            hold._entered = True
        if _held.get(hold.party) is not hold:
            hold._outer = _held.get(hold.party)
            _held[hold.party] = hold
        hold._state = HELD

    def _notify(self, hold: Hold) -> None:
        """Tell a granted request's waiter (mutex held)."""
        with contextlib.suppress(RuntimeError):
            hold._wake()
        self._unnotified = None

    def _advance(self) -> None:
        """Hand the wire to the next in line if it is free (mutex held). May be repeated after an interruption."""
        for line in self._lines:
            while line and line[0]._state is not QUEUED:
                line.popleft()
        first = next((line[0] for line in self._lines if line), None)
        if first is not None and not self._slot:
            self._unnotified = first
            self._slot.setdefault(None, first)
        holder = self._slot.get(None)
        if holder is not None and holder is self._unnotified:
            if holder._state is QUEUED:
                self._grant(holder, perf_counter())
                self._lines[holder.rank].popleft()
            self._notify(holder)
        self._recount()

    def _recount(self) -> None:
        """Bring the line's length up to date; on a closed arbiter it is never 0, so that nobody enters in passing."""
        self._length = sum(map(len, self._lines)) if self._closed is None else -1

    def _vacate(self, root: Hold) -> None:
        """Free the slot that an ended hold still has, and hand the wire on (mutex held). May be repeated."""
        if self._slot.get(None) is root:
            del self._slot[None]
        self._advance()

    def _leave_line(self, hold: Hold) -> None:
        """Take a waiting request out of the line (mutex held)."""
        hold._state = ENDED
        with contextlib.suppress(ValueError):
            self._lines[hold.rank].remove(hold)
        self._recount()

    def _leave(self, hold: Hold) -> None:
        """Leave a block other than by the shortest way (mutex held)."""
        if not hold._entered:
            return
        hold._entered = False
        root = hold._root
        if hold is not root:
            hold._state = ENDED
        root._depth -= 1
        if root._depth > 0:
            return
        if root.party is _current_thread():
            root._operations = 0  # what a thread did under its hold is over when it leaves the block
        elif root._operations:
            _unlink(root)  # the party may ask again, and waits for itself like anybody else
        if root._state is REVOKED:
            _unlink(root)
            self._pass_on(root)
        if root._state is not HELD:
            return
        if root._operations:
            root._state = RELEASING
            return
        root._state = ENDED
        self._pass_on(root)
        self._note(root)

    def _pass_on(self, root: Hold) -> None:
        """Hand on an ownership that has ended, unless an exchange made under it is still on the wire (mutex held)."""
        busy = root._operations - root._revocable if root._state is REVOKED else root._operations
        if busy and not (isinstance(root.party, threading.Thread) and not root.party.is_alive()):
            return
        if root._state is RELEASING:
            root._state = ENDED
            self._note(root)
        if self._slot.get(None) is root:
            _unlink(root)
            self._vacate(root)

    def _end_from_outside(self, hold: Hold, reason: str) -> bool:
        """Revoke a hold, unless its party is just ending it itself (mutex held)."""
        if hold._state is not RELEASING and not (hold._state is HELD and _claim_end(hold)):
            return False
        self._note(hold)
        hold._reason = reason
        hold._state = REVOKED
        hold.revoked()
        if self._on_revoked is not None:
            self._on_revoked()
        self._pass_on(hold)
        return True

    def _reap(self) -> None:
        """End a hold whose party has died, or that others have waited for longer than it allows (mutex held)."""
        hold = self._slot.get(None)
        if hold is None or hold._state not in _HOLDING:
            return  # free, or its party is just entering or leaving
        if hold._state is HELD and _party_is_gone(hold.party):
            kind = "thread" if isinstance(hold.party, threading.Thread) else "task"
            self._end_from_outside(hold, f"its {kind} ended without releasing")
        elif (
            hold._state is not REVOKED
            and hold._max_hold is not None
            and self._length
            and perf_counter() - hold._acquired_at > hold._max_hold
        ):
            self._end_from_outside(hold, f"it exceeded its max_hold of {hold._max_hold:g} s while others waited")
        elif hold._state is not HELD:
            self._pass_on(hold)

    def _expire(self, mailbox: Mailbox) -> float | None:
        """End the requests of a loop whose time is over; return the next deadline (loop thread only)."""
        following: float | None = None
        expired: list[Hold] = []
        with self._mutex:
            self._reap()
            now = perf_counter()
            for line in self._lines:
                for hold in list(line):
                    if hold.mailbox is not mailbox:
                        continue
                    if hold.deadline <= now:
                        self._leave_line(hold)
                        expired.append(hold)
                    elif following is None or hold.deadline < following:
                        following = hold.deadline
        for hold in expired:
            _set_done(hold.future)
        return following

    def _abandon(self, hold: Hold) -> None:
        """Undo whatever a request got before an exception ended the attempt to enter it."""
        with self._mutex:
            if hold._state is QUEUED:
                self._leave_line(hold)
            elif hold._state is HELD:
                if self._slot.get(None) is hold and not hold._entered:
                    hold._entered = True
                self._leave(hold)
            elif self._slot.get(None) is hold and hold._state not in _HOLDING:
                hold.party = current_party()
                _unlink(hold)
                self._vacate(hold)
            self._advance()
        asker = getattr(hold, "_asker", None)
        if asker is not None:
            forget_wait(asker, hold)

    def _repair(self, hold: Hold) -> None:
        """Finish a release that an exception (a signal's, in the main thread) broke into."""
        with self._mutex:
            root = hold._root
            if root._state is ENDED:
                self._vacate(root)
            elif root._state is HELD and hold._entered:
                self._leave(hold)
            elif root._state in (RELEASING, REVOKED):
                self._pass_on(root)
            self._advance()

    def _note(self, hold: Hold) -> None:
        self._samples += (hold.owner, hold.waited, perf_counter() - hold._acquired_at)
        if len(self._samples) > _SAMPLE_BATCH:
            self.drain_samples(wait=False)

    def _ended(self, hold: Hold) -> BaseException:
        return self._closed(hold.owner) if self._closed is not None else self._late(hold)

    def _late(self, hold: Hold, *, on_loop: bool = False) -> CoexistenceError:
        holder = self._slot.get(None)
        waited = max(perf_counter() - (hold.deadline - hold.timeout), 0.0) if hold.timeout else 0.0
        held_by = holder.owner if holder is not None else None
        if on_loop:
            return LoopBlocked(self.name, hold.owner, waited, held_by)
        queue = [each.owner for line in self._lines for each in tuple(line) if each is not hold]
        held_for = holder.held_for if holder is not None else 0.0
        return AcquireTimeout(self.name, hold.owner, waited, held_by, held_for, queue)


def _member(waiter: Hold) -> DeadlockMember:
    return DeadlockMember(
        waiter.owner,
        waiter._arbiter.name,
        tuple((hold._arbiter.name, hold.held_for) for hold in holds_of(waiter._asker)),
    )
