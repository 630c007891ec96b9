"""Messages over the sessions of a VISA library: HiSLIP, VXI-11, USBTMC, GPIB, and simulated resources.

How a wait can be broken off differs by what is underneath:

- HiSLIP of PyVISA-py waits on the connection's socket, in slices.
- GPIB, VXI-11 and vendors' libraries are asked for the first byte of a reply, in slices: a slice that ends without one
  has lost nothing, as one that ended in the middle of a transfer would. The rest is read with all the time there is.
- USB is read in one piece: breaking off a transfer may lose the reply in the instrument.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from math import ceil
from time import perf_counter
from typing import Any

from coexistence.errors import CoexistenceError, WireDisconnected
from coexistence.transport import Ending, Interrupted, StreamTransport, Transport
from coexistence.visa_library import VisaLibrary
from coexistence.visa_resource import VisaResource
from coexistence.visa_socket_transport import make_socket_transport

_SLICE_S = 0.05
"""How long a wait can go on after it was to be broken off, in seconds."""

_CLEAR_TIMEOUT_S = 1.0
_CLOSE_TIMEOUT_S = 1.0
_TIMEOUT_TOLERANCE_MS = 20
_FIRST_CHUNK = 20_480
_NEXT_CHUNK = 1_048_576

# VPP-4.3, table 3.3.1
_VI_ERROR_TMO = -1073807339
_VI_ERROR_NSUP_OPER = -1073807257
_VI_ERROR_NIMPL_OPER = -1073807231


def make_visa_transport(library: VisaLibrary, resource: VisaResource) -> Transport:
    """Return the transport for a resource, not opened yet."""
    if resource.resource_class == "SOCKET" and library.kind != "sim":
        return make_socket_transport(resource)
    if resource.interface == "TCPIP" and library.kind == "py":
        return (PyHislipTransport if resource.is_hislip else PyVxi11Transport)(library, resource)
    if resource.interface == "USB" and library.kind != "sim":
        return UninterruptedTransport(library, resource)
    return VisaTransport(library, resource)


class VisaTransport(StreamTransport):
    """A session of a VISA library; a reply ends where its message ends, and has its terminator taken off."""

    lost = (OSError,)

    def __init__(self, library: VisaLibrary, resource: VisaResource) -> None:
        super().__init__(resource.name)
        self._library = library
        self._resource = resource
        self._visalib: Any = None
        self._session: Any = None
        self._statuses: Any = None
        self._timeout_attribute: Any = None
        self._resources = contextlib.ExitStack()
        self._selector: selectors.BaseSelector | None = None
        self._socket: socket.socket | None = None
        self._timeout_ms = -1
        self._woken = False
        self._in_message = False
        self._spoiled = False

    # Opening and closing

    def open(self) -> None:
        self.close()
        try:
            self._visalib, self._session = self._library.open(self._resource)
            self._prepare()
        except CoexistenceError:
            raise
        except Exception as error:
            self.close()
            raise WireDisconnected(
                self.name,
                f"opening failed ({_text(error)})",
                remedy="Check name, cable, power and network, and that no other program has it.",
            ) from error

    def _prepare(self) -> None:
        from pyvisa.constants import VI_FALSE, ResourceAttribute, StatusCode

        self._forget()
        self._timeout_ms = -1
        self._statuses = StatusCode
        self._timeout_attribute = ResourceAttribute.timeout_value
        for attribute in (ResourceAttribute.termchar_enabled, ResourceAttribute.suppress_end_enabled):
            with contextlib.suppress(Exception):  # not every kind of session has both
                self._visalib.set_attribute(self._session, attribute, VI_FALSE)
        self._resources.enter_context(self._visalib.ignore_warning(self._session, StatusCode.success_max_count_read))

    def _watch(self, connection: socket.socket) -> None:
        """Use the connection's own socket to wait, and to see whether the instrument closed it."""
        self._socket = connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._selector = self._resources.enter_context(selectors.DefaultSelector())
        self._selector.register(connection, selectors.EVENT_READ)

    def close(self) -> None:
        self._socket = self._selector = None
        self._resources.close()
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(Exception):  # what is gone already is closed
                self._visalib.close(session)

    def _forget(self) -> None:
        self._buffer.clear()
        self._in_message = self._spoiled = False

    def _broken(self, error: BaseException) -> ConnectionError:
        return ConnectionResetError(_text(error))

    # Sending

    def _limit(self, seconds: float) -> None:
        """Set the session's timeout; one that is a little long is left alone, for setting it costs."""
        wanted = max(ceil(seconds * 1000.0), 1)
        if not wanted <= self._timeout_ms <= wanted + _TIMEOUT_TOLERANCE_MS:
            self._visalib.set_attribute(self._session, self._timeout_attribute, wanted)
            self._timeout_ms = wanted

    def send(self, data: bytes, deadline: float) -> int:
        try:
            self._limit(deadline - perf_counter())
            sent: int = self._visalib.write(self._session, data)[0]
            return sent
        except Exception as error:
            if _is_timeout(error):
                return 0
            raise self._broken(error) from error

    # Receiving

    def receive(self, ending: Ending, deadline: float) -> bytes | None:
        buffer = self._buffer
        while True:
            complete = bool(buffer) and not self._in_message
            if isinstance(ending, bytes):
                end = len(buffer) if complete else 0
            else:
                end = self._end(ending)
                if end <= 0 and complete and not isinstance(ending, int):
                    end = len(buffer)
            if end > 0:
                reply = bytes(buffer[:end])
                del buffer[:end]
                return reply.removesuffix(ending) if isinstance(ending, bytes) else reply
            chunk = self._read_some(deadline)
            if not chunk:
                return None
            buffer += chunk

    def _read_some(self, deadline: float) -> bytes:
        if self._spoiled:
            return b""
        try:
            if self._in_message:
                return self._read_chunk(_NEXT_CHUNK, deadline)
            beginning = self._await_reply(deadline)
            if beginning is None or (beginning and not self._in_message):
                return beginning or b""
            return beginning + self._read_chunk(_FIRST_CHUNK, deadline)
        except Interrupted:
            raise
        except Exception as error:
            raise self._broken(error) from error

    def _await_reply(self, deadline: float) -> bytes | None:
        """Return what of a reply was read when it has begun (perhaps nothing), or ``None`` at the deadline.

        Raises
        ------
        Interrupted
            :meth:`interrupt` was called.
        """
        while True:
            self._check_woken()
            remaining = deadline - perf_counter() if deadline else 0.0
            if remaining <= 0.0:
                return None
            self._limit(min(remaining, _SLICE_S))
            first = self._read_first()
            if first:
                return first

    def _read_first(self) -> bytes:
        """Read one byte, or nothing in a slice's time; note whether it ends its message."""
        return self._read_once(1)

    def _read_chunk(self, size: int, deadline: float) -> bytes:
        """Read on; a transfer that stalls spoils its message, for the library may have dropped a part of it."""
        self._limit(deadline - perf_counter())
        chunk = self._read_once(size)
        self._spoiled = not chunk and self._in_message
        return chunk

    def _read_once(self, size: int) -> bytes:
        try:
            data, status = self._visalib.read(self._session, size)
        except Exception as error:
            if _is_timeout(error):
                return b""
            raise
        self._in_message = status == self._statuses.success_max_count_read
        return bytes(data)

    def _check_woken(self) -> None:
        if self._woken:
            self._woken = False
            raise Interrupted

    def _readable(self, timeout: float) -> bool:
        return self._selector is not None and bool(self._selector.select(timeout))

    def _check_alive(self) -> None:
        if self._socket is not None and self._readable(0.0) and not self._socket.recv(1, socket.MSG_PEEK):
            raise ConnectionResetError("the instrument closed the connection")

    def take_lines(self, terminator: bytes) -> list[bytes]:
        """Drop what is left of a message; instruments with messages send nothing unasked."""
        self._check_woken()
        self._check_alive()
        if self._in_message:
            deadline = perf_counter() + _CLEAR_TIMEOUT_S
            while self._in_message and self._read_some(deadline):
                pass
        if self._spoiled:
            self.reset()
        buffer = self._buffer
        if not buffer:
            return []
        left = [line for line in bytes(buffer).split(terminator or None) if line.strip()]
        buffer.clear()
        return left

    def interrupt(self) -> None:
        self._woken = True

    def reset(self) -> bool:
        """Clear the device; False where the library cannot."""
        self._forget()
        try:
            self._limit(_CLEAR_TIMEOUT_S)
            self._visalib.clear(self._session)
        except Exception as error:
            if _is_unsupported(error):
                return False
            raise self._broken(error) from error
        return True


