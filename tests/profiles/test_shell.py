"""IPython as a real process on a terminal."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from devices.v2 import wrap
from plans.parts import is_movable
from profiles.magics import _places
from profiles.parts import find_part, movables

pytestmark = pytest.mark.timeout(120)

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]")

LEAVING_S = 30  # a prompt is left in under 3 s; a busy machine may take longer

ROTATOR = "[[v4.instruments]]\nid = 'turn'\ntype = 'Elliptec'\nserial_port = '/dev/a'\naddress = '3'\n"

IN_MID_PLAN = "RE(print('go') or message for message in bps.sleep(60))"
"""A plan that says when it runs."""

LATE = """
import time
from pathlib import Path


class LateDevice:
    parent = None
    hints = {}

    def __init__(self, *, name):
        self.name = name

    def connect(self):
        while not Path(%r).exists():
            time.sleep(0.05)

    def read(self):
        return {}

    describe = read_configuration = describe_configuration = read
"""

SLOW_BENCH = """
[application]
name = "slow"
baseline = []
[v2]
shutdown_timeout = 1.0
[[v2.instruments]]
id = "late"
type = "late_device:LateDevice"
connect_timeout = 60.0
[[v2.instruments]]
id = "gone"
type = "Newport1830C"
serial_port = "/dev/no-such-port"
"""


class Shell:
    """Types at a prompt and reads what it answers."""

    def __init__(self, command: list[str], home: Path, **environment: str) -> None:
        self.process = pexpect.spawn(
            sys.executable,
            command,
            env={**os.environ, "IPYTHONDIR": str(home), "TERM": "dumb", **environment},
            encoding="utf-8",
            timeout=60,
            dimensions=(50, 200),
        )
        self._number = 1
        self.banner = self._until_prompt()

    def _until_prompt(self) -> str:
        self.process.expect(rf"In \[{self._number}\]: ")
        return ESCAPES.sub("", self.process.before or "").replace("\r\n", "\n")

    def type(self, line: str) -> str:
        self.process.sendline(line)
        self._number += 1
        return self._until_prompt()

    def interrupt(self) -> None:
        self.process.sendintr()

    def leave(self) -> float:
        """Return the time the exit took in seconds."""
        began = time.monotonic()
        self.process.sendline("exit")
        self.process.expect(pexpect.EOF)
        self.process.close()
        return time.monotonic() - began


def tandem_shell(*arguments: object) -> list[str]:
    return ["-c", "from profiles.cli import main; main()", "shell", *map(str, arguments)]


@pytest.fixture(scope="module")
def shell(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """Return a prompt that several tests type at, one after the other; the last one leaves."""
    home = tmp_path_factory.mktemp("ipython")
    (home / "quick.toml").write_text("[application]\nbaseline = false\n[simulation]\ntime_scale = 0.2\n")
    shell = Shell(tandem_shell("-c", "sim", "-c", home / "quick.toml", "--data-dir", data_dir), home)
    yield shell
    shell.process.close(force=True)


@pytest.mark.server
def test_a_prompt_says_what_is_there(shell: Shell):
    assert re.search(r"sim, simulated: \d of 8 instruments after \d+\.\d s; runs go to /", shell.banner)
    assert re.search(r"power_v2 +v2 +Newport1830C +/\S+ +(\d+\.\d\d s|connecting \.\.\.)\n", shell.banner)
    assert "Names: session, RE, devices, sd, bec, catalog, bp, bps, bpp," in shell.banner
    assert re.search(r"Plans: (.|\n)*malus,", shell.banner)
    assert all(len(line) <= 200 for line in shell.banner.splitlines())
    assert "Commands: %mov %movr %ct %wa %wires %health %runs" in shell.banner
    assert re.search(r"`await (power_v4|hwp|polarizer|voltmeter|camera)\.read\(\)` works too", shell.banner)
    assert "(True, 8)" in shell.type("session.wait_connected(60), len(devices)")


@pytest.mark.server
def test_devices_of_both_generations_and_their_axes_move_and_tell_where_they_are(shell: Shell):
    shell.type("%mov polarizer 45 stages.axis[1] 0.5")
    places = shell.type("%wa")
    assert re.search(r"polarizer +(45|44\.99\d*|45\.0\d*) \(sent to 45\) deg\n", places)
    assert re.search(r"stages\.axis_1 +0\.5 \(sent to 0\.5\) mm\n", places)
    assert re.search(r"laser\.wavelength +800 \(sent to 800\) nm\n", places)
    shell.type("%movr polarizer -15")
    assert re.search(r"polarizer +(30|29\.99\d*|30\.0\d*) \(sent to 30\) deg\n", shell.type("%wa polarizer"))
    assert "stages.axis has no part [7]; there are: stages.axis[1], stages.axis[2]" in shell.type(
        "%mov stages.axis[7] 1"
    )
    assert "no device is called 'nix'; there are: power_v2, " in shell.type("%mov nix 1")
    assert "give pairs of a device and a number, as in: %mov polarizer 45" in shell.type("%mov polarizer")


@pytest.mark.server
def test_what_is_refused_is_told_in_a_line_and_ctrl_c_stops_what_moves(shell: Shell):
    refused = shell.type("%mov polarizer 1000")
    assert "UsageError: ValueRefused: polarizer (Thorlabs Elliptec, address 3 on /" in refused
    assert "): setpoint cannot be 1000.0: allowed is -360 to 360 deg. Nothing was sent." in refused
    assert "Traceback" not in refused
    assert "UsageError: laser is nothing that moves; of it move: laser.wavelength" in shell.type("%mov laser 800")
    assert "UsageError: 'far' is no number (name 'far' is not defined)" in shell.type("%mov polarizer far")
    wrong = shell.type("RE(scan([power_v4], laser, 0, 10, 3))")
    told = "scan: motor = laser: must be a device that can be moved, such as laser.wavelength\nNothing has moved."
    assert f"PlanArgumentError: {told}" in wrong
    assert "Traceback" not in wrong
    assert "File " not in wrong
    failed = shell.type("RE(bps.mv(polarizer, 1000))")
    assert "ValueRefused: polarizer (Thorlabs Elliptec, address 3 on /" in failed
    assert "File " not in failed
    assert "run_engine.py" in shell.type("%tb")
    shell.process.sendline("%mov stages.axis[1] 45")
    shell.process.expect("stages_axis_1: +[1-9]")  # the bar of a motion that has begun
    shell.interrupt()
    shell._number += 1
    assert "Stopped by Ctrl-C." in shell._until_prompt()
    stood = re.search(r"stages\.axis\[1\] +([\d.e-]+) \(sent to [\d.e-]+\) mm", shell.type("%wa stages.axis[1]"))
    assert stood is not None
    assert 0.5 < float(stood[1]) < 45


@pytest.mark.server
def test_what_is_measured_at_the_prompt_has_its_units(shell: Shell):
    measured = shell.type("%ct")
    assert re.search(r"power_v2_power +0\.000\d+ W\n.*power_v4_power +0\.000\d+ W\n", measured, re.DOTALL)
    assert "voltmeter_reading" in measured
    assert "camera" not in measured
    assert re.search(r"camera_mean +\d+\.\d+ counts\n", shell.type("%ct camera"))
    assert "'power_v4_power': {'value':" in shell.type("await power_v4.read()")
    shell.type("session.simulated.process.fault('ttyUSB0', 'saturation', count=None)")
    measured = shell.type("%ct")
    assert "voltmeter_reading" in measured
    for meter in ("power_v2", "power_v4"):
        assert f"{meter} is not measured: OutOfScale: {meter} (Newport 1830-C on /" in measured
    shell.type("session.simulated.process.clear_faults()")


@pytest.mark.server
def test_wires_and_health_are_shown(shell: Shell):
    wires = shell.type("%wires")
    assert "free" in wires
    assert "exchange" in wires
    health = shell.type("%health")
    assert "ESP300" in health
    assert re.search(r"session running, up \d+ min \d+ s; \d+ % of a core, \d+ MiB, \d+ threads, \d+ files", health)


@pytest.mark.server
def test_another_terminal_looks_into_the_session(shell: Shell, tandem, data_dir: Path):
    def looked(*arguments: object) -> subprocess.CompletedProcess[str]:
        chosen = ("--session", shell.process.pid, "--data-dir", data_dir)
        return subprocess.run(tandem(*arguments, *chosen), capture_output=True, text=True, timeout=60, check=False)

    (session,) = json.loads(looked("wires", "--json").stdout)["sessions"]
    assert (session["name"], session["pid"], session["simulated"]) == ("sim", shell.process.pid, True)
    assert any({"power_v2", "power_v4"} <= set(wire["owners"]) for wire in session["wires"])
    assert session["plan"]["state"] == "idle"
    health = looked("health")
    assert health.stdout.startswith(f"sim: process {shell.process.pid}, running since ")
    assert "Newport 1830-C" in health.stdout
    assert health.returncode == 0
    nobody = subprocess.run(
        tandem("wires", "--session", "nobody", "--data-dir", data_dir), capture_output=True, text=True, timeout=60
    )
    assert nobody.returncode == 1
    assert "is called 'nobody'; there are: " in nobody.stderr


@pytest.mark.server
def test_names_are_completed(shell: Shell):
    assert shell.type("get_ipython().complete('po', '%mov po')[1]").count("polarizer") == 1
    assert "'stages.axis_1'" in shell.type("get_ipython().complete('sta', '%wa sta')[1]")
    assert "'power_v2'" in shell.type("get_ipython().complete('po', '%ct po')[1]")
    assert "polarizer" in shell.type('get_ipython().complete("devices[\'pol")[1]')
    shell.type("from IPython.core.completer import provisionalcompleter")
    typed = "print([each.text for each in get_ipython().Completer.completions('devices.pol', 11)])"
    assert "['polarizer']" in shell.type(f'exec("with provisionalcompleter(): {typed}")')


@pytest.mark.server
def test_runs_are_measured_and_listed(shell: Shell):
    assert "'success'" in shell.type("RE(malus([power_v2, power_v4], polarizer, num=4)).exit_status")
    assert "<BlueskyRun" in shell.type("catalog[-1]")
    listed = shell.type("%runs 1")
    assert listed.count("success") == 1
    assert "malus" in listed
    assert "give the number of runs to list, as in %runs 30, not 'all'" in shell.type("%runs all")


@pytest.mark.server
def test_ctrl_c_at_the_prompt_pauses_and_leaving_aborts(shell: Shell):
    shell.process.sendline(IN_MID_PLAN)
    shell.process.expect("\ngo")
    shell.interrupt()
    shell.process.expect("deferred pause")
    time.sleep(0.3)  # the RunEngine takes two within a tenth of a second for one
    shell.interrupt()
    shell._number += 1
    assert "RE.resume()" in shell._until_prompt()
    assert "'paused'" in shell.type("str(RE.state)")
    assert shell.leave() < LEAVING_S
    assert shell.process.exitstatus == 0


@pytest.mark.server
def test_sigterm_ends_a_prompt_in_mid_plan(data_dir: Path, tmp_path: Path):
    bench = tmp_path / "bench.toml"
    bench.write_text(f"[catalog]\ndirectory = '{data_dir}'\n[simulation]\nalways = true\n{ROTATOR}")
    shell = Shell(tandem_shell("-c", bench), tmp_path / "home")
    try:
        shell.process.sendline(IN_MID_PLAN)
        shell.process.expect("\ngo")
        shell.process.kill(signal.SIGTERM)
        shell.process.expect(pexpect.EOF)
        shell.process.close()
        assert shell.process.exitstatus == 143
    finally:
        shell.process.close(force=True)


def test_the_prompt_waits_for_nobody_and_other_shells_have_the_same(data_dir: Path, tmp_path: Path):
    (tmp_path / "late_device.py").write_text(LATE % str(tmp_path / "here"))
    (tmp_path / "slow.toml").write_text(SLOW_BENCH)
    command = ["-m", "IPython", "--no-banner", "--no-confirm-exit", "--ext", "profiles.ipython"]
    # IPython takes its own directory off the path.
    shell = Shell(command, tmp_path / "home", PYTHONPATH=str(tmp_path))
    try:
        banner = shell.type(f"%tandem '{tmp_path}/slow.toml' --data-dir {data_dir}")
        assert re.search(r"late +v2 +late_device:LateDevice +connecting \.\.\.\n", banner)
        assert "not connected: gone (v2 Newport1830C on /dev/no-such-port): /dev/no-such-port is not" in banner
        assert "slow: 0 of 2 instruments" in banner
        assert "A line tells when late is there." in banner
        assert "late is still connecting" in shell.type("devices.late")
        (tmp_path / "here").touch()
        assert "True" in shell.type("session.wait_connected(30)")
        assert "LateDevice" in shell.type("late")
        assert "'idle'" in shell.type("str(RE.state)")
        assert "Nothing here can move." in shell.type("%wa")
        shell.type("%unload_ext profiles.ipython")
        assert "STOPPED" in shell.type("session.manager.state")
        assert shell.leave() < LEAVING_S
        assert shell.process.exitstatus == 0
    finally:
        shell.process.close(force=True)


class Axis:
    """What both generations' axes have in common."""

    def __init__(self, name: str, **parts: object) -> None:
        self.name = name
        self.position = 1.0
        self._parts = parts
        for key, part in parts.items():
            setattr(self, key, part)

    def children(self):
        return self._parts.items()

    def set(self, value):
        raise NotImplementedError

    def stop(self, success=True):
        raise NotImplementedError


