"""Configurations by file or by name of a profile, checked against the registry of devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from coexistence.config import DualConfig, Finding, Generation, InstrumentConfig
from devices import registry


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


def check_instrument(generation: Generation, instrument: InstrumentConfig) -> Iterator[Finding]:
    """Tell what the registry of devices finds wrong with a configured instrument."""
    if instrument.is_foreign:
        return
    yield from (Finding(*finding) for finding in registry.check(instrument.type, generation, instrument.options))
