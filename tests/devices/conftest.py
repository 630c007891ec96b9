"""A bench of simulated instruments on real ptys, with the real wires, for both generations."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bluesky import RunEngine
from machine import Bystander

from coexistence import Connection, SharedSerialPort, VisaSessionManager
from devices import registry
from devices.v2 import worker
from simulators import SimulatorProcess
from simulators.spec import build_spec, default_instrument, default_wire

SPEC = build_spec(
    [
        default_wire("meter", [default_instrument("Newport1830C")]),
        default_wire("bus", [default_instrument("ELL14", address=address) for address in "23A"]),
        default_wire("stage", [default_instrument("ESP300")]),
        default_wire("laser", [default_instrument("MaiTai", emission=True, shutter_open=True)]),
        default_wire("meter2", [default_instrument("ScpiMeter")]),
    ],
    seed=7,
    time_scale=0.3,
)
# The meter's tests let replies get lost, and need not wait for them as long as one would for real.
LINE = {"meter": {"late_reply_limit": 0.3}}
TYPES = {"meter": "Newport1830C", "bus": "Elliptec", "stage": "ESP300", "laser": "MaiTai"}


@pytest.fixture(scope="session", autouse=True)
def threads_end_soon() -> Iterator[None]:
    """Let no test wait at its end for threads that wait for more work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "IDLE_S", 0.05)
        yield


@pytest.fixture(scope="session")
def running_bench() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(SPEC) as simulators:
        yield simulators


@pytest.fixture
def bench(running_bench: SimulatorProcess) -> Iterator[SimulatorProcess]:
    """The simulators, without faults."""
    yield running_bench
    running_bench.clear_faults()


@pytest.fixture
def wire(bench: SimulatorProcess) -> Iterator[Callable[..., SharedSerialPort]]:
    """Open the wire of that name, as the instrument on it needs it; closed at the end of the test."""
    opened: dict[str, SharedSerialPort] = {}

    def open_wire(name: str, **settings: Any) -> SharedSerialPort:
        if name not in opened:
            line = registry.line_settings(TYPES[name], {}) | LINE.get(name, {}) | settings
            opened[name] = SharedSerialPort(bench.ports[name], **line)
        return opened[name]

    yield open_wire
    for port in opened.values():
        port.close()


@pytest.fixture
def visa(bench: SimulatorProcess) -> Iterator[Callable[..., Connection]]:
    """Make a connection for an owner to the multimeter on its TCP socket."""
    with VisaSessionManager() as manager:

        def connect(owner: str) -> Connection:
            host, port = bench.ports["meter2"].split(":")
            return manager.session(f"TCPIP0::{host}::{port}::SOCKET", owner=owner).raw

        yield connect


@pytest.fixture
def connections() -> list[Connection]:
    """All serial connections of a test."""
    return []


@pytest.fixture
def connection(
    wire: Callable[..., SharedSerialPort], visa: Callable[[str], Connection], connections: list[Connection]
) -> Callable[..., Connection]:
    """Make a connection to the wire of that name for an owner; it waits long for an answer."""

    def connect(name: str, owner: str) -> Connection:
        if name == "meter2":
            return visa(owner)
        connections.append(Connection(wire(name), owner, timeout=5.0))
        return connections[-1]

    return connect


@pytest.fixture
def hurry(connections: list[Connection]) -> Callable[..., None]:
    """Wait no longer than that for an answer, from now on: for tests of what is silent."""

    def hurry_now(seconds: float = 1.0) -> None:
        for each in connections:
            each.timeout = seconds

    return hurry_now


@pytest.fixture
def engine() -> RunEngine:
    return RunEngine({}, context_managers=[])


@pytest.fixture
def documents(engine: RunEngine) -> list[tuple[str, dict[str, Any]]]:
    """All documents that the engine emits."""
    collected: list[tuple[str, dict[str, Any]]] = []
    engine.subscribe(lambda name, document: collected.append((name, document)))
    return collected


@pytest.fixture
def keeps_loop_alive(engine: RunEngine, loop_gap: Any) -> Callable[[Callable[[], object]], None]:
    """Fail when the engine's loop stands still for 60 ms, and a bystander did not, whenever something is done.

    It is done up to five times: what blocks the loop blocks it each time, a busy machine does not.
    """

    def check(work: Callable[[], object]) -> None:
        gaps = []
        for _ in range(5):
            with Bystander() as bystander, loop_gap(engine.loop) as gap:
                work()
            gaps.append((gap.largest_gap_s, bystander.longest_stall_s))
            if gap.largest_gap_s < 0.06 + 2 * bystander.longest_stall_s:
                return
        raise AssertionError(f"the loop stood still, and a bystander, for {gaps} s")

    return check
