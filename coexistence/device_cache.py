"""What is plugged in: serial ports and VISA resources as the system lists them, remembered for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Generic, TypeVar

from serial.tools import list_ports

T = TypeVar("T")


@dataclass(frozen=True)
class SerialDevice:
    """One serial port of this machine."""

    path: str
    description: str
    identity: str
    """``usb:VENDOR:PRODUCT[:SERIAL]``, by which the port can be named wherever it is plugged in; empty for others."""


class _Remembered(Generic[T]):
    def __init__(self, enumerate_now: Callable[[], list[T]]) -> None:
        self._enumerate = enumerate_now
        self._lock = threading.Lock()
        self._found: list[T] = []
        self._when: float | None = None

    @property
    def age(self) -> float:
        return float("inf") if self._when is None else monotonic() - self._when

    def get(self, max_age: float) -> list[T]:
        with self._lock:
            if self.age > max_age:
                self._found = self._enumerate()
                self._when = monotonic()
            return list(self._found)


class DeviceCache:
    """Enumerations of serial ports and VISA resources; asking the system takes milliseconds to seconds.

    Parameters
    ----------
    list_visa
        Returns the names of the VISA resources present.
    """

    def __init__(self, list_visa: Callable[[], list[str]]) -> None:
        self._serial = _Remembered(serial_devices)
        self._visa = _Remembered(list_visa)

    def serial_ports(self, max_age: float = 5.0) -> list[SerialDevice]:
        """Return the serial ports present, from an enumeration at most ``max_age`` seconds old."""
        return self._serial.get(max_age)

    def visa_resources(self, max_age: float = 30.0) -> list[str]:
        """Return the VISA resources present, from an enumeration at most ``max_age`` seconds old."""
        return self._visa.get(max_age)

    @property
    def serial_age(self) -> float:
        """Seconds since serial ports were enumerated; infinite if they were not."""
        return self._serial.age

    @property
    def visa_age(self) -> float:
        """Seconds since VISA resources were enumerated; infinite if they were not."""
        return self._visa.age


def serial_devices() -> list[SerialDevice]:
    """Return the serial ports present, asked of the system now."""
    devices = []
    for port in sorted(list_ports.comports()):
        identity = ""
        if port.vid is not None and port.pid is not None:
            identity = f"usb:{port.vid:04x}:{port.pid:04x}" + (f":{port.serial_number}" if port.serial_number else "")
        devices.append(SerialDevice(port.device, port.description or "", identity))
    return devices
