"""Newport 1830-C optical power meter: commands, replies and what its status byte means.

Source: Newport 1830-C user's manual, chapter on computer interfacing (command summary and status byte). Commands
end with a line feed; set commands are not answered, so each is followed by its query here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from enum import IntFlag
from typing import Any, Literal, TypeVar

from devices.protocols import numbers
from devices.protocols.conversation import Ask, Conversation, Say, Stamped
from devices.protocols.errors import (
    NotReady,
    OutOfScale,
    ProtocolError,
    SettingNotTaken,
    UnexpectedReply,
    WrongInstrument,
)
from devices.protocols.field import Field, Fields

INSTRUMENT = "Newport 1830-C"
TERMINATOR = b"\n"
BAUD_RATE = 9600

Units = Literal["W", "dB", "dBm", "REL"]
UNITS: tuple[Units, ...] = ("W", "dB", "dBm", "REL")
FILTER_SAMPLES = (16, 4, 1)

_COMMAND = re.compile(rb"[A-Z]{1,2}[0-9]{0,4}\??")
_PLAUSIBLE_POWER_W = 1e3
_BUSY_ATTEMPTS = 6

R = TypeVar("R")
V = TypeVar("V", bool, int, str)


class Status(IntFlag):
    """Bits of the status byte (``Q?``)."""

    PARAMETER_ERROR = 1
    COMMAND_ERROR = 2
    SATURATED = 4
    OVER_RANGE = 8
    MESSAGE_AVAILABLE = 16
    BUSY = 32
    READING_DONE = 128


def encode(command: str) -> bytes:
    """Return the bytes of one command."""
    return command.encode("ascii") + TERMINATOR


def is_echo(line: bytes) -> bool:
    """Tell whether a line has the form of a command, as it comes back with the meter's echo switched on."""
    return _COMMAND.fullmatch(line.strip()) is not None


def watts(reading: float, units: Units) -> float:
    """Convert a displayed reading to watts.

    Raises
    ------
    ValueError
        For dB and relative readings, which mean nothing without their reference.
    """
    if units == "W":
        return reading
    if units == "dBm":
        power: float = 1e-3 * 10.0 ** (reading / 10.0)
        return power
    raise ValueError(f"a reading in {units} cannot be converted to W")


