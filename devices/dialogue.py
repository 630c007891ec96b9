"""Dialogue: holds a protocol's conversations over a connection, for blocking and for asynchronous callers alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from coexistence import Connection, Guard, Rank
from devices.protocols.conversation import Answer, Ask, Conversation
from devices.protocols.errors import NotReady, ProtocolError

T = TypeVar("T")

_ASK_AGAIN_S = 0.02


def converse(guard: Guard, conversation: Conversation[T]) -> T:
    """Hold one conversation under a guard, and return what it concludes."""
    try:
        step = next(conversation)
        while True:
            if isinstance(step, Ask):
                reply = guard.exchange(
                    step.command,
                    timeout=step.timeout_s,
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
    """

    def __init__(self, connection: Connection, *, patience_s: float = 5.0) -> None:
        self.connection = connection
        self.patience_s = patience_s

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
        while True:
            try:
                return self.connection.transact(lambda guard: converse(guard, begin()), timeout=timeout, rank=rank)
            except ProtocolError as error:
                self._raise_unless_worth_asking_again(error, deadline)
            time.sleep(_ASK_AGAIN_S)

    async def hold_async(
        self,
        begin: Callable[[], Conversation[T]],
        *,
        timeout: float | None = None,
        rank: Rank = Rank.NORMAL,
    ) -> T:
        """Hold a conversation on the wire's worker; raises the same as :meth:`hold`.

        Cancelled while it waits in line, nothing is sent; cancelled later, the exchange under way ends on the wire by
        itself and its result is dropped.
        """
        deadline = time.monotonic() + self.patience_s
        while True:
            try:
                return await self.connection.transact_async(
                    lambda guard: converse(guard, begin()), timeout=timeout, rank=rank
                )
            except ProtocolError as error:
                self._raise_unless_worth_asking_again(error, deadline)
            await asyncio.sleep(_ASK_AGAIN_S)

    def _raise_unless_worth_asking_again(self, error: ProtocolError, deadline: float) -> None:
        if isinstance(error, NotReady) and time.monotonic() < deadline:
            return
        raise error.located(self.connection.owner, self.connection.description) from None
