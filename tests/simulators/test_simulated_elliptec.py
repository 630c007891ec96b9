"""Elliptec ELL14 rotators: packets without terminators, late answers, addresses, motion at real speed."""

import contextlib

import pytest

from simulators import default_instrument, default_wire


class Bus:
    """Several units that hear the same bytes."""

    def __init__(self, hosts) -> None:
        self.hosts = hosts

    def say(self, data: bytes) -> bytes:
        for byte in data:
            for host in self.hosts:
                host.instrument.receive(self, bytes([byte]))
        self.hosts[0].clock.advance(0.0)
        return self.received()

    def send(self, data: bytes) -> None:
        self.hosts[0].send(data)

    def received(self) -> bytes:
        return self.hosts[0].received()


@pytest.fixture
def unit(connect):
    return connect("ELL14", address="2", position_error_pulses=0)


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        (b"2in", b"2IN0E1140051720231701016800023000\r\n"),
        (b"2in\r\n", b"2IN0E1140051720231701016800023000\r\n"),
        (b"2gs", b"2GS00\r\n"),
        (b"2gp", b"2PO00000000\r\n"),
        (b"2gj", b"2GJ000007C7\r\n"),
        (b"2sj00001000", b"2GS00\r\n"),
        (b"2sj00001000\r2gj\n", b"2GS00\r\n2GJ00001000\r\n"),
        (b"2go", b"2HO00000000\r\n"),
        (b"2so00000010", b"2GS00\r\n"),
        (b"2so000000102go", b"2GS00\r\n2HO00000010\r\n"),
        (b"2gv", b"2GV64\r\n"),
        (b"2sv462gv", b"2GS00\r\n2GV46\r\n"),
        (b"2sv00", b"2GS04\r\n"),
        (b"2ho2", b"2GS04\r\n"),
        (b"2st", b"2GS00\r\n"),
        (b"2us", b"2GS00\r\n"),
        (b"2i1", b"2I110FFFFFFFFFFFF00AA00C2\r\n"),
        (b"2f100882i1", b"2GS00\r\n2I110FFFFFFFFFFFF008800C2\r\n"),
        (b"2i3", b"2GS03\r\n"),
        (b"2f10000", b"2GS04\r\n"),
        (b"2f30088", b"2GS03\r\n"),
        (b"2caB", b"BGS00\r\n"),
        (b"2xx", b"2GS03\r\n"),
        (b"2ma000ZZ000", b"2GS03\r\n"),
        (b"2ma00100000", b"2GS0C\r\n"),
        (b"3in", b""),
        (b"3ma00000002gs", b""),
        (b"??2gs", b"2GS00\r\n"),
        (b"2ma000\r2gs", b"2GS00\r\n"),
    ],
)
def test_speaks_as_the_manual_says(unit, sent: bytes, reply: bytes) -> None:
    assert unit.say(sent) == reply


def test_lengths_are_those_of_the_protocol(unit) -> None:
    assert len(unit.say(b"2in").rstrip()) == 33
    assert len(unit.say(b"2i2").rstrip()) == 3 + 22


def test_position_is_sent_when_the_move_ends(unit) -> None:
    assert unit.say(b"2ma00008C00") == b""
    assert unit.wait(0.2) == b""
    assert unit.wait(0.3) == b"2PO00008C00\r\n"
    assert unit.instrument.position_deg == pytest.approx(90.0)
    assert unit.say(b"2mrFFFFB9FF") == b""
    assert unit.wait(1.0) == b"2PO000045FF\r\n"


def test_negative_positions_are_twos_complement(unit) -> None:
    unit.say(b"2maFFFF7400")
    assert unit.wait(1.0) == b"2POFFFF7400\r\n"
    assert unit.instrument.position_deg == pytest.approx(-90.0)


def test_speed_follows_the_velocity_setting(unit, clock) -> None:
    began = clock.now()
    unit.say(b"2ma00023000")
    while not unit.wait(0.01):
        pass
    fast = clock.now() - began
    assert fast == pytest.approx(360 / 430 + 430 / 4000, abs=0.02)
    unit.say(b"2sv32")
    began = clock.now()
    unit.say(b"2ma00000000")
    while not unit.wait(0.01):
        pass
    assert clock.now() - began == pytest.approx(360 / 215 + 215 / 4000, abs=0.02)


def test_answers_status_and_live_position_but_nothing_else_while_moving(unit) -> None:
    unit.say(b"2ma00023000")
    unit.wait(0.4)
    assert unit.say(b"2gs") == b"2GS09\r\n"
    live = unit.say(b"2gp")
    assert b"2PO00000000\r\n" < live < b"2PO00023000\r\n"
    assert unit.say(b"2ma00000000") == b"2GS09\r\n"
    assert unit.wait(1.0) == b"2PO00023000\r\n"


def test_whether_it_answers_while_moving_is_an_option(connect) -> None:
    unit = connect("ELL14", address="2", answers_while_moving=False, position_error_pulses=0)
    unit.say(b"2ma00023000")
    assert unit.say(b"2gs2gp") == b""
    assert unit.wait(2.0) == b"2PO00023000\r\n"


def test_stop_ends_the_move_with_one_position(unit) -> None:
    unit.say(b"2ma00023000")
    unit.wait(0.4)
    assert unit.say(b"2st") == b""
    reply = unit.wait(2.0)
    assert reply.startswith(b"2PO")
    assert reply.count(b"\r\n") == 1
    assert 0 < int(reply[3:11], 16) < 0x23000


def test_home_finds_the_index_from_either_side(unit) -> None:
    unit.say(b"2ma00008C00")
    unit.wait(1.0)
    assert unit.say(b"2ho1") == b""
    assert unit.wait(2.0) == b"2PO00000000\r\n"


