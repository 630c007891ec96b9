"""Whether the serial ports of a configuration are there and may be opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from coexistence.errors import Problem, WireDisconnected

if TYPE_CHECKING:
    from coexistence.config.dual import DualConfig


def hardware_problems(config: DualConfig) -> Iterator[Problem]:
    """Yield a problem for each enabled instrument whose serial port is missing or closed to this user.

    Nothing is opened.
    """
    for generation, instrument in config.instruments():
        device = instrument.serial_device
        if device is None:
            continue
        location = config.location(generation, instrument.id, "serial_port" if instrument.serial_port else "resource")
        if device.startswith("usb:"):
            yield from _identity_problems(device, instrument.id, location)
        elif "://" not in device and os.name == "posix":
            yield from _path_problems(device, instrument.id, location)


def port_access_remedy(device: str) -> str:
    """Tell how to get the right to use a port."""
    import grp

    try:
        group = grp.getgrgid(os.stat(device).st_gid).gr_name
    except (OSError, KeyError):
        group = "dialout"
    return f"join the group {group!r}: sudo usermod -a -G {group} $USER, then log in anew"


def _path_problems(device: str, instrument_id: str, location: str) -> Iterator[Problem]:
    if not os.path.exists(device):
        suggestion = _suggest_port(device) if device.startswith("/") else f"write the whole path: /dev/{device}"
        yield Problem(f"Serial port {device!r} of instrument {instrument_id!r} does not exist", suggestion, location)
    elif not os.access(device, os.R_OK | os.W_OK):
        yield Problem(
            f"Serial port {device!r} of instrument {instrument_id!r} may not be used by you",
            port_access_remedy(device),
            location,
        )


def _identity_problems(identity: str, instrument_id: str, location: str) -> Iterator[Problem]:
    from coexistence.serial_transport import device_path

    try:
        device = device_path(identity)
    except WireDisconnected as error:
        yield Problem(
            f"Serial port {identity!r} of instrument {instrument_id!r} is not there: {error.reason}",
            _suggest_port(identity),
            location,
        )
    else:
        yield from _path_problems(device, instrument_id, location)


def _suggest_port(missing: str) -> str:
    from serial.tools.list_ports import comports  # looks into every USB device's folder when imported on Linux

    present = sorted(port.device for port in comports())
    return f"present are: {', '.join(present)}" if present else f"connect the adapter; {missing} appears with it"
