"""A session from opening to closing: both generations, provenance, failures, interruptions, and what is left behind."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky import RunEngineInterrupted
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import FailedStatus

from catalog import find_journal, read_journal
from catalog.errors import CatalogUnavailable
from coexistence import CommandTimeout, ConfigError, RuntimeState, WireDisconnected, WireInUse
from coexistence.config import DualConfig
from devices.protocols.errors import ProtocolError
from plans import malus
from profiles.instruments import InstrumentsFailed
from profiles.session import Session

METER = {"type": "Newport1830C", "serial_port": "/dev/ttyUSB0"}
ROTATOR = {"type": "Elliptec", "serial_port": "/dev/ttyUSB1", "address": "3"}


def meter(name: str, **settings) -> dict:
    return {"id": name, **METER, **settings}


def rotator(name: str, **settings) -> dict:
    return {"id": name, **ROTATOR, **settings}


def bench(v2=(), v4=(), **sections) -> DualConfig:
    return DualConfig.from_mapping({"v2": {"instruments": list(v2)}, "v4": {"instruments": list(v4)}, **sections})


def documents_of(data_dir: Path, uid: str) -> list[tuple[str, dict]]:
    return list(read_journal(find_journal(data_dir, uid)))


def events_of(documents: list[tuple[str, dict]], stream: str = "primary") -> list[dict]:
    descriptors = [
        document["uid"] for name, document in documents if name == "descriptor" and document["name"] == stream
    ]
    return [document for name, document in documents if name == "event" and document["descriptor"] in descriptors]


@pytest.fixture(autouse=True)
def fast_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the lines and motors of the profiles sim and lab five times faster than real ones."""
    monkeypatch.setenv("TANDEM__SIMULATION__TIME_SCALE", "0.2")


@pytest.mark.server
def test_both_generations_on_one_wire_give_one_event_and_one_run_in_the_catalog(data_dir: Path):
    with Session.open("sim", simulate=True, data_dir=data_dir, strict=True) as session:
        devices = session.devices
        result = session.RE(malus([devices.power_v2, devices.power_v4], devices.polarizer, num=4), sample="quartz")
        run = session.catalog[-1]
        data = run["primary"].read()
        start = run.metadata["start"]
        truth = session.simulated.process.truth()["bench"]
    assert result.exit_status == "success"
    assert result.run_start_uids == (start["uid"],)
    assert {"polarizer", "power_v2_power", "power_v4_power"} <= set(data)
    assert data["power_v2_power"][-1] == pytest.approx(truth["power_w"], rel=0.02)
    assert data["power_v4_power"][-1] == pytest.approx(truth["power_w"], rel=0.02)
    assert start["sample"] == "quartz"
    assert set(start["instruments"]) == {"power_v2", "power_v4", "polarizer"}
    facts = start["instruments"]["polarizer"]
    assert (facts["generation"], facts["type"], facts["simulated"]) == ("v4", "Elliptec", True)
    assert facts["driver"] == "devices.v4.elliptec.Elliptec"
    assert facts["driver_version"]
    assert "11400518" in facts["identity"]
    assert start["configuration"]["name"] == "sim"
    assert len(start["configuration"]["fingerprint"]) == 64


def test_closing_leaves_no_thread_descriptor_or_process(
    data_dir: Path, no_descriptor_left_behind, no_process_left_behind
):
    before = set(threading.enumerate())
    with Session.open("sim", simulate=True, data_dir=data_dir, strict=True) as session:
        session.RE(bps.mv(session.devices.polarizer, 10))
        opened = {thread.name for thread in set(threading.enumerate()) - before}
        assert "bluesky-run-engine" in opened
    left = set(threading.enumerate()) - before
    assert [thread.name for thread in left if thread.name.startswith(("bluesky-run-engine", "asyncio"))] == []


