"""Changing single settings in a configuration file and leaving everything else of it as it stands.

Each change is checked: the text must afterwards mean what the file meant before, but for that change. A file written
in a way that cannot be changed like this is refused.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from coexistence.config import GENERATIONS, Generation
from coexistence.config.toml_positions import Place, line_numbers
from coexistence.errors import CoexistenceError
from coexistence.migration.draft import shown

Change = tuple[Generation, dict[str, Any]]


class CannotEdit(CoexistenceError):
    """A file is written in a way that cannot be changed setting by setting; it is left as it is."""

    def __init__(self, instrument_id: str, change: str) -> None:
        self.instrument_id = instrument_id
        self.change = change
        super().__init__(
            f"{change} of instrument {instrument_id!r} cannot be done here, because of how the file is written. "
            "Write each instrument as a [[v2.instruments]] or [[v4.instruments]] of its own, or change it by hand."
        )


class ConfigText:
    """The text of a configuration file and the instruments in it.

    Parameters
    ----------
    text
        A valid TOML document.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def instruments(self) -> Iterator[tuple[Generation, int, dict[str, Any]]]:
        """Yield the generation, the position in its section, and the settings of each instrument."""
        values = tomllib.loads(self.text)
        for generation in GENERATIONS:
            section = values.get(generation)
            listed = section.get("instruments") if isinstance(section, dict) else None
            for index, settings in enumerate(listed if isinstance(listed, list) else []):
                if isinstance(settings, dict):
                    yield generation, index, settings

    def find(self, instrument_id: str) -> tuple[Generation, int] | None:
        """Return where an instrument stands; None when this file does not have it."""
        for generation, index, settings in self.instruments():
            if settings.get("id") == instrument_id:
                return generation, index
        return None

    def put(self, instrument_id: str, key: str, value: Any) -> None:
        """Set a setting of an instrument; a new one comes below its type.

        Raises
        ------
        CannotEdit
            The text stays as it was.
        """
        place, expected, number = self._planned(instrument_id)
        settings = dict(expected[number][1])
        expected[number][1][key] = value
        if key in settings:
            self._change(instrument_id, f"Setting {key}", expected, _with_value(self.text, place, key, value))
        else:
            below = (*place, "type" if "type" in settings else "id")
            self._change(instrument_id, f"Setting {key}", expected, self._with_line(below, f"{key} = {shown(value)}"))

    def remove(self, instrument_id: str, key: str) -> None:
        """Remove a setting of an instrument; nothing happens when it has none.

        Raises
        ------
        CannotEdit
            The text stays as it was.
        """
        place, expected, number = self._planned(instrument_id)
        if expected[number][1].pop(key, None) is None:
            return
        lines = self.text.split("\n")
        del lines[line_numbers(self.text).get((*place, key), 0) - 1]
        self._change(instrument_id, f"Removing {key}", expected, "\n".join(lines))

    def move(self, instrument_id: str, to: Generation) -> None:
        """Move an instrument to the other section where it stands: only its headers change.

        Raises
        ------
        CannotEdit
            The text stays as it was.
        """
        place, expected, number = self._planned(instrument_id)
        generation, settings = expected[number]
        if generation == to:
            return
        expected[number] = (to, settings)
        lines = self.text.split("\n")
        for path, line in line_numbers(self.text).items():
            if path[:3] == place and lines[line - 1].lstrip().startswith("["):
                lines[line - 1] = lines[line - 1].replace(generation, to, 1)
        self._change(instrument_id, f"Moving to {to}", expected, "\n".join(lines))

    def append(self, lines: list[str]) -> None:
        """Add lines at the end of the file, below an empty one."""
        text = self.text if self.text.endswith("\n") or not self.text else self.text + "\n"
        self.text = text + ("\n" if text else "") + "\n".join(lines) + "\n"

    def _planned(self, instrument_id: str) -> tuple[Place, list[Change], int]:
        """Return where an instrument stands, a copy of what all mean, to be changed, and its number in that."""
        place = self.find(instrument_id)
        if place is None:
            raise LookupError(f"there is no instrument {instrument_id!r}")
        every = list(self.instruments())
        number = next(number for number, (generation, index, _) in enumerate(every) if (generation, index) == place)
        copies: list[Change] = [(generation, copy.deepcopy(settings)) for generation, _, settings in every]
        return (place[0], "instruments", place[1]), copies, number

    def _with_line(self, below: Place, line: str) -> str:
        number = line_numbers(self.text).get(below, 0)
        lines = self.text.split("\n")
        above = lines[number - 1]
        indent = above[: len(above) - len(above.lstrip())]
        ending = "\r" if above.endswith("\r") else ""
        lines.insert(number, f"{indent}{line}{ending}")
        return "\n".join(lines)

    def _change(self, instrument_id: str, change: str, expected: list[Change], text: str) -> None:
        try:
            changed = ConfigText(text)
            found = [(generation, settings) for generation, _, settings in changed.instruments()]
            is_right = len(found) == len(expected) and all(found.count(one) == expected.count(one) for one in expected)
            is_right = is_right and _outside(text) == _outside(self.text)
        except tomllib.TOMLDecodeError:
            is_right = False
        if not is_right:
            raise CannotEdit(instrument_id, change)
        self.text = text


def change_record(before: Generation, evidence: str) -> dict[str, Any]:
    """Return what an instrument that changes generation now gets as `migrated`.

    Parameters
    ----------
    before
        The generation it leaves.
    evidence
        The verdict of the shadow report, or `none`.
    """
    return {"from": before, "on": datetime.now(UTC).replace(microsecond=0), "evidence": evidence}


def _with_value(text: str, place: Place, key: str, value: Any) -> str:
    generation, _, index = place
    try:
        document: Any = tomlkit.parse(text)
        document[generation]["instruments"][index][key] = value
        changed: str = document.as_string()
    except (TOMLKitError, LookupError, TypeError):
        return text
    return changed


def _outside(text: str) -> dict[str, Any]:
    """Return what a file says apart from its instruments."""
    values = tomllib.loads(text)
    for generation in GENERATIONS:
        if isinstance(section := values.get(generation), dict):
            section.pop("instruments", None)
    return {key: value for key, value in values.items() if value != {}}
