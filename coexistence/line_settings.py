"""How a serial line is set, and the checks that refuse what cannot be right."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Any

from coexistence.errors import ConfigError, Problem
from coexistence.hold import LONGEST_TIMEOUT_S

PARITIES = {"none": "N", "even": "E", "odd": "O", "mark": "M", "space": "S"}
FLOW_CONTROLS = ("none", "rtscts", "xonxoff", "dsrdtr")


@dataclass(frozen=True, kw_only=True)
class LineSettings:
    """The settings of a serial line.

    Raises
    ------
    ConfigError
        With every setting that cannot be right.
    """

    baud_rate: int = 9600
    """Bits per second."""
    data_bits: int = 8
    stop_bits: float = 1
    """1, 1.5 or 2."""
    parity: str = "none"
    """``none``, ``even``, ``odd``, ``mark`` or ``space``."""
    flow_control: str = "none"
    """``none``, ``rtscts``, ``xonxoff`` or ``dsrdtr``."""

    def __post_init__(self) -> None:
        problems = []
        if (
            not isinstance(self.baud_rate, int)
            or isinstance(self.baud_rate, bool)
            or not 50 <= self.baud_rate <= 4_000_000
        ):
            problems.append(
                Problem(
                    f"baud_rate must be a whole number between 50 and 4000000, not {self.baud_rate!r}",
                    "usual rates are 9600, 19200 and 115200",
                )
            )
        if self.data_bits not in (5, 6, 7, 8):
            problems.append(Problem(f"data_bits must be 5, 6, 7 or 8, not {self.data_bits!r}"))
        if self.stop_bits not in (1, 1.5, 2):
            problems.append(Problem(f"stop_bits must be 1, 1.5 or 2, not {self.stop_bits!r}"))
        problems += _not_among("parity", self.parity, tuple(PARITIES))
        problems += _not_among("flow_control", self.flow_control, FLOW_CONTROLS)
        if problems:
            raise ConfigError(*problems)

    @property
    def bits_per_byte(self) -> float:
        """Bits that one byte takes on the line: start, data, parity and stop bits."""
        return 1 + self.data_bits + (self.parity != "none") + float(self.stop_bits)

    def for_pyserial(self) -> dict[str, Any]:
        """Return the settings as pyserial's keyword arguments."""
        return {
            "baudrate": self.baud_rate,
            "bytesize": self.data_bits,
            "stopbits": self.stop_bits,
            "parity": PARITIES[self.parity],
            "xonxoff": self.flow_control == "xonxoff",
            "rtscts": self.flow_control == "rtscts",
            "dsrdtr": self.flow_control == "dsrdtr",
        }

    def __str__(self) -> str:
        text = f"{self.baud_rate} {self.data_bits}{PARITIES.get(self.parity, '?')}{self.stop_bits:g}"
        return text if self.flow_control == "none" else f"{text} {self.flow_control}"


def _not_among(name: str, value: object, choices: tuple[str, ...]) -> list[Problem]:
    if value in choices:
        return []
    close = difflib.get_close_matches(str(value).lower(), choices, n=1)
    return [
        Problem(
            f"{name} must be one of {', '.join(choices)}, not {value!r}",
            f"did you mean {close[0]!r}?" if close else "",
        )
    ]


def check_terminator(terminator: object) -> list[Problem]:
    """Return what is wrong with a terminator: it must be bytes (empty: replies have none)."""
    if isinstance(terminator, bytes):
        return []
    hint = f"write it as bytes: {str(terminator).encode()!r}" if isinstance(terminator, str) else ""
    return [Problem(f"terminator must be bytes, not {terminator!r}", hint)]


def check_timeout(name: str, value: object) -> list[Problem]:
    """Return what is wrong with a time limit: it must be a number of seconds above 0 and below a day."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if is_number and 0 < value <= LONGEST_TIMEOUT_S:  # type: ignore[operator]
        return []
    return [
        Problem(
            f"{name} must be a number of seconds above 0 and at most {LONGEST_TIMEOUT_S:g}, not {value!r}",
            "nothing waits for ever",
        )
    ]
