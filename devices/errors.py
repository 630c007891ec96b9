"""What can go wrong with a device, beside what its wire and its protocol say."""

from __future__ import annotations

from coexistence import AcquireTimeout, CoexistenceError, CommandTimeout

STOP_PATIENCE_S = 20.0
"""How long a stop that did not get its turn on the wire is tried again, in s."""


class NotAnswered(CoexistenceError):
    """A signal's exchange was not completed in time; ``cause`` is the wire's own error with all its facts.

    Deliberately no ``TimeoutError``: ophyd-async replaces those by one that names neither owner nor remedy.
    """

    def __init__(self, cause: CoexistenceError) -> None:
        self.cause = cause
        super().__init__(str(cause))


class MoveStopped(RuntimeError):
    """A motion did not reach its target because it was stopped."""

    def __init__(self, device: str, target: float, reason: str) -> None:
        self.device = device
        self.target = target
        self.reason = reason
        super().__init__(f"{device}: the motion to {target:g} was ended: {reason}.")


class MoveTimedOut(TimeoutError):
    """A motion did not end in time; the device was stopped."""

    def __init__(self, device: str, motion: str, timeout_s: float) -> None:
        self.device = device
        self.motion = motion
        self.timeout_s = timeout_s
        super().__init__(
            f"{device}: {motion} did not end within {timeout_s:g} s and was stopped. "
            "Check that nothing blocks it, or allow more time."
        )


def is_unsent(error: Exception) -> bool:
    """Tell whether a command has failed without having been sent: its wire was taken, or waits for a late reply."""
    return isinstance(error, AcquireTimeout) or (isinstance(error, CommandTimeout) and not error.sent)
