"""`tandem validate`: ask all instruments of a configuration, keep what was said, compare it with their simulators."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table

from coexistence import Connection, SharedResources
from coexistence.config import DualConfig, InstrumentConfig
from coexistence.wire_statistics import LogEntry
from devices import registry
from devices.dialogue import Dialogue
from devices.protocols.conversation import Conversation, Stamped
from profiles.acceptance import ChangesTheInstrument, Question, camera_questions, only_questions, questions
from profiles.configuration import load_configuration
from profiles.console import say, say_table
from profiles.hardware import connection_of, line_settings
from profiles.reply_comparison import Difference, Line, compare_exchanges, compare_units
from profiles.simulate import with_simulation
from profiles.simulation import SimulatedBench

if TYPE_CHECKING:
    from devices.cameras import CameraLibrary


@dataclass
class Answered:
    """What became of a question: `ok`, `failed` with an error, or `not asked` because it would change something.

    `duration_s` is the time on the wire, `exchanges` what was said there.
    """

    name: str
    purpose: str
    units: str | None = None
    outcome: Literal["ok", "failed", "not asked"] = "ok"
    value: Any = None
    error: str = ""
    duration_s: float = 0.0
    exchanges: list[LogEntry] = field(default_factory=list)


@dataclass(frozen=True)
class Timing:
    """How long readings took, in s from asking to the value; `wire_median_s` is the part on the wire.

    Times are those of readings that did not fail; None when all did.
    """

    reading: str
    count: int
    failed: int
    median_s: float | None
    shortest_s: float | None
    longest_s: float | None
    wire_median_s: float | None


@dataclass
class Validated:
    """What one instrument answered. Entries that are one instrument, say one of each generation, are one of these."""

    ids: list[str]
    type: str
    wire: str | None
    answers: list[Answered] = field(default_factory=list)
    timing: Timing | None = None
    left_out: list[bytes] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    skipped: str = ""

    @property
    def problems(self) -> list[str]:
        """What is wrong, each with what was asked for."""
        wrong = [f"{answer.name}: {answer.error}" for answer in self.answers if answer.outcome == "failed"]
        if self.timing is not None and self.timing.failed:
            wrong.append(f"{self.timing.reading}: {self.timing.failed} of {self.timing.count} readings failed")
        return wrong

    @property
    def passed(self) -> bool:
        """Whether everything that was asked was answered as it should be."""
        return not self.problems

    @property
    def exchanges(self) -> list[LogEntry]:
        """Everything that was said, in order."""
        return [entry for answer in self.answers for entry in answer.exchanges]

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain data; bytes are Latin-1 text."""
        return {
            "ids": self.ids,
            "type": self.type,
            "wire": self.wire,
            "passed": self.passed,
            "skipped": self.skipped,
            "problems": self.problems,
            "differences": [asdict(difference) for difference in self.differences],
            "timing": None if self.timing is None else asdict(self.timing),
            "left_out": [command.decode("latin-1") for command in self.left_out],
            "answers": [
                {**vars(answer), "exchanges": [_entry_as_json(entry) for entry in answer.exchanges]}
                for answer in self.answers
            ],
        }


def run_validate(config: str, *, simulate: bool, output: Path | None, readings: int, json_output: bool) -> int:
    """Validate the instruments of a configuration, save the report, print a table; return the exit code.

    Parameters
    ----------
    config
        A TOML file, or the name of a profile.
    simulate
        Validate the simulators themselves, to see what the report is like.
    output
        Where the report goes; None is `validation-<time>.json` in the current folder.
    readings
        How many readings are timed.
    json_output
        Print one JSON object as the last line of the output, without what was said, and the table to stderr.

    Raises
    ------
    ConfigError
        With all problems of the configuration.
    OSError
        The report cannot be written.
    """
    chosen = load_configuration(config)
    simulate = simulate or chosen.simulation.always
    began = datetime.now()
    path = output or Path(f"validation-{began:%Y%m%d-%H%M%S}.json")
    # A report that cannot be written is better known before instruments are asked.
    with path.open("w", encoding="utf-8") as file:
        console = Console(stderr=json_output)
        found = validate(
            chosen, simulate=simulate, readings=readings, tell=lambda name: say(console, f"asking {name} ...")
        )
        report: dict[str, Any] = {
            "ok": all(instrument.passed for instrument in found),
            "configuration": [str(source) for source in chosen.files],
            "fingerprint": chosen.fingerprint,
            "began": began.astimezone().isoformat(timespec="seconds"),
            "simulated": simulate,
            "instruments": [instrument.as_json() for instrument in found],
        }
        json.dump(report, file, indent=1, default=str)
    _print(found, console)
    say(console, f"Every exchange is in {path}")
    if json_output:
        for instrument in report["instruments"]:
            for answer in instrument["answers"]:
                del answer["exchanges"]
        print(json.dumps({**report, "report": str(path)}, default=str))
    return 0 if report["ok"] else 1


