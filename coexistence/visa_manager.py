"""All VISA resources of a program: one session and one line for each, however many use it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self

from coexistence.channel import Channel
from coexistence.errors import ConfigError, Problem, WireClosed, checked
from coexistence.serial_port import SerialPortPool
from coexistence.visa_library import VisaLibrary
from coexistence.visa_resource import VisaResource, serial_path
from coexistence.visa_session import VisaSession, VisaSessionHandle
from coexistence.visa_transport import make_visa_transport
from coexistence.wire import Wire
from coexistence.wire_statistics import WireStatistics

VISA_KIND = 1
"""VISA wires come after serial ones in the global order of acquisition."""


@dataclass
class VisaStatistics:
    """A snapshot of the figures of all wires with VISA sessions; serial ports count with all their users."""

    total_commands: int = 0
    """Commands, with and without reply, also those that failed."""
    timeouts: int = 0
    """Replies that did not come in time, and commands whose time was over before they could be sent."""
    errors: int = 0
    """Commands that ended otherwise than by a reply or a timeout."""
    reconnects: int = 0
    wires: dict[str, WireStatistics] = field(default_factory=dict)
    """The figures of each wire, by its name: a resource's, or a GPIB board's."""


class _Entry:
    """A resource that somebody asked for; its lock is held while it is opened."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.session: VisaSession | None = None
        self.settings: dict[str, Any] = {}


