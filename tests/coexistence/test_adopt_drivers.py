"""Third-party drivers, unmodified, beside asyncio tasks on the same wires."""

import asyncio
import threading
import time
from collections import Counter

import pytest
import serial
from pymeasure.adapters import SerialAdapter
from pymeasure.instruments.newport import ESP300

from coexistence import Adoption, LeaseRules, SerialPortPool, adopt
from simulators import SimulatorProcess, build_spec, default_instrument, default_wire


class PollingRotator:
    """Written against ``serial.Serial``: flushes, writes, sleeps a little, reads a line."""

    def __init__(self, path: str, address: str) -> None:
        self.address = address
        self.port = serial.Serial(path, 9600, timeout=20.0)
        self.port.elliptec_address = address

    def position(self) -> str:
        self.port.reset_input_buffer()
        self.port.write(f"{self.address}gp".encode())
        time.sleep(0.01)
        return self.port.readline().decode().strip()

    def move_to(self, pulses: int) -> str:
        self.port.write(f"{self.address}ma{pulses:08X}".encode())
        return self.port.readline().decode().strip()

    def close(self) -> None:
        self.port.close()


class ByteWiseRotator:
    """Written against ``serial_for_url``: opens late, counts what waits, reads byte by byte."""

    def __init__(self, url: str, address: str) -> None:
        self.address = address
        self.port = serial.serial_for_url(url, do_not_open=True, timeout=0.5, write_timeout=20.0)
        self.port.open()
        assert isinstance(self.port, serial.Serial)

    def position(self) -> str:
        self.port.write(self.address.encode())
        self.port.write(b"gp")
        reply = b""
        deadline = time.monotonic() + 20.0
        while not reply.endswith(b"\r\n") and time.monotonic() < deadline:
            if self.port.in_waiting:
                reply += self.port.read(1)
            else:
                time.sleep(0.001)
        return reply.decode().strip()

    def close(self) -> None:
        self.port.close()


@pytest.fixture(scope="module")
def simulation():
    rotators = [
        default_instrument("ELL14", address=address, position_deg=position)
        for address, position in (("2", 20.0), ("3", 30.0), ("4", 40.0))
    ]
    spec = build_spec(
        [default_wire("bus", rotators), default_wire("controller", [default_instrument("ESP300")])],
        seed=3,
        time_scale=0.5,
    )
    with SimulatorProcess(spec) as simulation:
        yield simulation


@pytest.fixture
def pool():
    pool = SerialPortPool()
    yield pool
    pool.close()


def own_lines(address: str) -> LeaseRules:
    return LeaseRules(accept=lambda line: line.startswith(address.encode()), acquire_timeout=20.0)


def poll(driver, answers: list) -> threading.Thread:
    def run() -> None:
        for _ in range(200):
            answers.append(driver.position())

    thread = threading.Thread(target=run)
    thread.start()
    return thread


async def test_two_rotator_drivers_and_a_task_on_one_bus_get_200_of_200_right(simulation, pool):
    path = simulation.ports["bus"]
    bus = pool.get(path, terminator=b"\r\n")
    # Every command is answered: a driver or an instrument that stands still for a while must not end a lease before.
    with adopt(pool, {path: "polling"}, quiet_time=5.0, reply_time=5.0, acquire_timeout=20.0):
        polling = PollingRotator(path, "2")
    bytewise = ByteWiseRotator(f"shared://{path}?owner=bytewise&quiet_time=5", "3")
    answers: dict[str, list] = {"2": [], "3": [], "4": []}
    threads = [poll(polling, answers["2"]), poll(bytewise, answers["3"])]
    for _ in range(200):
        reply = await bus.query_async(b"4gp", owner="task", timeout=20.0, accept=lambda line: line.startswith(b"4"))
        answers["4"].append(reply.decode())
    for thread in threads:
        await asyncio.to_thread(thread.join)
    polling.close()
    bytewise.close()
    for address, replies in answers.items():
        assert len(replies) == 200
        assert len(set(replies)) == 1
        assert replies[0].startswith(f"{address}PO")
    assert bus.stats.timeouts == 0


async def test_a_rotator_driver_moves_while_another_and_a_task_go_on(simulation, pool):
    path = simulation.ports["bus"]
    bus = pool.get(path, terminator=b"\r\n")
    rules = {address: Adoption(owner=f"rotator {address}", rules=own_lines(address)) for address in "23"}
    with adopt(pool, {path: rules["2"]}):
        moving = PollingRotator(path, "2")
    with adopt(pool, {path: rules["3"]}):
        polling = PollingRotator(path, "3")
    moved = []

    def move() -> None:
        for pulses in (143_359, 0, 143_359, 8_000):
            moved.append(moving.move_to(pulses))

    mover = threading.Thread(target=move)
    mover.start()
    during = Counter()  # how often the task was answered while the first, second, ... move went on
    positions = []
    while mover.is_alive():
        reply = await bus.query_async(b"4gp", owner="task", timeout=20.0, accept=lambda line: line.startswith(b"4"))
        during[len(moved)] += 1
        assert reply.startswith(b"4PO")
        positions.append(await asyncio.to_thread(polling.position))
    await asyncio.to_thread(mover.join)
    moving.close()
    polling.close()
    assert [reply[:3] for reply in moved] == ["2PO"] * 4
    assert {position[:3] for position in positions} == {"3PO"}
    assert max(during.values()) > 4  # the wire is not held until the moving one arrives


def visa_controller(path: str) -> ESP300:
    return ESP300(
        f"ASRL{path}::INSTR",
        visa_library="@py",
        baud_rate=19200,
        read_termination="\r\n",
        write_termination="\r",
        timeout=20_000,
    )


def serial_controller(path: str) -> ESP300:
    return ESP300(SerialAdapter(path, baudrate=19200, timeout=20.0, read_termination="\r\n", write_termination="\r"))


@pytest.mark.parametrize("make", [visa_controller, serial_controller])
async def test_pymeasure_drives_a_motion_controller_that_a_task_queries(simulation, pool, make):
    path = simulation.ports["controller"]
    wire = pool.get(path, baud_rate=19200, terminator=b"\r\n")
    done = threading.Event()
    positions, speeds = [], []

    def drive() -> None:
        try:
            with adopt(pool, {path: "pymeasure"}, reply_time=5.0, acquire_timeout=20.0):
                controller = make(path)
            controller.x.enable()
            for target in (0.5, 1.0, 0.25):
                controller.x.position = target
                controller.x.wait_for_stop()
                positions.append(controller.x.position)
            assert controller.errors == []
            speeds.append(controller.x.left_limit)
            controller.adapter.close()
        finally:
            done.set()

    number = 0
    driver = asyncio.create_task(asyncio.to_thread(drive))
    while not done.is_set() or number < 6:
        identity = await wire.query_async(b"VE?\r", owner="task", timeout=20.0)
        assert b"ESP300" in identity
        number += 1
    await driver
    assert positions == pytest.approx([0.5, 1.0, 0.25], abs=1e-3)
    assert len(speeds) == 1
    assert wire.stats.owners["pymeasure"].exchanges >= 6
    assert wire.stats.timeouts == 0
