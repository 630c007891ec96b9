"""pyserial's interface on a shared wire."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, TypeVar

import serial

from coexistence.adoption.inbox import ReadBuffer
from coexistence.adoption.lease import Lease
from coexistence.adoption.rules import LeaseRules, rules_of
from coexistence.channel import Channel
from coexistence.errors import (
    AcquireTimeout,
    CoexistenceError,
    CommandTimeout,
    ConfigError,
    Problem,
    WireDisconnected,
)
from coexistence.guard import Guard
from coexistence.hold import LONGEST_TIMEOUT_S
from coexistence.line_settings import LineSettings

T = TypeVar("T")

_LINE = ("baudrate", "bytesize", "stopbits", "parity", "xonxoff", "rtscts", "dsrdtr")
_AS_MADE = {
    "baudrate": 9600,
    "bytesize": 8,
    "stopbits": 1,
    "parity": "N",
    "xonxoff": False,
    "rtscts": False,
    "dsrdtr": False,
}
_FLOW_CONTROLS = {"xonxoff": "xonxoff", "rtscts": "rtscts", "dsrdtr": "dsrdtr"}
_PARITIES = {"N": "none", "E": "even", "O": "odd", "M": "mark", "S": "space"}

Provider = Callable[["SharedSerial"], Channel]
"""Finds or opens the channel that a façade's ``port`` names."""


