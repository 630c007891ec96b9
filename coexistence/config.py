"""The configuration of a bench: TOML files in, one checked `DualConfig` out.

Loading checks everything that the files can tell and reports all problems together, each with a suggestion and
`file:line`. Whether ports exist is not asked here but by :meth:`DualConfig.hardware_problems`, because a
configuration is also read on machines that have none of the hardware.
"""

from __future__ import annotations

import hashlib
import json
import keyword
import os
import re
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PrivateAttr,
    ValidationError,
    field_validator,
)

from coexistence.errors import ConfigError, Problem
from coexistence.toml_positions import Place, line_numbers, nearest_line

Generation = Literal["v2", "v4"]
GENERATIONS: tuple[Generation, ...] = ("v2", "v4")
ENVIRONMENT_PREFIX = "TANDEM__"

LINE_SETTINGS = frozenset({"baud_rate", "data_bits", "stop_bits", "parity", "flow_control", "terminator"})
"""Options of an instrument that belong to its serial line; instruments on one port must agree in them."""

_WIRE_KEYS = ("serial_port", "resource", "camera_name")
_SYNTAX_ERROR_PLACE = re.compile(r"\s*\(at (?:line (?P<line>\d+), column \d+|end of document)\)$")
_SERIAL_RESOURCE = re.compile(r"^ASRL(?P<device>.+?)(?:::INSTR)?$", re.IGNORECASE)

LowerCase = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
LogLevel = Annotated[Literal["debug", "info", "warning", "error", "critical"], LowerCase]


class Finding(NamedTuple):
    """What somebody who knows the instrument types has to say about one instrument.

    `key` is the setting it is about; the line it stands on is added when the finding is reported.
    """

    key: str
    message: str
    suggestion: str


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=BaseModel)
SectionModel = TypeVar("SectionModel", bound=_Section)


class ApplicationConfig(_Section):
    """The section `[application]`; operator, sample and proposal go into every start document.

    `visa_backend` is `@py` (pyvisa-py, needs no vendor software), `@ivi` (a vendor's VISA) or `@sim` (pyvisa-sim).
    """

    name: str = "bench"
    log_level: LogLevel = "info"
    visa_backend: Literal["@py", "@ivi", "@sim"] = "@py"
    operator: str | None = None
    sample: str | None = None
    proposal: str | None = None


class CatalogConfig(_Section):
    """The section `[catalog]`: where runs are kept, and whether the server stays when the last session has left."""

    directory: Path | None = None
    keep_running: bool = False


class SimulationConfig(_Section):
    """The section `[simulation]`: the bench that stands in for the wires when they are simulated.

    `seed` is that of all noise; `time_scale` below 1 makes lines and motion faster; `bench` describes the optics.
    """

    seed: int = 0
    time_scale: PositiveFloat = 1.0
    bench: dict[str, Any] = Field(default_factory=dict)


