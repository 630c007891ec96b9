"""Tables of runs fit the terminal in which they are read, and are whole where programs read them."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from profiles.console import say_table
from profiles.runs import runs_table

LONG_SAMPLE = "Gd film on sapphire, annealed 12 h at 700 C"


def summary(**entries):
    return {
        "scan_id": 4711,
        "uid": "202745d4-4178-40cb-a143-e5efab17a750",
        "plan_name": "polarizer_scan_with_a_long_name",
        "time": time.time(),
        "duration": 7503.2,
        "points": 120_000,
        "exit_status": "not ended",
        "sample": LONG_SAMPLE,
        "operator": "Ada Lovelace",
        "tags": ["paper", "figure 2"],
        **entries,
    }


SUMMARIES = [summary(), summary(scan_id=None, sample=None, tags=[], time=0.0), summary(plan_name="count")]


def printed(width: int | None, at: int) -> str:
    console = Console(file=io.StringIO(), width=at)
    say_table(console, runs_table(SUMMARIES, width))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [70, 80, 90, 100, 120, 250])
def test_a_row_is_a_line_of_the_terminal(width):
    lines = printed(width, width).splitlines()
    assert max(map(len, lines)) <= width
    assert sum("202745d4" in line for line in lines) == len(SUMMARIES)
    assert "2:05:03 h" in lines[1] or width >= 250
    assert any("count" in line for line in lines)


def test_what_has_no_room_is_cut_or_named():
    text = printed(80, 80)
    assert LONG_SAMPLE not in text
    assert "…" in text
    assert "not shown, for want of room:" in text
    assert "tags" in text.splitlines()[-1]
    assert LONG_SAMPLE in printed(250, 250)


def test_nothing_is_cut_where_nobody_looks():
    text = printed(None, 80)
    assert text.count(LONG_SAMPLE) == 2
    assert "paper, figure 2" in text
    assert "not shown" not in text
