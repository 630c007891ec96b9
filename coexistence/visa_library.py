"""VISA libraries: one resource manager for each backend and process, whoever uses it.

Closing pyvisa's resource manager ends the sessions of everybody who has one for the same library, so it is closed
only after the last user here, and only if it was opened here and nobody else has sessions left.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import Any

from coexistence.errors import ConfigError, Problem
from coexistence.visa_resource import VisaResource

OPEN_TIMEOUT_S = 2.0
"""How long opening a resource may take where the library lets one choose, in seconds."""

_KINDS = {
    "py": "PyVISA-py, pure Python, a dependency of this package",
    "ivi": "the VISA library of a vendor",
    "sim": "PyVISA-sim, instruments described in a YAML file",
}

_VENDOR_REMEDY = (
    "install NI-VISA (National Instruments), IO Libraries Suite (Keysight) or R&S VISA (Rohde & Schwarz) on this "
    "machine, or give the library's path as backend 'path@ivi'; without one, backend '@py' reaches TCP, USB and GPIB "
    "instruments (docs/visa.md)"
)

_PY_REMEDIES = {
    "USB": "install the Python package 'pyusb' and libusb on this machine, or use backend '@ivi' with a vendor's VISA",
    "GPIB": "install linux-gpib, or the Python package 'gpib-ctypes' and the driver of the GPIB board, or use backend "
    "'@ivi' with a vendor's VISA",
}

_libraries: dict[str, VisaLibrary] = {}
_libraries_lock = threading.Lock()


class VisaLibrary:
    """A backend's library; use :meth:`shared` to get the one of this process, and :meth:`release` to give it back."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self._users = 0
        self._opening = threading.Lock()
        self._manager: Any = None
        self._opened_here = False

    @classmethod
    def shared(cls, backend: str) -> VisaLibrary:
        """Return the library of a backend: ``@py``, ``@ivi``, ``@sim``, each with an optional path before it.

        Raises
        ------
        ConfigError
            There is no such backend, or what it needs is not installed; says what to install and where.
        """
        _check_backend(backend)
        with _libraries_lock:
            library = _libraries.get(backend) or cls(backend)
            library.resource_manager()
            library._users += 1
            return _libraries.setdefault(backend, library)

    @property
    def kind(self) -> str:
        """``py``, ``ivi`` or ``sim``."""
        return self.backend.rpartition("@")[2]

    def resource_manager(self) -> Any:
        """Return pyvisa's resource manager, opened again if somebody closed it."""
        with self._opening:
            manager = self._manager
            if manager is None or manager._session is None:
                from pyvisa.highlevel import ResourceManager, open_visa_library

                try:
                    visalib = open_visa_library(self.backend)
                    self._opened_here = visalib.resource_manager is None
                    manager = self._manager = ResourceManager(visalib)
                except (OSError, ValueError, ImportError) as error:
                    raise _cannot_load(self.backend, self.kind, error) from error
            return manager

    def open(self, resource: VisaResource) -> tuple[Any, Any]:
        """Open a resource; return pyvisa's library object and the session's number.

        Raises
        ------
        ConfigError
            The backend lacks what this kind of resource needs; says what to install.
        Exception
            Whatever the backend raises when the instrument does not answer.
        """
        manager = self.resource_manager()
        visalib = manager.visalib
        if self.kind == "py":
            self._check_support(resource)
        with manager.ignore_warning(*_expected_statuses()):
            session, _ = manager.open_bare_resource(resource.name, open_timeout=int(OPEN_TIMEOUT_S * 1000))
        return visalib, session

    def _check_support(self, resource: VisaResource) -> None:
        """Raise if PyVISA-py could not load what this kind of resource needs; it tried when it was loaded itself."""
        if resource.interface in _PY_REMEDIES and f"pyvisa_py.{resource.interface.lower()}" not in sys.modules:
            raise ConfigError(
                Problem(
                    f"{resource.name} needs support for {resource.interface} that backend '{self.backend}' lacks here",
                    _PY_REMEDIES[resource.interface],
                )
            )

    def release(self) -> None:
        """Give the library back; the last one closes what was opened here."""
        with _libraries_lock:
            self._users -= 1
            if self._users > 0:
                return
            _libraries.pop(self.backend, None)
            manager, self._manager = self._manager, None
        if manager is not None and self._opened_here and not manager.list_opened_resources():
            with contextlib.suppress(Exception):  # a library that fails to close cannot be helped any more
                manager.close()


def _expected_statuses() -> tuple[Any, ...]:
    from pyvisa.constants import StatusCode

    return StatusCode.success_device_not_present, StatusCode.success_max_count_read


def _check_backend(backend: object) -> None:
    kind = backend.rpartition("@")[2] if isinstance(backend, str) and "@" in backend else None
    if kind not in _KINDS:
        known = "; ".join(f"'@{name}' ({meaning})" for name, meaning in _KINDS.items())
        raise ConfigError(Problem(f"there is no VISA backend {backend!r}", f"use {known}"))


def _cannot_load(backend: str, kind: str, error: Exception) -> ConfigError:
    if kind == "ivi":
        return ConfigError(Problem(f"no VISA library was found for backend '{backend}'", _VENDOR_REMEDY))
    reason = " ".join(str(error).split()) or type(error).__name__
    remedy = f"install the Python package 'pyvisa-{kind}'" if "package" in reason or "module" in reason else ""
    return ConfigError(Problem(f"VISA backend '{backend}' cannot be loaded: {reason}", remedy))