class InstrumentConfig(BaseModel):
    """One `[[v2.instruments]]` or `[[v4.instruments]]`: who it is, the wire it is on, and its own options.

    `type` is a name from the registry of devices, or `package.module:Class` for a class from elsewhere, which is
    called with `args` and `kwargs`. What has no field here is an option of the type, see :attr:`options`.
    `timeout` is the time one exchange may take, `connect_timeout` the time to connect, both in seconds.
    `simulation` are options of the simulated instrument that takes its place when wires are simulated.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str
    type: str
    enabled: bool = True
    serial_port: str | None = None
    resource: str | None = None
    camera_name: str | None = None
    shadow_of: str | None = None
    timeout: PositiveFloat = 1.0
    connect_timeout: PositiveFloat = 10.0
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = Field(default_factory=dict)
    simulation: dict[str, Any] = Field(default_factory=dict)

    @field_validator("id")
    @classmethod
    def _id_is_a_name(cls, value: str) -> str:
        # The id is a variable at the prompt and the first part of column names.
        if not value.isidentifier() or keyword.iskeyword(value):
            raise ValueError("must be a name of letters, digits and underscores that does not begin with a digit")
        return value

    @property
    def options(self) -> dict[str, Any]:
        """The settings that belong to the type of the instrument, those of its serial line among them."""
        return dict(self.model_extra or {})

    @property
    def line_settings(self) -> dict[str, Any]:
        """The options that state how the serial line is set."""
        return {key: value for key, value in self.options.items() if key in LINE_SETTINGS}

    @property
    def is_foreign(self) -> bool:
        """Whether the type is a class from elsewhere, given as `package.module:Class`."""
        return ":" in self.type

    @property
    def wire(self) -> str | None:
        """What the instrument is connected to, as the file says it; None for a class that needs no wire."""
        return self.serial_port or self.resource or self.camera_name

    @property
    def serial_device(self) -> str | None:
        """The serial port, symlinks resolved, also when it is given as an `ASRL` resource."""
        device = self.serial_port
        if device is None and self.resource and (match := _SERIAL_RESOURCE.match(self.resource)):
            device = match["device"]
        if device is None or not device.startswith("/"):
            return device
        return os.path.realpath(device)


class GenerationConfig(_Section):
    """The section `[v2]` or `[v4]`; `shutdown_timeout` (s) is what its instruments get to stop."""

    enabled: bool = True
    storage: Path | None = None
    shutdown_timeout: PositiveFloat | None = None
    instruments: tuple[InstrumentConfig, ...] = ()

    @property
    def active_instruments(self) -> tuple[InstrumentConfig, ...]:
        """The instruments that are to be started: none of a disabled generation."""
        return tuple(i for i in self.instruments if i.enabled) if self.enabled else ()


InstrumentCheck = Callable[[Generation, InstrumentConfig], Iterable[Finding]]


class DualConfig(_Section):
    """What is on the bench, in both generations.

    Use :meth:`load` for files and :meth:`from_mapping` for values made in code: both report every problem at once.
    """

    application: ApplicationConfig = ApplicationConfig()
    v2: GenerationConfig = GenerationConfig()
    v4: GenerationConfig = GenerationConfig()
    catalog: CatalogConfig = CatalogConfig()
    simulation: SimulationConfig = SimulationConfig()

    _source: _Source = PrivateAttr(default_factory=lambda: _Source())

    @classmethod
    def load(
        cls,
        *paths: str | os.PathLike[str],
        environment: Mapping[str, str] | None = None,
        check: InstrumentCheck | None = None,
    ) -> DualConfig:
        """Read one or several TOML files, later ones over earlier ones, and the environment over all.

        Sections are merged key by key, instruments by their id. A variable such as `TANDEM__V4__ENABLED=false`
        overrides `enabled` in `[v4]`. Relative directories are relative to the first file's folder.

        Parameters
        ----------
        paths
            At least one file.
        environment
            Variables to look into; `os.environ` unless given.
        check
            Asked for its findings about every instrument, so that unknown types and options are reported
            together with everything else.

        Raises
        ------
        ConfigError
            With all problems of all files.
        """
        source = _Source()
        for path in paths:
            source.add_file(Path(path))
        source.add_environment(os.environ if environment is None else environment)
        return cls._build(source, check)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], check: InstrumentCheck | None = None) -> DualConfig:
        """Check values made in code; they have the structure of the file.

        Raises
        ------
        ConfigError
            With all problems.
        """
        source = _Source()
        source.merge(values)
        return cls._build(source, check)

    @classmethod
    def _build(cls, source: _Source, check: InstrumentCheck | None) -> DualConfig:
        reader = _Reader(source)
        config = cls(
            application=reader.section(ApplicationConfig, "application"),
            v2=reader.generation("v2"),
            v4=reader.generation("v4"),
            catalog=reader.section(CatalogConfig, "catalog"),
            simulation=reader.section(SimulationConfig, "simulation"),
        )
        config._source = source
        problems = [*source.problems, *reader.unknown_sections(), *reader.problems]
        # Without a readable file there is nothing more to say about it.
        if not source.unreadable:
            problems += _problems_between_instruments(config)
            problems += _storage_problems(config)
            if check is not None:
                problems += _problems_found_by(check, config)
        if problems:
            raise ConfigError(*sorted(problems, key=lambda problem: _by_place(problem, source)))
        return config

    def instruments(self) -> Iterator[tuple[Generation, InstrumentConfig]]:
        """Yield every instrument that is to be started, with its generation."""
        for generation in GENERATIONS:
            for instrument in self.generation(generation).active_instruments:
                yield generation, instrument

    def generation(self, name: Generation) -> GenerationConfig:
        """Return the section `[v2]` or `[v4]`."""
        return self.v2 if name == "v2" else self.v4

    @property
    def files(self) -> tuple[Path, ...]:
        """The files this configuration was read from."""
        return tuple(self._source.files)

    @property
    def catalog_directory(self) -> Path | None:
        """Where runs are kept according to `[catalog]`, as an absolute path; None when the file leaves it open."""
        return self._absolute(self.catalog.directory)

    @property
    def storage_directories(self) -> dict[Generation, Path | None]:
        """Where each generation keeps files according to `storage`, as absolute paths."""
        return {name: self._absolute(self.generation(name).storage) for name in GENERATIONS}

    def _absolute(self, directory: Path | None) -> Path | None:
        return None if directory is None else self._source.folder / directory.expanduser()

    @property
    def fingerprint(self) -> str:
        """A hash of every setting: equal for configurations that mean the same, whatever their files look like."""
        settings = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(settings.encode()).hexdigest()

    def location(self, generation: Generation, instrument_id: str, key: str = "") -> str:
        """Return `file:line` of an instrument or one of its settings; empty when it was not read from a file."""
        return self._source.location(self._source.instrument_path(generation, instrument_id, key))

    def hardware_problems(self) -> list[Problem]:
        """Look for the serial ports of all enabled instruments on this machine; return what is missing."""
        problems = []
        for generation, instrument in self.instruments():
            device = instrument.serial_device
            if device is None or not device.startswith("/") or os.path.exists(device):
                continue
            key = "serial_port" if instrument.serial_port else "resource"
            problems.append(
                Problem(
                    f"Serial port {device!r} of instrument {instrument.id!r} does not exist",
                    _suggest_port(device),
                    self.location(generation, instrument.id, key),
                )
            )
        return problems


class _Source:
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
        self.files.append(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            self._unreadable(f"The configuration cannot be read: {reason}", "give the path of a TOML file", str(path))
            return
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            self._note_syntax_error(path, text, str(error))
            return
        lines = line_numbers(text)
        self.merge(values, lambda place: f"{path}:{nearest_line(lines, place) or 1}")

    def add_environment(self, environment: Mapping[str, str]) -> None:
        for variable, text in environment.items():
            if not variable.startswith(ENVIRONMENT_PREFIX):
                continue
            keys = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            value: Any = _value_of_variable(text)
            for key in reversed(keys):
                value = {key: value}
            self.merge(value, partial(_place_of_variable, variable))

    def merge(self, values: Mapping[str, Any], place_of: Callable[[Place], str] | None = None) -> None:
        self._merge_table(self.values, values, (), (), place_of or (lambda _: ""))

    def location(self, path: Place) -> str:
        """Return where the value at `path` of the merged values stands, or the table around it."""
        while path:
            if path in self._places:
                return self._places[path]
            path = path[:-1]
        return str(self.files[0]) if self.files else ""

    def instrument_path(self, generation: Generation, instrument_id: str, key: str) -> Place:
        for index, values in enumerate(_listed_instruments(self.values.get(generation))):
            if isinstance(values, Mapping) and values.get("id") == instrument_id:
                path: Place = (generation, "instruments", index)
                return (*path, key) if key else path
        return (generation,)

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


class _Reader:
    """Makes models of the merged values piece by piece, so that one wrong piece hides no other."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self.problems: list[Problem] = []

    def section(self, model: type[SectionModel], name: str) -> SectionModel:
        return self._read(model, self._table(name), (name,)) or model()

    def generation(self, name: Generation) -> GenerationConfig:
        table = self._table(name)
        listed = _listed_instruments(table)
        instruments = []
        for index, values in enumerate(listed):
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
            settings["instruments"] = table["instruments"]
        section = self._read(GenerationConfig, settings, (name,)) or GenerationConfig()
        return section.model_copy(update={"instruments": tuple(instruments)})

    def unknown_sections(self) -> Iterator[Problem]:
        known = list(DualConfig.model_fields)
        for name in self._source.values:
            if name not in known:
                yield Problem(f"Unknown section [{name}]", _did_you_mean(name, known), self._source.location((name,)))

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
            self._note(f"Unknown setting {key!r} in {what}", _did_you_mean(key, known), (*path, key))
        else:
            text = text.removeprefix("Value error, ")
            text = text[0].lower() + text[1:]
            self._note(f"{key!r} in {what} cannot be {values.get(key)!r}", text, (*path, key))

    def _check_wire(self, instrument: InstrumentConfig, path: Place) -> None:
        given = [key for key in _WIRE_KEYS if getattr(instrument, key)]
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

    def _check_resource(self, instrument_id: str, resource: str, path: Place) -> None:
        from pyvisa.rname import InvalidResourceName, ResourceName  # takes 0.2 s, and most files need it not

        try:
            ResourceName.from_string(resource)
        except InvalidResourceName as error:
            reason = str(error).split("\n")[0].rstrip(".")
            self._note(
                f"Malformed VISA resource {resource!r} of instrument {instrument_id!r}: {reason}",
                "write it like TCPIP0::192.168.1.100::INSTR, TCPIP0::192.168.1.100::5025::SOCKET, "
                "GPIB0::20::INSTR or ASRL/dev/ttyUSB0::INSTR",
                (*path, "resource"),
            )

    def _note(self, message: str, suggestion: str, path: Place) -> None:
        self.problems.append(Problem(message, suggestion, self._source.location(path)))


