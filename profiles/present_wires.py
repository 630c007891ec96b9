"""What instruments may be on: the serial ports, VISA resources and cameras of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from coexistence import SharedResources
from coexistence.device_cache import serial_devices
from devices.cameras import PvcamLibrary


@dataclass(frozen=True)
class PresentWire:
    """Something an instrument may be on: the key that names it in a configuration, its name, and what it is."""

    key: str
    name: str
    description: str


def present_wires(*, in_network: bool, tell: Callable[[str], object]) -> list[PresentWire]:
    """Return what is there; nothing is opened.

    Parameters
    ----------
    in_network
        Look for VISA instruments in the network too, which sends a broadcast and takes seconds.
    tell
        Is given what could not be looked for, and why.
    """
    return [*serial_ports(), *visa_resources(in_network=in_network, tell=tell), *cameras()]


def serial_ports() -> Iterator[PresentWire]:
    """Yield serial ports; adapters of USB by their identity, which stays when they are plugged in elsewhere."""
    devices = serial_devices()
    identities = [device.identity for device in devices]
    for device in devices:
        # Two adapters without serial numbers look alike.
        if device.identity and identities.count(device.identity) == 1:
            yield PresentWire("serial_port", device.identity, f"{device.description}, now {device.path}")
        else:
            yield PresentWire("serial_port", device.path, device.description)


def visa_resources(*, in_network: bool, tell: Callable[[str], object]) -> Iterator[PresentWire]:
    """Yield VISA resources that are no serial ports."""
    try:
        names = _in_network_too() if in_network else _on_this_machine()
    except Exception as error:
        tell(f"VISA could not be asked: {str(error) or type(error).__name__}")
        return
    for name in names:
        if not name.upper().startswith("ASRL"):
            yield PresentWire("resource", name, "VISA")


def cameras() -> Iterator[PresentWire]:
    """Yield the cameras of the vendor's library, where that is installed."""
    try:
        names = PvcamLibrary().names()
    except Exception:
        # Most benches have none, and then not the library either; a session says what is missing for a camera.
        return
    for name in names:
        yield PresentWire("camera_name", name, "PVCAM")


def _in_network_too() -> list[str]:
    with closing(SharedResources()) as resources:
        return resources.devices.visa_resources()


def _on_this_machine() -> list[str]:
    # PyVISA-py filters only what it has found, and looks for everything by broadcast first.
    import pyvisa_py.highlevel
    from pyvisa_py.sessions import Session

    assert pyvisa_py.highlevel
    found = []
    for (interface, _), session in Session.iter_valid_session_classes():
        if interface.name in ("usb", "gpib"):
            found += session.list_resources()
    return found
