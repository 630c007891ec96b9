"""The command line as somebody who types it meets it."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from catalog import NoCatalog, find_journal, read_journal
from profiles.cli import app
from profiles.configuration import load_configuration
from profiles.demo import SHOWN
from profiles.runs import list_runs
from profiles.simulation import SimulatedBench

# Lines and motion of the simulated bench ten times faster than real ones.
FAST = {**os.environ, "TANDEM__SIMULATION__TIME_SCALE": "0.1"}

pytestmark = pytest.mark.timeout(150)

MARGIN = 3  # for a machine that is busy with other things


def finished(command: list[str], timeout: float = 90, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)


def processes_of(data_dir: Path) -> list[str]:
    """Return the command lines of processes that mention a data directory, this one's ancestors left out."""
    return [
        " ".join(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline"])
        if str(data_dir) in " ".join(process.info["cmdline"] or ())
    ]


@pytest.mark.server
def test_the_demo_finds_what_the_bench_was_set_to_and_keeps_its_server_if_asked(tandem, tmp_path: Path, wait_for):
    data_dir = tmp_path / "fresh"
    began = time.monotonic()
    done = finished(tandem("demo", "--json", "--keep", "--data-dir", data_dir), timeout=140, env=FAST)
    took = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    with SimulatedBench(load_configuration("sim").only(*SHOWN)) as bench:
        truth = bench.process.truth()["bench"]
    assert {"run_uid", "points", "streams", "fit", "max_generation_difference_w", "plot", "duration_s"} <= set(result)
    assert result["points"] == 37
    assert {"primary", "baseline"} <= set(result["streams"])
    fit = result["fit"]
    assert fit["angle_deg"] == pytest.approx(truth["angle_deg"], abs=0.5)
    assert fit["amplitude_w"] == pytest.approx(truth["amplitude_w"], rel=0.02)
    assert fit["offset_w"] == pytest.approx(truth["offset_w"], abs=0.01 * truth["amplitude_w"])
    assert fit["r_squared"] > 0.999
    assert set(result["fits"]) == {"power_v2", "power_v4"}
    assert 0 < result["max_generation_difference_w"] < 0.02 * truth["amplitude_w"]
    assert Path(result["plot"]).read_bytes().startswith(b"\x89PNG")
    assert result["duration_s"] <= took < 90
    assert f"stop it with: tandem catalog stop --data-dir {data_dir}" in done.stderr
    with urllib.request.urlopen(result["web"]) as page:
        assert page.status == 200
    assert finished(tandem("catalog", "stop", "--data-dir", data_dir)).stdout == "The catalog has stopped.\n"
    wait_for(lambda: not processes_of(data_dir), timeout=30)
    documents = list(read_journal(find_journal(data_dir, result["run_uid"])))
    assert documents[-1][1]["exit_status"] == "success"


@pytest.mark.server
def test_the_demo_says_something_soon_and_stops_in_order_on_ctrl_c(tandem, data_dir: Path, wait_for):
    # At the speed of real instruments: a fast one might be at its end before it is interrupted.
    with subprocess.Popen(
        tandem("demo", "--data-dir", data_dir), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        began = time.monotonic()
        first_line = demo.stdout.readline()
        assert time.monotonic() - began < 2 * MARGIN
        assert "simulated bench" in first_line
        lines = [first_line]
        while not lines[-1].lstrip("| ").startswith("5 "):
            lines.append(demo.stdout.readline())
            assert lines[-1], "the demo ended before its fifth point"
        demo.send_signal(signal.SIGINT)
        began = time.monotonic()
        output, errors = demo.communicate(timeout=30)
        assert time.monotonic() - began < 5 * MARGIN
    assert demo.returncode == 130
    assert "Stopped. The run is closed as aborted; the catalog gets what was measured." in output
    assert "Traceback" not in output + errors
    uid = output[output.index("malus ['") :].split("'")[1]
    documents = list(read_journal(find_journal(data_dir, uid)))
    assert documents[-1][1]["exit_status"] == "abort"
    assert [name for name, _ in documents].count("event") >= 5
    wait_for(lambda: find_journal(data_dir, uid).suffix == ".gz", timeout=60)


def test_help_comes_soon(tandem):
    for _ in range(5):  # the first time compiles
        before = os.times()
        done = finished(tandem("--help"))
        after = os.times()
        # Its own processor time: what others do on this machine takes none of it.
        took = after.children_user + after.children_system - before.children_user - before.children_system
        if took < 0.5:
            break
    assert took < 0.5 * MARGIN
    for command in ("demo", "shell", "run", "runs", "config", "wires", "health", "validate", "catalog", "doctor"):
        assert f" {command} " in done.stdout


def test_help_is_broken_where_the_terminal_ends_and_the_version_is_told(typed):
    described = typed("run", "--help").stdout.partition("Run a plan")[2].partition("Arguments after")[0]
    lines = [line.strip() for line in described.splitlines()]
    for line, following in itertools.pairwise(lines):
        if line and following:
            assert len(f"{line} {following.split()[0]}") > 78, "a line ends where the next word had room"
    assert typed("--version").stdout == "ophyd-tandem 0.1.0\n"


def test_a_mistyped_command_is_told(typed):
    done = typed("dmeo")
    assert done.returncode == 2
    assert "No such command 'dmeo'" in done.stderr


@pytest.mark.parametrize(("profile", "instruments"), [("sim", 8), ("lab", 8)])
def test_config_check_accepts_the_profiles_that_come_with_the_project(typed, profile: str, instruments: int):
    done = typed("config", "check", "--no-hardware", profile)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{profile}: nothing is wrong; {instruments} instruments\n"


def test_config_check_tells_all_problems_to_people_and_to_programs(typed, tmp_path: Path):
    config = tmp_path / "config.toml"
    config.write_text('[[v2.instruments]]\nid = "a"\ntype = "Newport1830"\nserial_port = "/dev/a"\n[bench]\n')
    done = typed("config", "check", config)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"Unknown type 'Newport1830' of instrument 'a' / did you mean 'Newport1830C'? / {config}:3",
        f"Unknown section [bench] / known are: application, v2, v4, catalog, simulation / {config}:5",
    ]
    done = typed("config", "check", "--json", config)
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], len(report["problems"])) == (1, False, 2)
    assert report["problems"][0]["location"] == f"{config}:3"


