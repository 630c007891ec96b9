"""A session ends in order whatever it is in the middle of: hung devices of both generations, plans, load, signals."""

import asyncio
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
from ophyd import Device
from ophyd_async.core import Device as AsyncDevice

from catalog import find_journal, read_journal
from catalog.errors import CatalogStartFailed, DataDirectoryError, DiskFull, JournalWriteError
from coexistence import RuntimeState
from coexistence.config import DualConfig
from profiles.notices import tell_of_trouble
from profiles.session import Session

OVER = threading.Event()
METER = {"id": "power", "type": "Newport1830C", "serial_port": "/dev/ttyUSB0", "timeout": 5.0}
TURN = {"id": "turn", "type": "Elliptec", "serial_port": "/dev/ttyUSB1", "address": "3", "timeout": 5.0}


@pytest.fixture(autouse=True)
def hanging_ends_with_the_test():
    OVER.clear()
    yield
    OVER.set()


class HangsConnecting(Device):
    def __init__(self, *, name: str) -> None:
        super().__init__("", name=name)

    def wait_for_connection(self, timeout: float = 0.0, **_) -> None:
        OVER.wait()


class HangsClosing(HangsConnecting):
    def wait_for_connection(self, timeout: float = 0.0, **_) -> None:
        pass

    def destroy(self) -> None:
        OVER.wait()


class HangsConnectingV4(AsyncDevice):
    async def connect(self, *_, **__) -> None:
        await asyncio.to_thread(OVER.wait)


class HangsClosingV4(AsyncDevice):
    async def connect(self, *_, **__) -> None:
        pass

    def destroy(self) -> None:
        OVER.wait(3)  # on the event loop itself, which nothing else can use meanwhile


def foreign(kind: type, **settings) -> dict:
    return {"id": "hangs", "type": f"{__name__}:{kind.__name__}", **settings}


def bench(v2=(), v4=(), **limits) -> DualConfig:
    return DualConfig.from_mapping(
        {
            "simulation": {"time_scale": 0.05},
            "v2": {"instruments": list(v2), "shutdown_timeout": 0.5, **limits},
            "v4": {"instruments": list(v4), "shutdown_timeout": 0.5, **limits},
        }
    )


@pytest.fixture(autouse=True)
def this_module_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])


@pytest.mark.parametrize(
    "hangs",
    [
        {"v2": [foreign(HangsConnecting, connect_timeout=0.3), METER], "v4": [TURN]},
        {"v2": [METER], "v4": [foreign(HangsConnectingV4, connect_timeout=0.3), TURN]},
        {"v2": [foreign(HangsClosing), METER], "v4": [TURN]},
        {"v2": [METER], "v4": [foreign(HangsClosingV4), TURN]},
    ],
    ids=["connecting v2", "connecting v4", "closing v2", "closing v4"],
)
def test_a_hung_device_keeps_nothing_from_ending(hangs: dict, data_dir: Path, no_process_left_behind):
    with Session.open(bench(**hangs), simulate=True, data_dir=data_dir) as session:
        assert {"power", "turn"} <= set(session.devices)
        result = session.RE(bp.count([session.devices.power, session.devices.turn]))
        assert result.exit_status == "success"
        began = time.monotonic()
    assert time.monotonic() - began < 15
    assert session.manager.state is RuntimeState.STOPPED
    assert session.resources.held() == []
    OVER.set()


def test_a_session_stops_in_mid_plan_from_a_callback_of_the_plan(data_dir: Path, wait_for):
    session = Session.open(bench([METER], [TURN]), simulate=True, data_dir=data_dir, strict=True)
    uids = []

    def stop(name: str, document: dict) -> None:
        uids.append(document["uid"])
        session.stop()

    with pytest.raises(RunEngineInterrupted):
        session.RE(bp.scan([session.devices.power], session.devices.turn, 0, 100, 1000), {"start": stop})
    wait_for(lambda: session.manager.state is RuntimeState.STOPPED, timeout=20)
    session.stop()
    assert list(read_journal(find_journal(data_dir, uids[0])))[-1][1]["exit_status"] == "abort"
    assert len(session.devices) == 0


def test_a_plan_whose_clean_up_hangs_is_given_up(data_dir: Path, wait_for):
    session = Session.open(bench(v4=[TURN]), simulate=True, data_dir=data_dir, strict=True)
    uids = []

    def plan():
        uids.append((yield from bps.open_run()))
        try:
            yield from bps.sleep(60)
        finally:
            yield from bps.sleep(60)

    closing = threading.Thread(target=lambda: (wait_for(lambda: uids, timeout=20), session.stop(timeout=3.0)))
    closing.start()
    began = time.monotonic()
    with pytest.raises(RunEngineInterrupted):
        session.RE(plan())
    closing.join()
    assert time.monotonic() - began < 20
    assert session.manager.state is RuntimeState.STOPPED
    assert list(read_journal(find_journal(data_dir, uids[0])))[-1][1]["exit_status"] == "abort"


def test_a_session_under_load_stops_in_order(data_dir: Path, no_process_left_behind):
    config = bench([METER], [TURN], shutdown_timeout=10.0)
    with Session.open(config, simulate=True, data_dir=data_dir, strict=True) as session:
        over = threading.Event()
        wire = session.devices.power.driver.connection

        def load() -> None:
            while not over.is_set():
                try:
                    wire.query(b"D?\n")
                except Exception:
                    return

        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        session.RE(bp.count([session.devices.turn]))
        session.stop()
        over.set()
        for thread in threads:
            thread.join()
    assert session.manager.state is RuntimeState.STOPPED
    assert session.manager.left_behind == ()


