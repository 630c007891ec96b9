"""The simulators' own process: how it starts, is asked, and always ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest

from simulators import SimulatorError, SimulatorProcess, SpecError, build_spec, default_instrument, default_wire
from simulators.spec import demo_spec

METER = default_wire("meter", [default_instrument("Newport1830C")])
BUS = default_wire("bus", [default_instrument("ELL14", address=address) for address in "23"])


def has_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_starts_at_once_and_leaves_nothing_behind() -> None:
    with SimulatorProcess(demo_spec()) as simulators:
        # The goal is 0.3 s; how long it has to wait for a busy machine is not its doing.
        assert sum(psutil.Process(simulators.pid).cpu_times()[:2]) < 1.0
        folder = os.path.dirname(simulators.ports["meter"])
        assert sorted(os.listdir(folder)) == ["bus", "meter"]
        pid = simulators.pid
        assert pid is not None
        assert psutil.pid_exists(pid)
    assert not os.path.exists(folder)
    assert not psutil.pid_exists(pid)


def test_ends_when_its_parent_is_killed(wait_until: Callable[..., None]) -> None:
    program = (
        "import time\n"
        "from simulators import SimulatorProcess, demo_spec\n"
        "with SimulatorProcess(demo_spec()) as simulators:\n"
        "    print(simulators.pid, simulators.ports['meter'], flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, port = parent.stdout.readline().split()
        parent.kill()
    wait_until(lambda: has_gone(int(pid)))
    wait_until(lambda: not os.path.lexists(port))


def test_ends_with_its_parent_even_if_a_sibling_holds_its_input(wait_until: Callable[..., None]) -> None:
    program = (
        "import os, time\n"
        "from simulators import SimulatorProcess, demo_spec\n"
        "simulators = SimulatorProcess(demo_spec())\n"
        "simulators.start()\n"
        "sibling = os.fork()\n"
        "if sibling:\n"
        "    print(simulators.pid, sibling, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, sibling = map(int, parent.stdout.readline().split())
        parent.kill()
        try:
            wait_until(lambda: has_gone(pid))
        finally:
            os.kill(sibling, signal.SIGKILL)


def test_ctrl_c_does_not_reach_the_instruments(simulate: Callable[..., SimulatorProcess]) -> None:
    simulators = simulate(METER)
    assert simulators.pid is not None
    os.kill(simulators.pid, signal.SIGINT)
    assert simulators.truth()["wires"]["meter"]["plugged"]
    assert simulators.alive


def test_ctrl_c_in_a_terminal_does_not_reach_simulators_that_are_still_starting(
    simulate: Callable[..., SimulatorProcess],
) -> None:
    pid = simulate(METER).pid
    assert pid is not None
    assert os.getpgid(pid) != os.getpgrp()


def test_termination_is_orderly(simulate: Callable[..., SimulatorProcess], wait_until: Callable[..., None]) -> None:
    simulators = simulate(METER)
    assert simulators.pid is not None
    os.kill(simulators.pid, signal.SIGTERM)
    wait_until(lambda: not os.path.lexists(simulators.ports["meter"]))
    wait_until(lambda: not simulators.alive)
    with pytest.raises(SimulatorError, match="have gone"):
        simulators.truth()


def test_idle_process_uses_no_cpu(simulate: Callable[..., SimulatorProcess]) -> None:
    simulators = simulate(METER, BUS)
    process = psutil.Process(simulators.pid)
    for _ in range(5):  # on a busy machine it may still have to do with what came before
        simulators.truth()
        before = process.cpu_times()
        switches = process.num_ctx_switches().voluntary
        time.sleep(0.5)
        after = process.cpu_times()
        used_s = after.user + after.system - before.user - before.system
        woken = process.num_ctx_switches().voluntary - switches
        if used_s <= 0.01 and woken <= 2:
            break
    assert used_s <= 0.01
    assert woken <= 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (build_spec([{"name": "x", "instruments": [{"type": "Newport1830"}]}]), "did you mean 'Newport1830C'"),
        (build_spec([{"name": "x", "instruments": []}]), "no instruments on wire 'x'"),
        (build_spec([METER, METER]), "two wires are called 'meter'"),
        (build_spec([METER, {**METER, "name": "b", "instruments": [{"type": "MaiTai", "name": "meter"}]}]), "taken"),
        (build_spec([{**METER, "baudrate": 9600}]), "has no key 'baudrate'; did you mean 'baud_rate'"),
        (build_spec([{**METER, "kind": "usb"}]), "cannot be of kind 'usb'"),
        (build_spec([{"name": "x", "instruments": [{"type": "ELL14", "adress": "2"}]}]), "adress"),
        (build_spec([METER], bench={"powr_w": 1.0}), "powr_w"),
        (build_spec([METER], time_scale=0), "time_scale must be positive"),
    ],
)
def test_wrong_specification_is_refused_with_what_would_be_right(spec: dict, message: str) -> None:
    simulators = SimulatorProcess(spec)
    with pytest.raises(SpecError, match=message.replace("(", r"\(")):
        simulators.start()
    assert not simulators.alive


def test_unknown_type_is_refused_before_a_process_is_started() -> None:
    with pytest.raises(SpecError, match="unknown instrument type 'ELL41'; did you mean 'ELL14'"):
        default_instrument("ELL41")
    with pytest.raises(SpecError, match="a simulated ELL14 has no option 'adress'; did you mean 'address'"):
        default_instrument("ELL14", adress="2")


def test_wrong_requests_are_refused_and_change_nothing(simulate: Callable[..., SimulatorProcess]) -> None:
    simulators = simulate(METER, BUS)
    with pytest.raises(SimulatorError, match="no instrument 'metre'; did you mean 'meter'"):
        simulators.fault("metre", "silence")
    with pytest.raises(SimulatorError, match="unknown fault 'silent'; did you mean 'silence'"):
        simulators.fault("meter", "silent")
    with pytest.raises(SimulatorError, match="meter cannot have the fault 'button'"):
        simulators.fault("meter", "button")
    with pytest.raises(SimulatorError, match=r"known: bus\.2, bus\.3|did you mean"):
        simulators.fault("bus", "limit")
    with pytest.raises(SimulatorError, match="fault 'late' has no parameter 'delay'; did you mean 'delay_s'"):
        simulators.fault("meter", "late", delay=1.0)
    with pytest.raises(SimulatorError, match="delay_s of fault 'late' cannot be 'long'"):
        simulators.fault("meter", "late", delay_s="long")
    with pytest.raises(SimulatorError, match="at least once, not 0 times"):
        simulators.fault("meter", "silence", count=0)
    with pytest.raises(SimulatorError, match="unknown request"):
        simulators._request(do="explode")
    with pytest.raises(SimulatorError, match=r"position_deg of bus\.2 cannot be 'here'"):
        simulators.set("bus.2", position_deg="here")
    with pytest.raises(SimulatorError, match="no wire 'metre'"):
        simulators.unplug("metre")
    with pytest.raises(SimulatorError, match="bench has no settable 'powr_w'; did you mean 'power_w'"):
        simulators.set("bench", powr_w=1.0)
    assert simulators.truth()["wires"]["meter"]["plugged"]


def test_truth_names_bench_instruments_and_wires(simulate: Callable[..., SimulatorProcess]) -> None:
    truth = simulate(METER, BUS, seed=7).truth()
    assert truth["bench"]["angle_deg"] == pytest.approx(12.7)
    assert truth["bench"]["amplitude_w"] == pytest.approx(1e-3, rel=0.01)
    assert truth["bench"]["contrast"] == pytest.approx(500)
    assert set(truth["instruments"]) == {"meter", "bus.2", "bus.3"}
    assert truth["wires"]["meter"]["baud_rate"] == 9600
