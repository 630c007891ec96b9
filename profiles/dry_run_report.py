"""What a dry run found, as text, as JSON, and as a picture of the path."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from plans.dry_run import DryRun
from profiles.past_durations import PastPoints


def duration_of(found: DryRun, past: PastPoints | None) -> float:
    """Return the estimated duration in s: by a past run's points where there is one, else by the devices' settings."""
    if past is not None and not found.sweeps:
        return past.point_s * found.total_points
    return found.duration_s / found.share_seen


def summary_lines(name: str, found: DryRun, past: PastPoints | None) -> list[str]:
    """Return the lines to print: points, moves, duration, data, and what is wrong."""
    points = ", ".join(f"{number} in {stream}" for stream, number in found.points.items()) or "none"
    most = " at the most" if found.depends_on_readings else " or so" if found.sweeps else ""
    lines = [f"{name}: {found.runs} run{'s' * (found.runs != 1)}, {found.total_points} points{most} (events: {points})"]
    for travel in found.travels.values():
        units = f" {travel.units}" if travel.units else ""
        begins = f", now at {travel.begins_at:g}" if travel.begins_at is not None else ""
        lines.append(
            f"  {travel.name:<16} {travel.moves} moves, {travel.low:g} to {travel.high:g}{units}{begins}; "
            f"way {travel.distance:g}{units}" + (f" at {travel.velocity:g}{units}/s" if travel.velocity else "")
        )
    lines += [f"  also sets        {setting}" for setting in dict.fromkeys(found.settings)]
    if found.sweeps:
        basis = "from the time of the sweeps"
    elif past is not None:
        basis = f"as in scan {past.scan_id}: {past.point_s:.3g} s a point"
    else:
        basis = "from velocities and exposures; no past run with these devices is known"
    lines.append(f"  takes about      {_duration_text(duration_of(found, past))} ({basis})")
    lines.append(f"  records about    {_size_text(round(found.bytes / found.share_seen))}")
    if found.depends_on_readings:
        lines.append(f"  depends on what is read, and was not followed to its end: {found.depends_on_readings}")
    if found.cut_short:
        lines.append(f"  gone through     {found.cut_short} only, as the plan is long; time and data follow from these")
    lines += [f"  REFUSED          {problem}" for problem in found.problems]
    lines.append("Nothing has moved.")
    return lines


def as_json(name: str, found: DryRun, past: PastPoints | None) -> dict[str, Any]:
    """Return the findings as JSON has them."""
    return {
        "plan": name,
        "dry_run": True,
        "runs": found.runs,
        "points": found.total_points,
        "events": found.points,
        "moves": {
            travel.name: {
                "moves": travel.moves,
                "low": travel.low,
                "high": travel.high,
                "distance": travel.distance,
                "units": travel.units,
                "begins_at": travel.begins_at,
                "velocity": travel.velocity,
            }
            for travel in found.travels.values()
        },
        "duration_s": round(duration_of(found, past), 3),
        "point_s_of_past_run": None if past is None else past.point_s,
        "bytes": round(found.bytes / found.share_seen),
        "depends_on_readings": bool(found.depends_on_readings),
        "refused": [str(problem) for problem in found.problems],
    }


def draw_path(name: str, found: DryRun, path: Path) -> None:
    """Draw the way of the movers into a PNG file: two against each other, otherwise each over the points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    movers = list(found.travels)
    points = [point for point in found.path if all(mover in point for mover in movers)]
    if len(movers) == 2 and points:
        axes = figure.subplots()
        across, up = ([point[mover] for point in points] for mover in movers[::-1])
        axes.plot(across, up, "-", color="0.7")
        drawn = axes.scatter(across, up, c=range(len(points)), cmap="viridis", s=18, zorder=3)
        figure.colorbar(drawn, label="point")
        axes.set_xlabel(_label(found, movers[1]))
        axes.set_ylabel(_label(found, movers[0]))
        axes.set_title(f"{name}: {len(points)} points")
    else:
        rows: Any = figure.subplots(max(1, len(movers)), sharex=True, squeeze=False)[:, 0]
        for axes, mover in zip(rows, movers, strict=False):
            axes.plot([point.get(mover, math.nan) for point in found.path], ".-")
            axes.set_ylabel(_label(found, mover))
        rows[0].set_title(f"{name}: {len(found.path)} points")
        rows[-1].set_xlabel("point")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _label(found: DryRun, mover: str) -> str:
    units = found.travels[mover].units
    return f"{mover} ({units})" if units else mover


def _duration_text(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _size_text(size: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.3g} {unit}" if unit != "bytes" else f"{size} bytes"
        size /= 1000  # type: ignore[assignment]
    return ""
