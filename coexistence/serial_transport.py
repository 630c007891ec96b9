"""Serial hardware: opening exclusively by path, symlink, USB identity or pyserial URL."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import serial
from serial.tools import list_ports

from coexistence.errors import ConfigError, Problem, WireDisconnected, WireInUse
from coexistence.line_settings import LineSettings
from coexistence.transport import Interrupted, StreamTransport, Transport

try:
    import fcntl
    import termios

    from coexistence.descriptor_transport import DescriptorTransport, SocketTransport
except ImportError:  # Windows has neither ptys nor these locks
    _POSIX = False
else:
    _POSIX = True

_USB = re.compile(r"usb:(?P<vendor>[0-9a-fA-F]{4}):(?P<product>[0-9a-fA-F]{4})(?::(?P<serial>[^:/]+))?\Z")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_SLICE_S = 0.02
_opening = threading.local()


@contextlib.contextmanager
def opening_hardware() -> Iterator[None]:
    """Mark what this thread opens as the wire's own, not to be redirected to the wire."""
    _opening.hardware = True
    try:
        yield
    finally:
        _opening.hardware = False


def opens_hardware() -> bool:
    """Whether this thread is opening the wire's own port."""
    return getattr(_opening, "hardware", False)


def check_path(path: object) -> list[Problem]:
    """Return what is wrong with a port's name before anything is opened."""
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        return [
            Problem(f"a serial port must be named by a non-empty string, not {path!r}", "for example '/dev/ttyUSB0'")
        ]
    if path.startswith("usb:") and not _USB.match(path):
        return [
            Problem(
                f"{path!r} is no USB identity",
                "write usb:VENDOR:PRODUCT or usb:VENDOR:PRODUCT:SERIAL with four hexadecimal digits each, "
                "for example 'usb:0403:6001:FT1ABC23'",
            )
        ]
    if _URL.match(path):
        return _check_url(path)
    return []


def _check_url(path: str) -> list[Problem]:
    try:
        parts = urlsplit(path)
    except ValueError as error:
        return [Problem(f"{path!r} is no URL ({error})", "write socket://host:port or rfc2217://host:port")]
    if parts.scheme not in ("socket", "rfc2217"):
        return [
            Problem(
                f"{path!r}: unknown kind of port {parts.scheme!r}",
                "use a path, socket://host:port or rfc2217://host:port",
            )
        ]
    try:
        complete = bool(parts.hostname) and bool(parts.port)
    except ValueError:
        complete = False
    if not complete:
        return [Problem(f"{path!r} lacks a host or a port number from 1 to 65535", f"write {parts.scheme}://host:port")]
    return []


def device_path(path: str) -> str:
    """Return where a port's device is now, symlinks and USB identity resolved; URLs stand for themselves.

    Raises
    ------
    WireDisconnected
        No adapter with this USB identity is plugged in, or several are.
    """
    if _URL.match(path):
        return path
    match = _USB.match(path)
    if match is None:
        return os.path.realpath(path)
    vendor, product = int(match["vendor"], 16), int(match["product"], 16)
    wanted = match["serial"]
    found = [
        port
        for port in list_ports.comports()
        if port.vid == vendor and port.pid == product and (wanted is None or port.serial_number == wanted)
    ]
    if len(found) == 1:
        return os.path.realpath(str(found[0].device))
    if found:
        choices = ", ".join(f"{port.device} (serial {port.serial_number})" for port in found)
        raise WireDisconnected(path, f"several adapters match: {choices}", remedy="Add the serial number to the name.")
    raise WireDisconnected(path, "no such USB adapter is plugged in", remedy=_present_ports())


def _present_ports() -> str:
    present = sorted(port.device for port in list_ports.comports())
    return f"Present ports: {', '.join(present)}." if present else "No serial ports are present."


def holder_of(device: str) -> str:
    """Name the process that has locked a device, where the system tells; else an empty string."""
    try:
        status = os.stat(device)
        wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        with open("/proc/locks", encoding="ascii") as locks:
            for line in locks:
                fields = line.split()
                if wanted in fields:
                    return _process(int(fields[fields.index(wanted) - 1]))
    except (OSError, ValueError):
        pass
    return ""


def _process(pid: int) -> str:
    if pid == os.getpid():
        return f"this process ({pid})"
    name = ""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8") as comm:
        name = f" ({comm.read().strip()})"
    return f"process {pid}{name}"


def make_serial_transport(path: str, settings: LineSettings) -> Transport:
    """Return the unopened transport that suits a port's name and this system."""
    if path.startswith("socket://") and _POSIX:
        parts = urlsplit(path)
        assert parts.hostname is not None
        assert parts.port is not None
        return SocketTransport(parts.hostname, parts.port)
    if _URL.match(path) or not _POSIX:
        return PyserialTransport(path, settings)
    return SerialTransport(path, settings)


