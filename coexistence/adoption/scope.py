"""``with adopt(...)``: drivers that open chosen ports themselves get the shared wire instead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import serial

from coexistence.adoption.protocol_shared import SCHEME
from coexistence.adoption.rules import LeaseRules, rules_of
from coexistence.adoption.serial_facade import SharedSerial
from coexistence.channel import Channel, checked
from coexistence.errors import Problem, WireDisconnected
from coexistence.serial_port import SerialPortPool, same_port
from coexistence.serial_transport import check_path, device_path, opens_hardware


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """Who drives an adopted port, and when its leases end."""

    owner: str
    """The driver's name to others."""
    rules: LeaseRules = field(default_factory=LeaseRules)


class Scope:
    """Ports that are redirected together.

    Parameters
    ----------
    pool
        Where the shared ports are, and where those that are not open yet are opened.
    ports
        What is redirected, by the port's name.
    """

    def __init__(self, pool: SerialPortPool, ports: Mapping[str, Adoption]) -> None:
        self.pool = pool
        self.ports = dict(ports)

    def find(self, path: str) -> tuple[str, Adoption] | None:
        """Return under which name a path is adopted, and how; ``None`` when it is not."""
        if path in self.ports:
            return path, self.ports[path]
        device = _device(path)
        for name, adoption in self.ports.items():
            if device is not None and _device(name) == device:
                return name, adoption
        return None

    def provider(self, name: str) -> Callable[[SharedSerial], Channel]:
        """Return what finds the channel of an adopted port, or opens it with the driver's settings."""

        def provide(facade: SharedSerial) -> Channel:
            for port in self.pool.ports:
                if same_port(port, name):
                    return port
            settings = facade.line_settings()
            return self.pool.get(
                name,
                baud_rate=settings.baud_rate,
                data_bits=settings.data_bits,
                stop_bits=settings.stop_bits,
                parity=settings.parity,
                flow_control=settings.flow_control,
            )

        return provide


_lock = threading.RLock()
_scopes: list[Scope] = []
_originals: dict[str, Any] = {}
_classes: dict[type, type] = {}


@contextmanager
def adopt(pool: SerialPortPool, ports: Mapping[str, str | Adoption], **rules: Any) -> Iterator[None]:
    """Redirect chosen ports: whoever opens one of them within the block gets the shared wire.

    It reaches ``serial.Serial(...)``, subclasses and early imports of it included, ``serial.serial_for_url(...)`` and
    what is built on them, such as pyvisa-py's ``ASRL`` resources, on all threads. All other ports are opened as
    always. Blocks can be nested; the innermost that has a port decides. A port object that was opened within the
    block stays on the wire after it, until it is closed for good.

    Parameters
    ----------
    pool
        Has the shared ports. One that is not open yet is opened with the driver's own line settings, and is the
        pool's from then on.
    ports
        For each port, by path, symlink or USB identity, the driver's name to others; or an :class:`Adoption`.
    **rules
        Fields of :class:`LeaseRules` for all ports that are given just a name.

    Raises
    ------
    ConfigError
        A name or a rule cannot be right.
    """
    common = rules_of(None, rules)
    adoptions = {
        path: adoption if isinstance(adoption, Adoption) else Adoption(owner=adoption, rules=common)
        for path, adoption in ports.items()
    }
    problems = [problem for path in adoptions for problem in check_path(path)]
    problems += [
        Problem(f"the driver of {path} must be named by a non-empty string, not {adoption.owner!r}")
        for path, adoption in adoptions.items()
        if not isinstance(adoption.owner, str) or not adoption.owner
    ]
    checked(*problems)
    scope = Scope(pool, adoptions)
    with _lock:
        _scopes.append(scope)
        if len(_scopes) == 1:
            _redirect()
    try:
        yield
    finally:
        with _lock:
            _scopes.remove(scope)
            if not _scopes:
                _restore()


def _redirect() -> None:
    _originals["open"] = serial.Serial.open
    _originals["serial_for_url"] = serial.serial_for_url
    serial.Serial.open = _open
    serial.serial_for_url = _serial_for_url


def _restore() -> None:
    serial.Serial.open = _originals.pop("open")
    serial.serial_for_url = _originals.pop("serial_for_url")


def _find(path: Any) -> tuple[Scope, str, Adoption] | None:
    if not isinstance(path, str) or opens_hardware():
        return None
    with _lock:
        scopes = tuple(reversed(_scopes))
    for scope in scopes:
        found = scope.find(path)
        if found is not None:
            return scope, *found
    return None


def _open(port: Any) -> None:
    """Open a port as ``serial.Serial.open`` does, or share it."""
    found = _find(port.port)
    if found is None:
        _original("open", serial.Serial.open)(port)
        return
    scope, name, adoption = found
    port.__class__ = _shared_class(type(port))
    port.share(adoption.owner, adoption.rules, scope.provider(name))
    SharedSerial.open(port)


def _serial_for_url(url: Any, *args: Any, do_not_open: bool = False, **settings: Any) -> Any:
    """Return a port object as ``serial.serial_for_url`` does; URLs of other kinds of ports can be adopted, too."""
    is_url = isinstance(url, str) and "://" in url and not url.lower().startswith(SCHEME)
    found = _find(url) if is_url else None
    if found is None:
        return _original("serial_for_url", serial.serial_for_url)(url, *args, do_not_open=do_not_open, **settings)
    scope, name, adoption = found
    port = SharedSerial(None, *args, owner=adoption.owner, rules=adoption.rules, **settings)
    port.share(adoption.owner, adoption.rules, scope.provider(name))
    port.port = url
    if not do_not_open:
        port.open()
    return port


def _original(name: str, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """Return pyserial's own function, also for a call that was under way when the last block ended."""
    original: Callable[..., Any] = _originals.get(name, otherwise)
    return original


def _shared_class(cls: type) -> type:
    """Return the shared counterpart of a port class: a driver's own subclass keeps what it overrides."""
    if issubclass(cls, SharedSerial):
        return cls
    if cls is serial.Serial:
        return SharedSerial
    with _lock:
        shared = _classes.get(cls)
        if shared is None:
            from_pyserial = cls.__module__.partition(".")[0] == "serial"
            bases = (SharedSerial, cls) if from_pyserial else (cls, SharedSerial)
            shared = type(cls.__name__, bases, {"__module__": cls.__module__, "__doc__": cls.__doc__})
            _classes[cls] = shared
    return shared


def _device(path: str) -> str | None:
    try:
        return device_path(path)
    except WireDisconnected:
        return None