def validate(
    config: DualConfig, *, simulate: bool = False, readings: int = 10, tell: Callable[[str], object] = lambda _: None
) -> list[Validated]:
    """Ask every instrument of a configuration, one after the other, and compare the answers with the simulators'.

    Nothing that goes wrong with one instrument keeps the others from being asked.

    Parameters
    ----------
    config
        The configuration.
    simulate
        Ask simulators in place of the instruments as well.
    readings
        How many readings are timed.
    tell
        Is given the name of each instrument before it is asked.

    Raises
    ------
    ConfigError
        With the instruments that cannot be simulated.
    """
    # Lines and motion of a simulator that is compared with a real instrument have to be as slow as real ones.
    with SimulatedBench(config if simulate else with_simulation(config, time_scale=1.0)) as bench:
        found = []
        for ids, instrument in _distinct_instruments(config):
            tell(ids[0])
            simulated = bench.replace_wire(instrument)
            subject = simulated if simulate else instrument
            cameras = bench.cameras if simulate else _vendor_cameras
            report = _interview(subject, config, cameras, readings)
            report.ids, report.wire = ids, instrument.wire
            if any(answer.outcome == "ok" for answer in report.answers):
                reference = _interview(simulated, config, bench.cameras, readings)
                scale = config.simulation.time_scale if simulate else 1.0
                report.differences = _differences(report, reference, _line_of(instrument, scale))
            found.append(report)
        return found


def _distinct_instruments(config: DualConfig) -> Iterator[tuple[list[str], InstrumentConfig]]:
    """Yield each instrument once, with the ids of all its entries."""
    found: dict[str, tuple[list[str], InstrumentConfig]] = {}
    for _, instrument in config.instruments():
        key = instrument.id if instrument.is_foreign else repr((instrument.wire, instrument.type, instrument.options))
        found.setdefault(key, ([], instrument))[0].append(instrument.id)
    yield from found.values()


def _vendor_cameras() -> CameraLibrary:
    from devices.cameras import PvcamLibrary

    return PvcamLibrary()


def _interview(
    instrument: InstrumentConfig, config: DualConfig, cameras: Callable[[], CameraLibrary], readings: int
) -> Validated:
    report = Validated([instrument.id], instrument.type, instrument.wire)
    if instrument.is_foreign:
        report.skipped = "nothing is known of what it may be asked"
    elif instrument.camera_name is not None:
        _interview_camera(instrument.camera_name, cameras, report, readings)
    else:
        with closing(SharedResources(config)) as resources:
            connection = connection_of(instrument, resources)
            _interview_on_wire(instrument, connection, report, readings)
    return report


def _interview_on_wire(instrument: InstrumentConfig, connection: Connection, report: Validated, readings: int) -> None:
    try:
        connection.open()
    except Exception as error:
        report.answers.append(Answered("identity", "identity", outcome="failed", error=_told(error)))
        return
    script = questions(instrument.type, instrument.options)
    chosen: Any = registry.check_options(instrument.type, instrument.options)
    dialogue = Dialogue.in_terms_of(chosen.protocol(), connection)

    def hold(question: Question) -> Any:
        def begin() -> Conversation[Any]:
            return only_questions(instrument.type, question.begin(), report.left_out)

        # What is said first on a wire may be answered with what was under way to somebody else.
        return dialogue.identify(begin) if question.purpose == "identity" else dialogue.hold(begin)

    def ask(question: Question) -> Answered:
        began = time.time()
        answer = _answered(question, hold)
        answer.exchanges = [entry for entry in connection.wire.log if entry.time >= began]
        answer.duration_s = sum(entry.duration for entry in answer.exchanges)
        return answer

    _ask_all(script, ask, report, readings)


def _interview_camera(name: str, cameras: Callable[[], CameraLibrary], report: Validated, readings: int) -> None:
    try:
        library = cameras()
        camera = library.open(name)
    except Exception as error:
        report.answers.append(Answered("identity", "identity", outcome="failed", error=_told(error)))
        return
    try:
        _ask_all(camera_questions(camera), lambda question: _answered(question, _conclude), report, readings)
    finally:
        with suppress(Exception):
            library.close(camera)


