"""One piece of hardware: its line of owners, its worker thread, its statistics and its log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from coexistence.arbiter import Arbiter
from coexistence.errors import AcquireTimeout, ConfigError, WireClosed
from coexistence.hold import LONGEST_TIMEOUT_S
from coexistence.mailbox import Mailbox
from coexistence.parties import Party, forget_all_waits, forget_wait
from coexistence.wire_statistics import LogEntry, StatisticsCollector, Trouble, WireStatistics

if TYPE_CHECKING:
    from coexistence.channel import Channel
    from coexistence.guard import Guard, Job

T = TypeVar("T")

logger = logging.getLogger("coexistence.wire")

_BATCH = 256

_MOST_TROUBLES = 1000
"""Kept for each wire; the oldest go first."""

Entry = tuple[float, str, bytes, bytes, float, float, str]


_wires: WeakSet[Wire] = WeakSet()
"""Those of this process, for its forked children to leave alone."""


class Wire:
    """What all channels to one piece of hardware share.

    Parameters
    ----------
    name
        In messages and in the global order.
    order
        The wire's place in the global order of acquisition.
    check_order
        Whether to insist on that order.
    log_size
        How many exchanges the log keeps.
    """

    def __init__(self, name: str, *, order: tuple[int, str], check_order: bool = True, log_size: int = 1000) -> None:
        self.name = name
        self.arbiter = Arbiter(
            name,
            order=order,
            check_order=check_order,
            on_samples=self._add_holds,
            on_revoked=self._interrupt,
        )
        self.worker = Worker(name)
        self.exchange_lock = threading.RLock()
        """Held for each exchange: one at a time is on the wire, whatever misuse is made of guards."""
        self.channels: list[Channel] = []
        self._collector = StatisticsCollector()
        self._entries: deque[Entry] = deque(maxlen=log_size)
        self._uncounted: deque[Entry] = deque()
        self._troubles: deque[Trouble] = deque(maxlen=_MOST_TROUBLES)
        self._trouble_numbers = count(1)
        self.last_trouble = 0
        """Number of the latest trouble, counted from 1."""
        self.closed = False
        self.released = False
        """Whether closing has come to its end, and the hardware is let go."""
        self._shutting = threading.RLock()
        self._closing_reason = ""
        _wires.add(self)

    def _add_holds(self, samples: list[Any]) -> None:
        self._collector.add_holds(samples)

    def _interrupt(self) -> None:
        for channel in self.channels:
            channel.interrupt()

    # What happened

    def record(self, entry: Entry) -> None:
        """Keep an exchange in the log and count it."""
        self._entries.append(entry)
        self._uncounted.append(entry)
        if entry[6] != "ok":
            self._note_trouble(entry[0], entry[1], entry[6], entry[2])
        if len(self._uncounted) >= _BATCH:
            self._count()

    def record_stray(self, line: bytes, outcome: str) -> None:
        """Keep a line in the log that nobody asked for (``stray``), a listener waited for, or that came ``late``."""
        now = time.time()
        self._entries.append((now, "", b"", line, 0.0, 0.0, outcome))
        if outcome == "awaited":
            return
        self._note_trouble(now, "", outcome, line)
        if outcome == "late":
            self._collector.late_replies += 1
        else:
            self._collector.strays += 1

    def record_retry(self, owner: str, command: bytes) -> None:
        """Count a query that is sent once more."""
        self._collector.add_retry(owner)
        self._note_trouble(time.time(), owner, "retry", command)

    def record_refusal(self, owner: str) -> None:
        """Note that an owner's turn did not come in time."""
        self._note_trouble(time.time(), owner, "not sent", b"")

    def record_loss(self) -> None:
        """Note that the hardware is gone."""
        self._note_trouble(time.time(), "", "disconnected", b"")

    def record_reconnect(self) -> None:
        """Count a reconnect."""
        self._collector.reconnects += 1
        self._note_trouble(time.time(), "", "reconnect", b"")

    def troubles_since(self, number: int) -> list[Trouble]:
        """Return what went wrong after the trouble of this number, oldest first; 0 for all that is kept."""
        return [trouble for trouble in tuple(self._troubles) if trouble.number > number]

    def _note_trouble(self, when: float, owner: str, kind: str, line: bytes) -> None:
        number = next(self._trouble_numbers)
        self._troubles.append(Trouble(number, when, self.name, owner, kind, line))
        self.last_trouble = number

    def _count(self) -> None:
        batch: list[Entry] = []
        uncounted = self._uncounted
        try:
            while True:
                batch.append(uncounted.popleft())
        except IndexError:
            self._collector.add_exchanges(batch)

    @property
    def statistics(self) -> WireStatistics:
        """A snapshot of the figures of this wire and of each owner."""
        self.arbiter.drain_samples()
        self._count()
        return self._collector.snapshot()

    @property
    def log(self) -> list[LogEntry]:
        """The last exchanges, oldest first."""
        return [LogEntry(*entry) for entry in tuple(self._entries)]

    def free_exchange(self) -> None:
        """Free the exchange lock where a signal's exception left it with this thread, which exchanges no more."""
        with contextlib.suppress(RuntimeError):
            while True:
                self.exchange_lock.release()

    # Serving the event loops

    async def serve(self, job: Job[T], party: Party) -> T:
        """Run a job on the worker, in its turn, and return its result; ``party`` is the task that asks.

        Cancellation: a job still in line is withdrawn and nothing is sent; one that has begun ends on the wire by
        itself, so that no reply is left over, and its result is dropped.
        """
        if self.closed:
            raise self._closing_error(job.owner)
        loop = asyncio.get_running_loop()
        arbiter = self.arbiter
        mailbox = job.mailbox = arbiter.mailbox(loop)
        future = job.future = loop.create_future()
        try:
            arbiter.submit(job, self.worker.thread, job.granted, mailbox, party)
            outcome: tuple[T, BaseException | None] | None = await future
        except AcquireTimeout as refusal:
            raise job.explained(refusal) from None
        except BaseException:  # a cancellation, or the end of a task whose loop was closed
            job.abandoned = True
            arbiter.withdraw(job)
            raise
        finally:
            forget_wait(party, job)
        if outcome is None:
            raise job.explained(arbiter.unserved(job))
        value, error = outcome
        if error is not None:
            raise error
        return value

    async def serve_guard(self, guard: Guard, function: Callable[[Guard], T]) -> T:
        """Run ``function(guard)`` on the worker for a task that holds the wire already.

        Cancellation: as :meth:`serve`; the hold lasts until what has begun is over.
        """
        loop = asyncio.get_running_loop()
        mailbox = self.arbiter.mailbox(loop)
        future: asyncio.Future[tuple[T, BaseException | None]] = loop.create_future()
        step = _GuardStep(guard, function, mailbox, future)
        guard.begin_operation(revocable=True)
        try:
            self.worker.put(step)
            value, error = await future
        except BaseException:
            step.abandoned = True
            self.worker.put(step)  # it ends the operation, also where a signal struck before it was put there
            raise
        if error is not None:
            raise error
        return value

    def close(self, timeout: float = 1.0) -> None:
        """End the line, break off what is on the wire, and stop the worker, within about ``timeout`` seconds."""
        if not isinstance(timeout, int | float) or not 0.0 <= timeout <= LONGEST_TIMEOUT_S:
            raise ConfigError(f"timeout must be between 0 and {LONGEST_TIMEOUT_S:g} s, not {timeout!r}")
        self.closed = True
        if self.released or not self._shutting.acquire(timeout=timeout):
            return
        try:
            if not self.released:
                self._end(timeout)
                self.released = True
        finally:
            self._shutting.release()

    def _end(self, timeout: float) -> None:
        """Do what closing takes; it may be done again where a signal broke into it."""
        self.arbiter.close(self._closing_error)
        for channel in self.channels:
            channel.interrupt()
        free = self.exchange_lock.acquire(timeout=timeout)
        try:
            for channel in tuple(self.channels):
                channel.shut()
        finally:
            if free:
                self.exchange_lock.release()
        self.worker.stop(timeout)

    def _closing_error(self, owner: str) -> WireClosed:
        return WireClosed(self.name, owner, self._closing_reason)

    def forget(self) -> None:
        """Take leave of the wire in a forked child: two processes on one line would take each other's replies."""
        self._closing_reason = (
            f"is that of process {os.getppid()}, from which this one was forked. Open it in one process only."
        )
        self.closed = self.released = True
        self.exchange_lock, self._shutting = threading.RLock(), threading.RLock()
        self.worker = Worker(self.name)
        self.arbiter.forget(self._closing_error)
        for channel in self.channels:
            channel.forget()


