"""pyvisa's message-based interface on a shared wire.

pyvisa's own resource classes do all of the work (encodings, terminations, values, blocks); this is the VISA library
underneath them, with one session, whose messages travel under leases.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, TypeVar

import pyvisa
from pyvisa.constants import (
    BufferOperation,
    ControlFlow,
    Lock,
    Parity,
    ResourceAttribute,
    StatusCode,
    StopBits,
    TriggerProtocol,
)
from pyvisa.errors import VisaIOError

from coexistence.adoption.inbox import Complete, ReadBuffer
from coexistence.adoption.lease import Lease
from coexistence.adoption.rules import LeaseRules
from coexistence.channel import Channel
from coexistence.errors import (
    AcquireTimeout,
    CoexistenceError,
    CommandTimeout,
    WireClosed,
    WireDisconnected,
    WireInUse,
)
from coexistence.guard import Guard
from coexistence.hold import LONGEST_TIMEOUT_S
from coexistence.line_settings import LineSettings
from coexistence.visa_transport import VisaTransport

T = TypeVar("T")

_SESSION: Final = 1
_INFINITE_MS: Final = 0xFFFFFFFF
_STOP_BITS = {1: StopBits.one, 1.5: StopBits.one_and_a_half, 2: StopBits.two}
_FLOW = {
    "none": ControlFlow.none,
    "xonxoff": ControlFlow.xon_xoff,
    "rtscts": ControlFlow.rts_cts,
    "dsrdtr": ControlFlow.dtr_dsr,
}
_DEFAULTS: Final = {
    ResourceAttribute.timeout_value: 2000,
    ResourceAttribute.termchar: 10,
    ResourceAttribute.termchar_enabled: False,
    ResourceAttribute.send_end_enabled: True,
    ResourceAttribute.suppress_end_enabled: False,
    ResourceAttribute.io_prot: 1,
    ResourceAttribute.asrl_end_in: 2,
    ResourceAttribute.asrl_end_out: 0,
}


class MessageBuffer(ReadBuffer):
    """A read buffer that knows where messages end."""

    def __init__(self) -> None:
        super().__init__()
        self._ends: list[int] = []

    def put(self, data: bytes, *, late: bool) -> None:
        """Append a message."""
        super().put(data, late=late)
        self._ends.append(len(self.data))

    def forget_late(self) -> None:
        """Drop what is unread if all of it came late."""
        super().forget_late()
        if not self.data:
            self._ends.clear()

    def clear(self) -> None:
        """Drop what is there."""
        with self.changed:
            super().clear()
            self._ends.clear()

    def _cut(self, end: int) -> bytes:
        self._ends = [each - end for each in self._ends if each > end]
        return super()._cut(end)

    def message_end(self, _: bytearray) -> int:
        """Return where the first message ends; 0 without one."""
        return self._ends[0] if self._ends else 0


class SharedLibrary:
    """The part of pyvisa's library interface that one message-based resource needs.

    Errors are ``VisaIOError`` with VISA's codes and the cause as ``__cause__``.

    Parameters
    ----------
    library
        The library of the driver's own resource manager, for what concerns no instrument.
    channel
        The resource's channel.
    owner
        The driver's name to others.
    rules
        When its leases end.
    resource
        The resource's name.
    """

    def __init__(self, library: Any, channel: Channel, owner: str, rules: LeaseRules, resource: str) -> None:
        self._library = library
        self._channel = channel
        self._owner = owner
        self._messages = isinstance(channel._transport, VisaTransport)
        self._buffer: ReadBuffer = MessageBuffer() if self._messages else ReadBuffer()
        self.lease = Lease(channel, owner, rules, self._buffer, messages=self._messages)
        self._locks: list[Guard] = []
        info = pyvisa.rname.ResourceName.from_string(resource)
        self._attributes: dict[ResourceAttribute, Any] = {
            **_DEFAULTS,
            ResourceAttribute.resource_name: resource,
            ResourceAttribute.resource_class: info.resource_class,
            ResourceAttribute.interface_type: info.interface_type_const,
            ResourceAttribute.resource_manufacturer_name: "shared",
            **_line_attributes(channel),
        }
        self._line = frozenset(_line_attributes(channel))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    # Messages

    def write(self, _session: int, message: bytes) -> tuple[int, StatusCode]:
        """Send a message when it is this driver's turn."""
        with _visa_errors():
            limit = self._seconds()
            return self.lease.write(message, limit), StatusCode.success

    def read(self, _session: int, count: int) -> tuple[bytes, StatusCode]:
        """Return a message or the next part of it, as VISA does: to its end, its termination character, or ``count``.

        On a stream (sockets, serial lines) without a termination character, the channel's terminator ends a message.
        """
        ended = False

        def complete(data: bytearray) -> int:
            nonlocal ended
            end = self._message_end(data)
            ended = 0 < end <= count
            return min(end, count) if end else count if len(data) >= count else 0

        with _visa_errors():
            data = self._buffer.take_ready(complete) or self._await(complete)
        if not ended:
            return data, StatusCode.success_max_count_read
        by_character = self._attributes[ResourceAttribute.termchar_enabled]
        return data, StatusCode.success_termination_character_read if by_character else StatusCode.success

    def _await(self, complete: Complete) -> bytes:
        lease = self.lease
        fetch = lease.fetch if lease.present_hold() is not None else None
        if fetch is None:
            lease.listen()
        try:
            data = self._buffer.take(complete, self._seconds(), most=0, exact=True, fetch=fetch)
        finally:
            lease.leave_off()
        return data or _fail(StatusCode.error_timeout)

    def _message_end(self, data: bytearray) -> int:
        attributes = self._attributes
        ends = []
        if isinstance(self._buffer, MessageBuffer):
            ends.append(self._buffer.message_end(data))
        if attributes[ResourceAttribute.termchar_enabled]:
            ends.append(data.find(attributes[ResourceAttribute.termchar]) + 1)
        elif not self._messages and self._channel.terminator:
            found = data.find(self._channel.terminator)
            ends.append(found + len(self._channel.terminator) if found >= 0 else 0)
        return min((end for end in ends if end), default=0)

    def _seconds(self) -> float | None:
        limit: float = self._attributes[ResourceAttribute.timeout_value] / 1000.0
        return None if limit > LONGEST_TIMEOUT_S else limit

    # Everything else about a session

    def get_attribute(self, _session: int, attribute: ResourceAttribute) -> tuple[Any, StatusCode]:
        """Return an attribute; those that only a real session has are not supported."""
        if attribute == ResourceAttribute.asrl_avalaible_number:
            self.lease.collect()
            return self._buffer.available(), StatusCode.success
        try:
            return self._attributes[ResourceAttribute(attribute)], StatusCode.success
        except KeyError:
            _fail(StatusCode.error_nonsupported_attribute)

    def set_attribute(self, _session: int, attribute: ResourceAttribute, state: Any) -> StatusCode:
        """Set an attribute; the line's settings are the wire's, and can only be confirmed."""
        attribute = ResourceAttribute(attribute)
        if attribute not in self._attributes:
            _fail(StatusCode.error_nonsupported_attribute)
        if attribute in self._line and state != self._attributes[attribute]:
            _fail(StatusCode.error_nonsupported_attribute_state)
        if attribute == ResourceAttribute.timeout_value and (state is None or math.isinf(state)):
            state = _INFINITE_MS
        self._attributes[attribute] = state
        return StatusCode.success

    def clear(self, _session: int) -> StatusCode:
        """Clear the instrument, in this driver's turn, and forget what it said."""
        with _visa_errors():
            self.lease.hand_over()
            self._channel.clear(owner=self._owner, timeout=self._seconds())
        self._buffer.clear()
        return StatusCode.success

    def flush(self, _session: int, mask: BufferOperation) -> StatusCode:
        """Drop what was not read, if that is asked for; there is nothing else to flush."""
        if mask & (BufferOperation.discard_read_buffer | BufferOperation.discard_receive_buffer):
            self._buffer.clear()
        return StatusCode.success

    def lock(self, _session: int, kind: Lock, timeout: int, key: str | None) -> tuple[str, StatusCode]:
        """Keep the wire on this thread until :meth:`unlock`."""
        with _visa_errors(timeout_code=StatusCode.error_resource_locked):
            guard = self.lease.hold(min(timeout / 1000.0, LONGEST_TIMEOUT_S))
            guard.__enter__()
        self._locks.append(guard)
        return key or ("" if kind == Lock.exclusive else self._owner), StatusCode.success

    def unlock(self, _session: int) -> StatusCode:
        """Let others have the wire again."""
        if not self._locks:
            _fail(StatusCode.error_session_not_locked)
        self._locks.pop().release()
        return StatusCode.success

    def read_stb(self, _session: int) -> tuple[int, StatusCode]:
        """Return the status byte."""
        value: tuple[int, StatusCode] = self._on_session(lambda library, session: library.read_stb(session))
        return value

    def assert_trigger(self, _session: int, protocol: TriggerProtocol) -> StatusCode:
        """Trigger the instrument."""
        status: StatusCode = self._on_session(lambda library, session: library.assert_trigger(session, protocol))
        return status

    def _on_session(self, function: Callable[[Any, Any], T]) -> T:
        with _visa_errors():
            return self.lease.on_wire(lambda guard: guard.on_session(function))

    def ignore_warning(self, _session: int, *_: StatusCode) -> Any:
        """Have no warnings to ignore."""
        return _nothing_to_ignore()

    def get_last_status_in_session(self, _session: int) -> StatusCode:
        """Return success: what failed has raised."""
        return StatusCode.success

    def disable_event(self, *_: Any) -> StatusCode:
        """Have no events."""
        return StatusCode.success

    discard_events = disable_event
    uninstall_all_visa_handlers = disable_event

    def enable_event(self, *_: Any) -> NoReturn:
        """Refuse: events cannot be shared."""
        _fail(StatusCode.error_nonsupported_operation)

    install_visa_handler = enable_event
    uninstall_visa_handler = enable_event
    wait_on_event = enable_event
    gpib_control_ren = enable_event

    def close(self, _session: int) -> StatusCode:
        """Leave the wire to others."""
        while self._locks:
            self._locks.pop().release()
        self.lease.close()
        return StatusCode.success


