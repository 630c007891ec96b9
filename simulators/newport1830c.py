"""Newport 1830-C optical power meter, as it speaks on its serial line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from .instrument import Channel, LineInstrument, World

PARAMETER_ERROR, COMMAND_ERROR, SATURATED, OVER_RANGE, BUSY, READING_DONE = 1, 2, 4, 8, 32, 128

_VALUES = {
    "A": "01",
    "B": "01",
    "F": "123",
    "G": "01",
    "K": "012",
    "L": "01",
    "R": "012345678",
    "U": "1234",
    "Z": "01",
}
"""Settings that can be set and asked for, and the values each takes."""

_POWER_UP = {"A": "0", "B": "1", "F": "3", "G": "1", "K": "1", "L": "0", "R": "0", "U": "1", "Z": "0"}
_SAMPLES = {"1": 16, "2": 4, "3": 1}
_COUNTS = 20_000
"""Display counts at full scale."""


class Newport1830C(LineInstrument):
    """Power meter with eight decade ranges, a silicon detector and a status byte.

    Args:
        world, name: as for every instrument.
        wavelength_nm: calibration wavelength at power-up.
        echo: whether the meter echoes characters at power-up.
        units: what `U1` to `U4` mean; sources disagree about the order of dB and dBm.
        most_sensitive_w: full scale of range 1.
        saturation_w: power at which the bare detector saturates; the attenuator takes a thousandfold.
        relative_noise: standard deviation of one sample, as a fraction of the power.
        range_noise: standard deviation of one sample, as a fraction of full scale.
        sample_s: time a sample takes.
        ranging_s: time a change of the range takes.
        latency_s: time from a command's end to its answer.
    """

    faults_known = frozenset(("busy", "over_range", "saturation", "error"))
    settable = frozenset(("relative_noise", "range_noise", "saturation_w"))
    longest_command: ClassVar[int] = 64

    def __init__(
        self,
        world: World,
        name: str,
        *,
        wavelength_nm: int = 800,
        echo: bool = False,
        units: Sequence[str] = ("W", "dB", "dBm", "relative"),
        most_sensitive_w: float = 2e-9,
        saturation_w: float = 20e-3,
        relative_noise: float = 1e-3,
        range_noise: float = 1e-4,
        sample_s: float = 0.05,
        ranging_s: float = 0.1,
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(world, name, latency_s=latency_s)
        self.relative_noise = relative_noise
        self.range_noise = range_noise
        self.saturation_w = saturation_w
        self._echo_at_power_up = echo
        self._wavelength_at_power_up = wavelength_nm
        self._units = dict(zip("1234", units, strict=True))
        self._most_sensitive_w = most_sensitive_w
        self._sample_s = sample_s
        self._ranging_s = ranging_s
        self.reset()

    def reset(self) -> None:
        """Go to the power-up state: auto range, watts, no filter, no zero."""
        super().reset()
        self._settings = dict(_POWER_UP)
        self._echo = self._echo_at_power_up
        self._wavelength_nm = self._wavelength_at_power_up
        self._range = 8
        self._ranging_until = 0.0
        self._errors = 0
        self._reading_flags = 0
        self._read_at = -math.inf
        self._zero_w = 0.0
        self._reference_w = 1e-3
        self._held_w: float | None = None

    def truth(self) -> dict[str, Any]:
        """Tell the true power on the detector, and the meter's settings."""
        return {
            "power_w": self.bench.power(),
            "range": self._current_range(),
            "full_scale_w": self._full_scale(self._current_range()),
            "wavelength_nm": self._wavelength_nm,
            "units": self._units[self._settings["U"]],
            "settings": dict(self._settings),
            "echo": self._echo,
            "zero_w": self._zero_w,
        }

    def receive(self, channel: Channel, data: bytes) -> None:
        """Take bytes; with echo on each goes straight back."""
        if self._echo:
            channel.send(data)
        super().receive(channel, data)

    def execute(self, channel: Channel, line: bytes) -> None:
        """Do one command. Only queries are answered; what is wrong shows in the status byte."""
        if error := self.faults.take("error"):
            self._errors |= int(error.parameters.get("code", COMMAND_ERROR))
            return
        text = line.decode("latin-1").strip()
        head, value = text[:1], text[1:]
        if text == "D?":
            self._answer(channel, self._reading())
        elif text == "Q?":
            self._answer(channel, str(self._status()))
        elif text == "W?":
            self._answer(channel, f"{self._wavelength_nm:04d}")
        elif value == "?" and head in _VALUES:
            self._answer(channel, self._settings[head])
        elif text in ("C", "CS"):
            self._errors = 0
        elif text == "S":
            self._reference_w = self._measured_w()[0]
        elif head == "W":
            self._set_wavelength(value)
        elif head == "E":
            self._set_echo(value)
        elif head in _VALUES:
            self._set(head, value)
        else:
            self._errors |= COMMAND_ERROR

    def _answer(self, channel: Channel, text: str) -> None:
        self.reply(channel, text.encode() + b"\n")

    def _set(self, head: str, value: str) -> None:
        if len(value) != 1 or value not in _VALUES[head]:
            self._errors |= PARAMETER_ERROR
            return
        if head == "Z":
            self._zero_w = self._measured_w()[0] + self._zero_w if value == "1" else 0.0
        if head == "G":
            self._held_w = self._measured_w()[0] if value == "0" else None
        if head in "AR":
            self._ranging_until = self.clock.now() + self._ranging_s
        self._settings[head] = value
        if head == "R" and value != "0":
            self._range = int(value)

    def _set_wavelength(self, value: str) -> None:
        if not (value.isascii() and value.isdigit() and len(value) <= 4 and 400 <= int(value) <= 1100):
            self._errors |= PARAMETER_ERROR
            return
        self._wavelength_nm = int(value)

    def _set_echo(self, value: str) -> None:
        if value not in ("0", "1"):
            self._errors |= PARAMETER_ERROR
            return
        self._echo = value == "1"

    def _status(self) -> int:
        now = self.clock.now()
        busy = self.faults.take("busy") is not None or now < self._ranging_until
        done = not busy and now >= self._read_at + self._sample_s
        flags = self._reading_flags | self._flags_now()
        return self._errors | flags | (BUSY if busy else 0) | (READING_DONE if done else 0)

    def _flags_now(self) -> int:
        seen_w = self._seen_w()
        flags = 0
        if seen_w >= self._attenuated(self.saturation_w) or self.faults.active("saturation"):
            flags |= SATURATED
        if abs(seen_w) > self._full_scale(self._current_range()) or self.faults.active("over_range"):
            flags |= OVER_RANGE
        return flags

    def _seen_w(self) -> float:
        """Return what the detector makes of the true power: it is calibrated for one wavelength."""
        return self.bench.power() * self.bench.wavelength() / self._wavelength_nm

    def _attenuated(self, power_w: float) -> float:
        return power_w * (1000.0 if self._settings["A"] == "1" else 1.0)

    def _full_scale(self, number: int) -> float:
        return self._attenuated(self._most_sensitive_w * 10.0 ** (number - 1))

    def _current_range(self) -> int:
        if self._settings["R"] == "0":
            seen_w = abs(self._seen_w())
            fitting = (number for number in range(1, 9) if seen_w <= self._full_scale(number))
            number = next(fitting, 8)
            if number != self._range:
                self._range = number
                self._ranging_until = self.clock.now() + self._ranging_s
        return self._range

    def _measured_w(self) -> tuple[float, int]:
        """Make a measurement in W, and the status bits that belong to it."""
        full_scale = self._full_scale(self._current_range())
        seen_w = self._seen_w()
        sigma = math.hypot(self.relative_noise * seen_w, self.range_noise * full_scale)
        measured_w = self.rng.gauss(seen_w, sigma / math.sqrt(_SAMPLES[self._settings["F"]]))
        flags = self._flags_now()
        for fault in ("saturation", "over_range"):
            self.faults.take(fault)
        if flags:
            # The display stands at its end, a number like any other: only the status byte tells.
            measured_w = full_scale
        measured_w = min(measured_w, full_scale)
        step = full_scale / _COUNTS
        return round(measured_w / step) * step - self._zero_w, flags

    def _reading(self) -> str:
        if self._held_w is not None:
            power_w = self._held_w
        else:
            power_w, self._reading_flags = self._measured_w()
            self._read_at = self.clock.now()
        unit = self._units[self._settings["U"]]
        if unit == "dBm":
            return _decibels(power_w, 1e-3)
        if unit == "dB":
            return _decibels(power_w, self._reference_w)
        if unit == "relative":
            return _scientific(power_w / self._reference_w if self._reference_w else 0.0, 1e-5)
        return _scientific(power_w, self._full_scale(self._range) / _COUNTS)


def _decibels(power_w: float, reference_w: float) -> str:
    if power_w <= 0 or reference_w <= 0:
        return "-99.99"
    return f"{10 * math.log10(power_w / reference_w):+.2f}"


def _scientific(value: float, step: float) -> str:
    """Write in the meter's form: sign, no leading zero, exponent a multiple of three, `+.75E-9`."""
    exponent = 3 * math.floor(math.log10(abs(value)) / 3 + 1e-9) if value else 0
    if abs(value) >= 100 * 10.0**exponent:
        exponent += 3
    decimals = max(0, round(exponent - math.log10(step)))
    digits = f"{abs(value) / 10.0**exponent:.{decimals}f}"
    if decimals:
        digits = digits.rstrip("0").rstrip(".")
    return f"{'-' if value < 0 else '+'}{digits.removeprefix('0') or '0'}E{exponent}"