def test_config_check_looks_for_the_ports(typed, tmp_path: Path):
    config = tmp_path / "config.toml"
    config.write_text('[[v2.instruments]]\nid = "a"\ntype = "Newport1830C"\nserial_port = "/dev/no-such-port"\n')
    assert typed("config", "check", "--no-hardware", config).returncode == 0
    done = typed("config", "check", config)
    assert done.returncode == 1
    assert "Serial port '/dev/no-such-port' of instrument 'a' does not exist" in done.stderr


@pytest.mark.parametrize(("disabled", "left", "has_ophyd"), [("V2", "v4", False), ("V4", "v2", True)])
def test_each_generation_runs_alone_and_v4_without_ophyd(
    tandem, data_dir: Path, tmp_path: Path, disabled: str, left: str, has_ophyd: bool
):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom bluesky.plans import count\nresult = RE(count([*devices.values()][:1]))\n"
        "generations = {each.generation for each in session.instruments.values()}\n"
        "print(result.exit_status, 'ophyd' in sys.modules, generations)\n"
    )
    alone = {**FAST, f"TANDEM__{disabled}__ENABLED": "false", "TANDEM__APPLICATION__BASELINE": "false"}
    done = finished(tandem("run", "--simulate", "--data-dir", data_dir, script), env=alone)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"success {has_ophyd} {{'{left}'}}"


def test_the_lab_template_scans_without_its_hardware(tandem, data_dir: Path, tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "from bluesky.plans import scan\n"
        "result = RE(scan([power_v2, power_v4, voltmeter], stages.axis[1], 0, 0.2, 3))\n"
        "print(result.exit_status, len(session.failures))\n"
    )
    done = finished(tandem("run", "--simulate", "--config", "lab", "--data-dir", data_dir, script), env=FAST)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "success 0"