@pytest.mark.parametrize("generation", ["v2", "v4"])
def test_closing_stops_what_moves_before_its_wire_closes(generation: str, data_dir: Path, wait_for, caplog):
    slow = rotator("slow", simulation={"speed_deg_per_s": 20})
    with Session.open(bench(**{generation: [slow]}), simulate=True, data_dir=data_dir, strict=True) as session:
        simulators, device = session.simulated.process, session.devices.slow
        (name,) = simulators.truth()["instruments"]

        def position() -> float:
            return simulators.truth()["instruments"][name]["position_deg"]

        async def start_moving():
            device.set(300)

        # Not by a plan: at its end the RunEngine stops what it moved.
        call_in_bluesky_event_loop(start_moving())
        wait_for(lambda: position() > 1)
        session.manager.shutdown()

        def stands() -> bool:
            before = position()
            time.sleep(0.1)
            return position() == pytest.approx(before, abs=0.01)

        wait_for(stands)
        assert 1 < position() < 200
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == []


def test_closing_a_session_of_instruments_that_stand_says_nothing(data_dir: Path, capsys):
    laser = {"id": "laser", "type": "MaiTai", "serial_port": "/dev/ttyUSB5"}
    with Session.open(bench(v2=[laser, rotator("r")]), simulate=True, data_dir=data_dir, strict=True):
        pass
    told = capsys.readouterr().err
    assert [line for line in told.splitlines() if "tandem config cutover" not in line] == []


def test_an_exception_in_the_block_closes_the_session_and_goes_on(data_dir: Path, no_process_left_behind):
    class OwnError(Exception):
        pass

    with pytest.raises(OwnError), Session.open("sim", simulate=True, data_dir=data_dir) as session:
        raise OwnError
    assert len(session.devices) == 0
    session.close()


def test_closing_while_a_plan_is_paused_aborts_it(data_dir: Path):
    uids = []
    with Session.open("sim", simulate=True, data_dir=data_dir, interrupt="pause") as session:

        def plan():
            uids.append((yield from bps.open_run()))
            yield from bps.checkpoint()
            yield from bps.pause()

        with pytest.raises(RunEngineInterrupted):
            session.RE(plan())
        assert session.RE.state == "paused"
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert documents_of(data_dir, uids[0])[-1][1]["exit_status"] == "abort"


def test_closing_from_another_thread_aborts_the_running_plan(data_dir: Path, wait_for):
    with Session.open("sim", simulate=True, data_dir=data_dir) as session:
        uids = []
        polarizer, power = session.devices.polarizer, session.devices.power_v4
        session.RE.subscribe(lambda _, start: uids.append(start["uid"]), "start")
        closing = threading.Thread(target=lambda: (wait_for(lambda: uids), session.close()))
        closing.start()
        with pytest.raises(RunEngineInterrupted):
            session.RE(bp.scan([power], polarizer, 0, 180, 1000))
        closing.join()
    assert documents_of(data_dir, uids[0])[-1][1]["exit_status"] == "abort"


@pytest.mark.parametrize("generation", ["v2", "v4"])
def test_instruments_that_fail_are_told_by_name_and_do_not_stop_the_others(
    generation: str, data_dir: Path, used_port: str, garbage_port: str, no_process_left_behind
):
    master, slave = os.openpty()
    silent = os.ttyname(slave)
    wrong = [
        meter("missing", serial_port="/dev/no-such-port"),
        meter("used", serial_port=used_port),
        meter("garbage", serial_port=garbage_port),
        meter("silent", serial_port=silent, timeout=0.5),
    ]
    began = time.monotonic()
    with Session.open(bench(**{generation: wrong}), data_dir=data_dir) as session:
        assert time.monotonic() - began < 9  # less than their connect_timeout
        failures = session.failures
        with pytest.raises(AttributeError, match=r"not connected: missing \(v\d Newport1830C on /dev/no-such-port\)"):
            _ = session.devices.missing
        assert session.RE(bps.null()).exit_status == "success"
    os.close(master)
    os.close(slave)
    told = {name: str(failure) for name, failure in failures.items()}
    for entry in wrong:
        prefix = f"{entry['id']} ({generation} Newport1830C on {entry['serial_port']}): "
        assert told[entry["id"]].startswith(prefix)
        assert "\n" not in told[entry["id"]]
    assert "there is no such port. Present ports: " in told["missing"]
    assert "is in use by" in told["used"]
    assert "Close it there" in told["used"]
    assert "hello" in told["garbage"]
    assert "Check which instrument is on this port, its address and its line settings." in told["garbage"]
    assert "nothing came. Check that the instrument is on" in told["silent"]


