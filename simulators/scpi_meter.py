"""SCPI multimeter in the manner of Agilent and Keithley, reading a photodiode on the bench."""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from .faults import Fault
from .instrument import Channel, LineInstrument, LineSettings, World
from .keywords import by_spelling
from .loop import Timer

OVERLOAD = 9.9e37
_POWER_LINE_HZ = 50.0
_ERRORS_KEPT = 20
_MESSAGES_KEPT = 64
_LARGEST_SAMPLE_COUNT = 512
_NPLC = (0.02, 0.2, 1.0, 10.0, 100.0)
_RANGES = {
    "VOLT": (0.1, 1.0, 10.0, 100.0, 1000.0),
    "VOLT:AC": (0.1, 1.0, 10.0, 100.0, 750.0),
    "CURR": (0.01, 0.1, 1.0, 3.0),
    "CURR:AC": (1.0, 3.0),
    "RES": (1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8),
    "FRES": (1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8),
}
_HEADERS = {
    "VOLT": "VOLTage[:DC]",
    "VOLT:AC": "VOLTage:AC",
    "CURR": "CURRent[:DC]",
    "CURR:AC": "CURRent:AC",
    "RES": "RESistance",
    "FRES": "FRESistance",
}
_SWITCHES = {
    "[SENSe:]ZERO:AUTO": True,
    "INPut:IMPedance:AUTO": False,
    "DISPlay": True,
    "TRIGger:DELay:AUTO": True,
    "SYSTem:BEEPer:STATe": True,
}
"""What can be switched on and off without changing what is measured here, and its state after `*RST`."""

_ERRORS = {
    0: "No error",
    -101: "Invalid character",
    -102: "Syntax error",
    -104: "Data type error",
    -108: "Parameter not allowed",
    -109: "Missing parameter",
    -113: "Undefined header",
    -151: "Invalid string data",
    -211: "Trigger ignored",
    -213: "Init ignored",
    -214: "Trigger deadlock",
    -221: "Settings conflict",
    -222: "Data out of range",
    -223: "Too much data",
    -224: "Illegal parameter value",
    -230: "Data corrupt or stale",
    -350: "Queue overflow",
    -363: "Input buffer overrun",
    -410: "Query INTERRUPTED",
}
_OPERATION_COMPLETE, _QUERY_ERROR, _DEVICE_ERROR, _EXECUTION_ERROR, _COMMAND_ERROR, _POWER_ON = 1, 4, 8, 16, 32, 128


class _Refused(Exception):
    """A command is refused with an error number."""

    def __init__(self, code: int) -> None:
        self.code = code


class _Wait(Exception):
    """A command has to wait until the measurement is complete."""


@dataclass
class _ProgramMessage:
    """What one client has sent in one line: the units still to do, and the answers so far."""

    channel: Channel
    units: deque[str]
    path: str = ""
    answers: list[bytes] = field(default_factory=list)


@dataclass
class _FunctionSettings:
    """What each measurement function remembers for itself."""

    range: float
    auto_range: bool = True
    nplc: float = 10.0


