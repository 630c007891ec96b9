"""Configurations by file or by name of a profile, checked against the registry of devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from coexistence.config import DualConfig, Finding, Generation, InstrumentConfig
from devices import registry

_KEYS_OF_MEDIUM = {
    "serial": ("serial_port", "resource"),
    "visa": ("resource", "serial_port"),
    "camera": ("camera_name",),
}
_WIRE_KEYS = ("serial_port", "resource", "camera_name")


def load_configuration(*configurations: str | os.PathLike[str]) -> DualConfig:
    """Read TOML files, or profiles that come with the project by their name; later ones go over earlier ones.

    Raises
    ------
    ConfigError
        With all problems of all files, types and options of instruments included.
    """
    return DualConfig.load(*map(find_configuration, configurations), check=check_instrument)


def find_configuration(configuration: str | os.PathLike[str]) -> Path:
    """Return the file of a profile that comes with the project, or the path as it is."""
    path = Path(configuration)
    packaged = Path(__file__).parent / path / "config.toml"
    is_name = path.name == os.fspath(configuration) and not path.suffix
    return packaged if is_name and not path.is_file() and packaged.is_file() else path


def check_instrument(_: Generation, instrument: InstrumentConfig) -> Iterator[Finding]:
    """Tell what the registry of devices finds wrong with a configured instrument."""
    if instrument.is_foreign:
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
    keys = _KEYS_OF_MEDIUM[known.medium]
    given = next((key for key in _WIRE_KEYS if getattr(instrument, key)), None)
    if given is not None and given not in keys:
        yield Finding(
            given,
            f"Instrument {instrument.id!r} is a {instrument.type}, which has no {given}",
            f"give its {' or '.join(keys)}",
        )
    try:
        registry.check_options(instrument.type, instrument.options)
    except registry.OptionProblem as error:
        for option, problem in error.problems:
            value = instrument.options.get(option)
            yield Finding(
                option,
                f"Option {option!r} of {instrument.type} {instrument.id!r} cannot be {value!r}",
                problem[0].lower() + problem[1:],
            )


def _suggestion(close: tuple[str, ...], known: tuple[str, ...]) -> str:
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"