def test_jog_steps(unit) -> None:
    unit.say(b"2sj00001000")
    unit.say(b"2fw")
    assert unit.wait(1.0) == b"2PO00001000\r\n"
    unit.say(b"2bw")
    assert unit.wait(1.0) == b"2PO00000000\r\n"


def test_two_seconds_gap_inside_a_packet_discards_it(unit) -> None:
    unit.say(b"2g")
    unit.wait(1.9)
    assert unit.say(b"s") == b"2GS00\r\n"
    unit.say(b"2g")
    unit.wait(2.1)
    assert unit.say(b"s") == b""
    assert unit.say(b"2gs") == b"2GS00\r\n"


def test_isolated_unit_is_deaf_for_its_minutes(unit) -> None:
    assert unit.say(b"2is02") == b"2GS00\r\n"
    assert unit.say(b"2gs") == b""
    unit.wait(119)
    assert unit.say(b"2gs") == b""
    unit.wait(2)
    assert unit.say(b"2gs") == b"2GS06\r\n"
    assert unit.say(b"2gs") == b"2GS00\r\n"


def test_packets_for_others_are_followed(connect) -> None:
    bus = Bus([connect("ELL14", address=address, position_error_pulses=0) for address in "23"])
    # The 2 and the 3 in the number begin no packet.
    assert bus.say(b"2ma000123002gs3gs") == b"2GS09\r\n3GS00\r\n"


def test_scale_and_serial_number_come_from_the_unit(connect) -> None:
    unit = connect("ELL14", address="A", serial_number="12345678", travel_deg=360, pulses_per_travel=262144)
    assert unit.say(b"Ain") == b"AIN0E1234567820231701016800040000\r\n"
    unit.say(b"Ama00010000")
    unit.wait(1.0)
    assert unit.instrument.position_deg == pytest.approx(90.0, abs=0.01)


UNITS = [default_instrument("ELL14", address=address, position_error_pulses=0) for address in "23A"]


@pytest.fixture
def bus(simulate, open_port):
    simulators = simulate(default_wire("bus", UNITS))
    return simulators, open_port(simulators.ports["bus"])


def test_three_units_move_at_once(simulate, open_port) -> None:
    # Bytes that travel in no time arrive at once, however late the simulators are.
    port = open_port(simulate({**default_wire("bus", UNITS), "pace": False}).ports["bus"])
    port.write(b"2ma00023000" + b"3ma00018000" + b"Ama00010000")
    # One after the other they would be there in the order they were sent.
    replies = [port.readline() for _ in range(3)]
    assert replies == [b"APO00010000\r\n", b"3PO00018000\r\n", b"2PO00023000\r\n"]


def test_faults_of_a_unit(bus) -> None:
    simulators, port = bus

    def ask(command: bytes) -> bytes:
        port.write(command)
        return port.readline()

    simulators.fault("bus.3", "busy")
    assert ask(b"3ma00000000") == b"3GS09\r\n"
    simulators.fault("bus.3", "error", code=0x0D)
    assert ask(b"2gp") == b"2PO00000000\r\n"
    assert ask(b"3gp") == b"3GS0D\r\n"
    assert ask(b"3gs") == b"3GS0D\r\n"
    assert ask(b"3gs") == b"3GS00\r\n"
    simulators.fault("bus.3", "limit")
    assert ask(b"3ma00010000") == b"3GS0C\r\n"
    assert ask(b"3gs") == b"3GS0C\r\n"
    assert ask(b"3gp") == b"3PO00008000\r\n"
    simulators.fault("bus.2", "button", jog="bw")
    assert port.readline() == b"2BS00\r\n"
    assert port.readline() == b"2BOFFFFF839\r\n"


def test_second_unit_turns_the_half_wave_plate(bus) -> None:
    simulators, port = bus
    port.write(b"3ma00002300")
    assert port.readline() == b"3PO00002300\r\n"
    truth = simulators.truth()
    assert truth["bench"]["optics"]["half_wave_plate"] == pytest.approx(22.5)
    assert truth["bench"]["angle_deg"] == pytest.approx(12.7 + 45.0)


def test_a_strangers_driver_works_unchanged(simulate) -> None:
    from thorlabs_elliptec import ELLx

    bus = default_wire("bus", [default_instrument("ELL14", address=address) for address in "23"])
    simulators = simulate(bus, time_scale=0.1)
    first = ELLx(serial_port=simulators.ports["bus"], device_id=2)
    second = ELLx(serial_port=first, device_id=3)
    try:
        assert (first.model_number, first.units, first.travel) == ("ELL14/M", "°", 360)
        assert first.serial_number != second.serial_number
        first.move_absolute(30.0, blocking=True)
        second.move_relative(-10.0, blocking=True)
        assert first.get_position() == pytest.approx(30.0, abs=0.1)
        assert second.get_position() == pytest.approx(-10.0, abs=0.1)
        truth = simulators.truth()["instruments"]
        assert truth["bus.2"]["position_deg"] == pytest.approx(30.0, abs=0.1)
        assert truth["bus.3"]["position_deg"] == pytest.approx(-10.0, abs=0.1)
        first.home(blocking=True)
        assert first.get_position() == pytest.approx(0.0, abs=0.1)
        assert not first.is_moving(raise_errors=True)
    finally:
        for driver in (second, first):
            driver.close()
            with contextlib.suppress(RuntimeError):  # it is closed already
                # The driver stops its loop from another thread, which may leave it waiting for ever.
                driver._eventloop.call_soon_threadsafe(lambda: None)
