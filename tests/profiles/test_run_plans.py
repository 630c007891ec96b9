"""Plans by name: options from signatures, devices by what people call them, dry runs, and scripts that repeat."""

import io
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from ophyd.sim import SynAxis, SynSignal
from rich.console import Console

from catalog import find_journal, read_journal
from plans.catalogue import CATALOGUE
from plans.checks import PlanArgumentError
from plans.dry_run import Estimates, dry_run
from plans.scans import grid_scan, scan, time_series
from plans.tune import tune
from profiles.device_names import UnknownDevice, find_device, find_devices, meant_ids
from profiles.dry_run_report import draw_path, duration_of, summary_lines
from profiles.plan_arguments import WrongOption, arguments_of, parameter_texts
from profiles.result_table import result_table
from profiles.run import RunOptions, completed
from profiles.run_script import NotRepeatable, script_of

BENCH = """
[application]
name = "small"
[simulation]
time_scale = 0.02
[[v2.instruments]]
id = "power_v2"
type = "Newport1830C"
serial_port = "/dev/ttyUSB0"
[[v4.instruments]]
id = "power_v4"
type = "Newport1830C"
serial_port = "/dev/ttyUSB0"
[[v4.instruments]]
id = "hwp"
type = "Elliptec"
serial_port = "/dev/ttyUSB1"
address = "2"
"""


def ask(question):
    """Await what has nothing to wait for."""
    coroutine = question()
    with pytest.raises(StopIteration) as end:
        coroutine.send(None)
    return end.value.value


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_plan_of_the_catalogue_can_be_called_from_a_command_line(name: str):
    plan = CATALOGUE[name]
    arguments = arguments_of(plan.function, plan.options)
    assert {"note", "sample", "operator"} <= {argument.name for argument in arguments}
    for argument in arguments:
        assert argument.help, f"{name} --{argument.option} has no help"
    assert plan.summary.endswith((".", ":"))


def test_the_shutter_of_the_command_line_is_that_of_a_plans_dark_frames():
    options = RunOptions(config=["sim"], shutter="laser.shutter")
    given = completed(CATALOGUE["image_scan"], {"dark_frames": 2}, options, ["camera", "laser"])
    assert given == {"camera": "camera", "shutter": "laser.shutter", "dark_frames": 2}
    assert "shutter" not in completed(CATALOGUE["scan"], {}, options, [])


def test_texts_become_arguments():
    known = {"power_v2": "meter 2", "power_v4": "meter 4", "stage": "stage"}

    def find(name):
        return find_devices(known, name)

    arguments = {argument.name: argument for argument in arguments_of(grid_scan)}
    assert arguments["detectors"].value(["power"], find) == ["meter 2", "meter 4"]
    assert arguments["axes"].value(["stage -1 2.5 3", "power_v2:0:1:2"], find) == [
        ("stage", -1.0, 2.5, 3),
        ("meter 2", 0.0, 1.0, 2),
    ]
    with pytest.raises(
        WrongOption, match=r"""--axes 'stage 1 2': expected is "DEVICE NUMBER NUMBER INTEGER" """.strip()
    ):
        arguments["axes"].value(["stage 1 2"], find)
    with pytest.raises(WrongOption, match=r"--axes '2\.5': expected is a whole number"):
        arguments["axes"].value(["stage 0 1 2.5"], find)


def test_texts_of_parameters_come_from_the_docstring():
    texts = parameter_texts(
        "Do.\n\nParameters\n----------\na, b\n    First\n    and second.\nc\n    Third.\n\nReturns\n-------\nstr"
    )
    assert texts == {"a": "First and second.", "b": "First and second.", "c": "Third."}


