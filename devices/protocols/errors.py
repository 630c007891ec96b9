"""What can be wrong with what an instrument says, or with what it is asked to do."""

from __future__ import annotations

from typing import Self


class ProtocolError(Exception):
    """An instrument said something that cannot be used.

    The base of everything the protocols raise. Protocols know the kind of instrument, the command and the reply;
    whoever talks to a particular instrument adds its name and wire with :meth:`located`.

    Parameters
    ----------
    problem
        What happened, as a sentence without a full stop.
    instrument
        Kind of instrument, for example ``Newport 1830-C``.
    command
        What had been sent, empty when nothing was.
    reply
        What came back, empty when nothing did.
    remedy
        What to do about it, as a full sentence.
    """

    def __init__(
        self,
        problem: str,
        *,
        instrument: str,
        command: bytes = b"",
        reply: bytes = b"",
        remedy: str = "",
    ) -> None:
        self.problem = problem
        self.instrument = instrument
        self.command = command
        self.reply = reply
        self.remedy = remedy
        self.device = ""
        self.wire = ""
        super().__init__(problem)

    def located(self, device: str, wire: str) -> Self:
        """Add the name of the device and of its wire, and return the error."""
        self.device = device
        self.wire = wire
        return self

    def __str__(self) -> str:
        where = self.instrument
        if self.device:
            where = f"{self.device} ({self.instrument} on {self.wire})"
        return f"{where}: {self.problem}." + (f" {self.remedy}" if self.remedy else "")


class UnexpectedReply(ProtocolError):
    """A reply that cannot be the answer to the question."""

    def __init__(self, expected: str, *, instrument: str, command: bytes, reply: bytes) -> None:
        self.expected = expected
        super().__init__(
            f"{_shown(command)} was answered with {reply!r}, which is not {expected}",
            instrument=instrument,
            command=command,
            reply=reply,
            remedy="Check the line settings and that nothing else talks on this wire.",
        )


class WrongInstrument(ProtocolError):
    """What answers on the wire is not the instrument it should be."""

    def __init__(self, *, instrument: str, command: bytes, reply: bytes, expected: str) -> None:
        self.expected = expected
        super().__init__(
            f"{_shown(command)} was answered with {reply!r}, but {expected} was expected",
            instrument=instrument,
            command=command,
            reply=reply,
            remedy="Check which instrument is on this port, its address and its line settings.",
        )


class OutOfScale(ProtocolError):
    """A measurement that is no number: the detector is saturated or the range exceeded."""

    def __init__(self, condition: str, *, instrument: str, command: bytes, reply: bytes, status: int) -> None:
        self.condition = condition
        self.status = status
        super().__init__(
            f"the reading {reply!r} is not valid: {condition} (status byte {status})",
            instrument=instrument,
            command=command,
            reply=reply,
            remedy="Choose a less sensitive range or auto range, or attenuate the beam.",
        )


class NotReady(ProtocolError):
    """The instrument is busy for the moment; asking again later can succeed."""


class InstrumentFault(ProtocolError):
    """The instrument reports an error of its own, with a code and what the manual says about it."""

    def __init__(
        self, code: int, text: str, *, instrument: str, command: bytes = b"", reply: bytes = b"", remedy: str = ""
    ) -> None:
        self.code = code
        self.text = text
        after = f" after {_shown(command)}" if command else ""
        super().__init__(
            f"error {code}{after}: {text}", instrument=instrument, command=command, reply=reply, remedy=remedy
        )


class SettingNotTaken(ProtocolError):
    """A setting was sent and the instrument still reports another one."""

    def __init__(
        self, setting: str, wanted: object, found: object, *, instrument: str, command: bytes, reply: bytes
    ) -> None:
        self.setting = setting
        self.wanted = wanted
        self.found = found
        super().__init__(
            f"{setting} was set to {wanted!r} with {_shown(command)}, but the instrument reports {found!r}",
            instrument=instrument,
            command=command,
            reply=reply,
            remedy="Check that the instrument allows this value in its present state and is not locked.",
        )


class ValueRefused(ProtocolError, ValueError):
    """A value outside of what is allowed; nothing was sent."""

    def __init__(self, setting: str, value: object, allowed: str, *, instrument: str) -> None:
        self.setting = setting
        self.value = value
        self.allowed = allowed
        super().__init__(
            f"{setting} cannot be {value!r}: allowed is {allowed}",
            instrument=instrument,
            remedy="Nothing was sent.",
        )


class NotOnTarget(ProtocolError):
    """A motion ended somewhere else than it should."""

    def __init__(self, target: float, position: float, units: str, *, instrument: str) -> None:
        self.target = target
        self.position = position
        self.units = units
        super().__init__(
            f"the motion to {target:g} {units} ended at {position:g} {units}",
            instrument=instrument,
            remedy="Check that nothing blocks the motion and that nobody else moved or stopped it.",
        )


def _shown(command: bytes) -> str:
    return repr(command.strip().decode("ascii", "replace"))
