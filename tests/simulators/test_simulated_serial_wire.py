"""A serial line on a pty: its speed, its plug, its faults, and whoever has it open."""

import fcntl
import itertools
import math
import os
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable

import psutil
import pytest
import serial

from simulators import SimulatorProcess, default_instrument, default_wire

METER = default_wire("meter", [default_instrument("Newport1830C")])
BUS = default_wire("bus", [default_instrument("ELL14", address=address) for address in "23"])
IDENTITY = b"2IN0E1140051720231701016800023000\r\n"


@pytest.fixture
def meter(simulate: Callable[..., SimulatorProcess], open_port: Callable[..., serial.Serial]):
    simulators = simulate(METER)
    return simulators, open_port(simulators.ports["meter"])


def ask(port: serial.Serial, command: bytes) -> bytes:
    port.write(command)
    return port.readline()


def shortest_s(does: Callable[[], bool], enough_s: float) -> float:
    """Return the shortest time it took, of up to 20: what else this machine does can only make it longer."""
    shortest = math.inf
    for _ in range(20):
        began = time.monotonic()
        assert does()
        shortest = min(shortest, time.monotonic() - began)
        if shortest < enough_s:
            break
    return shortest


@pytest.mark.parametrize(("baud_rate", "settings"), [(9600, {}), (19200, {"stop_bits": 2, "parity": "even"})])
def test_bytes_travel_at_the_speed_of_the_line(simulate, open_port, baud_rate: int, settings: dict) -> None:
    wire = default_wire("bus", BUS["instruments"], baud_rate=baud_rate, **settings)
    port = open_port(simulate(wire).ports["bus"], baud_rate)
    bits = 10 + (2 if settings else 0)
    line_s = (3 + len(IDENTITY)) * bits / baud_rate
    for _ in range(50):  # a busy machine makes it slower, sometimes
        began = time.monotonic()
        assert ask(port, b"2in") == IDENTITY
        taken = time.monotonic() - began
        assert taken >= line_s
        if taken < 1.1 * line_s:
            break
    assert taken < 1.1 * line_s


def test_a_long_transfer_does_not_drift(simulate, open_port) -> None:
    port = open_port(simulate(BUS).ports["bus"])
    number = 20
    # The line is full duplex: the first command and all replies make up the time.
    line_s = (3 + number * len(IDENTITY)) * 10 / 9600
    for _ in range(5):  # a busy machine makes it longer, sometimes
        began = time.monotonic()
        port.write(b"2in" * number)
        assert port.read(number * len(IDENTITY)) == IDENTITY * number
        taken = time.monotonic() - began
        assert 0.95 * line_s < taken
        if taken < 2 * line_s:
            break
    assert taken < 2 * line_s


def test_pacing_can_be_switched_off(simulate, open_port) -> None:
    port = open_port(simulate({**BUS, "pace": False}).ports["bus"])
    line_s = (3 + len(IDENTITY)) * 10 / 9600
    # A line that is paced is never that fast; one that is not may be slow, on a busy machine.
    assert shortest_s(lambda: ask(port, b"2in") == IDENTITY, line_s) < line_s


def test_time_scale_makes_lines_and_motion_faster(simulate, open_port) -> None:
    port = open_port(simulate(BUS, time_scale=0.1).ports["bus"])
    # There and back each half a turn takes 0.53 s and the bytes 0.02 s.
    targets = itertools.cycle((b"2ma00011800", b"2ma00000000"))
    assert shortest_s(lambda: ask(port, next(targets)).startswith(b"2PO"), 0.5) < 0.5


def test_wrong_baud_rate_hears_and_says_garbage(simulate, open_port) -> None:
    simulators = simulate(METER)
    port = open_port(simulators.ports["meter"], 19200, timeout=0.2)
    assert ask(port, b"W?\n") == b""
    port.close()
    port = open_port(simulators.ports["meter"], 9600)
    assert ask(port, b"\nW?\n") == b"0800\n"


def test_unplugging_fails_the_client_and_replugging_brings_back_the_same_path(meter, open_port) -> None:
    simulators, port = meter
    path = simulators.ports["meter"]
    port.write(b"W0633\n")
    assert ask(port, b"W?\n") == b"0633\n"
    simulators.unplug("meter")
    assert not os.path.lexists(path)
    with pytest.raises((serial.SerialException, OSError)):
        ask(port, b"W?\n")
    port.close()
    with pytest.raises(serial.SerialException):
        serial.Serial(path)
    assert not simulators.truth()["wires"]["meter"]["plugged"]
    simulators.replug("meter")
    # The cable was pulled, not the mains: the meter still knows its wavelength.
    assert ask(open_port(path), b"W?\n") == b"0633\n"


def test_power_cycle_silences_and_forgets(meter) -> None:
    simulators, port = meter
    port.write(b"W0633\n")
    assert ask(port, b"W?\n") == b"0633\n"
    simulators.power("meter", False)
    port.timeout = 0.1
    assert ask(port, b"W?\n") == b""
    port.timeout = 5.0
    simulators.power("meter", True)
    assert ask(port, b"W?\n") == b"0800\n"


def test_power_loss_in_mid_move_stops_the_rotator(simulate, open_port, wait_until) -> None:
    simulators = simulate(BUS)
    port = open_port(simulators.ports["bus"])
    # At a tenth of its speed the turn takes eight seconds.
    assert ask(port, b"2sv0A") == b"2GS00\r\n"
    port.write(b"2ma00023000")
    wait_until(lambda: simulators.truth()["instruments"]["bus.2"]["position_deg"] > 0)
    simulators.power("bus.2", False)
    stopped = simulators.truth()["instruments"]["bus.2"]
    assert stopped["moving"] is False
    assert 0 < stopped["position_deg"] < 359
    port.timeout = 0.2
    assert port.readline() == b""
    port.timeout = 5.0
    assert ask(port, b"3gp") == b"3PO00000000\r\n"


