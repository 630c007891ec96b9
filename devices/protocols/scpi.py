"""SCPI instruments: identity, error queue, completion, binary blocks; a generic one and a multimeter.

Source: IEEE 488.2 and SCPI-1999, volumes 1 and 2; Agilent 34401A user's guide for the meter's subsystems. In the status
byte bit 4 only says that a reply is waiting and bit 5 that the event register has something: neither is an error by
itself, so errors are taken from the error queue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np

from devices.protocols import numbers
from devices.protocols.conversation import Ask, Conversation, Say, Stamped
from devices.protocols.errors import (
    InstrumentFault,
    OutOfScale,
    ProtocolError,
    SettingNotTaken,
    UnexpectedReply,
    WrongInstrument,
)
from devices.protocols.field import Field, Fields
from devices.protocols.scpi_blocks import TERMINATOR, Samples, Waveform, block_end, parse_block

INSTRUMENT = "SCPI instrument"
OVERLOAD = 9.9e37

MeterFunction = Literal["VOLT", "VOLT:AC", "CURR", "CURR:AC", "RES", "FRES"]
METER_UNITS: dict[str, str] = {
    "VOLT": "V",
    "VOLT:AC": "V",
    "CURR": "A",
    "CURR:AC": "A",
    "RES": "Ohm",
    "FRES": "Ohm",
}

_QUEUE_LENGTH = 50

R = TypeVar("R")
V = TypeVar("V", bool, int, float, str)


def error(text: bytes) -> tuple[int, str]:
    """Convert an entry of the error queue, ``-113,"Undefined header"``; ValueError for anything else."""
    number, _, message = text.partition(b",")
    return numbers.integer(number), message.strip(b' "\r\n').decode("latin-1")


def converter(datatype: type[V]) -> Callable[[bytes], V]:
    """Return what converts a reply to a type; ValueError for what is none."""
    converters: dict[type, Callable[[bytes], Any]] = {float: numbers.decimal, int: _whole, bool: _switch, str: _text}
    return converters[datatype]


def _whole(text: bytes) -> int:
    value = numbers.decimal(text)
    if value != int(value):
        raise ValueError(f"{text!r} is no whole number")
    return int(value)


def _switch(text: bytes) -> bool:
    word = text.strip().upper()
    if word not in (b"0", b"1", b"OFF", b"ON"):
        raise ValueError(f"{text!r} is neither on nor off")
    return word in (b"1", b"ON")


def _text(text: bytes) -> str:
    return text.strip().strip(b'"').decode("latin-1")


def parameter(value: bool | int | float | str) -> str:
    """Return a value as a program message's parameter."""
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.10g}" if isinstance(value, float) else str(value)


