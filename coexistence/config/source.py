"""Where a configuration comes from: files and environment merged into one table, and the place of each value."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from coexistence.config.model import Generation
from coexistence.config.toml_positions import Place, line_numbers, nearest_line
from coexistence.errors import Problem

ENVIRONMENT_PREFIX = "TANDEM__"

_SYNTAX_ERROR_PLACE = re.compile(r"\s*\(at (?:line (?P<line>\d+), column \d+|end of document)\)$")


class Source:
    """The merged values of all files and of the environment, and where each of them comes from."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.files: list[Path] = []
        self.problems: list[Problem] = []
        self.unreadable = False
        self._places: dict[Place, str] = {}

    @property
    def folder(self) -> Path:
        """What relative directories are relative to."""
        return self.files[0].resolve().parent if self.files else Path.cwd()

    def add_file(self, path: Path) -> None:
        """Merge a TOML file over what is there; what keeps it from being read becomes a problem."""
        self.files.append(path)
        try:
            # Editors of Windows begin UTF-8 files with a byte order mark.
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            reason = f"The configuration cannot be read: {error.strerror}"
            self._unreadable(reason, "give the path of a TOML file", str(path))
            return
        except UnicodeDecodeError as error:
            line = 1 + error.object.count(b"\n", 0, error.start)
            reason = "The configuration cannot be read: it is not UTF-8 text"
            self._unreadable(reason, "save it as UTF-8, if it is a TOML file at all", f"{path}:{line}")
            return
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            self._note_syntax_error(path, text, str(error))
            return
        lines = line_numbers(text)
        self.merge(values, lambda place: f"{path}:{nearest_line(lines, place) or 1}")

    def add_environment(self, environment: Mapping[str, str]) -> None:
        """Merge all variables that begin with `TANDEM__` over what is there."""
        for variable, text in environment.items():
            if not variable.startswith(ENVIRONMENT_PREFIX):
                continue
            keys = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            place_of = partial(_place_of_variable, variable)
            if len(keys) > 3 and keys[1] == "instruments":
                self._override_instrument(variable, keys, _value_of_variable(text))
                continue
            value: Any = _value_of_variable(text)
            for key in reversed(keys):
                value = {key: value}
            self.merge(value, place_of)

    def merge(self, values: Mapping[str, Any], place_of: Callable[[Place], str] | None = None) -> None:
        """Merge values over those that are there: sections key by key, instruments by their id."""
        self._merge_table(self.values, values, (), (), place_of or (lambda _: ""))

    def location(self, path: Place) -> str:
        """Return where the value at `path` of the merged values stands, or the table around it."""
        while path:
            if path in self._places:
                return self._places[path]
            path = path[:-1]
        return str(self.files[0]) if self.files else ""

    def instrument_path(self, generation: Generation, instrument_id: str, key: str) -> Place:
        """Return the place of an instrument, or of one of its settings, in the merged values; dots lead inside it."""
        for index, values in enumerate(listed_instruments(self.values.get(generation))):
            if isinstance(values, Mapping) and values.get("id") == instrument_id:
                path: Place = (generation, "instruments", index)
                return (*path, *key.split(".")) if key else path
        return (generation,)

    def by_place(self, problem: Problem) -> tuple[int, int]:
        """Return what sorts problems by file and line; those of the environment come last."""
        file, _, line = problem.location.rpartition(":")
        files = [str(path) for path in self.files]
        return (files.index(file) if file in files else len(files), int(line) if line.isdigit() else 0)

    def _override_instrument(self, variable: str, keys: list[str], value: Any) -> None:
        generation, _, name, *setting = keys
        listed = listed_instruments(self.values.get(generation))
        known = [str(values["id"]) for values in listed if isinstance(values, Mapping) and "id" in values]
        # Systems differ in whether names of variables have small letters.
        wanted = next((each for each in known if each.lower() == name), None)
        place = _place_of_variable(variable, ())
        if wanted is None:
            suggestion = f"there are: {', '.join(known)}" if known else f"[{generation}] has no instruments"
            self.problems.append(Problem(f"There is no instrument {name!r} in {generation}", suggestion, place))
            return
        for key in reversed(setting):
            value = {key: value}
        index = next(number for number, values in enumerate(listed) if values.get("id") == wanted)
        self._merge_table(listed[index], value, (generation, "instruments", index), (), lambda _: place)

    def _merge_table(
        self,
        into: dict[str, Any],
        values: Mapping[str, Any],
        path: Place,
        origin: Place,
        place_of: Callable[[Place], str],
    ) -> None:
        """Merge a table; `path` is where it goes to, `origin` where it stands in its own file."""
        for key, value in values.items():
            here, there = (*path, key), (*origin, key)
            self._places[here] = place_of(there)
            if isinstance(value, Mapping):
                if not isinstance(into.get(key), dict):
                    into[key] = {}
                self._merge_table(into[key], value, here, there, place_of)
            elif key == "instruments" and isinstance(value, list) and len(path) == 1:
                if not isinstance(into.get(key), list):
                    into[key] = []
                self._merge_instruments(into[key], value, here, there, place_of)
            else:
                into[key] = value

    def _merge_instruments(
        self,
        into: list[Any],
        values: list[Any],
        path: Place,
        origin: Place,
        place_of: Callable[[Place], str],
    ) -> None:
        """Merge instruments by id with those of *earlier* files; twice in one file is the user's mistake."""
        earlier = {known.get("id"): index for index, known in enumerate(into) if isinstance(known, dict)}
        for number, instrument in enumerate(values):
            is_table = isinstance(instrument, Mapping)
            index = earlier.pop(instrument.get("id"), None) if is_table else None
            if index is None:
                index = len(into)
                into.append({} if is_table else instrument)
            self._places[*path, index] = place_of((*origin, number))
            if is_table:
                self._merge_table(into[index], instrument, (*path, index), (*origin, number), place_of)

    def _note_syntax_error(self, path: Path, text: str, message: str) -> None:
        match = _SYNTAX_ERROR_PLACE.search(message)
        lines = text.splitlines() or [""]
        number = int(match["line"]) if match and match["line"] else len(lines)
        message = message[: match.start()] if match else message
        shown = lines[number - 1].strip() if number <= len(lines) else ""
        self._unreadable(
            f"TOML syntax: {message}", f"correct this line: {shown}" if shown else "see toml.io", f"{path}:{number}"
        )

    def _unreadable(self, message: str, suggestion: str, location: str) -> None:
        self.unreadable = True
        self.problems.append(Problem(message, suggestion, location))


def listed_instruments(table: object) -> list[Any]:
    """Return the instruments of a generation's table; none when it has no such list."""
    listed = table.get("instruments") if isinstance(table, Mapping) else None
    return listed if isinstance(listed, list) else []


def _place_of_variable(variable: str, _: Place) -> str:
    return f"environment variable {variable}"


def _value_of_variable(text: str) -> Any:
    """Read the variable as a TOML value; what is none is text, so that plain words need no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