def is_caused_by(error: BaseException | None, kinds: type | tuple) -> bool:
    return error is not None and (isinstance(error, kinds) or is_caused_by(error.__cause__, kinds))


def test_strict_sessions_raise_with_every_failure_and_its_cause(
    data_dir: Path, silent_port: str, no_descriptor_left_behind
):
    config = bench(v2=[meter("a", serial_port="/dev/no-such-port"), meter("b", serial_port=silent_port, timeout=0.3)])
    with pytest.raises(InstrumentsFailed) as caught:
        Session.open(config, data_dir=data_dir, strict=True)
    failures = {failure.instrument_id: failure for failure in caught.value.failures}
    assert is_caused_by(failures["a"], WireDisconnected)
    assert is_caused_by(failures["b"], (CommandTimeout, ProtocolError))


def test_a_port_that_another_program_has_is_told_as_in_use(data_dir: Path, used_port: str):
    with Session.open(bench(v2=[meter("a", serial_port=used_port)]), data_dir=data_dir) as session:
        assert is_caused_by(session.failures["a"], WireInUse)


def test_a_meter_that_falls_silent_fails_the_run_and_the_run_engine_stays_usable(data_dir: Path, wait_for):
    config = bench(v2=[meter("power_v2", timeout=1.0)], v4=[meter("power_v4", timeout=1.0)])
    with Session.open(config, simulate=True, data_dir=data_dir, strict=True) as session:
        simulators, power = session.simulated.process, session.devices.power_v4
        name = next(iter(simulators.truth()["instruments"]))
        simulators.power(name, False)
        with pytest.raises(Exception, match=r"power_v4.*ttyUSB0"):
            session.RE(bp.count([power]))
        simulators.power(name, True)

        def counts_again() -> bool:
            # For a moment the wire waits for the late reply, so that nobody else gets it.
            try:
                return session.RE(bp.count([session.devices.power_v2])).exit_status == "success"
            except FailedStatus:
                return False

        wait_for(counts_again, timeout=10)


def test_the_user_is_told_of_each_loss_and_return_of_a_wire(data_dir: Path, wait_for, capsys):
    config = bench(v4=[rotator("r", timeout=1.0)])
    with Session.open(config, simulate=True, data_dir=data_dir, strict=True) as session:
        simulators, port = session.simulated.process, session.instruments["r"].config.wire
        (wire,) = simulators.ports
        simulators.unplug(wire)
        with pytest.raises(Exception, match="r"):
            session.RE(bp.count([session.devices.r]))
        told = []

        def is_told(text: str) -> bool:
            told.append(capsys.readouterr().err)
            return text in "".join(told)

        wait_for(lambda: is_told(f"{port} is lost: "))
        simulators.replug(wire)
        wait_for(lambda: is_told(f"{port} is back"), timeout=10)
        assert session.RE(bp.count([session.devices.r])).exit_status == "success"


def test_two_sessions_at_once_share_the_directory_and_no_scan_number(data_dir: Path):
    one = Session.open(bench(v4=[rotator("r")]), simulate=True, data_dir=data_dir)
    two = Session.open(bench(v4=[rotator("r")]), simulate=True, data_dir=data_dir)
    numbers = []
    with one, two:
        for session in (one, two, one, two):
            session.RE(bp.count([session.devices.r]), {"start": lambda _, start: numbers.append(start["scan_id"])})
    assert numbers == list(range(numbers[0], numbers[0] + 4))


def test_the_template_of_a_real_bench_scans_on_simulated_hardware(data_dir: Path):
    with Session.open("lab", simulate=True, data_dir=data_dir, strict=True) as session:
        devices = session.devices
        assert list(devices) == ["power_v2", "stages", "laser", "power_v4", "hwp", "polarizer", "voltmeter", "camera"]
        uids = []
        session.RE.subscribe(lambda _, start: uids.append(start["uid"]), "start")
        detectors = [devices.power_v2, devices.power_v4, devices.voltmeter, devices.camera]
        result = session.RE(bp.scan(detectors, devices.polarizer, 0, 10, 2))
    assert result.exit_status == "success"
    documents = documents_of(data_dir, uids[0])
    (data,) = {tuple(event["data"]) for event in events_of(documents)}
    assert {"polarizer", "power_v2_power", "power_v4_power", "camera_mean"} <= set(data)
    (resource,) = [document for name, document in documents if name == "stream_resource"]
    assert resource["uri"].startswith(f"file://localhost{data_dir}/images/")