class ScpiProtocol:
    """What to say to any SCPI instrument.

    Parameters
    ----------
    expected_identity
        A part of what ``*IDN?`` has to answer, in any case; empty to take any instrument that answers with the four
        fields of IEEE 488.2.
    setup
        Commands to send when connecting and after each reconnect.
    reply_timeout_s
        How long a reply may take.
    terminator
        Ends commands and replies.
    """

    instrument = INSTRUMENT

    def __init__(
        self,
        *,
        expected_identity: str = "",
        setup: Sequence[str] = (),
        reply_timeout_s: float = 2.0,
        terminator: bytes = TERMINATOR,
    ) -> None:
        self.expected_identity = expected_identity
        self.terminator = terminator
        self.setup = tuple(setup)
        self.exchange_timeout_s = reply_timeout_s
        self.reply_timeout_s = reply_timeout_s + 1.0
        self.fields = Fields(
            Field(name="identity", datatype=str, command="*IDN?", instrument=self.instrument, get=self._identity)
        )

    def encode(self, command: str) -> bytes:
        """Return the bytes of one program message."""
        return command.encode("latin-1") + self.terminator

    def declare(self, *fields: Field[Any]) -> None:
        """Add fields to those every SCPI instrument has."""
        self.fields = Fields(*self.fields.values(), *fields)

    def identify(self) -> Conversation[str]:
        """Ask for the identity and check it.

        Raises
        ------
        WrongInstrument
            When it is not what was expected, or nothing that looks like an identity.
        """
        command = self.encode("*IDN?")
        answer = yield Ask(command, repeatable=True)
        text = answer.data.decode("latin-1").strip()
        if not self._is_expected(text):
            wanted = f"an identity with {self.expected_identity!r} in it"
            if not self.expected_identity:
                wanted = "an identity (manufacturer, model, serial number and firmware, with commas between them)"
            raise WrongInstrument(instrument=self.instrument, command=command, reply=answer.data, expected=wanted)
        return text

    def _is_expected(self, identity: str) -> bool:
        if not identity.isprintable():
            return False
        if self.expected_identity:
            return self.expected_identity.lower() in identity.lower()
        # An instrument without a serial number says 0; some list several versions of firmware.
        fields = [field.strip() for field in identity.split(",", 3)]
        return len(fields) == 4 and all(fields)

    def restore(self) -> Conversation[None]:
        """Send the set-up commands and wait until the instrument has done them."""
        if not self.setup:
            return
        yield from self.errors()
        for command in self.setup:
            yield Say(self.encode(command))
        yield from self.wait_complete()
        yield from self.check_errors(self.encode(self.setup[-1]))

    def wait_complete(self) -> Conversation[None]:
        """Wait until all commands are done (``*OPC?``)."""
        yield from self.ask("*OPC?", "1", converter(int), repeatable=False)

    def errors(self) -> Conversation[list[tuple[int, str]]]:
        """Empty the error queue and return what was in it."""
        found: list[tuple[int, str]] = []
        while len(found) < _QUEUE_LENGTH:
            # Each answer takes an error out of the queue, so a lost one must not be asked for again.
            entry = yield from self.ask("SYST:ERR?", "an error number and text", error, repeatable=False)
            if entry.value[0] == 0:
                break
            found.append(entry.value)
        return found

    def check_errors(self, command: bytes) -> Conversation[None]:
        """Raise what the error queue says; InstrumentFault with number and text."""
        found = yield from self.errors()
        if found:
            raise InstrumentFault(
                found[0][0], "; ".join(text for _, text in found), instrument=self.instrument, command=command
            )

    def command(self, command: str) -> Conversation[None]:
        """Send a command and check the error queue; what was in it before is not about this command."""
        yield from self.errors()
        yield Say(self.encode(command))
        yield from self.check_errors(self.encode(command))

    def ask(
        self, command: str, expected: str, convert: Callable[[bytes], R], *, repeatable: bool = True
    ) -> Conversation[Stamped[R]]:
        """Ask and convert the reply; UnexpectedReply when it cannot be converted."""
        sent = self.encode(command)
        answer = yield Ask(sent, repeatable=repeatable, timeout_s=self.exchange_timeout_s)
        try:
            return Stamped(convert(answer.data), answer.timestamp)
        except ValueError:
            raise UnexpectedReply(expected, instrument=self.instrument, command=sent, reply=answer.data) from None

    def query(self, command: str) -> Conversation[str]:
        """Ask anything and return the reply as text."""
        answer = yield Ask(self.encode(command), timeout_s=self.exchange_timeout_s)
        return answer.data.decode("latin-1").strip()

    def query_block(self, command: str) -> Conversation[bytes]:
        """Ask for a binary block and return its data."""
        sent = self.encode(command)
        ending = partial(block_end, terminator=self.terminator)
        answer = yield Ask(sent, until=ending, timeout_s=self.exchange_timeout_s)
        return parse_block(answer.data, self.instrument, sent, self.terminator)

    def waveform_field(
        self, name: str, query: str, waveform: Waveform, *, units: str | None, precision: int | None, repeatable: bool
    ) -> Field[Any]:
        """Return a field over a query whose reply is a waveform: an array of 64 bit floats."""
        sent = self.encode(query)

        def get() -> Conversation[Stamped[Samples]]:
            ending = waveform.ending(self.terminator)
            answer = yield Ask(sent, until=ending, timeout_s=self.exchange_timeout_s, repeatable=repeatable)
            samples = waveform.parse(answer.data, self.instrument, sent, self.terminator)
            if not np.all(np.abs(samples) < OVERLOAD):
                raise self._overload(sent)
            return Stamped(samples, answer.timestamp)

        return Field[Any](
            name=name,
            datatype=np.ndarray,
            command=query,
            instrument=self.instrument,
            get=get,
            units=units,
            precision=precision,
            shape=(waveform.points,),
        )

    def _overload(self, sent: bytes) -> OutOfScale:
        return OutOfScale("overload", instrument=self.instrument, command=sent, reply=b"9.9E37", status=0)

    def number_field(
        self,
        name: str,
        datatype: type[V],
        query: str,
        *,
        write: str | None = None,
        units: str | None = None,
        precision: int | None = None,
        limits: tuple[float, float] | None = None,
        choices: tuple[V, ...] = (),
        repeatable: bool = True,
    ) -> Field[V]:
        """Return a field over a query and, where it can be set, a command with ``{}`` for the value."""
        expected = f"a value of type {datatype.__name__}"

        def get() -> Conversation[Stamped[V]]:
            found = yield from self.ask(query, expected, converter(datatype), repeatable=repeatable)
            if isinstance(found.value, float) and abs(found.value) >= OVERLOAD:
                raise self._overload(self.encode(query))
            return found

        def put(value: V) -> Conversation[Stamped[V]]:
            assert write is not None
            command = write.format(parameter(value))
            yield from self.command(command)
            found = yield from get()
            if not _same(found.value, value):
                raise SettingNotTaken(
                    name,
                    value,
                    found.value,
                    instrument=self.instrument,
                    command=self.encode(command),
                    reply=str(found.value).encode("latin-1"),
                )
            return found

        return Field(
            name=name,
            datatype=datatype,
            command=query,
            instrument=self.instrument,
            get=get,
            put=None if write is None else put,
            units=units,
            precision=precision,
            limits=limits,
            choices=choices,
        )

    def _identity(self) -> Conversation[Stamped[str]]:
        return (yield from self.ask("*IDN?", "an identity", converter(str)))


