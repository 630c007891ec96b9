"""Sessions and runtimes started and stopped hundreds of times; `make soak` runs them."""

import gc
import os
import random
import threading
import time
from pathlib import Path

import bluesky.plans as bp
import psutil
import pytest
from bluesky import RunEngineInterrupted

from catalog import find_journal, read_journal, shut_down
from coexistence import RuntimeState
from coexistence.config import DualConfig
from profiles.session import Session

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

BENCH = DualConfig.from_mapping(
    {
        "simulation": {"time_scale": 0.05},
        "v2": {
            "instruments": [{"id": "power_v2", "type": "Newport1830C", "serial_port": "/dev/ttyUSB0", "timeout": 5.0}]
        },
        "v4": {
            "instruments": [
                {"id": "power_v4", "type": "Newport1830C", "serial_port": "/dev/ttyUSB0", "timeout": 5.0},
                {"id": "turn", "type": "Elliptec", "serial_port": "/dev/ttyUSB1", "address": "3", "timeout": 5.0},
            ]
        },
    }
)


def used() -> dict[str, int]:
    """Return what the process has, its children among it."""
    gc.collect()
    process = psutil.Process()
    daemons = [child for child in process.children(recursive=True) if "catalog" in " ".join(child.cmdline())]
    return {
        "threads": threading.active_count(),
        "descriptors": process.num_fds(),
        "children": len(process.children(recursive=True)) - len(daemons),
    }


def settled(before: dict[str, int]) -> dict[str, int]:
    """Return what is used when that has come down to what it was, or after 5 s."""
    deadline = time.monotonic() + 5
    while any(now > before[name] for name, now in used().items()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return used()


def test_two_hundred_sessions_leave_nothing_behind(tmp_path: Path):
    def once() -> list[str]:
        with Session.open(BENCH, simulate=True, data_dir=tmp_path, strict=True) as session:
            session.RE(bp.count([session.devices.power_v2, session.devices.power_v4]))
            ports = list(session.simulated.process.ports.values())
        assert session.manager.state is RuntimeState.STOPPED
        assert session.manager.left_behind == ()
        return ports

    for _ in range(3):
        once()
    before = used()
    ports = [port for _ in range(200) for port in once()]
    now = settled(before)
    shut_down(tmp_path, timeout=300)
    assert now == before
    assert [port for port in ports if os.path.exists(port)] == []


def test_sessions_stopped_at_any_moment_of_a_scan_store_their_run_as_aborted(tmp_path: Path):
    chance = random.Random(5)
    limit_s = 20.0
    for _ in range(40):
        with Session.open(BENCH, simulate=True, data_dir=tmp_path, strict=True) as session:
            uids: list[str] = []
            session.RE.subscribe(lambda _, start, uids=uids: uids.append(start["uid"]), "start")
            devices, delay = session.devices, chance.uniform(0.0, 0.5)

            def stop(session: Session = session, delay: float = delay, uids: list[str] = uids) -> None:
                while not uids:
                    time.sleep(0.005)
                time.sleep(delay)
                session.stop()

            stopping = threading.Thread(target=stop)
            stopping.start()
            with pytest.raises(RunEngineInterrupted):
                session.RE(bp.scan([devices.power_v2, devices.power_v4], devices.turn, 0, 350, 10_000))
            stopping.join()
        report = session.manager.shutdown_report
        assert session.manager.state is RuntimeState.STOPPED
        assert report is not None
        assert report.duration_s < limit_s, report
        name, document = list(read_journal(find_journal(tmp_path, uids[0])))[-1]
        assert (name, document["exit_status"]) == ("stop", "abort")
    shut_down(tmp_path, timeout=300)