@pytest.mark.server
def test_a_plan_runs_from_the_command_line_and_is_listed(tandem, typed, data_dir: Path, capsys):
    line = tandem("run", "malus", "-s", "--power", "power_v4", "--num", "6", "--json", "--data-dir", data_dir)
    done = finished(line, env=FAST)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["points"] == 6
    assert [row["signal"] for row in result["results"]["malus"]] == ["power_v4_power"]
    shown = json.loads(typed("runs", "-1", "--json", "--data-dir", data_dir).stdout)
    assert shown["start"]["uid"] == result["run_uid"]
    assert list_runs(data_dir, 1, json_output=True) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["uid"], listed["points"], listed["exit_status"]) == (result["run_uid"], 6, "success")


def test_a_script_has_the_sessions_names_and_its_own_arguments(tandem, data_dir: Path, tmp_path: Path):
    script = tmp_path / "script.py"
    (tmp_path / "beside_it.py").write_text("MISTAKE = 'mine'\n")
    script.write_text(
        "import sys\nimport beside_it\nprint(RE.state, devices.hwp is hwp, session.data_dir, sys.argv[1:])\n"
        "print(bp.count.__name__, malus.__name__)\nraise ValueError(beside_it.MISTAKE)\n"
    )
    done = finished(tandem("run", "--simulate", "--data-dir", data_dir, script, "--", "a", "-b"), env=FAST)
    assert done.stdout == f"idle True {data_dir} ['a', '-b']\ncount malus\n", done.stderr
    assert done.returncode == 1
    shown = done.stderr[done.stderr.index("Traceback") :].splitlines()
    assert shown[1] == f'  File "{script}", line 5, in <module>'
    assert shown[-1] == "ValueError: mine"
    assert "runpy" not in done.stderr


def test_what_the_user_can_mend_is_told_without_a_traceback(typed, tmp_path: Path):
    done = typed("runs", "--data-dir", tmp_path / "none")
    assert done.returncode == 1
    assert done.stderr.startswith("tandem: There is no catalog in ")
    (tmp_path / "demo-data" / "journal").mkdir(parents=True)
    assert "Beside it there is demo-data." in typed("runs", "--data-dir", tmp_path / "none").stderr
    assert "Traceback" not in done.stderr
    done = typed("run", "nothing")
    told = " ".join(done.stderr.replace("│", "").split())
    assert "'nothing' is neither a Python file nor a plan; the plans are: scan, nd_scan," in told


@pytest.mark.server
def test_the_example_runs_from_a_clone(repository: Path, tmp_path: Path, data_dir: Path):
    source = (repository / "examples" / "malus.py").read_text()
    assert len(source.splitlines()) < 30
    (tmp_path / "tandem-data").symlink_to(data_dir)
    done = finished([sys.executable, str(repository / "examples" / "malus.py")], cwd=tmp_path, env=FAST)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["power_v2", "power_v4"]


def test_past_runs_are_where_the_configuration_says(typed, tmp_path: Path, monkeypatch):
    config = tmp_path / "bench.toml"
    config.write_text("""[catalog]
directory = "lab"
""")
    commands = (["runs", "list"], ["runs", "show"], ["catalog", "status"], ["catalog", "verify"], ["shadow", "report"])
    for command in commands:
        said = typed(*command, "-d", config).stderr
        assert f"There is no catalog in {tmp_path / 'lab'}. Give the data directory" in said
        assert said.endswith(" --data-dir takes it, and the configuration file that names it.\n")
    monkeypatch.setenv("TANDEM__CATALOG__DIRECTORY", str(tmp_path / "elsewhere"))
    for command in commands:
        assert f"There is no catalog in {tmp_path / 'elsewhere'}." in typed(*command).stderr
    config.write_text("""[catalog]
direktory = "lab"
""")
    assert f"{config}:2" in typed("runs", "list", "-d", config).stderr


def test_stopping_a_catalog_that_is_not_there_is_told(tmp_path):
    done = CliRunner().invoke(app, ["catalog", "stop", "--data-dir", str(tmp_path / "nothing")])
    assert isinstance(done.exception, NoCatalog)
    assert not (tmp_path / "nothing").exists()
