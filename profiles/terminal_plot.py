"""Plots in a terminal: lines of braille dots, and pictures of coloured half blocks."""

from __future__ import annotations

from itertools import cycle, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.console import Group, RenderableType
from rich.style import Style
from rich.text import Text

from profiles.runs_picture import Lines, Picture

COLOURS = ("cyan", "yellow", "magenta", "green", "red", "blue", "bright_cyan", "bright_yellow")
_BRAILLE = 0x2800
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""Bit of each of the four by two dots of a braille character."""
_SHADES = " .:-=+*#%@"
_LABEL_WIDTH = 11
LEAST_FIELD_LINES = 5


def lines_view(lines: Lines, width: int, height: int) -> Group:
    """Return a plot of lines, a field for each unit; points that are no finite numbers are left out.

    Parameters
    ----------
    lines : Lines
        What to plot.
    width, height : int
        Characters of the whole plot, and lines of all its fields, of which each has at least five.
    """
    columns = max(10, width - _LABEL_WIDTH - 2)
    groups = lines.by_unit
    x = np.asarray(lines.x, float)
    left, right = _range(x)
    rows: list[RenderableType] = [Text(lines.title, "bold")]
    legend = Text(" " * (_LABEL_WIDTH + 2))
    colours = cycle(COLOURS)
    for number, group in enumerate(groups.values()):
        if number:
            rows.append(Text(" " * _LABEL_WIDTH + " ├" + "┄" * columns))
        coloured = dict(zip(group, colours, strict=False))
        rows += _field(x, group, coloured, max(LEAST_FIELD_LINES, height // len(groups)), columns)
        for name, colour in coloured.items():
            legend.append("━ ", colour).append(f"{name}  ")
    rows += [Text(" " * _LABEL_WIDTH + " └" + "─" * columns), _axis(left, right, lines.x_label, columns), legend]
    return Group(*rows)


def _field(
    x: NDArray[np.float64], group: dict[str, NDArray[Any]], colour_of: dict[str, str], height: int, columns: int
) -> list[Text]:
    """Return the lines of a field, in which everything has one scale."""
    left, right = _range(x)
    low, high = _range(np.concatenate([np.asarray(values, float) for values in group.values()]))
    canvas = np.zeros((height, columns), int)
    colours = np.full((height, columns), "", dtype=object)
    for name, values in group.items():
        across = _places(x, left, right, columns * 2)
        up = _places(np.asarray(values, float), low, high, height * 4)
        for place, level in _dots(across, up):
            row, column = (height * 4 - 1 - level) // 4, place // 2
            canvas[row, column] |= _DOTS[(height * 4 - 1 - level) % 4, place % 2]
            colours[row, column] = colour_of[name]
    rows = []
    upper, lower = _told_apart(high, low)
    for row in range(height):
        label = upper if row == 0 else lower if row == height - 1 else ""
        line = Text(f"{label:>{_LABEL_WIDTH}} │")
        for bits, colour in zip(canvas[row], colours[row], strict=True):
            line.append(chr(_BRAILLE + bits) if bits else " ", colour)
        rows.append(line)
    return rows


def picture_view(picture: Picture, width: int, height: int, *, colours: bool) -> Group:
    """Return a picture; each character shows two rows, or one in shades of grey where there are no colours."""
    columns = max(10, width - _LABEL_WIDTH - 2)
    values = picture.values if picture.is_image else picture.values[::-1]
    per_character = 2 if colours else 1
    pixels = _resized(np.asarray(values, float), height * per_character, columns)
    low, high = _range(pixels)
    scaled = np.clip((pixels - low) / (high - low), 0, 1)
    left, right, bottom, top = picture.extent
    rows: list[RenderableType] = [Text(picture.title, "bold")]
    shades = _palette() if colours else []
    for row in range(len(pixels) // per_character):
        label = f"{top:.5g}" if row == 0 else f"{bottom:.5g}" if row == len(pixels) // per_character - 1 else ""
        line = Text(f"{label:>{_LABEL_WIDTH}} │")
        if colours:
            for upper, lower in zip(scaled[2 * row], scaled[2 * row + 1], strict=True):
                line.append("▀", Style(color=_shade(shades, upper), bgcolor=_shade(shades, lower)))
        else:
            line.append("".join(" " if v != v else _SHADES[int(v * (len(_SHADES) - 1))] for v in scaled[row]))
        rows.append(line)
    rows.append(_axis(left, right, f"{picture.x_label}; up: {picture.y_label}", pixels.shape[1]))
    rows.append(Text(f"{'':{_LABEL_WIDTH + 2}}{picture.value_label}: {low:.5g} to {high:.5g}"))
    return Group(*rows)


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    margin = abs(low) * 0.05 or 0.5
    return (low, high) if high > low else (low - margin, high + margin)


def _places(values: NDArray[np.float64], low: float, high: float, count: int) -> NDArray[np.float64]:
    return (values - low) / (high - low) * (count - 1)


def _dots(across: NDArray[np.float64], up: NDArray[np.float64]) -> set[tuple[int, int]]:
    """Return the dots of a line through points, broken where a point is no number."""
    good = np.isfinite(across) & np.isfinite(up)
    found = {(round(x), round(y)) for x, y in zip(across[good], up[good], strict=True)}
    for index in range(len(across) - 1):
        if good[index] and good[index + 1]:
            steps = int(max(abs(across[index + 1] - across[index]), abs(up[index + 1] - up[index]))) + 1
            xs = np.linspace(across[index], across[index + 1], steps)
            ys = np.linspace(up[index], up[index + 1], steps)
            found.update((round(x), round(y)) for x, y in zip(xs, ys, strict=True))
    return found


def _told_apart(one: float, other: float) -> tuple[str, str]:
    """Return two numbers with as many digits as show that they differ, five at least."""
    for digits in range(5, _LABEL_WIDTH - 2):
        texts = f"{one:.{digits}g}", f"{other:.{digits}g}"
        if texts[0] != texts[1]:
            break
    return texts


def _axis(left: float, right: float, label: str, columns: int) -> Text:
    begin, end = _told_apart(left, right)
    middle = label.center(max(0, columns - len(begin) - len(end)))
    return Text(" " * (_LABEL_WIDTH + 2) + begin + middle + end)


def _resized(values: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.float64]:
    """Return the picture in as many pixels as there is room for: means where it is larger, repeats where smaller."""
    return _along(_along(values, rows).T, columns).T


def _along(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    if len(values) <= count:
        return np.repeat(values, max(1, count // len(values)), axis=0)
    borders = np.linspace(0, len(values), count + 1).astype(int)
    return np.stack([values[a:b].mean(axis=0) for a, b in pairwise(borders)])


def _palette() -> list[Color]:
    from matplotlib import colormaps

    return [Color.from_rgb(*(255 * part for part in colormaps["viridis"](step)[:3])) for step in range(256)]


def _shade(shades: list[Color], value: float) -> Color | None:
    return None if value != value else shades[int(value * 255)]
