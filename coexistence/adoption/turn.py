"""What has happened in one lease, and when it is to end."""

from __future__ import annotations

from time import perf_counter
from typing import Final

from coexistence.adoption.guards import LeaseGuard
from coexistence.adoption.inbox import STALL_S, Inbox
from coexistence.adoption.rules import LeaseRules

PAUSE_S: Final = 0.02
"""A read that got all the bytes it asked for, without a terminator among them, ends the lease when the driver does not
read on within this time (20 characters at 9600 baud)."""


class Writer:
    """One write of the driver's, or another use of the wire within its lease."""

    __slots__ = ("turn",)

    def __init__(self) -> None:
        self.turn: Turn | None = None


class Turn:
    """One lease, from the write that opens it to its end. All of it is used with the inbox's ``changed`` held.

    Times are on :func:`time.perf_counter`'s clock.
    """

    def __init__(self, guard: LeaseGuard, rules: LeaseRules, inbox: Inbox) -> None:
        self.guard = guard
        self.writers: set[Writer] = set()
        """Who sends just now; the lease cannot end meanwhile."""
        self.ending = False
        """Whether it is to end as soon as nobody sends."""
        self.sent = bytearray()
        self.received = bytearray()
        """Since the last write."""
        self.satisfied = False
        """Whether a read got all the bytes it asked for."""
        self.opened = self.wrote = self.spoke = self.heard = self.watched = perf_counter()
        self._missed = 0.0
        self._rules = rules
        self._inbox = inbox

    def enter(self, writer: Writer) -> None:
        """Have the lease go on until the writer is discarded from ``writers``."""
        writer.turn = self
        self.writers.add(writer)

    def note_sent(self, data: bytes, transmission_time: float) -> None:
        """Take note of a command; its bytes are on the line for ``transmission_time`` seconds."""
        self.sent += data
        self.received.clear()
        self.satisfied = False
        self.wrote = perf_counter()
        self.spoke = self.wrote + transmission_time
        self._missed = 0.0

    def note_received(self, data: bytes) -> None:
        """Take note of a part of a reply."""
        self.heard = self.watched = perf_counter()
        self.received += data
        self._missed = 0.0

    def note_watching(self, now: float) -> None:
        """Have the lease go on for as long as nothing watched the wire, once for each silence.

        A machine that stands still for a moment would end it otherwise, with the reply on its way to somebody else.
        """
        away = now - max(self.watched, self.wrote)
        if away > STALL_S and not self._missed:
            self._missed = 2.0 * away  # until now, and as long again

    def is_read(self) -> bool:
        """Whether the driver has asked for bytes since its last write."""
        return self._inbox.waiting or self._inbox.touched > self.wrote

    def is_given_up(self) -> bool:
        """Whether the driver has left a read without what it waited for since its last write, and reads no more."""
        return not self._inbox.waiting and self._inbox.gave_up > self.wrote

    def must_not_go_on(self, others_wait: bool) -> bool:
        """Whether a further write belongs to a new lease.

        It does when the driver gave up the reply to the last one, and when there was an exchange already and others
        wait.
        """
        if not self.received and self._inbox.gave_up > self.wrote:
            return True
        return others_wait and (bool(self.received) or perf_counter() - self.opened > self._rules.reply_time)

    def due(self) -> float:
        """Return when the lease ends if nothing happens."""
        rules, inbox = self._rules, self._inbox
        latest = max(self.spoke, self.heard)
        if self.satisfied and not inbox.waiting:
            due = self.heard + PAUSE_S
        elif rules.accept is not None:
            due = latest + rules.quiet_time
        elif inbox.waiting:
            due = latest + max(rules.reply_time, rules.quiet_time)
        else:
            due = max(latest, min(inbox.touched, latest + rules.reply_time)) + rules.quiet_time
        return min(due + self._missed, self.opened + rules.longest)

    def late_until(self) -> float:
        """Return until when a reply may still come: for as long again as the driver waits for it."""
        gives_up = max(self._inbox.waits_until, self._inbox.touched)
        return min(self.wrote + 2.0 * (gives_up - self.wrote), perf_counter() + self._rules.longest)
