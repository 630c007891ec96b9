"""Serial ports for many users: one :class:`SharedSerialPort` for one real port, and the pool that sees to it."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from coexistence.channel import Channel
from coexistence.errors import ConfigError, Problem, WireClosed, WireDisconnected, checked
from coexistence.line_settings import LineSettings, check_terminator, check_timeout
from coexistence.serial_transport import check_path, device_path, make_serial_transport
from coexistence.wire import Wire

if TYPE_CHECKING:
    from coexistence.adoption.exported_port import ExportedPort

SERIAL_KIND = 0
"""Serial wires come first in the global order of acquisition."""

_open_ports: WeakSet[SharedSerialPort] = WeakSet()
_open_ports_lock = threading.Lock()


class SharedSerialPort(Channel):
    """A serial port that threads and tasks of both generations share.

    Opening takes the port for itself (``flock`` and ``TIOCEXCL``); it is reopened when it was unplugged and is back.

    Parameters
    ----------
    path
        A device (``/dev/ttyUSB0``), a symlink to one, a USB identity ``usb:VENDOR:PRODUCT[:SERIAL]``, or a serial
        server ``socket://host:port`` or ``rfc2217://host:port``.
    baud_rate, data_bits, stop_bits, parity, flow_control
        The line's settings, see :class:`LineSettings`.
    terminator
        Ends a reply; empty where replies have none.
    timeout
        Default for exchanges, in seconds.
    late_reply_limit
        Seconds after a timeout during which the late reply may still come. Default: twice the exchange's timeout.
    check_order
        Whether to insist on the global order of acquisition.
    log_size
        How many exchanges the log keeps.

    Raises
    ------
    ConfigError
        Values that cannot be right, all of them.
    WireDisconnected
        There is no such port, or it cannot be opened.
    WireInUse
        Somebody else has it open.
    """

    def __init__(
        self,
        path: str,
        *,
        baud_rate: int = 9600,
        data_bits: int = 8,
        stop_bits: float = 1,
        parity: str = "none",
        flow_control: str = "none",
        terminator: bytes = b"\n",
        timeout: float = 1.0,
        late_reply_limit: float | None = None,
        check_order: bool = True,
        log_size: int = 1000,
    ) -> None:
        problems = check_path(path) + check_terminator(terminator) + check_timeout("timeout", timeout)
        if late_reply_limit is not None:
            problems += check_timeout("late_reply_limit", late_reply_limit)
        try:
            settings = LineSettings(
                baud_rate=baud_rate,
                data_bits=data_bits,
                stop_bits=stop_bits,
                parity=parity,
                flow_control=flow_control,
            )
        except ConfigError as error:
            raise ConfigError(*problems, *error.problems) from None
        checked(*problems)
        self.path = path
        self.settings = settings
        wire = Wire(path, order=(SERIAL_KIND, device_path(path)), check_order=check_order, log_size=log_size)
        super().__init__(
            wire,
            make_serial_transport(path, settings),
            terminator=terminator,
            timeout=timeout,
            late_reply_limit=late_reply_limit,
        )
        with _open_ports_lock:
            _open_ports.add(self)

    def export(self, owner: str, *, link: str | None = None, **rules: Any) -> ExportedPort:
        """Make a virtual port on a pty that any program can open, and whose bytes travel on this wire.

        Parameters
        ----------
        owner
            The program's name to others.
        link
            Where to put a symbolic link to the pty, whose own path differs from time to time.
        rules
            When its leases end, see :class:`LeaseRules`.

        Returns
        -------
        ExportedPort
            Its ``path`` is what to open; a context manager.

        Raises
        ------
        ConfigError
            A rule cannot be right, there is something else at ``link``, or this system has no ptys.
        """
        from coexistence.adoption.exported_port import ExportedPort

        return ExportedPort(self, owner, link=link, **rules)

    @property
    def baud_rate(self) -> int:
        """Bits per second."""
        return self.settings.baud_rate


def open_ports() -> list[SharedSerialPort]:
    """Return the shared ports that this process has open, whoever opened them."""
    with _open_ports_lock:
        return [port for port in _open_ports if not port.wire.closed]


def same_port(port: SharedSerialPort, name: str) -> bool:
    """Whether a path, a symlink, a USB identity, a URL or a path's last element names this port."""
    if name in (port.path, os.path.basename(port.path)):
        return True
    try:
        return port.connected and device_path(port.path) == device_path(name)
    except WireDisconnected:
        return False


class SerialPortPool:
    """Hands out the one :class:`SharedSerialPort` of each real port, by whatever name it is asked for."""

    def __init__(self) -> None:
        self._ports: list[SharedSerialPort] = []
        self._lock = threading.Lock()
        self._openings: dict[str, threading.Lock] = {}
        """By device, so that opening one, which may take seconds, holds up nobody who wants another."""
        self._closed = False

    def get(self, path: str, **settings: Any) -> SharedSerialPort:
        """Return the port, opened with these settings if it was not open.

        Parameters
        ----------
        path, settings
            As for :class:`SharedSerialPort`.

        Raises
        ------
        ConfigError
            The port is open with other settings; both are named.
        WireDisconnected, WireInUse
            As for :class:`SharedSerialPort`.
        WireClosed
            The pool has been closed, before or while the port was being opened.
        """
        checked(*check_path(path))
        port = next((port for port in self.ports if port.path == path), None)
        if port is None:
            device = device_path(path)
            with self._lock:
                opening = self._openings.setdefault(device, threading.Lock())
            with opening:
                port = self._at(device)
                if port is None:
                    return self._open(path, settings)
        _check_same(port, settings)
        return port

    def _at(self, device: str) -> SharedSerialPort | None:
        for port in self.ports:
            with contextlib.suppress(WireDisconnected):  # an adapter that is away
                if device_path(port.path) == device:
                    return port
        return None

    def _open(self, path: str, settings: dict[str, Any]) -> SharedSerialPort:
        if self._closed:
            raise WireClosed(path)
        port = SharedSerialPort(path, **settings)
        with self._lock:
            if not self._closed:
                self._ports = [each for each in self._ports if not each.wire.released]
                self._ports.append(port)
                return port
        port.close()
        raise WireClosed(path)

    @property
    def ports(self) -> list[SharedSerialPort]:
        """The open ports."""
        with self._lock:
            return [port for port in self._ports if not port.wire.closed]

    def close(self) -> None:
        """Close all ports, for good: what comes back from a call that hung opens none of them again."""
        with self._lock:
            self._closed = True
            ports = list(self._ports)  # which stay there, should Ctrl-C keep one of them from being closed
        for port in ports:
            port.close()
        with self._lock:
            self._ports = [each for each in self._ports if not each.wire.released]


def _check_same(port: SharedSerialPort, settings: dict[str, Any]) -> None:
    problems = []
    for name, value in settings.items():
        present = getattr(port.settings, name) if hasattr(port.settings, name) else getattr(port, name, value)
        if present != value:
            problems.append(
                Problem(
                    f"{port.path} is open with {name} {present!r}, and {value!r} was asked for",
                    "instruments on one port need the same line settings",
                )
            )
    checked(*problems)
