"""A serial line on a real pty, at the line's speed, that can be unplugged and plugged in again."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import sys
import termios
import tty
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .instrument import Instrument, LineSettings, World
from .loop import Loop, Timer
from .pacing import PacedLine
from .wire import Wire

XON, XOFF = 0x11, 0x13
_INPUT_LIMIT = 4096
_TIOCGEXCL = 0x80045440
"""Linux: is the terminal in exclusive mode? The termios module does not name it."""
_EXCLUSIVE_CHECK_S = 0.5


class SerialWire(Wire):
    """A pty whose slave is found under a path that stays the same over unplugging.

    The master keeps reading, bytes travel at the line's speed in both directions, and a client that sets another
    baud rate than the instrument's is heard, and hears, only garbage.

    Args:
        loop, world, name, instruments: as for `Wire`.
        path: the symbolic link that stands for the device node.
        line: speed and framing.
        pace: False lets bytes travel in no time.
    """

    def __init__(
        self,
        loop: Loop,
        world: World,
        name: str,
        instruments: Sequence[Instrument],
        *,
        path: Path,
        line: LineSettings,
        pace: bool = True,
    ) -> None:
        super().__init__(loop, world, name, instruments)
        self.path = path
        self.line = line
        self._rng = world.rng(f"{name}:line")
        bits = 1 + line.data_bits + (line.parity != "none") + line.stop_bits
        byte_s = bits / line.baud_rate if pace else 0.0
        # About a millisecond of real time: finer steps would only wake the process more often.
        grain_s = 1e-3 / loop.time_scale
        self._inbound = PacedLine(loop, byte_s, grain_s, self._arrived)
        self._outbound = PacedLine(loop, byte_s, grain_s, self._departed)
        self._master = -1
        self._slave = -1
        self._reading = False
        self._exclusive_timer: Timer | None = None
        self._holders: set[int] = set()
        self._speed = getattr(termios, f"B{line.baud_rate}", None)

    @property
    def port(self) -> str:
        """Path of the pty's stable name."""
        return str(self.path)

    def plug(self) -> None:
        """Make a pty and point the path at it."""
        self._master, self._slave = os.openpty()
        # A descriptor on the slave keeps the pty alive between clients and lets exclusive mode be cleared.
        tty.setraw(self._slave)
        if self._speed is not None:
            attributes = termios.tcgetattr(self._slave)
            attributes[4] = attributes[5] = self._speed
            termios.tcsetattr(self._slave, termios.TCSANOW, attributes)
        os.set_blocking(self._master, False)
        temporary = self.path.with_name(self.path.name + ".new")
        temporary.symlink_to(os.ttyname(self._slave))
        temporary.replace(self.path)
        self.plugged = True
        self._read(True)

    def unplug(self) -> None:
        """Close the pty: clients get an I/O error, bytes under way are gone."""
        self.plugged = False
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self._read(False)
        self._inbound.clear()
        self._outbound.clear()
        if self._exclusive_timer is not None:
            self._exclusive_timer.cancel()
            self._exclusive_timer = None
        for holder in list(self._holders):
            self._release_holder(holder)
        os.close(self._master)
        os.close(self._slave)
        self._master = self._slave = -1
        self.forget(self)

    def send(self, data: bytes) -> None:
        """Let an instrument's bytes leave at the line's speed; nobody hears them while unplugged."""
        if self.plugged and data:
            self._outbound.push(data)

    def truth(self) -> dict[str, Any]:
        """Counters and line settings."""
        return {**super().truth(), "baud_rate": self.line.baud_rate}

    def _read(self, on: bool) -> None:
        self._reading = on
        self.loop.watch(self._master, read=self._readable if on else None)

    def _readable(self) -> None:
        try:
            data = os.read(self._master, _INPUT_LIMIT)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return
        self._watch_exclusive()
        if not self._speed_matches():
            data = self._scrambled(data)
        self._inbound.push(data)
        if len(self._inbound) >= _INPUT_LIMIT:
            # Like a full transmit buffer: the client's next write has to wait.
            self._read(False)

    def _arrived(self, data: bytes) -> None:
        if not self._reading and len(self._inbound) < _INPUT_LIMIT // 2:
            self._read(True)
        if self.line.flow_control == "xonxoff":
            data = self._obey_flow_control(data)
        if data:
            self.hear(self, data)

    def _obey_flow_control(self, data: bytes) -> bytes:
        for byte in data:
            if byte == XOFF:
                self._outbound.pause()
            elif byte == XON:
                self._outbound.resume()
        return bytes(byte for byte in data if byte not in (XON, XOFF))

    def _departed(self, data: bytes) -> None:
        self.bytes_out += len(data)
        if not self._speed_matches():
            data = self._scrambled(data)
        # A client that never reads overruns its buffer and loses bytes, as on a UART.
        with contextlib.suppress(BlockingIOError):
            os.write(self._master, data)

    def _speed_matches(self) -> bool:
        return self._speed is None or termios.tcgetattr(self._slave)[5] == self._speed

    def _scrambled(self, data: bytes) -> bytes:
        return bytes(self._rng.randrange(0x80, 0x100) for _ in data)

    def _watch_exclusive(self) -> None:
        """Clear exclusive mode once its holder is gone: a pty keeps it as long as the master lives.

        Traffic shows that there is a client. After that the end of its process tells, so that nothing polls.
        """
        if self._exclusive_timer is None and not self._holders and self._is_exclusive():
            delay_s = _EXCLUSIVE_CHECK_S / self.loop.time_scale
            self._exclusive_timer = self.loop.call_later(delay_s, self._check_exclusive)

    def _check_exclusive(self) -> None:
        self._exclusive_timer = None
        if not self._is_exclusive():
            return
        for process in _opened_by(os.ttyname(self._slave)):
            # Gone since it was found: then it is no holder either.
            with contextlib.suppress(OSError):
                self._watch_holder(os.pidfd_open(process))
        if not self._holders:
            fcntl.ioctl(self._slave, termios.TIOCNXCL)

    def _watch_holder(self, holder: int) -> None:
        def ended() -> None:
            self._release_holder(holder)
            if not self._holders:
                self._check_exclusive()

        self._holders.add(holder)
        self.loop.watch(holder, read=ended)

    def _release_holder(self, holder: int) -> None:
        self._holders.remove(holder)
        self.loop.watch(holder)
        os.close(holder)

    def _is_exclusive(self) -> bool:
        if sys.platform != "linux":
            return False
        try:
            answer = fcntl.ioctl(self._slave, _TIOCGEXCL, struct.pack("i", 0))
        except OSError:
            return False
        return bool(struct.unpack("i", answer)[0])


def _opened_by(node: str) -> list[int]:
    """Find the other processes of this user that have the device node open."""
    found = []
    for process in os.listdir("/proc"):
        if not process.isdigit() or process == str(os.getpid()):
            continue
        # Processes come and go while one looks, and those of other users do not show what they hold.
        with contextlib.suppress(OSError):
            folder = f"/proc/{process}/fd"
            if any(_leads_to(f"{folder}/{descriptor}", node) for descriptor in os.listdir(folder)):
                found.append(int(process))
    return found


def _leads_to(link: str, node: str) -> bool:
    try:
        return os.readlink(link) == node
    except OSError:
        return False
