"""Spectra-Physics Mai Tai, a tunable femtosecond laser, as it speaks on its serial line."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from .instrument import Channel, LineInstrument, LineSettings, World
from .keywords import by_spelling
from .loop import Timer

COMMAND_ERROR, EXECUTION_ERROR, SYSTEM_ERROR, LASER_ON, ANY_ERROR = 1, 2, 32, 64, 128

_COMMAND_ERRORS = {-100: "Command error", -109: "Missing parameter", -113: "Undefined header"}
_EXECUTION_ERRORS = {-200: "Execution error", -221: "Settings conflict", -222: "Data out of range"}
_TEXTS = {**_COMMAND_ERRORS, **_EXECUTION_ERRORS, -310: "System error"}
_ERRORS_KEPT = 16
_SHUTTER_S = 0.05


class MaiTai(LineInstrument):
    """Laser with warm-up, tuning that lags, a shutter whose report is stale, and a watchdog.

    Args:
        world, name: as for every instrument.
        wavelength_nm: at power-up.
        minimum_nm, maximum_nm: tuning range of this model.
        warm_percent: how warm it is at power-up.
        warm_up_s: from 0 to 100 %.
        emission: whether it lases at power-up.
        shutter_open: whether the shutter is open at power-up.
        power_w: output at the best wavelength.
        pump_power_w: commanded pump power.
        pump_ramp_s: from `ON` to full power.
        tuning_nm_per_s: speed of tuning.
        shutter_stale_s: how long after a set `SHUTter?` still tells the old state.
        identity: what `*IDN?` reports.
        latency_s: time from a command's end to its answer.
    """

    line = LineSettings(flow_control="xonxoff")
    faults_known = frozenset(("busy", "error"))
    settable = frozenset(("warm_percent", "power_w"))

    def __init__(
        self,
        world: World,
        name: str,
        *,
        wavelength_nm: float = 800.0,
        minimum_nm: int = 690,
        maximum_nm: int = 1040,
        warm_percent: float = 100.0,
        warm_up_s: float = 120.0,
        emission: bool = False,
        shutter_open: bool = False,
        power_w: float = 3.0,
        pump_power_w: float = 13.43,
        pump_ramp_s: float = 3.0,
        tuning_nm_per_s: float = 20.0,
        shutter_stale_s: float = 1.0,
        identity: str = "Spectra Physics,MaiTai,3227/51019/40901,0245-2.00.23/CP/1.30",
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(world, name, latency_s=latency_s)
        self._minimum_nm, self._maximum_nm = minimum_nm, maximum_nm
        self._power_up = (wavelength_nm, warm_percent, emission, shutter_open)
        self._warm_up_s = warm_up_s
        self.power_w = power_w
        self._pump_power_w = pump_power_w
        self._pump_ramp_s = pump_ramp_s
        self._tuning_nm_per_s = tuning_nm_per_s
        self._shutter_stale_s = shutter_stale_s
        self._identity = identity
        self._watchdog: Timer | None = None
        self._commands = by_spelling(self._table())
        self.reset()
        self.bench.bind_laser(self._emission)

    def reset(self) -> None:
        """Go to the power-up state; the watchdog is off."""
        super().reset()
        wavelength_nm, warm_percent, emission, shutter_open = self._power_up
        now = self.clock.now()
        self._target_nm = wavelength_nm
        self._tuning = (now, wavelength_nm)
        self._warm_since: float | None = None
        self._warm_start = warm_percent
        self._pump_on_since = now - self._pump_ramp_s if emission else None
        self._modelock_enabled = True
        self._shutter_open = shutter_open
        self._shutter_before = shutter_open
        self._shutter_set_at = -math.inf
        self._errors: deque[int] = deque(maxlen=_ERRORS_KEPT)
        self._watchdog_s = 0
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def truth(self) -> dict[str, Any]:
        """Tell what the laser really does."""
        return {
            "wavelength_nm": self._actual_nm(),
            "target_nm": self._target_nm,
            "power_w": self._output_w(),
            "emitted_w": self._emission()[0],
            "shutter_open": self._shutter_open,
            "pump_on": self._pump_on_since is not None,
            "warm_percent": self.warm_percent,
            "watchdog_s": self._watchdog_s,
            "errors": list(self._errors),
        }

    @property
    def warm_percent(self) -> float:
        """How warm the laser is now."""
        if self._warm_since is None:
            return self._warm_start
        gained = 100.0 * (self.clock.now() - self._warm_since) / self._warm_up_s
        return min(100.0, self._warm_start + gained)

    @warm_percent.setter
    def warm_percent(self, value: float) -> None:
        self._warm_since, self._warm_start = None, value

    def execute(self, channel: Channel, line: bytes) -> None:
        """Do one command; a parameter is separated by a space."""
        # Only a space separates: Python takes some control characters for white space as well.
        header, _, value = line.decode("latin-1").strip(" \t").partition(" ")
        header, value = header.upper().removeprefix(":"), value.strip(" \t")
        command = self._commands.get(header)
        if error := self.faults.take("error"):
            self._errors.append(int(error.parameters.get("code", -310)))
            return
        if command is None:
            self._errors.append(-113)
            return
        answer = command(value)
        self._feed_watchdog()
        if answer is not None:
            self.reply(channel, answer.encode() + b"\n")

    def _table(self) -> dict[str, Callable[[str], str | None]]:
        return {
            "*IDN?": lambda _: self._identity,
            "*STB?": lambda _: str(self._status()),
            "WAVelength": self._set_wavelength,
            "WAVelength?": lambda _: f"{self._target_nm:.0f}nm",
            "WAVelength:MIN?": lambda _: f"{self._minimum_nm}nm",
            "WAVelength:MAX?": lambda _: f"{self._maximum_nm}nm",
            "READ:WAVelength?": lambda _: f"{self._actual_nm():.0f}nm",
            "READ:POWer?": lambda _: f"{self._noisy(self._output_w()):.3f}W",
            "READ:PCTWarmedup?": lambda _: f"{self.warm_percent:.2f}%",
            "READ:PLASer:POWer?": lambda _: f"{self._noisy(self._pump_power_w * self._pump()):.2f}W",
            "PLASer:POWer?": lambda _: f"{self._pump_power_w:.2f}W",
            "PLASer:ERRCode?": lambda _: str(self._error_bits()),
            "READ:HUM?": lambda _: f"{7.26 + self.rng.gauss(0.0, 0.01):.2f}%",
            "SHUTter": self._set_shutter,
            "SHUTter?": lambda _: "1" if self._reported_shutter() else "0",
            "SYSTem:ERR?": lambda _: self._pop_error(),
            "ON": self._on,
            "OFF": self._off,
            "TIMer:WATChdog": self._set_watchdog,
            "TIMer:WATChdog?": lambda _: str(self._watchdog_s),
            "CONTrol:MLENable": self._set_modelock,
            "CONTrol:MLENable?": lambda _: "1" if self._modelock_enabled else "0",
            "SAVe": lambda _: None,
        }

    def _number(self, value: str, low: float, high: float) -> float | None:
        try:
            number = float(value.upper().removesuffix("NM"))
        except ValueError:
            self._errors.append(-100 if value else -109)
            return None
        if self.faults.take("busy"):
            self._errors.append(-200)
            return None
        if not low <= number <= high:
            self._errors.append(-222)
            return None
        return number

    def _set_wavelength(self, value: str) -> None:
        wavelength_nm = self._number(value, self._minimum_nm, self._maximum_nm)
        if wavelength_nm is not None:
            self._tuning = (self.clock.now(), self._actual_nm())
            self._target_nm = float(round(wavelength_nm))

    def _set_shutter(self, value: str) -> None:
        wanted = self._number(value, 0, 1)
        if wanted is None:
            return
        self._shutter_before = self._reported_shutter()
        self._shutter_open = wanted == 1
        self._shutter_set_at = self.clock.now()

    def _set_watchdog(self, value: str) -> None:
        seconds = self._number(value, 0, 3600)
        if seconds is not None:
            self._watchdog_s = int(seconds)

    def _set_modelock(self, value: str) -> None:
        enabled = self._number(value, 0, 1)
        if enabled is not None:
            self._modelock_enabled = enabled == 1

    def _on(self, _: str) -> None:
        if self.faults.take("busy"):
            self._errors.append(-200)
        elif self.warm_percent >= 100.0:
            if self._pump_on_since is None:
                self._pump_on_since = self.clock.now()
        elif self.warm_percent > 0 or self._warm_since is not None:
            self._errors.append(-221)
        else:
            self._warm_since = self.clock.now()

    def _off(self, _: str) -> None:
        self._pump_on_since = None

    def _feed_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        if self._watchdog_s > 0:
            self._watchdog = self.clock.call_later(float(self._watchdog_s), lambda: self._off(""))

    def _pump(self) -> float:
        """Fraction of the pump power that is reached."""
        if self._pump_on_since is None:
            return 0.0
        return min(1.0, (self.clock.now() - self._pump_on_since) / self._pump_ramp_s)

    def _actual_nm(self) -> float:
        since, start = self._tuning
        distance = self._target_nm - start
        done = self._tuning_nm_per_s * (self.clock.now() - since)
        return self._target_nm if done >= abs(distance) else start + math.copysign(done, distance)

    def _output_w(self) -> float:
        """Power before the shutter: the gain of the crystal falls off to both ends of the range."""
        detuning = (self._actual_nm() - 800.0) / 140.0
        pump = self._pump()
        # Below threshold nothing lases.
        return self.power_w * math.exp(-(detuning**2) / 2) * max(0.0, (pump - 0.3) / 0.7)

    def _emission(self) -> tuple[float, float]:
        moving = self.clock.now() < self._shutter_set_at + _SHUTTER_S
        opened = self._shutter_before if moving else self._shutter_open
        return (self._output_w() if opened else 0.0), self._actual_nm()

    def _noisy(self, value: float) -> float:
        return max(0.0, self.rng.gauss(value, 1e-3 * value))

    def _reported_shutter(self) -> bool:
        stale = self.clock.now() < self._shutter_set_at + self._shutter_stale_s
        return self._shutter_before if stale else self._shutter_open

    def _status(self) -> int:
        lasing = self._pump() >= 1.0
        return (self._pump_on_since is not None) | (lasing and self._modelock_enabled) << 1

    def _error_bits(self) -> int:
        bits = LASER_ON if self._pump_on_since is not None else 0
        for code in self._errors:
            bits |= ANY_ERROR
            if code in _COMMAND_ERRORS:
                bits |= COMMAND_ERROR
            elif code in _EXECUTION_ERRORS:
                bits |= EXECUTION_ERROR
            else:
                bits |= SYSTEM_ERROR
        return bits

    def _pop_error(self) -> str:
        if not self._errors:
            return '0,"No error"'
        code = self._errors.popleft()
        return f'{code},"{_TEXTS.get(code, "System error")}"'