def test_a_wire_in_the_configuration_is_one_simulated_wire(data_dir: Path):
    with Session.open("sim", simulate=True, data_dir=data_dir) as session:
        wires = {name: instrument.config.wire for name, instrument in session.instruments.items()}
        truth = session.simulated.process.truth()
    assert wires["power_v2"] == wires["power_v4"] != wires["hwp"] == wires["polarizer"]
    meters = [name for name in truth["instruments"] if name.startswith("ttyUSB0")]
    rotators = [name for name in truth["instruments"] if name.startswith("ttyUSB1")]
    assert (len(meters), len(rotators)) == (1, 2)


def test_what_cannot_be_simulated_is_told_by_name(data_dir: Path):
    typing_error = {"id": "m", "type": "Newport1830", "serial_port": "/dev/a"}
    with pytest.raises(
        ConfigError, match=r"^Instrument 'm' cannot be simulated: There is no instrument type 'Newport1830'"
    ):
        Session.open(bench(v2=[typing_error]), simulate=True, data_dir=data_dir)
    with pytest.raises(
        ConfigError,
        match=r"Elliptec has no option 'speed_deg'; did you mean 'speed_deg_per_s'\? / correct its simulation",
    ):
        Session.open(bench(v4=[rotator("r", simulation={"speed_deg": 1})]), simulate=True, data_dir=data_dir)


def test_unknown_types_and_options_are_problems_of_the_configuration(tmp_path: Path, data_dir: Path):
    config = tmp_path / "config.toml"
    config.write_text(
        '[[v2.instruments]]\nid = "a"\ntype = "Newport1830"\nserial_port = "/dev/a"\n'
        '[[v4.instruments]]\nid = "b"\ntype = "Newport1830C"\nserial_port = "/dev/a"\nwavelenght = 780\n'
        '[[v4.instruments]]\nid = "c"\ntype = "Elliptec"\ncamera_name = "x"\n'
    )
    with pytest.raises(ConfigError) as caught:
        Session.open(config, data_dir=data_dir)
    assert [str(problem).replace(str(tmp_path) + "/", "") for problem in caught.value.problems] == [
        "Unknown type 'Newport1830' of instrument 'a' / did you mean 'Newport1830C'? / config.toml:3",
        "Option 'wavelenght' of Newport1830C 'b' cannot be 780 / "
        "there is no such option, did you mean wavelength or wavelength_limits? / config.toml:9",
        "Instrument 'c' is of type Elliptec, which has no camera_name / "
        "give its serial_port or resource / config.toml:13",
    ]


V4_ONLY = """
import sys
from pathlib import Path
from coexistence.config import DualConfig
from profiles.session import Session
import bluesky.plans as bp
meter = {"id": "power", "type": "Newport1830C", "serial_port": "/dev/ttyUSB0"}
config = DualConfig.from_mapping({"v4": {"instruments": [meter]}})
with Session.open(config, simulate=True, data_dir=sys.argv[1], strict=True) as session:
    print(session.RE(bp.count([session.devices.power])).exit_status)
print([name for name in sys.modules if name.split(".")[0] == "ophyd"])
"""


