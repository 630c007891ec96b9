"""What can go wrong with a motion, in either generation."""

from __future__ import annotations


class MoveStopped(RuntimeError):
    """A motion did not reach its target because it was stopped."""

    def __init__(self, device: str, target: float, reason: str) -> None:
        self.device = device
        self.target = target
        self.reason = reason
        super().__init__(f"{device}: the motion to {target:g} was ended: {reason}.")


class MoveTimedOut(TimeoutError):
    """A motion did not end in time; the device was stopped."""

    def __init__(self, device: str, target: float, timeout_s: float) -> None:
        self.device = device
        self.target = target
        self.timeout_s = timeout_s
        super().__init__(
            f"{device}: the motion to {target:g} did not end within {timeout_s:g} s and was stopped. "
            "Check that nothing blocks it, or allow more time."
        )
