"""Scripts written before the migration: the same results before, during and after it."""

import contextlib
import io
import json
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from coexistence import adopt
from coexistence.config import DualConfig
from coexistence.migration import convert_file
from coexistence.migration.cutover import switch
from profiles.migration import load_file, load_files
from profiles.session import Session
from profiles.simulation import SimulatedBench

OLD = """\
[instruments.power]
type = "newport_1830c"
port = "/dev/ttyS0"

[instruments.polarizer]
type = "ell14"
port = "/dev/ttyUSB0"
address = "3"
simulation = { optic = "polarizer" }

[instruments.stage]
type = "esp300"
port = "/dev/ttyUSB1"
flow_control = "none"
axes = [1]
"""
FAST = {"TANDEM__SIMULATION__TIME_SCALE": "0.02", "TANDEM__SIMULATION__SEED": "11"}
PHASES = ("before", "during", "after", "back")
NOISE = 0.02  # of the simulated meter's reading, generously


@pytest.fixture(scope="module")
def scripts() -> Path:
    return Path(__file__).parents[2] / "examples" / "legacy"


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The configuration in each phase: v2, v2 with v4 shadows, v4 with v2 shadows, v2 again."""
    folder = tmp_path_factory.mktemp("benches")
    (folder / "old.toml").write_text(OLD)
    files = {phase: folder / f"{phase}.toml" for phase in PHASES}
    files["before"].write_text(convert_file(folder / "old.toml", load_file, to="v2").text)
    files["during"].write_text(convert_file(files["before"], load_file, to="v2", shadows=True).text)
    for phase, start, to in (("after", "during", "v4"), ("back", "after", "v2")):
        files[phase].write_text(files[start].read_text())
        for instrument in ("power", "polarizer", "stage"):
            switch([files[phase]], instrument, to, load_files)
    return files


def output_of(script: Path, *arguments: str, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a script unchanged in this process; return the object it prints."""
    output = io.StringIO()
    argv = sys.argv
    sys.argv = [str(script), *arguments]
    try:
        with contextlib.redirect_stdout(output):
            runpy.run_path(str(script), init_globals=names or {}, run_name="__main__")
    finally:
        sys.argv = argv
    return json.loads(output.getvalue().splitlines()[-1])


Results = dict[str, dict[str, Any]]


def results_in_a_session(config: DualConfig, data_dir: Path, scripts: Path) -> Results:
    """Run the direct drivers on the wires of a session, its plans, and the query."""
    with Session.open(config, simulate=True, data_dir=data_dir, strict=True) as session, ExitStack() as adopting:
        names = {**session.devices, "session": session, "RE": session.RE, "devices": session.devices}
        ports = {name: session.instruments[name].config.wire for name in ("power", "stage")}
        generations = {name: session.instruments[name].generation for name in ("power", "polarizer", "stage")}
        found = {
            "generations": generations,
            "scan": output_of(scripts / "scan_polarizer.py", names=names),
        }
        session.catalog  # noqa: B018 - what the scan has measured is there for others after this
        adopting.enter_context(adopt(session.resources, {port: "legacy" for port in ports.values() if port}))
        found["meter"] = output_of(scripts / "read_power.py", str(ports["power"]))
        found["stage"] = output_of(scripts / "move_stage.py", str(ports["stage"]))
        found["table"] = output_of(scripts / "last_table.py", str(data_dir))
    return found


@pytest.fixture(scope="module")
def results(benches: dict[str, Path], data_dir: Path, scripts: Path) -> Iterator[Callable[[str], Results]]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in FAST.items():
            patch.setenv(name, value)
        found: dict[str, Results] = {}
        for phase, path in benches.items():
            found[phase] = results_in_a_session(DualConfig.load(path), data_dir, scripts)
    return lambda phase: found[phase]


pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]


def test_the_phases_are_what_they_say(results):
    generations = {phase: set(results(phase)["generations"].values()) for phase in PHASES}
    assert generations == {"before": {"v2"}, "during": {"v2"}, "after": {"v4"}, "back": {"v2"}}


def test_each_session_reminds_once_of_what_is_v2_and_only_in_its_log(results, data_dir: Path):
    assert results("after")["generations"]["power"] == "v4"
    lines = "".join(path.read_text() for path in (data_dir / "logs").glob("*.log")).splitlines()
    reminders = [line for line in lines if "power is a v2 Newport1830C; as v4 it keeps its name and columns" in line]
    assert [Path(line.split()[-1]).stem for line in reminders] == ["before", "during", "back"]
    assert all("tandem config cutover power /" in line for line in reminders)


@pytest.mark.parametrize("phase", PHASES[1:])
def test_plans_give_the_same_columns_positions_and_powers(results, phase: str):
    before, now = results("before")["scan"], results(phase)["scan"]
    assert now["columns"] == before["columns"]
    assert now["position"] == before["position"]
    for old, new in zip(before["rows"], now["rows"], strict=True):
        assert {name: type(value) for name, value in new.items()} == {name: type(value) for name, value in old.items()}
        assert new["polarizer"] == old["polarizer"]
        assert new["power_power"] == pytest.approx(old["power_power"], rel=NOISE, abs=1e-6)


@pytest.mark.parametrize("phase", PHASES[1:])
def test_databroker_finds_the_same_table(results, phase: str):
    before, now = results("before")["table"], results(phase)["table"]
    assert {**now, "rows": None} == {**before, "rows": None}
    assert now["rows"]["polarizer"] == before["rows"]["polarizer"]
    assert now["rows"]["power_power"] == pytest.approx(before["rows"]["power_power"], rel=NOISE, abs=1e-6)


@pytest.mark.parametrize("phase", PHASES[1:])
def test_drivers_used_directly_give_the_same_beside_devices_of_either_generation(results, phase: str):
    before, now = results("before"), results(phase)
    assert now["stage"] == before["stage"] == {"units": before["stage"]["units"], "positions": [1.0, 2.5, 0.0]}
    assert now["meter"]["wavelength"] == before["meter"]["wavelength"]
    assert now["meter"]["powers"] == pytest.approx(before["meter"]["powers"], rel=2 * NOISE, abs=1e-6)


def test_drivers_used_directly_give_the_same_without_any_session(results, benches, scripts: Path):
    config = DualConfig.load(benches["before"], environment=FAST)
    with SimulatedBench(config) as bench:
        ports = {i.id: bench.port_of(i) for _, i in config.instruments()}
        for name, script in (("meter", "read_power.py"), ("stage", "move_stage.py")):
            port = ports["power" if name == "meter" else "stage"]
            done = subprocess.run(
                [sys.executable, str(scripts / script), str(port)], capture_output=True, text=True, check=True
            )
            alone = json.loads(done.stdout)
            assert set(alone) == set(results("before")[name])
            if name == "stage":
                assert alone == results("before")["stage"]
