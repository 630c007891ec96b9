"""What a session adds to plans: baseline, suspenders, and the rule that no event is recorded twice."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky import RunEngine, RunEngineInterrupted
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import FailedStatus
from ophyd import DeviceStatus, Signal
from ophyd.sim import SynAxis
from ophyd_async.core import soft_signal_rw

from catalog import find_journal, read_journal
from coexistence.config import DualConfig
from profiles.run_engine import tell_why_devices_fail
from profiles.session import Session
from profiles.suspenders import SuspendBelow, suspender

BENCH = {
    "simulation": {"time_scale": 0.05},
    "v2": {
        "instruments": [
            {"id": "power_v2", "type": "Newport1830C", "serial_port": "/dev/ttyUSB0", "timeout": 1.0},
            {"id": "axis", "type": "ophyd.sim:SynAxis"},
        ]
    },
    "v4": {
        "instruments": [
            {"id": "power_v4", "type": "Newport1830C", "serial_port": "/dev/ttyUSB1", "timeout": 1.0},
            {"id": "turn", "type": "Elliptec", "serial_port": "/dev/ttyUSB2", "address": "3", "timeout": 1.0},
            {"id": "camera", "type": "PVCAMInstrument", "camera_name": "cam0"},
        ]
    },
}


@pytest.fixture(scope="module")
def session(data_dir: Path) -> Iterator[Session]:
    config = DualConfig.from_mapping(BENCH)
    with Session.open(config, simulate=True, data_dir=data_dir, strict=True, interrupt="pause") as session:
        yield session


@pytest.fixture(autouse=True)
def as_it_was(session: Session, wait_for) -> Iterator[None]:
    # After a silence a wire waits for the late reply before it lets anybody else ask.
    wait_for(lambda: session.manager.check_health().healthy, timeout=20)
    baseline = list(session.sd.baseline)
    yield
    session.RE.clear_suspenders()
    session.sd.baseline[:] = baseline


@pytest.fixture
def no_baseline(session: Session) -> None:
    session.sd.baseline.clear()


def events_of(session: Session, uid: str, stream: str = "primary") -> list[dict]:
    documents = list(read_journal(find_journal(session.data_dir, uid)))
    descriptors = [doc["uid"] for name, doc in documents if name == "descriptor" and doc["name"] == stream]
    return [doc for name, doc in documents if name == "event" and doc["descriptor"] in descriptors]


# Baseline


def test_every_run_has_all_devices_but_cameras_in_its_baseline(session: Session):
    result = session.RE(bp.count([session.devices.power_v2], 2))
    before, after = events_of(session, result.run_start_uids[0], "baseline")
    assert {"power_v2_power", "power_v4_power", "turn", "axis"} <= set(before["data"])
    assert not [column for column in before["data"] if column.startswith("camera")]
    assert after["timestamps"]["power_v4_power"] > before["timestamps"]["power_v4_power"]
    assert len(events_of(session, result.run_start_uids[0])) == 2


def test_a_device_that_cannot_be_read_is_left_out_of_the_baseline_and_the_run_goes_on(session: Session, capsys, caplog):
    simulators = session.simulated.process
    port = session.instruments["power_v4"].config.wire
    name = next(name for name, path in simulators.ports.items() if path == port)
    simulators.power(name, False)
    try:
        result = session.RE(bp.count([session.devices.axis]))
    finally:
        simulators.power(name, True)
    (before, _) = events_of(session, result.run_start_uids[0], "baseline")
    assert result.exit_status == "success"
    assert "power_v4_power" not in before["data"]
    assert {"power_v2_power", "turn"} <= set(before["data"])
    assert "power_v4 is not in the baseline of this run: " in caplog.text


def test_a_run_that_fails_is_closed_without_measuring_once_more(session: Session):
    uids = []

    def plan():
        uids.append((yield from bps.open_run()))
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        session.RE(plan())
    assert len(events_of(session, uids[0], "baseline")) == 1


@pytest.mark.parametrize(("chosen", "names"), [(False, set()), (["turn"], {"turn"}), (["camera"], {"camera"})])
def test_the_configuration_chooses_the_baseline(chosen, names):
    from profiles.session import _baseline_names

    config = DualConfig.from_mapping({**BENCH, "application": {"baseline": chosen}})
    assert _baseline_names(config) == names


# Each event once


@pytest.mark.usefixtures("no_baseline")
def test_a_plan_that_is_paused_after_an_event_does_not_record_it_again(session: Session):
    uids = []

    def plan():
        uids.append((yield from bps.open_run()))
        yield from bps.checkpoint()
        for number in range(4):
            yield from bps.trigger_and_read([session.devices.axis])
            if number == 1:
                yield from bps.pause()
        yield from bps.close_run()

    with pytest.raises(RunEngineInterrupted):
        session.RE(plan())
    session.RE.resume()
    assert [event["seq_num"] for event in events_of(session, uids[0])] == [1, 2, 3, 4]


# Suspenders


@pytest.fixture(params=["ophyd", "ophyd-async"])
def level(request: pytest.FixtureRequest, session: Session):
    """Return a signal of either generation and what sets it, from any thread."""
    if request.param == "ophyd":
        signal = Signal(name="level", value=5.0)
        return signal, signal.put
    signal = soft_signal_rw(float, 5.0, name="level")

    async def connect() -> None:
        await signal.connect()

    async def put(value: float) -> None:
        await signal.set(value)

    call_in_bluesky_event_loop(connect())
    return signal, lambda value: call_in_bluesky_event_loop(put(value))


@pytest.mark.usefixtures("no_baseline")
@pytest.mark.parametrize("bad", [0.0, float("nan")])
def test_a_bad_value_suspends_and_a_good_one_goes_on(session: Session, level, bad: float, wait_for):
    signal, put = level
    waits, goes_on, events = threading.Event(), threading.Event(), []
    suspends = session.suspend_when(signal, below=1.0, period_s=0.1, pre_plan=lambda: waits.set() or [])
    assert not suspends.tripped
    stood_at = []

    def spoil() -> None:
        put(bad)
        if waits.wait(20.0) and suspends.tripped:
            stood_at.append(len(events))
            time.sleep(0.3)
            stood_at.append(len(events))
        goes_on.set()
        put(2.0)

    def plan():
        yield from bps.open_run()
        while not goes_on.is_set():
            yield from bps.checkpoint()
            yield from bps.trigger_and_read([session.devices.power_v4])
        for _ in range(3):
            yield from bps.checkpoint()
            yield from bps.trigger_and_read([session.devices.power_v4])
        yield from bps.close_run()

    spoiling = threading.Thread(target=spoil)

    def note(_: str, event: dict) -> None:
        events.append(event["seq_num"])
        if event["seq_num"] == 2:
            spoiling.start()

    result = session.RE(plan(), {"event": note})
    spoiling.join()
    assert result.exit_status == "success"
    assert stood_at, "the plan was not suspended"
    before, after = stood_at
    assert before == after, "measured while suspended"
    recorded = [event["seq_num"] for event in events_of(session, result.run_start_uids[0])]
    assert recorded == list(range(1, len(events) + 1))
    assert len(recorded) >= after + 3


@pytest.mark.usefixtures("no_baseline")
def test_a_plan_that_begins_while_a_suspender_is_tripped_waits(session: Session, level, wait_for):
    signal, put = level
    put(0.0)
    session.suspend_when(signal, below=1.0, period_s=0.05)
    released_at = []

    def release() -> None:
        wait_for(lambda: session.RE.state == "running", timeout=20)
        time.sleep(0.2)
        released_at.append(time.monotonic())
        put(2.0)

    releasing = threading.Thread(target=release)
    releasing.start()
    assert session.RE(bps.null()).exit_status == "success"
    assert released_at, "it did not wait"
    releasing.join()


@pytest.fixture
def suspended() -> threading.Event:
    """Return what is set once a plan is suspended."""
    return threading.Event()


@pytest.fixture
def watched_level(suspended: threading.Event) -> tuple[Signal, SuspendBelow]:
    """Return a signal, and a suspender on it that was never tripped."""
    signal = Signal(name="level", value=5.0)
    return signal, SuspendBelow(signal, 1.0, period_s=0.05, pre_plan=lambda: suspended.set() or [])


def points_until(suspended: threading.Event):
    """Go on until the plan is suspended, or for 20 s."""
    deadline = time.monotonic() + 20.0
    while not suspended.is_set() and time.monotonic() < deadline:
        yield from bps.checkpoint()
        yield from bps.sleep(0.01)


def good_again_after(suspended: threading.Event, signal: Signal) -> threading.Thread:
    thread = threading.Thread(target=lambda: suspended.wait(20.0) and signal.put(5.0))
    thread.start()
    return thread


def test_a_plan_is_suspended_by_a_trip_in_the_moment_in_which_it_begins(watched_level, suspended, wait_for):
    signal, suspends = watched_level

    @contextlib.contextmanager
    def tripping(_: RunEngine) -> Iterator[None]:
        # The RunEngine has asked the suspender what to wait for, and does not run the plan yet.
        signal.put(0.0)
        wait_for(lambda: suspends.tripped)
        yield

    run_engine = RunEngine({}, context_managers=[tripping])
    run_engine.install_suspender(suspends)
    ending = good_again_after(suspended, signal)
    run_engine(points_until(suspended))
    ending.join()
    run_engine.clear_suspenders()
    assert suspended.is_set()


def test_a_plan_that_was_paused_is_suspended_by_a_trip_of_meanwhile(watched_level, suspended, wait_for):
    signal, suspends = watched_level
    run_engine = RunEngine({}, context_managers=[])
    run_engine.install_suspender(suspends)

    def plan():
        yield from bps.checkpoint()
        yield from bps.pause()
        yield from points_until(suspended)

    with pytest.raises(RunEngineInterrupted):
        run_engine(plan())
    signal.put(0.0)
    wait_for(lambda: suspends.tripped)
    ending = good_again_after(suspended, signal)
    run_engine.resume()
    ending.join()
    run_engine.clear_suspenders()
    assert suspended.is_set()


@pytest.mark.usefixtures("no_baseline")
def test_a_signal_that_must_have_a_value(session: Session, wait_for):
    shutter = Signal(name="shutter", value=True)
    suspends = session.suspend_when(shutter, unless=True, period_s=0.05)
    shutter.put(False)
    wait_for(lambda: suspends.tripped)
    assert suspends.reason == "it is False, not True"
    shutter.put(True)
    wait_for(lambda: not suspends.tripped)
    session.RE.remove_suspender(suspends)
    shutter.put(False)
    assert session.RE(bps.null()).exit_status == "success"


@pytest.mark.usefixtures("no_baseline")
def test_a_suspender_resumes_at_its_own_threshold_and_after_its_time(session: Session, wait_for):
    signal = Signal(name="level", value=5.0)
    suspends = session.suspend_when(signal, below=1.0, resume_at=3.0, sleep=0.3, period_s=0.02)
    signal.put(0.5)
    wait_for(lambda: suspends.tripped)
    signal.put(2.0)
    wait_for(lambda: suspends.reason == "2 is below 3")
    began = time.monotonic()
    signal.put(4.0)
    wait_for(lambda: not suspends.tripped)
    assert time.monotonic() - began > 0.25


@pytest.mark.usefixtures("no_baseline")
@pytest.mark.parametrize("generation", ["v2", "v4"])
def test_a_poll_that_fails_suspends_instead_of_leaving_the_old_value(session: Session, generation: str, wait_for):
    simulators = session.simulated.process
    device = session.devices[f"power_{generation}"]
    port = session.instruments[device.name].config.wire
    name = next(name for name, path in simulators.ports.items() if path == port)
    suspends = session.suspend_when(device.power, below=-1.0, period_s=0.05)
    assert not suspends.tripped
    simulators.power(name, False)
    try:
        wait_for(lambda: suspends.tripped, timeout=10)
        assert "it cannot be read: " in suspends.reason
    finally:
        simulators.power(name, True)
    wait_for(lambda: not suspends.tripped, timeout=10)


def test_suspenders_ask_for_one_condition():
    signal = Signal(name="level", value=5.0)
    with pytest.raises(ValueError, match="give one of below, above, unless; given: none"):
        suspender(signal)
    with pytest.raises(ValueError, match="given: below, above"):
        suspender(signal, below=1, above=2)
    with pytest.raises(ValueError, match=r"resume_at \(0\) must not be below the limit \(1\)"):
        SuspendBelow(signal, 1, resume_at=0)


class Stuck(SynAxis):
    """An axis whose motions fail."""

    def set(self, value):
        status = DeviceStatus(self)
        status.set_exception(OSError(f"no motion to {value:g}: the brake is on"))
        return status


def test_the_reason_of_a_failed_run_is_what_the_device_said():
    run_engine, stops = RunEngine({}, context_managers=[]), []
    tell_why_devices_fail(run_engine)
    run_engine.subscribe(lambda _, document: stops.append(document), "stop")
    axis = Stuck(name="slide")
    with pytest.raises(FailedStatus) as caught:
        run_engine(bp.scan([], axis, 1, 2, 2))
    assert isinstance(caught.value.__cause__, OSError)
    assert stops[0]["exit_status"] == "fail"
    assert stops[0]["reason"] == "slide: no motion to 1: the brake is on"
