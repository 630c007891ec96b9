"""VISA resource strings: what they mean, one spelling for each, and what cannot be right."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass

from coexistence.errors import ConfigError, Problem

_PREFIX = re.compile(r"(TCPIP|USB|GPIB|ASRL)(.*)\Z", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\Z")
_CLASSES = {
    "TCPIP": ("INSTR", "SOCKET"),
    "USB": ("INSTR", "RAW"),
    "GPIB": ("INSTR",),
    "ASRL": ("INSTR",),
}
_FORMS = {
    "TCPIP": "TCPIP0::host::5025::SOCKET, TCPIP0::host::hislip0::INSTR or TCPIP0::host::inst0::INSTR",
    "USB": "USB0::0x1234::0x5678::SERIAL::INSTR",
    "GPIB": "GPIB0::20::INSTR",
    "ASRL": "ASRL/dev/ttyUSB0::INSTR",
}
_HISLIP_PORT = 4880


@dataclass(frozen=True, kw_only=True)
class VisaResource:
    """A resource string taken apart; two strings for one resource have the same ``key``."""

    name: str
    """The complete spelling, with which it is opened."""
    key: str
    """What the resource is known by: the complete spelling where letter case means nothing."""
    interface: str
    """``TCPIP``, ``USB``, ``GPIB`` or ``ASRL``."""
    resource_class: str
    """``INSTR``, ``SOCKET`` or ``RAW``."""
    board: int = 0
    """Number of the interface board."""
    host: str = ""
    """Where a TCPIP resource is."""
    port: int = 0
    """TCP port of a SOCKET resource, and of HiSLIP."""
    device: str = ""
    """The LAN device name of a TCPIP INSTR resource, the path of a serial device."""

    @property
    def is_hislip(self) -> bool:
        """Whether the resource speaks HiSLIP rather than VXI-11."""
        return self.device.lower().startswith("hislip")

    @property
    def wire_name(self) -> str:
        """The name of the wire it is on: its own, or its board's for GPIB."""
        return f"GPIB{self.board}" if self.interface == "GPIB" else self.key

    @classmethod
    def parse(cls, text: object) -> VisaResource:
        """Take a resource string apart; ``::INSTR``, board and default parts may be left out, case means nothing.

        Raises
        ------
        ConfigError
            It cannot be right, and why.
        """
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(
                Problem(f"a VISA resource is named by a non-empty string, not {text!r}", f"write {_FORMS['TCPIP']}")
            )
        match = _PREFIX.match(text)
        if match is None:
            raise _refused(text, _unknown_interface(text), "; ".join(_FORMS.values()))
        interface = match[1].upper()
        parts = match[2].split("::")
        resource_class = "INSTR"
        if len(parts) > 1 and parts[-1].upper() in ("INSTR", "SOCKET", "RAW", "INTFC", "BACKPLANE", "MEMACC"):
            resource_class = parts.pop().upper()
        if resource_class not in _CLASSES[interface]:
            raise _refused(
                text, f"{interface} has no {resource_class} resources that carry messages", _FORMS[interface]
            )
        build = {"TCPIP": _tcpip, "USB": _usb, "GPIB": _gpib, "ASRL": _asrl}[interface]
        return build(text, parts, resource_class)

    def __str__(self) -> str:
        return self.name


def _refused(text: str, why: str, form: str) -> ConfigError:
    return ConfigError(Problem(f"{text!r} is no VISA resource: {why}", f"write {form}"))


