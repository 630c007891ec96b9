"""Dialogue: holds a protocol's conversations over a connection, for blocking and for asynchronous callers alike."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

from coexistence import Channel, Connection, Guard, Rank
from devices.protocols.conversation import Answer, Ask, Conversation, Stamped
from devices.protocols.errors import InstrumentFault, NotReady, ProtocolError, WrongInstrument
from devices.protocols.field import Field

T = TypeVar("T")
V = TypeVar("V", bool, int, float, str)

logger = logging.getLogger(__name__)

_ASK_AGAIN_S = 0.02
_LEFTOVERS_S = 0.1


def converse(guard: Guard, conversation: Conversation[T], timeout: float | None = None) -> T:
    """Hold one conversation under a guard, and return what it concludes; ``timeout`` in s is for each exchange."""
    try:
        step = next(conversation)
        while True:
            if isinstance(step, Ask):
                reply = guard.exchange(
                    step.command,
                    timeout=timeout if step.timeout_s is None else step.timeout_s,
                    accept=step.accept,
                    until=step.until,
                    repeatable=step.repeatable,
                )
                step = conversation.send(Answer(reply.data, reply.timestamp))
            else:
                guard.write(step.command)
                step = next(conversation)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        conversation.close()


def tell_unheard(error: BaseException | None) -> None:
    """Log what an instrument had against something that nobody waits for any more: it tells each error only once."""
    if isinstance(error, InstrumentFault):
        logger.warning("%s Nobody waited for the end of this any more.", error)


class Dialogue:
    """Talks to one instrument over one connection.

    Each conversation is one hold of the wire. One that ends with :class:`NotReady` is begun anew, with the wire free
    in between, until the patience is used up. Errors of the protocol get the device's name and wire.

    Parameters
    ----------
    connection
        Wire, owner and default timeout.
    patience_s
        How long an instrument may stay busy before that is an error.
    timeout_s
        Time for each conversation, waiting in line included, for instruments that are slower than the connection's
        default.
    join
        Called with the wire before each conversation, for protocols that have something in common with all who talk
        to the instrument.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        patience_s: float = 5.0,
        timeout_s: float = 0.0,
        join: Callable[[Channel], None] | None = None,
    ) -> None:
        self.connection = connection
        self._join = join
        self.patience_s = patience_s
        self.timeout_s = max(timeout_s, connection.timeout)

    @classmethod
    def in_terms_of(cls, protocol: Any, connection: Connection) -> Self:
        """Return a dialogue with the time that a protocol's instrument needs, and with what it has in common."""
        return cls(
            connection, timeout_s=getattr(protocol, "reply_timeout_s", 0.0), join=getattr(protocol, "join", None)
        )

    def hold(
        self,
        begin: Callable[[], Conversation[T]],
        *,
        timeout: float | None = None,
        rank: Rank = Rank.NORMAL,
    ) -> T:
        """Hold a conversation on the calling thread.

        Raises
        ------
        ProtocolError
            What the protocol makes of the replies.
        CoexistenceError
            What the wire says: no reply, not connected, in use.
        """
        deadline = time.monotonic() + self.patience_s
        exchange = timeout or self.connection.timeout
        total = timeout or self.timeout_s
        while True:
            try:
                return self.connection.transact(
                    lambda guard: self._converse(guard, begin, exchange), timeout=total, rank=rank
                )
            except ProtocolError as error:
                self._raise_unless_worth_asking_again(error, deadline)
            time.sleep(_ASK_AGAIN_S)

    def identify(self, begin: Callable[[], Conversation[str]]) -> str:
        """Hold the conversation in which an instrument says what it is.

        A first wrong answer may be a reply that was under way to somebody else when the port was opened, a program
        that was killed for one: it is given up, and the instrument asked once more.
        """
        try:
            return self.hold(begin)
        except WrongInstrument:
            time.sleep(_LEFTOVERS_S)
            self.connection.collect_strays()
            return self.hold(begin)

    async def identify_async(self, begin: Callable[[], Conversation[str]]) -> str:
        """As :meth:`identify`, on the wire's worker."""
        try:
            return await self.hold_async(begin)
        except WrongInstrument:
            await asyncio.sleep(_LEFTOVERS_S)
            await self.connection.collect_strays_async()
            return await self.hold_async(begin)

    def put(self, field: Field[V], value: V) -> Stamped[V]:
        """Set a field on the calling thread; return what the instrument then reports.

        Raises
        ------
        ValueRefused
            When the value is not allowed; nothing is sent then.
        """
        put, checked = self._settable(field, value)
        found = self.hold(lambda: put(checked))
        settle = field.settle
        return found if settle is None else self.hold(lambda: settle(checked))

    async def put_async(self, field: Field[V], value: V) -> Stamped[V]:
        """As :meth:`put`, on the wire's worker.

        Cancelled before its turn on the wire, nothing is sent; cancelled later, the setting takes place.
        """
        put, checked = self._settable(field, value)
        found = await self.hold_async(lambda: put(checked))
        settle = field.settle
        return found if settle is None else await self.hold_async(lambda: settle(checked))

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Give errors of the protocol the device's name and wire."""
        try:
            yield
        except ProtocolError as error:
            raise error.located(self.connection.owner, self.connection.description) from None

    async def hold_async(
        self,
        begin: Callable[[], Conversation[T]],
        *,
        timeout: float | None = None,
        rank: Rank = Rank.NORMAL,
    ) -> T:
        """Hold a conversation on the wire's worker; raises the same as :meth:`hold`.

        Cancelled while it waits in line, nothing is sent; cancelled later, the exchange under way ends on the wire by
        itself and its result is dropped; what the instrument has taken out of its error queue for it is logged.
        """
        deadline = time.monotonic() + self.patience_s
        exchange = timeout or self.connection.timeout
        total = timeout or self.timeout_s
        while True:
            last_word = _LastWord(self.connection)
            try:
                return await self.connection.transact_async(
                    last_word.of(lambda guard: self._converse(guard, begin, exchange)), timeout=total, rank=rank
                )
            except asyncio.CancelledError:
                last_word.is_unheard()
                raise
            except ProtocolError as error:
                self._raise_unless_worth_asking_again(error, deadline)
            await asyncio.sleep(_ASK_AGAIN_S)

    def _converse(self, guard: Guard, begin: Callable[[], Conversation[T]], timeout: float) -> T:
        if self._join is not None:
            self._join(self.connection.wire)
        return converse(guard, begin(), timeout)

    def _raise_unless_worth_asking_again(self, error: ProtocolError, deadline: float) -> None:
        if isinstance(error, NotReady) and time.monotonic() < deadline:
            return
        raise error.located(self.connection.owner, self.connection.description) from None

    def _settable(self, field: Field[V], value: V) -> tuple[Callable[[V], Conversation[Stamped[V]]], V]:
        if field.put is None:
            raise AttributeError(f"{field.name} of {field.instrument} cannot be set")
        with self.naming():
            return field.put, field.check(value)


class _LastWord:
    """Sees to it that an error is logged where its conversation ends after the one who began it has gone."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._faults: list[InstrumentFault] = []
        self._unheard = False

    def of(self, conversation: Callable[[Guard], T]) -> Callable[[Guard], T]:
        """Return the conversation, for the wire's worker to hold."""

        def listen(guard: Guard) -> T:
            try:
                return conversation(guard)
            except InstrumentFault as fault:
                self._faults.append(fault)
                self._tell()
                raise

        return listen

    def is_unheard(self) -> None:
        """Take note, on the event loop, that nobody waits any more."""
        self._unheard = True
        self._tell()

    def _tell(self) -> None:
        if not self._unheard:
            return
        with contextlib.suppress(IndexError):  # the other thread has told it
            tell_unheard(self._faults.pop().located(self._connection.owner, self._connection.description))
