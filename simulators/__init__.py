"""Byte-level simulated instruments on ptys and TCP sockets, looking at one optical bench."""

from .errors import SimulatorError, SpecError
from .process import SimulatorProcess
from .spec import build_spec, default_instrument, default_wire, demo_spec

__all__ = [
    "SimulatorError",
    "SimulatorProcess",
    "SpecError",
    "build_spec",
    "default_instrument",
    "default_wire",
    "demo_spec",
]
