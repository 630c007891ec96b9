"""An instrument behind HiSLIP (IVI-6.1), in synchronized mode: messages with ends, a status channel, locks."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Any
from weakref import WeakSet

from .instrument import Instrument, World
from .loop import Loop, Timer
from .tcp_wire import Connection, TcpWire

_HEADER = struct.Struct("!2sBBIQ")
_PROTOCOL_VERSION = 0x0100
_VENDOR = 0x5454
_MAX_MESSAGE = 1 << 20


class Message(IntEnum):
    """Message types of IVI-6.1, table 4."""

    INITIALIZE = 0
    INITIALIZE_RESPONSE = 1
    FATAL_ERROR = 2
    ERROR = 3
    ASYNC_LOCK = 4
    ASYNC_LOCK_RESPONSE = 5
    DATA = 6
    DATA_END = 7
    DEVICE_CLEAR_COMPLETE = 8
    DEVICE_CLEAR_ACKNOWLEDGE = 9
    ASYNC_REMOTE_LOCAL_CONTROL = 10
    ASYNC_REMOTE_LOCAL_RESPONSE = 11
    TRIGGER = 12
    ASYNC_MAX_MESSAGE_SIZE = 15
    ASYNC_MAX_MESSAGE_SIZE_RESPONSE = 16
    ASYNC_INITIALIZE = 17
    ASYNC_INITIALIZE_RESPONSE = 18
    ASYNC_DEVICE_CLEAR = 19
    ASYNC_STATUS_QUERY = 21
    ASYNC_STATUS_RESPONSE = 22
    ASYNC_DEVICE_CLEAR_ACKNOWLEDGE = 23
    ASYNC_LOCK_INFO = 24
    ASYNC_LOCK_INFO_RESPONSE = 25


_POORLY_FORMED, _WITHOUT_BOTH_CHANNELS, _INVALID_INITIALIZATION = 1, 2, 3
_UNRECOGNIZED_TYPE, _MESSAGE_TOO_LARGE = 1, 4
_LOCK_FAILED, _LOCK_DONE, _LOCK_ERROR = 0, 1, 3


class Session:
    """One client's pair of channels."""

    def __init__(self, number: int, synchronous: Connection) -> None:
        self.number = number
        self.synchronous = synchronous
        self.asynchronous: Connection | None = None
        self.input = bytearray()
        self.max_message = _MAX_MESSAGE
        self.unread = False
        self.waiting_lock: Timer | None = None
        self._asked: WeakSet[Answer] = WeakSet()

    def ask(self, message_id: int) -> Answer:
        """Make the way back for the answer to one message."""
        answer = Answer(self, message_id)
        self._asked.add(answer)
        return answer

    def unanswered(self) -> list[Answer]:
        """List what an instrument may still answer."""
        return list(self._asked)


class Answer:
    """The way back for the answer to one message.

    The answer carries the number of the message that asked for it. A client that has given up on the question in
    the meantime knows it by that number, and drops it.
    """

    def __init__(self, session: Session, message_id: int) -> None:
        self._session = session
        self._message_id = message_id

    def send(self, data: bytes) -> None:
        """Send the answer, in pieces if it is longer than the client takes."""
        session = self._session
        session.unread = True
        size = session.max_message - _HEADER.size
        while len(data) > size:
            post(session.synchronous, Message.DATA, 0, self._message_id, data[:size])
            data = data[size:]
        post(session.synchronous, Message.DATA_END, 0, self._message_id, data)


def post(connection: Connection, kind: Message, control: int = 0, parameter: int = 0, payload: bytes = b"") -> None:
    """Send one HiSLIP message."""
    connection.send(_HEADER.pack(b"HS", kind, control, parameter, len(payload)) + payload)