def _ask_all(script: Iterator[Question], ask: Callable[[Question], Answered], report: Validated, readings: int) -> None:
    timed: Question | None = None
    for question in script:
        answer = ask(question)
        report.answers.append(answer)
        if question.purpose == "identity" and answer.outcome == "failed":
            # Whatever answers here, or does not, is nothing to go on asking.
            return
        if question.purpose == "reading" and answer.outcome == "ok" and timed is None:
            timed = question
            report.timing = _time_readings(question, ask, answer, readings)
        if question.purpose == "errors after" and answer.value:
            answer.outcome = "failed"
            answer.error = "asking left errors in the instrument: " + "; ".join(answer.value)


def _time_readings(question: Question, ask: Callable[[Question], Answered], first: Answered, readings: int) -> Timing:
    times: list[float] = []
    wire_times: list[float] = []
    failed = 0
    for _ in range(readings):
        began = time.perf_counter()
        answer = ask(question)
        took = time.perf_counter() - began
        first.exchanges += answer.exchanges
        if answer.outcome == "ok":
            times.append(took)
            wire_times.append(answer.duration_s)
        else:
            failed += 1
    return Timing(
        question.name,
        readings,
        failed,
        statistics.median(times) if times else None,
        min(times, default=None),
        max(times, default=None),
        statistics.median(wire_times) if wire_times else None,
    )


def _answered(question: Question, hold: Callable[[Question], Any]) -> Answered:
    answer = Answered(question.name, question.purpose, question.units)
    try:
        value = hold(question)
    except ChangesTheInstrument as refused:
        answer.outcome, answer.error = "not asked", str(refused)
    except Exception as error:
        answer.outcome, answer.error = "failed", _told(error)
    else:
        answer.value = value.value if isinstance(value, Stamped) else value
    return answer


def _conclude(question: Question) -> Any:
    """Hold a conversation in which nothing is said on a wire."""
    try:
        next(question.begin())
    except StopIteration as stop:
        return stop.value
    raise AssertionError(f"{question.name} asks something on a wire")


def _differences(report: Validated, reference: Validated, line: Line | None) -> list[Difference]:
    theirs = {answer.name: answer for answer in reference.answers}
    differences = [
        Difference(answer.name, "answer", answer.outcome, theirs[answer.name].outcome)
        for answer in report.answers
        if answer.name in theirs and answer.outcome != theirs[answer.name].outcome
    ]
    differences += compare_units(_units_of(report), _units_of(reference))
    return differences + compare_exchanges(report.exchanges, reference.exchanges, line)


def _units_of(report: Validated) -> dict[str, str | None]:
    return {answer.name: answer.units for answer in report.answers if answer.outcome == "ok"}


def _line_of(instrument: InstrumentConfig, time_scale: float) -> Line | None:
    if instrument.serial_device is None:
        return None
    settings = line_settings(instrument)
    bits = 1 + settings.get("data_bits", 8) + settings.get("stop_bits", 1) + (settings.get("parity", "none") != "none")
    return Line(settings.get("baud_rate", 9600), bits, len(settings.get("terminator", b"\n")), time_scale)


def _told(error: Exception) -> str:
    return str(error).strip() or type(error).__name__


def _entry_as_json(entry: LogEntry) -> dict[str, Any]:
    return {
        key: value.decode("latin-1") if isinstance(value, bytes) else value for key, value in entry._asdict().items()
    }


def _print(found: list[Validated], console: Console) -> None:
    table = Table("instrument", "result", "identity", "one reading")
    for report in found:
        result = "skipped" if report.skipped else "passed" if report.passed else "FAILED"
        table.add_row(", ".join(report.ids), result, _identity_of(report), _reading_of(report))
    say_table(console, table)
    for report in found:
        name = ", ".join(report.ids)
        notes = [f"wrong: {problem}" for problem in report.problems]
        notes += [f"skipped: {report.skipped}"] if report.skipped else []
        notes += [f"waited in the instrument: {text}" for text in _waiting_errors(report)]
        notes += [f"{answer.name}: {answer.error}" for answer in report.answers if answer.outcome == "not asked"]
        notes += [f"unlike its simulator: {difference}" for difference in report.differences]
        for note in notes:
            say(console, f"{name}: {note}")


def _identity_of(report: Validated) -> str:
    return next((str(answer.value) for answer in report.answers if answer.name == "identity" and answer.value), "")


def _reading_of(report: Validated) -> str:
    timing = report.timing
    if timing is None:
        return ""
    reading = next(answer for answer in report.answers if answer.name == timing.reading)
    value = f"{reading.value:.6g}" if isinstance(reading.value, float) else str(reading.value)
    took = "" if timing.median_s is None else f"in {timing.median_s * 1e3:.1f} ms"
    return " ".join(filter(None, (timing.reading, value, reading.units, took)))


def _waiting_errors(report: Validated) -> list[str]:
    return next((answer.value or [] for answer in report.answers if answer.name == "errors_before"), [])
