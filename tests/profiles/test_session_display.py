"""What a session shows while it measures, restarts by itself, and finishes although it is interrupted."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from ophyd import Device
from ophyd.sim import det, motor

from coexistence.config import DualConfig
from profiles.interruption import finishing
from profiles.session import Session

BENCH = {
    "application": {"supervise": True, "baseline": False},
    "simulation": {"always": True, "time_scale": 0.5},
    "v2": {"instruments": [{"id": "reluctant", "type": f"{__name__}:Reluctant"}]},
    "v4": {"instruments": [{"id": "turn", "type": "Elliptec", "serial_port": "/dev/ttyUSB1", "address": "3"}]},
}


class Reluctant(Device):
    attempts = 0

    def __init__(self, *, name: str) -> None:
        super().__init__("", name=name)

    def wait_for_connection(self, timeout: float = 0.0, **_) -> None:
        Reluctant.attempts += 1
        if Reluctant.attempts == 1:
            raise ConnectionError("it is still warming up")


@pytest.fixture(scope="module")
def session(data_dir: Path) -> Iterator[Session]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISPLAY", ":99")
        patch.setenv("MPLBACKEND", "Agg")
        with Session.open(DualConfig.from_mapping(BENCH), data_dir=data_dir, display=True) as opened:
            yield opened


def test_what_failed_is_started_again_when_the_configuration_says_so(session: Session, wait_for):
    wait_for(lambda: "reluctant" in session.devices, timeout=60)
    assert Reluctant.attempts == 2
    assert session.manager.instruments["reluctant"].restarts == 1


def test_a_bench_that_is_always_simulated_needs_no_asking(session: Session):
    assert session.simulated is not None
    assert session.config.hardware_problems() == []


def test_a_motion_has_a_bar_with_its_units(session: Session, capsys, wait_for):
    (wire,) = session.resources.held()
    shower = session.RE.waiting_hook
    held = threading.Event()

    def hold_until_there_is_a_bar() -> None:
        with session.resources.serial.get(wire.wire).acquire("somebody"):
            held.set()
            # Motions that end within 0.2 s have none.
            wait_for(lambda: shower.pbar is not None and shower.pbar.drawn)

    holder = threading.Thread(target=hold_until_there_is_a_bar)
    holder.start()
    assert held.wait(10.0)
    session.RE(bps.mv(session.devices.turn, 90))
    holder.join()
    shown = capsys.readouterr()
    assert "turn: 100%" in shown.err + shown.out
    assert "deg" in shown.err + shown.out


def test_a_scan_is_drawn_where_there_is_a_screen(session: Session, capsys):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.close("all")
    session.RE(bp.scan([det], motor, -1, 1, 5))
    (axes,) = plt.gcf().axes
    assert axes.get_xlabel() == "motor"
    assert list(axes.lines[0].get_xdata()) == [-1, -0.5, 0, 0.5, 1]
    assert "|         5 |" in capsys.readouterr().out
    plt.close("all")


def test_ctrl_c_does_not_cut_closing_short(capfd, wait_for):
    usual = signal.getsignal(signal.SIGINT)
    told = []
    with finishing():
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: told.append(capfd.readouterr().err) or any(told), timeout=10)
    assert "The session is closing: what moves is stopped" in "".join(told)
    with pytest.raises(KeyboardInterrupt), finishing():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    wait_for(lambda: "tell of closing" not in {thread.name for thread in threading.enumerate()})
    assert signal.getsignal(signal.SIGINT) is usual