class HislipWire(TcpWire):
    """HiSLIP server for the wire's instruments; a session is one channel to them.

    Shared locks are refused, exclusive ones are kept.
    """

    def __init__(
        self, loop: Loop, world: World, name: str, instruments: Sequence[Instrument], *, tcp_port: int = 0
    ) -> None:
        super().__init__(loop, world, name, instruments, tcp_port=tcp_port)
        self._buffers: dict[Connection, bytearray] = {}
        self._sessions: dict[Connection, Session] = {}
        self._numbers = 0
        self._lock: Session | None = None
        self._lock_queue: list[Session] = []
        self._held_back: list[tuple[Session, int, bytes]] = []

    def truth(self) -> dict[str, Any]:
        """Count sessions and bytes."""
        return {**super().truth(), "sessions": len(set(self._sessions.values()))}

    def received(self, connection: Connection, data: bytes) -> None:
        """Cut the stream of one channel into messages."""
        buffer = self._buffers.setdefault(connection, bytearray())
        buffer += data
        while len(buffer) >= _HEADER.size:
            prologue, kind, control, parameter, length = _HEADER.unpack_from(buffer)
            if prologue != b"HS" or length > _MAX_MESSAGE:
                self._fatal(connection, _POORLY_FORMED, b"Poorly formed message header")
                return
            if len(buffer) < _HEADER.size + length:
                return
            payload = bytes(buffer[_HEADER.size : _HEADER.size + length])
            del buffer[: _HEADER.size + length]
            self._message(connection, kind, control, parameter, payload)
            if connection not in self._buffers:
                return

    def lost(self, connection: Connection) -> None:
        """End the session of a channel that has gone."""
        self._buffers.pop(connection, None)
        session = self._sessions.pop(connection, None)
        if session is None:
            return
        self._release_lock(session)
        self._abandon(session)
        for other in (session.synchronous, session.asynchronous):
            if other is not None and other is not connection and other in self._sessions:
                other.close()

    def _message(self, connection: Connection, kind: int, control: int, parameter: int, payload: bytes) -> None:
        session = self._sessions.get(connection)
        if session is None:
            self._open(connection, kind, parameter)
            return
        if session.asynchronous is None:
            self._fatal(connection, _WITHOUT_BOTH_CHANNELS, b"Attempt to use connection without both channels")
            return
        if kind == Message.FATAL_ERROR:
            connection.close()
        elif kind == Message.ERROR:
            return
        elif connection is session.synchronous:
            self._synchronous(session, kind, control, parameter, payload)
        else:
            self._asynchronous(session, kind, control, parameter, payload)

    def _open(self, connection: Connection, kind: int, parameter: int) -> None:
        if kind == Message.INITIALIZE:
            self._numbers = self._numbers % 0xFFFF + 1
            self._sessions[connection] = Session(self._numbers, connection)
            post(connection, Message.INITIALIZE_RESPONSE, 0, _PROTOCOL_VERSION << 16 | self._numbers)
            return
        if kind == Message.ASYNC_INITIALIZE:
            for session in self._sessions.values():
                if session.number == parameter and session.asynchronous is None:
                    session.asynchronous = connection
                    self._sessions[connection] = session
                    post(connection, Message.ASYNC_INITIALIZE_RESPONSE, 0, _VENDOR)
                    return
        self._fatal(connection, _INVALID_INITIALIZATION, b"Invalid initialization sequence")

    def _synchronous(self, session: Session, kind: int, control: int, parameter: int, payload: bytes) -> None:
        if kind in (Message.DATA, Message.DATA_END, Message.TRIGGER) and control & 1:
            session.unread = False
        if kind == Message.DATA:
            if len(session.input) + len(payload) > _MAX_MESSAGE:
                session.input.clear()
                post(session.synchronous, Message.ERROR, _MESSAGE_TOO_LARGE, 0, b"Message too large")
                return
            session.input += payload
        elif kind == Message.DATA_END:
            message = bytes(session.input) + payload
            session.input.clear()
            # The end of the message ends the command, with or without a line feed.
            self._deliver(session, parameter, message if message.endswith(b"\n") else message + b"\n")
        elif kind == Message.TRIGGER:
            self._deliver(session, parameter, b"*TRG\n")
        elif kind == Message.DEVICE_CLEAR_COMPLETE:
            session.input.clear()
            session.unread = False
            post(session.synchronous, Message.DEVICE_CLEAR_ACKNOWLEDGE, control & 0)
        else:
            post(session.synchronous, Message.ERROR, _UNRECOGNIZED_TYPE, 0, b"Unrecognized message type")

    def _asynchronous(self, session: Session, kind: int, control: int, parameter: int, payload: bytes) -> None:
        assert session.asynchronous is not None
        channel = session.asynchronous
        if kind == Message.ASYNC_MAX_MESSAGE_SIZE and len(payload) == 8:
            session.max_message = max(1024, int.from_bytes(payload, "big"))
            post(channel, Message.ASYNC_MAX_MESSAGE_SIZE_RESPONSE, payload=_MAX_MESSAGE.to_bytes(8, "big"))
        elif kind == Message.ASYNC_STATUS_QUERY:
            if control & 1:
                session.unread = False
            status = self.instruments[0].status_byte()
            post(channel, Message.ASYNC_STATUS_RESPONSE, status | (0x10 if session.unread else 0))
        elif kind == Message.ASYNC_DEVICE_CLEAR:
            self._abandon(session)
            post(channel, Message.ASYNC_DEVICE_CLEAR_ACKNOWLEDGE)
        elif kind == Message.ASYNC_LOCK and control == 1:
            self._request_lock(session, parameter / 1000, shared=bool(payload))
        elif kind == Message.ASYNC_LOCK and control == 0:
            held = self._lock is session
            self._release_lock(session)
            post(channel, Message.ASYNC_LOCK_RESPONSE, _LOCK_DONE if held else _LOCK_ERROR)
        elif kind == Message.ASYNC_LOCK_INFO:
            post(channel, Message.ASYNC_LOCK_INFO_RESPONSE, self._lock is not None, self._lock is not None)
        elif kind == Message.ASYNC_REMOTE_LOCAL_CONTROL:
            post(channel, Message.ASYNC_REMOTE_LOCAL_RESPONSE)
        else:
            post(channel, Message.ERROR, _UNRECOGNIZED_TYPE, 0, b"Unrecognized message type")

    def _deliver(self, session: Session, message_id: int, message: bytes) -> None:
        if self._lock not in (None, session):
            # Whoever holds the lock is alone with the instrument.
            self._held_back.append((session, message_id, message))
            return
        self.hear(session.ask(message_id), message)

    def _abandon(self, session: Session) -> None:
        """Drop everything a session has asked for."""
        self._held_back = [waiting for waiting in self._held_back if waiting[0] is not session]
        for answer in session.unanswered():
            self.forget(answer)

    def _request_lock(self, session: Session, timeout_s: float, *, shared: bool) -> None:
        assert session.asynchronous is not None
        if shared or self._lock is session:
            post(session.asynchronous, Message.ASYNC_LOCK_RESPONSE, _LOCK_ERROR)
        elif self._lock is None:
            self._lock = session
            post(session.asynchronous, Message.ASYNC_LOCK_RESPONSE, _LOCK_DONE)
        else:
            channel = session.asynchronous

            def give_up() -> None:
                self._lock_queue.remove(session)
                session.waiting_lock = None
                post(channel, Message.ASYNC_LOCK_RESPONSE, _LOCK_FAILED)

            self._lock_queue.append(session)
            session.waiting_lock = self.loop.call_later(timeout_s / self.loop.time_scale, give_up)

    def _release_lock(self, session: Session) -> None:
        if session.waiting_lock is not None:
            session.waiting_lock.cancel()
            session.waiting_lock = None
            self._lock_queue.remove(session)
        if self._lock is not session:
            return
        self._lock = None
        if self._lock_queue:
            successor = self._lock_queue.pop(0)
            if successor.waiting_lock is not None:
                successor.waiting_lock.cancel()
                successor.waiting_lock = None
            self._request_lock(successor, 0.0, shared=False)
        waiting, self._held_back = self._held_back, []
        for each, message_id, message in waiting:
            self._deliver(each, message_id, message)

    def _fatal(self, connection: Connection, code: int, text: bytes) -> None:
        post(connection, Message.FATAL_ERROR, code, 0, text)
        connection.close()
