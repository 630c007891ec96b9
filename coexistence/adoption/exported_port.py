"""A shared wire as a virtual port that any program can open."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from types import TracebackType
from typing import Any, Self

from coexistence.adoption.lease import Lease
from coexistence.adoption.rules import rules_of
from coexistence.channel import Channel
from coexistence.errors import CoexistenceError, ConfigError, Problem

try:
    import fcntl
    import termios
    import tty
except ImportError:  # Windows has no ptys
    _HAS_PTYS = False
else:
    _HAS_PTYS = True

logger = logging.getLogger("coexistence.adoption")

_BULK = 65_536
_MOMENT_S = 0.02


class ExportedPort:
    """A virtual serial port on a pty; a program that opens it works on the shared wire.

    What the program writes opens leases as :class:`LeaseRules` say. It cannot be seen whether a program reads, so the
    lease of a command whose reply has not begun ends after ``quiet_time``. Line settings that the program chooses have
    no effect, the wire has its own; a pty has no modem lines.

    Parameters
    ----------
    channel
        The wire's channel.
    owner
        The program's name to others.
    link
        Where to put a symbolic link to the pty.
    **rules
        Fields of :class:`LeaseRules`.

    Raises
    ------
    ConfigError
        A rule cannot be right, there is something else at ``link``, or this system has no ptys.
    """

    def __init__(self, channel: Channel, owner: str, *, link: str | None = None, **rules: Any) -> None:
        if not _HAS_PTYS:
            raise ConfigError(
                Problem("this system has no ptys, so that ports cannot be exported", "use shared:// URLs")
            )
        if not isinstance(owner, str) or not owner:
            raise ConfigError(Problem(f"the program must be named by a non-empty string, not {owner!r}"))
        self.owner = owner
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self._wake_read, self._wake_write = os.pipe()
        self._pty = os.ttyname(self._slave)
        self.path = self._pty
        """What to open: the link, if there is one, else the pty itself."""
        self._link = link
        try:
            self._outlet = _Outlet(self._master)
            self._lease = Lease(channel, owner, rules_of(None, rules), self._outlet, listens=True)
            if link is not None:
                self._make_link(link)
        except BaseException:
            self._close_descriptors()
            raise
        self._closed = False
        self._ended = False
        self._ending = threading.RLock()
        self._thread = threading.Thread(target=self._carry, name=f"export of {channel.name} to {owner}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ExportedPort {self.path} on {self._lease.channel.name} for {self.owner}>"

    def close(self) -> None:
        """Remove the port; programs that have it open get an I/O error. Harmless when closed already."""
        with self._ending:
            if self._ended:
                return
            self._closed = True
            self._lease.close()
            os.write(self._wake_write, b"\0")
            if self._thread is not threading.current_thread():
                while self._thread.is_alive():
                    self._lease.cancel_write()  # again and again, for a write may be just about to join the line
                    self._thread.join(_MOMENT_S)
            if self._link is not None:
                with contextlib.suppress(OSError):
                    if os.readlink(self._link) == self._pty:
                        os.unlink(self._link)
            self._outlet.close()
            self._ended = True
            self._close_descriptors()

    def _make_link(self, link: str) -> None:
        if os.path.lexists(link) and not os.path.islink(link):
            raise ConfigError(Problem(f"{link} exists and is no symbolic link", "choose another place for the link"))
        temporary = f"{link}.{os.getpid()}"
        try:
            os.symlink(self.path, temporary)
            os.replace(temporary, link)
        except OSError as error:
            raise ConfigError(Problem(f"the link {link} cannot be made: {error}")) from error
        self.path = link

    def _close_descriptors(self) -> None:
        for descriptor in (self._master, self._slave, self._wake_read, self._wake_write):
            os.close(descriptor)

    def _carry(self) -> None:
        """Bring what the program writes to the wire."""
        poller = select.poll()
        poller.register(self._master, select.POLLIN)
        poller.register(self._wake_read, select.POLLIN)
        while not self._closed:
            ready = poller.poll()
            if self._closed:
                return
            if not any(descriptor == self._master for descriptor, _ in ready):
                continue
            try:
                data = os.read(self._master, _BULK)
            except BlockingIOError:
                continue
            # Exclusive mode would outlive the program that set it and lock out the next one.
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._slave, termios.TIOCNXCL)
            self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        try:
            self._lease.write(data, None)
        except CoexistenceError as error:
            if not self._closed:
                logger.warning(
                    "%r that '%s' wrote to %s was not sent: %s",
                    data,
                    self.owner,
                    self.path,
                    error,
                    extra={"wire": self._lease.channel.name, "owner": self.owner},
                )


class _Outlet:
    """An inbox that passes everything on to a pty."""

    waiting = False
    """It cannot be known whether the program reads."""
    waits_until = 0.0
    touched = 0.0
    gave_up = 0.0

    def __init__(self, master: int) -> None:
        self.changed = threading.Condition()
        self._master = master

    def close(self) -> None:
        """Drop what comes from now on: the descriptor will be another's."""
        with self.changed:
            self._master = -1

    def put(self, data: bytes, *, late: bool) -> None:  # noqa: ARG002 - an inbox's signature
        if self._master < 0:
            return
        # A full buffer overflows, as a serial port's does when the program does not read.
        with contextlib.suppress(BlockingIOError):
            os.write(self._master, data)

    def forget_late(self) -> None:
        pass

    def fail(self, error: BaseException) -> None:
        pass

    def answered(self) -> tuple[bool, bool]:
        return False, False
