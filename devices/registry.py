"""Instruments by the names they have in the configuration: class for each generation, options, line settings."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from devices.options import (
    ElliptecOptions,
    ESP300Options,
    InstrumentOptions,
    LineOptions,
    MaiTaiOptions,
    Newport1830COptions,
    PVCAMInstrumentOptions,
    ScpiInstrumentOptions,
    ScpiMeterOptions,
)

Generation = Literal["v2", "v4"]
Medium = Literal["serial", "visa", "camera"]

_CLOSE = 0.6


class UnknownInstrument(LookupError):
    """There is no instrument type of this name."""

    def __init__(self, type_name: str, known: tuple[str, ...]) -> None:
        self.type_name = type_name
        self.suggestions = close_matches(type_name, known)
        hint = f"Did you mean {' or '.join(self.suggestions)}?" if self.suggestions else f"Known: {', '.join(known)}."
        super().__init__(f"There is no instrument type {type_name!r}. {hint}")


class OptionProblem(ValueError):
    """Options of an instrument that cannot be right; all of them are listed."""

    def __init__(self, type_name: str, problems: tuple[tuple[str, str], ...]) -> None:
        self.type_name = type_name
        self.problems = problems
        listed = "; ".join(f"{option}: {problem}" for option, problem in problems)
        super().__init__(f"Options of {type_name}: {listed}.")


@dataclass(frozen=True)
class InstrumentType:
    """One type of instrument.

    Parameters
    ----------
    name
        As it stands in the configuration.
    medium
        What kind of wire it needs.
    module
        Name of the module in ``devices.v2`` and in ``devices.v4``, imported when a class is asked for.
    options
        Its options, the same for both generations.
    """

    name: str
    medium: Medium
    module: str
    options: type[InstrumentOptions]


_TYPES = {
    instrument.name: instrument
    for instrument in (
        InstrumentType("Newport1830C", "serial", "newport_1830c", Newport1830COptions),
        InstrumentType("Elliptec", "serial", "elliptec", ElliptecOptions),
        InstrumentType("ESP300", "serial", "esp300", ESP300Options),
        InstrumentType("MaiTai", "serial", "maitai", MaiTaiOptions),
        InstrumentType("ScpiInstrument", "visa", "scpi", ScpiInstrumentOptions),
        InstrumentType("ScpiMeter", "visa", "scpi", ScpiMeterOptions),
        InstrumentType("PVCAMInstrument", "camera", "pvcam", PVCAMInstrumentOptions),
    )
}


def type_names() -> tuple[str, ...]:
    """Return the names of all instrument types."""
    return tuple(_TYPES)


def instrument_type(type_name: str) -> InstrumentType:
    """Return what is known of an instrument type.

    Raises
    ------
    UnknownInstrument
        With close matches.
    """
    try:
        return _TYPES[type_name]
    except KeyError:
        raise UnknownInstrument(type_name, type_names()) from None


def device_class(type_name: str, generation: Generation) -> type:
    """Return the device class of an instrument type; only the generation asked for is imported.

    Parameters
    ----------
    type_name
        As in the configuration, or ``package.module:Class`` for one's own.
    generation
        ``v2`` or ``v4``.

    Raises
    ------
    UnknownInstrument
        When there is none of this name.
    """
    if ":" in type_name:
        module_name, _, class_name = type_name.partition(":")
    else:
        instrument = instrument_type(type_name)
        module_name, class_name = f"devices.{generation}.{instrument.module}", instrument.name
    cls: type = getattr(importlib.import_module(module_name), class_name)
    return cls


def check_options(type_name: str, options: dict[str, Any]) -> InstrumentOptions:
    """Return the options of an instrument type, with its defaults.

    Raises
    ------
    OptionProblem
        Naming every option that is unknown or out of range, with close matches.
    """
    model = instrument_type(type_name).options
    try:
        return model(**options)
    except ValidationError as error:
        problems = []
        for detail in error.errors():
            option = ".".join(map(str, detail["loc"]))
            problem = detail["msg"]
            if detail["type"] == "extra_forbidden":
                matches = close_matches(option, tuple(model.model_fields))
                problem = "there is no such option" + (f", did you mean {' or '.join(matches)}?" if matches else "")
            problems.append((option, problem))
        raise OptionProblem(type_name, tuple(problems)) from None


def line_settings(type_name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the line settings of an instrument for :class:`coexistence.SharedSerialPort`.

    Parameters
    ----------
    type_name
        As in the configuration.
    options
        The instrument's options; those that are not about the line do not matter.

    Raises
    ------
    TypeError
        When the instrument is never on a serial line.
    """
    instrument = instrument_type(type_name)
    if not issubclass(instrument.options, LineOptions):
        raise TypeError(f"{type_name} is never on a serial line.")
    chosen, _ = instrument.options.split(options)
    return chosen.line_settings()


def close_matches(name: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return the known names that look like this one, best first."""
    lowered = {candidate.lower(): candidate for candidate in known}
    return tuple(lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, cutoff=_CLOSE))
