"""Plots of columns with different units: each unit has a field and a scale of its own."""

from __future__ import annotations

import numpy as np
from rich.console import Console

from profiles.runs_picture import Lines
from profiles.runs_plot import figure_of
from profiles.terminal_plot import lines_view

ANGLES = np.linspace(0.0, 90.0, 31)
POWER = 1e-3 * np.cos(np.deg2rad(ANGLES)) ** 2


def lines(title="scan 2", **more):
    y = {"power (W)": POWER, "reference (W)": 0.5 * POWER, "camera (counts)": 100.0 + POWER, **more}
    units = {"power (W)": "W", "reference (W)": "W", "camera (counts)": "counts"}
    return Lines(title=title, x_label="hwp (deg)", x=ANGLES, y=y, units=units)


def printed(view, width=80):
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(view)
    return capture.get().splitlines()


def test_each_unit_has_a_field_of_its_own_in_the_terminal():
    rows = printed(lines_view(lines(), 80, 20))
    assert all(len(row) <= 80 for row in rows)
    border = next(number for number, row in enumerate(rows) if "├" in row)
    upper, lower = rows[1:border], rows[border + 1 : border + 11]
    assert len(upper) == len(lower) == 10
    assert upper[0].split()[0] == "0.001"
    assert lower[0].split()[0] == "100.001"
    assert lower[-1].split()[0] == "100"
    # A curve fills its field, whatever the others measure.
    for field in (upper, lower):
        assert all(row.partition("│")[2].strip() for row in field)
    assert [name.strip() for name in rows[-1].split("━")[1:]] == ["power (W)", "reference (W)", "camera (counts)"]


def test_many_units_get_five_lines_each_and_one_unit_all_of_them():
    many = {f"x{number} (u{number})": ANGLES for number in range(6)}
    units = {label: label[-3:-1] for label in many}
    rows = printed(lines_view(Lines(title="", x_label="", x=ANGLES, y=many, units=units), 80, 20))
    assert sum("│" in row for row in rows) == 30
    rows = printed(lines_view(Lines(title="", x_label="", x=ANGLES, y={"a": ANGLES, "b": POWER}), 80, 20))
    assert sum("│" in row for row in rows) == 20


def test_limits_of_an_axis_are_told_apart():
    rows = printed(lines_view(Lines(title="", x_label="", x=ANGLES, y={"a": 100.0 + 1e-5 * POWER}), 80, 20))
    assert rows[1].split()[0] == rows[20].split()[0] == "100"  # nine digits show no difference
    rows = printed(lines_view(Lines(title="", x_label="", x=ANGLES, y={"a": 100.0 + 0.1 * POWER}), 80, 20))
    assert (rows[1].split()[0], rows[20].split()[0]) == ("100.0001", "100")


def test_each_unit_has_axes_of_its_own_in_a_file_also_for_two_runs():
    figure = figure_of(lines())
    assert [axes.get_ylabel() for axes in figure.axes] == ["W", "camera (counts)"]
    assert [len(axes.lines) for axes in figure.axes] == [2, 1]
    assert figure.axes[-1].get_xlabel() == "hwp (deg)"
    both = figure_of(lines(), lines("scan 3"))
    assert [len(axes.lines) for axes in both.axes] == [4, 2]
    assert both.axes[0].get_title() == "scan 2 and scan 3"
    assert [text.get_text() for text in both.axes[1].get_legend().get_texts()] == [
        "scan 2: camera (counts)",
        "scan 3: camera (counts)",
    ]
    alone = figure_of(Lines(title="", x_label="", x=ANGLES, y={"a": POWER}))
    assert [axes.get_ylabel() for axes in alone.axes] == ["a"]