def _unknown_interface(text: str) -> str:
    start = re.split(r"[\d:/]", text, maxsplit=1)[0].upper()
    close = difflib.get_close_matches(start, _CLASSES, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"it starts with none of {', '.join(_CLASSES)}{hint}"


def _board(text: str, digits: str, interface: str) -> int:
    if not digits:
        return 0
    if not re.fullmatch(r"\d{1,3}", digits, re.ASCII):
        raise _refused(text, f"{digits!r} is no board number", _FORMS[interface])
    return int(digits)


def _tcpip(text: str, parts: list[str], resource_class: str) -> VisaResource:
    form = _FORMS["TCPIP"]
    board = _board(text, parts[0], "TCPIP")
    rest = parts[1:]
    if not rest or not rest[0]:
        raise _refused(text, "it names no host", form)
    host, _, vxi_port = rest[0].partition(",")
    if not _HOST.match(host):
        raise _refused(text, f"{host!r} is no host name or IPv4 address", form)
    if re.fullmatch(r"[\d.]+", host) and not _is_ipv4(host):
        raise _refused(text, f"{host!r} is no IPv4 address", form)
    if resource_class == "SOCKET":
        if len(rest) != 2 or vxi_port:
            raise _refused(text, "a SOCKET has a host and a port, no more and no less", form)
        port = _port(text, rest[1])
        name = f"TCPIP{board}::{host}::{port}::SOCKET"
        return VisaResource(
            name=name,
            key=name.replace(host, host.lower()),
            interface="TCPIP",
            resource_class="SOCKET",
            board=board,
            host=host,
            port=port,
        )
    if len(rest) > 2:
        raise _refused(text, "it has too many parts", form)
    device = rest[1] if len(rest) == 2 else "inst0"
    if not re.fullmatch(r"[!-~]+", device):
        raise _refused(text, f"{device!r} is no LAN device name", form)
    if device.isdecimal():
        raise _refused(text, f"{device} looks like a port, and an INSTR has none", f"TCPIP0::{host}::{device}::SOCKET")
    port = 0
    if device.lower().startswith("hislip"):
        device, _, number = device.partition(",")
        port = _port(text, number) if number else _HISLIP_PORT
        device = f"{device},{port}"
    if vxi_port:
        host = f"{host},{_port(text, vxi_port)}"
    name = f"TCPIP{board}::{host}::{device}::INSTR"
    return VisaResource(
        name=name,
        key=f"TCPIP{board}::{host.lower()}::{device.lower()}::INSTR",
        interface="TCPIP",
        resource_class="INSTR",
        board=board,
        host=host,
        port=port,
        device=device,
    )


def _is_ipv4(host: str) -> bool:
    numbers = host.split(".")
    return len(numbers) == 4 and all(number.isdecimal() and int(number) < 256 for number in numbers)


def _port(text: str, digits: str) -> int:
    if not re.fullmatch(r"\d{1,5}", digits, re.ASCII) or not 0 < int(digits) < 65_536:
        raise _refused(text, f"{digits!r} is no TCP port (1 to 65535)", _FORMS["TCPIP"])
    return int(digits)


def _usb(text: str, parts: list[str], resource_class: str) -> VisaResource:
    form = _FORMS["USB"]
    board = _board(text, parts[0], "USB")
    rest = parts[1:]
    if not 3 <= len(rest) <= 4:
        raise _refused(text, "it needs vendor, product and serial number, and at most an interface number", form)
    numbers = []
    for what, number in (("vendor", rest[0]), ("product", rest[1])):
        try:
            value = int(number, 0)
        except ValueError:
            value = -1
        if not 0 <= value <= 0xFFFF:
            raise _refused(text, f"{number!r} is no {what} number (0x0000 to 0xFFFF)", form)
        numbers.append(f"0x{value:04X}")
    serial = rest[2]
    if not re.fullmatch(r"[!-~]+", serial):
        raise _refused(text, f"{serial!r} is no serial number", form)
    interface_number = _board(text, rest[3], "USB") if len(rest) == 4 else 0
    name = f"USB{board}::{numbers[0]}::{numbers[1]}::{serial}::{interface_number}::{resource_class}"
    return VisaResource(name=name, key=name, interface="USB", resource_class=resource_class, board=board)


def _gpib(text: str, parts: list[str], resource_class: str) -> VisaResource:
    form = _FORMS["GPIB"]
    board = _board(text, parts[0], "GPIB")
    rest = parts[1:]
    if not 1 <= len(rest) <= 2:
        raise _refused(text, "it needs a primary address, and at most a secondary one", form)
    if not (rest[0].isdecimal() and int(rest[0]) <= 30):
        raise _refused(text, f"{rest[0]!r} is no primary address (0 to 30)", form)
    if len(rest) == 2 and not (rest[1].isdecimal() and (int(rest[1]) <= 30 or 96 <= int(rest[1]) <= 126)):
        raise _refused(text, f"{rest[1]!r} is no secondary address (0 to 30, or 96 to 126)", form)
    addresses = "::".join(str(int(address)) for address in rest)
    name = f"GPIB{board}::{addresses}::INSTR"
    return VisaResource(name=name, key=name, interface="GPIB", resource_class=resource_class, board=board)


def _asrl(text: str, parts: list[str], resource_class: str) -> VisaResource:
    device = parts[0]
    if len(parts) != 1 or not device:
        raise _refused(text, "it names no serial device", _FORMS["ASRL"])
    name = f"ASRL{device}::INSTR"
    return VisaResource(name=name, key=name, interface="ASRL", resource_class=resource_class, device=device)


def serial_path(resource: VisaResource) -> str:
    """Return the path of a serial resource's port.

    Raises
    ------
    ConfigError
        It has only a number, which names a port on Windows alone.
    """
    device = resource.device
    if not device.isdecimal():
        return device
    if os.name == "nt":
        return f"COM{device}"
    raise _refused(resource.name, f"which port number {device} is depends on the machine", _FORMS["ASRL"])