def test_parts_are_found_by_what_one_would_type():
    devices = {"stage": Axis("stage", x=Axis("x"), axes={1: Axis("1")})}
    assert find_part(devices, "stage.x") is devices["stage"].x
    assert find_part(devices, "stage.axes[1]").name == "1"
    assert is_movable(devices["stage"])
    assert [name for name, _ in movables(devices)] == ["stage", "stage.x", "stage.axes[1]"]
    with pytest.raises(ValueError, match=r"^stage has no part \.y; there are: stage\.x, stage\.axes$"):
        find_part(devices, "stage.y")
    with pytest.raises(ValueError, match=r"^'1stage' is no name of a device; write it like "):
        find_part(devices, "1stage")


class Slide:
    """A driver of somebody's that moves, until its cable is pulled."""

    position = 1.0
    unplugged = False

    def where(self) -> float:
        if self.unplugged:
            raise OSError("the cable is out")
        return self.position


def test_places_are_those_of_now_and_one_that_is_lost_hides_no_other():
    drivers = [Slide(), Slide()]
    slides = [
        wrap(driver, name=name, position=Slide.where, move="position", units="mm")
        for name, driver in zip("ab", drivers, strict=True)
    ]
    assert asyncio.run(_places(slides)) == ["1 (sent to 1) mm", "1 (sent to 1) mm"]
    drivers[0].position = 2.5  # by hand
    drivers[1].unplugged = True
    assert asyncio.run(_places(slides)) == ["2.5 (sent to 2.5) mm", "not known: the cable is out"]
