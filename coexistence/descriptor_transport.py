"""Transports on a file descriptor: bulk reads, exact deadlines and wake-ups for serial lines and TCP sockets."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from abc import abstractmethod
from math import ceil
from time import perf_counter

from coexistence.errors import WireDisconnected
from coexistence.transport import Interrupted, StreamTransport

_BULK = 65_536


class DescriptorTransport(StreamTransport):
    """Reads and writes one non-blocking descriptor; a pipe beside it carries wake-ups."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._descriptor = -1
        self._wake_read = -1
        self._wake_write = -1
        self._wake_lock = threading.RLock()
        self._poller = select.poll()

    @abstractmethod
    def _open_descriptor(self) -> int:
        """Open the hardware and return its non-blocking descriptor, or raise as :meth:`Transport.open`."""

    @abstractmethod
    def _close_descriptor(self) -> None:
        """Close what :meth:`_open_descriptor` opened."""

    def open(self) -> None:
        self.close()
        try:
            self._descriptor = self._open_descriptor()
            self._wake_read, self._wake_write = os.pipe()
            os.set_blocking(self._wake_read, False)
            os.set_blocking(self._wake_write, False)
            self._buffer.clear()
            self._poller = select.poll()
            self._poller.register(self._descriptor, select.POLLIN)
            self._poller.register(self._wake_read, select.POLLIN)
        except BaseException:
            self.close()  # half opened, it would be in its own way for ever
            raise

    def close(self) -> None:
        self._descriptor = -1
        with self._wake_lock:
            pipe = self._wake_read, self._wake_write
            self._wake_read = self._wake_write = -1
            for each in pipe:
                if each >= 0:
                    os.close(each)
        self._close_descriptor()

    def forget(self) -> None:
        self._wake_lock = threading.RLock()
        for descriptor in (self._descriptor, self._wake_read, self._wake_write):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._descriptor = self._wake_read = self._wake_write = -1

    def send(self, data: bytes, deadline: float) -> int:
        descriptor = self._descriptor
        try:
            sent = os.write(descriptor, data)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return sent
        room = select.poll()
        room.register(descriptor, select.POLLOUT)
        room.register(self._wake_read, select.POLLIN)
        while sent < len(data):
            remaining = deadline - perf_counter()
            ready = room.poll(ceil(remaining * 1000.0)) if remaining > 0.0 else []
            if not ready:
                break
            if len(ready) > 1 or ready[0][0] != descriptor:
                self._drain_wake()
                raise Interrupted(sent)
            with contextlib.suppress(BlockingIOError):
                sent += os.write(descriptor, data[sent:])
        return sent

    def _read_some(self, deadline: float) -> bytes:
        while True:
            remaining = deadline - perf_counter() if deadline else 0.0
            ready = self._poller.poll(ceil(remaining * 1000.0) if remaining > 0.0 else 0)
            if not ready:
                if remaining > 0.0 and perf_counter() < deadline:
                    continue
                return b""
            if len(ready) > 1 or ready[0][0] != self._descriptor:
                self._drain_wake()
                raise Interrupted
            try:
                chunk = os.read(self._descriptor, _BULK)
            except BlockingIOError:
                continue
            if not chunk:
                raise ConnectionResetError("the other side closed the connection")
            return chunk

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, _BULK)

    def interrupt(self) -> None:
        with self._wake_lock:  # once closed, the descriptor's number may stand for another instrument
            if self._wake_write >= 0:
                with contextlib.suppress(OSError):
                    os.write(self._wake_write, b"\0")


class SocketTransport(DescriptorTransport):
    """A serial server or an instrument behind a plain TCP socket, ``socket://host:port``."""

    def __init__(self, host: str, port: int, *, connect_timeout: float = 2.0) -> None:
        super().__init__(f"socket://{host}:{port}")
        self._address = (host, port)
        self._connect_timeout = connect_timeout
        self._socket: socket.socket | None = None

    def _open_descriptor(self) -> int:
        host, port = self._address
        try:
            connection = socket.create_connection(self._address, timeout=self._connect_timeout)
        except OSError as error:
            raise WireDisconnected(
                self.name,
                f"connecting failed ({error})",
                remedy=f"Check that {host} is on the network and listens on port {port}.",
            ) from error
        self._socket = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setblocking(False)
        return connection.fileno()

    def forget(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.detach()
        super().forget()

    def _close_descriptor(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()
