"""Newport 1830-C: replies byte for byte, the status byte, ranges and what is not a power."""

import re
from collections.abc import Callable

import pytest

from simulators import SimulatorProcess, default_instrument, default_wire

READING = re.compile(rb"[+-](\d*\.)?\d+E-?\d+\n")


@pytest.fixture
def meter(connect):
    return connect("Newport1830C", relative_noise=0.0, range_noise=0.0)


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        (b"D?\n", b"+.9584E-3\n"),
        (b"D?\r", b"+.9584E-3\n"),
        (b"D?\r\n", b"+.9584E-3\n"),
        (b"W?\n", b"0800\n"),
        (b"W1064\nW?\n", b"1064\n"),
        (b"W0633\nW?\n", b"0633\n"),
        (b"A1\nA?\n", b"1\n"),
        (b"B0\nB?\n", b"0\n"),
        (b"F2\nF?\n", b"2\n"),
        (b"G0\nG?\n", b"0\n"),
        (b"K2\nK?\n", b"2\n"),
        (b"L1\nL?\n", b"1\n"),
        (b"R5\nR?\n", b"5\n"),
        (b"R0\nR?\n", b"0\n"),
        (b"U2\nU?\n", b"2\n"),
        (b"Z1\nZ?\n", b"1\n"),
        (b"U3\nD?\n", b"-0.18\n"),
        (b"S\nU2\nD?\n", b"+0.00\n"),
        (b"S\nU4\nD?\n", b"+1E0\n"),
        (b"Z1\nD?\n", b"+0E0\n"),
        (b"U1\n", b""),
        (b"\n\r\n", b""),
    ],
)
def test_speaks_as_the_manual_says(meter, sent: bytes, reply: bytes) -> None:
    assert meter.say(sent) == reply


@pytest.mark.parametrize(
    ("power_w", "reply"),
    [
        (5e-9, b"+5E-9\n"),
        (0.75e-9, b"+.75E-9\n"),
        (0.11e-9, b"+.11E-9\n"),
        (0.0, b"+0E0\n"),
        (0.15344e-3, b"+.15344E-3\n"),
        (12.345e-6, b"+12.345E-6\n"),
        (7.5e-3, b"+7.5E-3\n"),
    ],
)
def test_reading_has_the_digits_of_its_range(meter, bench, power_w: float, reply: bytes) -> None:
    bench.set_state(power_w=0.0, ambient_w=power_w)
    assert meter.say(b"D?\n") == reply


@pytest.mark.parametrize(
    ("sent", "bits"),
    [(b"W0100\n", 1), (b"R9\n", 1), (b"U0\n", 1), (b"X\n", 2), (b"PM:Power?\n", 2), (b"E?\n", 1), (b"D\n", 2)],
)
def test_wrong_command_is_only_seen_in_the_status_byte_until_cleared(meter, sent: bytes, bits: int) -> None:
    assert meter.say(sent) == b""
    assert int(meter.say(b"Q?\n")) & 3 == bits
    assert int(meter.say(b"Q?\n")) & 3 == bits
    for clear in (b"C\n", b"CS\n"):
        meter.say(sent + clear)
        assert int(meter.say(b"Q?\n")) & 3 == 0


def test_echo_repeats_every_character(connect) -> None:
    meter = connect("Newport1830C", echo=True)
    assert meter.say(b"W") == b"W"
    assert meter.say(b"?\n") == b"?\n0800\n"
    assert meter.say(b"E0\n") == b"E0\n"
    assert meter.say(b"W?\n") == b"0800\n"
    assert meter.say(b"E1\nW?\n") == b"0800\n"
    assert meter.say(b"W?\n") == b"W?\n0800\n"


def test_too_much_light_for_the_range_reads_as_a_number_and_is_flagged(meter) -> None:
    assert meter.say(b"R5\nD?\n") == b"+20E-6\n"
    assert int(meter.say(b"Q?\n")) & 0x0C == 8
    meter.say(b"R0\n")
    assert meter.say(b"D?\n") == b"+.9584E-3\n"
    assert int(meter.say(b"Q?\n")) & 0x0C == 0


