"""Serial ports, who may use them and who does, and the libraries of VISA."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from coexistence.config import DualConfig, port_access_remedy
from coexistence.device_cache import serial_devices
from coexistence.errors import ConfigError
from coexistence.visa_library import VisaLibrary
from profiles.doctor.findings import Check, Outcome

_GRABBERS = {
    "ModemManager": "it sends modem commands to new ports: sudo systemctl disable --now ModemManager",
    "brltty": "it takes some USB adapters for Braille displays: sudo apt remove brltty",
}
"""Programs that take serial ports nobody gave them."""

_OTHER_END = frozenset(("/dev/ptmx", "/dev/pts/ptmx"))
"""What a program has open that is at the other end of pseudo-terminals."""


def port_checks(config: DualConfig | None) -> Iterator[Check]:
    """Yield what there is to say of this machine's ports, and of those a configuration names."""
    paths = [device.path for device in serial_devices()]
    configured = _configured_ports(config)
    users = port_users([*paths, *configured])
    if not paths:
        yield Check("serial ports", "note", "none is present", "plug an adapter in; serial servers need none")
    for path in dict.fromkeys([*paths, *configured]):
        yield _port(path, users.get(os.path.realpath(path), []), path in configured)
    yield from _group()
    yield from _grabbers()
    yield _pseudo_terminals()


def visa_checks(config: DualConfig | None) -> Iterator[Check]:
    """Yield which VISA backends can be used; the configured one has to."""
    chosen = "@py" if config is None else config.application.visa_backend
    for backend in ("@py", "@ivi", "@sim"):
        try:
            library = VisaLibrary.shared(backend)
        except ConfigError as error:
            (problem,) = error.problems
            outcome: Outcome = "problem" if backend == chosen else "note"
            yield Check(f"VISA {backend}", outcome, problem.message, problem.suggestion if outcome == "problem" else "")
        else:
            library.release()
            yield Check(f"VISA {backend}", "ok", _version_of(backend))
    yield from _interfaces()


def port_users(paths: Iterable[str]) -> dict[str, list[str]]:
    """Return by real path the processes that have a port open, as far as this user may know."""
    wanted = {os.path.realpath(path) for path in paths}
    found: dict[str, list[str]] = {}
    if not wanted or not os.path.isdir("/proc/self/fd"):
        return found
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            targets = {os.readlink(descriptor) for descriptor in (process / "fd").iterdir()}
            for path in wanted & targets:
                if path.startswith("/dev/pts/") and targets & _OTHER_END:
                    continue  # it is what simulates the instrument there
                name = (process / "comm").read_text().strip()
                found.setdefault(path, []).append(f"process {process.name} ({name})")
    return found


def _configured_ports(config: DualConfig | None) -> list[str]:
    if config is None or config.simulation.always:
        return []
    devices = (instrument.serial_device for _, instrument in config.instruments())
    return [device for device in devices if device is not None and device.startswith("/")]


def _port(path: str, users: list[str], is_configured: bool) -> Check:
    subject = f"port {path}"
    if not os.path.exists(path):
        return Check(subject, "problem", "it is configured and not there", "plug it in, or correct the configuration")
    if not os.access(path, os.R_OK | os.W_OK):
        return Check(subject, "problem" if is_configured else "warning", "closed to you", port_access_remedy(path))
    if users:
        return Check(
            subject,
            "problem" if is_configured else "note",
            f"in use by {', '.join(users)}",
            "a session takes its ports for itself: end that program, or let both use one session"
            if is_configured
            else "",
        )
    return Check(subject, "ok", "free, and open to you")


def _group() -> Iterator[Check]:
    """Yield whether the user is in the group that ports usually belong to, also while none is plugged in."""
    if sys.platform != "linux" or os.getuid() == 0:
        return
    import grp

    own = {os.getgid(), *os.getgroups()}
    for name in ("dialout", "uucp"):
        try:
            group = grp.getgrnam(name)
        except KeyError:
            continue
        if group.gr_gid in own:
            yield Check("permissions", "ok", f"you are in the group {name}")
        else:
            yield Check(
                "permissions",
                "warning",
                f"you are not in the group {name}, to which serial ports usually belong",
                f"sudo usermod -a -G {name} $USER, then log in anew",
            )
        return


def _grabbers() -> Iterator[Check]:
    import psutil

    running = {process.info["name"] for process in psutil.process_iter(["name"])}
    for name, remedy in _GRABBERS.items():
        if name in running:
            yield Check(name, "warning", "it is running", remedy)


def _pseudo_terminals() -> Check:
    try:
        import pty

        for descriptor in pty.openpty():
            os.close(descriptor)
    except (ImportError, OSError) as error:
        return Check("pseudo-terminals", "warning", f"not to be had: {error}", "simulated serial ports need them")
    return Check("pseudo-terminals", "ok", "simulated instruments can be on serial ports")


def _version_of(backend: str) -> str:
    package = {"@py": "pyvisa-py", "@sim": "pyvisa-sim"}.get(backend, "pyvisa")
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return "loaded"


def _interfaces() -> Iterator[Check]:
    """Yield what PyVISA-py can reach besides the network and serial ports."""
    try:
        import pyvisa_py.highlevel
        from pyvisa_py.sessions import Session
    except ImportError:
        return
    assert pyvisa_py.highlevel
    valid = {interface.name for (interface, _), _session in Session.iter_valid_session_classes()}
    for interface, remedy in (
        ("usb", "for USB-TMC instruments: pip install pyusb, and libusb from your system's packages"),
        ("gpib", "for GPIB instruments: install linux-gpib, or use a vendor's VISA with visa_backend = '@ivi'"),
    ):
        if interface in valid:
            yield Check(f"VISA @py {interface.upper()}", "ok", "supported")
        else:
            yield Check(f"VISA @py {interface.upper()}", "note", "not supported here", remedy)
