"""An instrument behind VXI-11 (VXI-11 rev. 1.0 over ONC RPC) for tests, without port mapper.

``link`` counts the links made, ``clears`` the device clears; replies can be slow, and the network can go dead.
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable

_IO_TIMEOUT = 15
_REQUEST_COUNT, _END = 1, 4


class Vxi11Instrument:
    def __init__(self, answer: Callable[[bytes], bytes | None], *, port: int = 0) -> None:
        self.answer = answer
        self.delay = 0.0
        self.links = 0
        self.clears = 0
        self.read_sizes: list[int] = []
        self._output = b""
        self._ready_at = 0.0
        self._server = socket.create_server(("127.0.0.1", port))
        self.port = self._server.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def resource(self) -> str:
        return f"TCPIP0::127.0.0.1,{self.port}::inst0::INSTR"

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5.0)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, struct.error):
            while True:
                header = connection.recv(4, socket.MSG_WAITALL)
                size = struct.unpack("!I", header)[0] & 0x7FFFFFFF
                call = connection.recv(size, socket.MSG_WAITALL)
                number, _, _, _, _, procedure = struct.unpack_from("!6I", call)
                arguments = call[24 + 16 :]  # two empty authentications
                results = getattr(self, f"_procedure_{procedure}")(arguments)
                reply = struct.pack("!6I", number, 1, 0, 0, 0, 0) + results
                connection.sendall(struct.pack("!I", 0x80000000 | len(reply)) + reply)

    def _procedure_10(self, _arguments: bytes) -> bytes:  # create_link
        self.links += 1
        return struct.pack("!iiII", 0, self.links, 0, 4096)

    def _procedure_11(self, arguments: bytes) -> bytes:  # device_write
        size = struct.unpack_from("!I", arguments, 16)[0]
        command = arguments[20 : 20 + size]
        self._output = self.answer(command.rstrip(b"\n")) or b""
        self._ready_at = time.monotonic() + self.delay
        return struct.pack("!iI", 0, size)

    def _procedure_12(self, arguments: bytes) -> bytes:  # device_read
        _, wanted, timeout_ms = struct.unpack_from("!iII", arguments)
        self.read_sizes.append(wanted)
        deadline = time.monotonic() + timeout_ms / 1000.0
        while not self._output or time.monotonic() < self._ready_at:
            if time.monotonic() >= deadline or self._stopping.wait(0.002):
                return struct.pack("!iiI", _IO_TIMEOUT, 0, 0)
        piece, self._output = self._output[:wanted], self._output[wanted:]
        reason = (_REQUEST_COUNT if len(piece) == wanted else 0) | (0 if self._output else _END)
        return struct.pack("!iiI", 0, reason, len(piece)) + piece + b"\0" * (-len(piece) % 4)

    def _procedure_15(self, _arguments: bytes) -> bytes:  # device_clear
        self.clears += 1
        self._output = b""
        return struct.pack("!i", 0)

    def _procedure_23(self, _arguments: bytes) -> bytes:  # destroy_link
        return struct.pack("!i", 0)