class Newport1830CProtocol:
    """What to say to one meter.

    Parameters
    ----------
    swapped_db_codes
        The meter counts dBm as unit 2 and dB as unit 3; by default it is the other way round.
    clear_command
        Command that clears the status byte: ``C``, or ``CS`` on some units.
    wavelength_limits
        Lowest and highest calibrated wavelength of the detector in nm.
    """

    instrument = INSTRUMENT

    def __init__(
        self,
        *,
        swapped_db_codes: bool = False,
        clear_command: str = "C",
        wavelength_limits: tuple[int, int] = (200, 1800),
    ) -> None:
        order: tuple[Units, ...] = ("W", "dBm", "dB", "REL") if swapped_db_codes else UNITS
        self._units: dict[int, Units] = dict(enumerate(order, start=1))
        self._clear = Say(encode(clear_command))
        self.fields = Fields(
            Field(
                name="power",
                datatype=float,
                command="D?",
                instrument=INSTRUMENT,
                get=self.power,
                units="W",
                precision=12,
            ),
            self._setting("wavelength", int, "W", limits=wavelength_limits, units="nm", width=4),
            self._setting("units", str, "U", codes=self._units),
            self._setting("range", int, "R", limits=(0, 8)),
            self._setting("filter", int, "F", codes=dict(enumerate(FILTER_SAMPLES, start=1)), units="samples"),
            self._setting("attenuator", bool, "A", codes={0: False, 1: True}),
            self._setting("zero", bool, "Z", codes={0: False, 1: True}),
            self._setting("beeper", bool, "B", codes={0: False, 1: True}),
        )

    def power(self) -> Conversation[Stamped[float]]:
        """Measure the power in W, whatever the display shows.

        Units, reading and status are asked for within one hold, so that nobody can change the units in between. The
        status bits of an earlier reading are cleared once before they count.

        Raises
        ------
        OutOfScale
            When the detector is saturated or the range exceeded.
        NotReady
            When the meter keeps changing its range.
        ProtocolError
            When the display shows dB or a relative value.
        """
        cleared = False
        for _ in range(_BUSY_ATTEMPTS):
            units = yield from self._ask("U?", "a unit code 1 to 4", self._unit)
            reading = yield from self._ask("D?", "a reading", numbers.decimal)
            status = yield from self._ask("Q?", "a status byte", _status)
            condition = _out_of_scale(status.value)
            if condition and cleared:
                raise OutOfScale(
                    condition,
                    instrument=INSTRUMENT,
                    command=encode("D?"),
                    reply=f"{reading.value:g}".encode(),
                    status=int(status.value),
                )
            if condition:
                yield self._clear
                cleared = True
                continue
            if status.value & Status.BUSY:
                continue
            try:
                power = watts(reading.value, units.value)
            except ValueError as error:
                raise ProtocolError(
                    f"the display shows {units.value}; {error}",
                    instrument=INSTRUMENT,
                    command=encode("D?"),
                    reply=f"{reading.value:g}".encode(),
                    remedy="Set its units to 'W' or 'dBm'.",
                ) from None
            except OverflowError:
                power = float("inf")
            if abs(power) > _PLAUSIBLE_POWER_W:
                raise UnexpectedReply(
                    "a power this meter can measure",
                    instrument=INSTRUMENT,
                    command=encode("D?"),
                    reply=f"{reading.value:g}".encode(),
                )
            return Stamped(power, reading.timestamp)
        raise NotReady(
            "the meter is busy or changing its range",
            instrument=INSTRUMENT,
            command=encode("D?"),
            remedy="Wait, or set a fixed range.",
        )

    def identify(self) -> Conversation[str]:
        """Switch the echo off and check that an 1830-C answers; return its description.

        The meter has no identification command: the shapes of four answers tell it from other instruments.

        Raises
        ------
        WrongInstrument
            When one of them cannot be the answer of an 1830-C.
        """
        yield from self.restore()
        try:
            yield from self._ask("Q?", "a status byte", _status)
            yield from self._ask("U?", "a unit code 1 to 4", self._unit)
            yield from self._ask("W?", "a wavelength of four digits", _four_digits)
            yield from self._ask("R?", "a range 0 to 8", _one_of(range(9)))
        except UnexpectedReply as error:
            raise WrongInstrument(
                instrument=INSTRUMENT, command=error.command, reply=error.reply, expected=error.expected
            ) from error
        return INSTRUMENT

    def restore(self) -> Conversation[None]:
        """Bring the meter into the state this protocol relies on: echo off, measuring. Changes no setting."""
        yield Say(encode("E0"))
        yield Say(encode("G1"))

    def apply(self, settings: Mapping[str, Any]) -> Conversation[None]:
        """Bring the meter into the state this protocol relies on, and set some of its settings."""
        yield from self.restore()
        for name, value in settings.items():
            field = self.fields[name]
            if field.put is not None:
                yield from field.put(field.check(value))

    def store_reference(self) -> Conversation[None]:
        """Store the present reading as the reference of dB and relative readings."""
        yield Say(encode("S"))

    def _setting(
        self,
        name: str,
        datatype: type[V],
        letter: str,
        *,
        codes: dict[int, V] | None = None,
        limits: tuple[int, int] | None = None,
        units: str | None = None,
        width: int = 1,
    ) -> Field[V]:
        query = f"{letter}?"

        def to_value(text: bytes) -> V:
            code = _four_digits(text) if width == 4 else _one_of(codes or range(9))(text)
            return datatype(codes[code]) if codes else datatype(code)

        def get() -> Conversation[Stamped[V]]:
            return (yield from self._ask(query, f"a {name} code", to_value))

        def put(value: V) -> Conversation[Stamped[V]]:
            code = next(c for c, v in codes.items() if v == value) if codes else int(value)
            command = encode(f"{letter}{code:0{width}d}")
            yield Say(command)
            found = yield from get()
            if found.value != value:
                raise SettingNotTaken(
                    name,
                    value,
                    found.value,
                    instrument=INSTRUMENT,
                    command=command,
                    reply=str(found.value).encode(),
                )
            return found

        return Field(
            name=name,
            datatype=datatype,
            command=query,
            instrument=INSTRUMENT,
            get=get,
            put=put,
            units=units,
            limits=limits,
            choices=tuple(codes.values()) if codes else (),
        )

    def _unit(self, text: bytes) -> Units:
        return self._units[_one_of(self._units)(text)]

    def _ask(self, command: str, expected: str, convert: Callable[[bytes], R]) -> Conversation[Stamped[R]]:
        answer = yield Ask(encode(command), accept=_not_echo, repeatable=True)
        try:
            return Stamped(convert(answer.data), answer.timestamp)
        except ValueError:
            raise UnexpectedReply(expected, instrument=INSTRUMENT, command=encode(command), reply=answer.data) from None


def _not_echo(line: bytes) -> bool:
    return not is_echo(line)


def _out_of_scale(status: Status) -> str:
    conditions = []
    if status & Status.SATURATED:
        conditions.append("detector saturated")
    if status & Status.OVER_RANGE:
        conditions.append("over range")
    return " and ".join(conditions)


def _status(text: bytes) -> Status:
    value = numbers.integer(text)
    if not 0 <= value <= 255:
        raise ValueError(f"{value} is no byte")
    return Status(value)


def _four_digits(text: bytes) -> int:
    stripped = text.strip()
    if len(stripped) != 4 or not stripped.isdigit():
        raise ValueError(f"{text!r} is not four digits")
    return int(stripped)


def _one_of(codes: Iterable[int]) -> Callable[[bytes], int]:
    allowed = set(codes)

    def convert(text: bytes) -> int:
        code = numbers.integer(text)
        if code not in allowed:
            raise ValueError(f"{code} is no code of this setting")
        return code

    return convert