def _problems_between_instruments(config: DualConfig) -> Iterator[Problem]:
    source = config._source
    if not config.v2.enabled and not config.v4.enabled:
        yield Problem(
            "Both generations are disabled",
            "set enabled = true in [v2] or in [v4]",
            source.location(("v4", "enabled")),
        )
    yield from _duplicate_ids(config)
    ids = [instrument.id for name in GENERATIONS for instrument in config.generation(name).instruments]
    settings_of: dict[str, tuple[str, dict[str, Any]]] = {}
    for generation, instrument in config.instruments():
        shadowed = instrument.shadow_of
        if shadowed is not None and (shadowed not in ids or shadowed == instrument.id):
            others = [name for name in ids if name != instrument.id]
            yield Problem(
                f"Instrument {instrument.id!r} shadows {shadowed!r}, which is no other instrument",
                _did_you_mean(shadowed, others),
                config.location(generation, instrument.id, "shadow_of"),
            )
        if instrument.serial_device is None:
            continue
        first_id, first_settings = settings_of.setdefault(
            instrument.serial_device, (instrument.id, dict(instrument.line_settings))
        )
        for key, value in instrument.line_settings.items():
            if first_settings.setdefault(key, value) != value:
                yield Problem(
                    f"Instruments {first_id!r} and {instrument.id!r} are on one port, {instrument.serial_device}, "
                    f"with different {key}: {first_settings[key]!r} and {value!r}",
                    f"give both the same {key}",
                    config.location(generation, instrument.id, key),
                )


