"""Thorlabs Elliptec module (ELL14 rotation mount and relatives), blocking driver and v2 device."""

from __future__ import annotations

import threading
import time
from typing import Any

from ophyd.status import DeviceStatus

from coexistence import CommandTimeout, Connection, Rank
from devices.errors import MoveTimedOut
from devices.options import ElliptecOptions
from devices.protocols.conversation import Stamped
from devices.protocols.elliptec import ElliptecProtocol, Motion
from devices.v2.driver import BlockingDriver, Value
from devices.v2.legacy import DriverSignal
from devices.v2.positioner import LegacyPositioner, Progress

_LISTEN_PERIOD_S = 0.04
_LOOK_PERIOD_S = 0.15
_CONFIRM_PERIOD_S = 1.0
_LOOK_TIMEOUT_S = 0.3


class ElliptecDriver(BlockingDriver[ElliptecProtocol]):
    """Blocking driver of one Elliptec module. The wire is free for other modules while this one moves.

    Parameters
    ----------
    connection
        Wire, owner and default timeout.
    options
        Options of the module, see :class:`devices.options.ElliptecOptions`.
    """

    readback = Value[float]()
    """Position in deg or mm."""
    velocity = Value[int]()
    """Velocity in percent of the fastest."""
    jog_step = Value[float]()
    """Jog step in deg or mm."""
    home_offset = Value[float]()
    """Offset of the home position in deg or mm."""
    serial_number = Value[str]()
    """The module's serial number."""
    firmware = Value[str]()
    """The module's firmware."""
    pulses_per_unit = Value[float]()
    """Encoder pulses for one deg or mm."""

    def __init__(self, connection: Connection, options: ElliptecOptions | None = None) -> None:
        self.options = options or ElliptecOptions()
        super().__init__(connection, self.options.protocol())
        self._motion: Motion | None = None
        self._next_look = 0.0
        self._next_confirm = 0.0
        self._listening = threading.Lock()
        self._stop_listening: Any = None

    def close(self) -> None:
        """Leave the wire to others."""
        super().close()
        with self._listening:
            if self._stop_listening is not None:
                self._stop_listening()
                self._stop_listening = None

    def start(self, motion: Motion) -> None:
        """Start a motion and return."""
        self._listen()
        self._motion = motion
        self._next_look = time.monotonic() + _LOOK_PERIOD_S
        self._next_confirm = time.monotonic() + _CONFIRM_PERIOD_S
        self.dialogue.hold(lambda: self.protocol.start(motion))

    def ask_motion(self) -> Progress:
        """Ask how the motion started last goes on.

        Raises
        ------
        InstrumentFault
            When the module reports a fault.
        NotOnTarget
            When it stands still elsewhere.
        """
        motion = self._motion
        if motion is None:
            return Progress(False, self.read("readback"))
        self.connection.collect_strays()
        now = time.monotonic()
        position: Stamped[float] | None = None
        if not motion.ended and (motion.doubtful or now >= self._next_confirm):
            self.dialogue.hold(lambda: self.protocol.confirm(motion))
            self._next_confirm = time.monotonic() + _CONFIRM_PERIOD_S
        elif self.options.live_position and motion.tells_its_position and not motion.ended and now >= self._next_look:
            position = self._look(motion)
            self._next_look = time.monotonic() + _LOOK_PERIOD_S
        if not motion.ended:
            return Progress(True, position)
        self._motion = None
        if motion.error is not None:
            raise motion.error.located(self.connection.owner, self.connection.description)
        return Progress(False, self.read("readback"))

    def move_to(self, position: float) -> None:
        """Move to a position in deg or mm, and return when it is reached."""
        self._complete(self.protocol.move(position), f"the motion to {position:g}")

    def home(self, clockwise: bool = True) -> None:
        """Search the home position, and return when it is found; never repeated by itself."""
        self._complete(self.protocol.home(clockwise), "homing")

    def jog(self, forward: bool = True) -> None:
        """Move by one jog step, and return when that is done."""
        self._complete(self.protocol.jog(forward), "the jog")

    def stop(self) -> None:
        """Stop the motion; from any thread, before everybody else on the wire."""
        self.dialogue.hold(self.protocol.stop, rank=Rank.URGENT)
        motion = self._motion
        if motion is not None:
            motion.doubtful = True

    def _complete(self, motion: Motion, what: str) -> None:
        deadline = time.monotonic() + self.options.move_timeout
        self.start(motion)
        while self.ask_motion().moving:
            if time.monotonic() >= deadline:
                self.stop()
                raise MoveTimedOut(self.connection.owner, what, self.options.move_timeout)
            time.sleep(_LISTEN_PERIOD_S)

    def _look(self, motion: Motion) -> Stamped[float] | None:
        try:
            return self.dialogue.hold(lambda: self.protocol.look(motion), timeout=_LOOK_TIMEOUT_S, rank=Rank.BACKGROUND)
        except CommandTimeout as error:
            motion.unanswered += error.sent
        except TimeoutError:
            pass
        return None

    def _listen(self) -> None:
        with self._listening:
            if self._stop_listening is None:
                self._stop_listening = self.connection.add_stray_listener(self._hear)

    def _hear(self, line: bytes, _timestamp: float) -> bool:
        motion = self._motion
        return motion is not None and motion.hear(line)


class Elliptec(LegacyPositioner):
    """Thorlabs Elliptec module as a v2 device: position in degrees (rotary) or millimetres (linear).

    Parameters
    ----------
    connection
        Wire, owner and default timeout. Several modules share one wire.
    name
        Name of the device and of the position's column.
    options
        Options of the module, see :class:`devices.options.ElliptecOptions`; ``address`` for one.
    """

    readback = DriverSignal(kind="hinted")
    velocity = DriverSignal(kind="config")
    jog_step = DriverSignal(kind="config")
    home_offset = DriverSignal(kind="config")
    serial_number = DriverSignal(kind="config")
    firmware = DriverSignal(kind="config")
    pulses_per_unit = DriverSignal(kind="config")

    def __init__(self, connection: Connection, *, name: str, **options: Any) -> None:
        own, rest = ElliptecOptions.split(options)
        super().__init__(
            ElliptecDriver(connection, own),
            name=name,
            timeout=own.move_timeout,
            poll_period_s=_LISTEN_PERIOD_S,
            **rest,
        )

    @property
    def egu(self) -> str:
        """Units of the position, from the module."""
        return self.driver.protocol.units

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest position that may be asked for, from the options or the module."""
        return self.driver.protocol.limits

    @property
    def tolerance(self) -> float:
        """How far from where it was sent it may stand and still be there, from the options."""
        return self.driver.protocol.tolerance

    def begin_motion(self, target: float) -> None:
        """Start the motion."""
        self.driver.start(self.driver.protocol.move(target))

    def ask_motion(self) -> Progress:
        """Listen for the module's late word, and ask for the position now and then."""
        return self.driver.ask_motion()

    def halt_motion(self) -> None:
        """Send the stop before everybody else."""
        self.driver.stop()

    def home(self, clockwise: bool = True) -> DeviceStatus:
        """Search the home position; returns a status. Never repeated by itself."""
        limit = self.timeout + self.timeout_s
        return self.do_and_look(lambda: self.driver.home(clockwise), f"homing {self.name}", limit)

    def jog(self, forward: bool = True) -> DeviceStatus:
        """Move by one jog step; returns a status."""
        limit = self.timeout + self.timeout_s
        return self.do_and_look(lambda: self.driver.jog(forward), f"jogging {self.name}", limit)
