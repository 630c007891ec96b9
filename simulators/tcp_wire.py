"""Instruments on a TCP socket: every client talks to the same instruments and gets its own answers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Any

from .errors import SpecError
from .instrument import Instrument, World
from .loop import Loop
from .wire import Wire

_OUTPUT_LIMIT = 1 << 24


class Connection:
    """One client's connection: bytes in to `received`, bytes out without ever blocking the loop."""

    def __init__(
        self,
        loop: Loop,
        client: socket.socket,
        received: Callable[[Connection, bytes], None],
        lost: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._socket = client
        self._received = received
        self._lost = lost
        self._output = bytearray()
        self.bytes_out = 0
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch()

    def send(self, data: bytes) -> None:
        """Let bytes leave as fast as the client takes them."""
        if self._socket.fileno() < 0:
            return
        self._output += data
        if len(self._output) > _OUTPUT_LIMIT:
            # Somebody asks and never reads.
            self.close()
            return
        self._flush()

    def close(self) -> None:
        """Hang up."""
        if self._socket.fileno() < 0:
            return
        self._loop.watch(self._socket.fileno())
        self._socket.close()
        self._lost(self)

    def _watch(self) -> None:
        write = self._flush if self._output else None
        self._loop.watch(self._socket.fileno(), read=self._readable, write=write)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._received(self, data)
        else:
            self.close()

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._output)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._output[:sent]
        self.bytes_out += sent
        self._watch()


class TcpWire(Wire):
    """A listening socket on the loopback interface.

    Args:
        loop, world, name, instruments: as for `Wire`.
        tcp_port: to listen on; 0 lets the system choose. Unplugged and plugged in again it stays the same.
    """

    def __init__(
        self, loop: Loop, world: World, name: str, instruments: Sequence[Instrument], *, tcp_port: int = 0
    ) -> None:
        super().__init__(loop, world, name, instruments)
        self._tcp_port = tcp_port
        self._listener: socket.socket | None = None
        self._connections: list[Connection] = []
        self._bytes_out_before = 0

    @property
    def port(self) -> str:
        """Host and port a client connects to."""
        return f"127.0.0.1:{self._tcp_port}"

    def plug(self) -> None:
        """Listen for clients."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", self._tcp_port))
        except OSError as error:
            listener.close()
            raise SpecError(f"wire {self.name!r} cannot listen on port {self._tcp_port}: {error}") from error
        listener.listen()
        listener.setblocking(False)
        self._tcp_port = listener.getsockname()[1]
        self._listener = listener
        self.loop.watch(listener.fileno(), read=self._accept)
        self.plugged = True

    def unplug(self) -> None:
        """Hang up on all clients and refuse new ones."""
        self.plugged = False
        if self._listener is not None:
            self.loop.watch(self._listener.fileno())
            self._listener.close()
            self._listener = None
        for connection in list(self._connections):
            connection.close()

    def truth(self) -> dict[str, Any]:
        """Count clients and bytes."""
        self.bytes_out = self._bytes_out_before + sum(each.bytes_out for each in self._connections)
        return {**super().truth(), "clients": len(self._connections)}

    def received(self, connection: Connection, data: bytes) -> None:
        """Pass on what a client has sent."""
        self.hear(connection, data)

    def lost(self, connection: Connection) -> None:
        """Forget a client that has gone."""
        self.forget(connection)

    def _accept(self) -> None:
        if self._listener is None:
            return
        with contextlib.suppress(BlockingIOError):
            client, _ = self._listener.accept()
            self._connections.append(Connection(self.loop, client, self.received, self._drop))

    def _drop(self, connection: Connection) -> None:
        self._connections.remove(connection)
        self._bytes_out_before += connection.bytes_out
        self.lost(connection)
