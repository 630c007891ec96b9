"""The exchange policy: how questions go out on a wire and answers come back to whoever asked.

One deadline covers waiting in line and input and output. What was not sent in time is never sent. After a reply that
did not come in time the channel is *suspect*, and nobody may send on it before the late reply has been caught or
given up: no answer ever reaches another's question.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Self, TypeVar, cast

from coexistence.arbiter import Arbiter
from coexistence.errors import (
    AcquireTimeout,
    CoexistenceError,
    CommandTimeout,
    GuardNotHeld,
    GuardRevoked,
    WireClosed,
    WireDisconnected,
)
from coexistence.exchange import Asked, Exchange, Reply
from coexistence.guard import Guard, Job
from coexistence.hold import Rank, State
from coexistence.parties import current_party
from coexistence.transport import Accept, Ending, Interrupted, Suspect, Transport, never_failing
from coexistence.wire import Wire
from coexistence.wire_statistics import LogEntry, WireStatistics

T = TypeVar("T")

logger = logging.getLogger("coexistence.wire")

REOPEN_INTERVAL_S = 0.5
"""Seconds from a loss to the first attempt to reopen, and between attempts."""

_AFTER_REOPENING_S = 0.25
"""How long a reply that was under way when the line broke is waited out after reopening, in seconds."""

_RETRY_SHARE = 0.5
"""Part of a repeatable query's time after which it is asked again."""

_LATE_FACTOR = 2.0
"""A late reply is given up after this many times the exchange's timeout."""

_STALL_S = 0.01
_LONGEST_EXTENSION_S = 1.0
"""Who waits for a late reply and wakes so much too late waits for as long again, at most for this."""

_ENDED_FROM_OUTSIDE = (State.REVOKED, State.ENDED)


@dataclass(frozen=True)
class ConnectionEvent:
    """A wire was lost (``connected`` false, ``error`` says why) or is back."""

    wire: str
    connected: bool
    timestamp: float
    error: BaseException | None = None


