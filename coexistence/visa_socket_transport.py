"""SOCKET resources as TCP connections of this package's own, the same with and without a vendor's VISA.

A VISA library adds nothing to a TCP stream, and PyVISA-py takes something away: it opens a port where nobody listens
without an error, reports a connection that the instrument closed as a timeout (at full load until then), and waits
without limit when it cannot send.
"""

from __future__ import annotations

import contextlib
import select
import socket
from time import perf_counter

from coexistence.errors import WireDisconnected
from coexistence.transport import Interrupted, StreamTransport
from coexistence.visa_resource import VisaResource

CONNECT_TIMEOUT_S = 2.0
"""How long the first connecting may take, in seconds."""

RECONNECT_TIMEOUT_S = 0.5
"""How long each further attempt may take, in seconds: short, so that an instrument that is back is soon found."""

_SLICE_S = 0.05
_BULK = 65_536

if hasattr(select, "poll"):
    from coexistence.descriptor_transport import SocketTransport

    class PollingSocketTransport(SocketTransport):
        """A TCP connection whose waits end at once when they are broken off."""

        def __init__(self, resource: VisaResource) -> None:
            super().__init__(resource.host, resource.port, connect_timeout=CONNECT_TIMEOUT_S)
            self.name = resource.name

        def open(self) -> None:
            super().open()
            self._connect_timeout = RECONNECT_TIMEOUT_S

        def reset(self) -> bool:
            """Connect anew: a late reply cannot reach the new connection."""
            _reopen(self)
            return True


class PortableSocketTransport(StreamTransport):
    """A TCP connection for systems without ``poll``: waits are made in slices of 50 ms."""

    lost = (OSError,)

    def __init__(self, resource: VisaResource) -> None:
        super().__init__(resource.name)
        self._address = (resource.host, resource.port)
        self._connect_timeout = CONNECT_TIMEOUT_S
        self._socket: socket.socket | None = None
        self._woken = False

    def open(self) -> None:
        self.close()
        self._buffer.clear()
        try:
            connection = socket.create_connection(self._address, timeout=self._connect_timeout)
        except OSError as error:
            host, port = self._address
            raise WireDisconnected(
                self.name,
                f"connecting failed ({error})",
                remedy=f"Check that {host} is on the network and listens on port {port}.",
            ) from error
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._socket = connection
        self._connect_timeout = RECONNECT_TIMEOUT_S

    def close(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()

    def _connection(self) -> socket.socket:
        connection = self._socket
        if connection is None:
            raise ConnectionAbortedError("the connection has been closed")
        return connection

    def send(self, data: bytes, deadline: float) -> int:
        connection = self._connection()
        sent = 0
        while sent < len(data) and (remaining := deadline - perf_counter()) > 0.0:
            if self._woken:
                self._woken = False
                raise Interrupted(sent)
            connection.settimeout(min(remaining, _SLICE_S))
            with contextlib.suppress(TimeoutError):
                sent += connection.send(data[sent:])
        return sent

    def _read_some(self, deadline: float) -> bytes:
        connection = self._connection()
        while True:
            if self._woken:
                self._woken = False
                raise Interrupted
            remaining = max(deadline - perf_counter(), 0.0) if deadline else 0.0
            connection.settimeout(min(remaining, _SLICE_S))
            try:
                chunk = connection.recv(_BULK)
            except (BlockingIOError, TimeoutError):
                if remaining:
                    continue
                return b""
            if not chunk:
                raise ConnectionResetError("the other side closed the connection")
            return chunk

    def interrupt(self) -> None:
        self._woken = True

    def reset(self) -> bool:
        """Connect anew: a late reply cannot reach the new connection."""
        _reopen(self)
        return True


def _reopen(transport: StreamTransport) -> None:
    try:
        transport.open()
    except WireDisconnected as error:
        raise ConnectionResetError(error.reason) from error


def make_socket_transport(resource: VisaResource) -> StreamTransport:
    """Return the transport for a SOCKET resource, not opened yet."""
    return PollingSocketTransport(resource) if hasattr(select, "poll") else PortableSocketTransport(resource)
