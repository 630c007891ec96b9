"""Configurations by file or by name of a profile, checked against the registry of devices."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from coexistence.config import WIRE_KEYS, DualConfig, Finding, Generation, InstrumentConfig
from coexistence.errors import ConfigError, Problem
from devices import registry
from devices.protocols.errors import ValueRefused
from profiles.prompt_names import PARTS, PLAN_MODULES

KEYS_OF_MEDIUM = {
    "serial": ("serial_port", "resource"),
    "visa": ("resource", "serial_port"),
    "camera": ("camera_name",),
}
"""By what kind of wire a type needs, the keys that may name it."""

NAMES_AT_THE_PROMPT = (*PARTS, *PLAN_MODULES)
"""What no instrument can be called, because a session has something else of that name."""

_CLASS = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):[^\W\d]\w*\Z")


def load_configuration(*configurations: str | os.PathLike[str]) -> DualConfig:
    """Read TOML files, or profiles that come with the project by their name; later ones go over earlier ones.

    Raises
    ------
    ConfigError
        With all problems of all files, types and options of instruments included.
    """
    files = [find_configuration(configuration) for configuration in configurations]
    return DualConfig.load(*files, check=InstrumentChecks(), line_settings=line_settings)


def find_configuration(configuration: str | os.PathLike[str]) -> Path:
    """Return the file of a profile that comes with the project, or the path as it is.

    Raises
    ------
    ConfigError
        A name without folder and suffix is neither a file nor a profile.
    """
    path = Path(configuration)
    packaged = Path(__file__).parent / path / "config.toml"
    is_name = path.name == os.fspath(configuration) and not path.suffix
    if not is_name or path.is_file():
        return path
    if not packaged.is_file():
        if path.exists():
            return path
        profiles = sorted(found.parent.name for found in Path(__file__).parent.glob("*/config.toml"))
        suggestion = f"give the path of a TOML file, or one of the profiles {', '.join(profiles)}"
        raise ConfigError(Problem(f"There is no file {path.name!r}, and no profile of this name", suggestion, ""))
    return packaged


def line_settings(instrument: InstrumentConfig) -> Mapping[str, Any]:
    """Return how an instrument sets its serial line, as far as that can be told of what may be a wrong entry."""
    try:
        if registry.instrument_type(instrument.type).medium != "camera":
            return registry.line_settings(instrument.type, instrument.options)
    except (registry.UnknownInstrument, ValueError):
        pass
    return instrument.line_settings


class InstrumentChecks:
    """Tells what is wrong with the instruments of one configuration, asked one after the other."""

    def __init__(self) -> None:
        self._modules: dict[tuple[Generation, str | None, str], str] = {}

    def __call__(self, generation: Generation, instrument: InstrumentConfig) -> Iterator[Finding]:
        """Tell what is wrong with one instrument, by itself and beside those before it."""
        findings = list(check_instrument(generation, instrument))
        yield from findings
        if instrument.enabled and not findings and not instrument.is_foreign:
            yield from self._check_address(generation, instrument)

    def _check_address(self, generation: Generation, instrument: InstrumentConfig) -> Iterator[Finding]:
        """Find modules of a bus that nobody gave an address of their own: both would move the same one."""
        options: Any = registry.check_options(instrument.type, instrument.options)
        address = getattr(options, "address", None)
        if address is None:
            return
        wire = instrument.serial_device or instrument.resource
        first = self._modules.setdefault((generation, wire, address), instrument.id)
        if first != instrument.id:
            yield Finding(
                "address" if "address" in instrument.options else "",
                f"Instruments {first!r} and {instrument.id!r} are both at address {address!r} of {wire}",
                "give each the address of its own module",
            )


def check_instrument(generation: Generation, instrument: InstrumentConfig) -> Iterator[Finding]:
    """Tell what is wrong with a configured instrument by itself, as the registry of devices knows its type."""
    if instrument.id in NAMES_AT_THE_PROMPT:
        yield Finding(
            "id",
            f"Instrument ID {instrument.id!r} is the name of something else at the prompt",
            f"choose another one than {', '.join(NAMES_AT_THE_PROMPT)}",
        )
    if instrument.is_foreign:
        yield from _check_class(instrument)
        return
    try:
        known = registry.instrument_type(instrument.type)
    except registry.UnknownInstrument as unknown:
        yield Finding(
            "type",
            f"Unknown type {instrument.type!r} of instrument {instrument.id!r}",
            _suggestion(unknown.suggestions, registry.type_names()),
        )
        return
    keys = KEYS_OF_MEDIUM[known.medium]
    given = next((key for key in WIRE_KEYS if getattr(instrument, key)), None)
    if given is not None and given not in keys:
        yield Finding(
            given,
            f"Instrument {instrument.id!r} is of type {instrument.type}, which has no {given}",
            f"give its {' or '.join(keys)}",
        )
    if known.medium != "camera" and given == "resource" and instrument.serial_device is None:
        for option in instrument.line_settings:
            yield Finding(
                option,
                f"Option {option!r} of {instrument.type} {instrument.id!r} is for serial lines, and it is on "
                f"{instrument.resource}",
                "remove the line",
            )
    for key in ("args", "kwargs"):
        if getattr(instrument, key):
            yield Finding(
                key,
                f"{instrument.type} {instrument.id!r} takes no {key}",
                f"write its options as keys of [[{generation}.instruments]]; {key} are for package.module:Class",
            )
    yield from _check_options(instrument)


def _check_options(instrument: InstrumentConfig) -> Iterator[Finding]:
    try:
        options: Any = registry.check_options(instrument.type, instrument.options)
    except registry.OptionProblem as error:
        for option, problem in error.problems:
            key, *inside = option.split(".")
            value = reduce(_item, inside, instrument.options.get(key))
            text = problem[0].lower() + problem[1:]
            if inside and inside[-1] == "[key]":  # it is the name of an entry that is wrong
                option = ".".join((key, *inside[:-1]))
                yield Finding(
                    option, f"{option!r} of {instrument.type} {instrument.id!r} cannot be called so", _bare(text)
                )
                continue
            yield Finding(option, _cannot_be(instrument, option, value), _bare(text))
        return
    try:
        _check_values(options)
    except ValueRefused as refused:
        yield Finding(
            refused.setting, _cannot_be(instrument, refused.setting, refused.value), f"may be {refused.allowed}"
        )


def _check_values(options: Any) -> None:
    """Raise ValueRefused for what is of the right type and not what the instrument can be set to."""
    if not hasattr(options, "protocol"):
        return
    protocol = options.protocol()
    wanted = options.settings() if hasattr(options, "settings") else {}
    for name, value in wanted.items():
        protocol.fields[name].check(value)


def _cannot_be(instrument: InstrumentConfig, option: str, value: object) -> str:
    return f"Option {option!r} of {instrument.type} {instrument.id!r} cannot be {value!r}"


def _bare(text: str) -> str:
    return text.removeprefix("value error, ")


def _item(value: Any, key: str) -> Any:
    """Return what stands inside an option, as far as it has such a thing."""
    try:
        if isinstance(value, list | tuple):
            return value[int(key)]
        return value[key]
    except (LookupError, TypeError, ValueError):
        return value


def _check_class(instrument: InstrumentConfig) -> Iterator[Finding]:
    match = _CLASS.match(instrument.type)
    if match is None:
        yield Finding(
            "type",
            f"Type {instrument.type!r} of instrument {instrument.id!r} names no class",
            "write package.module:Class, ophyd_async.epics.motor:Motor for one",
        )
        return
    package = match["module"].partition(".")[0]
    # Only the package is looked for: looking for the module would import it.
    if importlib.util.find_spec(package) is None:
        yield Finding(
            "type",
            f"Type {instrument.type!r} of instrument {instrument.id!r}: there is no package {package!r}",
            "install it where this session runs, or correct its name",
        )
    for option in instrument.options:
        yield Finding(
            option,
            f"Option {option!r} of instrument {instrument.id!r} is not given to {instrument.type}",
            f"write kwargs = {{ {option} = ... }}",
        )


def _suggestion(close: tuple[str, ...], known: tuple[str, ...]) -> str:
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"