class SharedResource:
    """What a shared resource has beside pyvisa's interface."""

    visalib: SharedLibrary

    def hold(self, timeout: float = 2.0, *, max_hold: float | None = None) -> Guard:
        """Keep the wire for a block of code, as ``with resource.hold():``; see :meth:`SharedSerial.hold`."""
        return self.visalib.lease.hold(timeout, max_hold)


_classes: dict[type, type] = {}


def open_shared(
    manager: Any, resource_name: str, python_class: type | None, channel: Channel, owner: str, rules: LeaseRules
) -> Any:
    """Return an open pyvisa resource of the class it always has, on a channel.

    Raises
    ------
    ValueError
        pyvisa has no message-based class for it.
    """
    if python_class is None:
        info = manager.resource_info(resource_name, extended=True)
        python_class = manager._resource_classes[(info.interface_type, info.resource_class)]
    if not issubclass(python_class, pyvisa.resources.MessageBasedResource):
        raise ValueError(f"{python_class.__name__} has no messages, so that {resource_name} cannot be shared with it")
    shared = _classes.get(python_class)
    if shared is None:
        shared = type(python_class.__name__, (SharedResource, python_class), {"__module__": python_class.__module__})
        _classes[python_class] = shared
    resource = shared(manager, resource_name)
    resource.visalib = SharedLibrary(manager.visalib, channel, owner, rules, resource._resource_name)
    resource.session = _SESSION
    return resource


