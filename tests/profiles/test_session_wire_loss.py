"""A wire that is lost during a scan and comes back: with the suspender on, every point is in the run exactly once."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky import RunEngineInterrupted

from catalog import find_journal, read_journal
from coexistence import CommandTimeout, WireDisconnected
from coexistence.config import DualConfig
from profiles.session import Session
from profiles.wire_loss import WireWatch

BENCH = {
    "application": {"baseline": False},
    "simulation": {"time_scale": 0.05},
    "v2": {
        "instruments": [
            {"id": "power_v2", "type": "Newport1830C", "serial_port": "/dev/ttyUSB0", "timeout": 1.5},
            {"id": "turn_v2", "type": "Elliptec", "serial_port": "/dev/ttyUSB1", "address": "2", "timeout": 1.5},
        ]
    },
    "v4": {
        "instruments": [
            {"id": "power_v4", "type": "Newport1830C", "serial_port": "/dev/ttyUSB0", "timeout": 1.5},
            {"id": "turn_v4", "type": "Elliptec", "serial_port": "/dev/ttyUSB1", "address": "3", "timeout": 1.5},
        ]
    },
}
POSITIONS = [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]


@pytest.fixture(scope="module")
def session(data_dir: Path) -> Iterator[Session]:
    config = DualConfig.from_mapping(BENCH)
    with Session.open(config, simulate=True, data_dir=data_dir, strict=True, suspend_on_wire_loss=True) as session:
        yield session


@pytest.fixture(autouse=True)
def every_wire_is_there(session: Session, wait_for) -> Iterator[None]:
    yield
    for name in session.simulated.process.ports:
        session.simulated.process.replug(name)
    # A wire may wait for late replies before it lets anybody else ask.
    wait_for(lambda: session.manager.check_health().healthy, timeout=20)


@pytest.fixture
def plan_waits(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return what is set as soon as a plan waits for a wire."""
    waits, wait_until_back = threading.Event(), WireWatch.wait_until_back

    async def noted(watch: WireWatch, connections: set[str]) -> None:
        waits.set()
        await wait_until_back(watch, connections)

    monkeypatch.setattr(WireWatch, "wait_until_back", noted)
    return waits


class Unplugger:
    """Unplugs a wire when the run has an event of a number, and plugs it in again when `until` is set."""

    def __init__(self, session: Session, device: str, at_event: int, until: threading.Event, *, delay_s: float = 0.0):
        ports = session.simulated.process.ports
        wire = session.instruments[device].config.wire
        self.name = next(name for name, path in ports.items() if path == wire)
        self._session, self._at, self._until, self._delay = session, at_event, until, delay_s
        self._unplugged = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self, name: str, document: dict) -> None:
        if name == "event" and document["seq_num"] == self._at and self._thread is None:
            if not self._delay:
                self._unplug()  # nothing is asked of the wire in between
            self._thread = threading.Thread(target=self._go_on)
            self._thread.start()

    def _unplug(self) -> None:
        self._session.simulated.process.unplug(self.name)
        self._unplugged.set()

    def _go_on(self) -> None:
        if self._delay:
            time.sleep(self._delay)
            self._unplug()
        self._until.wait(30.0)
        self._session.simulated.process.replug(self.name)

    def step(self, detectors, motor, step):
        """Take a point of a scan, the last one not before the wire is unplugged; for its `per_step`."""
        while step == POSITIONS[-1] and not self._unplugged.is_set():
            yield from bps.sleep(0.01)
        yield from bps.one_1d_step(detectors, motor, step)

    def join(self) -> None:
        assert self._thread is not None, "nothing was unplugged"
        assert self._until.is_set(), "nobody waited for the wire"
        self._thread.join()


def events_of(session: Session, uid: str, stream: str = "primary") -> list[dict]:
    documents = list(read_journal(find_journal(session.data_dir, uid)))
    descriptors = [doc["uid"] for name, doc in documents if name == "descriptor" and doc["name"] == stream]
    return [doc for name, doc in documents if name == "event" and doc["descriptor"] in descriptors]


def run_while(session: Session, plan, unplugger: Callable) -> list[dict]:
    result = session.RE(plan, unplugger)
    unplugger.join()
    assert result.exit_status == "success"
    return events_of(session, result.run_start_uids[0])


