"""Leases: the wire for a driver that writes and reads as if it were alone.

A write opens a lease. While it lasts, the lease's own thread holds the wire and receives; what comes is the driver's.
The reply ends it, or the times of :class:`LeaseRules`. The driver's thread only waits: it may die, be interrupted or
never read, and the lease ends all the same.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from time import perf_counter
from typing import Final, TypeVar

from coexistence.adoption.guards import (
    SOON_S,
    LeaseGuard,
    ListeningGuard,
    StreamGuard,
    explained,
    whatever,
    whole_message,
)
from coexistence.adoption.inbox import Inbox
from coexistence.adoption.lost_property import LostProperty
from coexistence.adoption.rules import LeaseRules
from coexistence.adoption.turn import PAUSE_S, Turn, Writer
from coexistence.channel import Channel
from coexistence.errors import AcquireTimeout, CoexistenceError, GuardRevoked, WireClosed, WireDisconnected
from coexistence.guard import Guard
from coexistence.hold import LONGEST_TIMEOUT_S, Hold
from coexistence.parties import current_party
from coexistence.transport import Suspect, accepted

T = TypeVar("T")

_EXAMPLES: Final = 8
_MOMENT_S: Final = 0.001
_PATIENCE_S: Final = 0.1
"""How long a listener lets others wait while it waits itself for a late reply."""


class Lease:
    """One unmodified driver's use of a wire, from opening to closing.

    Parameters
    ----------
    channel
        The wire's channel.
    owner
        The driver's name to others.
    rules
        When leases end.
    inbox
        Takes what is received.
    listens
        Whether to go on listening after a lease without an answer although nobody is seen to read: for inboxes that
        cannot know.
    messages
        Whether the channel carries messages with an end of their own: they are received whole, and only when the
        driver reads, for asking an instrument that has nothing to say is an error there (GPIB, USB).
    """

    def __init__(
        self,
        channel: Channel,
        owner: str,
        rules: LeaseRules,
        inbox: Inbox,
        *,
        listens: bool = False,
        messages: bool = False,
    ) -> None:
        self.channel = channel
        self.owner = owner
        self.rules = rules
        self.inbox = inbox
        self.expecting = False
        """Whether the driver was waiting in a read when its last lease ended."""
        self._terminator = channel.terminator if rules.terminator is None else rules.terminator
        self._listens = listens
        self._messages = messages
        self._changed = inbox.changed
        self._thread: threading.Thread | None = None
        self._lost_property = channel.common(LostProperty)
        self._closed = False
        self._turn: Turn | None = None
        self._listening: ListeningGuard | None = None
        self._queued_listening: ListeningGuard | None = None
        self._queued_writes: set[LeaseGuard] = set()
        self._examples: tuple[bytes, ...] = ()
        self._suspect: Suspect | None = None
        self._unanswered: Turn | None = None

    # On the driver's thread

    def present_hold(self) -> Hold | None:
        """Return the hold that the calling thread or task has on the wire: then it does its own input and output."""
        return self.channel.wire.arbiter.held_by(current_party())

    def write(self, data: bytes, timeout: float | None) -> int:
        """Send bytes within the open lease or a new one; return their number.

        Parameters
        ----------
        data
            What to send.
        timeout
            Seconds for waiting in line and sending; ``None``: the rules'.

        Raises
        ------
        AcquireTimeout, CommandTimeout, WireDisconnected, WireClosed, GuardRevoked, and what acquiring raises
            Nothing was sent, except for a ``CommandTimeout`` or ``GuardRevoked`` that says so.
        """
        limit = self.rules.acquire_timeout if timeout is None else timeout
        if self.present_hold() is not None:
            return self._write_directly(data, limit)
        deadline = perf_counter() + limit
        writer = Writer()
        turn: Turn | None = None
        try:
            turn = self._join(writer) or self._begin(writer, limit)
            turn.guard.send(data, deadline, self.rules.reply_time)
            with self._changed:
                turn.note_sent(data, self._transmission_time(len(data)))
        except CoexistenceError as error:
            with self._changed:
                if turn is not None and not turn.sent and not getattr(error, "sent", False):
                    turn.ending = True
            raise
        except BaseException:
            self.channel.wire.free_exchange()
            raise
        finally:
            self._leave(writer)
        return len(data)

    def _leave(self, writer: Writer) -> None:
        with self._changed:
            if writer.turn is not None:
                writer.turn.writers.discard(writer)
            self._changed.notify_all()

    def _write_directly(self, data: bytes, limit: float) -> int:
        started = perf_counter()
        with StreamGuard(self.channel, self.owner, limit, self.rules.rank) as guard:
            guard.send(data, started + limit, self.rules.reply_time)
            self._record(guard, data, b"", started, "ok")
        return len(data)

    def fetch(self, deadline: float) -> None:
        """Receive once, on the calling thread and under its own hold."""
        started = perf_counter()
        with StreamGuard(self.channel, self.owner) as guard:
            data = self._receive(guard, deadline)
            if data:
                guard.answered()
                self._record(guard, b"", data, started, "ok")
                with self._changed:
                    self.inbox.put(data, late=False)

    def collect(self) -> None:
        """Take what has arrived, if the wire is free at this moment or the calling thread holds it."""
        if self._messages:
            return
        try:
            if self.present_hold() is not None:
                self.fetch(perf_counter() + _MOMENT_S)
            elif self._turn is None and self._listening is None and self.channel.is_available:
                with ListeningGuard(self.channel, self.owner, 0.0) as guard:
                    if guard.make_ready(perf_counter() + _MOMENT_S):
                        self._take_unasked(guard, perf_counter() + _MOMENT_S)
        except CoexistenceError as error:
            if isinstance(error, WireDisconnected | WireClosed | GuardRevoked):
                raise

    def listen(self) -> None:
        """See to it that bytes are received while a reader waits, or raise if that is in vain.

        Raises
        ------
        WireDisconnected, WireClosed
            There is nothing to listen to.
        """
        if self._turn is not None:
            return
        if self.channel.wire.closed:
            raise WireClosed(self.channel.name, self.owner)
        if not self.channel.connected:
            raise self.channel._disconnected(self.owner)
        self._worker()

    def leave_off(self) -> None:
        """Stop listening if nobody waits for bytes any more."""
        with self._changed:
            if self._wants_to_listen():
                return
            listening, queued = self._listening is not None, self._queued_listening
            self._shorten_suspicion()
        if listening:
            self.channel._transport.interrupt()
        if queued is not None:
            self.channel.wire.arbiter.withdraw(queued)

    def hold(self, timeout: float, max_hold: float | None = None) -> Guard:
        """Ask for the wire for a block of code; ``max_hold`` (s) is by default that of the longest lease."""
        self.hand_over()
        rules = self.rules
        longest = rules.longest if max_hold is None else max_hold
        return self.channel.acquire(self.owner, timeout, rank=rules.rank, max_hold=longest)

    def hand_over(self) -> None:
        """End an open lease now, in favour of something that the driver asks for explicitly."""
        with self._changed:
            turn = self._turn
            if turn is not None:
                turn.ending = True
        if turn is not None:
            self.channel._transport.interrupt()

    def on_wire(self, function: Callable[[StreamGuard], T]) -> T:
        """Run a function within the open lease or a hold of its own, on the calling thread."""
        writer = Writer()
        try:
            joined = None if self.present_hold() is not None else self._join(writer)
            if joined is not None:
                return function(joined.guard)
        finally:
            self._leave(writer)
        with StreamGuard(self.channel, self.owner, self.rules.acquire_timeout, self.rules.rank) as guard:
            return function(guard)

    def cancel_write(self) -> None:
        """Have writes that wait in line give up."""
        for queued in tuple(self._queued_writes):
            self.channel.wire.arbiter.withdraw(queued)

    def close(self) -> None:
        """End this; a lease that is open ends by its rules within moments, so that nobody gets its reply."""
        with self._changed:
            self._closed = True
            self.inbox.fail(WireClosed(self.channel.name, self.owner))
            self._changed.notify_all()
        self.leave_off()
        if self._turn is None:
            self._lost_property.give_up(self)

    def _join(self, writer: Writer) -> Turn | None:
        """Take part in the open lease, if that may go on."""
        with self._changed:
            turn = self._turn
            if turn is None or turn.ending:
                return None
            turn.ending = turn.must_not_go_on(len(self.channel.wire.arbiter) > 0)
            if not turn.ending:
                turn.enter(writer)
            joined = None if turn.ending else turn
        self.channel._transport.interrupt()
        return joined

    def _begin(self, writer: Writer, limit: float) -> Turn:
        """Wait in line, and open a lease that the worker holds."""
        rules = self.rules
        longest = min(rules.longest + rules.reply_time, LONGEST_TIMEOUT_S)
        guard = LeaseGuard(self.channel, self.owner, limit, rules.rank, longest)
        worker = self._worker()
        turn: Turn | None = None
        self._queued_writes.add(guard)
        try:
            with explained(self.channel, self.owner):
                self.channel.wire.arbiter.acquire_for(guard, worker)
            self._lost_property.give_up(self)
            with self._changed:
                self._recall_worker()
                if self._closed:
                    raise WireClosed(self.channel.name, self.owner)
                self.inbox.forget_late()
                self.expecting = False
                turn = Turn(guard, rules, self.inbox)
                turn.enter(writer)
                self._turn = turn
        except BaseException:
            if turn is None or self._turn is not turn:
                guard.release()
            raise
        finally:
            self._queued_writes.discard(guard)
        return turn

    def _recall_worker(self) -> None:
        """Take the worker out of the line: it has the wire already (``changed`` held)."""
        while (queued := self._queued_listening) is not None:
            self.channel.wire.arbiter.withdraw(queued)
            self._changed.wait(_MOMENT_S)

    def _transmission_time(self, size: int) -> float:
        settings = getattr(self.channel, "settings", None)
        return size * settings.bits_per_byte / settings.baud_rate if settings is not None else 0.0

    def _worker(self) -> threading.Thread:
        with self._changed:
            if self._closed:
                raise WireClosed(self.channel.name, self.owner)
            if self._thread is None or not self._thread.is_alive():
                name = f"lease of {self.owner} on {self.channel.name}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
            return self._thread

    # On the lease's own thread

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._turn is None and not self._wants_to_listen():
                    if self._closed:
                        return
                    self._changed.wait()
                turn = self._turn
            if turn is not None:
                self._attend(turn)
            else:
                self._listen()

    def _wants_to_listen(self) -> bool:
        if self._closed or self._turn is not None or self._queued_writes:
            return False
        return self.inbox.waiting or (self._listens and self._lost_property.claimed(self))

    def _attend(self, turn: Turn) -> None:
        """Receive for the driver until its lease ends."""
        outcome = "ok"
        try:
            while True:
                with self._changed:
                    while turn.writers:
                        self._changed.wait()
                    now = perf_counter()
                    turn.note_watching(now)
                    due = turn.due()
                    if turn.ending or now >= due:
                        turn.ending = True
                        break
                    if self._messages and not self.inbox.waiting:
                        self._changed.wait(due - now)
                        turn.watched = min(perf_counter(), due)
                        continue
                if self._take_reply(turn, due):
                    return
        except CoexistenceError as error:
            outcome = "revoked" if isinstance(error, GuardRevoked) else "disconnected"
            with self._changed:
                if self._turn is turn:
                    self._turn = None
                self.inbox.fail(error)
        finally:
            self._end(turn, outcome)

    def _take_reply(self, turn: Turn, due: float) -> bool:
        """Receive once; tell whether the reply is complete and nobody is about to ask again in this lease.

        A revocation lets this come to its end.
        """
        guard = turn.guard
        guard.begin_operation()
        try:
            data = self._receive(guard, due)
            if not data:
                turn.watched = min(perf_counter(), due)
                return False
            with self._changed:
                complete = self._hear(turn, data) and not turn.writers
                if complete:
                    self._turn = None
            if complete:
                guard.answered()
            return complete
        finally:
            guard.end_operation()

    def _hear(self, turn: Turn, data: bytes) -> bool:
        """Take bytes of a reply; tell whether it is complete (``changed`` held)."""
        turn.note_received(data)
        self.inbox.put(data, late=turn.is_given_up())
        turn.satisfied, exact = self.inbox.answered()
        if not exact and not self._is_complete(turn):
            return False
        self._examples = (*self._examples, bytes(turn.received).removesuffix(self._terminator))[-_EXAMPLES:]
        return True

    def _is_complete(self, turn: Turn) -> bool:
        """Whether what was received since the last write ends as a reply does (``changed`` held)."""
        if self._messages:
            return bool(turn.received)
        return bool(self._terminator) and turn.received.endswith(self._terminator)

    def _end(self, turn: Turn, outcome: str) -> None:
        """Let others have the wire; what may still come is kept for the driver."""
        rules, guard = self.rules, turn.guard
        deadline = perf_counter() + SOON_S
        with self._changed:
            if self._turn is turn:
                self._turn = None
            # Of who joined before it was revoked the driver's thread may still be at work.
            while turn.writers and (remaining := deadline - perf_counter()) > 0.0:
                self._changed.wait(remaining)
            received = bytes(turn.received)
            ended = self._is_complete(turn) or (bool(received) and not self._terminator)
            answered = outcome != "ok" or turn.satisfied or ended
            expecting = not answered and turn.is_read()
            if outcome == "ok":
                self.expecting = expecting
                self._unanswered = turn
        if not answered and not self._closed:
            self._lost_property.claim(self, rules.longest)
        if expecting:
            outcome = "timeout"
            if rules.accept is None:
                with contextlib.suppress(GuardRevoked):
                    self._suspect = guard.expect_late(
                        bytes(turn.sent), self._terminator, self._late_until(turn), self._examples
                    )
        self._record(guard, bytes(turn.sent), received, turn.opened, outcome)
        guard.release()

    def _late_until(self, turn: Turn) -> float:
        limit = self.channel.late_reply_limit
        return turn.late_until() if limit is None else perf_counter() + limit

    def _shorten_suspicion(self) -> None:
        """Have others wait no longer for a late reply than this driver has (``changed`` held)."""
        suspect, turn = self.channel._suspect, self._unanswered
        if suspect is not None and suspect is self._suspect and turn is not None:
            suspect.until = min(suspect.until, self._late_until(turn))

    def _receive(self, guard: StreamGuard, deadline: float) -> bytes | None:
        """Return what has come for this driver; lines for others go to them."""
        accept = self.rules.accept
        if accept is None:
            return guard.receive(whole_message if self._messages else whatever, deadline)
        terminator = self._terminator or whatever
        line = guard.receive(terminator, deadline)
        if line is None:
            return None
        if accepted(accept, line):
            return line + self._terminator
        guard.hand_to_others(line)
        return None

    def _listen(self) -> None:
        """Receive what comes unasked while somebody waits for it, whenever nobody else wants the wire."""
        guard = ListeningGuard(self.channel, self.owner, LONGEST_TIMEOUT_S)
        with self._changed:
            if not self._wants_to_listen():
                return
            self._queued_listening = guard
        if self.rules.accept is not None:
            self._lost_property.wait_for_lines(self)
        try:
            with guard:
                self._listening = guard
                self._queued_listening = None
                guard.give_way_to_those_in_line()
                while self._may_listen(guard):
                    # Who came while it was made ready may have woken it from that only, so that it is asked again.
                    if guard.make_ready(perf_counter() + _PATIENCE_S) and self._may_listen(guard):
                        self._take_unasked(guard, perf_counter() + LONGEST_TIMEOUT_S)
        except AcquireTimeout:
            return
        except CoexistenceError as error:
            with self._changed:
                self.inbox.fail(error)
                if not self.inbox.waiting:
                    self._lost_property.give_up(self)
        finally:
            self._queued_listening = self._listening = None
            self._lost_property.stop_waiting(self)

    def _may_listen(self, guard: ListeningGuard) -> bool:
        return self._wants_to_listen() and not guard.wanted

    def _take_unasked(self, guard: ListeningGuard, deadline: float) -> None:
        data = self._receive(guard, deadline)
        if not data:
            return
        terminator = self.channel.terminator
        if terminator and self.rules.accept is None and self._lost_property.others_listen(self):
            self._lost_property.claim(self, self.rules.longest)
            while not data.endswith(terminator):
                more = guard.receive(whatever, perf_counter() + PAUSE_S)
                if not more:
                    break
                data += more
            for line in data.split(terminator):
                if line:
                    guard.hand_to_others(line)
            return
        self._settle(data)

    def take_late(self, line: bytes) -> bool:
        """Take a stray line if it can be this driver's; tell whether it is."""
        if not accepted(self.rules.accept, line):
            return False
        self._settle(line + self.channel.terminator)
        return True

    def _settle(self, data: bytes) -> None:
        """Give the driver what came outside a lease, and expect no more of it."""
        with self._changed:
            self.inbox.put(data, late=self._lost_property.claimed(self))
        self._lost_property.give_up(self)
        if self._suspect is not None and self.channel._suspect is self._suspect and data.endswith(self._terminator):
            self.channel._suspect = None

    def _record(self, guard: StreamGuard, sent: bytes, received: bytes, started: float, outcome: str) -> None:
        self.channel.wire.record(
            (time.time(), self.owner, sent, received, guard.waited, perf_counter() - started, outcome)
        )