class UninterruptedTransport(VisaTransport):
    """Reads a reply in one piece, where breaking off a read may lose it (USB)."""

    def _await_reply(self, deadline: float) -> bytes | None:
        self._check_woken()
        return b"" if deadline > perf_counter() else None


class PyHislipTransport(VisaTransport):
    """HiSLIP by PyVISA-py: waits on the synchronous channel's socket."""

    def _prepare(self) -> None:
        super()._prepare()
        self._watch(self._visalib.sessions[self._session].interface._sync)

    def _await_reply(self, deadline: float) -> bytes | None:
        while True:
            self._check_woken()
            remaining = deadline - perf_counter() if deadline else 0.0
            if remaining <= 0.0:
                return None
            if self._readable(min(remaining, _SLICE_S)):
                return b""

    def reset(self) -> bool:
        """Clear the device and connect anew.

        After a clear messages are numbered from the start again, so that a reply that comes in spite of it would look
        like the next one's.
        """
        if not self._spoiled and not self._readable(0.0):
            with contextlib.suppress(OSError):  # a reply that comes meanwhile is in the way of the clear
                super().reset()
        try:
            self.open()
        except WireDisconnected as error:
            raise ConnectionResetError(error.reason) from error
        return True


class PyVxi11Transport(VisaTransport):
    """VXI-11 by PyVISA-py, which does not tell whether a message ends exactly where a read does."""

    def _prepare(self) -> None:
        super()._prepare()
        self._link = self._visalib.sessions[self._session]
        self._watch(self._link.interface.sock)

    def _read_first(self) -> bytes:
        from pyvisa_py.protocols.vxi11 import RX_END, ErrorCodes

        link = self._link
        error, reason, data = link.interface.device_read(link.link, 1, self._timeout_ms, link.lock_timeout, 0, 0)
        if error == ErrorCodes.io_timeout:
            return b""
        if error:
            raise ConnectionResetError(f"the instrument reports VXI-11 error {int(error)}")
        self._in_message = not reason & RX_END
        return bytes(data)

    def _broken(self, error: BaseException) -> ConnectionError:
        self._shut_down()
        return super()._broken(error)

    def close(self) -> None:
        """Close; PyVISA-py would ask an instrument that is gone to end the link, and wait 5 s for its reply."""
        if self._socket is None:
            super().close()
            return
        try:
            self._check_alive()
        except OSError:
            self._shut_down()
        closing = threading.Thread(target=super().close, name=f"close {self.name}", daemon=True)
        closing.start()
        closing.join(_CLOSE_TIMEOUT_S)
        self._socket = None

    def _shut_down(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def _text(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _status(error: BaseException) -> object:
    return getattr(error, "error_code", None)


def _is_timeout(error: BaseException) -> bool:
    return _status(error) == _VI_ERROR_TMO


def _is_unsupported(error: BaseException) -> bool:
    return isinstance(error, NotImplementedError) or _status(error) in (_VI_ERROR_NSUP_OPER, _VI_ERROR_NIMPL_OPER)