@pytest.mark.parametrize(("lost", "mover"), [("power_v2", "turn_v4"), ("turn_v2", "turn_v2"), ("turn_v4", "turn_v4")])
def test_every_point_is_in_the_run_exactly_once(session: Session, lost: str, mover: str, plan_waits, capsys):
    devices = session.devices
    unplugger = Unplugger(session, lost, 3, plan_waits)
    plan = bp.list_scan([devices.power_v2, devices.power_v4], devices[mover], POSITIONS)
    events = run_while(session, plan, unplugger)
    assert [event["seq_num"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert [event["data"][mover] for event in events] == pytest.approx(POSITIONS, abs=0.1)
    assert len({event["timestamps"]["power_v2_power"] for event in events}) == 6
    assert len({event["timestamps"]["power_v4_power"] for event in events}) == 6
    told = capsys.readouterr().err
    wire = session.instruments[lost].config.wire
    assert f"The plan waits for {wire} and then goes on from its last checkpoint" in told
    assert f"{wire} is back; the plan goes on." in told


@pytest.mark.parametrize("delay_s", [0.005, 0.02, 0.05])
def test_a_wire_may_be_lost_at_any_moment_of_a_point(session: Session, delay_s: float, plan_waits):
    devices = session.devices
    unplugger = Unplugger(session, "turn_v4", 2, plan_waits, delay_s=delay_s)
    plan = bp.list_scan([devices.power_v4], devices.turn_v4, POSITIONS, per_step=unplugger.step)
    events = run_while(session, plan, unplugger)
    assert [event["seq_num"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert [event["data"]["turn_v4"] for event in events] == pytest.approx(POSITIONS, abs=0.1)


def test_events_between_two_checkpoints_are_not_repeated(session: Session, plan_waits):
    meters = [session.devices.power_v2, session.devices.power_v4]

    def plan():
        yield from bps.open_run()
        yield from bps.checkpoint()
        for _ in range(6):
            yield from bps.trigger_and_read(meters)
        yield from bps.close_run()

    events = run_while(session, plan(), Unplugger(session, "power_v2", 3, plan_waits))
    assert [event["seq_num"] for event in events] == [1, 2, 3, 4, 5, 6]


def test_a_plan_that_cleared_its_checkpoint_gets_the_error(session: Session):
    def plan():
        yield from bps.open_run()
        yield from bps.clear_checkpoint()
        for _ in range(200):
            yield from bps.trigger_and_read([session.devices.power_v4])
        yield from bps.close_run()

    failed = threading.Event()
    unplugger = Unplugger(session, "power_v4", 2, failed)
    with pytest.raises(Exception, match="ttyUSB0"):
        session.RE(plan(), unplugger)
    failed.set()
    unplugger.join()


def test_an_error_that_has_nothing_to_do_with_wires_reaches_the_plan(session: Session):
    caught = []

    def plan():
        try:
            yield from bps.mv(session.devices.turn_v2, 1e6)
        except Exception as error:
            caught.append(error)

    assert session.RE(plan()).exit_status == "success"
    assert "position cannot be 1000000" in str(caught[0])


@pytest.mark.parametrize(("later_s", "is_behind"), [(1.5, True), (60.0, False)])
def test_who_waited_in_vain_may_hear_of_it_late(
    later_s: float, is_behind: bool, session: Session, wait_for, monkeypatch
):
    resources, simulators = session.resources, session.simulated.process
    watch = WireWatch(resources)
    watch.refresh()
    (name, path) = next(iter(simulators.ports.items()))
    port = resources.serial.get(path)
    simulators.unplug(name)
    with pytest.raises(WireDisconnected):
        port.query(b"x", owner="somebody")
    simulators.replug(name)
    wait_for(lambda: port.connected, timeout=20)
    error = CommandTimeout(port.path, "somebody", b"x", 1.5, sent=False)
    now = time.monotonic()
    monkeypatch.setattr("profiles.wire_loss.time", SimpleNamespace(monotonic=lambda: now + later_s))
    assert bool(watch.behind(error)) == is_behind
    watch.close()


def test_a_waiting_plan_can_be_aborted(session: Session, wait_for, capsys):
    aborted = threading.Event()
    unplugger = Unplugger(session, "turn_v4", 2, aborted)

    def abort() -> None:
        wait_for(lambda: "The plan waits for" in capsys.readouterr().err, timeout=20)
        session.RE.abort("enough")

    aborting = threading.Thread(target=abort)
    aborting.start()
    with pytest.raises(RunEngineInterrupted):
        session.RE(bp.list_scan([session.devices.power_v4], session.devices.turn_v4, POSITIONS), unplugger)
    aborting.join()
    assert session.RE.state == "idle"
    aborted.set()
    unplugger.join()


def test_without_the_suspender_the_plan_fails(data_dir: Path):
    config = DualConfig.from_mapping({**BENCH, "v2": {"instruments": []}})
    with Session.open(config, simulate=True, data_dir=data_dir, strict=True) as session:
        failed = threading.Event()
        unplugger = Unplugger(session, "power_v4", 2, failed)
        with pytest.raises(Exception, match="ttyUSB0"):
            session.RE(bp.list_scan([session.devices.power_v4], session.devices.turn_v4, POSITIONS), unplugger)
        failed.set()
        unplugger.join()