def _line_attributes(channel: Channel) -> dict[ResourceAttribute, Any]:
    settings = getattr(channel, "settings", None)
    if not isinstance(settings, LineSettings):
        return {}
    return {
        ResourceAttribute.asrl_baud_rate: settings.baud_rate,
        ResourceAttribute.asrl_data_bits: settings.data_bits,
        ResourceAttribute.asrl_stop_bits: _STOP_BITS[settings.stop_bits],
        ResourceAttribute.asrl_parity: Parity[settings.parity],
        ResourceAttribute.asrl_flow_control: _FLOW[settings.flow_control],
    }


@contextmanager
def _nothing_to_ignore() -> Iterator[None]:
    yield


@contextmanager
def _visa_errors(timeout_code: StatusCode = StatusCode.error_timeout) -> Iterator[None]:
    try:
        yield
    except (AcquireTimeout, CommandTimeout) as error:
        _fail(timeout_code, error)
    except (WireDisconnected, WireClosed) as error:
        _fail(StatusCode.error_connection_lost, error)
    except WireInUse as error:
        _fail(StatusCode.error_resource_busy, error)
    except io.UnsupportedOperation as error:
        _fail(StatusCode.error_nonsupported_operation, error)
    except CoexistenceError as error:
        _fail(StatusCode.error_io, error)


def _fail(code: StatusCode, cause: BaseException | None = None) -> NoReturn:
    error = VisaIOError(code)
    if cause is not None:
        error.args = (f"{error.args[0]} ({cause})",)
    raise error from cause