def _duplicate_ids(config: DualConfig) -> Iterator[Problem]:
    listed = [
        (generation, index, values["id"])
        for generation in GENERATIONS
        for index, values in enumerate(_listed_instruments(config._source.values.get(generation)))
        if isinstance(values, Mapping) and isinstance(values.get("id"), str)
    ]
    taken = {name for _, _, name in listed}
    first_generation: dict[str, Generation] = {}
    for generation, index, name in listed:
        if name not in first_generation:
            first_generation[name] = generation
            continue
        first = first_generation[name]
        where = generation if first == generation else f"both {first} and {generation}"
        new_name = _free_name(f"{name}_{generation}", taken)
        taken.add(new_name)
        yield Problem(
            f"Duplicate instrument ID {name!r} in {where}",
            f"rename to {new_name!r} in the {generation} section",
            config._source.location((generation, "instruments", index, "id")),
        )


def _free_name(wanted: str, taken: set[str]) -> str:
    if wanted not in taken:
        return wanted
    return next(name for number in range(2, len(taken) + 3) if (name := f"{wanted}_{number}") not in taken)


def _storage_problems(config: DualConfig) -> Iterator[Problem]:
    resolved: dict[Generation, Path] = {}
    for generation, directory in config.storage_directories.items():
        if directory is None:
            continue
        storage = config.generation(generation).storage
        resolved[generation] = path = Path(os.path.realpath(directory))
        if reason := _not_writable(path):
            yield Problem(
                f"Storage directory {str(storage)!r} of {generation} cannot be used: {reason}",
                "choose a directory you may write to",
                config._source.location((generation, "storage")),
            )
    if len(resolved) < 2:
        return
    v2, v4 = resolved["v2"], resolved["v4"]
    if v2 == v4 or v2 in v4.parents or v4 in v2.parents:
        relation = "are the same directory" if v2 == v4 else "lie one inside the other"
        yield Problem(
            f"The storage directories of v2 and v4 {relation}: {v2} and {v4}",
            "give each generation a directory of its own, side by side",
            config._source.location(("v4", "storage")),
        )


def _not_writable(directory: Path) -> str:
    """Return why files cannot be made in a directory, which need not exist yet; empty when they can."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir():
        return f"{existing} is no directory"
    try:
        # os.access() tells what the mode bits say, not whether the file system is mounted read-only.
        with tempfile.TemporaryFile(dir=existing):
            return ""
    except OSError as error:
        return f"{existing}: {error.strerror}"


def _problems_found_by(check: InstrumentCheck, config: DualConfig) -> Iterator[Problem]:
    for generation in GENERATIONS:
        for instrument in config.generation(generation).instruments:
            for finding in check(generation, instrument):
                location = config.location(generation, instrument.id, finding.key)
                yield Problem(finding.message, finding.suggestion, location)


def _listed_instruments(table: object) -> list[Any]:
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


def _shown_path(path: Place) -> str:
    return f"[[{path[0]}.{path[1]}]]" if len(path) > 1 else f"[{path[0]}]"


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    known = list(known)
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known are: {', '.join(known)}" if known else "remove it"


def _suggest_port(missing: str) -> str:
    from serial.tools.list_ports import comports  # looks into every USB device's folder when imported on Linux

    present = sorted(port.device for port in comports())
    return f"present are: {', '.join(present)}" if present else f"connect the adapter; {missing} appears with it"


def _by_place(problem: Problem, source: _Source) -> tuple[int, int]:
    file, _, line = problem.location.rpartition(":")
    files = [str(path) for path in source.files]
    return (files.index(file) if file in files else len(files), int(line) if line.isdigit() else 0)
