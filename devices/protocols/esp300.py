"""Newport ESP300 motion controller: axes, units, error codes.

Source: Newport ESP300 user's manual, chapters on remote mode and error messages. Commands end with a carriage return,
replies with CR LF; only queries are answered, and what went wrong with a set waits in an error queue that all axes
share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from devices.protocols import numbers
from devices.protocols.conversation import Ask, Conversation, Say, Stamped
from devices.protocols.errors import (
    InstrumentFault,
    NotOnTarget,
    ProtocolError,
    SettingNotTaken,
    UnexpectedReply,
    ValueRefused,
    WrongInstrument,
)
from devices.protocols.esp300_errors import ErrorLedger, SharedWire, error_text
from devices.protocols.field import Field, Fields
from devices.protocols.motion import MotionState

INSTRUMENT = "Newport ESP300"
REPLY_TERMINATOR = b"\r\n"
BAUD_RATE = 19200
AXES = (1, 2, 3)

UNITS = {
    0: "count",
    1: "step",
    2: "mm",
    3: "um",
    4: "in",
    5: "mil",
    6: "uin",
    7: "deg",
    8: "grad",
    9: "rad",
    10: "mrad",
    11: "urad",
}

TOLERANCES = {
    "count": 10.0,
    "step": 10.0,
    "mm": 0.005,
    "um": 5.0,
    "in": 2e-4,
    "mil": 0.2,
    "uin": 200.0,
    "deg": 0.005,
    "grad": 0.005,
    "rad": 1e-4,
    "mrad": 0.1,
    "urad": 100.0,
}
"""By units, how far from its target a motion may end unless told otherwise: 5 um, or 0.005 deg."""

HOME_MODES = (0, 1, 2, 3, 4, 5, 6)

_QUEUE_LENGTH = 20
_REPLY_TIMEOUT_S = 6.0  # the controller can be silent for 2 to 5 s after hitting a limit

R = TypeVar("R")


def encode(command: str) -> bytes:
    """Return the bytes of one command."""
    return command.encode("ascii") + b"\r"


class Esp300Protocol:
    """What to say to one controller.

    Parameters
    ----------
    axes
        Numbers of the axes in use.
    units
        By axis, the units it is expected to be set to; a controller set to others is refused.
    tolerance
        How far from its target a motion may end, in the axis's units; None takes 5 um or 0.005 deg.
    home_mode
        How to search the home position: 0 zero count, 1 home and index, 2 home, 3/4 plus/minus limit, 5/6 plus/minus
        limit and index.
    """

    instrument = INSTRUMENT
    reply_timeout_s = _REPLY_TIMEOUT_S + 2.0

    def __init__(
        self,
        *,
        axes: tuple[int, ...] = AXES,
        units: Mapping[int, str] | None = None,
        tolerance: float | None = None,
        home_mode: int = 1,
    ) -> None:
        self.fields = Fields(
            Field(name="version", datatype=str, command="VE?", instrument=INSTRUMENT, get=self._version)
        )
        self.errors = ErrorLedger()
        self.axes = {
            number: Esp300Axis(self, number, (units or {}).get(number), tolerance, home_mode) for number in axes
        }

    def join(self, wire: SharedWire) -> None:
        """Have one account of errors with all others who talk to the controller on this wire."""
        self.errors = wire.common(ErrorLedger)

    def identify(self) -> Conversation[str]:
        """Check that an ESP300 answers and return its version.

        Raises
        ------
        WrongInstrument
            When something else answers.
        """
        command = encode("VE?")
        answer = yield Ask(command, repeatable=True)
        text = answer.data.decode("ascii", "replace").strip()
        if "ESP300" not in text:
            raise WrongInstrument(
                instrument=INSTRUMENT, command=command, reply=answer.data, expected="the version of an ESP300"
            )
        return text

    def abort(self) -> Conversation[None]:
        """Stop all axes at once."""
        yield Say(encode("AB"))
        self.errors.stop_all()

    def command(self, axis: Esp300Axis, command: bytes, *, starts: bool = False) -> Conversation[None]:
        """Send a command to an axis, and raise what the error queue then says about it.

        What is in the queue before, or is about the motion of an axis, is given to whose motion that is.

        Raises
        ------
        InstrumentFault
            With the code, the axis and the text.
        """
        yield from self._collect_errors(self.errors.keep)
        yield Say(command)
        own: list[int] = []

        def sort(code: int) -> None:
            if self.errors.sort(code, axis.number, starts=starts):
                own.append(code)

        try:
            yield from self._collect_errors(sort)
        except BaseException:
            self.errors.disown(own)
            raise
        _raise_errors(own, command)

    def end_motion(self, axis: Esp300Axis, command: bytes) -> Conversation[None]:
        """Raise what the error queue says about a motion that has ended; give to others what is about theirs.

        Raises
        ------
        InstrumentFault
            With the code, the axis and the text.
        """
        yield from self._collect_errors(self.errors.keep)
        _raise_errors(self.errors.end_motion(axis.number, axis), command)

    def _collect_errors(self, sort: Callable[[int], None]) -> Conversation[None]:
        for _ in range(_QUEUE_LENGTH):
            code = yield from self.ask("TE?", "an error code", numbers.integer)
            if code.value == 0:
                return
            sort(code.value)

    def _version(self) -> Conversation[Stamped[str]]:
        answer = yield Ask(encode("VE?"), repeatable=True)
        return Stamped(answer.data.decode("ascii", "replace").strip(), answer.timestamp)

    def ask(self, command: str, expected: str, convert: Callable[[bytes], R]) -> Conversation[Stamped[R]]:
        """Ask and convert the reply; UnexpectedReply when it cannot be converted."""
        sent = encode(command)
        # Each answer to TE? takes an error out of the queue, so a lost one must not be asked for again.
        answer = yield Ask(sent, repeatable=command != "TE?", timeout_s=_REPLY_TIMEOUT_S)
        try:
            return Stamped(convert(answer.data), answer.timestamp)
        except ValueError:
            raise UnexpectedReply(expected, instrument=INSTRUMENT, command=sent, reply=answer.data) from None


class Esp300Axis:
    """What to say about one axis. Units and limits are the controller's: known once :meth:`identify` was answered."""

    reply_timeout_s = Esp300Protocol.reply_timeout_s

    def __init__(
        self,
        controller: Esp300Protocol,
        number: int,
        wanted_units: str | None,
        tolerance: float | None,
        home_mode: int,
    ) -> None:
        if number not in AXES:
            raise ValueRefused("axis", number, "1, 2 or 3", instrument=INSTRUMENT)
        if wanted_units is not None and wanted_units not in UNITS.values():
            raise ValueRefused("units", wanted_units, "one of " + ", ".join(UNITS.values()), instrument=INSTRUMENT)
        self.number = number
        self._tolerance = tolerance
        self.home_mode = home_mode
        self.instrument = f"{INSTRUMENT}, axis {number}"
        self._controller = controller
        self._wanted_units = wanted_units
        self._units = wanted_units or "mm"
        self._limits = (0.0, 0.0)
        self.fields = self._make_fields()

    @property
    def units(self) -> str:
        """Units of all positions of this axis."""
        return self._units

    @property
    def tolerance(self) -> float:
        """How far from its target a motion may end, in the axis's units."""
        return TOLERANCES[self._units] if self._tolerance is None else self._tolerance

    @property
    def limits(self) -> tuple[float, float]:
        """The controller's software limits."""
        return self._limits

    def join(self, wire: SharedWire) -> None:
        """As :meth:`Esp300Protocol.join`."""
        self._controller.join(wire)

    def identify(self) -> Conversation[str]:
        """Learn units and software limits of the axis, and return its stage.

        Raises
        ------
        ProtocolError
            When the axis is set to other units than expected.
        """
        code = yield from self._ask("SN?", "a unit code", _one_of(UNITS))
        self._units = UNITS[code.value]
        if self._wanted_units is not None and self._units != self._wanted_units:
            raise ProtocolError(
                f"the controller counts in {self._units}, the configuration in {self._wanted_units}",
                instrument=self.instrument,
                command=encode(f"{self.number}SN?"),
                reply=str(code.value).encode(),
                remedy="Set the axis on the controller, or correct the configuration.",
            )
        low = yield from self._ask("SL?", "a lower limit", numbers.decimal)
        high = yield from self._ask("SR?", "an upper limit", numbers.decimal)
        self._limits = (low.value, high.value)
        self.fields = self._make_fields()
        stage = yield from self._stage()
        return stage.value

    def check_target(self, position: float) -> float:
        """Return the target if it is within the software limits; ValueRefused otherwise."""
        checked: float = self.fields["setpoint"].check(position)
        return checked

    def start_move(self, position: float) -> Conversation[None]:
        """Start an absolute motion.

        Raises
        ------
        InstrumentFault
            When the controller refuses it.
        """
        yield from self._start(f"PA{_text(self.check_target(position))}")

    def start_home(self, mode: int | None = None) -> Conversation[None]:
        """Start searching the home position.

        Raises
        ------
        InstrumentFault
            When the controller refuses it.
        """
        chosen = self.home_mode if mode is None else mode
        if chosen not in HOME_MODES:
            raise ValueRefused("home mode", chosen, "0 to 6", instrument=self.instrument)
        yield from self._start(f"OR{chosen}")

    def ask_motion(self) -> Conversation[MotionState]:
        """Ask whether the axis moves and where it is."""
        done = yield from self._ask("MD?", "0 or 1", _one_of((0, 1)))
        position = yield from self._ask("TP", "a position", numbers.decimal)
        return MotionState(done.value == 0, position)

    def end_motion(self, target: float | None) -> Conversation[None]:
        """Check the error queue, and that the axis stands on its target."""
        command = encode(f"{self.number}PA{_text(target)}" if target is not None else f"{self.number}OR")
        yield from self._controller.end_motion(self, command)
        if target is None:
            return
        position = yield from self._ask("TP", "a position", numbers.decimal)
        if abs(position.value - target) > self.tolerance:
            raise NotOnTarget(target, position.value, self.units, instrument=self.instrument)

    def stop(self) -> Conversation[None]:
        """Stop this axis with its deceleration."""
        yield Say(encode(f"{self.number}ST"))
        self._controller.errors.stop_motion(self.number)

    def _start(self, command: str) -> Conversation[None]:
        yield from self._controller.command(self, encode(f"{self.number}{command}"), starts=True)
        self._controller.errors.begin_motion(self.number, self)

    def _command(self, command: str) -> Conversation[None]:
        yield from self._controller.command(self, encode(f"{self.number}{command}"))

    def _ask(self, command: str, expected: str, convert: Callable[[bytes], R]) -> Conversation[Stamped[R]]:
        return (yield from self._controller.ask(f"{self.number}{command}", expected, convert))

    def _stage(self) -> Conversation[Stamped[str]]:
        return (yield from self._ask("ID?", "a stage", lambda text: text.decode("ascii", "replace").strip()))

    def _read(self, command: str, expected: str) -> Callable[[], Conversation[Stamped[float]]]:
        return lambda: self._ask(command, expected, numbers.decimal)

    def _put(self, name: str, command: str) -> Callable[[float], Conversation[Stamped[float]]]:
        def put(value: float) -> Conversation[Stamped[float]]:
            yield from self._command(f"{command}{_text(value)}")
            found = yield from self._ask(f"{command}?", f"a {name}", numbers.decimal)
            if abs(found.value - value) > max(1e-4, 1e-4 * abs(value)):
                raise SettingNotTaken(
                    name,
                    value,
                    found.value,
                    instrument=self.instrument,
                    command=encode(f"{self.number}{command}{_text(value)}"),
                    reply=str(found.value).encode(),
                )
            return found

        return put

    def _put_limit(self, name: str, command: str, index: int) -> Callable[[float], Conversation[Stamped[float]]]:
        put = self._put(name, command)

        def put_and_keep(value: float) -> Conversation[Stamped[float]]:
            found = yield from put(value)
            limits = list(self._limits)
            limits[index] = found.value
            self._limits = (limits[0], limits[1])
            self.fields = self._make_fields()
            return found

        return put_and_keep

    def _enabled(self) -> Conversation[Stamped[bool]]:
        found = yield from self._ask("MO?", "0 or 1", _one_of((0, 1)))
        return Stamped(found.value == 1, found.timestamp)

    def _enable(self, value: bool) -> Conversation[Stamped[bool]]:
        yield from self._command("MO" if value else "MF")
        found = yield from self._enabled()
        if found.value != value:
            raise SettingNotTaken(
                "enabled",
                value,
                found.value,
                instrument=self.instrument,
                command=encode(f"{self.number}{'MO' if value else 'MF'}"),
                reply=b"",
            )
        return found

    def _make_fields(self) -> Fields:
        number, units = self.number, self._units
        limits = self._limits if self._limits[0] < self._limits[1] else None

        def field(
            name: str,
            command: str,
            units: str,
            *,
            put: Callable[[float], Conversation[Stamped[float]]] | None = None,
            limits: tuple[float, float] | None = None,
        ) -> Field[float]:
            return Field(
                name=name,
                datatype=float,
                command=f"{number}{command}?",
                instrument=self.instrument,
                get=self._read(f"{command}?", f"a {name}"),
                put=put,
                units=units,
                precision=4,
                limits=limits,
            )

        return Fields(
            field("readback", "TP", units, limits=limits),
            field("setpoint", "DP", units, limits=limits),
            field("velocity", "VA", f"{units}/s", put=self._put("velocity", "VA")),
            field("max_velocity", "VU", f"{units}/s"),
            field("acceleration", "AC", f"{units}/s^2", put=self._put("acceleration", "AC")),
            field("deceleration", "AG", f"{units}/s^2", put=self._put("deceleration", "AG")),
            field("low_limit", "SL", units, put=self._put_limit("low limit", "SL", 0)),
            field("high_limit", "SR", units, put=self._put_limit("high limit", "SR", 1)),
            Field(
                name="enabled",
                datatype=bool,
                command=f"{number}MO?",
                instrument=self.instrument,
                get=self._enabled,
                put=self._enable,
            ),
            Field(name="stage", datatype=str, command=f"{number}ID?", instrument=self.instrument, get=self._stage),
        )


def _raise_errors(codes: list[int], command: bytes) -> None:
    """Raise InstrumentFault with the first code and the text of all, when there are any."""
    if codes:
        raise InstrumentFault(
            codes[0], "; ".join(error_text(code) for code in codes), instrument=INSTRUMENT, command=command
        )


def _text(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _one_of(codes: Mapping[int, object] | tuple[int, ...]) -> Callable[[bytes], int]:
    def convert(text: bytes) -> int:
        code = numbers.integer(text)
        if code not in codes:
            raise ValueError(f"{code} is not expected here")
        return code

    return convert
