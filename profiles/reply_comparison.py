"""Compares what two instruments of one type said to the same commands: one on the bench, and its simulator."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from coexistence.wire_statistics import LogEntry

_NUMBER = re.compile(rb"[+-]?(\d+|\d*\.\d*)([Ee][+-]?\d+)?(?=[^\d.]|$)")
_PACKET = re.compile(rb"[0-9A-F]([A-Z]{2})([0-9A-F]{2,})")
_UNIT = re.compile(rb"\s*[A-Za-z%/]{0,4}")

_SLOWER_BY_S = 0.02
_SLOWER_BY_SHARE = 0.5
_FASTER_THAN_LINE = 0.7


@dataclass(frozen=True)
class Line:
    """The speed of a serial line.

    Parameters
    ----------
    baud_rate
        Symbols per second.
    bits
        Symbols for each byte, start, parity and stop bits included.
    terminator_length
        Bytes that end a reply; they are on the line, and not in the log.
    time_scale
        Below 1 the line is simulated, and so much faster.
    """

    baud_rate: int
    bits: float = 10
    terminator_length: int = 1
    time_scale: float = 1.0

    def seconds(self, entry: LogEntry) -> float:
        """Return what the bytes of an exchange take, without any thinking of the instrument."""
        count = len(entry.sent) + len(entry.received) + self.terminator_length
        return count * self.bits / self.baud_rate * self.time_scale


@dataclass(frozen=True)
class Difference:
    """One way in which an instrument is not like its simulator.

    `about` is `reply` (other form), `units`, `time` (slower than the simulator, or faster than its line), or
    `answer` (only one of the two answered). `instrument` and `simulator` say what each did.
    """

    command: str
    about: Literal["reply", "units", "time", "answer"]
    instrument: str
    simulator: str

    def __str__(self) -> str:
        return f"{self.command}: {self.about}: {self.instrument}; simulator: {self.simulator}"


def shape_of(reply: bytes) -> str:
    """Return the form of a reply: what stays when values change.

    Numbers become `<integer>`, `<decimal>` or `<exponent>` with their unit; packets of hexadecimal digits become
    their letters with the number of digits; of other texts only quotes and commas are kept.
    """
    text = reply.strip()
    if packet := _PACKET.fullmatch(text):
        return f"{packet[1].decode()}<{len(packet[2])} hexadecimal digits>"
    number = _NUMBER.match(text)
    if number is None or not any(digit in number[0] for digit in b"0123456789"):
        return _text_shape(text)
    kind = "exponent" if number[2] else "decimal" if b"." in number[0] else "integer"
    rest = text[number.end() :]
    return f"<{kind}>" + (rest.strip().decode() if _UNIT.fullmatch(rest) else _text_shape(rest))


def compare_exchanges(
    instrument: Iterable[LogEntry], simulator: Iterable[LogEntry], line: Line | None
) -> list[Difference]:
    """Return how the answers to each command differ, in form and in time.

    Parameters
    ----------
    instrument, simulator
        What was said on both wires.
    line
        Speed of the instrument's line; None when it is on none.
    """
    theirs = _by_command(simulator)
    differences: list[Difference] = []
    for command, entries in _by_command(instrument).items():
        if command in theirs:
            differences += _compare_command(_shown(command), entries, theirs[command], line)
    return differences


def compare_units(instrument: Mapping[str, Any], simulator: Mapping[str, Any]) -> list[Difference]:
    """Return where the units of values differ; both map what was asked for to its units."""
    return [
        Difference(name, "units", str(units), str(simulator[name]))
        for name, units in instrument.items()
        if name in simulator and simulator[name] != units
    ]


def _compare_command(
    command: str, entries: list[LogEntry], theirs: list[LogEntry], line: Line | None
) -> Iterable[Difference]:
    shapes = {shape_of(entry.received) for entry in entries}
    known = {shape_of(entry.received) for entry in theirs}
    if not shapes <= known:
        yield Difference(command, "reply", _listed(shapes), _listed(known))
    # The shortest of several is the instrument's own; what goes beyond may be this machine's.
    took = min(entry.duration for entry in entries)
    expected = min(entry.duration for entry in theirs)
    if line is not None and took < _FASTER_THAN_LINE * (least := min(line.seconds(entry) for entry in entries)):
        told = f"{took * 1e3:.1f} ms, less than the {least * 1e3:.1f} ms its bytes take at {line.baud_rate} baud"
        yield Difference(command, "time", told, f"{expected * 1e3:.1f} ms")
    elif took > expected * (1 + _SLOWER_BY_SHARE) + _SLOWER_BY_S:
        yield Difference(command, "time", f"{took * 1e3:.1f} ms", f"{expected * 1e3:.1f} ms")


def _by_command(entries: Iterable[LogEntry]) -> dict[bytes, list[LogEntry]]:
    found: dict[bytes, list[LogEntry]] = {}
    for entry in entries:
        if entry.outcome == "ok" and entry.sent and entry.received:
            found.setdefault(entry.sent, []).append(entry)
    return found


def _text_shape(text: bytes) -> str:
    return re.sub(rb'[^",]+', b"text", text).decode()


def _listed(shapes: set[str]) -> str:
    return " or ".join(sorted(shapes))


def _shown(command: bytes) -> str:
    return command.decode("latin-1").strip()
