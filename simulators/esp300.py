"""Newport ESP300 motion controller with up to three axes, as it speaks on its serial line."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from . import motion
from .errors import SpecError
from .faults import Fault
from .instrument import Channel, LineInstrument, LineSettings, World
from .loop import Timer

COMMUNICATION_TIMEOUT, NO_SUCH_COMMAND, PARAMETER_RANGE, AXIS_RANGE = 1, 6, 7, 9
NOT_ALLOWED, AXIS_MISSING, PARAMETER_MISSING = 27, 37, 38
(
    AXIS_PARAMETER_RANGE,
    AXIS_PLUS_LIMIT,
    AXIS_MINUS_LIMIT,
    AXIS_PLUS_SOFT_LIMIT,
    AXIS_MINUS_SOFT_LIMIT,
    AXIS_MAX_VELOCITY,
    AXIS_MAX_ACCELERATION,
    AXIS_MOTOR_OFF,
    AXIS_HOMING_ABORTED,
    AXIS_HOMING,
) = 1, 4, 5, 6, 7, 10, 11, 13, 20, 30

_TEXTS = {
    0: "NO ERROR DETECTED",
    1: "COMMUNICATION TIME-OUT",
    4: "EMERGENCY STOP ACTIVATED",
    6: "COMMAND DOES NOT EXIST",
    7: "PARAMETER OUT OF RANGE",
    8: "CABLE INTERLOCK ERROR",
    9: "AXIS NUMBER OUT OF RANGE",
    27: "COMMAND NOT ALLOWED",
    37: "AXIS NUMBER MISSING",
    38: "COMMAND PARAMETER MISSING",
}
_AXIS_TEXTS = {
    1: "PARAMETER OUT OF RANGE",
    2: "AMPLIFIER FAULT DETECTED",
    3: "FOLLOWING ERROR THRESHOLD EXCEEDED",
    4: "POSITIVE HARDWARE LIMIT DETECTED",
    5: "NEGATIVE HARDWARE LIMIT DETECTED",
    6: "POSITIVE SOFTWARE LIMIT DETECTED",
    7: "NEGATIVE SOFTWARE LIMIT DETECTED",
    8: "MOTOR / STAGE NOT CONNECTED",
    9: "FEEDBACK SIGNAL FAULT DETECTED",
    10: "MAXIMUM VELOCITY EXCEEDED",
    11: "MAXIMUM ACCELERATION EXCEEDED",
    13: "MOTOR NOT ENABLED",
    20: "HOMING ABORTED",
    30: "COMMAND NOT ALLOWED DURING HOMING",
}
_UNITS = range(12)
_MILLIMETRE = 2
_DEGREE = 7
_ERRORS_KEPT = 10
_COMMANDS_KEPT = 100
_SERVO_CYCLE_S = 0.4e-3
_INDEX_INSIDE = 0.1

_FORM = re.compile(r"\s*(\d*)\s*([A-Z]{2})\s*(.*?)\s*", re.DOTALL)


@dataclass(kw_only=True)
class Axis:
    """One axis: its stage, settings and motion. Positions inside are the stage's own, not the counter's."""

    number: int
    stage: str
    serial_number: str = "B0001"
    units: int = _MILLIMETRE
    travel: tuple[float, float] = (-0.5, 50.5)
    """Where the hardware limit switches are."""
    soft_limits: tuple[float, float] = (0.0, 50.0)
    velocity: float = 4.0
    max_velocity: float = 20.0
    acceleration: float = 16.0
    deceleration: float = 16.0
    max_acceleration: float = 80.0
    position: float = 0.0
    """At power-up."""
    decimals: int = 4
    """Of a reported position."""
    motor_on: bool = True

    profile: motion.Profile = field(init=False)
    counter_offset: float = field(init=False, default=0.0)
    homing: bool = field(init=False, default=False)
    timer: Timer | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.travel = (self.travel[0], self.travel[1])
        self.soft_limits = (self.soft_limits[0], self.soft_limits[1])
        self.profile = motion.stand(self.position)

    @property
    def moving(self) -> bool:
        """Whether the axis moves."""
        return self.timer is not None


def _default_axes() -> dict[int, dict[str, Any]]:
    return {
        1: {"stage": "UTM50PP.1", "serial_number": "B0117"},
        2: {
            "stage": "UTM25PP.1",
            "serial_number": "B0245",
            "travel": (-0.5, 25.5),
            "soft_limits": (0.0, 25.0),
        },
        3: {
            "stage": "URS75PP",
            "serial_number": "B0391",
            "units": _DEGREE,
            "travel": (-181.0, 181.0),
            "soft_limits": (-180.0, 180.0),
            "velocity": 20.0,
            "max_velocity": 40.0,
            "acceleration": 80.0,
            "deceleration": 80.0,
            "max_acceleration": 160.0,
        },
    }


@dataclass(frozen=True)
class _Request:
    """A command to the controller as a whole."""

    channel: Channel
    value: str


@dataclass(frozen=True)
class _AxisRequest(_Request):
    """A command to one axis."""

    axis: Axis


class ESP300(LineInstrument):
    """Motion controller with an error queue, software and hardware limits, homing and trapezoidal motion.

    Args:
        world, name: as for every instrument.
        axes: by axis number (1 to 3), what differs from the default stage: the fields of `Axis`. An axis set to
            None is absent.
        delay_axis: which axis delays the pump on the bench, or None.
        version: what `VE?` reports.
        limit_silence_s: how long the controller says nothing after a hardware limit was hit.
        latency_s: time from a command's end to its answer.
    """

    line = LineSettings(baud_rate=19200)
    terminators: ClassVar[bytes] = b"\r"
    faults_known = frozenset(("busy", "limit", "error"))
    settable = frozenset(("limit_silence_s",))

    def __init__(
        self,
        world: World,
        name: str,
        *,
        axes: dict[str, dict[str, Any] | None] | None = None,
        delay_axis: int | None = 1,
        version: str = "ESP300 Version 3.04 07/27/01",
        limit_silence_s: float = 3.0,
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(world, name, latency_s=latency_s)
        settings = _default_axes()
        for number, differing in (axes or {}).items():
            if number not in ("1", "2", "3"):
                raise SpecError("an ESP300 has no axis", number, ("1", "2", "3"))
            if differing is None:
                del settings[int(number)]
            else:
                settings[int(number)].update(differing)
        self._settings = settings
        self._axes: dict[int, Axis] = {}
        self._version = version
        self._wake_timer: Timer | None = None
        self.limit_silence_s = limit_silence_s
        self.reset()
        if delay_axis is not None and delay_axis in self._axes:
            delaying = delay_axis
            self.bench.bind_delay_stage(lambda: self._place(self._axes[delaying]))

    def reset(self) -> None:
        """Go to the power-up state: motion ends, counters start at zero where the stages stand."""
        super().reset()
        for number, settings in self._settings.items():
            axis = Axis(number=number, **settings)
            if number in self._axes:
                self._halt(self._axes[number])
                place = self._place(self._axes[number])
                axis.profile = motion.stand(place)
                axis.counter_offset = place
            self._axes[number] = axis
        self._program: deque[tuple[Channel, str]] = deque()
        self._held_until = 0.0
        self._waiting_for: tuple[Axis, float] | None = None
        if self._wake_timer is not None:
            self._wake_timer.cancel()
        self._wake_timer = None
        self._errors: deque[tuple[int, int]] = deque(maxlen=_ERRORS_KEPT)

    def truth(self) -> dict[str, Any]:
        """Tell where the axes really are, and what the queues hold."""
        return {
            "axes": {
                str(number): {
                    "position": self._place(axis),
                    "counter": self._counter(axis),
                    "target": axis.profile.target - axis.counter_offset,
                    "moving": axis.moving,
                    "homing": axis.homing,
                    "motor_on": axis.motor_on,
                    "units": axis.units,
                }
                for number, axis in self._axes.items()
            },
            "errors": [code for code, _ in self._errors],
            "held_back": len(self._program),
        }

    def disturb(self, fault: Fault) -> None:
        """Let a fault happen; an error goes into the queue at once."""
        if fault.kind == "error":
            for _ in range(fault.count or 1):
                self._error(int(fault.parameters.get("code", 4)))
            return
        super().disturb(fault)

    def execute(self, channel: Channel, line: bytes) -> None:
        """Queue the commands of one line and go on with the program."""
        for command in line.decode("latin-1").split(";"):
            if not command.strip():
                continue
            if len(self._program) >= _COMMANDS_KEPT:
                self._error(COMMUNICATION_TIMEOUT)
                return
            self._program.append((channel, command))
        self._proceed()

    def _proceed(self) -> None:
        while self._program and not self._held_back():
            channel, command = self._program.popleft()
            self._run(channel, command)

    def _held_back(self) -> bool:
        """Whether later commands have to wait, queries too; sets the timer that goes on."""
        now = self.clock.now()
        if self._waiting_for is not None:
            axis, extra_s = self._waiting_for
            if axis.moving:
                # The end of the motion goes on with the program.
                return True
            self._waiting_for = None
            self._held_until = max(self._held_until, now + extra_s)
        if now >= self._held_until:
            return False
        if self._wake_timer is None:

            def wake() -> None:
                self._wake_timer = None
                self._proceed()

            self._wake_timer = self.clock.call_at(self._held_until, wake)
        return True

    def _run(self, channel: Channel, command: str) -> None:
        text = command.strip().upper()
        if text == "*IDN?":
            self._answer(channel, self._version)
            return
        form = _FORM.fullmatch(text)
        number, code, value = form.groups() if form else ("", "", "")
        if code in _CONTROLLER_COMMANDS and not number:
            _CONTROLLER_COMMANDS[code](self, _Request(channel, value))
        elif code not in _AXIS_COMMANDS:
            self._error(NO_SUCH_COMMAND)
        elif not number:
            self._error(AXIS_MISSING)
        elif (axis := self._axes.get(int(number[:9]))) is None:
            self._error(AXIS_RANGE)
        else:
            _AXIS_COMMANDS[code](self, _AxisRequest(channel, value, axis))

    def _answer(self, channel: Channel, text: str) -> None:
        self.reply(channel, text.encode() + b"\r\n")

    def _error(self, code: int, axis: Axis | None = None) -> None:
        if axis is not None:
            code += 100 * axis.number
        self._errors.append((code, self._stamp()))

    def _pop_error(self) -> tuple[int, int]:
        return self._errors.popleft() if self._errors else (0, self._stamp())

    def _stamp(self) -> int:
        return int(self.clock.now() / _SERVO_CYCLE_S)

    def _place(self, axis: Axis) -> float:
        return axis.profile.position(self.clock.now())

    def _counter(self, axis: Axis) -> float:
        return self._place(axis) - axis.counter_offset

    # Commands to the controller.

    def _tell_version(self, request: _Request) -> None:
        self._tell(request, self._version)

    def _tell_error_code(self, request: _Request) -> None:
        if request.value == "?":
            self._answer(request.channel, str(self._pop_error()[0]))
        else:
            self._error(NO_SUCH_COMMAND)

    def _tell_error_text(self, request: _Request) -> None:
        if request.value != "?":
            self._error(NO_SUCH_COMMAND)
            return
        code, stamp = self._pop_error()
        axis, number = divmod(code, 100)
        text = _AXIS_TEXTS.get(number, "AXIS ERROR") if axis else _TEXTS.get(code, "CONTROLLER ERROR")
        self._answer(request.channel, f"{code}, {stamp}, {text}")

    def _abort(self, _request: _Request) -> None:
        for axis in self._axes.values():
            self._stopped_short(axis)
            self._halt(axis)

    def _stop_all(self, _request: _Request) -> None:
        for axis in self._axes.values():
            self._stop_axis(axis)

    def _tell_hardware_status(self, request: _Request) -> None:
        limits = amplifiers_off = 0
        for axis in self._axes.values():
            bit = 1 << (axis.number - 1)
            limits |= bit if self._place(axis) >= axis.travel[1] else 0
            limits |= bit << 8 if self._place(axis) <= axis.travel[0] else 0
            amplifiers_off |= 0 if axis.motor_on else bit
        self._answer(request.channel, f"{limits:X}H, {amplifiers_off:X}H")

    def _tell(self, request: _Request, answer: str) -> None:
        if request.value == "?":
            self._answer(request.channel, answer)
        else:
            self._error(NO_SUCH_COMMAND)

    # Commands to an axis.

    def _tell_identity(self, request: _AxisRequest) -> None:
        self._tell(request, f"{request.axis.stage}, SN {request.axis.serial_number}")

    def _tell_position(self, request: _AxisRequest) -> None:
        if request.value in ("", "?"):
            self._answer(request.channel, _formatted(request.axis, self._counter(request.axis)))
        else:
            self._error(NO_SUCH_COMMAND)

    def _tell_target(self, request: _AxisRequest) -> None:
        axis = request.axis
        self._tell(request, _formatted(axis, axis.profile.target - axis.counter_offset))

    def _tell_velocity(self, request: _AxisRequest) -> None:
        self._tell(request, _formatted(request.axis, request.axis.profile.velocity(self.clock.now())))

    def _tell_done(self, request: _AxisRequest) -> None:
        self._tell(request, "0" if request.axis.moving else "1")

    def _move_absolute(self, request: _AxisRequest) -> None:
        if request.value == "?":
            self._tell_target(request)
        elif (position := self._number(request)) is not None:
            self._move(request.axis, position)

    def _move_relative(self, request: _AxisRequest) -> None:
        if (distance := self._number(request)) is not None:
            axis = request.axis
            start = axis.profile.target if axis.moving else self._place(axis)
            self._move(axis, start - axis.counter_offset + distance)

    def _stop(self, request: _AxisRequest) -> None:
        self._stop_axis(request.axis)

    def _home(self, request: _AxisRequest) -> None:
        axis = request.axis
        if request.value not in ("", *"0123456"):
            self._error(AXIS_PARAMETER_RANGE, axis)
            return
        if not self._may_move(axis):
            return
        low, high = axis.travel
        # With the index the switch is left again until the mark is found, a little inside.
        places = {"": axis.counter_offset, "0": axis.counter_offset, "3": high, "4": low}
        places |= {"5": high - _INDEX_INSIDE, "6": low + _INDEX_INSIDE}
        home = places.get(request.value, 0.0)
        if self.faults.take("limit"):
            self._move_to_limit(axis, home)
            return
        axis.homing = True

        def homed() -> None:
            axis.homing = False
            axis.counter_offset = home

        self._follow(axis, self._plan(axis, home, axis.velocity / 2), homed)

    def _define_home(self, request: _AxisRequest) -> None:
        position = self._number(request, "0")
        if position is None:
            return
        if request.axis.moving:
            self._error(NOT_ALLOWED)
            return
        request.axis.counter_offset = self._place(request.axis) - position

    def _motor_on(self, request: _AxisRequest) -> None:
        if request.value == "?":
            self._answer(request.channel, "1" if request.axis.motor_on else "0")
        else:
            request.axis.motor_on = True

    def _motor_off(self, request: _AxisRequest) -> None:
        if request.value == "?":
            self._motor_on(request)
            return
        request.axis.motor_on = False
        self._stopped_short(request.axis)
        self._halt(request.axis)

    def _wait_for_stop(self, request: _AxisRequest) -> None:
        extra_ms = self._number(request, "0")
        if extra_ms is None:
            return
        if not 0 <= extra_ms <= 60_000:
            self._error(AXIS_PARAMETER_RANGE, request.axis)
            return
        self._waiting_for = (request.axis, extra_ms / 1000)

    def _units(self, request: _AxisRequest) -> None:
        if request.value == "?":
            self._answer(request.channel, str(request.axis.units))
        elif (units := self._number(request)) is not None:
            if units not in _UNITS:
                self._error(AXIS_PARAMETER_RANGE, request.axis)
                return
            # A label only: no other parameter of the axis is converted.
            request.axis.units = int(units)

    def _setting(self, request: _AxisRequest, *, name: str, maximum: str | None = None, too_much: int = 0) -> None:
        axis = request.axis
        if request.value == "?":
            self._answer(request.channel, f"{getattr(axis, name):g}")
        elif (wanted := self._number(request)) is not None:
            if wanted <= 0:
                self._error(AXIS_PARAMETER_RANGE, axis)
            elif maximum is not None and wanted > getattr(axis, maximum):
                self._error(too_much, axis)
            else:
                setattr(axis, name, wanted)

    def _soft_limit(self, request: _AxisRequest, *, upper: bool) -> None:
        axis = request.axis
        if request.value == "?":
            self._answer(request.channel, f"{axis.soft_limits[upper]:g}")
        elif (limit := self._number(request)) is not None:
            limits = (axis.soft_limits[0], limit) if upper else (limit, axis.soft_limits[1])
            if limits[0] >= limits[1]:
                self._error(AXIS_PARAMETER_RANGE, axis)
            else:
                axis.soft_limits = limits

    # Motion.

    def _may_move(self, axis: Axis) -> bool:
        if self.faults.take("busy"):
            self._error(NOT_ALLOWED)
        elif axis.homing:
            self._error(AXIS_HOMING, axis)
        elif not axis.motor_on:
            self._error(AXIS_MOTOR_OFF, axis)
        else:
            return True
        return False

    def _move(self, axis: Axis, position: float) -> None:
        if not self._may_move(axis):
            return
        if position > axis.soft_limits[1]:
            self._error(AXIS_PLUS_SOFT_LIMIT, axis)
            return
        if position < axis.soft_limits[0]:
            self._error(AXIS_MINUS_SOFT_LIMIT, axis)
            return
        target = position + axis.counter_offset
        low, high = axis.travel
        if self.faults.take("limit"):
            self._move_to_limit(axis, target)
        elif low <= target <= high:
            self._follow(axis, self._plan(axis, target, axis.velocity))
        else:
            self._run_into(axis, self._plan(axis, target, axis.velocity), high if target > high else low)

    def _move_to_limit(self, axis: Axis, target: float) -> None:
        """Find a switch on half the way."""
        halfway = (self._place(axis) + target) / 2
        self._run_into(axis, self._plan(axis, target, axis.velocity), halfway)

    def _run_into(self, axis: Axis, profile: motion.Profile, switch: float) -> None:
        """Move until the limit switch; then the controller is busy with itself for a while."""
        code = AXIS_PLUS_LIMIT if profile.target >= self._place(axis) else AXIS_MINUS_LIMIT

        def hit() -> None:
            axis.homing = False
            axis.profile = motion.stand(switch)
            self._error(code, axis)
            self._held_until = max(self._held_until, self.clock.now() + self.limit_silence_s)

        self._follow(axis, profile, hit, ends=min(profile.reaches(switch), profile.ends))

    def _plan(self, axis: Axis, target: float, speed: float) -> motion.Profile:
        now = self.clock.now()
        return motion.move(
            now,
            self._place(axis),
            target,
            speed=speed,
            acceleration=axis.acceleration,
            deceleration=axis.deceleration,
            velocity=axis.profile.velocity(now),
        )

    def _follow(
        self,
        axis: Axis,
        profile: motion.Profile,
        then: Callable[[], None] | None = None,
        *,
        ends: float | None = None,
    ) -> None:
        self._cancel(axis)
        axis.profile = profile

        def done() -> None:
            axis.timer = None
            if then is not None:
                then()
            self._proceed()

        axis.timer = self.clock.call_at(profile.ends if ends is None else ends, done)

    def _stop_axis(self, axis: Axis) -> None:
        if not axis.moving:
            return
        self._stopped_short(axis)
        now = self.clock.now()
        velocity = axis.profile.velocity(now)
        self._follow(axis, motion.brake(now, self._place(axis), velocity, axis.deceleration))

    def _stopped_short(self, axis: Axis) -> None:
        if axis.homing:
            axis.homing = False
            self._error(AXIS_HOMING_ABORTED, axis)

    def _cancel(self, axis: Axis) -> None:
        if axis.timer is not None:
            axis.timer.cancel()
            axis.timer = None

    def _halt(self, axis: Axis) -> None:
        self._cancel(axis)
        axis.homing = False
        axis.profile = motion.stand(self._place(axis))

    def _number(self, request: _AxisRequest, default: str = "") -> float | None:
        value = request.value or default
        if not value:
            self._error(PARAMETER_MISSING)
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not abs(number) < 1e9:
            self._error(AXIS_PARAMETER_RANGE, request.axis)
            return None
        return number


def _formatted(axis: Axis, value: float) -> str:
    # Adding zero turns the minus zero of a rounded position into zero.
    return f"{round(value, axis.decimals) + 0.0:.{axis.decimals}f}"


_CONTROLLER_COMMANDS: dict[str, Callable[[ESP300, _Request], None]] = {
    "VE": ESP300._tell_version,
    "TE": ESP300._tell_error_code,
    "TB": ESP300._tell_error_text,
    "AB": ESP300._abort,
    "ST": ESP300._stop_all,
    "PH": ESP300._tell_hardware_status,
}
_AXIS_COMMANDS: dict[str, Callable[[ESP300, _AxisRequest], None]] = {
    "ID": ESP300._tell_identity,
    "PA": ESP300._move_absolute,
    "PR": ESP300._move_relative,
    "TP": ESP300._tell_position,
    "DP": ESP300._tell_target,
    "DV": ESP300._tell_velocity,
    "MD": ESP300._tell_done,
    "PH": ESP300._tell_hardware_status,
    "ST": ESP300._stop,
    "OR": ESP300._home,
    "DH": ESP300._define_home,
    "MO": ESP300._motor_on,
    "MF": ESP300._motor_off,
    "WS": ESP300._wait_for_stop,
    "SN": ESP300._units,
    "VA": partial(ESP300._setting, name="velocity", maximum="max_velocity", too_much=AXIS_MAX_VELOCITY),
    "AC": partial(ESP300._setting, name="acceleration", maximum="max_acceleration", too_much=AXIS_MAX_ACCELERATION),
    "AG": partial(ESP300._setting, name="deceleration", maximum="max_acceleration", too_much=AXIS_MAX_ACCELERATION),
    "AU": partial(ESP300._setting, name="max_acceleration"),
    "VU": partial(ESP300._setting, name="max_velocity"),
    "SL": partial(ESP300._soft_limit, upper=False),
    "SR": partial(ESP300._soft_limit, upper=True),
}
