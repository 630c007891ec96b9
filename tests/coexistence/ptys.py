"""Instruments for tests of wires: real ptys and sockets, answered by a thread of the test's own process.

An instrument answers one question after the other, as real ones do. It can be slow, silent, unplugged and plugged in
again, and it counts the bytes that nobody has read.
"""

import contextlib
import fcntl
import os
import select
import socket
import struct
import termios
import threading
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator, MutableSequence
from pathlib import Path
from typing import TYPE_CHECKING

from coexistence import CommandTimeout, SharedSerialPort

if TYPE_CHECKING:  # the programs of some tests use instruments, too, and start without it
    import pytest

NEVER_S = 86_400.0
"""As a delay: no reply before :meth:`Instrument.hurry`."""

PATIENCE_S = 5.0
"""What exchanges on a test's port may take, where they are not to time out: a busy machine stands still for a while."""

Answer = Callable[[bytes], bytes | None]
"""From a command without terminator to the whole reply, or None for no reply."""


def echo(command: bytes) -> bytes | None:
    """Answer ``Q<anything>?`` with ``A<anything>``: each question has its own answer, other commands have none."""
    if command.startswith(b"Q") and command.endswith(b"?"):
        return b"A" + command[1:-1] + b"\n"
    return None


class Instrument:
    """The part that pty and TCP instruments share: a thread that reads commands and writes replies.

    Parameters
    ----------
    answer
        What it says.
    terminator
        What ends a command.
    delay
        Seconds from a command to its reply; a function of the command for different ones. ``NEVER_S``: until it is told
        to hurry.
    """

    def __init__(
        self,
        answer: Answer = echo,
        *,
        terminator: bytes = b"\n",
        delay: float | Callable[[bytes], float] = 0.0,
    ) -> None:
        self.answer = answer
        self.terminator = terminator
        self.delay = delay
        self.silent = False
        """While true, commands are read and not answered."""
        self.deaf = False
        """While true, nothing is read from the line."""
        self.received: MutableSequence[bytes] = []
        self._write_lock = threading.Lock()
        self._wake_read, self._wake_write = os.pipe()
        self._stopping = False
        self._descriptor = -1
        self._watched = -1
        self._pending: deque[bytes] = deque()
        self._free_at = 0.0
        self._in_a_hurry = False
        self._resting = threading.Event()
        self._wanted_at_rest = False
        self._thread: threading.Thread | None = None

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"instrument {self.name}", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        raise NotImplementedError

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def say(self, data: bytes) -> None:
        """Write without being asked."""
        with self._write_lock:
            self._write(data)

    def _write(self, data: bytes) -> None:
        descriptor = self._descriptor
        while data and descriptor >= 0:
            with contextlib.suppress(BlockingIOError):
                written = os.write(descriptor, data)
                data = data[written:]
                continue
            if not select.select([], [descriptor], [], 1.0)[1] or self._stopping:
                return  # nobody reads

    def wake(self) -> None:
        os.write(self._wake_write, b"\0")

    def hurry(self) -> None:
        """Answer what was asked now, and without delay from now on."""
        self._in_a_hurry = True
        self.wake()

    def settle(self) -> None:
        """Wait until all that was sent has been read, and answered unless that is to wait until it hurries."""
        self._resting.clear()
        self._wanted_at_rest = True
        self.wake()
        assert self._resting.wait(10.0), "the instrument did not come to rest"

    def _rest(self, descriptor: int) -> None:
        waits = bool(self._pending) and self._patience() < NEVER_S / 2
        if self._wanted_at_rest and not waits and not select.select([descriptor], [], [], 0.0)[0]:
            self._wanted_at_rest = False
            self._resting.set()

    def _accept(self, timeout: float | None) -> None:
        """Wait for somebody to talk to."""
        select.select([self._wake_read], [], [], timeout)

    def _gone(self) -> None:
        """Note that nobody is there to talk to."""

    def _run(self) -> None:
        buffer = b""
        while not self._stopping:
            timeout = self._patience() if self._pending else None
            descriptor = self._watched = self._descriptor
            if descriptor < 0:
                buffer = b""
                self._pending.clear()
                self._accept(timeout)
                self._clear_wake()
                continue
            watched = [self._wake_read] if self.deaf else [self._wake_read, descriptor]
            try:
                ready, _, _ = select.select(watched, [], [], timeout)
            except (OSError, ValueError):
                continue
            if self._wake_read in ready:
                self._clear_wake()
            if descriptor in ready and descriptor == self._descriptor:
                try:
                    chunk = os.read(descriptor, 65536)
                except BlockingIOError:
                    continue
                except OSError:
                    chunk = b""
                if not chunk:
                    self._gone()
                    continue
                buffer += chunk
                *commands, buffer = buffer.split(self.terminator)
                for command in commands:
                    self._take(command)
            self._reply()
            self._rest(descriptor)

    def _clear_wake(self) -> None:
        if select.select([self._wake_read], [], [], 0.0)[0]:
            os.read(self._wake_read, 4096)

    def _take(self, command: bytes) -> None:
        self.received.append(command)
        if not self._pending:
            self._free_at = time.perf_counter() + self._delay_of(command)
        self._pending.append(command)

    def _delay_of(self, command: bytes) -> float:
        return self.delay(command) if callable(self.delay) else self.delay

    def _patience(self) -> float:
        return 0.0 if self._in_a_hurry else max(self._free_at - time.perf_counter(), 0.0)

    def _reply(self) -> None:
        while self._pending and not self._patience():
            command = self._pending.popleft()
            reply = None if self.silent else self.answer(command)
            if reply is not None:
                with contextlib.suppress(OSError):
                    self.say(reply)
            if self._pending:
                self._free_at = time.perf_counter() + self._delay_of(self._pending[0])

    def stop(self) -> None:
        """End the thread and close everything."""
        self._stopping = True
        self.wake()
        assert self._thread is not None
        self._thread.join(5.0)
        assert not self._thread.is_alive()
        self._close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _close(self) -> None:
        raise NotImplementedError


