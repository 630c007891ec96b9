"""Spectra-Physics Mai Tai laser: commands, replies with their units, error queue, and what must not be done.

Source: Spectra-Physics Mai Tai user's manual, chapter on the serial interface. Commands end with a line feed, replies
too; a parameter is separated by a blank. Nothing here changes wavelength, shutter or emission unless it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag
from typing import TypeVar

from devices.protocols import numbers
from devices.protocols.conversation import Ask, Conversation, Say, Stamped
from devices.protocols.errors import (
    InstrumentFault,
    NotOnTarget,
    NotReady,
    ProtocolError,
    UnexpectedReply,
    WrongInstrument,
)
from devices.protocols.field import Field, Fields
from devices.protocols.motion import MotionState

INSTRUMENT = "Spectra-Physics Mai Tai"
TERMINATOR = b"\n"
BAUD_RATE = 9600
TUNING_TOLERANCE_NM = 1.0

_REPLY_TIMEOUT_S = 4.0  # replies can take 2 to 3 s
_QUEUE_LENGTH = 20

R = TypeVar("R")


class Status(IntFlag):
    """Bits of ``*STB?``."""

    EMISSION_POSSIBLE = 1
    MODELOCKED = 2


class NotWarm(ProtocolError):
    """Emission was asked for while the laser is not warm."""

    def __init__(self, percent: float) -> None:
        self.percent = percent
        super().__init__(
            f"the laser is {percent:g} % warm and cannot emit yet",
            instrument=INSTRUMENT,
            remedy="Start its warm-up and wait until it is 100 % warm. Nothing was sent.",
        )


def encode(command: str) -> bytes:
    """Return the bytes of one command."""
    return command.encode("ascii") + TERMINATOR


def number_with_unit(unit: str) -> Callable[[bytes], float]:
    """Return a converter for numbers that carry this unit, ``820nm`` for one."""

    def convert(text: bytes) -> float:
        stripped = text.strip()
        suffix = unit.encode("ascii")
        if not stripped.endswith(suffix):
            raise ValueError(f"{text!r} is not in {unit}")
        return numbers.decimal(stripped[: -len(suffix)])

    return convert


def _flag(text: bytes) -> bool:
    value = numbers.integer(text)
    if value not in (0, 1):
        raise ValueError(f"{value} is neither 0 nor 1")
    return value == 1


def _status(text: bytes) -> Status:
    value = numbers.integer(text)
    if not 0 <= value <= 255:
        raise ValueError(f"{value} is no byte")
    return Status(value)


def _error(text: bytes) -> tuple[int, str]:
    number, _, message = text.partition(b",")
    return numbers.integer(number), message.strip(b' "\r\n').decode("ascii", "replace")


class _ShutterLeft:
    """Whether the shutter was opened from here, and not closed since."""

    open = False


class MaiTaiProtocol:
    """What to say to one laser.

    Parameters
    ----------
    watchdog_s
        Seconds without a command after which the laser's own watchdog turns the pump off; None leaves it as it is,
        0 switches it off. It is the only protection against a program that was killed.

    Attributes
    ----------
    longest_silence_s
        How long nobody may talk to the laser before its watchdog acts; None when it does not.
    """

    instrument = INSTRUMENT
    reply_timeout_s = _REPLY_TIMEOUT_S + 2.0

    def __init__(self, *, watchdog_s: int | None = None) -> None:
        self.watchdog_s = watchdog_s
        self.longest_silence_s = watchdog_s or None
        self._shutter_left = _ShutterLeft()
        self.wavelength = MaiTaiWavelength(self)
        self.fields = Fields(
            self._field("power", float, "READ:POWer?", number_with_unit("W"), units="W", precision=3),
            self._field("pump_power", float, "READ:PLASer:POWer?", number_with_unit("W"), units="W", precision=2),
            self._field("warmed_up", float, "READ:PCTWarmedup?", number_with_unit("%"), units="%", precision=2),
            self._field("humidity", float, "READ:HUM?", number_with_unit("%"), units="%", precision=2),
            Field(
                name="modelocked",
                datatype=bool,
                command="*STB?",
                instrument=INSTRUMENT,
                get=lambda: self._bit(Status.MODELOCKED),
            ),
            Field(
                name="shutter",
                datatype=bool,
                command="SHUTter?",
                instrument=INSTRUMENT,
                get=self._shutter,
                put=self._set_shutter,
                settle=self._shutter_settled,
            ),
            Field(
                name="emission",
                datatype=bool,
                command="*STB?",
                instrument=INSTRUMENT,
                get=lambda: self._bit(Status.EMISSION_POSSIBLE),
                put=self._set_emission,
                settle=self._emission_settled,
            ),
            Field(name="identity", datatype=str, command="*IDN?", instrument=INSTRUMENT, get=self._identity),
        )

    def identify(self) -> Conversation[str]:
        """Check that a Mai Tai answers and return what it says; changes nothing.

        Raises
        ------
        WrongInstrument
            When something else answers.
        """
        command = encode("*IDN?")
        answer = yield Ask(command, repeatable=True)
        text = answer.data.decode("ascii", "replace").strip()
        if "maitai" not in text.lower().replace(" ", ""):
            raise WrongInstrument(
                instrument=INSTRUMENT, command=command, reply=answer.data, expected="the identity of a Mai Tai"
            )
        return text

    def restore(self) -> Conversation[None]:
        """Set the laser's watchdog if that was asked for; touches nothing else."""
        if self.watchdog_s is not None:
            yield from self.command(f"TIMer:WATChdog {self.watchdog_s}")

    def keep_alive(self) -> Conversation[None]:
        """Ask something, so that the laser's watchdog does not take the program for dead."""
        yield from self.ask("*STB?", "a status byte", _status)

    @property
    def before_leaving(self) -> Callable[[], Conversation[None]] | None:
        """What has to be said before nobody looks after the laser any more; None when nothing has.

        A shutter that was opened from here is closed. One that others have opened is theirs.
        """
        return self._close_shutter if self._shutter_left.open else None

    def succeed(self, former: MaiTaiProtocol) -> None:
        """Answer for what was done through a protocol whose place this one takes, and may still be done there."""
        self._shutter_left = former._shutter_left

    def warm_up(self) -> Conversation[None]:
        """Start the two minutes of diode stabilisation; a laser that is warm or warming is left alone."""
        percent = yield from self.ask("READ:PCTWarmedup?", "a percentage", number_with_unit("%"))
        if percent.value == 0:
            yield from self.command("ON")

    def check_errors(self, command: bytes) -> Conversation[None]:
        """Raise what the error queue says, until it is empty.

        Raises
        ------
        InstrumentFault
            With number and text of the first error and the texts of all.
        """
        errors = yield from self._collect_errors()
        if errors:
            raise InstrumentFault(
                errors[0][0], "; ".join(text for _, text in errors), instrument=INSTRUMENT, command=command
            )

    def command(self, command: str) -> Conversation[None]:
        """Send a set command and check the error queue; what was in it before is not about this command."""
        yield from self._collect_errors()
        yield Say(encode(command))
        yield from self.check_errors(encode(command))

    def ask(self, command: str, expected: str, convert: Callable[[bytes], R]) -> Conversation[Stamped[R]]:
        """Ask and convert the reply; UnexpectedReply when it cannot be converted."""
        sent = encode(command)
        # Each answer to SYSTem:ERR? takes an error out of the queue, so a lost one must not be asked for again.
        answer = yield Ask(sent, repeatable=command != "SYSTem:ERR?", timeout_s=_REPLY_TIMEOUT_S)
        try:
            return Stamped(convert(answer.data), answer.timestamp)
        except ValueError:
            raise UnexpectedReply(expected, instrument=INSTRUMENT, command=sent, reply=answer.data) from None

    def _collect_errors(self) -> Conversation[list[tuple[int, str]]]:
        errors: list[tuple[int, str]] = []
        while len(errors) < _QUEUE_LENGTH:
            found = yield from self.ask("SYSTem:ERR?", "an error number and text", _error)
            if found.value[0] == 0:
                break
            errors.append(found.value)
        return errors

    def _field(
        self,
        name: str,
        datatype: type[float],
        command: str,
        convert: Callable[[bytes], float],
        *,
        units: str,
        precision: int,
    ) -> Field[float]:
        return Field(
            name=name,
            datatype=datatype,
            command=command,
            instrument=INSTRUMENT,
            get=lambda: self.ask(command, f"a number in {units}", convert),
            units=units,
            precision=precision,
        )

    def _bit(self, bit: Status) -> Conversation[Stamped[bool]]:
        found = yield from self.ask("*STB?", "a status byte", _status)
        return Stamped(bool(found.value & bit), found.timestamp)

    def _shutter(self) -> Conversation[Stamped[bool]]:
        return (yield from self.ask("SHUTter?", "0 or 1", _flag))

    def _set_shutter(self, value: bool) -> Conversation[Stamped[bool]]:
        # Known before it is sent: a command whose check fails may have been obeyed.
        self._shutter_left.open |= value
        yield from self.command(f"SHUTter {value:d}")
        self._shutter_left.open = value
        return (yield from self._shutter())

    def _close_shutter(self) -> Conversation[None]:
        yield from self._set_shutter(False)

    def _shutter_settled(self, value: bool) -> Conversation[Stamped[bool]]:
        # What the laser reports of its shutter may be stale for a second after a set.
        found = yield from self._shutter()
        if found.value != value:
            raise self._not_yet("shutter", value)
        return found

    def _set_emission(self, value: bool) -> Conversation[Stamped[bool]]:
        if value:
            percent = yield from self.ask("READ:PCTWarmedup?", "a percentage", number_with_unit("%"))
            if percent.value < 100:
                raise NotWarm(percent.value)
        yield from self.command("ON" if value else "OFF")
        return (yield from self._bit(Status.EMISSION_POSSIBLE))

    def _emission_settled(self, value: bool) -> Conversation[Stamped[bool]]:
        found = yield from self._bit(Status.EMISSION_POSSIBLE)
        if found.value != value:
            raise self._not_yet("emission", value)
        return found

    def _not_yet(self, what: str, value: bool) -> NotReady:
        return NotReady(
            f"the {what} was set to {value} and is still reported as {not value}",
            instrument=INSTRUMENT,
            remedy="Look at the laser: interlock, key switch, error queue.",
        )

    def _identity(self) -> Conversation[Stamped[str]]:
        return (yield from self.ask("*IDN?", "an identity", lambda text: text.decode("ascii", "replace").strip()))


