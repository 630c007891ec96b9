"""Blocking drivers and positioners for motions that are followed by asking."""

from __future__ import annotations

import time
from typing import Any

from coexistence import Connection, Rank
from devices.errors import MoveTimedOut
from devices.protocols.motion import PolledMotion
from devices.v2.driver import BlockingDriver, Value
from devices.v2.legacy import DriverSignal
from devices.v2.positioner import LegacyPositioner, Progress

POLL_PERIOD_S = 0.05


class PolledDriver(BlockingDriver[PolledMotion]):
    """Blocking driver of something that moves and can be asked how far it is.

    Parameters
    ----------
    connection
        Wire, owner and default timeout.
    protocol
        What to say about the motion.
    move_timeout
        Longest duration of a motion in s.
    """

    readback = Value[float]()
    """Where it is."""

    def __init__(self, connection: Connection, protocol: PolledMotion, *, move_timeout: float) -> None:
        super().__init__(connection, protocol)
        self.move_timeout = move_timeout
        self._target: float | None = None

    def connect(self) -> None:
        """Learn units and limits; the wire's own instrument has been connected before."""
        self.identity = self.dialogue.hold(self.protocol.identify)

    def start_move(self, position: float) -> None:
        """Start a motion and return."""
        self.dialogue.hold(lambda: self.protocol.start_move(position))
        self.follow(position)

    def follow(self, target: float | None) -> None:
        """Take a motion as begun that something else has started; None when its end has no known position."""
        self._target = target

    def ask_motion(self) -> Progress:
        """Ask how the motion goes on; raises what made it fail when it has ended."""
        state = self.dialogue.hold(self.protocol.ask_motion)
        if not state.moving:
            self.dialogue.hold(lambda: self.protocol.end_motion(self._target))
        return Progress(state.moving, state.position)

    def move_to(self, position: float) -> None:
        """Move to a position, and return when it is reached."""
        self.start_move(position)
        self.wait(position)

    def wait(self, target: float) -> None:
        """Return when the motion has ended well.

        Raises
        ------
        MoveTimedOut
            When it takes too long; it is stopped then.
        """
        deadline = time.monotonic() + self.move_timeout
        while self.ask_motion().moving:
            if time.monotonic() >= deadline:
                self.stop()
                raise MoveTimedOut(self.connection.owner, f"the motion to {target:g}", self.move_timeout)
            time.sleep(POLL_PERIOD_S)

    def stop(self) -> None:
        """Stop the motion; from any thread, before everybody else on the wire."""
        self.dialogue.hold(self.protocol.stop, rank=Rank.URGENT)


class PolledPositioner(LegacyPositioner):
    """A positioner over a :class:`PolledDriver`: units and limits are the instrument's own."""

    readback = DriverSignal(kind="hinted")

    def __init__(self, driver: PolledDriver, *, name: str, **options: Any) -> None:
        options.setdefault("timeout", driver.move_timeout)
        options.setdefault("poll_period_s", POLL_PERIOD_S)
        precision = driver.fields["readback"].precision
        super().__init__(driver, name=name, precision=0 if precision is None else precision, **options)

    @property
    def egu(self) -> str:
        """Units of the position, from the instrument."""
        units: str = self.driver.protocol.units
        return units

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest position that may be asked for, from the instrument."""
        limits: tuple[float, float] = self.driver.protocol.limits
        return limits

    @property
    def tolerance(self) -> float:
        """How far from where it was sent it may stand and still be there, from the instrument or its options."""
        tolerance: float = self.driver.protocol.tolerance
        return tolerance

    def begin_motion(self, target: float) -> None:
        """Start the motion."""
        self.driver.start_move(target)

    def ask_motion(self) -> Progress:
        """Ask how the motion goes on."""
        progress: Progress = self.driver.ask_motion()
        return progress

    def halt_motion(self) -> None:
        """Send the stop before everybody else."""
        self.driver.stop()
