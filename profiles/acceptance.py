"""What an instrument is asked on its first day, type by type: questions only, nothing that moves or changes it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from coexistence.errors import CoexistenceError
from devices import registry
from devices.cameras import PvcamCamera
from devices.protocols import elliptec, esp300, esp300_errors, maitai, newport_1830c, numbers, scpi
from devices.protocols.conversation import Answer, Ask, Conversation, Say, Stamped, Step
from devices.protocols.errors import InstrumentFault
from devices.protocols.field import Fields

T = TypeVar("T")

Purpose = Literal["identity", "setting", "reading", "errors before", "errors after"]

_READINGS = frozenset(
    {"power", "pump_power", "warmed_up", "humidity", "modelocked", "shutter", "emission", "readback", "reading"}
)
"""Fields that are measured; the others are settings."""

_QUESTIONS: dict[str, re.Pattern[bytes]] = {
    "Newport1830C": re.compile(rb"[A-Z]{1,2}\?\n"),
    "ESP300": re.compile(rb"([1-3]?[A-Z]{2}\?|[1-3]TP)\r"),
    "MaiTai": re.compile(rb"[^?;]+\?\n"),
    "Elliptec": re.compile(rb"[0-9A-F](in|gp|gs|gv|gj|go)"),
}
"""By type, the commands that only ask."""

# MEASure? configures before it measures; the self-test and calibration queries do what they are named for.
_SCPI_QUESTION = re.compile(rb"(?!:?MEAS|:?CONF|:?CAL|\*TST|\*CAL)[^?;]+\?[^;]*[\r\n]+", re.IGNORECASE)

_QUEUE_LENGTH = 20


class ChangesTheInstrument(CoexistenceError):
    """A command is no mere question, and was not sent."""

    def __init__(self, command: bytes) -> None:
        self.command = command
        super().__init__(f"{command!r} does more than ask, and was not sent")


@dataclass(frozen=True)
class Question:
    """One thing to ask an instrument.

    Parameters
    ----------
    name
        What is asked for; for fields the name of the signal, with the axis where there are several.
    purpose
        Why it is asked. The answers to `errors before` and `errors after` are lists of texts: what waited in the
        instrument before anything was asked, and what the questions gave rise to.
    begin
        Starts the conversation.
    units
        Units of the value.
    """

    name: str
    purpose: Purpose
    begin: Callable[[], Conversation[Any]]
    units: str | None = None


def questions(type_name: str, options: dict[str, Any]) -> Iterator[Question]:
    """Yield what to ask an instrument on a wire, its identity first.

    What follows depends on the answers (axes have the units the controller says), so each question is to be asked
    before the next is taken; after an identity that was refused nothing else makes sense.

    Parameters
    ----------
    type_name
        As in the configuration.
    options
        Options of the instrument.
    """
    chosen: Any = registry.check_options(type_name, options)
    protocol = chosen.protocol()
    yield Question("identity", "identity", protocol.identify)
    yield from _SCRIPTS[type_name](protocol)


def camera_questions(camera: PvcamCamera) -> Iterator[Question]:
    """Yield what to ask a camera that is open; no frame is taken."""

    def at_once(measure: Callable[[], Any]) -> Callable[[], Conversation[Any]]:
        def begin() -> Conversation[Stamped[Any]]:
            yield from ()
            return Stamped(measure(), time.time())

        return begin

    def asked(
        name: str, measure: Callable[[], Any], units: str | None = None, purpose: Purpose = "setting"
    ) -> Question:
        return Question(name, purpose, at_once(measure), units)

    yield asked("identity", lambda: f"{camera.chip_name} serial number {camera.serial_no}", purpose="identity")
    yield asked("sensor_size", lambda: list(camera.sensor_size), "px")
    yield asked("exposure", lambda: camera.exp_time, "ms")
    yield asked("trigger_modes", lambda: sorted(camera.exp_modes))
    yield asked("binnings", lambda: None if camera.binnings is None else [list(pair) for pair in camera.binnings])
    yield asked("readout_time", lambda: camera.readout_time, "us")
    yield asked("temperature", lambda: camera.temp, "degC", purpose="reading")


def only_questions(type_name: str, conversation: Conversation[T], left_out: list[bytes]) -> Conversation[T]:
    """Hold a conversation without what changes the instrument.

    Commands without reply are left out and noted; a command with a reply that is no mere question ends it.

    Raises
    ------
    ChangesTheInstrument
        For such a command. Nothing of it was sent.
    """
    pattern = _QUESTIONS.get(type_name, _SCPI_QUESTION)
    try:
        step: Step = next(conversation)
        while True:
            if isinstance(step, Say):
                if step.command not in left_out:
                    left_out.append(step.command)
                step = next(conversation)
            elif not pattern.fullmatch(step.command):
                raise ChangesTheInstrument(step.command)
            else:
                answer = yield step
                step = conversation.send(answer)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        conversation.close()


def _newport_1830c(protocol: newport_1830c.Newport1830CProtocol) -> Iterator[Question]:
    waiting: list[str] = []

    def before() -> Conversation[list[str]]:
        waiting[:] = yield from conditions()
        return list(waiting)

    def after() -> Conversation[list[str]]:
        # The bits stay until they are cleared, which is not a question.
        return [text for text in (yield from conditions()) if text not in waiting]

    def conditions() -> Generator[Ask, Answer, list[str]]:
        command = newport_1830c.encode("Q?")
        answer = yield Ask(command, accept=lambda line: not newport_1830c.is_echo(line), repeatable=True)
        status = newport_1830c.Status(numbers.integer(answer.data))
        wrong = newport_1830c.Status.PARAMETER_ERROR | newport_1830c.Status.COMMAND_ERROR
        return [str(bit.name).lower().replace("_", " ") for bit in newport_1830c.Status if bit & wrong & status]

    yield from _between(before, after, _of_fields(protocol.fields))


def _esp300(protocol: esp300.Esp300Protocol) -> Iterator[Question]:
    def errors() -> Conversation[list[str]]:
        found: list[str] = []
        while len(found) < _QUEUE_LENGTH:
            code = yield from protocol.ask("TE?", "an error code", numbers.integer)
            if code.value == 0:
                break
            found.append(f"{code.value}: {esp300_errors.error_text(code.value)}")
        return found

    def of_axes() -> Iterator[Question]:
        yield from _of_fields(protocol.fields)
        for number, axis in protocol.axes.items():
            yield Question(f"axis_{number}", "identity", axis.identify)
            yield from _of_fields(axis.fields, f"axis_{number}_")

    yield from _between(errors, errors, of_axes())


def _maitai(protocol: maitai.MaiTaiProtocol) -> Iterator[Question]:
    def errors() -> Conversation[list[str]]:
        try:
            yield from protocol.check_errors(b"")
        except InstrumentFault as error:
            return [f"{error.code}: {error.text}"]
        return []

    def of_the_laser() -> Iterator[Question]:
        yield from _of_fields(protocol.fields)
        yield Question("tuning_range", "identity", protocol.wavelength.identify)
        yield from _of_fields(protocol.wavelength.fields, "wavelength_")

    yield from _between(errors, errors, of_the_laser())


def _elliptec(protocol: elliptec.ElliptecProtocol) -> Iterator[Question]:
    def errors() -> Conversation[list[str]]:
        code = yield from protocol.status()
        return [] if code in (elliptec.OK, elliptec.BUSY) else [elliptec.STATUS_TEXT.get(code, f"status {code}")]

    yield from _between(errors, errors, _of_fields(protocol.fields))


def _scpi(protocol: scpi.ScpiProtocol) -> Iterator[Question]:
    def errors() -> Conversation[list[str]]:
        return [f"{number}: {text}" for number, text in (yield from protocol.errors())]

    yield from _between(errors, errors, _of_fields(protocol.fields))


_SCRIPTS: dict[str, Callable[[Any], Iterator[Question]]] = {
    "Newport1830C": _newport_1830c,
    "ESP300": _esp300,
    "MaiTai": _maitai,
    "Elliptec": _elliptec,
    "ScpiInstrument": _scpi,
    "ScpiMeter": _scpi,
}


def _between(
    before: Callable[[], Conversation[list[str]]],
    after: Callable[[], Conversation[list[str]]],
    others: Iterator[Question],
) -> Iterator[Question]:
    """Yield questions between a look at what waits in the error queue and one at what the questions left there."""
    yield Question("errors_before", "errors before", before)
    yield from others
    yield Question("errors_after", "errors after", after)


def _of_fields(fields: Fields, prefix: str = "") -> Iterator[Question]:
    for name, field in fields.items():
        if field.get is not None and not field.remembered:
            purpose: Purpose = "reading" if name in _READINGS else "setting"
            get = partial(_as_list, field.get) if field.shape else field.get
            yield Question(f"{prefix}{name}", purpose, get, field.units)


def _as_list(get: Callable[[], Conversation[Stamped[Any]]]) -> Conversation[Stamped[list[float]]]:
    """Ask for an array in a form that a transcript can hold."""
    measured = yield from get()
    return Stamped(measured.value.tolist(), measured.timestamp)
