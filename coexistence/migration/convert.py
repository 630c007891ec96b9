"""Converting configuration files: old flat ones, and the v2 sections of new ones."""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

from coexistence.config import DualConfig, Generation
from coexistence.migration.flat import convert_flat
from coexistence.migration.old_file import is_flat
from coexistence.migration.report import Conversion, ConversionRefused
from coexistence.migration.sections import convert_sections

Load = Callable[[Path], DualConfig]
"""Reads a file and raises :class:`ConfigError` with everything that is wrong with it."""


def convert_file(path: Path, load: Load, *, to: Generation = "v4", shadows: bool = False) -> Conversion:
    """Convert a configuration file; nothing is written.

    A flat file becomes one with sections. Of a file with sections, the instruments of v2 move to v4, and everything
    else stays as it stands; a file without any v2 instrument comes back as it is.

    Parameters
    ----------
    path
        The old file.
    load
        Reads and checks a file; the new text is one it accepts.
    to
        The section for the instruments. `"v2"` leaves the drivers as they are.
    shadows
        With `to="v2"`: give each instrument that has a type in both generations a twin in v4 which shadows it.

    Raises
    ------
    ConversionRefused
        The file cannot be read, is no TOML, or has problems that conversion does not mend; says what to do.
    """
    if shadows and to != "v2":
        raise ConversionRefused(str(path), "shadows stand beside instruments of v2", "Convert with --to v2 --shadows.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConversionRefused(str(path), f"it cannot be read ({error.strerror})", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise ConversionRefused(str(path), "it is not UTF-8 text", "Save it as UTF-8.") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConversionRefused(str(path), f"TOML syntax: {error}", "Correct that line.") from error

    def check(candidate: str) -> DualConfig:
        return _load_text(candidate, path, load)

    has_sections = any(isinstance(values.get(generation), dict) for generation in ("v2", "v4"))
    if is_flat(values) and has_sections:
        raise ConversionRefused(
            str(path),
            "it has old [instruments] and new [v2] or [v4] sections",
            "Put the old ones into a file of their own, convert that, and use both: files are merged.",
        )
    if is_flat(values):
        return convert_flat(text, values, check, path, to=to, shadows=shadows)
    return convert_sections(text, check, path, to=to, shadows=shadows)


def _load_text(text: str, path: Path, load: Load) -> DualConfig:
    """Check a text as the file it is to become: relative directories are those beside the old file."""
    beside = path.resolve().parent
    folder = beside if os.access(beside, os.W_OK) else Path(tempfile.gettempdir())
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".migrate-", suffix=".toml")
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        return load(draft)
    finally:
        draft.unlink()
