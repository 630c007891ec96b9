"""The instruments there are, by type name, loaded when asked for."""

from __future__ import annotations

import importlib

from .errors import SpecError
from .instrument import Instrument

_CLASSES = {
    "Newport1830C": "newport1830c:Newport1830C",
    "ESP300": "esp300:ESP300",
    "MaiTai": "maitai:MaiTai",
    "ELL14": "elliptec:ELL14",
    "ScpiMeter": "scpi_meter:ScpiMeter",
}

ALIASES = {"Elliptec": "ELL14", "ScpiInstrument": "ScpiMeter"}
"""Names under which configurations know an instrument."""


def type_names() -> tuple[str, ...]:
    """List all type names, without the aliases."""
    return tuple(_CLASSES)


def instrument_class(type_name: str) -> type[Instrument]:
    """Find the class that simulates `type_name`.

    Raises:
        SpecError: there is no such type; the message suggests the closest.
    """
    try:
        module, _, name = _CLASSES[ALIASES.get(type_name, type_name)].partition(":")
    except KeyError:
        raise SpecError("unknown instrument type", type_name, (*_CLASSES, *ALIASES)) from None
    found: type[Instrument] = getattr(importlib.import_module(f"{__package__}.{module}"), name)
    return found
