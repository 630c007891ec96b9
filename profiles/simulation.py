"""Simulated instruments in place of a configuration's wires."""

from __future__ import annotations

import re
from types import TracebackType
from typing import TYPE_CHECKING, Any

from coexistence.config import DualConfig, InstrumentConfig
from coexistence.errors import ConfigError, Problem
from coexistence.visa_resource import VisaResource
from devices import registry
from profiles.hardware import line_settings
from simulators import SimulatorProcess
from simulators.errors import SpecError
from simulators.optics import OpticalBench
from simulators.spec import LINE_KEYS, build_spec, check_options, default_instrument, default_wire

if TYPE_CHECKING:
    from devices.cameras import CameraLibrary

_PHYSICAL_OPTIONS = ("address",)
"""Options that the simulated instrument must share with the driver to be found by it."""

SIMULATED_TIMEOUT_S = 4.0


class SimulatedBench:
    """Runs a simulated instrument for each one a configuration names, in a process of its own.

    Two entries of one type and address on one wire, say one of each generation, are one simulated instrument.
    Classes from elsewhere (`package.module:Class`) are left as they are.

    Parameters
    ----------
    config
        The configuration whose wires are to be replaced.

    Raises
    ------
    ConfigError
        With every instrument that cannot be simulated.
    """

    def __init__(self, config: DualConfig) -> None:
        self._config = config
        self._name_of: dict[str, str] = {}
        wires: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {}
        lines: dict[str, dict[str, Any]] = {}
        problems = []
        for generation, instrument in config.instruments():
            wire = _wire_of(instrument)
            if wire is None:
                continue
            try:
                options = _physical_options(instrument)
                line = _line_of(instrument)
                simulated = default_instrument(instrument.type, **options, **instrument.simulation)
            except (SpecError, registry.UnknownInstrument) as error:
                is_option = isinstance(error, SpecError) and error.name in instrument.simulation
                problems.append(
                    Problem(
                        f"Instrument {instrument.id!r} cannot be simulated: {error}",
                        "correct its simulation = { ... }"
                        if is_option
                        else "disable it, or open the session without simulation",
                        config.location(generation, instrument.id, "simulation" if is_option else "type"),
                    )
                )
                continue
            name = self._name_of.setdefault(wire, _wire_name(wire, self._name_of))
            physical = (instrument.type, *options.values())
            wires.setdefault(name, {}).setdefault(physical, {}).update(simulated)
            lines[name] = line
        simulation = config.simulation
        try:
            check_options("the simulated bench", OpticalBench, simulation.bench)
        except SpecError as error:
            where = config.location_of("simulation", "bench", error.name)
            problems.append(Problem(f"Simulation: {error}", "correct bench in [simulation]", where))
        if problems:
            raise ConfigError(*problems)
        self._simulators = SimulatorProcess(
            build_spec(
                [default_wire(name, instruments.values(), **lines[name]) for name, instruments in wires.items()],
                seed=simulation.seed,
                time_scale=simulation.time_scale,
                bench=simulation.bench,
            )
        )

    def start(self) -> None:
        """Start the process and wait until its ports can be opened."""
        self._simulators.start()

    def close(self) -> None:
        """End the process; its ports vanish."""
        self._simulators.close()

    def __enter__(self) -> SimulatedBench:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def process(self) -> SimulatorProcess:
        """The process, for the true state of the bench and for faults."""
        return self._simulators

    def cameras(self) -> CameraLibrary:
        """Return cameras that look at the bench, by the names the configuration has for them."""
        from devices.cameras import GivenCameras
        from simulators.camera import SimulatedCamera

        simulation = self._config.simulation
        made = {
            instrument.camera_name: SimulatedCamera(
                instrument.camera_name,
                power_w=lambda: self._simulators.truth()["bench"]["power_w"],
                seed=simulation.seed,
                time_scale=simulation.time_scale,
                **instrument.simulation,
            )
            for _, instrument in self._config.instruments()
            if instrument.camera_name is not None
        }
        return GivenCameras(*made.values())

    def port_of(self, instrument: InstrumentConfig) -> str | None:
        """Return the path of the instrument's pty, or its `host:port`; None when it is on no simulated wire."""
        wire = _wire_of(instrument)
        return None if wire is None else self._simulators.ports[self._name_of[wire]]

    def resource_of(self, instrument: InstrumentConfig) -> str | None:
        """Return the VISA resource of the instrument's simulated wire; None when it is on none."""
        port = self.port_of(instrument)
        if port is None:
            return None
        host, _, number = port.rpartition(":")
        if not host:
            return f"ASRL{port}::INSTR"
        is_message_based = _line_of(instrument)["kind"] == "hislip"
        return f"TCPIP0::{host}::hislip0,{number}::INSTR" if is_message_based else f"TCPIP0::{host}::{number}::SOCKET"

    def replace_wire(self, instrument: InstrumentConfig) -> InstrumentConfig:
        """Return the instrument's configuration with the simulated wire in place of its own.

        Unless the configuration says how long to wait for an answer, it is longer than from a real instrument, which
        does not share the computer's processors with whatever else is going on there.
        """
        patience = {} if "timeout" in instrument.model_fields_set else {"timeout": SIMULATED_TIMEOUT_S}
        if instrument.serial_port and not instrument.is_foreign:
            return instrument.model_copy(update={"serial_port": self.port_of(instrument), **patience})
        resource = self.resource_of(instrument)
        return instrument if resource is None else instrument.model_copy(update={"resource": resource, **patience})


def _wire_of(instrument: InstrumentConfig) -> str | None:
    """Return what the instrument shares with others on its wire; None when it is on none that carries bytes."""
    return None if instrument.is_foreign else instrument.serial_device or instrument.resource


def _physical_options(instrument: InstrumentConfig) -> dict[str, Any]:
    """Return what the simulated instrument shares with the driver, defaults of its type included."""
    options = registry.check_options(instrument.type, instrument.options)
    return {key: getattr(options, key) for key in _PHYSICAL_OPTIONS if hasattr(options, key)}


def _line_of(instrument: InstrumentConfig) -> dict[str, Any]:
    """Return what kind of wire an instrument is on, and how its driver sets it: the simulated one is the same."""
    if instrument.serial_device is None and instrument.resource is not None:
        resource = VisaResource.parse(instrument.resource)
        # There is no simulated GPIB, USB or VXI-11: what is on them is asked through HiSLIP, message by message too.
        return {"kind": "tcp" if resource.resource_class == "SOCKET" else "hislip"}
    line = {key: value for key, value in line_settings(instrument).items() if key in LINE_KEYS}
    return {"kind": "serial", **line}


def _wire_name(wire: str, taken: dict[str, str]) -> str:
    name = re.sub(r"\W+", "_", wire.removeprefix("/dev/")).strip("_")
    return name if name not in taken.values() else f"{name}_{len(taken)}"
