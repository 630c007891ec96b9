"""Image scans: frames of a region at each position, and dark frames before."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.protocols import Movable, NamedMovable, Readable
from bluesky.utils import Msg, get_hinted_fields

from plans.checks import Arguments, run_metadata
from plans.results import Result, RunEvents, with_results
from plans.with_dark import with_dark


def _is_region(region: Any) -> bool:
    numbers = region.tolist() if isinstance(region, np.ndarray) else region
    return (
        isinstance(numbers, Sequence)
        and len(numbers) == 6
        and all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
    )


def image_scan(
    camera: Any,
    motor: Movable[float] | None = None,
    start: float = 0.0,
    stop: float = 0.0,
    num: int = 1,
    *,
    detectors: Sequence[Readable[Any]] = (),
    region: Sequence[int] | None = None,
    exposure_ms: int | None = None,
    shutter: NamedMovable[Any] | None = None,
    dark_frames: int = 0,
    note: str | None = None,
    sample: str | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> Generator[Msg, Any, str]:
    """Take a frame at each position of a motor, or a series without one, after dark frames with the shutter closed.

    Region and exposure are put back to what they were on every way out. Dark frames are in the stream `dark`; the
    stream `result_image` has their mean, and mean, largest and smallest mean of the frames above it (counts).

    Parameters
    ----------
    camera
        A camera of either generation.
    motor
        What moves between the frames; None for a series.
    start, stop
        First and last position, in the motor's units.
    num
        Number of frames.
    detectors
        What else is read with each frame.
    region
        s1, s2, sbin, p1, p2, pbin: unbinned pixels with inclusive ends, and binning; None leaves the camera's.
    exposure_ms
        Exposure in ms; None leaves the camera's.
    shutter
        What closes for dark frames, or a laser that has it as `shutter`.
    dark_frames
        How many dark frames.
    note, sample, operator, md
        More metadata for the start document.

    Returns
    -------
    str
        The run's uid.

    Raises
    ------
    PlanArgumentError
        Arguments that cannot be; nothing has moved.
    FailedStatus
        With the camera's own error as its cause, a region it cannot have for one.
    """
    arguments = Arguments("image_scan")
    if arguments.detectors("camera", [camera]) and f"{camera.name}_mean" not in get_hinted_fields(camera):
        arguments.problem("camera", camera, f"a camera, whose frames have their mean in {camera.name}_mean")
    if isinstance(detectors, str) or not isinstance(detectors, Sequence):
        arguments.problem("detectors", detectors, "a list of devices")
    elif detectors:
        arguments.detectors("detectors", detectors)
        arguments.distinct("detectors", [camera, *detectors])
    arguments.count("num", num)
    arguments.count("dark_frames", dark_frames, minimum=0)
    if motor is not None and arguments.movable("motor", motor):
        arguments.positions("start", motor, start)
        arguments.positions("stop", motor, stop)
    if region is not None and not _is_region(region):
        arguments.problem("region", region, "six whole numbers: s1, s2, sbin, p1, p2, pbin")
        region = None
    if exposure_ms is not None and not arguments.count("exposure_ms", exposure_ms):
        exposure_ms = None
    if dark_frames and shutter is None:
        arguments.problem("shutter", shutter, f"given when there are dark frames; dark_frames is {dark_frames}")
    wanted = {
        "region": None if region is None else np.array(region, dtype=np.int64),
        "exposure": None if exposure_ms is None else int(exposure_ms),
    }
    settings = {name: value for name, value in wanted.items() if value is not None}
    for name in settings:
        if not hasattr(camera, name):
            arguments.problem("camera", camera, f"a camera with a setting {name!r}")
    yield from arguments.check()
    given = {"camera": camera, "motor": motor, "start": start, "stop": stop, "num": num, "detectors": list(detectors)}
    given |= {"region": region, "exposure_ms": exposure_ms, "shutter": shutter, "dark_frames": dark_frames}
    metadata = run_metadata("image_scan", given, note=note, sample=sample, operator=operator, md=md)
    devices = [camera, *detectors]
    column = f"{camera.name}_mean"

    def analyse(events: RunEvents) -> Result:
        dark = events.column(column, "dark")
        frames = events.column(column)
        level = float(np.nanmean(dark)) if np.isfinite(dark).any() else 0.0
        above = frames - level
        row: dict[str, Any] = {
            "signal": column,
            "dark": level if dark.size else None,
            "mean": float(np.nanmean(above)),
            "largest": float(np.nanmax(above)),
            "smallest": float(np.nanmin(above)),
            "frames": int(frames.size),
            "dark_frames": int(dark.size),
        }
        return Result("image", [row], dict.fromkeys(("dark", "mean", "largest", "smallest"), events.units(column)))

    def scan() -> Generator[Msg, Any, Any]:
        plan = (
            bp.count(devices, num, md=metadata)
            if motor is None
            else bp.scan(devices, motor, start, stop, num, md=metadata)
        )
        analysed = with_results(plan, analyse)
        if dark_frames and shutter is not None:
            analysed = with_dark(analysed, shutter, devices[:1], num=dark_frames)
        return (yield from analysed)

    uid: str = yield from _with_settings(camera, settings, scan())
    return uid


def _with_settings(camera: Any, settings: Mapping[str, Any], plan: Generator[Msg, Any, Any]) -> Any:
    before: dict[str, Any] = {}

    def change() -> Generator[Msg, Any, Any]:
        for name, value in settings.items():
            signal = getattr(camera, name)
            before[name] = yield from bps.rd(signal)
            yield from bps.mv(signal, value)
        return (yield from plan)

    def restore() -> Generator[Msg, Any, None]:
        for name, value in before.items():
            yield from bps.mv(getattr(camera, name), value)

    return (yield from bpp.finalize_wrapper(change(), restore))
