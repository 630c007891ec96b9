"""Which line of a TOML file a value stands on, so that a problem can be reported with `file:line`."""

from __future__ import annotations

import re
from collections.abc import Mapping

Place = tuple[str | int, ...]
"""The keys that lead to a value, with the index of an element where there is an array of tables."""

_KEY_PART = re.compile(r"""\s*(?:"(?P<basic>(?:[^"\\]|\\.)*)"|'(?P<literal>[^']*)'|(?P<bare>[A-Za-z0-9_-]+))\s*""")
_OPENING = "[{"
_CLOSING = "]}"


def line_numbers(text: str) -> dict[Place, int]:
    """Return the line (from 1) of each table header and key of a valid TOML document.

    The keys look like `("v2", "instruments", 0, "id")`. Values inside inline tables and arrays have no entry of
    their own.
    """
    return _Scanner(text).scan()


def nearest_line(lines: Mapping[Place, int], place: Place) -> int:
    """Return the line of `place`, or of the closest table around it; 0 when there is none."""
    while place:
        if place in lines:
            return lines[place]
        place = place[:-1]
    return 0


class _Scanner:
    """Walks a document that has been parsed already: only headers, keys and the ends of values matter."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._line = 1
        self._lines: dict[Place, int] = {}
        self._lengths: dict[Place, int] = {}

    def scan(self) -> dict[Place, int]:
        table: Place = ()
        while self._position < len(self._text):
            character = self._text[self._position]
            if character == "\n":
                self._advance(1)
            elif character in " \t\r":
                self._position += 1
            elif character == "#":
                self._to_end_of_line()
            elif character == "[":
                table = self._header()
            else:
                self._note(table + self._dotted_key())
                self._value()
        return self._lines

    def _note(self, place: Place) -> None:
        self._lines.setdefault(place, self._line)

    def _header(self) -> Place:
        is_array = self._text.startswith("[[", self._position)
        self._position += 2 if is_array else 1
        keys = self._dotted_key()
        table: Place = ()
        for key in keys[:-1]:
            table = self._last_element((*table, key))
            self._note(table)
        table = (*table, keys[-1])
        if is_array:
            self._note(table)
            self._lengths[table] = self._lengths.get(table, 0) + 1
        table = self._last_element(table)
        self._note(table)
        self._to_end_of_line()
        return table

    def _last_element(self, table: Place) -> Place:
        return (*table, self._lengths[table] - 1) if table in self._lengths else table

    def _dotted_key(self) -> tuple[str, ...]:
        keys = []
        while match := _KEY_PART.match(self._text, self._position):
            keys.append(next(part for part in match.groups() if part is not None))
            self._position = match.end()
            if not self._text.startswith(".", self._position):
                break
            self._position += 1
        return tuple(keys)

    def _value(self) -> None:
        """Go to the end of the line on which the value ends."""
        depth = 0
        while self._position < len(self._text):
            character = self._text[self._position]
            if character in "\"'":
                self._string(character)
                continue
            if character == "#":
                self._to_end_of_line()
                continue
            depth += (character in _OPENING) - (character in _CLOSING)
            self._advance(1)
            if character == "\n" and depth == 0:
                return

    def _string(self, quote: str) -> None:
        is_long = self._text.startswith(quote * 3, self._position)
        ending = quote * 3 if is_long else quote
        self._advance(len(ending))
        while self._position < len(self._text) and not self._text.startswith(ending, self._position):
            self._advance(2 if quote == '"' and self._text[self._position] == "\\" else 1)
        self._advance(len(ending))

    def _to_end_of_line(self) -> None:
        end = self._text.find("\n", self._position)
        self._position = len(self._text) if end < 0 else end

    def _advance(self, count: int) -> None:
        self._line += self._text.count("\n", self._position, self._position + count)
        self._position += count