class PtyInstrument(Instrument):
    """An instrument on a pty, behind a symlink when ``link`` is given.

    ``kill`` unplugs it; ``plug_in`` makes a new pty, as an adapter that was plugged in again gets a new number, and
    lets the symlink point there.
    """

    def __init__(self, answer: Answer = echo, *, link: Path | None = None, **options) -> None:
        super().__init__(answer, **options)
        self._link = link
        self._slave = -1
        self._killing = threading.Lock()
        self.plug_in()
        self._start()

    @property
    def name(self) -> str:
        return self.device

    @property
    def path(self) -> str:
        """What to open: the symlink, or the pty itself."""
        return str(self._link) if self._link is not None else self.device

    def plug_in(self) -> None:
        master, slave = os.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        self.device = os.ttyname(slave)
        self._slave = slave
        if self._link is not None:
            fresh = self._link.with_name(self._link.name + ".new")
            with contextlib.suppress(FileNotFoundError):
                fresh.unlink()
            fresh.symlink_to(self.device)
            fresh.replace(self._link)
        self._descriptor = master
        if self._thread is not None:
            self.wake()

    def kill(self) -> None:
        """Unplug."""
        if self._link is not None:
            self._link.unlink(missing_ok=True)
        self._close()
        self.wake()

    def _close(self) -> None:
        with self._write_lock:
            master, self._descriptor = self._descriptor, -1
            slave, self._slave = self._slave, -1
        if master >= 0:
            # Without the lock: the instrument may be about to say something, and then waits for it.
            self._let_go_of(master)
            with contextlib.suppress(OSError, AttributeError):
                fcntl.ioctl(slave, termios.TIOCNXCL)
            os.close(slave)
            os.close(master)

    def _let_go_of(self, master: int) -> None:
        """A pty lives until nobody waits for it any more."""
        self.wake()
        while self._watched == master and self._thread is not None and self._thread.is_alive():
            time.sleep(0.0005)

    @property
    def left_over(self) -> int:
        """Bytes written by the instrument that nobody has read."""
        return struct.unpack("i", fcntl.ioctl(self._slave, termios.FIONREAD, b"\0\0\0\0"))[0]

    @property
    def line(self) -> list:
        """The line's settings as :func:`termios.tcgetattr` gives them."""
        return termios.tcgetattr(self._slave)


class TcpInstrument(Instrument):
    """An instrument behind a TCP socket; one client at a time."""

    def __init__(self, answer: Answer = echo, *, port: int = 0, **options) -> None:
        super().__init__(answer, **options)
        self._listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
        self.port = self._listener.getsockname()[1]
        self._connection: socket.socket | None = None
        self._start()

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def path(self) -> str:
        return f"socket://127.0.0.1:{self.port}"

    def _accept(self, timeout: float | None) -> None:
        listener = self._listener
        ready, _, _ = select.select([self._wake_read, listener], [], [], timeout)
        if listener in ready:
            self._connection, _ = listener.accept()
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection.setblocking(False)
            self._descriptor = self._connection.fileno()

    def _gone(self) -> None:
        with self._write_lock:
            self._descriptor = -1
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _close(self) -> None:
        self._gone()
        self._listener.close()


@contextlib.contextmanager
def instrument_and_port(answer: Answer = echo, *, port: dict | None = None, **options) -> Iterator[tuple]:
    """Yield an instrument on a pty and the opened shared port to it."""
    with PtyInstrument(answer, **options) as instrument:
        shared = SharedSerialPort(instrument.path, **{"timeout": PATIENCE_S, **(port or {})})
        try:
            yield instrument, shared
        finally:
            shared.close()


def unanswered(
    query: Callable[..., object], question: bytes | str, *, timeout: float = 0.05, **options
) -> CommandTimeout:
    """Ask what is not answered in time; return the error.

    It is asked until it was sent: a machine that stands still may take all the time before that.
    """
    while True:
        try:
            query(question, timeout=timeout, **options)
        except CommandTimeout as error:
            if error.sent:
                return error
        else:
            raise AssertionError(f"{question!r} was answered")


def revoke_before_it_sends(owner: str, port: SharedSerialPort, monkeypatch: "pytest.MonkeyPatch") -> None:
    """Have a hold end from outside when the next command is about to be sent under it."""
    look = port._transport.take_lines

    def look_as_it_is_revoked(terminator: bytes) -> list[bytes]:
        monkeypatch.setattr(port._transport, "take_lines", look)
        assert port.revoke(owner)
        return look(terminator)

    monkeypatch.setattr(port._transport, "take_lines", look_as_it_is_revoked)


def unread(instrument: PtyInstrument, port: SharedSerialPort) -> bytes:
    """Return what neither the kernel's nor the port's buffer should hold when all exchanges are over."""
    return b"?" * instrument.left_over + port._transport.unread()
