"""Times as people say them: "yesterday", "2026-06", "3 days", "14:30"."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta

from .errors import CatalogError

_UNITS_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0}
_UNITS_D = {"day": 1, "week": 7}
_SHORT = {"s": "second", "sec": "second", "min": "minute", "h": "hour", "d": "day", "w": "week"}
_AGO = re.compile(r"(?P<number>\d+(\.\d+)?|an?|one|last|past)\s*(?P<unit>[a-z]+?)s?(\s+ago)?")
_FORMATS = (
    ("%Y-%m-%d %H:%M:%S", "second"),
    ("%Y-%m-%d %H:%M", "minute"),
    ("%Y-%m-%d %H", "hour"),
    ("%Y-%m-%d", "day"),
    ("%Y-%m", "month"),
    ("%Y", "year"),
)
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


class UnknownMoment(CatalogError, ValueError):
    """A text names no moment.

    Attributes
    ----------
    text : str
        What was given.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(
            f"'{text}' is no time that is understood. Give for example: today, yesterday, monday, 3 days, 2 hours, "
            "14:30, 2026, 2026-06, 2026-06-01, '2026-06-01 14:30'."
        )


def period(moment: str | float | datetime, now: float | None = None) -> tuple[float, float]:
    """Return when what a text names begins and ends, in seconds of Unix time; local time where it names no zone.

    "2026-06" and "yesterday" are a month and a day; "3 days" (with or without "ago") is the moment so long before
    now, and so are numbers and `datetime` objects: they begin and end at once.

    Raises
    ------
    UnknownMoment
        The text names no moment.
    """
    if isinstance(moment, datetime):
        return moment.timestamp(), moment.timestamp()
    if not isinstance(moment, str):
        if not isinstance(moment, int | float):
            raise UnknownMoment(repr(moment))
        return float(moment), float(moment)
    present = datetime.fromtimestamp(time.time() if now is None else now)
    text = " ".join(moment.lower().split())
    today = present.replace(hour=0, minute=0, second=0, microsecond=0)
    if text == "now":
        return present.timestamp(), present.timestamp()
    if text in ("today", "yesterday"):
        return _span(today - timedelta(days=text == "yesterday"), "day")
    if text in _WEEKDAYS:
        return _span(today - timedelta(days=(today.weekday() - _WEEKDAYS.index(text)) % 7), "day")
    for pattern, unit in (("%H:%M:%S", "second"), ("%H:%M", "minute")):
        if (clock := _parse(text, pattern)) is not None:
            return _span(datetime.combine(today, clock.time()), unit)
    for pattern, unit in _FORMATS:
        if (begin := _parse(text.replace("t", " "), pattern)) is not None:
            return _span(begin, unit)
    if (ago := _ago(text, present)) is not None:
        return ago, ago
    try:
        exact = datetime.fromisoformat(moment.strip()).timestamp()
    except ValueError:
        raise UnknownMoment(moment) from None
    return exact, exact


def _parse(text: str, pattern: str) -> datetime | None:
    try:
        return datetime.strptime(text, pattern)
    except ValueError:
        return None


def _ago(text: str, present: datetime) -> float | None:
    found = _AGO.fullmatch(text)
    if found is None:
        return None
    number = float(found["number"]) if found["number"][0].isdigit() else 1.0
    unit = _SHORT.get(found["unit"], found["unit"])
    if unit in _UNITS_S:
        return present.timestamp() - number * _UNITS_S[unit]
    if unit in _UNITS_D:
        return (present - timedelta(days=number * _UNITS_D[unit])).timestamp()
    if unit in ("month", "year") and number % 1 == 0:
        return _months_before(present, int(number) * (12 if unit == "year" else 1)).timestamp()
    return None


def _months_before(moment: datetime, months: int) -> datetime:
    count = moment.year * 12 + moment.month - 1 - months
    first = moment.replace(year=count // 12, month=count % 12 + 1, day=1)
    last_day = (_end_of_month(first) - timedelta(days=1)).day
    return first.replace(day=min(moment.day, last_day))


def _end_of_month(first: datetime) -> datetime:
    return (first + timedelta(days=31)).replace(day=1)


def _span(begin: datetime, unit: str) -> tuple[float, float]:
    if unit == "year":
        end = begin.replace(year=begin.year + 1)
    elif unit == "month":
        end = _end_of_month(begin)
    elif unit == "day":
        end = begin + timedelta(days=1)
    else:
        end = begin + timedelta(seconds=_UNITS_S[unit])
    return begin.timestamp(), end.timestamp()