class ScpiMeterProtocol(ScpiProtocol):
    """What to say to a multimeter of the Agilent and Keithley kind.

    The function is fixed, and with it the units of the reading: a meter that somebody has switched to another one is
    an error, not a number.

    Parameters
    ----------
    function
        ``VOLT``, ``VOLT:AC``, ``CURR``, ``CURR:AC``, ``RES`` or ``FRES``.
    """

    instrument = "SCPI multimeter"

    def __init__(
        self,
        function: MeterFunction = "VOLT",
        *,
        expected_identity: str = "",
        setup: Sequence[str] = (),
        reply_timeout_s: float = 10.0,
        terminator: bytes = TERMINATOR,
    ) -> None:
        super().__init__(
            expected_identity=expected_identity, setup=setup, reply_timeout_s=reply_timeout_s, terminator=terminator
        )
        self.function = function
        units = METER_UNITS[function]
        self.declare(
            Field(
                name="reading",
                datatype=float,
                command="READ?",
                instrument=self.instrument,
                get=self.reading,
                units=units,
                precision=7,
            ),
            Field(name="function", datatype=str, command="FUNC?", instrument=self.instrument, get=self._function),
            self.number_field(
                "range", float, f"{function}:RANG?", write=f"{function}:RANG {{}}", units=units, precision=4
            ),
            self.number_field("auto_range", bool, f"{function}:RANG:AUTO?", write=f"{function}:RANG:AUTO {{}}"),
        )
        if not function.endswith("AC"):
            self.declare(
                self.number_field(
                    "nplc",
                    float,
                    f"{function}:NPLC?",
                    write=f"{function}:NPLC {{}}",
                    units="power line cycles",
                    precision=2,
                )
            )

    def restore(self) -> Conversation[None]:
        """Select the function, keeping its range and integration time, and send the set-up commands."""
        found = yield from self._function()
        if found.value != self.function:
            yield from self.command(f'FUNC "{self.function}"')
        yield from super().restore()

    def reading(self) -> Conversation[Stamped[float]]:
        """Trigger and read, in the function's units.

        Raises
        ------
        OutOfScale
            When the meter shows an overload.
        ProtocolError
            When the meter measures something else than it should.
        """
        found = yield from self._function()
        if found.value != self.function:
            raise ProtocolError(
                f"the meter was switched from {self.function} to {found.value}",
                instrument=self.instrument,
                command=self.encode("FUNC?"),
                reply=found.value.encode("latin-1"),
                remedy="Switch it back, or connect the device again.",
            )
        command = "READ?"
        measured = yield from self.ask(command, "a reading", numbers.decimal, repeatable=False)
        if abs(measured.value) >= OVERLOAD:
            raise self._overload(self.encode(command))
        return measured

    def _function(self) -> Conversation[Stamped[str]]:
        return (yield from self.ask("FUNC?", "a function", lambda text: _text(text.upper()).removesuffix(":DC")))


def _same(found: object, wanted: object) -> bool:
    if isinstance(found, float) and isinstance(wanted, float):
        return abs(found - wanted) <= 1e-6 * max(abs(found), abs(wanted))
    return found == wanted
