"""Two ways to talk to a simulated instrument: directly with a clock set by hand, and through its real port."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import serial
from simulated_host import Host, ManualClock

from simulators import SimulatorProcess, build_spec
from simulators.instrument import World
from simulators.optics import OpticalBench
from simulators.registry import instrument_class


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def bench() -> OpticalBench:
    return OpticalBench()


@pytest.fixture
def connect(clock: ManualClock, bench: OpticalBench) -> Callable[..., Host]:
    """Make an instrument of that type and a host that talks to it; the host's `instrument` is the instrument."""

    def make(type_name: str, **options: Any) -> Host:
        instrument = instrument_class(type_name)(World(clock, bench, seed=1), type_name.lower(), **options)
        return Host(instrument, clock)

    return make


@pytest.fixture
def simulate() -> Iterator[Callable[..., SimulatorProcess]]:
    """Start a simulator process with these wires; it ends with the test."""
    started: list[SimulatorProcess] = []

    def start(*wires: dict[str, Any], **settings: Any) -> SimulatorProcess:
        process = SimulatorProcess(build_spec(wires, **settings))
        started.append(process)
        process.start()
        return process

    yield start
    for process in started:
        process.close()


@pytest.fixture
def open_port() -> Iterator[Callable[..., serial.Serial]]:
    """Open a pty with pyserial; closed with the test."""
    opened: list[serial.Serial] = []

    def open_it(path: str, baud_rate: int = 9600, *, timeout: float = 5.0, **settings: Any) -> serial.Serial:
        opened.append(serial.Serial(path, baud_rate, timeout=timeout, **settings))
        return opened[-1]

    yield open_it
    for port in opened:
        port.close()


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@pytest.fixture(name="wait_until")
def wait_until_fixture() -> Callable[..., None]:
    return wait_until