class MaiTaiWavelength:
    """What to say about the wavelength: tuning takes seconds, and the actual wavelength lags the commanded one.

    The limits differ from model to model and are the laser's own: known once :meth:`identify` was answered.
    """

    reply_timeout_s = MaiTaiProtocol.reply_timeout_s
    units = "nm"
    tolerance = TUNING_TOLERANCE_NM / 2

    def __init__(self, laser: MaiTaiProtocol) -> None:
        self.instrument = INSTRUMENT
        self._laser = laser
        self._limits = (0.0, 0.0)
        self._target: float | None = None
        self.fields = self._make_fields()

    @property
    def limits(self) -> tuple[float, float]:
        """The laser's tuning range in nm."""
        return self._limits

    def identify(self) -> Conversation[str]:
        """Ask for the tuning range and return it as text."""
        low = yield from self._ask("WAVelength:MIN?")
        high = yield from self._ask("WAVelength:MAX?")
        self._limits = (low.value, high.value)
        self.fields = self._make_fields()
        return f"{low.value:g} to {high.value:g} nm"

    def check_target(self, position: float) -> float:
        """Return the target if it is within the tuning range; ValueRefused otherwise. It is sent in whole nm."""
        checked: float = self.fields["setpoint"].check(position)
        return checked

    def start_move(self, position: float) -> Conversation[None]:
        """Command a wavelength; tuning starts."""
        self._target = round(self.check_target(position))
        yield from self._laser.command(f"WAVelength {self._target:d}")

    def ask_motion(self) -> Conversation[MotionState]:
        """Ask for the actual wavelength; it is tuning until that is the commanded one."""
        actual = yield from self._ask("READ:WAVelength?")
        target = self._target
        if target is None:
            target = (yield from self._ask("WAVelength?")).value
        return MotionState(abs(actual.value - target) >= TUNING_TOLERANCE_NM, actual)

    def end_motion(self, target: float | None) -> Conversation[None]:
        """Check the error queue and that the laser still aims at the target."""
        yield from self._laser.check_errors(encode("WAVelength"))
        commanded = yield from self._ask("WAVelength?")
        if target is not None and abs(commanded.value - target) >= TUNING_TOLERANCE_NM:
            raise NotOnTarget(target, commanded.value, self.units, instrument=self.instrument)

    def stop(self) -> Conversation[None]:
        """End tuning where it is. Touches neither shutter nor emission."""
        actual = yield from self._ask("READ:WAVelength?")
        self._target = round(actual.value)
        yield from self._laser.command(f"WAVelength {self._target:d}")

    def _ask(self, command: str) -> Conversation[Stamped[float]]:
        return (yield from self._laser.ask(command, "a wavelength in nm", number_with_unit("nm")))

    def _make_fields(self) -> Fields:
        limits = self._limits if self._limits[0] < self._limits[1] else None

        def field(name: str, command: str) -> Field[float]:
            return Field(
                name=name,
                datatype=float,
                command=command,
                instrument=self.instrument,
                get=lambda: self._ask(command),
                units=self.units,
                precision=0,
                limits=limits,
            )

        return Fields(field("readback", "READ:WAVelength?"), field("setpoint", "WAVelength?"))