def test_saturated_detector_is_flagged_and_the_attenuator_helps(meter, bench) -> None:
    bench.set_state(ambient_w=0.1)
    meter.say(b"D?\n")
    assert int(meter.say(b"Q?\n")) & 0x0C == 0x0C
    meter.say(b"A1\n")
    assert float(meter.say(b"D?\n")) == pytest.approx(0.101, rel=0.01)
    assert int(meter.say(b"Q?\n")) & 0x0C == 0


def test_wavelength_setting_scales_the_reading(meter) -> None:
    meter.say(b"W0400\n")
    assert float(meter.say(b"D?\n")) == pytest.approx(2 * 0.9584e-3, rel=1e-3)


def test_hold_keeps_the_reading(meter, bench) -> None:
    meter.say(b"G0\n")
    bench.set_state(power_w=0.5e-3)
    assert meter.say(b"D?\n") == b"+.9584E-3\n"
    assert meter.say(b"G1\nD?\n") == b"+.4521E-3\n"


def test_status_tells_ranging_and_a_new_reading(meter) -> None:
    meter.say(b"R7\nD?\n")
    assert int(meter.say(b"Q?\n")) == 32
    meter.wait(0.2)
    assert int(meter.say(b"Q?\n")) == 128
    meter.say(b"D?\n")
    assert int(meter.say(b"Q?\n")) == 0


@pytest.mark.parametrize("swapped", [False, True])
def test_meaning_of_the_units_is_an_option(connect, swapped: bool) -> None:
    units = ("W", "dBm", "dB", "relative") if swapped else ("W", "dB", "dBm", "relative")
    meter = connect("Newport1830C", units=units, relative_noise=0.0, range_noise=0.0)
    assert meter.say(b"U2\nD?\n" if swapped else b"U3\nD?\n") == b"-0.18\n"


def test_filter_averages_the_noise(connect) -> None:
    meter = connect("Newport1830C", relative_noise=0.01)

    def spread() -> float:
        readings = [float(meter.say(b"D?\n")) for _ in range(300)]
        mean = sum(readings) / 300
        return (sum((reading - mean) ** 2 for reading in readings) / 299) ** 0.5 / mean

    meter.say(b"F3\n")
    assert spread() == pytest.approx(0.01, rel=0.2)
    meter.say(b"F1\n")
    assert spread() == pytest.approx(0.0025, rel=0.2)


def test_noise_belongs_to_the_seed(simulate: Callable[..., SimulatorProcess], open_port) -> None:
    readings = []
    for seed in (3, 3, 4):
        wire = {**default_wire("meter", [default_instrument("Newport1830C")]), "pace": False}
        port = open_port(simulate(wire, seed=seed).ports["meter"])
        port.write(b"D?\n" * 5)
        readings.append([port.readline() for _ in range(5)])
        assert all(READING.fullmatch(reading) for reading in readings[-1])
    assert readings[0] == readings[1]
    assert readings[0] != readings[2]


def test_faults_of_the_meter(simulate: Callable[..., SimulatorProcess], open_port) -> None:
    simulators = simulate({**default_wire("meter", [default_instrument("Newport1830C")]), "pace": False})
    port = open_port(simulators.ports["meter"])

    def status(after: bytes = b"") -> int:
        port.write(after + b"Q?\n")
        return int(port.readline())

    for kind, bit in (("over_range", 8), ("saturation", 4)):
        simulators.fault("meter", kind)
        assert status() & 0x0C == bit
        port.write(b"D?\n")
        assert READING.fullmatch(port.readline())
        assert status() & 0x0C == bit
        port.write(b"D?\n")
        port.readline()
        assert status() & 0x0C == 0
    simulators.fault("meter", "busy")
    assert status() & 32
    simulators.fault("meter", "error", code=1)
    port.write(b"W0700\nW?\n")
    assert port.readline() == b"0800\n"
    assert status() & 3 == 1
