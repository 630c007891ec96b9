"""Remakes the pictures of docs/plans.md: `python -m profiles.gallery docs/images/plans`.

Each picture is made by the commands that stand beside it in the page: a plan on the simulated bench, then
`tandem runs plot`. To be called in the project's own folder, for the examples.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

COMMANDS: Mapping[str, str] = {
    "scan": "scan --detectors power_v4 --motor stages.axis.1 --start 12.35 --stop 12.65 --num 31 --fit gaussian",
    "nd_scan": 'nd_scan --detectors power_v4 --axes "hwp 0 45" --axes "polarizer 0 180" --num 31',
    "list_scan": 'list_scan --detectors power_v4 --axes "polarizer 0,40,80,90,95,100,105,110,120,160"',
    "grid_scan": 'grid_scan --detectors power_v4 --axes "hwp 0 45 10" --axes "polarizer 0 180 13"',
    "time_series": "time_series --detectors power_v2 --detectors power_v4 --num 60",
    "adaptive_scan": (
        "adaptive_scan --detectors power_v4 --motor stages.axis.1 --start 12.3 --stop 12.7 --min-step 0.004 "
        "--max-step 0.05 --target-delta 5e-5"
    ),
    "tune": "tune --detectors power_v4 --motor stages.axis.1 --start 12.3 --stop 12.8",
    "malus": "malus --num 37",
    "calibrate_half_wave_plate": "calibrate_half_wave_plate --detectors power_v4 --num 31",
    "rotational_anisotropy": (
        "rotational_anisotropy -c examples/anisotropy.toml --simulate --detectors power_v4 --half-wave-plate "
        "--analyser-zero 12.7"
    ),
    "delay_scan": (
        "delay_scan --detectors power_v4 --stage stages.axis.1 --start-ps -1.5 --stop-ps 1.5 --num 31 --zero-mm 12.4"
    ),
    "image_scan": "image_scan --num 3 --region 512,1535,4,512,1535,4 --exposure-ms 2",
    "fly_scan": "fly_scan --detectors power_v4 --axis stages.axis.1 --start 12.2 --stop 12.8 --velocity 0.2",
    "wavelength_scan": "wavelength_scan --detectors power_v4 --start 740 --stop 860 --num 13",
}
"""What `tandem run` is given for each picture."""

SCRIPTS: Mapping[str, str] = {"power_hold": "examples/power_hold.py"}
"""Scripts for plans that need what only a script can make."""

PLOT_OPTIONS: Mapping[str, str] = {
    "power_hold": "--x time --y power_v4_power",
    "rotational_anisotropy": "--x polarizer --y power_v4_power",
    "image_scan": "--y camera_image",
}
"""What `tandem runs plot` is given beside the run."""


def remake(folder: Path, data_dir: Path, names: Sequence[str] = ()) -> list[Path]:
    """Run the plans and draw their runs, one after the other.

    Parameters
    ----------
    folder
        Where the PNG files go.
    data_dir
        Where the runs go.
    names
        Plans; all when there are none.

    Raises
    ------
    subprocess.CalledProcessError
        A command failed; its output has been printed.
    KeyError
        There is no picture of that name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name in names or [*COMMANDS, *SCRIPTS]:
        picture = folder / f"{name}.png"
        picture.unlink(missing_ok=True)
        if name in SCRIPTS:
            _script(SCRIPTS[name], data_dir)
        else:
            _tandem("run", *shlex.split(COMMANDS[name]), "--data-dir", str(data_dir))
        plot = shlex.split(PLOT_OPTIONS.get(name, ""))
        _tandem("runs", "plot", "-1", *plot, "--data-dir", str(data_dir), "--output", str(picture))
        made.append(picture)
    return made


def _tandem(*arguments: str) -> None:
    print("$ tandem", shlex.join(arguments), flush=True)
    subprocess.run([sys.executable, "-c", "from profiles.cli import main; main()", *arguments], check=True)


def _script(path: str, data_dir: Path) -> None:
    print("$ python", path, flush=True)
    environment = {**os.environ, "TANDEM__CATALOG__DIRECTORY": str(data_dir)}
    subprocess.run([sys.executable, path], check=True, env=environment)


def main(arguments: Sequence[str]) -> int:
    """Remake all pictures, or those of the plans that are named; return the exit code."""
    if not arguments:
        print("Usage: python -m profiles.gallery FOLDER [PLAN...]", file=sys.stderr)
        return 2
    folder, *names = arguments
    with tempfile.TemporaryDirectory(prefix="tandem-gallery-") as data_dir:
        remake(Path(folder), Path(data_dir), names)
        _tandem("catalog", "stop", data_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
