"""`tandem runs plot`: a run as a picture file or in the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from catalog import ExportError
from catalog.recorded import recorded_run
from profiles.console import say
from profiles.runs import find_run, open_runs
from profiles.runs_picture import Lines, Picture, picture_of
from profiles.terminal_plot import lines_view, picture_view

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from catalog.run_catalog import RunCatalog

FIELD_LINES = 20
PICTURE_FORMATS = (".png", ".pdf", ".svg")


def plot_run(
    data_dir: str | os.PathLike[str],
    which: str | int,
    *,
    x: str | None = None,
    y: Sequence[str] = (),
    stream: str = "primary",
    frame: int = -1,
    output: Path | None = None,
    catalog: RunCatalog | None = None,
    console: Console | None = None,
) -> int:
    """Plot a run in the terminal, or into a new file; return the exit code.

    Parameters
    ----------
    data_dir
        The data directory.
    which
        Scan number, beginning of a uid, or -1 for the latest.
    x, y, stream, frame
        What to plot; see `profiles.runs_picture.picture_of`.
    output
        The file, PNG, PDF or SVG.
    catalog
        The catalog, when it is open already.
    console
        Where to print.

    Raises
    ------
    UnknownRun
        No run, or more than one, is meant.
    NothingToPlot
        It has no such stream, column or image.
    ExportError
        The file exists, or it cannot be a picture.
    """
    console = console or Console()
    if output is not None:
        check_picture_file(output)
    run = find_run(catalog if catalog is not None else open_runs(data_dir), which)
    recorded = recorded_run(data_dir, run.metadata["start"]["uid"], run)
    picture = picture_of(recorded, x=x, y=y, stream=stream, frame=frame, run=run)
    if output is not None:
        save(figure_of(picture), output)
        say(console, f"Drawn: {output}")
    elif isinstance(picture, Lines):
        console.print(lines_view(picture, min(console.width, 120), FIELD_LINES))
    else:
        colours = console.color_system in ("truecolor", "256")
        console.print(picture_view(picture, min(console.width, 120), FIELD_LINES, colours=colours))
    return 0


def check_picture_file(path: Path) -> None:
    """Check that a picture can be drawn there.

    Raises
    ------
    ExportError
        The file exists, its folder does not, or its ending is none of a picture.
    """
    check_picture_ending(path)
    if path.exists():
        raise ExportError(path, f"{path} exists already; remove it or give another name.")
    if not path.absolute().parent.is_dir():
        raise ExportError(path, f"There is no folder {path.absolute().parent}: create it or give another.")


def check_picture_ending(path: Path) -> None:
    """Check that a name is one of a picture.

    Raises
    ------
    ExportError
        Its ending is none of a picture.
    """
    if path.suffix.lower() not in PICTURE_FORMATS:
        raise ExportError(path, f"'{path.name}' is no picture: let it end in {', '.join(PICTURE_FORMATS)}.")


def figure_of(*pictures: Lines | Picture) -> Figure:
    """Return the figure of a picture, or of lines of several runs over each other, with an axis for each unit."""
    from matplotlib.figure import Figure

    units = list(dict.fromkeys(unit for each in pictures if isinstance(each, Lines) for unit in each.by_unit)) or [""]
    figure = Figure(figsize=(8, max(5.5, 2.75 * len(units))), layout="constrained")
    fields = dict(zip(units, figure.subplots(len(units), squeeze=False, sharex=True)[:, 0], strict=True))
    drawn: dict[str, list[str]] = {unit: [] for unit in units}
    for picture in pictures:
        if isinstance(picture, Picture):
            _draw_picture(figure, fields[units[0]], picture)
            continue
        markers = iter("o+x^sdv*")
        for unit, group in picture.by_unit.items():
            for label, values in group.items():
                text = f"{picture.title}: {label}" if len(pictures) > 1 else label
                fields[unit].plot(
                    picture.x, values, marker=next(markers, "o"), markersize=4, fillstyle="none", label=text
                )
                drawn[unit].append(label)
        fields[units[-1]].set_xlabel(picture.x_label)
    for unit, labels in drawn.items():
        if labels:
            fields[unit].legend()
            fields[unit].set_ylabel(labels[0] if len(set(labels)) == 1 else unit)
    fields[units[0]].set_title(" and ".join(picture.title for picture in pictures))
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure into a file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=120)


def _draw_picture(figure: Figure, axes: Any, picture: Picture) -> None:
    shown = axes.imshow(
        picture.values,
        extent=picture.extent,
        origin="upper" if picture.is_image else "lower",
        aspect="equal" if picture.is_image else "auto",
        interpolation="nearest",
    )
    axes.set_xlabel(picture.x_label)
    axes.set_ylabel(picture.y_label)
    figure.colorbar(shown, label=picture.value_label)
