"""Thorlabs Elliptec ELL14 rotation mount; several share one wire, each with its own address."""

from __future__ import annotations

from typing import Any

from . import motion
from .errors import SpecError
from .instrument import Channel, Instrument, World
from .loop import Timer

OK, COMMAND_ERROR, OUT_OF_RANGE_VALUE, OUT_OF_ISOLATION = 0x00, 0x03, 0x04, 0x06
BUSY, OUT_OF_RANGE_POSITION = 0x09, 0x0C

_PARAMETER_LENGTH = {
    **dict.fromkeys(("in", "gs", "gp", "fw", "bw", "st", "gj", "go", "gv", "us"), 0),
    **dict.fromkeys(("i1", "i2", "i3", "s1", "s2", "s3"), 0),
    **dict.fromkeys(("ho", "ca"), 1),
    **dict.fromkeys(("sv", "is"), 2),
    **dict.fromkeys(("f1", "b1", "f2", "b2", "f3", "b3"), 4),
    **dict.fromkeys(("ma", "mr", "sj", "so"), 8),
}
"""Commands have no terminator: only their length tells where the next one begins."""

_ADDRESSES = b"0123456789ABCDEF"
_WHILE_MOVING = frozenset(("in", "gs", "gp", "st"))
_PACKET_GAP_S = 2.0
_SEARCH_S = 1.0