class Channel:
    """A connection to one instrument or bus, shared by everybody through the wire's line.

    Parameters
    ----------
    wire
        The hardware's wire; several channels can share one (GPIB).
    transport
        Opened here.
    terminator
        Ends a reply, unless an exchange says otherwise; empty where replies have none.
    timeout
        Default for exchanges, in seconds.
    late_reply_limit
        Seconds after a timeout during which the late reply may still come; nobody sends before it came or this time is
        over. Default: twice the exchange's timeout.
    """

    def __init__(
        self,
        wire: Wire,
        transport: Transport,
        *,
        terminator: bytes,
        timeout: float,
        late_reply_limit: float | None = None,
    ) -> None:
        self.wire = wire
        self.name = transport.name
        self.terminator = terminator
        self.timeout = timeout
        self.late_reply_limit = late_reply_limit
        self.last_error: BaseException | None = None
        """What broke the connection last."""
        self._arbiter: Arbiter = wire.arbiter
        self._transport = transport
        self._link_lock = threading.RLock()
        self._link = threading.Condition(self._link_lock)  # entered by its lock: a signal cannot break into that
        self._connected = False
        self._ready = False
        self._suspect: Suspect | None = None
        self._out = 0
        """How often the present exchange's command, or part of it, went out without its reply being expected late."""
        self._asked: Asked | None = None
        self._steps: list[tuple[str, Callable[[Guard], object]]] = []
        self._steps_due = False
        self._in_steps = False
        self._listeners: list[Callable[[ConnectionEvent], object]] = []
        self._stray_listeners: list[Callable[[bytes, float], object]] = []
        self._closing = threading.Event()
        self._reopener: threading.Thread | None = None
        self._searcher: threading.Thread | None = None
        """The reopener while it has not found the hardware."""
        self._search_lock = threading.RLock()
        self._commons: dict[Callable[[Channel], object], object] = {}
        transport.open()
        self._connected = self._ready = True
        wire.channels.append(self)

    def __repr__(self) -> str:
        state = "closed" if self.wire.closed else "connected" if self._connected else "disconnected"
        return f"<{type(self).__name__} {self.name} {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # Who uses it

    @property
    def is_available(self) -> bool:
        """Whether it is connected and nobody holds the wire."""
        return self._connected and self._arbiter.holder is None

    @property
    def current_owner(self) -> str | None:
        """The owner's name, or ``None`` while the wire is free."""
        holder = self._arbiter.holder
        return None if holder is None else holder.owner

    @property
    def connected(self) -> bool:
        """Whether the hardware was there when last used."""
        return self._connected

    @property
    def stats(self) -> WireStatistics:
        """A snapshot of counts and times, also for each owner."""
        return self.wire.statistics

    @property
    def log(self) -> list[LogEntry]:
        """The last exchanges on the wire, oldest first."""
        return self.wire.log

    def acquire(
        self, owner: str, timeout: float = 2.0, *, rank: Rank = Rank.NORMAL, max_hold: float | None = None
    ) -> Guard:
        """Ask for the wire, to be used as ``with port.acquire("me") as guard:`` in any thread.

        Parameters
        ----------
        owner
            A stable name; others see it in their errors and it has statistics of its own.
        timeout
            Seconds to wait in line; 0 means now or never.
        rank
            Which line to wait in.
        max_hold
            Seconds after which those who wait may end this hold; ``None``: never.

        Raises
        ------
        AcquireTimeout, WouldDeadlock, LoopBlocked, LockOrderViolation, DeadlockDetected, WireClosed
            On entering the block.
        """
        return Guard(self, owner, timeout, rank, max_hold)

    def acquire_async(
        self, owner: str, timeout: float = 2.0, *, rank: Rank = Rank.NORMAL, max_hold: float | None = None
    ) -> Guard:
        """Ask for the wire, to be used as ``async with port.acquire_async("me") as guard:`` in a task.

        Parameters and errors are those of :meth:`acquire`. Cancellation: a request in line is withdrawn; a task
        cancelled inside the block lets go at once, or when the exchange that is on the wire has ended.
        """
        return Guard(self, owner, timeout, rank, max_hold)

    def revoke(self, owner: str | None = None, reason: str = "it was revoked") -> bool:
        """End the present hold (of ``owner`` only, when given) and break off its exchange; tell if there was one."""
        return self._arbiter.revoke(owner, reason)

    def common(self, make: Callable[[Channel], T]) -> T:
        """Return what all users of this channel have in common, whoever they are: ``make(channel)``, made once.

        Parameters
        ----------
        make
            A class or function of the channel; each has one object here. Must not block, and may be called once more
            than needed where several threads ask at the same time.
        """
        if make not in self._commons:
            self._commons.setdefault(make, make(self))
        return cast(T, self._commons[make])

    # Exchanges

    def exchange(
        self,
        command: bytes,
        *,
        owner: str,
        timeout: float | None = None,
        rank: Rank = Rank.NORMAL,
        accept: Accept | None = None,
        until: Ending | None = None,
        repeatable: bool = False,
    ) -> Reply:
        """Send a command and return its reply with the time at which it was complete.

        Parameters
        ----------
        command
            What to send, terminator included.
        owner
            Who asks.
        timeout
            Seconds for all of it: waiting in line, sending, receiving. Default: the channel's.
        rank
            Which line to wait in.
        accept
            Tells whether a reply can be the answer to this question. One that it refuses goes to the stray-line
            listeners, and reading goes on.
        until
            How the reply ends, when not with the channel's terminator.
        repeatable
            Whether the command may be sent a second time when its reply is lost: for pure queries only.

        Raises
        ------
        AcquireTimeout
            The wire did not become free in time; nothing was sent.
        CommandTimeout
            No complete reply in time; ``sent`` tells whether the command went out.
        WireDisconnected
            The hardware is gone, and was not back in time.
        """
        if timeout is None:
            timeout = self.timeout
        exchange = Exchange(command, timeout, self.terminator if until is None else until, accept, repeatable)
        reply = self._run(owner, exchange, rank)
        assert reply is not None
        return reply

    def query(
        self,
        command: bytes,
        *,
        owner: str,
        timeout: float | None = None,
        rank: Rank = Rank.NORMAL,
        accept: Accept | None = None,
        until: Ending | None = None,
        repeatable: bool = False,
    ) -> bytes:
        """Send a command and return its reply without terminator; parameters and errors as :meth:`exchange`."""
        return self.exchange(
            command, owner=owner, timeout=timeout, rank=rank, accept=accept, until=until, repeatable=repeatable
        ).data

    def write(self, command: bytes, *, owner: str, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> None:
        """Send a command that has no reply; parameters and errors as :meth:`exchange`.

        With :attr:`Rank.URGENT` it goes out also while a late reply to somebody else may still come, for it takes none:
        a stop is not held back by an instrument that was silent.
        """
        self._run(owner, Exchange(command, self.timeout if timeout is None else timeout, None, mute=True), rank)

    def transact(
        self,
        function: Callable[[Guard], T],
        *,
        owner: str,
        timeout: float | None = None,
        rank: Rank = Rank.NORMAL,
    ) -> T:
        """Run ``function(guard)`` within one hold, on this thread; ``timeout`` (s) is for all of it."""
        guard = Guard(self, owner, self.timeout if timeout is None else timeout, rank)
        guard._expires = perf_counter() + guard.timeout
        try:
            with guard:
                return function(guard)
        except AcquireTimeout as error:
            raise self._explained(guard, error) from error.__cause__
        except BaseException:
            guard.release()  # it still holds only where a signal struck at the very start of leaving the block
            raise

    async def exchange_async(
        self,
        command: bytes,
        *,
        owner: str,
        timeout: float | None = None,
        rank: Rank = Rank.NORMAL,
        accept: Accept | None = None,
        until: Ending | None = None,
        repeatable: bool = False,
    ) -> Reply:
        """As :meth:`exchange`, on the wire's worker thread: the exchange does not need the event loop to end.

        Cancellation: a command still in line is never sent; one that was sent has its reply read and dropped in the
        background, so that nobody else gets it.
        """
        if timeout is None:
            timeout = self.timeout
        exchange = Exchange(command, timeout, self.terminator if until is None else until, accept, repeatable)
        reply = await self._exchange_on_worker(owner, exchange, rank)
        assert reply is not None
        return reply

    async def query_async(
        self,
        command: bytes,
        *,
        owner: str,
        timeout: float | None = None,
        rank: Rank = Rank.NORMAL,
        accept: Accept | None = None,
        until: Ending | None = None,
        repeatable: bool = False,
    ) -> bytes:
        """As :meth:`query`; on the worker and cancelled as :meth:`exchange_async`."""
        reply = await self.exchange_async(
            command, owner=owner, timeout=timeout, rank=rank, accept=accept, until=until, repeatable=repeatable
        )
        return reply.data

    async def write_async(
        self, command: bytes, *, owner: str, timeout: float | None = None, rank: Rank = Rank.NORMAL
    ) -> None:
        """As :meth:`write`; on the worker and cancelled as :meth:`exchange_async`."""
        exchange = Exchange(command, self.timeout if timeout is None else timeout, None, mute=True)
        await self._exchange_on_worker(owner, exchange, rank)

    async def transact_async(
        self,
        function: Callable[[Guard], T],
        *,
        owner: str,
        timeout: float | None = None,
        rank: Rank = Rank.NORMAL,
    ) -> T:
        """Run ``function(guard)``, which may block, within one hold on the wire's worker; ``timeout`` (s) is for all.

        Cancellation: a function still in line is never called; one that has begun runs to its end in the background
        and its result is dropped.
        """
        return await self._on_worker(owner, self.timeout if timeout is None else timeout, rank, function, single=False)

    def _run(self, owner: str, exchange: Exchange, rank: Rank) -> Reply | None:
        guard = Guard(self, owner, exchange.timeout, rank)
        deadline = perf_counter() + exchange.timeout
        try:
            with guard:
                if guard._root is guard:
                    guard._operations = 1
                    try:
                        return self._perform(guard, exchange, deadline)
                    finally:
                        guard._operations = 0
                return guard._operate(partial(self._perform, guard, exchange, deadline))
        except AcquireTimeout as error:
            raise self._explained(guard, error) from error.__cause__
        except BaseException:
            guard.release()  # it still holds only where a signal struck at the very start of leaving the block
            raise

    def _explained(self, guard: Guard, error: AcquireTimeout) -> CoexistenceError:
        """While the wire is disconnected, say so rather than blame who waits ahead."""
        self.note_refusal(guard)
        if self._connected or error.wire != self._arbiter.name:
            return error
        return self._disconnected(guard.owner)

    def _exchange_on_worker(self, owner: str, exchange: Exchange, rank: Rank) -> Coroutine[Any, Any, Reply | None]:
        def perform(guard: Guard) -> Reply | None:
            return self._perform(guard, exchange, guard.deadline)

        return self._on_worker(owner, exchange.timeout, rank, perform, single=True)

    def _on_worker(
        self, owner: str, timeout: float, rank: Rank, function: Callable[[Guard], T], *, single: bool
    ) -> Coroutine[Any, Any, T]:
        """Return what to await for ``function(guard)`` to be run on the worker, in a hold of its own or the task's."""
        party = current_party()
        if self._arbiter.held_by(party) is not None:
            return self._within_hold(owner, timeout, rank, function)
        return self.wire.serve(Job(self, owner, timeout, rank, function, single=single), party)

    async def _within_hold(self, owner: str, timeout: float, rank: Rank, function: Callable[[Guard], T]) -> T:
        guard = Guard(self, owner, timeout, rank)
        guard.deadline = guard._expires = perf_counter() + timeout
        async with guard:
            return await self.wire.serve_guard(guard, function)

    # Lines nobody asked for

    def add_stray_listener(self, listener: Callable[[bytes, float], object]) -> Callable[[], None]:
        """Have ``listener(line, timestamp)`` called for each complete line that is nobody's answer.

        It is called on whatever thread reads the line, must not block, and must not use the wire. When it returns True
        the line is what it was waiting for, and counts as no trouble. Returns a function that ends this.
        """
        self._stray_listeners.append(listener)
        return partial(_remove, self._stray_listeners, listener)

    def collect_strays(self, *, owner: str, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> int:
        """Hold the wire for a moment and give lines that have arrived unasked to the listeners; return their number."""
        return self.transact(self._collect, owner=owner, timeout=timeout, rank=rank)

    async def collect_strays_async(self, *, owner: str, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> int:
        """As :meth:`collect_strays`, on the worker. Cancellation: the lines still reach the listeners, or stay."""
        return await self.transact_async(self._collect, owner=owner, timeout=timeout, rank=rank)

    def _collect(self, guard: Guard) -> int:
        exchange = Exchange(b"", self.timeout, None)
        deadline = guard._deadline(None)

        def collect() -> int:
            self._make_ready(guard, exchange, deadline)
            return self._clear_input(guard, exchange, deadline)

        return self._on_the_wire(guard, exchange, deadline, collect)

    # Coming and going of the hardware

    def add_listener(self, listener: Callable[[ConnectionEvent], object]) -> Callable[[], None]:
        """Have ``listener(event)`` called when the hardware is lost and when it is back.

        It is called on whatever thread noticed and must not block. Returns a function that ends this.
        """
        self._listeners.append(listener)
        return partial(_remove, self._listeners, listener)

    def add_reconnect_step(self, name: str, function: Callable[[Guard], object]) -> Callable[[], None]:
        """Have ``function(guard)`` prepare the instrument after each reconnect, before anybody's next exchange.

        It runs on the thread and within the hold of whoever comes next. If it fails, that exchange fails with
        :class:`WireDisconnected` and the steps are tried again for the next. Returns a function that ends this.
        """
        step = (name, function)
        self._steps.append(step)
        return partial(_remove, self._steps, step)

    def reconnect(self, *, owner: str, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> None:
        """Close and open the connection, in this caller's turn, and prepare the instrument as after a loss.

        Raises
        ------
        WireDisconnected
            It could not be opened in time; it goes on being tried.
        AcquireTimeout
            The wire did not become free in time; nothing was done.
        """
        self.transact(self._reconnect, owner=owner, timeout=timeout, rank=rank)

    async def reconnect_async(self, *, owner: str, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> None:
        """As :meth:`reconnect`, on the worker; cancelled as :meth:`transact_async`."""
        await self.transact_async(self._reconnect, owner=owner, timeout=timeout, rank=rank)

    def _reconnect(self, guard: Guard) -> None:
        exchange = Exchange(b"", guard.timeout, None)
        deadline = guard._deadline(None)
        opening_fails: tuple[type[BaseException], ...] = (CoexistenceError, *self._transport.lost)

        def reopen() -> None:
            if self._connected:
                try:
                    self._transport.open()
                except opening_fails as error:
                    self._lose(error)
                else:
                    self._note_reopened()
            self._make_ready(guard, exchange, deadline)

        self._on_the_wire(guard, exchange, deadline, reopen)

    def clear(self, *, owner: str, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> None:
        """Make sure, in this caller's turn, that nothing the instrument was asked before is answered any more.

        Where the medium can (:meth:`Transport.reset`) the instrument is told; else what has arrived goes to the
        stray-line listeners.

        Raises
        ------
        WireDisconnected
            The hardware is gone.
        AcquireTimeout
            The wire did not become free in time; nothing was done.
        """
        self.transact(self._clear, owner=owner, timeout=timeout, rank=rank)

    async def clear_async(self, *, owner: str, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> None:
        """As :meth:`clear`, on the worker; cancelled as :meth:`transact_async`."""
        await self.transact_async(self._clear, owner=owner, timeout=timeout, rank=rank)

    def _clear(self, guard: Guard) -> None:
        exchange = Exchange(b"", guard.timeout, None)
        deadline = guard._deadline(None)

        def clear() -> None:
            self._make_ready(guard, exchange, deadline)
            try:
                done = self._transport.reset()
            except self._transport.lost as error:
                self._lose(error)
                raise self._disconnected(guard.owner) from error
            if not done:
                self._clear_input(guard, exchange, deadline)

        self._on_the_wire(guard, exchange, deadline, clear)

    def interrupt(self) -> None:
        """Wake whatever blocks on this channel, so that it can see whether it may go on. Never blocks."""
        self._transport.interrupt()
        with self._link_lock:
            self._ready = False
            self._link.notify_all()

    def close(self, timeout: float = 1.0) -> None:
        """Close the wire: those who wait or hold get an error, what is on the wire is broken off.

        Takes at most about ``timeout`` seconds unless the operating system blocks.

        Raises
        ------
        ConfigError
            The time is none that can be waited for; nothing was closed.
        """
        self.wire.close(timeout)

    def shut(self) -> None:
        """Close the transport and stop reopening it; the wire's :meth:`~coexistence.wire.Wire.close` calls this."""
        self._closing.set()
        reopener = self._reopener
        if reopener is not None and reopener is not threading.current_thread():
            reopener.join(1.0)
        with self._link_lock:
            self._connected = self._ready = False
        self._transport.close()

    def forget(self) -> None:
        """Let go of the hardware in a forked child; it stays the parent's."""
        self._link_lock, self._search_lock = threading.RLock(), threading.RLock()
        self._link = threading.Condition(self._link_lock)
        self._closing = threading.Event()
        self._closing.set()
        self._connected = self._ready = False
        self._searcher = self._reopener = None
        self._transport.forget()

    def note_refusal(self, guard: Guard) -> None:
        """Record that a turn did not come in time, which is no trouble for those who only ask when the wire is free."""
        if guard.rank is not Rank.BACKGROUND:
            self.wire.record_refusal(guard.owner)

    def _disconnected(self, owner: str) -> WireDisconnected:
        error = self.last_error
        reason = error.reason if isinstance(error, WireDisconnected) else str(error or "it was lost")
        return WireDisconnected(
            self.name,
            reason,
            owner=owner,
            remedy=f"Check cable and power; it is tried again every {REOPEN_INTERVAL_S:g} s.",
        )

    def _lose(self, error: BaseException) -> None:
        """Note that the hardware is gone, and start looking for it."""
        with self._link_lock:
            if not self._connected:
                return
            self._connected = self._ready = False
            self.last_error = error
        self.wire.record_loss()
        with contextlib.suppress(*self._transport.lost):
            self._transport.close()
        self._search()
        logger.warning("%s is lost: %s", self.name, error, extra={"wire": self.name, "event": "lost"})
        self._announce(ConnectionEvent(self.name, False, time.time(), error))

    def _search(self) -> None:
        """See to it that lost hardware is looked for, also where a signal broke into the noting of its loss."""
        with self._search_lock:
            with self._link_lock:
                searcher = self._searcher
                if self._connected or self._closing.is_set() or (searcher is not None and searcher.is_alive()):
                    return
            searcher = threading.Thread(target=self._reopen, name=f"reopen {self.name}", daemon=True)
            self._searcher = self._reopener = searcher
            searcher.start()

    def _reopen(self) -> None:
        while not self._closing.wait(REOPEN_INTERVAL_S):
            try:
                self._transport.open()
            except Exception as error:  # whatever it was, the next attempt may succeed
                self.last_error = error
                continue
            if self._closing.is_set():
                self._transport.close()
                return
            self._note_reopened()
            return

    def _note_reopened(self) -> None:
        suspect = self._suspect
        if suspect is not None:
            suspect.until = min(suspect.until, perf_counter() + _AFTER_REOPENING_S)
        self.wire.record_reconnect()
        with self._link_lock:
            self._ready = False
            self._steps_due = bool(self._steps)
            self._searcher = None
            self._connected = True
            self._link.notify_all()
        logger.info("%s is back", self.name, extra={"wire": self.name, "event": "back"})
        self._announce(ConnectionEvent(self.name, True, time.time()))

    def _announce(self, event: ConnectionEvent) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:
                logger.exception("a connection listener of %s failed", self.name)

    # One exchange

    def _perform(self, guard: Guard, exchange: Exchange, deadline: float) -> Reply | None:
        """Send, and receive if the exchange has an ending; the guard holds the wire and an operation is begun."""
        lock = self.wire.exchange_lock
        if not lock.acquire(False) and not lock.acquire(timeout=max(deadline - perf_counter(), 0.0)):
            raise self._unsent(guard, exchange, "another exchange is on the wire")
        started = perf_counter()
        data = b""
        outcome = "interrupted"
        self._out = 0
        try:
            if guard._root._state is not State.HELD:
                self._check(guard)  # it may have been revoked before this was an operation that others wait for
            try:
                reply = self._converse(guard, exchange, started, deadline)
                outcome = "ok"
                self._out = 0
                if reply is not None:
                    data = reply.data
                return reply
            except CommandTimeout as error:
                outcome = "timeout" if error.sent else "not sent"
                data = error.received
                raise
            except WireDisconnected:
                outcome = "disconnected"
                raise
            except CoexistenceError:
                outcome = "revoked"
                raise
            finally:
                if self._out:
                    self._expect_late(guard, exchange)  # however it ended, its reply may still come
                self.wire.record(
                    (time.time(), guard.owner, exchange.command, data, guard.waited, perf_counter() - started, outcome)
                )
        finally:
            lock.release()

    def _converse(self, guard: Guard, exchange: Exchange, started: float, deadline: float) -> Reply | None:
        transport = self._transport
        resent = again = unanswered = False
        while True:
            if not self._ready:
                self._make_ready(guard, exchange, deadline)
            try:
                if unanswered:  # what has come since it was given up is its reply all the same
                    reply = self._receive(guard, exchange, perf_counter())
                    if reply is not None:
                        return reply
                lines = transport.take_lines(self.terminator)
                if lines:
                    self._sort_out(lines)
                if perf_counter() >= deadline:
                    if resent:
                        raise self._unanswered(guard, exchange)
                    raise self._unsent(guard, exchange, "its deadline had passed")
                if again:
                    again = False
                    self.wire.record_retry(guard.owner, exchange.command)
                sent = self._send(guard, exchange, deadline)
            except Interrupted:
                self._check(guard)
                continue
            except CoexistenceError:
                raise  # timeouts are OSErrors, too
            except transport.lost as error:
                self._lose(error)
                unanswered = False
                continue
            if sent < len(exchange.command):
                self._expect_late(guard, exchange)
                raise self._unanswered(guard, exchange)
            if exchange.ending is None:
                return None
            try:
                patience = deadline
                if exchange.repeatable and not resent:
                    patience = started + _RETRY_SHARE * (deadline - started)
                reply = self._receive(guard, exchange, patience)
                if reply is None and patience < deadline and transport.unread():
                    reply = self._receive(guard, exchange, deadline)
                    patience = deadline
            except transport.lost as error:
                self._expect_late(guard, exchange)
                self._lose(error)
                if not exchange.repeatable or resent:
                    raise self._disconnected(guard.owner) from error
                unanswered = False
            except BaseException:
                self._expect_late(guard, exchange)
                raise
            else:
                if reply is not None:
                    if resent:
                        self._expect_late(guard, exchange, replies=1)
                    return reply
                if patience >= deadline:
                    self._expect_late(guard, exchange)
                    raise self._unanswered(guard, exchange)
                unanswered = True
            resent = again = True

    def _send(self, guard: Guard, exchange: Exchange, deadline: float) -> int:
        command = exchange.command
        sent = 0
        asked = self._asked
        if asked is not None and asked.guard is guard:
            asked.begun = True
        out_before = self._out
        self._out += 1
        while True:
            try:
                return sent + self._transport.send(command[sent:] if sent else command, deadline)
            except Interrupted as interruption:
                sent += interruption.sent
                self._out = out_before + (sent > 0)
                self._check(guard)
                self._out = out_before + 1

    def _ask(self, guard: Guard, exchange: Exchange, deadline: float, replies: int) -> None:
        """Send what may be answered, and remember it until that is read."""
        self._doubt()
        before = self._asked
        if before is not None and before.guard is guard:
            replies += before.replies
        self._asked = asked = Asked(guard, exchange, replies)
        try:
            self._perform(guard, exchange, deadline)
        except CoexistenceError:
            if self._asked is asked:  # nothing went out, or its reply would be expected late by now
                self._asked = before
            raise
        if guard._failed or guard._root._state is not State.HELD:
            asked.doubtful = True
            self._ready = False

    def _receive(self, guard: Guard, exchange: Exchange, deadline: float) -> Reply | None:
        """Return the reply that the exchange accepts, or ``None`` at the deadline."""
        assert exchange.ending is not None
        accept = exchange.accept
        late = False
        while True:
            try:
                data = self._transport.receive(exchange.ending, deadline)
            except Interrupted:
                self._check(guard)
                continue
            if data is None:
                return None
            accepted = False
            try:
                accepted = accept is None or accept(data)
            finally:
                if not accepted:
                    self._sort_out([data])
            if accepted:
                return Reply(data, time.time())
            if perf_counter() >= deadline:
                if late:
                    return None
                late = True

    def _listen(self, guard: Guard, exchange: Exchange, deadline: float) -> Reply:
        """Receive without sending, within a hold and with the exchange locked."""
        if not self._ready:
            self._make_ready(guard, exchange, deadline)
        started = perf_counter()
        asked = self._asked
        if asked is not None:
            exchange.command = asked.exchange.command
            self._out = asked.replies
        try:
            reply = self._receive(guard, exchange, deadline)
        except self._transport.lost as error:
            self._lose(error)
            raise self._disconnected(guard.owner) from error
        except BaseException:
            self._expect_late(guard, exchange)
            raise
        if reply is None:
            self._expect_late(guard, exchange)
            raise self._unanswered(guard, exchange)
        self._out = 0
        self._asked = None
        self.wire.record((reply.timestamp, guard.owner, b"", reply.data, guard.waited, perf_counter() - started, "ok"))
        return reply

    def _on_the_wire(self, guard: Guard, exchange: Exchange, deadline: float, operation: Callable[[], T]) -> T:
        """Do something under the guard that is no exchange, while no exchange is on the wire."""

        def locked() -> T:
            lock = self.wire.exchange_lock
            if not lock.acquire(timeout=max(deadline - perf_counter(), 0.0)):
                raise self._unsent(guard, exchange, "another exchange is on the wire")
            try:
                return operation()
            finally:
                lock.release()

        return guard._operate(locked)

    def _clear_input(self, guard: Guard, exchange: Exchange, deadline: float) -> int:
        while True:
            try:
                lines = self._transport.take_lines(self.terminator)
            except Interrupted:
                self._check(guard)
                continue
            except self._transport.lost as error:
                self._lose(error)
                self._make_ready(guard, exchange, deadline)
                continue
            self._route(lines)
            return len(lines)

    def _route(self, lines: list[bytes], outcome: str = "stray") -> None:
        now = time.time()
        for line in lines:
            awaited = False
            for listener in tuple(self._stray_listeners):
                try:
                    awaited |= listener(line, now) is True
                except Exception:
                    logger.exception("a stray-line listener of %s failed", self.name)
            self.wire.record_stray(line, "awaited" if awaited and outcome == "stray" else outcome)

    def _sort_out(self, lines: list[bytes]) -> None:
        """Route lines that came while an exchange was let through although a late reply may still come."""
        for line in lines:
            suspect = self._suspect
            if suspect is None or suspect.ending != self.terminator or not suspect.may_be(line):
                self._route([line])
                continue
            self._route([line], "late")
            suspect.replies -= 1
            if suspect.replies <= 0:
                self._suspect = None

    def _check(self, guard: Guard) -> None:
        """After an interruption: raise if the wire was closed or the hold ended, else it was not meant for us."""
        if self.wire.closed:
            raise WireClosed(self.name, guard.owner)
        root = guard._root
        if root._state is State.REVOKED:
            raise GuardRevoked(self.name, guard.owner, root.held_for, root._reason)
        if root._state is State.ENDED:
            raise GuardNotHeld(self.name, guard.owner)

    def _unsent(self, guard: Guard, exchange: Exchange, reason: str) -> CommandTimeout:
        return CommandTimeout(self.name, guard.owner, exchange.command, exchange.timeout, sent=False, reason=reason)

    def _unanswered(self, guard: Guard, exchange: Exchange) -> CommandTimeout:
        received = self._transport.unread()
        logger.info(
            "no reply to %r from %s", exchange.command, self.name, extra={"wire": self.name, "owner": guard.owner}
        )
        return CommandTimeout(self.name, guard.owner, exchange.command, exchange.timeout, sent=True, received=received)

    # Before anybody may send

    def _expect_late(
        self, guard: Guard, exchange: Exchange, replies: int | None = None, asked_at: float | None = None
    ) -> None:
        """Make the channel suspect: replies to this exchange may still come, unless told to all that was sent."""
        if replies is None:
            replies = max(self._out, 1)
        limit = self.late_reply_limit
        if limit is None:
            limit = _LATE_FACTOR * exchange.timeout
        overdue = perf_counter() if asked_at is None else asked_at + exchange.timeout
        self._ready = False
        self._out = 0
        self._asked = None
        suspect = Suspect(
            exchange.command,
            guard.owner,
            self.terminator if exchange.ending is None else never_failing(exchange.ending),
            exchange.accept,
            overdue + limit * replies,  # an instrument answers one after the other
            replies,
        )
        self._suspect = suspect if self._suspect is None else self._suspect.joined_by(suspect)

    def _abandon(self, guard: Guard) -> None:
        """Note that nobody will read what ``guard`` asked, unless that is being read just now."""
        asked = self._asked
        if asked is not None and asked.guard is guard:
            asked.doubtful = True
            self._ready = False

    def _doubt(self) -> None:
        """Expect late replies to what was written under a hold that ended before it could read."""
        asked = self._asked
        if asked is not None and asked.is_abandoned:
            self._expect_late(asked.guard, asked.exchange, asked.replies, asked.at)

    def _make_ready(self, guard: Guard, exchange: Exchange, deadline: float) -> None:
        """Wait for the hardware, prepare it after a reconnect, wait out late replies; or raise at the deadline."""
        while True:
            if self.wire.closed:
                raise WireClosed(self.name, guard.owner)
            if not self._connected:
                self._await_connection(guard, deadline)
            self._doubt()
            try:
                suspect = self._suspect
                spared = suspect is not None and (
                    suspect.spares(exchange.accept) or (exchange.mute and guard.rank is Rank.URGENT)
                )
                if suspect is not None and not spared:
                    self._resynchronise(guard, exchange, suspect, deadline)
                if self._in_steps:
                    return
                if self._steps_due:
                    self._run_steps(guard, deadline)
            except CoexistenceError:
                raise  # timeouts are OSErrors, too
            except self._transport.lost as error:
                self._lose(error)
                continue
            with self._link_lock:
                asked = self._asked
                doubtful = asked is not None and asked.is_abandoned
                if self._connected and not self._steps_due and not doubtful and (spared or self._suspect is None):
                    self._ready = self._suspect is None
                    return

    def _await_connection(self, guard: Guard, deadline: float) -> None:
        self._search()
        if asyncio._get_running_loop() is not None:
            raise self._disconnected(guard.owner)
        with self._link_lock:
            while not self._connected and not self.wire.closed and guard._root._state not in _ENDED_FROM_OUTSIDE:
                remaining = deadline - perf_counter()
                if remaining <= 0.0:
                    raise self._disconnected(guard.owner)
                self._link.wait(remaining)
        self._check(guard)

    def _run_steps(self, guard: Guard, deadline: float) -> None:
        expires, guard._expires = guard._expires, min(guard._expires, deadline)
        self._in_steps = True
        try:
            for name, function in tuple(self._steps):
                try:
                    function(guard)
                except Exception as error:  # whatever it is, it is not for the owner of this exchange
                    raise WireDisconnected(
                        self.name,
                        f"it is back, but the step {name!r} that prepares it failed ({error})",
                        owner=guard.owner,
                        remedy="It is tried again with the next exchange.",
                    ) from error
            self._steps_due = False
        finally:
            self._in_steps = False
            guard._expires = expires

    def _resynchronise(self, guard: Guard, exchange: Exchange, suspect: Suspect, deadline: float) -> None:
        """Catch the late reply or give it up; raise at the deadline, with nothing sent."""
        if self._transport.reset():
            self._suspect = None
            return
        overslept, stood_still = 0.0, False
        while True:
            now = perf_counter()
            if now >= suspect.until:
                if stood_still or overslept < _STALL_S:
                    break
                # Nothing ran for a while, perhaps not even what the reply comes through: wait for as long again, once.
                stood_still = True
                suspect.until = now + min(overslept, _LONGEST_EXTENSION_S)
            if now >= deadline:
                raise self._unsent(
                    guard, exchange, f"a late reply to {suspect.question!r} of '{suspect.owner}' may still come"
                )
            due = min(suspect.until, deadline)
            try:
                line = self._transport.receive(suspect.ending, due)
            except Interrupted:
                self._check(guard)
                continue
            overslept = perf_counter() - due
            if line is None:
                continue
            if not suspect.may_be(line):
                self._route([line])
                continue
            self._route([line], "late")
            suspect.replies -= 1
            if suspect.replies <= 0:
                break
        self._suspect = None
        self._clear_input(guard, exchange, deadline)


def _remove(entries: list[Any], entry: Any) -> None:
    with contextlib.suppress(ValueError):
        entries.remove(entry)