def test_devices_are_found_by_id_part_column_and_by_both_generations():
    axis = SimpleNamespace(name="stages_axis_1")
    stages = SimpleNamespace(
        name="stages",
        axis={1: axis},
        children=lambda: [("axis", SimpleNamespace(name="", children=lambda: [(1, axis)]))],
    )
    devices = {"stages": stages, "power_v2": "a", "power_v4": "b"}
    assert find_device(devices, "stages.axis.1") is axis
    assert find_device(devices, "stages.axis[1]") is axis
    assert find_device(devices, "stages_axis_1") is axis
    assert find_devices(devices, "power") == ["a", "b"]
    assert find_device(devices, "power") == "b"
    assert meant_ids("power", devices) == ["power_v2", "power_v4"]
    with pytest.raises(UnknownDevice, match="no device is called 'powerv2'; did you mean 'power_v2'"):
        find_device(devices, "powerv2")
    with pytest.raises(
        UnknownDevice, match=r"'stages\.axis\.9'; did you mean 'stages\.axis\.1'.* there are: stages\.axis\.1$"
    ):
        find_device(devices, "stages.axis.9")
    with pytest.raises(UnknownDevice, match="not connected: it is off"):
        find_device(devices, "lamp", {"lamp": "it is off"})


def test_a_dry_run_tells_points_way_and_time_and_draws_the_path(tmp_path: Path):
    x, y = SynAxis(name="x"), SynAxis(name="y")
    meter = SynSignal(name="meter", func=lambda: 1.0, kind="hinted")
    plan = grid_scan([meter], [(x, 0, 2, 3), (y, 0, 4, 5)])
    found = dry_run(plan, ask, Estimates(reading_s={"meter": 0.2}))
    assert (found.runs, found.total_points, found.points) == (1, 15, {"primary": 15})
    assert (found.travels["y"].low, found.travels["y"].high, found.travels["y"].distance) == (0, 4, 12)
    assert found.duration_s == pytest.approx(15 * 0.2 + 15 * 1.0, rel=0.2)
    assert (x.position, y.position) == (0, 0)
    assert [point["y"] for point in found.path[:6]] == [0, 1, 2, 3, 4, 4]
    lines = summary_lines("grid_scan", found, None)
    assert lines[0] == "grid_scan: 1 run, 15 points (events: 15 in primary)"
    assert lines[-1] == "Nothing has moved."
    draw_path("grid_scan", found, tmp_path / "path.png")
    assert (tmp_path / "path.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_says_when_a_fit_has_few_degrees_of_freedom():
    rows = [
        {"signal": "a", "angle": 1.25, "angle_error": 0.5, "degrees_of_freedom": 1},
        {"signal": "b", "angle": 2.0, "angle_error": math.nan, "degrees_of_freedom": 34},
    ]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(result_table("malus", rows, {"angle": "deg"}))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert lines[1:] == ["angle 1.25 ± 0.5 deg 2 ± ? deg", "degrees of freedom 1 (few: 89% within 3 errors) 34"]


def test_a_dry_run_of_a_long_plan_goes_through_its_beginning(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("plans.dry_run.MOST_MESSAGES", 1000)
    meter = SynSignal(name="meter", func=lambda: 1.0, kind="hinted")
    whole = dry_run(time_series([meter], 50), ask)
    found = dry_run(time_series([meter], 600_000), ask)
    assert (whole.cut_short, whole.share_seen) == ("", 1.0)
    assert found.total_points == 600_000
    assert found.cut_short == f"the first {found.points['primary']} points"
    assert duration_of(found, None) == pytest.approx(12_000 * duration_of(whole, None), rel=0.1)
    assert any("only, as the plan is long" in line for line in summary_lines("time_series", found, None))


def test_a_dry_run_says_when_a_plan_depends_on_what_it_reads():
    x = SynAxis(name="x")
    meter = SynSignal(name="meter", func=lambda: 1.0, kind="hinted")
    found = dry_run(tune([meter], x, 0, 2, 9, passes=2), ask)
    assert found.depends_on_readings.startswith("meter shows no peak")
    assert found.total_points == 18
    with pytest.raises(PlanArgumentError, match="num = 0"):
        dry_run(scan([meter], x, 0, 2, 0), ask)


START = {
    "uid": "0123456789abcdef",
    "scan_id": 7,
    "time": 0.0,
    "configuration": {"files": ["bench.toml"], "fingerprint": "f"},
    "instruments": {"power": {"simulated": True}},
}


def test_plans_of_bluesky_become_scripts_too():
    start = {
        **START,
        "plan_name": "rel_grid_scan",
        "detectors": ["power"],
        "motors": ("x", "y"),
        "sample": "quartz",
        "plan_args": {
            "detectors": ["Meter(name='power')"],
            "args": ["SynAxis(prefix='', name='x')", 0, 1, 3, "<a motor>", 0, 2, 4],
            "per_step": "None",
        },
    }
    script = script_of([("start", start)])
    compile(script, "script", "exec")
    assert "plan = bp.rel_grid_scan(" in script
    for part in ("[device('power')]", "device('x')", "device('y')", "md={'sample': 'quartz'}"):
        assert part in script
    assert "simulate=True" in script


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"plan_name": "mine", "plan_args": {}}, "it is neither a plan of the project nor one of bluesky.plans"),
        ({"plan_name": "count"}, "it has no plan_args"),
        (
            {"plan_name": "count", "plan_args": {"detectors": [], "per_shot": "<function f>"}},
            "it was given a function of its own, per_shot = <function f>",
        ),
    ],
)
def test_what_cannot_be_repeated_is_told(changes, reason):
    with pytest.raises(NotRepeatable) as caught:
        script_of([("start", START | changes)])
    assert reason in str(caught.value)