def test_a_session_with_v4_only_never_imports_ophyd(data_dir: Path):
    done = subprocess.run(
        [sys.executable, "-c", V4_ONLY, data_dir], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == ["success", "[]"]


INTERRUPTED_SCRIPT = """
import json, sys, threading, time
import bluesky.plans as bp
from coexistence.config import DualConfig
from profiles.session import Session
from pathlib import Path
meter = {"id": "power", "type": "Newport1830C", "serial_port": "/dev/ttyUSB0"}
rotator = {"id": "rotator", "type": "Elliptec", "serial_port": "/dev/ttyUSB1", "address": "3",
           "simulation": {"optic": "polarizer", "speed_deg_per_s": 20}}
config = DualConfig.from_mapping({"v2": {"instruments": [meter]}, "v4": {"instruments": [rotator]}})
with Session.open(config, simulate=True, data_dir=sys.argv[1], strict=True) as session:
    def where():
        return session.simulated.process.truth()["bench"]["optics"]["polarizer"]
    session.RE.subscribe(lambda _, start: print(start["uid"], flush=True), "start")
    session.sd.baseline.clear()
    session.RE.subscribe(lambda _, event: print("event", flush=True), "event")
    def tell_of_the_long_way():
        while where() < 5:
            time.sleep(0.01)
        print("moves", flush=True)
    threading.Thread(target=tell_of_the_long_way).start()
    def stands():
        before = where()
        time.sleep(0.2)
        return where() == before
    try:
        session.RE(bp.list_scan([session.devices.power], session.devices.rotator, [2, 350]))
    finally:
        deadline = time.monotonic() + 5.0
        while not stands() and time.monotonic() < deadline:
            pass
        first = where()
        time.sleep(0.2)
        print(json.dumps([first, where(), session.RE.state]), flush=True)
"""


def test_ctrl_c_in_a_script_stops_the_rotator_and_closes_the_run_as_aborted(data_dir: Path):
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED_SCRIPT, data_dir], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as script:
        assert script.stdout is not None
        uid = script.stdout.readline().strip()
        assert script.stdout.readline() == "event\n"
        assert script.stdout.readline() == "moves\n"
        script.send_signal(signal.SIGINT)
        began = time.monotonic()
        output, errors = script.communicate(timeout=30)
    assert time.monotonic() - began < 12  # the whole way takes longer
    first, then, state = json.loads(output.splitlines()[-1])
    assert state == "idle"
    assert 2 < first < 300
    assert then == pytest.approx(first, abs=0.01)
    assert script.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "never retrieved" not in errors
    documents = documents_of(data_dir, uid)
    stop = documents[-1][1]
    assert len(events_of(documents)) == 1
    assert stop["exit_status"] == "abort"


def test_devices_are_found_by_name_attribute_and_completion(data_dir: Path):
    with Session.open(bench(v4=[rotator("r")]), simulate=True, data_dir=data_dir) as session:
        devices = session.devices
        assert devices["r"] is devices.r
        assert list(devices) == ["r"]
        assert "r" in dir(devices)
        assert devices._ipython_key_completions_() == ["r"]
        with pytest.raises(KeyError, match="no device is called 'x'; there are: r"):
            _ = devices["x"]
    with pytest.raises(CatalogUnavailable, match=r"The session is closed\. Its runs are still there: .*open_catalog\("):
        _ = session.catalog


def test_stock_classes_stand_beside_the_projects_own(data_dir: Path):
    foreign_v2 = {"id": "axis", "type": "ophyd.sim:SynAxis"}
    foreign_v4 = {"id": "stage", "type": "ophyd_async.sim:SimMotor", "kwargs": {"instant": True}}
    with Session.open(bench([foreign_v2], [foreign_v4]), simulate=True, data_dir=data_dir, strict=True) as session:
        session.RE(bps.mv(session.devices.axis, 1, session.devices.stage, 2))
        assert session.devices.axis.position == 1
    assert session.instruments["stage"].generation == "v4"


def test_the_log_of_a_session_is_in_the_data_directory(data_dir: Path):
    with Session.open(bench(v2=[meter("a", serial_port="/dev/no-such-port")]), data_dir=data_dir) as session:

        def failing():
            yield from bps.null()
            raise ValueError("a mistake in a plan")

        with pytest.raises(ValueError, match="a mistake"):
            session.RE(failing())
    (log,) = (data_dir / "logs").glob(f"*-{os.getpid()}.log")
    assert re.search(r"ERROR bluesky: Run aborted\n(.*\n)*ValueError: a mistake in a plan", log.read_text())


def test_sessions_opened_again_and_again_leave_nothing_behind(
    data_dir: Path, no_descriptor_left_behind, no_process_left_behind
):
    config = bench([meter("old")], [rotator("new")], simulation={"time_scale": 0.05}, application={"baseline": False})
    config_ports = []
    for _ in range(3):
        with Session.open(config, simulate=True, data_dir=data_dir, strict=True) as session:
            config_ports += session.simulated.process.ports.values()
            session.RE(bp.count([session.devices.old]))
        assert session.manager.state is RuntimeState.STOPPED
        assert session.manager.left_behind == ()
    assert not [port for port in config_ports if os.path.exists(port)]
