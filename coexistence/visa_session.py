"""What callers use of a VISA resource: text in and out, blocking and from event loops, under an owner's name.

Commands and replies are text in Latin-1, of which ASCII is the first half, so that no reply is ever undecodable.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from coexistence.channel import Channel
from coexistence.connection import Connection
from coexistence.errors import ConfigError, Problem, checked
from coexistence.exchange import Reply
from coexistence.guard import Guard
from coexistence.hold import Rank
from coexistence.line_settings import check_timeout
from coexistence.transport import Accept, Ending
from coexistence.visa_blocks import block_end, block_payload, make_block

T = TypeVar("T")

_ENCODING = "latin-1"


class TextReply(NamedTuple):
    """An answer as text, and the system time (s since 1970) at which it was complete."""

    text: str
    timestamp: float


class VisaSession:
    """One resource, open: its channel, what ends a command, and what it said it is. All its handles share this.

    Parameters
    ----------
    channel
        The resource's channel.
    write_terminator
        Ends each command.
    """

    def __init__(self, channel: Channel, *, write_terminator: bytes) -> None:
        self.channel = channel
        self.write_terminator = write_terminator
        self._identity: str | None = None
        channel.add_listener(lambda _event: self.forget_identity())

    def encode(self, command: str) -> bytes:
        """Return the bytes of a command, with its terminator.

        Raises
        ------
        ConfigError
            A character does not exist in Latin-1.
        """
        try:
            data = command.encode(_ENCODING)
        except UnicodeEncodeError as error:
            character = command[error.start]
            raise ConfigError(
                Problem(
                    f"{command!r} cannot be sent: {character!r} at position {error.start} is not in Latin-1",
                    "send bytes through the handle's 'raw' connection",
                )
            ) from None
        terminator = self.write_terminator
        return data if data.endswith(terminator) else data + terminator

    def encode_block(self, command: str, data: bytes) -> bytes:
        """Return the bytes of a command that ends with a binary block."""
        return self.encode(command).removesuffix(self.write_terminator) + make_block(data) + self.write_terminator

    def block_ending(self) -> Ending:
        """Return how a reply with a binary block ends here."""
        terminator = self.channel.terminator
        return lambda received: block_end(received, terminator)

    def identify(self, guard: Guard) -> str:
        """Return the identity, asked for under this hold if nobody asked before."""
        identity = self._identity
        if identity is None:
            identity = guard.query(self.encode("*IDN?"), repeatable=True).decode(_ENCODING).strip()
            self._identity = identity
        return identity

    @property
    def known_identity(self) -> str | None:
        """The identity, if anybody has asked for it since the connection was made."""
        return self._identity

    def forget_identity(self) -> None:
        """Have the next who wants to know ask again: another instrument may answer now."""
        self._identity = None


class VisaGuard:
    """A hold on a resource's wire, with text in and out; ``raw`` is the same hold with bytes.

    For ``with handle.acquire() as guard`` in a thread and ``async with handle.acquire_async() as guard`` in a task.
    ``timeout`` is in seconds, by default the handle's. Errors are those of :class:`Guard`.
    """

    __slots__ = ("_session", "_timeout", "raw")

    def __init__(self, session: VisaSession, guard: Guard, timeout: float) -> None:
        self._session = session
        self._timeout = timeout
        self.raw = guard

    @property
    def owner(self) -> str:
        """Who holds the wire."""
        return self.raw.owner

    def __enter__(self) -> Self:
        self.raw.__enter__()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.raw.__exit__(exc_type, exc, traceback)

    async def __aenter__(self) -> Self:
        await self.raw.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.raw.__aexit__(exc_type, exc, traceback)

    def release(self) -> None:
        """End the hold before the block does."""
        self.raw.release()

    def _patience(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else timeout

    def query(self, command: str, *, timeout: float | None = None, repeatable: bool = False) -> str:
        """Send a command and return its reply; ``repeatable`` as for :meth:`VisaSessionHandle.query`."""
        return self.raw.query(
            self._session.encode(command), timeout=self._patience(timeout), repeatable=repeatable
        ).decode(_ENCODING)

    def write(self, command: str, *, timeout: float | None = None) -> None:
        """Send a command that has no reply, or whose reply is read next."""
        self.raw.write(self._session.encode(command), timeout=self._patience(timeout))

    def read(self, *, timeout: float | None = None) -> str:
        """Return the reply to what was written."""
        return self.raw.read_line(timeout=self._patience(timeout)).decode(_ENCODING)

    def query_block(self, command: str, *, timeout: float | None = None) -> bytes:
        """Send a command and return the data of the binary block in its reply."""
        session = self._session
        reply = self.raw.query(session.encode(command), timeout=self._patience(timeout), until=session.block_ending())
        return block_payload(reply, session.channel.terminator)

    def write_block(self, command: str, data: bytes, *, timeout: float | None = None) -> None:
        """Send a command that ends with a binary block."""
        self.raw.write(self._session.encode_block(command, data), timeout=self._patience(timeout))

    async def query_async(self, command: str, *, timeout: float | None = None, repeatable: bool = False) -> str:
        """As :meth:`query`. Cancellation: the reply is read in the background and dropped."""
        reply = await self.raw.query_async(
            self._session.encode(command), timeout=self._patience(timeout), repeatable=repeatable
        )
        return reply.decode(_ENCODING)

    async def write_async(self, command: str, *, timeout: float | None = None) -> None:
        """As :meth:`write`. Cancellation: what has begun is completed on the wire."""
        await self.raw.write_async(self._session.encode(command), timeout=self._patience(timeout))

    async def read_async(self, *, timeout: float | None = None) -> str:
        """As :meth:`read`. Cancellation: the reply is read in the background and dropped."""
        return (await self.raw.read_line_async(timeout=self._patience(timeout))).decode(_ENCODING)

    async def run_async(self, function: Callable[[VisaGuard], T]) -> T:
        """Run ``function(guard)``, which may block, on the wire's worker within this hold.

        Cancellation: what has begun ends by itself, the hold lasts that long, and the result is dropped.
        """
        return await self.raw.run_async(lambda _guard: function(self))


class VisaSessionHandle:
    """One owner's access to a VISA resource; as many as wanted share its one session and its one line.

    Made by :meth:`VisaSessionManager.session`. Commands are text, their terminator is appended; for bytes there is
    :attr:`raw`. All methods with ``timeout`` (s, default the handle's) and ``rank`` have a single deadline for waiting
    in line, sending and receiving. The blocking ones run on the calling thread, the ``…_async`` ones on the wire's
    worker thread.

    Parameters
    ----------
    session
        The open resource.
    owner
        The name under which everything is done.
    timeout
        Default for exchanges, in seconds.
    """

    __slots__ = ("_channel", "_raw", "_session", "owner", "timeout")

    def __init__(self, session: VisaSession, owner: str, *, timeout: float) -> None:
        checked(*_check_owner(owner), *check_timeout("timeout", timeout))
        self._session = session
        self._channel = session.channel
        self._raw: Connection | None = None
        self.owner = owner
        self.timeout = timeout

    def __repr__(self) -> str:
        state = "connected" if self.connected else "disconnected"
        return f"<VisaSessionHandle {self.resource} of '{self.owner}' {state}>"

    def clone(self, owner: str | None = None, *, timeout: float | None = None) -> VisaSessionHandle:
        """Return another handle of the same session; costs nothing on the wire."""
        return VisaSessionHandle(
            self._session,
            self.owner if owner is None else owner,
            timeout=self.timeout if timeout is None else timeout,
        )

    # What it stands for

    @property
    def resource(self) -> str:
        """The resource's complete name; of a serial resource, its port."""
        return self._channel.name

    @property
    def channel(self) -> Channel:
        """The channel that all handles of this resource share."""
        return self._channel

    @property
    def raw(self) -> Connection:
        """The same access with bytes, nothing appended: what a device driver takes."""
        raw = self._raw
        if raw is None:
            raw = self._raw = Connection(self._channel, self.owner, timeout=self.timeout)
        return raw

    @property
    def connected(self) -> bool:
        """Whether the instrument was there when last used."""
        return self._channel.connected

    @property
    def last_error(self) -> BaseException | None:
        """What broke the connection last."""
        return self._channel.last_error

    @property
    def queue_depth(self) -> int:
        """How many requests wait in line for the wire, the one on it not counted; of all devices of a GPIB board."""
        return len(self._channel.wire.arbiter)

    def _seconds(self, timeout: float | None) -> float:
        return self.timeout if timeout is None else timeout

    # Exchanges

    def query(
        self,
        command: str,
        *,
        timeout: float | None = None,
        rank: Rank = Rank.NORMAL,
        accept: Callable[[str], bool] | None = None,
        repeatable: bool = False,
    ) -> str:
        """Send a command and return its reply without terminator.

        Parameters
        ----------
        command
            What to send; the terminator is appended if it is missing.
        timeout
            Seconds for all of it. Default: the handle's.
        rank
            Which line to wait in.
        accept
            Tells whether a reply can be the answer to this question.
        repeatable
            Whether the command may be sent a second time when its reply is lost: for pure queries only.

        Raises
        ------
        AcquireTimeout
            The wire did not become free in time; nothing was sent.
        CommandTimeout
            No complete reply in time; ``sent`` tells whether the command went out.
        WireDisconnected
            The instrument is gone, and was not back in time.
        """
        return self._channel.query(
            self._session.encode(command),
            owner=self.owner,
            timeout=self._seconds(timeout),
            rank=rank,
            accept=_bytewise(accept),
            repeatable=repeatable,
        ).decode(_ENCODING)

    async def query_async(
        self,
        command: str,
        *,
        timeout: float | None = None,
        rank: Rank = Rank.NORMAL,
        accept: Callable[[str], bool] | None = None,
        repeatable: bool = False,
    ) -> str:
        """As :meth:`query`.

        Cancellation: a command still in line is never sent; one that was sent has its reply read and dropped in the
        background, so that nobody else gets it.
        """
        reply = await self._channel.query_async(
            self._session.encode(command),
            owner=self.owner,
            timeout=self._seconds(timeout),
            rank=rank,
            accept=_bytewise(accept),
            repeatable=repeatable,
        )
        return reply.decode(_ENCODING)

    def exchange(
        self,
        command: str,
        *,
        timeout: float | None = None,
        rank: Rank = Rank.NORMAL,
        accept: Callable[[str], bool] | None = None,
        repeatable: bool = False,
    ) -> TextReply:
        """As :meth:`query`, and return also the time at which the reply was complete."""
        return _as_text(
            self._channel.exchange(
                self._session.encode(command),
                owner=self.owner,
                timeout=self._seconds(timeout),
                rank=rank,
                accept=_bytewise(accept),
                repeatable=repeatable,
            )
        )

    async def exchange_async(
        self,
        command: str,
        *,
        timeout: float | None = None,
        rank: Rank = Rank.NORMAL,
        accept: Callable[[str], bool] | None = None,
        repeatable: bool = False,
    ) -> TextReply:
        """As :meth:`exchange`; cancelled as :meth:`query_async`."""
        return _as_text(
            await self._channel.exchange_async(
                self._session.encode(command),
                owner=self.owner,
                timeout=self._seconds(timeout),
                rank=rank,
                accept=_bytewise(accept),
                repeatable=repeatable,
            )
        )

    def write(self, command: str, *, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> None:
        """Send a command that has no reply; errors as :meth:`query`."""
        self._channel.write(self._session.encode(command), owner=self.owner, timeout=self._seconds(timeout), rank=rank)

    async def write_async(self, command: str, *, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> None:
        """As :meth:`write`; cancelled as :meth:`query_async`."""
        await self._channel.write_async(
            self._session.encode(command), owner=self.owner, timeout=self._seconds(timeout), rank=rank
        )

    def query_block(self, command: str, *, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> bytes:
        """Send a command and return the data of the binary block (IEEE 488.2) in its reply.

        Raises
        ------
        BlockError
            The reply is no such block.
        AcquireTimeout, CommandTimeout, WireDisconnected
            As :meth:`query`.
        """
        session = self._session
        reply = self._channel.query(
            session.encode(command),
            owner=self.owner,
            timeout=self._seconds(timeout),
            rank=rank,
            until=session.block_ending(),
        )
        return block_payload(reply, self._channel.terminator)

    async def query_block_async(self, command: str, *, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> bytes:
        """As :meth:`query_block`; cancelled as :meth:`query_async`."""
        session = self._session
        reply = await self._channel.query_async(
            session.encode(command),
            owner=self.owner,
            timeout=self._seconds(timeout),
            rank=rank,
            until=session.block_ending(),
        )
        return block_payload(reply, self._channel.terminator)

    def write_block(self, command: str, data: bytes, *, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> None:
        """Send a command that ends with a binary block; errors as :meth:`query`."""
        self.raw.write(self._session.encode_block(command, data), timeout=self._seconds(timeout), rank=rank)

    async def write_block_async(
        self, command: str, data: bytes, *, timeout: float | None = None, rank: Rank = Rank.NORMAL
    ) -> None:
        """As :meth:`write_block`; cancelled as :meth:`query_async`."""
        await self.raw.write_async(self._session.encode_block(command, data), timeout=self._seconds(timeout), rank=rank)

    # Several commands

    def transact(
        self, function: Callable[[VisaGuard], T], *, timeout: float | None = None, rank: Rank = Rank.NORMAL
    ) -> T:
        """Run ``function(guard)`` within one hold, on this thread; ``timeout`` (s) is for all of it."""
        seconds = self._seconds(timeout)
        return self._channel.transact(
            lambda guard: function(VisaGuard(self._session, guard, seconds)),
            owner=self.owner,
            timeout=seconds,
            rank=rank,
        )

    async def transact_async(
        self, function: Callable[[VisaGuard], T], *, timeout: float | None = None, rank: Rank = Rank.NORMAL
    ) -> T:
        """Run ``function(guard)``, which may block, within one hold on the wire's worker.

        Cancellation: a function still in line is never called; one that has begun runs to its end in the background
        and its result is dropped.
        """
        seconds = self._seconds(timeout)
        return await self._channel.transact_async(
            lambda guard: function(VisaGuard(self._session, guard, seconds)),
            owner=self.owner,
            timeout=seconds,
            rank=rank,
        )

    def acquire(
        self, timeout: float | None = None, *, rank: Rank = Rank.NORMAL, max_hold: float | None = None
    ) -> VisaGuard:
        """Ask for the wire, to be used as ``with meter.acquire() as guard:``; see :meth:`Channel.acquire`."""
        guard = self._channel.acquire(self.owner, self._seconds(timeout), rank=rank, max_hold=max_hold)
        return VisaGuard(self._session, guard, self.timeout)

    def acquire_async(
        self, timeout: float | None = None, *, rank: Rank = Rank.NORMAL, max_hold: float | None = None
    ) -> VisaGuard:
        """Ask for the wire, to be used as ``async with meter.acquire_async() as guard:``.

        Cancellation: a request in line is withdrawn; a task cancelled inside the block lets go at once, or when the
        exchange that is on the wire has ended.
        """
        guard = self._channel.acquire_async(self.owner, self._seconds(timeout), rank=rank, max_hold=max_hold)
        return VisaGuard(self._session, guard, self.timeout)

    # The instrument

    def identity(self, *, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> str:
        """Return the answer to ``*IDN?``, which is asked once for each connection, however many want to know.

        Errors as :meth:`query`.
        """
        known = self._session.known_identity
        if known is not None:
            return known
        return self._channel.transact(
            self._session.identify, owner=self.owner, timeout=self._seconds(timeout), rank=rank
        )

    async def identity_async(self, *, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> str:
        """As :meth:`identity`; cancelled as :meth:`query_async`."""
        known = self._session.known_identity
        if known is not None:
            return known
        return await self._channel.transact_async(
            self._session.identify, owner=self.owner, timeout=self._seconds(timeout), rank=rank
        )

    def clear(self, *, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> None:
        """Make sure that nothing asked before is answered any more: device clear, or a new connection on sockets.

        See :meth:`Channel.clear`.
        """
        self._channel.clear(owner=self.owner, timeout=self._seconds(timeout), rank=rank)

    async def clear_async(self, *, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> None:
        """As :meth:`clear`, on the wire's worker; cancelled as :meth:`transact_async`."""
        await self._channel.clear_async(owner=self.owner, timeout=self._seconds(timeout), rank=rank)

    def reconnect(self, *, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> None:
        """Close and open the connection, in this handle's turn, and run the reconnect steps.

        See :meth:`Channel.reconnect`.
        """
        self._channel.reconnect(owner=self.owner, timeout=self._seconds(timeout), rank=rank)

    async def reconnect_async(self, *, timeout: float | None = None, rank: Rank = Rank.NORMAL) -> None:
        """As :meth:`reconnect`, on the wire's worker; cancelled as :meth:`transact_async`."""
        await self._channel.reconnect_async(owner=self.owner, timeout=self._seconds(timeout), rank=rank)


def _as_text(reply: Reply) -> TextReply:
    return TextReply(reply.data.decode(_ENCODING), reply.timestamp)


def _bytewise(accept: Callable[[str], bool] | None) -> Accept | None:
    if accept is None:
        return None
    return lambda reply: accept(reply.decode(_ENCODING))


def _check_owner(owner: object) -> list[Problem]:
    if isinstance(owner, str) and owner:
        return []
    return [Problem(f"owner must be a non-empty string, not {owner!r}", "it names you to others who wait")]