@pytest.mark.server
@pytest.mark.timeout(150)
def test_a_plan_runs_from_the_command_line_and_its_script_repeats_it(
    tandem: Callable[..., list[str]], data_dir: Path, tmp_path: Path
):
    bench = tmp_path / "bench.toml"
    bench.write_text(BENCH)
    common = ("-c", bench, "--simulate", "--json", "--data-dir", data_dir)

    def finished(*command):
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)

    line = ("scan", "--detectors", "power", "--motor", "hwp", "--start", "-10", "--stop", "20", "--num", "4")
    wrapped = ("--normalise", "power_v2_power/power_v4_power", "--sample", "quartz", "--picture", tmp_path / "p.png")
    done = finished(*tandem("run", *line, *wrapped, *common))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["plan"], result["points"], result["exit_status"]) == ("scan", 4, "success")
    assert result["results"]["normalised"][0]["mean"] == pytest.approx(1, abs=0.02)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")

    documents = list(read_journal(find_journal(data_dir, result["run_uid"])))
    script = tmp_path / "again.py"
    script.write_text(script_of(documents).replace("simulate=True)", f"simulate=True, data_dir={str(data_dir)!r})"))
    done = finished(sys.executable, str(script))
    assert done.returncode == 0, done.stderr
    uid, status = done.stdout.split()[-2:]
    assert status == "success"
    again = list(read_journal(find_journal(data_dir, uid)))
    first, second = documents[0][1], again[0][1]
    assert second["repeats"] == first["uid"]
    for key in ("plan_name", "plan_args", "wrappers", "sample", "num_points", "detectors", "motors"):
        assert second[key] == first[key]


def test_a_wrong_name_or_option_is_told_before_anything_is_opened(typed, tmp_path: Path):
    bench = tmp_path / "bench.toml"
    bench.write_text(BENCH)
    line = ("run", "scan", "-c", bench, "--detectors", "pwer_v2", "--motor", "hwp", "--start", "0", "--stop", "1")
    done = typed(*line, "--num", "3")
    assert done.returncode == 1
    assert "tandem: no device is called 'pwer_v2'; did you mean 'power_v2'" in done.stderr
    done = typed(*line)
    assert done.returncode == 2
    assert "Missing option '--num'" in done.stderr
