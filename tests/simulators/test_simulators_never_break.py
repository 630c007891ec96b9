"""Whatever a host sends, no instrument breaks, and each is there again when spoken to properly."""

import random
import socket
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from simulated_host import Host, ManualClock

from simulators import default_instrument, default_wire
from simulators.instrument import World
from simulators.optics import OpticalBench
from simulators.registry import ALIASES, instrument_class, type_names

QUESTIONS: dict[str, tuple[bytes, bytes]] = {
    "Newport1830C": (b"\nE0\nW?\n", b"\n"),
    "ELL14": (b"\r2gp", b"\r\n"),
    "ESP300": (b"\rVE?\r", b"ESP300 Version 3.04 07/27/01\r\n"),
    "MaiTai": (b"\r*IDN?\r", b"CP/1.30\n"),
    "ScpiMeter": (b"\n*IDN?\n", b"11-5-2\n"),
}
WORDS: dict[str, list[bytes]] = {
    "Newport1830C": [b"D?", b"E1", b"R9", b"R1", b"U2", b"W0800", b"Z1", b"G0", b"S", b"?", b"\n"],
    "ELL14": [b"2ma", b"2mr", b"2ho0", b"2st", b"2fw", b"2sv", b"2sj", b"2is", b"FFFFFFFF", b"0000F000", b"2i3"],
    "ESP300": [b"1PA", b"2PR-", b"1WS", b"3OR4", b"1MF", b"AB", b"1DH", b"1SN", b"TE?", b"1e3", b";", b"\r", b"9"],
    "MaiTai": [b"WAV ", b"SHUT 1", b"ON", b"OFF", b"TIM:WATC ", b"READ:POW?", b"9e9", b"\n", b":", b"nan"],
    "ScpiMeter": [
        b"READ?",
        b"INIT",
        b"TRIG:SOUR EXT",
        b"TRIG:SOUR BUS",
        b"*TRG",
        b"SAMP:COUN ",
        b"VOLT:NPLC 100",
        b"MEAS:CURR? ",
        b"FORM REAL,32",
        b"*OPC?",
        b"512",
        b";",
        b":",
        b"\n",
        b'"',
        b",",
    ],
}
OPTIONS: dict[str, dict[str, Any]] = {"ELL14": {"address": "2"}}
# Longer than anything takes that can be asked for with the words above: a home run, an isolation of 255 minutes,
# 512 slow samples for each of the messages that fit the queue.
LONGEST_S = 1e7


def conversation(type_name: str) -> st.SearchStrategy[list[bytes]]:
    return st.lists(st.one_of(st.sampled_from(WORDS[type_name]), st.binary(max_size=12)), max_size=25)


def test_every_instrument_is_tried() -> None:
    assert set(QUESTIONS) == set(WORDS) == set(type_names())
    assert set(ALIASES.values()) <= set(type_names())


@pytest.mark.parametrize("type_name", type_names())
def test_no_bytes_break_an_instrument_or_make_it_silent_for_ever(type_name: str) -> None:
    question, ending = QUESTIONS[type_name]

    @settings(max_examples=150)
    @given(said=conversation(type_name), pauses=st.lists(st.floats(0, 3), max_size=5))
    @example(said=[b"\x00" * 12, b"\xff" * 12], pauses=[])
    @example(said=[b"\x1c"], pauses=[])  # white space to Python, though no byte of a line end
    def check(said: list[bytes], pauses: list[float]) -> None:
        clock, bench = ManualClock(), OpticalBench()
        options = OPTIONS.get(type_name, {})
        instrument = instrument_class(type_name)(World(clock, bench), type_name, **options)
        host = Host(instrument, clock)
        for number, data in enumerate(said):
            host.say(data)
            host.wait(pauses[number] if number < len(pauses) else 0.0)
        host.say(b"\r\n")
        host.wait(LONGEST_S)
        # An address that a rotator was given in the meantime is its address.
        address = instrument.truth().get("address", "2").encode()
        reply = host.say(question.replace(b"2gp", address + b"gp")) + host.wait(1.0)
        assert reply.endswith(ending)
        bench.truth()

    check()


def test_no_bytes_break_a_port(simulate, open_port, wait_until) -> None:
    simulators = simulate(
        {**default_wire("bus", [default_instrument("ELL14", address=each) for each in "23"]), "pace": False},
        {**default_wire("laser", [default_instrument("MaiTai")]), "pace": False},
        default_wire("socket", [default_instrument("ScpiMeter")]),
        default_wire("hislip", [default_instrument("ScpiMeter")], kind="hislip"),
    )
    noise = random.Random(5)
    for _ in range(50):
        for name, address in simulators.ports.items():
            data = noise.randbytes(noise.randrange(200))
            if name in ("socket", "hislip"):
                host, number = address.split(":")
                with socket.create_connection((host, int(number)), timeout=5) as client:
                    client.sendall((b"HS" if noise.random() < 0.5 else b"") + data)
            else:
                open_port(address, timeout=0.2).write(data)
    host, number = simulators.ports["socket"].split(":")
    with socket.create_connection((host, int(number)), timeout=5) as client:
        client.sendall(b"*IDN?\n")
        assert client.recv(100).endswith(b"11-5-2\n")
    bus = open_port(simulators.ports["bus"])
    bus.write(b"\r3gv")
    # Before it may come what a unit says to the last of the noise.
    assert bus.read_until(b"3GV64\r\n").endswith(b"3GV64\r\n")
    laser = open_port(simulators.ports["laser"])
    # Noise may have held the line up with XOFF.
    laser.write(b"\x11\r*IDN?\r")
    assert laser.read_until(b"CP/1.30\n").endswith(b"CP/1.30\n")
    wait_until(lambda: simulators.truth()["wires"]["hislip"]["clients"] == 0)
