"""`tandem run`: a plan of the project, or a script with a session's names as its globals."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from profiles.console import say
from profiles.malus_report import MalusReport, read_report
from profiles.scan_display import shown_scan
from profiles.session import Session


def run_script(script: Path, arguments: Sequence[str], *, config: str, simulate: bool, data_dir: Path | None) -> int:
    """Open a session and run a script in it; return the exit code.

    The script sees `session`, `RE`, `devices`, and each connected device by its id, as globals; its arguments are in
    `sys.argv`.
    """
    if not script.is_file():
        print(f"tandem: there is no script {script}", file=sys.stderr)
        return 1
    with Session.open(config, simulate=simulate, data_dir=data_dir) as session:
        print_failures(session, Console(stderr=True))
        sys.argv = [str(script), *arguments]
        names = {**session.devices, "session": session, "RE": session.RE, "devices": session.devices}
        runpy.run_path(str(script), init_globals=names, run_name="__main__")
    return 0


def run_malus(
    meters: Sequence[str],
    rotator: str,
    start: float,
    stop: float,
    num: int,
    *,
    config: str,
    simulate: bool,
    data_dir: Path | None,
    json_output: bool,
) -> int:
    """Rotate a polarizer, read power meters, and print what the catalog then says; return the exit code."""
    console = Console(stderr=json_output)
    with Session.open(config, simulate=simulate, data_dir=data_dir) as session:
        print_failures(session, console)
        meters = meters or [name for name in session.instruments if name.startswith("power")]
        report = scan_malus(session, meters, rotator, console, start, stop, num)
    if json_output:
        print(json.dumps(report.as_json()))
    else:
        print_report(report, console)
    return 0


def scan_malus(
    session: Session,
    meters: Sequence[str],
    rotator: str,
    console: Console,
    start: float = 0.0,
    stop: float = 180.0,
    num: int = 37,
) -> MalusReport:
    """Scan with table and progress bar, then ask the catalog for the run and fit it."""
    from plans import malus

    plan = malus([session.devices[meter] for meter in meters], session.devices[rotator], start, stop, num)
    uids: list[str] = []
    with shown_scan(session.RE, [rotator, *(f"{meter}_power" for meter in meters)], console):
        session.RE(plan, {"start": lambda _, start: uids.append(start["uid"])})
    with console.status("Asking the catalog for the run; its server starts meanwhile ..."):
        return read_report(session.catalog[uids[0]], meters, rotator)


def print_failures(session: Session, console: Console) -> None:
    """Tell which instruments did not connect, and why."""
    for failure in session.failures.values():
        say(console, f"not connected: {failure}")


def print_report(report: MalusReport, console: Console) -> None:
    """Print what the catalog says about a polarizer scan."""
    lines = [f"run               {report.uid} (scan {report.scan_id}, {report.points} points)"]
    for meter, fit in report.fits.items():
        error = f" ± {fit.angle_error_deg:.2f}" if fit.angle_error_deg == fit.angle_error_deg else ""
        lines.append(
            f"{meter:<17} largest power at {fit.angle_deg:.2f}{error} deg, amplitude {fit.amplitude_w * 1e3:.4f} mW, "
            f"contrast {fit.contrast:.0f}, r² {fit.r_squared:.5f}"
        )
    if len(report.fits) > 1:
        lines.append(f"meters differ by  {report.max_difference_w * 1e6:.3g} µW at the most")
    lines.append(f"scan took         {report.duration_s:.1f} s")
    say(console, "\n".join(lines))
