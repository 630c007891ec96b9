"""What can go wrong between a blocking driver and the RunEngine."""

from __future__ import annotations

from ophyd.utils.errors import LimitError

from devices.protocols.errors import ValueRefused


class DriverHung(TimeoutError):
    """A driver's call has not returned in time. It cannot be interrupted: what comes next waits behind it."""

    def __init__(self, device: str, call: str, waited_s: float) -> None:
        self.device = device
        self.call = call
        self.waited_s = waited_s
        super().__init__(
            f"{device}: {call} has not returned within {waited_s:g} s. A blocking driver cannot be interrupted; "
            "check the instrument, or restart this device."
        )


class NotMeasured(RuntimeError):
    """A value was asked for before it had been measured, or after its measurement failed."""

    def __init__(self, signal: str) -> None:
        self.signal = signal
        super().__init__(
            f"{signal} has no measured value. Call connect() or trigger() of its device first, and look at the error "
            "of the last measurement."
        )


class PositionRefused(ValueRefused, LimitError):
    """A position outside of the limits; nothing was sent. ophyd and bluesky know it as ``LimitError``."""
