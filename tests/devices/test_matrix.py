"""Every instrument, on every kind of wire it comes on, in both generations: the same proofs for each cell.

A GPIB board cannot be simulated here: instruments that are also had with GPIB are asked through HiSLIP, which like GPIB
carries whole messages and ends them out of band, and through the same VISA layer of the project.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky import RunEngine
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import FailedStatus
from documents import events
from ophyd_async.core import NotConnectedError, set_mock_value
from waiting import until

from coexistence import CoexistenceError, Connection, SharedResources
from coexistence.config import InstrumentConfig
from devices import registry
from devices.cameras import CameraError, CameraPool, CameraStalled, GivenCameras, PVCAMDriver
from devices.protocols import esp300, maitai
from devices.protocols.errors import OutOfScale, ProtocolError
from profiles.hardware import Hardware, build
from simulators import SimulatorProcess, build_spec, default_instrument, default_wire
from simulators.camera import SimulatedCamera

GENERATIONS = ("v2", "v4")
TIME_SCALE = 0.2


@dataclass(frozen=True)
class Cell:
    """One instrument on one kind of wire."""

    type_name: str
    wire: str
    medium: str
    column: str
    truth: Callable[[dict[str, Any]], float]
    tolerance: float
    faults: dict[str, type[Exception]]
    options: dict[str, Any] = field(default_factory=dict)
    movable: str = ""
    target: float = 0.0
    speeds: tuple[float, float] | None = None
    """What `velocity` is set to for a move that shall not be over soon, and otherwise."""


SILENCE = {"silence": CoexistenceError}
GARBAGE = {"garbage": ProtocolError}
UNPLUGGED = {"unplug": CoexistenceError}
POWER = {
    "type_name": "Newport1830C",
    "column": "power",
    "truth": lambda truth: truth["power_w"],
    "tolerance": 5e-5,
}
STAGE = {
    "type_name": "ESP300",
    "column": "axis_2",
    "truth": lambda truth: truth["axes"]["2"]["counter"],
    "tolerance": 0.005,
    "options": {"axes": [2]},
    "movable": "axis.2",
    "target": 24.0,
}
METER = {
    "type_name": "ScpiMeter",
    "column": "reading",
    "truth": lambda truth: truth["value"],
    "tolerance": 0.02,
    "options": {"setup": ["VOLT:NPLC 0.2"]},
}
GENERIC = {"voltage": {"query": "READ?", "units": "V", "kind": "hinted", "repeatable": False}}
CELLS = {
    "1830-C on a serial line": Cell(
        **POWER, wire="power", medium="serial", faults=SILENCE | {"over_range": OutOfScale}
    ),
    "1830-C on GPIB's stand-in": Cell(**POWER, wire="power_m", medium="hislip", faults=SILENCE | GARBAGE),
    "ESP300 on a serial line": Cell(**STAGE, wire="stage", medium="serial", faults=GARBAGE | UNPLUGGED),
    "ESP300 on GPIB's stand-in": Cell(**STAGE, wire="stage_m", medium="hislip", faults=SILENCE | GARBAGE),
    "Mai Tai": Cell(
        "MaiTai",
        "laser",
        "serial",
        "wavelength",
        lambda truth: truth["wavelength_nm"],
        1.0,
        GARBAGE | UNPLUGGED,
        movable="wavelength",
        target=1000.0,
    ),
    "ELL14": Cell(
        "Elliptec",
        "bus",
        "serial",
        "",
        lambda truth: truth["position_deg"],
        0.1,
        SILENCE | UNPLUGGED,
        {"address": "2", "move_timeout": 20.0},
        movable=".",
        target=300.0,
        speeds=(10, 100),
    ),
    "meter on a SOCKET": Cell(**METER, wire="dmm", medium="socket", faults=SILENCE | {"over_range": OutOfScale}),
    "meter on an INSTR (HiSLIP)": Cell(**METER, wire="dmm_m", medium="hislip", faults=SILENCE | GARBAGE),
    "meter on an ASRL": Cell(**METER, wire="dmm_s", medium="asrl", faults=GARBAGE | UNPLUGGED),
    "SCPI instrument on an INSTR (HiSLIP)": Cell(
        "ScpiInstrument",
        "dmm_m",
        "hislip",
        "voltage",
        lambda truth: truth["value"],
        0.02,
        SILENCE | GARBAGE,
        {"signals": GENERIC, "setup": ["VOLT:NPLC 0.2"]},
    ),
    "PVCAM": Cell(
        "PVCAMInstrument",
        "",
        "camera",
        "frame_number",
        lambda truth: truth["frame_number"],
        0.5,
        {"stall": CameraStalled, "unplug": CameraError},
        {"region": (900, 999, 1, 900, 999, 1)},
    ),
}


def _wire(name: str, instrument: dict[str, Any], **settings: Any) -> dict[str, Any]:
    if "kind" in settings:
        return {"name": name, "kind": settings["kind"], "instruments": [instrument]}
    return default_wire(name, [instrument])


SPEC = build_spec(
    [
        _wire("power", default_instrument("Newport1830C")),
        _wire("power_m", default_instrument("Newport1830C"), kind="hislip"),
        _wire("stage", default_instrument("ESP300")),
        _wire("stage_m", default_instrument("ESP300"), kind="hislip"),
        _wire("laser", default_instrument("MaiTai", emission=True, shutter_open=True)),
        default_wire("bus", [default_instrument("ELL14", address="2")]),
        _wire("dmm", default_instrument("ScpiMeter")),
        _wire("dmm_m", default_instrument("ScpiMeter"), kind="hislip"),
        _wire("dmm_s", default_instrument("ScpiMeter"), kind="serial"),
    ],
    seed=3,
    time_scale=TIME_SCALE,
)


class Bench:
    """All instruments, connected in both generations as a session does it, each pair on one wire."""

    def __init__(self, simulators: SimulatorProcess, folder: Path) -> None:
        self.simulators = simulators
        self.camera = SimulatedCamera(time_scale=0.1)
        self.hardware = Hardware(SharedResources(), folder, lambda: GivenCameras(self.camera))
        self.engine = RunEngine({}, context_managers=[])
        self.documents: list[tuple[str, dict[str, Any]]] = []
        self.engine.subscribe(lambda name, document: self.documents.append((name, document)))
        self.devices: dict[tuple[str, str], Any] = {}
        for number, (cell_name, cell) in enumerate(CELLS.items()):
            for generation in GENERATIONS:
                device = self.another(cell, f"{generation}_{number}", generation)
                self.connect(device, generation)
                self.devices[cell_name, generation] = device

    def another(self, cell: Cell, name: str, generation: Any) -> Any:
        """Make a device; it is not connected yet."""
        return build(self._config(cell, name), generation, self.hardware)

    def connect(self, device: Any, generation: str) -> None:
        """Connect a device."""
        connecting = device.connect()
        if generation == "v4":
            call_in_bluesky_event_loop(connecting)

    @contextlib.contextmanager
    def hurry(self, cell_name: str, generation: str) -> Iterator[None]:
        """Do not wait for a device that is silent as long as one would for the real instrument."""
        device = self.devices[cell_name, generation]
        parts = [device, *(_part(device, "axis").values() if hasattr(device, "axis") else ())]
        parts += [device.wavelength] if hasattr(device, "pump_power") else []
        with pytest.MonkeyPatch.context() as patch:
            for module in (maitai, esp300):
                patch.setattr(module, "_REPLY_TIMEOUT_S", 0.5)
            for part in parts:
                speaker = part.driver if hasattr(part, "driver") else part._connector
                if isinstance(speaker, PVCAMDriver):
                    patch.setattr(speaker, "options", speaker.options.model_copy(update={"frame_timeout": 0.2}))
                elif hasattr(speaker, "dialogue"):
                    patch.setattr(speaker.dialogue, "timeout_s", 1.0)
                    patch.setattr(speaker.dialogue.connection, "timeout", 0.5)
                    if hasattr(speaker.protocol, "exchange_timeout_s"):
                        patch.setattr(speaker.protocol, "exchange_timeout_s", 0.4)
            yield

    def _config(self, cell: Cell, name: str) -> InstrumentConfig:
        return InstrumentConfig(id=name, type=cell.type_name, timeout=5.0, **self._address(cell), **cell.options)

    def _address(self, cell: Cell) -> dict[str, str]:
        if cell.medium == "camera":
            return {"camera_name": self.camera.name}
        port = self.simulators.ports[cell.wire]
        if cell.medium == "serial":
            return {"serial_port": port}
        if cell.medium == "asrl":
            return {"resource": f"ASRL{port}::INSTR"}
        host, number = port.rsplit(":", 1)
        ending = f"{number}::SOCKET" if cell.medium == "socket" else f"hislip0,{number}::INSTR"
        return {"resource": f"TCPIP0::{host}::{ending}"}

    def run(self, plan: Any) -> list[dict[str, Any]]:
        """Run a plan and return its events."""
        self.documents.clear()
        self.engine(plan)
        return events(self.documents)

    def truth(self, cell: Cell) -> float:
        """What the instrument itself knows of the column."""
        if cell.medium == "camera":
            frames = [d["data"] for d in events(self.documents)]
            return cell.truth({"frame_number": max(v for f in frames for k, v in f.items() if "frame_number" in k)})
        return cell.truth(self._instrument(cell))

    def _instrument(self, cell: Cell) -> dict[str, Any]:
        known = self.simulators.truth()["instruments"]
        return known.get(cell.wire) or known[f"{cell.wire}.{cell.options['address']}"]

    def inject(self, cell: Cell, fault: str) -> None:
        """Let something go wrong until :meth:`mend`."""
        if cell.medium == "camera":
            (self.camera.stall if fault == "stall" else self.camera.unplug)()
        elif fault == "unplug":
            self.simulators.unplug(cell.wire)
        else:
            data = {"data": "#%&\r\n"} if fault == "garbage" else {}
            self.simulators.fault(cell.wire, fault, count=None, **data)

    def mend(self, cell: Cell, fault: str) -> None:
        """Set right what :meth:`inject` did."""
        if cell.medium == "camera":
            self.camera.stall(False)
            self.camera.replug() if fault == "unplug" else None
        elif fault == "unplug":
            self.simulators.replug(cell.wire)
        else:
            self.simulators.clear_faults()

    def close(self) -> None:
        """End all devices and close their wires."""
        for device in self.devices.values():
            device.destroy()
        self.hardware.close()


@pytest.fixture(scope="module")
def whole_bench(tmp_path_factory):
    with SimulatorProcess(SPEC) as simulators:
        bench = Bench(simulators, tmp_path_factory.mktemp("images"))
        yield bench
        bench.close()


@pytest.fixture
def bench(whole_bench):
    whole_bench.documents.clear()
    return whole_bench


def column_of(device, cell):
    return f"{device.name}_{cell.column}" if cell.column else device.name


every_cell = pytest.mark.parametrize("cell_name", CELLS)
every_generation = pytest.mark.parametrize("generation", GENERATIONS)


def test_no_instrument_is_missing():
    assert {cell.type_name for cell in CELLS.values()} == set(registry.type_names())
    assert all(len(cell.faults) == 2 for cell in CELLS.values())


@every_generation
@every_cell
def test_measures_the_truth_in_a_plan(bench, cell_name, generation):
    cell, device = CELLS[cell_name], bench.devices[cell_name, generation]
    measured = bench.run(bp.count([device], num=2))
    for event in measured:
        assert event["data"][column_of(device, cell)] == pytest.approx(bench.truth(cell), abs=2 * cell.tolerance)
    times = [event["timestamps"][column_of(device, cell)] for event in measured]
    assert measured[0]["time"] - 2 < times[0] < times[1] <= time.time()


@every_cell
def test_both_generations_on_one_wire_at_once_see_the_same_truth(bench, cell_name):
    cell = CELLS[cell_name]
    pair = [bench.devices[cell_name, generation] for generation in GENERATIONS]
    for event in bench.run(bp.count(pair, num=3)):
        old, new = (event["data"][column_of(device, cell)] for device in pair)
        if cell.medium == "camera":
            assert abs(old - new) >= 1, "one frame cannot be two"
            continue
        assert old == pytest.approx(new, abs=2 * cell.tolerance)
        assert new == pytest.approx(bench.truth(cell), abs=2 * cell.tolerance)


@every_generation
@every_cell
def test_is_described_and_mocked_without_any_wire(cell_name, generation, tmp_path):
    def no_wire():
        raise AssertionError("the wire was opened")

    class NoCameras:
        def names(self):
            raise AssertionError("the cameras were listed")

    cell = CELLS[cell_name]
    way = Connection(no_wire, "device", description="/dev/none")
    if cell.medium == "camera":
        way = CameraPool(NoCameras(), tmp_path).get("none")
    device = registry.device_class(cell.type_name, generation)(way, name="device", **cell.options)
    assert device.name == "device"
    column = column_of(device, cell)
    if generation == "v4":
        call_in_bluesky_event_loop(_mocked(device, cell, column))
        return
    assert device.hints["fields"]
    if cell.medium == "camera":  # the size of its frames is the camera's to tell
        assert cell.column in device.component_names
        return
    assert column in device.describe()
    assert all(key.startswith("device_") for key in device.describe_configuration())


async def _mocked(device, cell, column):
    await device.connect(mock=True)
    if cell.medium == "camera":
        assert cell.column in "".join(name for name, _ in device.children())
        return
    if cell.movable:
        await _part(device, cell.movable).set(cell.target)
        value = cell.target
    else:
        set_mock_value(getattr(device, cell.column), 0.25)
        value = 0.25
    assert (await device.read())[column]["value"] == value
    assert column in await device.describe()


def _part(device, path):
    for name in path.split("."):
        if name:
            device = device[int(name)] if name.isdigit() else getattr(device, name)
    return device


@every_generation
@pytest.mark.parametrize(
    ("cell_name", "fault"), [(name, fault) for name, cell in CELLS.items() for fault in cell.faults]
)
def test_fault_fails_the_plan_by_name_records_nothing_and_is_over(bench, cell_name, generation, fault, wait_for):
    cell, device = CELLS[cell_name], bench.devices[cell_name, generation]
    other = bench.devices["1830-C on a serial line" if cell.wire != "power" else "meter on a SOCKET", generation]
    silent = fault in ("silence", "stall", "unplug")
    bench.inject(cell, fault)
    try:
        with (
            bench.hurry(cell_name, generation) if silent else contextlib.nullcontext(),
            pytest.raises(Exception, match=r".") as caught,
        ):
            bench.run(bp.count([device]))
        assert events(bench.documents) == []
        error = caught.value.__cause__ if isinstance(caught.value, FailedStatus) else caught.value
        assert isinstance(error, cell.faults[fault])
        assert device.name in str(error) or bench.camera.name in str(error)
        assert len(bench.run(bp.count([other]))) == 1
    finally:
        bench.mend(cell, fault)
    wait_for(lambda: _works(bench, device), timeout=20)


def _works(bench, device):
    with contextlib.suppress(FailedStatus, CoexistenceError, TimeoutError, RuntimeError):
        return len(bench.run(bp.count([device]))) == 1
    return False


STRANGER = {"Elliptec": "2INACME toaster\r\n"}
"""By type, what answers in the instrument's place; a module's reply begins with its address, or it is not its own."""
ON_WIRES = [name for name, cell in CELLS.items() if cell.medium != "camera"]


@every_generation
@pytest.mark.parametrize("cell_name", ON_WIRES)
def test_another_instrument_on_the_wire_is_refused_with_what_it_said(bench, cell_name, generation, wait_for):
    cell = CELLS[cell_name]
    stranger = STRANGER.get(cell.type_name, "ACME toaster\r\n")
    bench.simulators.fault(cell.wire, "garbage", count=None, data=stranger)
    device = bench.another(cell, "stranger", generation)
    try:
        with pytest.raises((ProtocolError, NotConnectedError)) as caught:
            bench.connect(device, generation)
        assert "ACME toaster" in str(caught.value)
        assert "stranger" in str(caught.value)
    finally:
        bench.simulators.clear_faults()
        device.destroy()
    wait_for(lambda: _works(bench, bench.devices[cell_name, generation]), timeout=20)


MOVABLES = [name for name, cell in CELLS.items() if cell.movable and cell.medium == "serial"]


def _begin_and_lose(bench, cell, device, lose):
    """Begin a move, and lose the instrument when it is under way."""
    begin, movable = bench.truth(cell), _part(device, cell.movable)
    if cell.speeds:
        yield from bps.mv(device.velocity, cell.speeds[0])
    yield from bps.abs_set(movable, cell.target, group="move")
    yield from until(lambda: abs(bench.truth(cell) - begin) >= 0.02 * abs(cell.target - begin))
    lose()
    yield from bps.wait("move")


def _return(cell, device, begin):
    """Move back to where it was."""
    if cell.speeds:
        yield from bps.mv(device.velocity, cell.speeds[1])
    yield from bps.mv(_part(device, cell.movable), begin)


@every_generation
@pytest.mark.parametrize("cell_name", [name for name in MOVABLES if name != "Mai Tai"])
def test_cable_pulled_in_the_middle_of_a_move(bench, cell_name, generation, wait_for):
    cell, device = CELLS[cell_name], bench.devices[cell_name, generation]
    other = bench.devices["1830-C on a serial line", generation]
    begin = bench.truth(cell)
    try:
        with bench.hurry(cell_name, generation), pytest.raises(FailedStatus) as caught:
            bench.run(_begin_and_lose(bench, cell, device, lambda: bench.simulators.unplug(cell.wire)))
        assert device.name in str(caught.value.__cause__)
        assert len(bench.run(bp.count([other]))) == 1
    finally:
        bench.simulators.replug(cell.wire)
    wait_for(lambda: _works(bench, device), timeout=20)
    wait_for(lambda: _stands(bench, cell), timeout=20)
    bench.run(_return(cell, device, begin))
    assert bench.truth(cell) == pytest.approx(begin, abs=cell.tolerance)


def _stands(bench, cell):
    before = bench.truth(cell)
    time.sleep(0.05)
    return bench.truth(cell) == before


@pytest.mark.parametrize("mover", GENERATIONS)
@pytest.mark.parametrize("cell_name", MOVABLES)
def test_what_one_generation_moves_the_other_measures_anew(bench, cell_name, mover):
    cell = CELLS[cell_name]
    moving = _part(bench.devices[cell_name, mover], cell.movable)
    reading = bench.devices[cell_name, "v4" if mover == "v2" else "v2"]
    begin = bench.truth(cell)
    step = 0.02 * (cell.target - begin)
    measured = bench.run(bp.scan([reading], moving, begin, begin + 2 * step, 3))
    values = [event["data"][column_of(reading, cell)] for event in measured]
    assert values == pytest.approx([begin, begin + step, begin + 2 * step], abs=max(cell.tolerance, 0.3 * abs(step)))
    bench.run(bps.mv(moving, begin))


@every_generation
@pytest.mark.parametrize("cell_name", MOVABLES)
def test_power_lost_in_the_middle_of_a_move(bench, cell_name, generation, wait_for):
    cell, device = CELLS[cell_name], bench.devices[cell_name, generation]
    other = bench.devices["1830-C on a serial line", generation]
    instrument = cell.wire if cell.wire in bench.simulators.truth()["instruments"] else f"{cell.wire}.2"
    begin = bench.truth(cell)
    off = lambda: bench.simulators.power(instrument, False)  # noqa: E731
    try:
        with bench.hurry(cell_name, generation), pytest.raises(FailedStatus) as caught:
            bench.run(_begin_and_lose(bench, cell, device, off))
        assert device.name in str(caught.value.__cause__)
        assert len(bench.run(bp.count([other]))) == 1
    finally:
        bench.simulators.power(instrument, True)
    wait_for(lambda: _works(bench, device), timeout=20)
    enabled = getattr(_part(device, cell.movable), "enabled", None)
    if enabled is not None:
        bench.run(bps.mv(enabled, True))
    bench.run(_return(cell, device, begin))
    assert bench.truth(cell) == pytest.approx(begin, abs=cell.tolerance)