def test_slow_devices_do_not_hold_the_prompt_and_report_when_they_are_there(data_dir: Path, wait_for, capsys):
    slow = foreign(HangsConnecting, connect_timeout=30)
    heard = []
    with Session.open(bench([slow], [TURN]), simulate=True, data_dir=data_dir, connect_wait=1.0) as session:
        session.add_device_listener(lambda name, device: heard.append((name, device)))
        assert session.manager.state is RuntimeState.STARTING
        with pytest.raises(AttributeError, match=r"hangs is still connecting; session.wait_connected\(\) waits for it"):
            _ = session.devices.hangs
        OVER.set()
        assert session.wait_connected(10)
        wait_for(lambda: "hangs is connected (" in capsys.readouterr().err)
        # The other one may have taken longer than was waited for, too.
        wait_for(lambda: [each for each in heard if each[0] != "turn"] == [("hangs", session.devices.hangs)])


def test_a_restarted_device_is_the_one_at_the_prompt(data_dir: Path):
    with Session.open(bench([METER], [TURN]), simulate=True, data_dir=data_dir, strict=True) as session:
        before = session.devices.power
        (status,) = session.manager.restart("power")
        assert status.error is None
        assert session.devices.power is before, "one that is well keeps its identity"
        assert session.RE(bp.count([before, session.devices.turn])).exit_status == "success"
        health = session.manager.check_health()
        assert health.healthy
        assert "1830-C" in health.instruments["power"].detail
        assert health.instruments["power"].restarts == 1


TERMINATED = """
import sys
import bluesky.plans as bp
from coexistence.config import DualConfig
from profiles.session import Session
config = DualConfig.from_mapping({"v4": {"instruments": [
    {"id": "turn", "type": "Elliptec", "serial_port": "/dev/ttyUSB1", "address": "3"}]}})
with Session.open(config, simulate=True, data_dir=sys.argv[1], strict=True) as session:
    session.exit_on_sigterm()
    session.RE.subscribe(lambda _, start: print(start["uid"], flush=True), "start")
    session.RE(bp.scan([], session.devices.turn, 0, 300, 1000))
"""


def test_sigterm_closes_the_session_and_stores_its_run_as_aborted(data_dir: Path):
    with subprocess.Popen([sys.executable, "-c", TERMINATED, data_dir], stdout=subprocess.PIPE, text=True) as script:
        assert script.stdout is not None
        uid = script.stdout.readline().strip()
        script.send_signal(signal.SIGTERM)
        script.communicate(timeout=30)
    assert script.returncode == 143
    assert list(read_journal(find_journal(data_dir, uid)))[-1][1]["exit_status"] == "abort"


STARTUP = """
from profiles.session import Session
session = Session.open({config!r}, simulate=True, data_dir={data!r})
RE, sd = session.RE, session.sd
globals().update(session.devices)
"""


def test_a_queue_servers_startup_code_has_run_engine_and_devices_in_its_namespace(tmp_path: Path, data_dir: Path):
    config = tmp_path / "bench.toml"
    config.write_text('[[v4.instruments]]\nid = "turn"\ntype = "Elliptec"\nserial_port = "/dev/a"\naddress = "3"\n')
    namespace: dict = {}
    exec(STARTUP.format(config=str(config), data=str(data_dir)), namespace)
    try:
        assert namespace["RE"](bp.count([namespace["turn"]])).exit_status == "success"
    finally:
        namespace["session"].close()


async def test_a_session_works_beside_a_running_loop_as_in_a_notebook(data_dir: Path):
    with Session.open(bench([METER], [TURN]), simulate=True, data_dir=data_dir, strict=True) as session:
        assert session.RE(bp.count([session.devices.power, session.devices.turn])).exit_status == "success"
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DiskFull("j", OSError(28, "No space left")), "The scan pauses; make room and resume it with RE.resume()."),
        (JournalWriteError("j", OSError(5, "I/O error")), "The scan pauses; resume it with RE.resume() once"),
        (CatalogStartFailed("d", "The server did not start."), "Measuring goes on: every run is in its journal"),
    ],
)
def test_the_user_is_told_that_the_scan_pauses_only_when_it_does(error, line: str, capsys):
    tell_of_trouble(error)
    told = capsys.readouterr().err
    assert line in told
    assert ("The scan pauses" in told) == isinstance(error, JournalWriteError)


def test_the_server_of_the_configuration_is_handed_to_the_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given = []

    def refuse(*_, server=None, **__) -> None:
        given.append(server)
        raise DataDirectoryError(tmp_path, "no server is started for this test")

    monkeypatch.setattr("profiles.session.CatalogSession", refuse)
    config = tmp_path / "bench.toml"
    config.write_text('[catalog]\nuri = "https://tiled.lab.example"\nkey_file = "key"\n')
    with pytest.raises(DataDirectoryError):
        Session.open(config, data_dir=tmp_path / "data")
    assert (given[0].uri, given[0].key_file) == ("https://tiled.lab.example", str(tmp_path / "key"))