class VisaSessionManager:
    """Opens each VISA resource once and shares it among threads and tasks.

    Different resources work in parallel; the devices of one GPIB board share the board's line, and a serial resource
    is its port of the serial pool: the same wire, the same place in the order.

    Parameters
    ----------
    backend
        ``@py`` (PyVISA-py: needs no vendor's VISA), ``@ivi`` (a vendor's), or ``@sim`` (PyVISA-sim); a path may stand
        before the ``@``: a library for ``ivi``, a YAML file for ``sim``.
    pool
        Where serial resources come from. Default: a pool of its own, which is closed with the manager.
    check_order
        Whether to insist on the global order of acquisition.
    log_size
        How many exchanges each wire's log keeps.

    Raises
    ------
    ConfigError
        There is no such backend, or what it needs is not installed.
    """

    def __init__(
        self,
        backend: str = "@py",
        *,
        pool: SerialPortPool | None = None,
        check_order: bool = True,
        log_size: int = 1000,
    ) -> None:
        self._library = VisaLibrary.shared(backend)
        self._holds_library = True
        self.backend = backend
        self._pool = SerialPortPool() if pool is None else pool
        self._owns_pool = pool is None
        self._check_order = check_order
        self._log_size = log_size
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._wires: dict[str, Wire] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<VisaSessionManager {self.backend} with {len(self.resources)} resources>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def session(
        self,
        resource: str,
        *,
        owner: str,
        timeout: float = 2.0,
        terminator: str = "\n",
        write_terminator: str | None = None,
        **line: Any,
    ) -> VisaSessionHandle:
        """Return a handle of a resource, opened if it was not. Blocks while it is opened.

        Parameters
        ----------
        resource
            A VISA resource string, in any spelling.
        owner
            A stable name; others see it in their errors and it has statistics of its own.
        timeout
            The handle's default for exchanges, in seconds.
        terminator
            Ends a reply, and is taken off it. Where messages have an end of their own (all but sockets and serial
            lines) that ends the reply.
        write_terminator
            Ends a command. Default: as ``terminator``.
        line
            Settings of a serial resource's line, as for :class:`SharedSerialPort`.

        Raises
        ------
        ConfigError
            A value cannot be right, the resource is open with other settings, or the backend lacks what it needs.
        WireDisconnected
            The instrument does not answer.
        WireInUse
            Another program has it.
        WireClosed
            The manager has been closed.
        """
        parsed = VisaResource.parse(resource)
        ending = terminator if write_terminator is None else write_terminator
        checked(*_check_terminator("terminator", terminator), *_check_terminator("write_terminator", ending))
        is_port = parsed.interface == "ASRL" and self._library.kind != "sim"
        if line and not is_port:
            raise ConfigError(Problem(f"{parsed.name} has no line settings such as {', '.join(line)}"))
        settings = {"terminator": terminator, "write_terminator": ending}
        with self._lock:
            if self._closed:
                raise WireClosed(parsed.name, owner)
            entry = self._entries.setdefault(parsed.key, _Entry())
        with entry.lock:
            session = entry.session
            if session is None or session.channel.wire.closed:
                channel = (
                    self._pool.get(serial_path(parsed), terminator=terminator.encode("latin-1"), **line)
                    if is_port
                    else self._open(parsed, owner, terminator.encode("latin-1"), timeout)
                )
                session = entry.session = VisaSession(channel, write_terminator=ending.encode("latin-1"))
                entry.settings = settings
            else:
                if line:
                    self._pool.get(serial_path(parsed), **line)
                _check_same(parsed.name, entry.settings, settings)
        return VisaSessionHandle(session, owner, timeout=timeout)

    def opened(self, resource: str) -> VisaSession | None:
        """Return a resource's session if it is open, and open nothing."""
        with self._lock:
            entry = self._entries.get(VisaResource.parse(resource).key)
        session = None if entry is None else entry.session
        return None if session is None or session.channel.wire.closed else session

    def _open(self, resource: VisaResource, owner: str, terminator: bytes, timeout: float) -> Channel:
        name = resource.wire_name
        with self._lock:
            wire = self._wires.get(name)
            if wire is None or wire.closed:
                wire = self._wires[name] = Wire(
                    name, order=(VISA_KIND, name), check_order=self._check_order, log_size=self._log_size
                )
        channel = Channel(wire, make_visa_transport(self._library, resource), terminator=terminator, timeout=timeout)
        if self._closed:
            channel.close()
            raise WireClosed(resource.name, owner)
        return channel

    @property
    def _sessions(self) -> list[VisaSession]:
        with self._lock:
            entries = list(self._entries.values())
        return [entry.session for entry in entries if entry.session is not None]

    @property
    def resources(self) -> list[str]:
        """The names of the resources that are open."""
        return [session.channel.name for session in self._sessions if not session.channel.wire.closed]

    @property
    def wires(self) -> list[Wire]:
        """The wires of the sessions, serial ports included."""
        return list({id(session.channel.wire): session.channel.wire for session in self._sessions}.values())

    @property
    def stats(self) -> VisaStatistics:
        """A snapshot of counts and times of all sessions, also for each wire."""
        total = VisaStatistics()
        for wire in self.wires:
            figures = wire.statistics
            total.wires[wire.name] = figures
            total.total_commands += figures.exchanges
            total.timeouts += figures.timeouts
            total.errors += figures.errors
            total.reconnects += figures.reconnects
        return total

    def list_resources(self, query: str = "?*") -> list[str]:
        """Return what the backend finds, which takes seconds; sockets it cannot find.

        Parameters
        ----------
        query
            A VISA resource expression, such as ``GPIB?*::INSTR``.
        """
        return list(self._library.resource_manager().list_resources(query))

    def close(self) -> None:
        """Close all sessions: those who wait or hold get an error, what is on the wires is broken off.

        Serial ports are left to their pool unless the manager made it. Takes about a second at most, unless a library
        blocks longer; a second call does what Ctrl-C kept the first one from.
        """
        with self._lock:
            self._closed = True
            wires = [wire for wire in self._wires.values() if not wire.released]
        if wires:
            with ThreadPoolExecutor(len(wires), thread_name_prefix="visa close") as closing:
                list(closing.map(Wire.close, wires))
        if self._owns_pool:
            self._pool.close()
        with self._lock:
            holds, self._holds_library = self._holds_library, False
        if holds:
            self._library.release()


def _check_terminator(name: str, terminator: object) -> list[Problem]:
    if isinstance(terminator, str) and all(ord(character) < 256 for character in terminator):
        return []
    hint = f"write it as text: {terminator.decode('latin-1')!r}" if isinstance(terminator, bytes) else ""
    return [Problem(f"{name} must be a string in Latin-1, not {terminator!r}", hint)]


def _check_same(name: str, present: dict[str, Any], wanted: dict[str, Any]) -> None:
    checked(
        *(
            Problem(f"{name} is open with {setting} {present[setting]!r}, and {value!r} was asked for")
            for setting, value in wanted.items()
            if present[setting] != value
        )
    )
