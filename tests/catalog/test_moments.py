"""Times as people say them mean what people mean."""

from __future__ import annotations

from datetime import datetime

import pytest

from catalog.moments import UnknownMoment, period

NOW = datetime(2026, 3, 31, 15, 20, 10)


def at(*parts: int) -> float:
    return datetime(*parts).timestamp()


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("today", at(2026, 3, 31), at(2026, 4, 1)),
        ("Yesterday", at(2026, 3, 30), at(2026, 3, 31)),
        ("monday", at(2026, 3, 30), at(2026, 3, 31)),
        ("tuesday", at(2026, 3, 31), at(2026, 4, 1)),
        ("wednesday", at(2026, 3, 25), at(2026, 3, 26)),
        ("2025", at(2025, 1, 1), at(2026, 1, 1)),
        ("2026-02", at(2026, 2, 1), at(2026, 3, 1)),
        ("2025-12", at(2025, 12, 1), at(2026, 1, 1)),
        ("2026-03-01", at(2026, 3, 1), at(2026, 3, 2)),
        ("2026-03-01 14:30", at(2026, 3, 1, 14, 30), at(2026, 3, 1, 14, 31)),
        ("2026-03-01T14:30", at(2026, 3, 1, 14, 30), at(2026, 3, 1, 14, 31)),
        ("14:30", at(2026, 3, 31, 14, 30), at(2026, 3, 31, 14, 31)),
        ("3 days", at(2026, 3, 28, 15, 20, 10), at(2026, 3, 28, 15, 20, 10)),
        ("3 days ago", at(2026, 3, 28, 15, 20, 10), at(2026, 3, 28, 15, 20, 10)),
        ("2h", at(2026, 3, 31, 13, 20, 10), at(2026, 3, 31, 13, 20, 10)),
        ("1.5 hours", at(2026, 3, 31, 13, 50, 10), at(2026, 3, 31, 13, 50, 10)),
        ("a week", at(2026, 3, 24, 15, 20, 10), at(2026, 3, 24, 15, 20, 10)),
        ("last month", at(2026, 2, 28, 15, 20, 10), at(2026, 2, 28, 15, 20, 10)),
        ("2 years", at(2024, 3, 31, 15, 20, 10), at(2024, 3, 31, 15, 20, 10)),
        ("now", NOW.timestamp(), NOW.timestamp()),
        ("2026-03-01T12:00:00+00:00", 1772366400.0, 1772366400.0),
    ],
)
def test_a_text_names_a_period(text, begin, end):
    assert period(text, NOW.timestamp()) == (begin, end)


def test_numbers_and_datetimes_are_taken_as_they_are():
    assert period(12.5) == (12.5, 12.5)
    assert period(datetime(2026, 1, 1)) == (at(2026, 1, 1), at(2026, 1, 1))


@pytest.mark.parametrize("text", ["", "noonish", "3 fortnights", "2026-13", "1.5 months", "days"])
def test_what_names_no_time_is_told_with_examples(text):
    with pytest.raises(UnknownMoment, match=r"is no time that is understood. Give for example: today, yesterday"):
        period(text, NOW.timestamp())