@pytest.mark.parametrize("target", ["bus", "bus.2"])
def test_silence_swallows_as_many_replies_as_asked_for(simulate, open_port, target: str) -> None:
    simulators = simulate(BUS)
    port = open_port(simulators.ports["bus"], timeout=0.15)
    simulators.fault(target, "silence", count=2)
    assert [ask(port, b"2gs") for _ in range(2)] == [b"", b""]
    port.timeout = 5.0
    assert ask(port, b"2gs") == b"2GS00\r\n"


def test_fault_stays_until_cleared(meter) -> None:
    simulators, port = meter
    port.timeout = 0.1
    simulators.fault("meter", "silence", count=None)
    assert [ask(port, b"W?\n") for _ in range(3)] == [b"", b"", b""]
    simulators.clear_faults("meter")
    port.timeout = 5.0
    assert ask(port, b"W?\n") == b"0800\n"


def test_late_reply_comes_whole_and_before_later_ones(meter) -> None:
    simulators, port = meter
    simulators.fault("meter", "late", delay_s=0.3)
    began = time.monotonic()
    port.write(b"W?\nF?\n")
    assert port.readline() == b"0800\n"
    assert time.monotonic() - began >= 0.3
    assert port.readline() == b"3\n"


def test_garbage_keeps_the_line_end_and_nothing_else(meter) -> None:
    simulators, port = meter
    simulators.fault("meter", "garbage")
    reply = ask(port, b"W?\n")
    assert len(reply) == 5
    assert reply.endswith(b"\n")
    assert not reply[:4].isdigit()
    simulators.fault("meter", "garbage", data="?!\n")
    assert ask(port, b"W?\n") == b"?!\n"
    assert ask(port, b"W?\n") == b"0800\n"


def test_dropped_and_lost_bytes(meter) -> None:
    simulators, port = meter
    simulators.fault("meter", "drop", number=2, at=1)
    assert ask(port, b"W?\n") == b"00\n"
    simulators.fault("meter", "drop", number=1, at=4)
    port.write(b"W?\n")
    assert port.read(4) == b"0800"
    assert ask(port, b"W?\n") == b"0800\n"
    simulators.fault("meter", "lose", count=3)
    port.timeout = 0.2
    assert ask(port, b"W?\n") == b""
    port.timeout = 5.0
    assert ask(port, b"W?\n") == b"0800\n"


def test_echo_comes_before_the_answer(meter) -> None:
    simulators, port = meter
    simulators.fault("meter", "echo")
    port.write(b"W?\n")
    assert port.read(8) == b"W?\n0800\n"
    assert ask(port, b"W?\n") == b"0800\n"


def test_xoff_stops_the_line_until_xon(simulate, open_port) -> None:
    simulators = simulate(default_wire("laser", [default_instrument("MaiTai")]))
    port = open_port(simulators.ports["laser"], timeout=0.15)
    assert ask(port, b"\x13WAV?\n") == b""
    port.timeout = 5.0
    assert ask(port, b"\x11") == b"800nm\n"


def test_flooded_line_makes_the_client_wait_and_recovers(simulate, open_port, wait_until) -> None:
    simulators = simulate({**METER, "baud_rate": 115200})
    port = open_port(simulators.ports["meter"], 115200, write_timeout=0.2)
    with pytest.raises(serial.SerialTimeoutException):
        for _ in range(100):
            port.write(b"B1\n" * 400)
    port.write_timeout = 5.0
    wait_until(lambda: ask(port, b"\nW?\n") == b"0800\n", 30.0)


EXCLUSIVE_CLIENT = """
import fcntl, os, sys, termios
port = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
fcntl.ioctl(port, termios.TIOCEXCL)
os.write(port, b"W?\\n")
print(os.read(port, 1), flush=True)
sys.stdin.read()
"""


def _is_exclusive(path: str) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
    try:
        return struct.unpack("i", fcntl.ioctl(descriptor, 0x80045440, struct.pack("i", 0)))[0] == 1
    except PermissionError:
        return True
    finally:
        os.close(descriptor)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root to look past TIOCEXCL")
def test_exclusive_mode_ends_with_the_client_that_asked_for_it(simulate, wait_until) -> None:
    simulators = simulate(METER)
    path = simulators.ports["meter"]
    with subprocess.Popen(
        [sys.executable, "-c", EXCLUSIVE_CLIENT, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline()
        assert _is_exclusive(path)
        client.kill()
    wait_until(lambda: not _is_exclusive(path))


def test_a_client_in_exclusive_mode_costs_nothing_while_it_is_quiet(simulate, open_port) -> None:
    simulators = simulate(METER)
    port = open_port(simulators.ports["meter"])
    fcntl.ioctl(port.fileno(), termios.TIOCEXCL)
    assert ask(port, b"W?\n") == b"0800\n"
    process = psutil.Process(simulators.pid)
    # The one look for the client comes half a second after the traffic, or later on a machine that stands still.
    for _ in range(5):
        switches = process.num_ctx_switches().voluntary
        time.sleep(0.8)
        if process.num_ctx_switches().voluntary - switches <= 1:
            break
    else:
        pytest.fail("it goes on looking")
    assert ask(port, b"W?\n") == b"0800\n"
    simulators.unplug("meter")
    simulators.replug("meter")
    assert ask(open_port(simulators.ports["meter"]), b"W?\n") == b"0800\n"
