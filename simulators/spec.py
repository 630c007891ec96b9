"""Specifications: what a simulation consists of, as plain data that travels as JSON."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from .errors import SpecError
from .registry import instrument_class

LINE_KEYS = ("baud_rate", "data_bits", "parity", "stop_bits", "flow_control")
WIRE_KEYS = {
    "serial": ("name", "kind", "instruments", "pace", *LINE_KEYS),
    "tcp": ("name", "kind", "instruments", "tcp_port"),
    "hislip": ("name", "kind", "instruments", "tcp_port"),
}
"""By the kind of a wire, what a specification may say of it."""
SPEC_KEYS = ("seed", "time_scale", "bench", "wires")


def default_instrument(type_name: str, **options: Any) -> dict[str, Any]:
    """Describe an instrument; `options` are those of the simulated instrument.

    Raises:
        SpecError: there is no such type, or it has no such option; the message suggests the closest.
    """
    check_options(f"a simulated {type_name}", instrument_class(type_name), options)
    return {"type": type_name, **options}


def default_wire(name: str, instruments: Iterable[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    """Describe a wire, set up as its first instrument leaves the factory.

    Args:
        name: what the wire is called in `ports`.
        instruments: as made by `default_instrument`.
        **settings: keys of a wire that shall differ, for example `baud_rate` or `pace`.
    """
    instruments = list(instruments)
    if not instruments:
        raise SpecError("no instruments on wire", name)
    wire = {**asdict(instrument_class(instruments[0]["type"]).line), **settings}
    if wire["kind"] != "serial":
        wire = {key: value for key, value in wire.items() if key not in LINE_KEYS}
    return {"name": name, **wire, "instruments": instruments}


def build_spec(
    wires: Iterable[dict[str, Any]],
    *,
    seed: int = 0,
    time_scale: float = 1.0,
    bench: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe these wires around one bench.

    Args:
        wires: as made by `default_wire`.
        seed: of all noise; the same seed gives the same noise.
        time_scale: below 1 everything is faster, lines and motion alike.
        bench: keyword arguments of `OpticalBench`.
    """
    return {"seed": seed, "time_scale": time_scale, "bench": bench or {}, "wires": list(wires)}


def check_options(what: str, made_by: Callable[..., Any], options: Iterable[str]) -> None:
    """Raise SpecError for the first option that what is made has none of."""
    parameters = inspect.signature(made_by).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise SpecError(f"{what} has no option", option, known)


def demo_spec(*, seed: int = 0, time_scale: float = 1.0) -> dict[str, Any]:
    """Describe a power meter behind a half-wave plate and a polarizer in ELL14 rotators."""
    rotators = [default_instrument("ELL14", address="2"), default_instrument("ELL14", address="3")]
    return build_spec(
        [default_wire("meter", [default_instrument("Newport1830C")]), default_wire("bus", rotators)],
        seed=seed,
        time_scale=time_scale,
    )
