"""Motions that are followed by asking: what a protocol has to say for a device to move by it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from devices.protocols.conversation import Conversation, Stamped
from devices.protocols.field import Fields


class MotionState(NamedTuple):
    """Where a motion stands."""

    moving: bool
    position: Stamped[float]


class PolledMotion(Protocol):
    """Something that moves and can be asked how far it is."""

    instrument: str
    fields: Fields

    @property
    def units(self) -> str:
        """Units of all positions."""

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest position that may be asked for."""

    @property
    def tolerance(self) -> float:
        """How far from its target it may stand and still be there."""

    def identify(self) -> Conversation[str]:
        """Learn what has to be known before the first motion, and describe it."""

    def check_target(self, position: float) -> float:
        """Return the target if it is allowed; ValueRefused otherwise."""

    def start_move(self, position: float) -> Conversation[None]:
        """Start a motion; raises what the instrument has against it."""

    def ask_motion(self) -> Conversation[MotionState]:
        """Ask whether it moves and where it is."""

    def end_motion(self, target: float | None) -> Conversation[None]:
        """Find out whether a motion has ended well; raises what made it fail, NotOnTarget for one."""

    def stop(self) -> Conversation[None]:
        """Stop the motion."""
