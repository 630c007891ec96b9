"""Who owns a wire: one fair line for threads and asyncio tasks.

An :class:`Arbiter` hands ownership to the next in line itself; nobody can grab it in passing. Every request names an
owner and a time limit. Before anyone waits, the wait-for graph over all arbiters is walked, so that a circle is an
error for the one who would close it and never a hang. A free wire is taken and left without any of this, see
:mod:`coexistence.hold`.

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
from collections.abc import Callable
from time import perf_counter
from typing import Any

from coexistence import parties
from coexistence.errors import (
    AcquireTimeout,
    CoexistenceError,
    DeadlockDetected,
    DeadlockMember,
    GuardNotHeld,
    GuardRevoked,
    LockOrderViolation,
    LoopBlocked,
    WouldDeadlock,
)
from coexistence.hold import (
    ENDED,
    HELD,
    HOLDING,
    NEW,
    QUEUED,
    RELEASING,
    REVOKED,
    SAMPLE_BATCH,
    Hold,
    Rank,
    newest_hold,
)
from coexistence.mailbox import REAP_INTERVAL_S, Mailbox, set_done
from coexistence.parties import (
    Party,
    claim_end,
    current_party,
    current_thread,
    forget_wait,
    held,
    holds_of,
    party_is_gone,
    running_loop,
    unlink,
    waiting,
)

LOOP_PATIENCE_S = 0.05
"""How long a blocking acquisition may stop an event loop, in seconds."""

GIVE_WAY_S = 0.5
"""How long a holder that gives way may take to do so, in seconds."""


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
        return holder if holder is not None and holder._state in HOLDING else None

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
                        hold.mailbox.post(set_done, hold.future)
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
        loop = running_loop()
        party = current_party()
        outer = newest_hold(party)
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
            while not gate.acquire(timeout=max(min(deadline - perf_counter(), REAP_INTERVAL_S), 0.0)):
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
            mailbox.post(set_done, future)

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
        outer = newest_hold(party)
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
        hold = held.get(party)
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
        with parties.graph:
            waiting[party] = hold
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
            if blocks is None and party not in held:
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
        waiting.pop(party, None)

    def _walk(self, hold: Hold, party: Party, blocks: asyncio.AbstractEventLoop | None) -> None:
        """Follow who waits for whom; raise if it leads back to ``party`` or to the loop it would block."""
        thread = current_thread() if blocks is not None else None
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
                following = waiting.get(ahead.party)
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
        if held.get(hold.party) is not hold:
            hold._outer = held.get(hold.party)
            held[hold.party] = hold
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
        if root.party is current_thread():
            root._operations = 0  # what a thread did under its hold is over when it leaves the block
        elif root._operations:
            unlink(root)  # the party may ask again, and waits for itself like anybody else
        if root._state is REVOKED:
            unlink(root)
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
            unlink(root)
            self._vacate(root)

    def _end_from_outside(self, hold: Hold, reason: str) -> bool:
        """Revoke a hold, unless its party is just ending it itself (mutex held)."""
        if hold._state is not RELEASING and not (hold._state is HELD and claim_end(hold)):
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
        if hold is None or hold._state not in HOLDING:
            return  # free, or its party is just entering or leaving
        if hold._state is HELD and party_is_gone(hold.party):
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
            set_done(hold.future)
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
            elif self._slot.get(None) is hold and hold._state not in HOLDING:
                hold.party = current_party()
                unlink(hold)
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
        if len(self._samples) > SAMPLE_BATCH:
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
