"""Thorlabs Elliptec modules (ELL14 rotation mount and relatives): packets, status codes, scale and motion.

Source: Thorlabs ELLx modules protocol manual. Commands have no terminator, replies end with CR LF; the first
character of both is the module's address. Several modules share one wire, so a reply belongs to whoever its address
and kind say, not to whoever spoke last.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from devices.protocols import numbers
from devices.protocols.conversation import Ask, Conversation, Say, Stamped
from devices.protocols.errors import (
    InstrumentFault,
    NotOnTarget,
    NotReady,
    ProtocolError,
    SettingNotTaken,
    UnexpectedReply,
    ValueRefused,
    WrongInstrument,
)
from devices.protocols.field import Field, Fields

INSTRUMENT = "Thorlabs Elliptec"
TERMINATOR = b"\r\n"
BAUD_RATE = 9600
ADDRESSES = "0123456789ABCDEF"

OK = 0x00
BUSY = 0x09
STATUS_TEXT = {
    0x00: "ok, no error",
    0x01: "communication timeout",
    0x02: "mechanical timeout",
    0x03: "command error or not supported",
    0x04: "value out of range",
    0x05: "module isolated",
    0x06: "module out of isolation",
    0x07: "initialising error",
    0x08: "thermal error",
    0x09: "busy",
    0x0A: "sensor error",
    0x0B: "motor error",
    0x0C: "position out of range",
    0x0D: "over current error",
}

ROTARY_TYPES = frozenset({8, 14, 16, 18})

R = TypeVar("R")
V = TypeVar("V", str, float)


@dataclass(frozen=True, slots=True)
class Identity:
    """Reply to ``in``: what a module is, and its scale."""

    address: str
    module_type: int
    serial_number: str
    year: str
    firmware: int
    hardware: int
    travel: int
    pulses: int

    @property
    def rotary(self) -> bool:
        """Tell whether travel counts degrees instead of millimetres."""
        return self.module_type in ROTARY_TYPES

    @property
    def units(self) -> str:
        """Units of the travel: ``deg`` or ``mm``."""
        return "deg" if self.rotary else "mm"

    @property
    def pulses_per_unit(self) -> float:
        """Encoder pulses for one degree or millimetre.

        Rotary modules report the pulses of a whole turn, linear ones those of one millimetre.
        """
        return self.pulses / self.travel if self.rotary else float(self.pulses)


@dataclass(frozen=True, slots=True)
class StatusReply:
    """``GS``: a status code."""

    address: str
    code: int


@dataclass(frozen=True, slots=True)
class PositionReply:
    """``PO``: a position in pulses; also sent when a motion ends."""

    address: str
    pulses: int


@dataclass(frozen=True, slots=True)
class ButtonReply:
    """``BO`` or ``BS``: sent unasked when a button is pressed."""

    address: str


@dataclass(frozen=True, slots=True)
class ValueReply:
    """``GJ`` jog step or ``HO`` home offset in pulses, ``GV`` velocity in percent."""

    address: str
    kind: str
    value: int


@dataclass(frozen=True, slots=True)
class MotorReply:
    """``I1`` or ``I2``: state of one motor."""

    address: str
    motor: int


Reply: TypeAlias = Identity | StatusReply | PositionReply | ButtonReply | ValueReply | MotorReply

_PACKET = re.compile(rb"([0-9A-F])(IN|GS|PO|BO|BS|GJ|HO|GV|I1|I2)([0-9A-F]*)")
_UNANSWERED_IN_A_ROW = 2
_CUT = re.compile(rb"[A-Z0-9]{0,32}")  # the end of a packet whose beginning was lost
_LENGTHS = {b"IN": 30, b"GS": 2, b"PO": 8, b"GJ": 8, b"HO": 8, b"GV": 2, b"I1": 19, b"I2": 19}


def parse(line: bytes) -> Reply:
    """Convert one reply, without its terminator.

    Raises
    ------
    UnexpectedReply
        When it is no complete Elliptec packet.
    """
    match = _PACKET.fullmatch(line.strip(b"\r\n"))
    if match is None or len(match[3]) != _LENGTHS.get(match[2], len(match[3])):
        raise UnexpectedReply("an Elliptec packet", instrument=INSTRUMENT, command=b"", reply=line)
    address, kind, data = match[1].decode(), match[2].decode(), match[3]
    if kind == "IN":
        return Identity(
            address=address,
            module_type=int(data[0:2], 16),
            serial_number=data[2:10].decode(),
            year=data[10:14].decode(),
            firmware=int(data[14:16], 16),
            hardware=int(data[16:18], 16),
            travel=numbers.unsigned_hex(data[18:22], 4),
            pulses=numbers.unsigned_hex(data[22:30], 8),
        )
    if kind == "GS":
        return StatusReply(address, int(data, 16))
    if kind == "PO":
        return PositionReply(address, numbers.signed_hex(data, 8))
    if kind in ("BO", "BS"):
        return ButtonReply(address)
    if kind == "GV":
        return ValueReply(address, kind, int(data, 16))
    if kind in ("GJ", "HO"):
        return ValueReply(address, kind, numbers.signed_hex(data, 8))
    return MotorReply(address, int(kind[1]))


def check_address(address: str) -> str:
    """Return the address if it is one upper-case hexadecimal digit; ValueRefused otherwise."""
    if len(address) != 1 or address not in ADDRESSES:
        raise ValueRefused("address", address, "one of 0-9 and A-F", instrument=INSTRUMENT)
    return address


def fault(reply: StatusReply, command: bytes) -> InstrumentFault:
    """Return the error that a status code stands for."""
    text = STATUS_TEXT.get(reply.code, "unknown status")
    return InstrumentFault(
        reply.code,
        text,
        instrument=f"{INSTRUMENT}, address {reply.address}",
        command=command,
        reply=b"%sGS%02X" % (reply.address.encode(), reply.code),
    )


class Motion:
    """One motion under way, from what its module says.

    The module speaks once when the motion ends (``PO`` or ``GS``), at any time and to nobody in particular. Fed with
    every line of the wire, this object knows whether the motion goes on, has arrived or has failed; a line that is
    not about it changes nothing. A position off the target is no end by itself, because it can be the late word of an
    earlier motion or an answer to somebody's question: :attr:`doubtful` then asks for confirmation.
    """

    def __init__(self, address: str, command: bytes, target: int | None, tolerance: int) -> None:
        self.address = address
        self.command = command
        self.target = target
        self.tolerance = tolerance
        self.pulses: int | None = None
        self.arrived = False
        self.doubtful = False
        self.unanswered = 0
        """Questions for the position in a row that the module has left without an answer."""
        self.error: ProtocolError | None = None

    @property
    def tells_its_position(self) -> bool:
        """Tell whether to ask for the position on the way: some modules never answer then, others missed a question."""
        return self.target is not None and self.unanswered < _UNANSWERED_IN_A_ROW

    @property
    def ended(self) -> bool:
        """Tell whether the motion has arrived or failed."""
        return self.arrived or self.error is not None

    def hear(self, line: bytes) -> bool:
        """Take note of a line from the wire, whoever it was meant for; return whether it tells of this motion."""
        if self.ended:
            return False
        try:
            reply = parse(line)
        except UnexpectedReply:
            return False
        if reply.address != self.address:
            return False
        if isinstance(reply, PositionReply):
            self.pulses = reply.pulses
            if self.target is None or abs(reply.pulses - self.target) <= self.tolerance:
                self.arrived = True
            else:
                self.doubtful = True
        elif isinstance(reply, StatusReply):
            if reply.code == OK:
                self.doubtful = True
            elif reply.code != BUSY:
                self.error = fault(reply, self.command)
        else:
            return False
        return True


class ElliptecProtocol:
    """What to say to one module.

    Scale, units and limits are the module's own: they are known once :meth:`identify` has been answered.

    Parameters
    ----------
    address
        One hexadecimal digit.
    limits
        Lowest and highest position that may be asked for, in the module's units. None takes one turn either way for
        rotary modules and the travel for linear ones.
    tolerance
        How far from its target a motion may end, in the module's units.
    """

    def __init__(
        self, address: str = "0", *, limits: tuple[float, float] | None = None, tolerance: float = 0.1
    ) -> None:
        self.address = check_address(address)
        self.instrument = f"{INSTRUMENT}, address {self.address}"
        self.tolerance = tolerance
        self._limits = limits
        self._identity: Identity | None = None
        self.fields = self._make_fields()

    @property
    def identity(self) -> Identity:
        """What the module said about itself.

        Raises
        ------
        ProtocolError
            Before it has been asked.
        """
        if self._identity is None:
            raise ProtocolError(
                "scale and travel are not known yet",
                instrument=self.instrument,
                remedy="Connect the device first.",
            )
        return self._identity

    @property
    def units(self) -> str:
        """Units of all positions, ``deg`` until the module says otherwise."""
        return self._identity.units if self._identity else "deg"

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest position that may be asked for."""
        if self._limits is not None:
            return self._limits
        if self._identity is None:
            return (-360.0, 360.0)
        travel = float(self._identity.travel)
        return (-travel, travel) if self._identity.rotary else (0.0, travel)

    @property
    def tolerance_pulses(self) -> int:
        """The tolerance in encoder pulses."""
        return max(1, round(self.tolerance * self.identity.pulses_per_unit))

    def to_pulses(self, position: float) -> int:
        """Convert a position to encoder pulses."""
        return round(position * self.identity.pulses_per_unit)

    def to_position(self, pulses: int) -> float:
        """Convert encoder pulses to a position."""
        return pulses / self.identity.pulses_per_unit

    def encode(self, command: str, data: bytes = b"") -> bytes:
        """Return the bytes of one command to this module."""
        return self.address.encode() + command.encode("ascii") + data

    def identify(self) -> Conversation[str]:
        """Ask what the module is, take its scale from it, and return its description.

        Raises
        ------
        WrongInstrument
            When the answer is not an Elliptec identification with a usable scale.
        """
        command = self.encode("in")
        answer = yield self._question(command, Identity)
        try:
            reply = parse(answer.data)
        except UnexpectedReply:
            reply = None
        if not isinstance(reply, Identity) or not reply.travel or not reply.pulses:
            raise WrongInstrument(
                instrument=self.instrument,
                command=command,
                reply=answer.data,
                expected="the identification of an Elliptec module",
            )
        self._identity = reply
        self.fields = self._make_fields()
        return f"ELL{reply.module_type} serial number {reply.serial_number} firmware {reply.firmware:02X}"

    def position(self) -> Conversation[Stamped[float]]:
        """Ask for the position in the module's units.

        Raises
        ------
        NotReady
            When the module answers that it is busy, as it may while it moves.
        InstrumentFault
            When it answers with an error.
        """
        command = self.encode("gp")
        answer = yield self._question(command, PositionReply, StatusReply)
        reply = self._checked(command, answer.data, PositionReply)
        return Stamped(self.to_position(reply.pulses), answer.timestamp)

    def status(self) -> Conversation[int]:
        """Ask for the status code and return it."""
        command = self.encode("gs")
        answer = yield self._question(command, StatusReply)
        reply = self._parsed(command, answer.data)
        if not isinstance(reply, StatusReply):
            raise self._unexpected("a status", command, answer.data)
        return reply.code

    def check_target(self, position: float) -> float:
        """Return the target if it is within the limits; ValueRefused otherwise."""
        checked: float = self.fields["setpoint"].check(position)
        return checked

    def move(self, position: float) -> Motion:
        """Return an absolute motion to a position within the limits, not started yet."""
        target = self.to_pulses(self.check_target(position))
        command = self.encode("ma", numbers.to_signed_hex(target, 8))
        return Motion(self.address, command, target, self.tolerance_pulses)

    def home(self, clockwise: bool = True) -> Motion:
        """Return a search for the home position, not started yet."""
        return Motion(self.address, self.encode("ho", b"0" if clockwise else b"1"), None, self.tolerance_pulses)

    def jog(self, forward: bool = True) -> Motion:
        """Return a motion by one jog step, not started yet."""
        return Motion(self.address, self.encode("fw" if forward else "bw"), None, self.tolerance_pulses)

    def start(self, motion: Motion) -> Conversation[None]:
        """Start a motion. Its only answer comes when it ends, to whoever listens: the motion has to hear it.

        The status is asked for first: a module repeats its last fault once, and it would be taken for this motion's.

        Raises
        ------
        NotReady
            When the module is still in motion.
        """
        if (yield from self.status()) == BUSY:
            raise self._busy(motion.command, b"%sGS%02X" % (self.address.encode(), BUSY))
        yield Say(motion.command)

    def stop(self) -> Conversation[None]:
        """Stop the motion and wait until the module has said that it stands, a fraction of a second."""
        yield Ask(self.encode("st"), accept=self._is_end_of_motion, repeatable=True)

    def look(self, motion: Motion) -> Conversation[Stamped[float] | None]:
        """Ask for the position during a motion; None when the module has no answer but a status.

        A position on the target makes the motion doubtful, so that it is confirmed before it counts as ended.
        """
        command = self.encode("gp")
        answer = yield self._question(command, PositionReply, StatusReply)
        motion.unanswered = 0
        reply = self._parsed(command, answer.data)
        if not isinstance(reply, PositionReply):
            motion.hear(answer.data)
            return None
        motion.pulses = reply.pulses
        if motion.target is not None and abs(reply.pulses - motion.target) <= motion.tolerance:
            motion.doubtful = True
        return Stamped(self.to_position(reply.pulses), answer.timestamp)

    def confirm(self, motion: Motion) -> Conversation[None]:
        """Find out where a doubtful motion stands: on its target, still under way, or ended elsewhere.

        The result is in the motion: a module that stands still off its target makes it fail.
        """
        motion.doubtful = False
        code = yield from self.status()
        if code not in (OK, BUSY):
            motion.error = fault(StatusReply(self.address, code), motion.command)
            return
        if code == BUSY:
            return
        command = self.encode("gp")
        pulses = []
        for _ in range(2):
            answer = yield self._question(command, PositionReply, StatusReply)
            reply = self._parsed(command, answer.data)
            if not isinstance(reply, PositionReply):
                return
            pulses.append(reply.pulses)
        motion.pulses = pulses[-1]
        if motion.target is None or abs(pulses[-1] - motion.target) <= motion.tolerance:
            motion.arrived = True
        elif abs(pulses[1] - pulses[0]) <= 1:
            motion.error = NotOnTarget(
                self.to_position(motion.target),
                self.to_position(pulses[-1]),
                self.units,
                instrument=self.instrument,
            )

    def _make_fields(self) -> Fields:
        return Fields(
            self._position_field("readback", "gp", self.position),
            self._position_field("setpoint", "ma", self.position, remembered=self._is_close),
            Field(
                name="velocity",
                datatype=int,
                command=f"{self.address}gv",
                instrument=self.instrument,
                get=lambda: self._value("gv", "GV", int),
                put=lambda value: self._put_value("velocity", "sv", 2, value, value, "gv", "GV", int),
                units="%",
                limits=(1, 100),
            ),
            self._position_field(
                "jog_step",
                "gj",
                lambda: self._value("gj", "GJ", self.to_position),
                put=lambda value: self._put_pulses("jog_step", "sj", value, "gj", "GJ"),
            ),
            self._position_field(
                "home_offset",
                "go",
                lambda: self._value("go", "HO", self.to_position),
                put=lambda value: self._put_pulses("home_offset", "so", value, "go", "HO"),
            ),
            self._identity_field("serial_number", str, lambda identity: identity.serial_number),
            self._identity_field("firmware", str, lambda identity: f"{identity.firmware:02X}"),
            self._identity_field(
                "pulses_per_unit",
                float,
                lambda identity: identity.pulses_per_unit,
                units=f"1/{self.units}",
                precision=3,
            ),
        )

    def _position_field(
        self,
        name: str,
        command: str,
        get: Callable[[], Conversation[Stamped[float]]],
        *,
        put: Callable[[float], Conversation[Stamped[float]]] | None = None,
        remembered: Callable[[float, float], bool] | None = None,
    ) -> Field[float]:
        return Field(
            name=name,
            datatype=float,
            command=f"{self.address}{command}",
            instrument=self.instrument,
            get=get,
            put=put,
            units=self.units,
            precision=3,
            limits=self.limits,
            remembered=remembered,
        )

    def _is_close(self, target: float, position: float) -> bool:
        return abs(self.to_pulses(target) - self.to_pulses(position)) <= self.tolerance_pulses

    def _identity_field(
        self,
        name: str,
        datatype: type[V],
        pick: Callable[[Identity], V],
        *,
        units: str | None = None,
        precision: int | None = None,
    ) -> Field[V]:
        return Field(
            name=name,
            datatype=datatype,
            command=f"{self.address}in",
            instrument=self.instrument,
            get=lambda: self._identified(pick),
            units=units,
            precision=precision,
        )

    def _identified(self, pick: Callable[[Identity], R]) -> Conversation[Stamped[R]]:
        command = self.encode("in")
        answer = yield self._question(command, Identity)
        reply = self._checked(command, answer.data, Identity)
        return Stamped(pick(reply), answer.timestamp)

    def _value(self, command: str, kind: str, convert: Callable[[int], R]) -> Conversation[Stamped[R]]:
        sent = self.encode(command)
        answer = yield self._question(sent, ValueReply, StatusReply)
        reply = self._checked(sent, answer.data, ValueReply)
        if reply.kind != kind:
            raise self._unexpected(f"a {kind} packet", sent, answer.data)
        return Stamped(convert(reply.value), answer.timestamp)

    def _put_pulses(self, name: str, command: str, value: float, query: str, kind: str) -> Conversation[Stamped[float]]:
        pulses = self.to_pulses(value)
        return (yield from self._put_value(name, command, 8, value, pulses, query, kind, self.to_position))

    def _put_value(
        self,
        name: str,
        command: str,
        digits: int,
        value: object,
        number: int,
        query: str,
        kind: str,
        convert: Callable[[int], R],
    ) -> Conversation[Stamped[R]]:
        sent = self.encode(command, numbers.to_signed_hex(number, digits))
        answer = yield Ask(sent, accept=lambda line: self._is(line, StatusReply))
        reply = self._parsed(sent, answer.data)
        if not isinstance(reply, StatusReply):
            raise self._unexpected("a status", sent, answer.data)
        if reply.code == BUSY:
            raise self._busy(sent, answer.data)
        if reply.code != OK:
            raise fault(reply, sent)
        found = yield from self._value(query, kind, convert)
        if found.value != convert(number):
            raise SettingNotTaken(name, value, found.value, instrument=self.instrument, command=sent, reply=answer.data)
        return found

    def _is_end_of_motion(self, line: bytes) -> bool:
        return self._is(line, PositionReply) or self._is(line, StatusReply)

    def _question(self, command: bytes, *kinds: type[Reply]) -> Ask:
        return Ask(command, accept=lambda line: self._is(line, *kinds), repeatable=True)

    def _is(self, line: bytes, *kinds: type[Reply]) -> bool:
        # Lines that are no part of a packet count as answers, so that whoever asked learns what was said.
        try:
            reply = parse(line)
        except UnexpectedReply:
            return not _CUT.fullmatch(line)
        if reply.address != self.address or not isinstance(reply, kinds):
            return False
        # That all is well is no answer to a question for a value: it is the late word of something else.
        return not isinstance(reply, StatusReply) or len(kinds) == 1 or reply.code != OK

    def _parsed(self, command: bytes, line: bytes) -> Reply:
        try:
            return parse(line)
        except UnexpectedReply:
            raise self._unexpected("an Elliptec packet", command, line) from None

    def _checked(self, command: bytes, line: bytes, kind: type[R]) -> R:
        reply = self._parsed(command, line)
        if isinstance(reply, kind):
            return reply
        if isinstance(reply, StatusReply) and reply.code == BUSY:
            raise self._busy(command, line)
        if isinstance(reply, StatusReply) and reply.code != OK:
            raise fault(reply, command)
        raise self._unexpected(kind.__name__, command, line)

    def _busy(self, command: bytes, line: bytes) -> NotReady:
        return NotReady(
            "the module is busy",
            instrument=self.instrument,
            command=command,
            reply=line,
            remedy="Wait until its motion has ended, or stop it.",
        )

    def _unexpected(self, expected: str, command: bytes, line: bytes) -> UnexpectedReply:
        return UnexpectedReply(expected, instrument=self.instrument, command=command, reply=line)