class SharedSerial(serial.Serial):  # type: ignore[misc]
    """A ``serial.Serial`` whose bytes travel on a wire that others use too.

    Everything a driver does with a port of its own works: settings, time limits (``None`` waits for ever, 0 not at
    all), buffers, cancelling, attributes of the driver's own. What fails raises ``serial.SerialException`` with the
    cause as ``__cause__``. A write waits for the wire and opens a lease on it, see :class:`LeaseRules`; on a thread
    (or task) that holds the wire already, writes and reads take part in that hold.

    The line settings belong to the wire: those left at pyserial's defaults follow it, others must agree with it. RTS
    and DTR are not touched by opening.

    Parameters
    ----------
    port
        A channel such as :class:`SharedSerialPort`, or as in pyserial: then it must be the path of a port that is
        open in this process, or ``shared://`` and such a path.
    *args, **settings
        As for ``serial.Serial``.
    owner
        The driver's name to others.
    rules
        When its leases end.

    Raises
    ------
    ConfigError
        A setting contradicts the wire's. It is a ``ValueError``, as pyserial raises for impossible settings.
    serial.SerialException
        There is no such port.
    """

    is_open: bool

    def __init__(
        self,
        port: Channel | str | None = None,
        *args: Any,
        owner: str = "adopted",
        rules: LeaseRules | None = None,
        **settings: Any,
    ) -> None:
        if isinstance(port, Channel):
            channel = port
            self.share(owner, rules, lambda _: channel)
            super().__init__(None, *args, **settings)
            self.port = channel.name
            self.open()
        else:
            self.share(owner, rules, _open_port)
            super().__init__(port, *args, **settings)

    def share(self, owner: str, rules: LeaseRules | None, provider: Provider) -> None:
        """Say on which channel, and as whom, this port object works from its next opening on."""
        self._owner = owner
        self._rules = rules_of(rules, {})
        self._provider = provider
        self._lease: Lease | None = None

    @property
    def owner(self) -> str:
        """The driver's name to others."""
        return self._owner

    # Opening and closing

    def open(self) -> None:
        """Take part in the wire that ``port`` names."""
        if self._port is None:
            raise serial.SerialException("Port must be configured before it can be used.")
        if self.is_open:
            raise serial.SerialException("Port is already open.")
        try:
            channel = self._provider(self)
        except ConfigError:
            raise
        except CoexistenceError as error:
            code = errno.ENOENT if isinstance(error, WireDisconnected) else errno.EBUSY
            raise serial.SerialException(code, f"could not open port {self._port}: {error}") from error
        self._follow(channel)
        self.fd = None
        self._buffer = ReadBuffer()
        self._lease = Lease(channel, self._owner, self._rules, self._buffer)
        self.is_open = True

    def close(self) -> None:
        """Leave the wire, which stays open for others; a lease that is open ends by its rules."""
        lease, self._lease = getattr(self, "_lease", None), None
        self.is_open = False
        if lease is not None:
            lease.close()

    def _open_lease(self) -> Lease:
        lease = self._lease
        if lease is None:
            raise serial.PortNotOpenError
        return lease

    def hold(self, timeout: float = 2.0, *, max_hold: float | None = None) -> Guard:
        """Keep the wire for a block of code, as ``with port.hold():``.

        Parameters
        ----------
        timeout
            Seconds to wait for it.
        max_hold
            Seconds after which others who wait may end the hold. Default: the longest lease.

        Raises
        ------
        AcquireTimeout, LockOrderViolation, DeadlockDetected, WouldDeadlock, LoopBlocked, WireClosed
            On entering the block.
        """
        return self._open_lease().hold(timeout, max_hold)

    # The line's settings

    def line_settings(self) -> LineSettings:
        """Return this port object's own settings, for opening a wire with them."""
        flow = [name for attribute, name in _FLOW_CONTROLS.items() if getattr(self, attribute)]
        if flow == ["rtscts", "dsrdtr"]:
            flow = ["rtscts"]  # dsrdtr follows rtscts unless it is set by itself
        if len(flow) > 1:
            raise ConfigError(Problem(f"{self._port}: {' and '.join(flow)} at once are not supported on a shared wire"))
        return LineSettings(
            baud_rate=self._baudrate,
            data_bits=self._bytesize,
            stop_bits=self._stopbits,
            parity=_PARITIES[self._parity],
            flow_control=flow[0] if flow else "none",
        )

    def _follow(self, channel: Channel) -> None:
        """Take over the wire's settings; refuse what contradicts them."""
        settings = getattr(channel, "settings", None)
        if not isinstance(settings, LineSettings):
            return
        problems = []
        wanted = self.line_settings().for_pyserial()
        for name, present in settings.for_pyserial().items():
            own = wanted[name]
            if not _same(own, present) and not _same(own, _AS_MADE[name]):
                problems.append(
                    Problem(
                        f"'{self._owner}' asks for {name} {own!r}, and {channel.name} works with {present!r}",
                        "drivers on one wire need the same line settings",
                    )
                )
            setattr(self, f"_{name}", present)
        if problems:
            raise ConfigError(*problems)

    def _reconfigure_port(self, force_update: bool = False) -> None:  # noqa: ARG002 - pyserial's signature
        lease = self._lease
        settings = None if lease is None else getattr(lease.channel, "settings", None)
        if not isinstance(settings, LineSettings):
            return
        for name, present in settings.for_pyserial().items():
            own = getattr(self, f"_{name}")
            if not _same(own, present):
                setattr(self, f"_{name}", present)
                raise ConfigError(
                    Problem(
                        f"'{self._owner}' sets {name} to {own!r}, and {self._port} works with {present!r}",
                        "drivers on one wire need the same line settings: open the wire with the right ones",
                    )
                )

    # Bytes

    def write(self, data: Any) -> int:
        """Send bytes, when it is this driver's turn; return their number."""
        lease = self._open_lease()
        content = serial.to_bytes(data)
        if not content:
            return 0
        limit = self._write_timeout
        started = perf_counter()
        try:
            return lease.write(content, None if limit is None else min(limit, LONGEST_TIMEOUT_S))
        except AcquireTimeout as error:
            given_up = limit == 0 or perf_counter() - started < (
                self._rules.acquire_timeout if limit is None else limit
            )
            if given_up:
                return 0
            raise serial.SerialTimeoutException(f"Write timeout: {error}") from error
        except CommandTimeout as error:
            if limit == 0 and not error.sent:
                return 0
            raise serial.SerialTimeoutException(f"Write timeout: {error}") from error
        except CoexistenceError as error:
            raise serial.SerialException(f"write failed: {error}") from error

    def read(self, size: int = 1) -> bytes:
        """Return ``size`` bytes, or fewer when the time is over."""
        return self._take(lambda data: size if len(data) >= size else 0, size, exact=False)

    def read_until(self, expected: bytes = b"\n", size: int | None = None) -> bytes:
        """Return the bytes up to and with ``expected``, or ``size`` of them, or fewer when the time is over."""

        def complete(data: bytearray) -> int:
            found = data.find(expected)
            end = found + len(expected) if found >= 0 else 0
            if size is not None and len(data) >= size and not 0 < end <= size:
                end = size
            return end

        return self._take(complete, size, exact=True)

    def _take(self, complete: Callable[[bytearray], int], most: int | None, *, exact: bool) -> bytes:
        lease = self._open_lease()
        buffer = self._buffer
        if most is not None and most <= 0:
            return b""
        ready = buffer.take_ready(complete)
        if ready:
            return ready
        with self._failing_as("read failed"):
            fetch = lease.fetch if lease.present_hold() is not None else None
            if self._timeout == 0:
                lease.collect()
            elif fetch is None:
                lease.listen()
            try:
                return buffer.take(
                    complete, self._timeout, most=most, exact=exact, gap=self._inter_byte_timeout, fetch=fetch
                )
            finally:
                lease.leave_off()

    @property
    def in_waiting(self) -> int:
        """How many bytes can be read without waiting."""
        lease = self._open_lease()
        with self._failing_as("the port cannot be read"):
            lease.collect()
        return self._buffer.available()

    @property
    def out_waiting(self) -> int:
        """How many bytes wait to be sent: none, since a write returns when the system has taken them."""
        self._open_lease()
        return 0

    def cancel_read(self) -> None:
        """Have reads that wait now return with what they have."""
        if self._lease is not None:
            self._buffer.cancel()
            if self._lease.channel.current_owner == self._owner:
                self._lease.channel._transport.interrupt()

    def cancel_write(self) -> None:
        """Have writes that wait for the wire give up."""
        if self._lease is not None:
            self._lease.cancel_write()

    def reset_input_buffer(self) -> None:
        """Drop what has come in for this driver and was not read."""
        lease = self._open_lease()
        if lease.present_hold() is not None:
            with self._failing_as("the port cannot be read"):
                lease.collect()
        self._buffer.clear()

    def reset_output_buffer(self) -> None:
        """Have nothing to drop: a write returns when the system has taken its bytes."""
        self._open_lease()

    def flush(self) -> None:
        """Wait until what was written is on the line."""
        self._on_hardware(lambda port: port.flush())

    # Lines beside the data

    def send_break(self, duration: float = 0.25) -> None:
        """Send a break of ``duration`` seconds."""
        self._on_hardware(lambda port: port.send_break(duration))

    def _update_rts_state(self) -> None:
        self._on_hardware(lambda port: setattr(port, "rts", self._rts_state))

    def _update_dtr_state(self) -> None:
        self._on_hardware(lambda port: setattr(port, "dtr", self._dtr_state))

    def _update_break_state(self) -> None:
        self._on_hardware(lambda port: setattr(port, "break_condition", self._break_state))

    @property
    def cts(self) -> bool:
        """Clear to send."""
        return self._on_hardware(lambda port: bool(port.cts))

    @property
    def dsr(self) -> bool:
        """Data set ready."""
        return self._on_hardware(lambda port: bool(port.dsr))

    @property
    def ri(self) -> bool:
        """Ring indicator."""
        return self._on_hardware(lambda port: bool(port.ri))

    @property
    def cd(self) -> bool:
        """Carrier detect."""
        return self._on_hardware(lambda port: bool(port.cd))

    def set_input_flow_control(self, enable: bool = True) -> None:
        """Tell the other side by XON or XOFF whether it may send."""
        self._on_hardware(lambda port: port.set_input_flow_control(enable))

    def set_output_flow_control(self, enable: bool = True) -> None:
        """Go on or stop sending."""
        self._on_hardware(lambda port: port.set_output_flow_control(enable))

    def fileno(self) -> int:
        """Refuse: the descriptor is everybody's."""
        raise io.UnsupportedOperation(
            f"{self._port} is shared and has no descriptor of its own; use an exported port where one is needed"
        )

    def _on_hardware(self, function: Callable[[Any], T]) -> T:
        """Run a function with the real port."""
        lease = self._open_lease()
        with self._failing_as("the port cannot be used"):
            return lease.on_wire(lambda guard: guard.with_hardware(function))

    @contextmanager
    def _failing_as(self, what: str) -> Iterator[None]:
        try:
            yield
        except CoexistenceError as error:
            raise serial.SerialException(f"{what}: {error}") from error


def _same(own: Any, present: Any) -> bool:
    return bool(own) == present if isinstance(present, bool) else bool(own == present)


def _open_port(facade: SharedSerial) -> Channel:
    """Find the open port that a path or a ``shared://`` URL names."""
    from coexistence.serial_port import open_ports, same_port

    name = str(facade.port)
    ports = open_ports()
    for port in ports:
        if same_port(port, name):
            return port
    present = ", ".join(sorted(port.path for port in ports)) or "none"
    raise WireDisconnected(
        name,
        "no port of this name is open for sharing in this process",
        remedy=f"Open it first with SerialPortPool.get; open are: {present}.",
    )
