"""Newport ESP300: what its error codes mean, and whose the errors are that wait in the one queue all axes share.

Source: Newport ESP300 user's manual, chapter on error messages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

GENERAL_ERRORS = {
    1: "communication timeout",
    4: "emergency stop",
    6: "no such command",
    7: "parameter out of range",
    8: "interlock",
    9: "axis out of range",
    27: "not allowed now",
    37: "axis missing",
    38: "parameter missing",
}
AXIS_ERRORS = {
    1: "parameter out of range",
    2: "amplifier fault",
    3: "following error",
    4: "plus hardware limit",
    5: "minus hardware limit",
    6: "plus software limit",
    7: "minus software limit",
    8: "not connected",
    9: "feedback fault",
    10: "above maximum velocity",
    11: "above maximum acceleration",
    13: "motor not enabled",
    20: "homing aborted",
    30: "not allowed while homing",
}

_OF_ALL_MOTIONS = frozenset((4, 8))
"""General errors that end every motion."""

_OF_A_MOTION = frozenset((2, 3, 4, 5, 9, 20))
"""Axis errors that come while an axis moves, and are about its motion whatever was said meanwhile."""


def error_text(code: int) -> str:
    """Return what an error code means, with the axis when it is about one."""
    axis, number = divmod(code, 100)
    if axis:
        return f"axis {axis}: {AXIS_ERRORS.get(number, 'unknown error')}"
    return GENERAL_ERRORS.get(code, "unknown error")


class SharedWire(Protocol):
    """What everybody who talks to one controller has in common, such as a channel of :mod:`coexistence`."""

    @property
    def name(self) -> str:
        """The wire, for messages."""

    def common(self, make: Callable[[Any], T]) -> T:
        """Return what was made for this wire by ``make``, once for all."""


class ErrorLedger:
    """Says whose the errors are that anybody takes out of a controller's queue; one for all who talk to it.

    An error about an axis is its who moves that axis, and is kept for the end of that motion; one about a command is
    its who gave it. What is nobody's is logged as a warning. Everything here is called within a hold of the wire.

    Parameters
    ----------
    wire
        The controller's wire; None where nobody else talks to it.
    """

    def __init__(self, wire: SharedWire | None = None) -> None:
        self._where = "" if wire is None else f" on {wire.name}"
        self._movers: dict[int, object] = {}
        self._kept: dict[object, list[int]] = {}

    def begin_motion(self, axis: int, mover: object) -> None:
        """Take note that an axis moves, and for whom."""
        self.disown(self._kept.pop(mover, []))
        self._movers[axis] = mover

    def end_motion(self, axis: int, mover: object) -> list[int]:
        """Take note that somebody's motion has ended; return its errors."""
        if self._movers.get(axis) is mover:
            del self._movers[axis]
        return self._kept.pop(mover, [])

    def stop_motion(self, axis: int) -> None:
        """Take note that an axis was stopped, whoever moved it; nobody will ask how its motion ended."""
        mover = self._movers.pop(axis, None)
        if mover is not None:
            self.disown(self._kept.pop(mover, []))

    def stop_all(self) -> None:
        """Take note that every axis was stopped."""
        for axis in tuple(self._movers):
            self.stop_motion(axis)

    def sort(self, code: int, axis: int, *, starts: bool) -> bool:
        """Tell whether an error that follows a command to an axis is about that command; if not, keep it.

        Parameters
        ----------
        code
            The error.
        axis
            What the command was for.
        starts
            Whether the command begins a motion, so that an error of the axis is about this one and no earlier one.
        """
        about, number = divmod(code, 100)
        if about == 0:
            if code in _OF_ALL_MOTIONS:
                self._give_to_movers(code)
            return True
        if about == axis and (starts or number not in _OF_A_MOTION or axis not in self._movers):
            return True
        self.keep(code)
        return False

    def keep(self, code: int) -> None:
        """Give an error to whose motion it is about."""
        if not self._give_to_movers(code):
            self.disown([code])

    def _give_to_movers(self, code: int) -> bool:
        if code in _OF_ALL_MOTIONS:
            movers = list(dict.fromkeys(self._movers.values()))
        else:
            movers = [mover for axis, mover in self._movers.items() if axis == code // 100]
        for mover in movers:
            self._kept.setdefault(mover, []).append(code)
            logger.info("Newport ESP300%s: error %d, %s, is about a motion", self._where, code, error_text(code))
        return bool(movers)

    def disown(self, codes: Iterable[int]) -> None:
        """Log errors that nobody asks for."""
        for code in codes:
            logger.warning(
                "The Newport ESP300%s had error %d in its queue, %s. No command or motion that is waited for has "
                "caused it.",
                self._where,
                code,
                error_text(code),
            )
