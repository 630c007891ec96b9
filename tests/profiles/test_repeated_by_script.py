"""Runs of a session, and what the scripts that were exported from them measure when they run."""

import runpy
from pathlib import Path

import bluesky.plans as bp
import numpy as np
import pytest

from catalog import find_journal, read_journal
from plans import fly_scan
from profiles.run_script import script_of
from profiles.session import Session

BENCH = """
[application]
name = "small"
baseline = []
[simulation]
time_scale = 0.05
[[v2.instruments]]
id = "power_v2"
type = "Newport1830C"
serial_port = "/dev/ttyUSB0"
[[v2.instruments]]
id = "stages"
type = "ESP300"
serial_port = "/dev/ttyUSB2"
axes = [1]
[[v4.instruments]]
id = "hwp"
type = "Elliptec"
serial_port = "/dev/ttyUSB1"
address = "2"
simulation = { optic = "half_wave_plate" }
[[v4.instruments]]
id = "polarizer"
type = "Elliptec"
serial_port = "/dev/ttyUSB1"
address = "3"
simulation = { optic = "polarizer" }
"""


def columns(documents, stream="primary"):
    """Return a stream's columns, shape (events,)."""
    descriptors = {d["uid"] for name, d in documents if name == "descriptor" and d["name"] == stream}
    rows = [d["data"] for name, d in documents if name == "event" and d["descriptor"] in descriptors]
    assert rows
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


@pytest.mark.server
@pytest.mark.timeout(150)
def test_the_script_of_a_run_measures_the_same_again(data_dir: Path, tmp_path: Path, capsys):
    bench = tmp_path / "bench.toml"
    bench.write_text(BENCH)
    with Session.open(str(bench), simulate=True, data_dir=data_dir, strict=True, display=False) as session:
        d = session.devices
        grid = bp.grid_scan([d.power_v2], d.hwp, 0, 20, 2, d.polarizer, 0, 60, 3, snake_axes=[d.polarizer])
        flight = fly_scan([d.power_v2], d.stages.axis[1], 10, 12, velocity=0.1)
        # The sweep comes first: the simulated bench of a script is as it was in the beginning.
        uids = [session.RE(plan).run_start_uids[0] for plan in (flight, grid)]

    pairs = []
    for uid in uids:
        documents = list(read_journal(find_journal(data_dir, uid)))
        script = tmp_path / f"{uid}.py"
        text = script_of(documents)
        assert "simulate=True)" in text
        script.write_text(text.replace("simulate=True)", f"simulate=True, data_dir={str(data_dir)!r})"))
        capsys.readouterr()
        runpy.run_path(str(script), run_name="__main__")
        again, status = capsys.readouterr().out.split()[-2:]
        assert status == "success"
        pairs.append((documents, list(read_journal(find_journal(data_dir, again)))))

    for first, second in pairs:
        assert second[0][1]["repeats"] == first[0][1]["uid"]
        assert second[0][1]["plan_args"] == first[0][1]["plan_args"]
        assert second[-1][1]["exit_status"] == "success"
    grid, again = (columns(documents) for documents in pairs[1])
    assert grid.keys() == again.keys()
    for mover in ("hwp", "polarizer"):
        assert again[mover] == pytest.approx(grid[mover], abs=0.02)
    assert again["power_v2_power"] == pytest.approx(grid["power_v2_power"], rel=0.02, abs=2e-6)
    assert np.ptp(grid["power_v2_power"]) > 1e-4
    flight, again = (columns(documents, "result_fly") for documents in pairs[0])
    for quantity in ("start", "stop", "wanted_velocity", "pass_number"):
        assert again[quantity] == flight[quantity]
    # Sweeps of a second, on a machine that does other things.
    assert again["velocity"] == pytest.approx(flight["velocity"], rel=0.25)
    for documents in pairs[0]:
        place = columns(documents)["stages_axis_1"]
        assert place[0] >= 9.9
        assert np.all(np.diff(place) > 0)
    light, again = (np.mean(columns(documents)["power_v2_power"]) for documents in pairs[0])
    assert again == pytest.approx(light, rel=0.1)
