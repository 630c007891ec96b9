"""A picture of a scan while it runs, with the fit: a file that is renewed, so that no display is needed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from bluesky import RunEngine
from numpy.typing import NDArray

from plans.peak import fit_peak, peak_curve, peak_models
from plans.results import RunEvents
from profiles.scan_display import displayed_columns

RENEWAL_S = 1.0


@contextlib.contextmanager
def live_picture(run_engine: RunEngine, path: Path, *, signal: str | None = None) -> Iterator[None]:
    """Draw the runs made in this block: the first signal over the first scanned position, or over time.

    The picture is drawn on a thread of its own, so that no device waits for it, about once a second and at the end.

    Parameters
    ----------
    run_engine
        Whose documents are drawn.
    path
        PNG file; folders are made as needed. Several runs follow each other in it.
    signal
        Column that is drawn; None takes the first one that the devices hint at.
    """
    events = RunEvents()
    changed, ended = threading.Event(), threading.Event()

    def take(name: str, document: Mapping[str, Any]) -> None:
        events(name, document)
        if name == "event":
            changed.set()

    def draw_changes() -> None:
        while not ended.wait(RENEWAL_S):
            if changed.is_set():
                changed.clear()
                draw_events(events, path, signal=signal)

    token = run_engine.subscribe(take)
    drawing = threading.Thread(target=draw_changes, name="live picture", daemon=True)
    drawing.start()
    try:
        yield
    finally:
        run_engine.unsubscribe(token)
        ended.set()
        drawing.join()
        draw_events(events, path, signal=signal)


def draw_events(events: RunEvents, path: Path, *, signal: str | None = None) -> None:
    """Draw what a run has measured so far into a PNG file; nothing before its first point."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    start = dict(events.start)
    x, y = _columns(events, signal)
    if not y:
        return
    readings = events.column(y)
    times = events.times()
    positions = events.column(x)[: len(readings)] if x else times[: len(readings)] - times[0]
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(positions, readings[: len(positions)], "o", fillstyle="none", label=y)
    _draw_fit(axes, start.get("plan_args", {}), positions, readings[: len(positions)])
    axes.set_title(f"{start.get('plan_name', 'run')} {start.get('scan_id', '')}: {len(readings)} points")
    axes.set_xlabel(_label(events, x) if x else "time (s)")
    axes.set_ylabel(_label(events, y))
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    figure.savefig(draft, dpi=110, format="png")
    draft.replace(path)


def _columns(events: RunEvents, signal: str | None) -> tuple[str, str]:
    """Return what is drawn over what; an empty name for the time, or for nothing yet."""
    if not events.count():
        return "", ""
    descriptor = {"data_keys": events.data_keys["primary"], "hints": events.hints["primary"]}
    columns = displayed_columns(events.start, descriptor)
    dimensions = events.start.get("hints", {}).get("dimensions", ())
    scanned = [field for fields, _ in dimensions for field in fields if field in columns]
    signals = [column for column in columns if column not in scanned]
    chosen = signal if signal in events.data_keys["primary"] else next(iter(signals), "")
    return next(iter(scanned), ""), chosen or ""


def _draw_fit(
    axes: Any, arguments: Mapping[str, Any], positions: NDArray[np.float64], readings: NDArray[np.float64]
) -> None:
    model = arguments.get("fit") or arguments.get("model")
    if model not in peak_models():
        return
    with contextlib.suppress(ValueError):  # too few points yet
        peak = fit_peak(positions, readings, model, dip=bool(arguments.get("dip")))
        fine = np.linspace(np.nanmin(positions), np.nanmax(positions), 400)
        label = f"{model} at {peak.center:.5g} ± {peak.center_error:.2g}, FWHM {peak.fwhm:.4g}"
        axes.plot(fine, peak_curve(peak, fine, model), color="0.5", label=label)


def _label(events: RunEvents, column: str) -> str:
    units = events.units(column)
    return f"{column} ({units})" if units else column
