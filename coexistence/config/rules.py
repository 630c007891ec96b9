"""What must hold between the instruments of a configuration, and for its directories."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coexistence.config.model import (
    GENERATIONS,
    LINE_SETTINGS,
    Generation,
    InstrumentCheck,
    InstrumentConfig,
    LineSettingsOf,
)
from coexistence.config.reader import did_you_mean
from coexistence.config.source import Source, listed_instruments
from coexistence.errors import Problem

if TYPE_CHECKING:
    from coexistence.config.dual import DualConfig


def problems_between_instruments(
    config: DualConfig, source: Source, line_settings: LineSettingsOf | None
) -> Iterator[Problem]:
    """Yield what is wrong with the instruments taken together."""
    if not config.v2.enabled and not config.v4.enabled:
        yield Problem(
            "Both generations are disabled",
            "set enabled = true in [v2] or in [v4]",
            source.location(("v4", "enabled")),
        )
    yield from _duplicate_ids(source)
    yield from _shadow_problems(config)
    yield from _line_conflicts(config, line_settings)
    yield from _baseline_problems(config, source)


def problems_found_by(check: InstrumentCheck, config: DualConfig) -> Iterator[Problem]:
    """Yield what somebody who knows the types finds wrong with each instrument, disabled ones included."""
    for generation in GENERATIONS:
        for instrument in config.generation(generation).instruments:
            for finding in check(generation, instrument):
                location = config.location(generation, instrument.id, finding.key)
                yield Problem(finding.message, finding.suggestion, location)


def storage_problems(config: DualConfig, source: Source) -> Iterator[Problem]:
    """Yield what is wrong with the directories the generations keep files in."""
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
                source.location((generation, "storage")),
            )
    if config.catalog_directory is not None and (
        reason := _not_writable(Path(os.path.realpath(config.catalog_directory)))
    ):
        yield Problem(
            f"The catalog's directory {str(config.catalog.directory)!r} cannot be used: {reason}",
            "choose a directory you may write to",
            source.location(("catalog", "directory")),
        )
    if len(resolved) < 2:
        return
    v2, v4 = resolved["v2"], resolved["v4"]
    if v2 == v4 or v2 in v4.parents or v4 in v2.parents:
        relation = "are the same directory" if v2 == v4 else "lie one inside the other"
        yield Problem(
            f"The storage directories of v2 and v4 {relation}: {v2} and {v4}",
            "give each generation a directory of its own, side by side",
            source.location(("v4", "storage")),
        )


def _duplicate_ids(source: Source) -> Iterator[Problem]:
    listed = [
        (generation, index, values["id"])
        for generation in GENERATIONS
        for index, values in enumerate(listed_instruments(source.values.get(generation)))
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
            source.location((generation, "instruments", index, "id")),
        )


def _free_name(wanted: str, taken: set[str]) -> str:
    if wanted not in taken:
        return wanted
    return next(name for number in range(2, len(taken) + 3) if (name := f"{wanted}_{number}") not in taken)


def _shadow_problems(config: DualConfig) -> Iterator[Problem]:
    known = {i.id: (generation, i) for generation in GENERATIONS for i in config.generation(generation).instruments}
    for generation in GENERATIONS:
        for instrument in config.generation(generation).instruments:
            if instrument.shadow_of is None:
                continue
            problem = _shadow_problem(generation, instrument, known)
            if problem is not None:
                message, suggestion = problem
                yield Problem(message, suggestion, config.location(generation, instrument.id, "shadow_of"))


def _shadow_problem(
    generation: Generation, instrument: InstrumentConfig, known: Mapping[str, tuple[Generation, InstrumentConfig]]
) -> tuple[str, str] | None:
    shadowed = instrument.shadow_of
    assert shadowed is not None
    other: Generation = "v2" if generation == "v4" else "v4"
    candidates = [name for name, (its, i) in known.items() if its == other and _comparable(i, instrument)]
    suggestion = f"name one of {other}: {', '.join(candidates)}" if candidates else "remove the line"
    if shadowed == instrument.id:
        return f"Instrument {instrument.id!r} shadows itself", suggestion
    if shadowed not in known:
        others = [name for name in known if name != instrument.id]
        return f"Instrument {instrument.id!r} shadows {shadowed!r}, which is no instrument", did_you_mean(
            shadowed, candidates or others
        )
    its_generation, target = known[shadowed]
    if its_generation == generation:
        return f"Instrument {instrument.id!r} shadows {shadowed!r}, which is of {generation} as well", suggestion
    if not _comparable(target, instrument):
        return (
            f"Instrument {instrument.id!r} is of type {instrument.type} and shadows {shadowed!r}, "
            f"which is of type {target.type}",
            suggestion,
        )
    if target.shadow_of == instrument.id and generation == "v4":
        return f"Instruments {shadowed!r} and {instrument.id!r} shadow each other", "remove one of the two lines"
    return None


def _comparable(one: InstrumentConfig, other: InstrumentConfig) -> bool:
    """Whether readings of the two may agree: of a class from elsewhere only its user can know."""
    return one.is_foreign or other.is_foreign or one.type == other.type


def _line_conflicts(config: DualConfig, line_settings: LineSettingsOf | None) -> Iterator[Problem]:
    # By port and setting: whoever states it first, and how.
    first_on: dict[str, dict[str, tuple[str, Any]]] = {}
    for generation, instrument in config.instruments():
        device = instrument.serial_device
        if device is None:
            continue
        settings = instrument.line_settings
        if line_settings is not None and not instrument.is_foreign:
            settings = {key: value for key, value in line_settings(instrument).items() if key in LINE_SETTINGS}
        for key, value in settings.items():
            first, present = first_on.setdefault(device, {}).setdefault(key, (instrument.id, value))
            if present == value:
                continue
            yield Problem(
                f"Instruments {first!r} and {instrument.id!r} are on one port, {device}, "
                f"with different {key}: {present!r} and {value!r}",
                "their types do not share a line; put one on a port of its own"
                if key == "terminator"
                else f"give both the same {key}",
                config.location(generation, instrument.id, key if key in instrument.options else "serial_port"),
            )


def _baseline_problems(config: DualConfig, source: Source) -> Iterator[Problem]:
    known = [i.id for generation in GENERATIONS for i in config.generation(generation).instruments]
    named = config.application.baseline
    for name in () if isinstance(named, bool) else named:
        if name not in known:
            yield Problem(
                f"The baseline names {name!r}, which is no instrument",
                did_you_mean(name, known),
                source.location(("application", "baseline")),
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
