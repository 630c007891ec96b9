"""``with adopt(...)``: drivers that open chosen ports themselves get the shared wire instead."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import serial

from coexistence.adoption.protocol_shared import SCHEME
from coexistence.adoption.rules import LeaseRules, rules_of
from coexistence.adoption.serial_facade import SharedSerial
from coexistence.channel import Channel
from coexistence.errors import ConfigError, Problem, WireDisconnected, checked
from coexistence.serial_port import SerialPortPool, same_port
from coexistence.serial_transport import check_path, device_path, opens_hardware
from coexistence.visa_resource import VisaResource

if TYPE_CHECKING:
    from coexistence.resources import SharedResources
    from coexistence.visa_manager import VisaSessionManager

_VISA = re.compile(r"(TCPIP|USB|GPIB|ASRL).*::", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """Who drives an adopted port, and when its leases end."""

    owner: str
    """The driver's name to others."""
    rules: LeaseRules = field(default_factory=LeaseRules)


class Scope:
    """Ports and VISA resources that are redirected together.

    Parameters
    ----------
    pool
        Where the shared ports are, and where those that are not open yet are opened.
    ports
        What is redirected, by the port's name.
    visa
        Where the shared VISA resources are; ``None`` without any.
    resources
        Which of them are redirected, by their keys (:attr:`VisaResource.key`).
    """

    def __init__(
        self,
        pool: SerialPortPool | None,
        ports: Mapping[str, Adoption],
        visa: VisaSessionManager | None = None,
        resources: Mapping[str, Adoption] | None = None,
    ) -> None:
        self.pool = pool
        self.ports = dict(ports)
        self.visa = visa
        self.resources = dict(resources or {})

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
        pool = self.pool
        assert pool is not None

        def provide(facade: SharedSerial) -> Channel:
            for port in pool.ports:
                if same_port(port, name):
                    return port
            settings = facade.line_settings()
            return pool.get(
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
def adopt(
    source: SerialPortPool | VisaSessionManager | SharedResources, ports: Mapping[str, str | Adoption], **rules: Any
) -> Iterator[None]:
    """Redirect chosen ports and VISA resources: whoever opens one of them within the block gets the shared wire.

    It reaches ``serial.Serial(...)``, subclasses and early imports of it included, ``serial.serial_for_url(...)`` and
    what is built on them, such as pyvisa-py's ``ASRL`` resources, and pyvisa's ``open_resource(...)``, on all threads.
    All other ports and resources are opened as always. Blocks can be nested; the innermost that has a port decides. A
    port object that was opened within the block stays on the wire after it, until it is closed for good.

    Parameters
    ----------
    source
        Has the shared ports, the shared VISA resources, or both. A port that is not open yet is opened with the
        driver's own line settings, and is the pool's from then on; a resource that is not open yet with the rules'
        terminator, or a newline.
    ports
        For each port (by path, symlink or USB identity) or VISA resource string the driver's name to others; or an
        :class:`Adoption`.
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
    resources = {path: adoption for path, adoption in adoptions.items() if _VISA.match(str(path))}
    serial_ports = {path: adoption for path, adoption in adoptions.items() if path not in resources}
    problems = [problem for path in serial_ports for problem in check_path(path)]
    problems += [
        Problem(f"the driver of {path} must be named by a non-empty string, not {adoption.owner!r}")
        for path, adoption in adoptions.items()
        if not isinstance(adoption.owner, str) or not adoption.owner
    ]
    checked(*problems)
    pool, visa = _parts(source, serial_ports, resources)
    scope = Scope(
        pool, serial_ports, visa, {VisaResource.parse(name).key: adoption for name, adoption in resources.items()}
    )
    with _lock:
        _scopes.append(scope)
        if len(_scopes) == 1:
            _redirect()
        if resources:
            _redirect_visa()
    try:
        yield
    finally:
        with _lock:
            _scopes.remove(scope)
            if not _scopes:
                _restore()


def _parts(
    source: SerialPortPool | VisaSessionManager | SharedResources,
    ports: Mapping[str, Adoption],
    resources: Mapping[str, Adoption],
) -> tuple[SerialPortPool | None, VisaSessionManager | None]:
    """Return where ports and VISA resources come from, as far as they are needed."""
    if isinstance(source, SerialPortPool):
        pool, visa = source, None
    elif hasattr(source, "session"):
        pool, visa = None, cast("VisaSessionManager", source)
    else:
        pool, visa = source.serial, source.visa if resources else None
    checked(
        *(
            Problem(f"{name} cannot be adopted: {what} come from {kind}", f"give adopt() {kind}, or SharedResources")
            for names, present, what, kind in (
                (ports, pool, "serial ports", "a SerialPortPool"),
                (resources, visa, "VISA resources", "a VisaSessionManager"),
            )
            if present is None
            for name in names
        )
    )
    return pool, visa


def _redirect_visa() -> None:
    import pyvisa

    if "open_resource" not in _originals:
        _originals["open_resource"] = pyvisa.ResourceManager.open_resource
        pyvisa.ResourceManager.open_resource = _open_resource  # type: ignore[method-assign, assignment]


def _open_resource(manager: Any, resource_name: str, *args: Any, **settings: Any) -> Any:
    """Open a resource as ``pyvisa.ResourceManager.open_resource`` does, or share it."""
    import pyvisa

    found = None if opens_hardware() else _find_resource(resource_name)
    if found is None:
        return _original("open_resource", pyvisa.ResourceManager.open_resource)(
            manager, resource_name, *args, **settings
        )
    from coexistence.adoption.visa_facade import open_shared

    visa, adoption = found
    arguments = dict(zip(("access_mode", "open_timeout", "resource_pyclass"), args, strict=False)) | settings
    python_class = arguments.pop("resource_pyclass", None)
    for unused in ("access_mode", "open_timeout"):
        arguments.pop(unused, None)
    session = visa.opened(resource_name)
    if session is None:
        terminator = adoption.rules.terminator
        visa.session(
            resource_name, owner=adoption.owner, terminator="\n" if terminator is None else terminator.decode("latin-1")
        )
        session = visa.opened(resource_name)
        assert session is not None
    resource = open_shared(manager, resource_name, python_class, session.channel, adoption.owner, adoption.rules)
    try:
        for name, value in arguments.items():
            if not hasattr(resource, name):
                raise ValueError(f"{name!r} is not a valid attribute for type {type(resource).__name__}")
            setattr(resource, name, value)
    except BaseException:
        resource.close()
        raise
    manager._created_resources.add(resource)
    return resource


def _find_resource(name: Any) -> tuple[VisaSessionManager, Adoption] | None:
    try:
        key = VisaResource.parse(name).key
    except ConfigError:
        return None
    with _lock:
        scopes = tuple(reversed(_scopes))
    for scope in scopes:
        if scope.visa is not None and key in scope.resources:
            return scope.visa, scope.resources[key]
    return None


def _redirect() -> None:
    _originals["open"] = serial.Serial.open
    _originals["serial_for_url"] = serial.serial_for_url
    serial.Serial.open = _open
    serial.serial_for_url = _serial_for_url


def _restore() -> None:
    serial.Serial.open = _originals.pop("open")
    serial.serial_for_url = _originals.pop("serial_for_url")
    if "open_resource" in _originals:
        import pyvisa

        pyvisa.ResourceManager.open_resource = _originals.pop("open_resource")  # type: ignore[method-assign]


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