class ScpiMeter(LineInstrument):
    """Multimeter with IEEE 488.2 status, an error queue, ranges, integration time, triggers and block data.

    Commands of all clients are done one after the other, in the order in which they came; a query that waits
    for a measurement holds up those behind it, as the one input queue of a real instrument does.

    Args:
        world, name: as for every instrument.
        identity: what `*IDN?` reports.
        volts_per_watt: of the photodiode and its load, for the voltage functions.
        amperes_per_watt: of the photodiode, for the current functions.
        resistance_ohm: what the resistance functions measure.
        relative_noise: standard deviation of a reading at 1 NPLC, as a fraction of the range.
        external_trigger_s: period of the pulses at the external trigger input.
        latency_s: time from a command's end to its answer.
    """

    line = LineSettings(kind="tcp")
    terminators: ClassVar[bytes] = b"\n"
    longest_command: ClassVar[int] = 4096
    faults_known = frozenset(("busy", "over_range", "error"))
    settable = frozenset(("volts_per_watt", "amperes_per_watt", "resistance_ohm", "relative_noise"))

    def __init__(
        self,
        world: World,
        name: str,
        *,
        identity: str = "Agilent Technologies,34401A,MY41012345,11-5-2",
        volts_per_watt: float = 1000.0,
        amperes_per_watt: float = 0.5,
        resistance_ohm: float = 1000.0,
        relative_noise: float = 2e-6,
        external_trigger_s: float = 0.5,
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(world, name, latency_s=latency_s)
        self._identity = identity
        self.volts_per_watt = volts_per_watt
        self.amperes_per_watt = amperes_per_watt
        self.resistance_ohm = resistance_ohm
        self.relative_noise = relative_noise
        self._external_trigger_s = external_trigger_s
        self._timer: Timer | None = None
        self._commands = by_spelling(self._table())
        self.reset()

    def reset(self) -> None:
        """Go to the power-up state; what was measured or asked for is lost."""
        super().reset()
        self._errors: deque[int] = deque()
        self._event_status = _POWER_ON
        self._event_enable = 0
        self._service_enable = 0
        self._messages: deque[_ProgramMessage] = deque()
        self._reset_settings()

    def truth(self) -> dict[str, Any]:
        """Tell what the terminals really carry, and the settings."""
        settings = self._functions[self._function]
        return {
            "value": self._true_value(),
            "function": self._function,
            "range": settings.range,
            "auto_range": settings.auto_range,
            "nplc": settings.nplc,
            "trigger_source": self._trigger_source,
            "sample_count": self._sample_count,
            "measuring": self._timer is not None,
            "readings": len(self._readings),
            "errors": list(self._errors),
        }

    def disturb(self, fault: Fault) -> None:
        """Let a fault happen; an error goes into the queue at once."""
        if fault.kind == "error":
            for _ in range(fault.count or 1):
                self._error(int(fault.parameters.get("code", -310)))
            return
        super().disturb(fault)

    def status_byte(self) -> int:
        """Give the status byte without the message-available bit, which belongs to the connection."""
        status = 0x04 if self._errors else 0
        if self._event_status & self._event_enable:
            status |= 0x20
        if status & self._service_enable:
            status |= 0x40
        return status

    def forget(self, channel: Channel) -> None:
        """Drop what a client has half said or still waits for: a device clear, or the end of its connection."""
        super().forget(channel)
        if self._messages and self._messages[0].channel is channel and self._reading_asked:
            self._stop_measuring()
        self._messages = deque(message for message in self._messages if message.channel is not channel)
        self._proceed()

    def execute(self, channel: Channel, line: bytes) -> None:
        """Queue one program message."""
        if len(line) > self.longest_command or len(self._messages) >= _MESSAGES_KEPT:
            self._error(-363)
        else:
            text = line.decode("latin-1").strip()
            self._messages.append(_ProgramMessage(channel, deque(_split(text, ";"))))
            self._proceed()

    # The program.

    def _proceed(self) -> None:
        while self._messages:
            message = self._messages[0]
            if not self._finish(message):
                return
            self._messages.popleft()
            if message.answers:
                self.reply(message.channel, b";".join(message.answers) + b"\n")

    def _finish(self, message: _ProgramMessage) -> bool:
        while message.units:
            try:
                answer = self._unit(message)
            except _Wait:
                return False
            except _Refused as refused:
                self._error(refused.code)
                answer = None
            message.units.popleft()
            if answer is not None:
                message.answers.append(answer)
        return True

    def _unit(self, message: _ProgramMessage) -> bytes | None:
        text = message.units[0].strip()
        if not text:
            return None
        header, *rest = text.split(maxsplit=1)
        header = header.upper()
        arguments = [argument.strip() for argument in _split(rest[0], ",")] if rest else []
        command = None
        if not header.startswith((":", "*")) and message.path:
            # Behind a semicolon a header goes on where the one before it has ended.
            command = self._commands.get(f"{message.path}:{header}")
        if command is None:
            command = self._commands.get(header.removeprefix(":"))
            if command is not None and not header.startswith("*"):
                message.path = header.removeprefix(":").rpartition(":")[0]
        if command is None:
            raise _Refused(-113)
        answer = command(*_checked(command, arguments))
        return answer.encode("latin-1") if isinstance(answer, str) else answer

    def _error(self, code: int) -> None:
        if code <= -400:
            self._event_status |= _QUERY_ERROR
        elif code <= -300 or code > 0:
            self._event_status |= _DEVICE_ERROR
        elif code <= -200:
            self._event_status |= _EXECUTION_ERROR
        else:
            self._event_status |= _COMMAND_ERROR
        if len(self._errors) >= _ERRORS_KEPT:
            self._errors[-1] = -350
        else:
            self._errors.append(code)

    def _table(self) -> dict[str, Callable[..., str | bytes | None]]:
        table: dict[str, Callable[..., str | bytes | None]] = {
            "*IDN?": lambda: self._identity,
            "*RST": self._reset_settings,
            "*CLS": self._clear_status,
            "*ESR?": self._pop_event_status,
            "*ESE": partial(self._set_mask, "_event_enable"),
            "*ESE?": lambda: str(self._event_enable),
            "*SRE": partial(self._set_mask, "_service_enable"),
            "*SRE?": lambda: str(self._service_enable),
            "*STB?": lambda: str(self.status_byte()),
            "*OPC": self._operation_complete,
            "*OPC?": self._wait_complete,
            "*WAI": self._wait,
            "*TST?": lambda: "0",
            "*TRG": self._bus_trigger,
            "SYSTem:ERRor[:NEXT]?": self._pop_error,
            "SYSTem:VERSion?": lambda: "1991.0",
            "INITiate[:IMMediate]": self._initiate,
            "ABORt": self._abort,
            "FETCh?": self._fetch,
            "READ?": self._read,
            "TRACe:DATA?": self._fetch,
            "DATA:POINts?": lambda: str(len(self._readings)),
            "TRIGger:SOURce": self._set_trigger_source,
            "TRIGger:SOURce?": lambda: self._trigger_source,
            "TRIGger:DELay": self._set_trigger_delay,
            "TRIGger:DELay?": lambda: _exponential(self._trigger_delay_s),
            "TRIGger:COUNt": partial(self._set_count, "_trigger_count"),
            "TRIGger:COUNt?": lambda: str(self._trigger_count),
            "SAMPle:COUNt": partial(self._set_count, "_sample_count"),
            "SAMPle:COUNt?": lambda: str(self._sample_count),
            "FORMat[:DATA]": self._set_format,
            "FORMat[:DATA]?": lambda: self._format,
            "FORMat:BORDer": self._set_byte_order,
            "FORMat:BORDer?": lambda: self._byte_order,
            "[SENSe:]FUNCtion": self._set_function,
            "[SENSe:]FUNCtion?": lambda: f'"{self._function}"',
            "CONFigure?": self._configuration,
            "ROUTe:TERMinals?": lambda: "FRON",
            "SYSTem:BEEPer[:IMMediate]": lambda: None,
        }
        for header in _SWITCHES:
            table[header] = partial(self._set_switch, header)
            table[f"{header}?"] = partial(self._tell_switch, header)
        for function, header in _HEADERS.items():
            table |= {
                f"CONFigure:{header}": partial(self._configure, function),
                f"MEASure:{header}?": partial(self._measure, function),
                f"[SENSe:]{header}:RANGe": partial(self._set_range, function),
                f"[SENSe:]{header}:RANGe?": partial(self._tell_range, function),
                f"[SENSe:]{header}:RANGe:AUTO": partial(self._set_auto_range, function),
                f"[SENSe:]{header}:RANGe:AUTO?": partial(self._tell_auto_range, function),
            }
            if not function.endswith("AC"):
                table[f"[SENSe:]{header}:NPLCycles"] = partial(self._set_nplc, function)
                table[f"[SENSe:]{header}:NPLCycles?"] = partial(self._tell_nplc, function)
        return table

    # Status.

    def _clear_status(self) -> None:
        self._errors.clear()
        self._event_status = 0

    def _pop_event_status(self) -> str:
        status, self._event_status = self._event_status, 0
        return str(status)

    def _set_mask(self, name: str, value: str) -> None:
        setattr(self, name, int(_number(value, 0, 255)))

    def _operation_complete(self) -> None:
        self._complete_requested = True
        if self._timer is None:
            self._complete()

    def _complete(self) -> None:
        if self._complete_requested:
            self._complete_requested = False
            self._event_status |= _OPERATION_COMPLETE

    def _wait_complete(self) -> str:
        self._wait()
        return "1"

    def _wait(self) -> None:
        if self._timer is not None:
            raise _Wait

    def _pop_error(self) -> str:
        code = self._errors.popleft() if self._errors else 0
        return f'{code:+d},"{_ERRORS.get(code, "Device-specific error")}"' if code else '0,"No error"'

    # Settings.

    def _reset_settings(self) -> None:
        self._stop_measuring()
        self._function = "VOLT"
        self._functions = {name: _FunctionSettings(ranges[-1]) for name, ranges in _RANGES.items()}
        self._switches = dict(_SWITCHES)
        self._trigger_source = "IMM"
        self._trigger_delay_s = 0.0
        self._trigger_count = 1
        self._sample_count = 1
        self._format = "ASC"
        self._byte_order = "NORM"
        self._readings: list[float] = []
        self._complete_requested = False

    def _configure(self, function: str, wanted_range: str = "DEF", _resolution: str = "DEF") -> None:
        self._refuse_if_busy()
        settings = _FunctionSettings(_RANGES[function][-1])
        if wanted_range.upper() not in ("DEF", "AUTO"):
            settings.range = _fitting_range(function, wanted_range)
            settings.auto_range = False
        self._stop_measuring()
        self._functions[function] = settings
        self._function = function
        self._trigger_source, self._trigger_delay_s = "IMM", 0.0
        self._trigger_count = self._sample_count = 1
        self._readings = []

    def _configuration(self) -> str:
        settings = self._functions[self._function]
        resolution = settings.range * 3e-7 * max(1.0, 10.0 / settings.nplc)
        return f'"{self._function} {_exponential(settings.range, 6)},{_exponential(resolution, 6)}"'

    def _set_switch(self, header: str, value: str) -> None:
        self._switches[header] = _boolean(value)

    def _tell_switch(self, header: str) -> str:
        return "1" if self._switches[header] else "0"

    def _set_function(self, value: str) -> None:
        if len(value) < 2 or value[0] not in "\"'" or value[-1] != value[0]:
            raise _Refused(-151)
        function = _FUNCTION_NAMES.get(value[1:-1].upper())
        if function is None:
            raise _Refused(-224)
        self._stop_measuring()
        self._function = function

    def _set_range(self, function: str, value: str) -> None:
        self._functions[function].range = _fitting_range(function, value)
        self._functions[function].auto_range = False

    def _tell_range(self, function: str, which: str = "") -> str:
        limits = {"MIN": _RANGES[function][0], "MAX": _RANGES[function][-1]}
        if which and which.upper() not in limits:
            raise _Refused(-224)
        return _exponential(limits[which.upper()] if which else self._functions[function].range)

    def _set_auto_range(self, function: str, value: str) -> None:
        self._functions[function].auto_range = _boolean(value)

    def _tell_auto_range(self, function: str) -> str:
        return "1" if self._functions[function].auto_range else "0"

    def _set_nplc(self, function: str, value: str) -> None:
        wanted = _number(value, _NPLC[0], _NPLC[-1])
        self._functions[function].nplc = next(cycles for cycles in _NPLC if cycles >= wanted)

    def _tell_nplc(self, function: str, which: str = "") -> str:
        limits = {"MIN": _NPLC[0], "MAX": _NPLC[-1]}
        if which and which.upper() not in limits:
            raise _Refused(-224)
        return _exponential(limits[which.upper()] if which else self._functions[function].nplc)

    def _set_trigger_source(self, value: str) -> None:
        self._trigger_source = _choice(value, {"IMMediate": "IMM", "BUS": "BUS", "EXTernal": "EXT"})

    def _set_trigger_delay(self, value: str) -> None:
        self._trigger_delay_s = _number(value, 0.0, 3600.0)

    def _set_count(self, name: str, value: str) -> None:
        setattr(self, name, int(_number(value, 1, _LARGEST_SAMPLE_COUNT)))

    def _set_format(self, value: str, length: str = "64") -> None:
        kind = _choice(value, {"ASCii": "ASC", "REAL": "REAL"})
        if kind == "REAL":
            kind = f"REAL,{int(_number(length, 32, 64))}"
            if kind not in ("REAL,32", "REAL,64"):
                raise _Refused(-224)
        self._format = kind

    def _set_byte_order(self, value: str) -> None:
        self._byte_order = _choice(value, {"NORMal": "NORM", "SWAPped": "SWAP"})

    # Measuring.

    def _refuse_if_busy(self) -> None:
        if self.faults.take("busy"):
            raise _Refused(-213)

    def _initiate(self) -> None:
        self._refuse_if_busy()
        if self._timer is not None or self._waits_for_bus:
            raise _Refused(-213)
        if self._trigger_count * self._sample_count > _LARGEST_SAMPLE_COUNT:
            raise _Refused(-223)
        self._readings = []
        self._triggers_left = self._trigger_count
        self._arm()

    def _arm(self) -> None:
        """Wait for the next trigger; an external one comes with the next pulse."""
        if self._trigger_source == "BUS":
            self._waits_for_bus = True
            return
        wait_s = 0.0
        if self._trigger_source == "EXT":
            period = self._external_trigger_s
            wait_s = period - self.clock.now() % period
        self._sample_after(wait_s)

    def _sample_after(self, wait_s: float) -> None:
        settings = self._functions[self._function]
        # Automatic zeroing measures the input and a short circuit in turn.
        each_s = 2 * settings.nplc / _POWER_LINE_HZ
        duration_s = wait_s + self._trigger_delay_s + each_s * self._sample_count
        self._timer = self.clock.call_later(duration_s, self._sampled)

    def _sampled(self) -> None:
        self._timer = None
        self._readings += [self._reading() for _ in range(self._sample_count)]
        self._triggers_left -= 1
        if self._triggers_left > 0:
            self._arm()
        else:
            self._complete()
        self._proceed()

    def _stop_measuring(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waits_for_bus = False
        self._triggers_left = 0
        self._reading_asked = False

    def _abort(self) -> None:
        self._stop_measuring()

    def _bus_trigger(self) -> None:
        if not self._waits_for_bus:
            raise _Refused(-211)
        self._waits_for_bus = False
        self._sample_after(0.0)

    def _read(self) -> bytes:
        if not self._reading_asked:
            if self._trigger_source == "BUS":
                raise _Refused(-214)
            self._initiate()
            self._reading_asked = True
        if self._timer is not None:
            raise _Wait
        self._reading_asked = False
        return self._encoded()

    def _measure(self, function: str, wanted_range: str = "DEF", resolution: str = "DEF") -> bytes:
        if not self._reading_asked:
            self._configure(function, wanted_range, resolution)
        return self._read()

    def _fetch(self) -> bytes:
        if self._timer is not None:
            raise _Wait
        if not self._readings:
            raise _Refused(-230)
        return self._encoded()

    def _true_value(self) -> float:
        if self._function in ("RES", "FRES"):
            return self.resistance_ohm
        if self._function.endswith("AC"):
            return 0.0
        factor = self.volts_per_watt if self._function == "VOLT" else self.amperes_per_watt
        return self.bench.power() * factor

    def _reading(self) -> float:
        settings = self._functions[self._function]
        value = self._true_value()
        if settings.auto_range:
            fitting = (top for top in _RANGES[self._function] if abs(value) <= 1.2 * top)
            settings.range = next(fitting, _RANGES[self._function][-1])
        if self.faults.take("over_range") or abs(value) > 1.2 * settings.range:
            return math.copysign(OVERLOAD, value)
        return self.rng.gauss(value, self.relative_noise * settings.range / math.sqrt(settings.nplc))

    def _encoded(self) -> bytes:
        if self._format == "ASC":
            return ",".join(_exponential(reading) for reading in self._readings).encode()
        order = ">" if self._byte_order == "NORM" else "<"
        size = "d" if self._format == "REAL,64" else "f"
        block = struct.pack(f"{order}{len(self._readings)}{size}", *self._readings)
        length = str(len(block)).zfill(3)
        return f"#{len(length)}{length}".encode() + block


_FUNCTION_NAMES = by_spelling({header: function for function, header in _HEADERS.items()})


def _checked(command: Callable[..., Any], arguments: list[str]) -> list[str]:
    """Refuse too few or too many parameters."""
    least, most = _arity(command)
    if len(arguments) < least:
        raise _Refused(-109)
    if len(arguments) > most:
        raise _Refused(-108)
    return arguments


def _arity(command: Callable[..., Any]) -> tuple[int, int]:
    given = 0
    while isinstance(command, partial):
        given += len(command.args)
        command = command.func
    function = getattr(command, "__func__", command)
    given += function is not command
    most = function.__code__.co_argcount - given
    return most - len(function.__defaults__ or ()), most


def _split(text: str, separator: str) -> list[str]:
    """Split outside of quoted strings."""
    parts, quote = [""], ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter == separator:
            parts.append("")
            continue
        parts[-1] += letter
    return parts


def _number(text: str, low: float, high: float) -> float:
    named = {"MIN": low, "MINIMUM": low, "MAX": high, "MAXIMUM": high}
    try:
        value = named[text.upper()] if text.upper() in named else float(text)
    except ValueError:
        raise _Refused(-104) from None
    if not low <= value <= high:
        raise _Refused(-222)
    return value


def _boolean(text: str) -> bool:
    return _choice(text, {"ON": "1", "OFF": "0", "1": "1", "0": "0"}) == "1"


def _choice(text: str, choices: dict[str, str]) -> str:
    for pattern, meaning in choices.items():
        short = "".join(letter for letter in pattern if not letter.islower())
        if text.upper() in (short, pattern.upper()):
            return meaning
    raise _Refused(-224)


def _fitting_range(function: str, text: str) -> float:
    ranges = _RANGES[function]
    wanted = _number(text, -ranges[-1], ranges[-1]) if text.upper() != "MIN" else ranges[0]
    return next(top for top in ranges if top >= abs(wanted))


def _exponential(value: float, decimals: int = 8) -> str:
    return f"{value:+.{decimals}E}"