class ELL14(Instrument):
    """Rotation mount on a multi-drop wire. It hears all packets and answers those with its address.

    Args:
        world, name: as for every instrument.
        address: one hexadecimal digit.
        serial_number: eight digits; by default one that belongs to the address.
        year, firmware, hardware: as reported in the identity.
        travel_deg: travel per revolution.
        pulses_per_travel: encoder pulses in the travel.
        optic: name of the optic on the bench that turns with the mount, or None.
        position_deg: where it stands at power-up.
        speed_deg_per_s: at 100 % velocity.
        acceleration_deg_per_s2: when starting and stopping.
        position_error_pulses: a move ends at most this far from where it was sent.
        answers_while_moving: whether `gs` and `gp` are answered during a move.
        latency_s: time from a command's end to its answer.
    """

    carries_optic = True
    faults_known = frozenset(("busy", "limit", "error", "button"))
    settable = frozenset(("position_deg",))

    def __init__(
        self,
        world: World,
        name: str,
        *,
        address: str = "0",
        serial_number: str | None = None,
        year: int = 2023,
        firmware: int = 0x17,
        hardware: int = 0x01,
        travel_deg: int = 360,
        pulses_per_travel: int = 143_360,
        optic: str | None = None,
        position_deg: float = 0.0,
        speed_deg_per_s: float = 430.0,
        acceleration_deg_per_s2: float = 4000.0,
        position_error_pulses: int = 2,
        answers_while_moving: bool = True,
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(world, name, latency_s=latency_s)
        if len(address) != 1 or address.encode() not in _ADDRESSES:
            raise SpecError("an address is one of", address, tuple(_ADDRESSES.decode()))
        self.address = address
        self._identity = (
            f"0E{serial_number or f'{11400515 + int(address, 16):08d}'}{year:04d}{firmware:02X}{hardware:02X}"
            f"{travel_deg:04X}{pulses_per_travel:08X}"
        )
        self._travel_deg = travel_deg
        self._pulses = pulses_per_travel
        self._speed = speed_deg_per_s * pulses_per_travel / travel_deg
        self._acceleration = acceleration_deg_per_s2 * pulses_per_travel / travel_deg
        self._error_pulses = position_error_pulses
        self._answers_while_moving = answers_while_moving
        self._profile = motion.stand(self._to_pulses(position_deg))
        self._move_timer: Timer | None = None
        self._channel: Channel | None = None
        self._motor_periods = {"f1": 0x00AA, "b1": 0x00C2, "f2": 0x00A6, "b2": 0x00BE}
        self._jog_pulses = pulses_per_travel // 72
        self._home_offset = 0
        self._velocity_percent = 100
        self.reset()
        if optic is not None:
            self.bench.bind_rotator(optic, lambda: self.position_deg)

    @property
    def position_deg(self) -> float:
        """Where the mount stands now, true degrees."""
        return self._profile.position(self.clock.now()) * self._travel_deg / self._pulses

    @position_deg.setter
    def position_deg(self, value: float) -> None:
        self._halt()
        self._profile = motion.stand(self._to_pulses(value))

    def reset(self) -> None:
        """Stop, and forget what was half received; saved parameters stay."""
        self._halt()
        self._buffer = bytearray()
        self._last_byte_at = 0.0
        self._latched_status = OK
        self._isolated_until = 0.0
        self._was_isolated = False

    def truth(self) -> dict[str, Any]:
        """Tell the true position, motion and settings."""
        now = self.clock.now()
        return {
            "address": self.address,
            "position_deg": self.position_deg,
            "pulses": round(self._profile.position(now)),
            "target_deg": self._profile.target * self._travel_deg / self._pulses,
            "moving": self._moving(),
            "velocity_percent": self._velocity_percent,
            "home_offset_pulses": self._home_offset,
            "jog_pulses": self._jog_pulses,
        }

    def disturb(self, fault: Any) -> None:
        """Let a fault happen; a pressed button speaks up by itself."""
        if fault.kind != "button":
            super().disturb(fault)
            return
        jog = self._jog_pulses if fault.parameters.get("jog", "fw") == "fw" else -self._jog_pulses
        for _ in range(fault.count or 1):
            self._send(f"BS{OK:02X}")
            target = self._profile.position(self.clock.now()) + jog
            self._start(target, lambda: self._send(f"BO{self._encoded_position()}"))

    def receive(self, channel: Channel, data: bytes) -> None:
        """Take bytes: packets for any address are followed, so that each begins where the last has ended."""
        self._channel = channel
        now = self.clock.now()
        if self._buffer and now - self._last_byte_at > _PACKET_GAP_S:
            self._buffer.clear()
        self._last_byte_at = now
        for byte in data:
            if byte in b"\r\n":
                self._buffer.clear()
                continue
            if not self._buffer and byte not in _ADDRESSES:
                continue
            self._buffer.append(byte)
            if len(self._buffer) < 3:
                continue
            code = self._buffer[1:3].decode("latin-1")
            # A packet nobody knows ends after its code: its length is anybody's guess.
            if len(self._buffer) == 3 + _PARAMETER_LENGTH.get(code, 0):
                packet = bytes(self._buffer)
                self._buffer.clear()
                if packet[0] == ord(self.address):
                    self.command_seen(channel, packet)
                    self._execute(code, packet[3:])

    def _execute(self, code: str, data: bytes) -> None:
        now = self.clock.now()
        if now < self._isolated_until:
            return
        if self._was_isolated:
            self._was_isolated = False
            self._latched_status = OUT_OF_ISOLATION
        if error := self.faults.take("error"):
            self._fail(int(error.parameters.get("code", COMMAND_ERROR)))
            return
        if self.faults.take("busy"):
            self._send_status(BUSY)
            return
        if self._moving() and (code not in _WHILE_MOVING or not (self._answers_while_moving or code == "st")):
            if code not in ("gs", "gp", "in"):
                self._send_status(BUSY)
            return
        try:
            value = int(data, 16) if data else 0
        except ValueError:
            self._fail(COMMAND_ERROR)
            return
        handler = getattr(self, f"_do_{code}", None) if code in _PARAMETER_LENGTH else None
        if handler is None:
            self._fail(COMMAND_ERROR)
        elif data:
            handler(value)
        else:
            handler()

    def _do_in(self) -> None:
        self._send(f"IN{self._identity}")

    def _do_gs(self) -> None:
        status, self._latched_status = self._latched_status, OK
        self._send_status(BUSY if self._moving() else status)

    def _do_gp(self) -> None:
        self._send_position()

    def _do_ma(self, value: int) -> None:
        self._move_to(_signed(value) + self._home_offset)

    def _do_mr(self, value: int) -> None:
        self._move_to(self._profile.position(self.clock.now()) + _signed(value))

    def _do_fw(self) -> None:
        self._move_to(self._profile.position(self.clock.now()) + self._jog_pulses)

    def _do_bw(self) -> None:
        self._move_to(self._profile.position(self.clock.now()) - self._jog_pulses)

    def _do_ho(self, direction: int) -> None:
        if direction not in (0, 1):
            self._fail(OUT_OF_RANGE_VALUE)
            return
        here = self._profile.position(self.clock.now()) - self._home_offset
        turns = here // self._pulses if direction == 0 else -(-here // self._pulses)
        self._start(turns * self._pulses + self._home_offset, self._homed)

    def _homed(self) -> None:
        # The index mark is one place on the circle, however often it was passed.
        self._profile = motion.stand(float(self._home_offset))
        self._send_position()

    def _do_st(self) -> None:
        if not self._moving():
            self._send_status(OK)
            return
        now = self.clock.now()
        stopping = motion.brake(now, self._profile.position(now), self._profile.velocity(now), self._acceleration)
        self._follow(stopping, self._send_position)

    def _do_sj(self, value: int) -> None:
        self._jog_pulses = _signed(value)
        self._send_status(OK)

    def _do_gj(self) -> None:
        self._send(f"GJ{_encoded(self._jog_pulses)}")

    def _do_so(self, value: int) -> None:
        self._home_offset = _signed(value)
        self._send_status(OK)

    def _do_go(self) -> None:
        self._send(f"HO{_encoded(self._home_offset)}")

    def _do_sv(self, value: int) -> None:
        if not 1 <= value <= 100:
            self._fail(OUT_OF_RANGE_VALUE)
            return
        self._velocity_percent = value
        self._send_status(OK)

    def _do_gv(self) -> None:
        self._send(f"GV{self._velocity_percent:02X}")

    def _do_ca(self, value: int) -> None:
        self.address = f"{value:X}"
        self._send_status(OK)

    def _do_us(self) -> None:
        self._send_status(OK)

    def _do_is(self, minutes: int) -> None:
        self._send_status(OK)
        self._isolated_until = self.clock.now() + 60.0 * minutes
        self._was_isolated = minutes > 0

    def _do_i1(self) -> None:
        self._motor_info("1")

    def _do_i2(self) -> None:
        self._motor_info("2")

    def _do_s1(self) -> None:
        self.clock.call_later(_SEARCH_S, lambda: self._send_status(OK))

    _do_s2 = _do_s1

    def _do_f1(self, value: int) -> None:
        self._set_period("f1", value)

    def _do_b1(self, value: int) -> None:
        self._set_period("b1", value)

    def _do_f2(self, value: int) -> None:
        self._set_period("f2", value)

    def _do_b2(self, value: int) -> None:
        self._set_period("b2", value)

    def _set_period(self, which: str, value: int) -> None:
        # The top bit only marks a frequency as fixed; the period below it is never zero.
        if value & 0x7FFF == 0:
            self._fail(OUT_OF_RANGE_VALUE)
            return
        self._motor_periods[which] = value & 0x7FFF
        self._send_status(OK)

    def _motor_info(self, motor: str) -> None:
        loop, running, current, ramps = "1", "0", "FFFF", "FFFFFFFF"
        periods = f"{self._motor_periods[f'f{motor}']:04X}{self._motor_periods[f'b{motor}']:04X}"
        self._send(f"I{motor}{loop}{running}{current}{ramps}{periods}")

    def _move_to(self, target: float) -> None:
        if abs(target - self._home_offset) > self._pulses:
            self._fail(OUT_OF_RANGE_POSITION)
            return
        if self.faults.take("limit"):
            # It meets something on half the way, and says so when it stands.
            here = self._profile.position(self.clock.now())
            self._start((here + target) / 2, lambda: self._fail(OUT_OF_RANGE_POSITION))
            return
        error = self.rng.randint(-self._error_pulses, self._error_pulses)
        self._start(target + error, self._send_position)

    def _start(self, target: float, then: Any) -> None:
        now = self.clock.now()
        profile = motion.move(
            now,
            self._profile.position(now),
            float(round(target)),
            speed=self._speed * self._velocity_percent / 100,
            acceleration=self._acceleration,
        )
        self._follow(profile, then)

    def _follow(self, profile: motion.Profile, then: Any) -> None:
        self._halt()
        self._profile = profile

        def done() -> None:
            self._move_timer = None
            then()

        self._move_timer = self.clock.call_at(profile.ends, done)

    def _halt(self) -> None:
        if self._move_timer is not None:
            self._move_timer.cancel()
            self._move_timer = None
            self._profile = motion.stand(self._profile.position(self.clock.now()))

    def _moving(self) -> bool:
        return self._move_timer is not None

    def _fail(self, status: int) -> None:
        self._latched_status = status
        self._send_status(status)

    def _send_status(self, status: int) -> None:
        self._send(f"GS{status:02X}")

    def _send_position(self) -> None:
        self._send(f"PO{self._encoded_position()}")

    def _encoded_position(self) -> str:
        return _encoded(round(self._profile.position(self.clock.now())) - self._home_offset)

    def _send(self, text: str) -> None:
        if self._channel is not None and self.powered:
            self.reply(self._channel, f"{self.address}{text}\r\n".encode())

    def _to_pulses(self, degrees: float) -> float:
        return float(round(degrees * self._pulses / self._travel_deg))


def _signed(value: int) -> int:
    return value - (1 << 32) if value >= 1 << 31 else value


def _encoded(value: int) -> str:
    return f"{value & 0xFFFFFFFF:08X}"