if _POSIX:

    class SerialTransport(DescriptorTransport):
        """A serial device of this machine, locked against everybody else by ``flock`` and ``TIOCEXCL``."""

        lost = (OSError, termios.error)

        def __init__(self, path: str, settings: LineSettings) -> None:
            super().__init__(path)
            self._settings = settings
            self._serial: Any = None

        def _open_descriptor(self) -> int:
            device = device_path(self.name)
            port = serial.Serial(**self._settings.for_pyserial(), exclusive=True, timeout=0)
            port.port = device
            try:
                with opening_hardware():
                    port.open()
            except (OSError, termios.error) as error:
                raise self._cannot_open(device, error) from error
            except ValueError as error:
                raise ConfigError(Problem(f"{self.name} does not take {self._settings}: {error}")) from error
            self._serial = port
            descriptor: int = port.fileno()
            with contextlib.suppress(OSError, AttributeError):
                fcntl.ioctl(descriptor, termios.TIOCEXCL)
            os.set_blocking(descriptor, False)
            return descriptor

        def _cannot_open(self, device: str, error: BaseException) -> WireDisconnected | WireInUse:
            code = getattr(error, "errno", None)
            text = str(error)
            if code in (11, 16) or "[Errno 11]" in text or "[Errno 16]" in text or "exclusively lock" in text:
                return WireInUse(self.name, holder_of(device))
            if code == 13 or "[Errno 13]" in text:
                return WireDisconnected(
                    self.name,
                    "this user may not open it",
                    remedy="Add the user to the group that owns the device (often 'dialout') and log in again.",
                )
            if not os.path.exists(device):
                return WireDisconnected(self.name, "there is no such port", remedy=_present_ports())
            if not _is_character_device(device):
                return WireDisconnected(self.name, "it is not a serial port", remedy=_present_ports())
            return WireDisconnected(self.name, f"opening failed ({error})", remedy="Check cable and power.")

        def forget(self) -> None:
            port, self._serial = self._serial, None
            super().forget()
            if port is not None:
                port.fd = None  # closed already, and perhaps another file's by the time that this is collected

        def _close_descriptor(self) -> None:
            port, self._serial = self._serial, None
            if port is None:
                return
            with contextlib.suppress(OSError, ValueError, AttributeError, termios.error, serial.SerialException):
                fcntl.ioctl(port.fileno(), termios.TIOCNXCL)
            with contextlib.suppress(OSError, termios.error):
                port.close()


def _is_character_device(device: str) -> bool:
    import stat

    try:
        return stat.S_ISCHR(os.stat(device).st_mode)
    except OSError:
        return False


class PyserialTransport(StreamTransport):
    """Whatever pyserial can open: RFC 2217 servers, and local ports where there are no POSIX descriptors."""

    lost = (OSError,)

    def __init__(self, path: str, settings: LineSettings) -> None:
        super().__init__(path)
        self._settings = settings
        self._serial: Any = None
        self._is_local = _URL.match(path) is None
        self._woken = threading.Event()

    def open(self) -> None:
        self.close()
        self._buffer.clear()
        try:
            with opening_hardware():
                self._serial = serial.serial_for_url(
                    device_path(self.name), **self._settings.for_pyserial(), timeout=_SLICE_S
                )
        except OSError as error:
            if isinstance(error, PermissionError) or "PermissionError" in str(error):
                raise WireInUse(self.name) from error
            raise WireDisconnected(
                self.name, f"opening failed ({error})", remedy="Check name, cable, network and power."
            ) from error

    def close(self) -> None:
        port, self._serial = self._serial, None
        if port is not None:
            with contextlib.suppress(OSError):
                port.close()

    def send(self, data: bytes, deadline: float) -> int:
        try:
            if self._is_local:  # RFC 2217 knows no such thing: the network's own time limit holds
                self._serial.write_timeout = max(deadline - perf_counter(), 0.001)
            return self._serial.write(data) or len(data)
        except serial.SerialTimeoutException:
            return 0

    def _read_some(self, deadline: float) -> bytes:
        while True:
            if self._woken.is_set():
                self._woken.clear()
                raise Interrupted
            waiting = self._serial.in_waiting
            if waiting:
                chunk = self._serial.read(waiting)
                if not chunk:
                    raise ConnectionResetError("the other side closed the connection")
                return bytes(chunk)
            remaining = deadline - perf_counter() if deadline else 0.0
            if remaining <= 0.0:
                return b""
            if remaining < _SLICE_S:
                time.sleep(min(remaining, 0.001))
                continue
            chunk = self._serial.read(1)  # its timeout stays: to change it means to set up the line anew
            if chunk:
                return bytes(chunk)

    def interrupt(self) -> None:
        self._woken.set()
