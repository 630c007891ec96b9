"""Models made of merged values piece by piece, so that one wrong piece hides no other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from coexistence.config.model import WIRE_KEYS, Generation, GenerationConfig, InstrumentConfig, Section
from coexistence.config.source import Source, listed_instruments
from coexistence.config.toml_positions import Place
from coexistence.errors import ConfigError, Problem
from coexistence.visa_resource import VisaResource

Model = TypeVar("Model", bound=BaseModel)
SectionModel = TypeVar("SectionModel", bound=Section)

OLD_FORM = "instruments"
"""The table that flat files of old programs have for each instrument, `[instruments.<id>]`."""


class Reader:
    """Reads sections and instruments; what is wrong with them is collected in `problems`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.problems: list[Problem] = []

    def section(self, model: type[SectionModel], name: str) -> SectionModel:
        """Return a section, with defaults throughout when it cannot be read."""
        return self._read(model, self._table(name), (name,)) or model()

    def generation(self, name: Generation) -> GenerationConfig:
        """Return a generation with the instruments that can be read."""
        table = self._table(name)
        instruments = []
        for index, values in enumerate(listed_instruments(table)):
            path = (name, "instruments", index)
            if not isinstance(values, Mapping):
                self._note(f"{values!r} is no instrument", f"begin each instrument with [[{name}.instruments]]", path)
                continue
            instrument = self._read(InstrumentConfig, values, path)
            if instrument is not None:
                instruments.append(instrument)
                self._check_wire(instrument, path)
        settings = {key: value for key, value in table.items() if key != "instruments"}
        if not isinstance(table.get("instruments", []), list):
            self._note(
                f"The instruments of {name} are {table['instruments']!r}, which is no list",
                f"begin each instrument with [[{name}.instruments]], in double brackets",
                (name, "instruments"),
            )
        section = self._read(GenerationConfig, settings, (name,)) or GenerationConfig()
        return section.model_copy(update={"instruments": tuple(instruments)})

    def unknown_sections(self, known: list[str]) -> Iterator[Problem]:
        """Yield a problem for each section that is none."""
        for name in self._source.values:
            if name in known:
                continue
            location = self._source.location((name,))
            suggestion = did_you_mean(name, known)
            if name == OLD_FORM:
                suggestion = f"convert an old file: tandem config migrate {location.rpartition(':')[0]} -o NEW.toml"
            yield Problem(f"Unknown section [{name}]", suggestion, location)

    def _table(self, name: str) -> Mapping[str, Any]:
        table = self._source.values.get(name, {})
        if isinstance(table, Mapping):
            return table
        self._note(f"{name} = {table!r} is no section", f"write [{name}] on a line of its own", (name,))
        return {}

    def _read(self, model: type[Model], values: Mapping[str, Any], path: Place) -> Model | None:
        try:
            return model.model_validate(dict(values))
        except ValidationError as errors:
            for error in errors.errors(include_url=False):
                self._note_invalid(model, values, error["type"], error["msg"], error["loc"], path)
            return None

    def _note_invalid(
        self,
        model: type[BaseModel],
        values: Mapping[str, Any],
        kind: str,
        text: str,
        place: Place,
        path: Place,
    ) -> None:
        key = str(place[0]) if place else ""
        what = f"instrument {values['id']!r}" if values.get("id") and len(path) > 1 else _shown_path(path)
        if kind == "missing":
            self._note(f"{key!r} is missing in {what}", f"add a line: {key} = ...", path)
        elif kind == "extra_forbidden":
            known = [name for name in model.model_fields if name != "instruments"]
            self._note(f"Unknown setting {key!r} in {what}", did_you_mean(key, known), (*path, key))
        else:
            text = text.removeprefix("Value error, ")
            text = text[0].lower() + text[1:]
            self._note(f"{key!r} in {what} cannot be {values.get(key)!r}", text, (*path, key))

    def _check_wire(self, instrument: InstrumentConfig, path: Place) -> None:
        given = [key for key in WIRE_KEYS if getattr(instrument, key)]
        if not given and not instrument.is_foreign:
            self._note(
                f"Instrument {instrument.id!r} names no wire",
                "add one of serial_port, resource, camera_name",
                path,
            )
        if len(given) > 1:
            self._note(
                f"Instrument {instrument.id!r} names several wires: {', '.join(given)}",
                "keep the one it is connected to",
                (*path, given[1]),
            )
        if instrument.resource:
            self._check_resource(instrument.id, instrument.resource, path)
        if instrument.serial_port:
            self._check_port(instrument.id, instrument.serial_port, path)

    def _check_resource(self, instrument_id: str, resource: str, path: Place) -> None:
        try:
            VisaResource.parse(resource)
        except ConfigError as error:
            (problem,) = error.problems
            reason = problem.message.partition(": ")[2]
            self._note(
                f"Malformed VISA resource {resource!r} of instrument {instrument_id!r}: {reason}",
                problem.suggestion,
                (*path, "resource"),
            )

    def _check_port(self, instrument_id: str, port: str, path: Place) -> None:
        from coexistence.serial_transport import check_path  # loads pyserial

        for problem in check_path(port):
            self._note(
                f"Malformed serial port of instrument {instrument_id!r}: {problem.message}",
                problem.suggestion,
                (*path, "serial_port"),
            )

    def _note(self, message: str, suggestion: str, path: Place) -> None:
        self.problems.append(Problem(message, suggestion, self._source.location(path)))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a suggestion: the known word that looks like this one, else all known words."""
    known = list(known)
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known are: {', '.join(known)}" if known else "remove it"


def _shown_path(path: Place) -> str:
    return f"[[{path[0]}.{path[1]}]]" if len(path) > 1 else f"[{path[0]}]"