def _forget_in_child() -> None:
    forget_all_waits()
    for wire in list(_wires):
        if not wire.closed:
            wire.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def resolve(resolution: tuple[asyncio.Future[Any], tuple[Any, BaseException | None]]) -> None:
    """Give a job's outcome to whoever still waits for it (loop thread only)."""
    future, outcome = resolution
    if not future.done():
        future.set_result(outcome)


class Worker:
    """The one thread that serves a wire's event loops; started when first needed.

    A thread whose work was revoked is left to it, and another takes its place. What there is to do stays in its order
    meanwhile: it lies in one line, and the threads wait for wake-ups, of which any is as good as another.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._steps: deque[Callable[[], None]] = deque()
        self._wake_ups: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.RLock()
        self._generation = 0
        self._stopped = False

    @property
    def thread(self) -> threading.Thread:
        """The thread, started if it was not."""
        thread = self._thread
        if thread is None:
            with self._starting:
                thread = self._thread
                if thread is None:
                    thread = threading.Thread(
                        target=self._run, args=(self._generation,), name=f"wire {self._name}", daemon=True
                    )
                    thread.start()
                    self._thread = thread
        return thread

    def put(self, step: Callable[[], None]) -> None:
        """Have the thread call ``step()`` after what it was given before."""
        self._steps.append(step)
        self._wake_ups.put(None)
        if self._thread is None:
            _ = self.thread

    def renew(self) -> None:
        """Have another thread do what comes next: the present one may never come back from what it does."""
        with self._starting:
            self._generation += 1
            self._thread = None
        if self._steps:
            _ = self.thread

    def _run(self, generation: int) -> None:
        steps = self._steps
        while generation == self._generation and not (self._stopped and not steps):
            self._wake_ups.get()
            while steps and generation == self._generation:
                self._take_step()
        self._wake_ups.put(None)  # for the thread that has taken this one's place, or one whose place this one took

    def _take_step(self) -> None:
        try:
            step = self._steps.popleft()
        except IndexError:  # another thread was faster, as this one's place was taken
            return
        try:
            step()
        except BaseException:
            logger.exception("the worker of %s survived an error", self._name)

    def stop(self, timeout: float) -> None:
        """End the thread after what it was given; wait for that at most ``timeout`` seconds."""
        with self._starting:
            if self._stopped:
                return
            self._stopped = True
            thread = self._thread
        self._wake_ups.put(None)
        if thread is None:
            return
        if thread is not threading.current_thread():
            thread.join(timeout)


class _GuardStep:
    """Something to do on the worker under a hold that a task has."""

    __slots__ = ("_begun", "_function", "_future", "_guard", "_mailbox", "abandoned")

    def __init__(
        self, guard: Guard, function: Callable[[Guard], Any], mailbox: Mailbox, future: asyncio.Future[Any]
    ) -> None:
        self._guard = guard
        self._function = function
        self._mailbox = mailbox
        self._future = future
        self._begun = False
        self.abandoned = False

    def __call__(self) -> None:
        if self._begun:
            return
        self._begun = True
        outcome: tuple[Any, BaseException | None] = (None, None)
        try:
            if not self.abandoned:
                outcome = (self._function(self._guard), None)
        except BaseException as error:
            outcome = (None, error)
        finally:
            self._guard.end_operation(revocable=True)
        self._mailbox.post(resolve, (self._future, outcome))
