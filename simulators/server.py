"""The simulators' own process: wires and instruments around one bench, and a control channel.

The specification comes as one line of JSON on standard input. The answer on standard output is one line with the
ports. After that each line in is a request, each line out its answer. The process ends with its standard input or
with its parent, whichever goes first, and takes its device nodes with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import SimulatorError, SpecError
from .faults import FAULTS, INPUT_FAULTS, REPLY_FAULTS, Fault
from .instrument import Instrument, LineSettings, World
from .loop import Loop
from .optics import OpticalBench
from .registry import instrument_class
from .serial_wire import SerialWire
from .spec import LINE_KEYS, SPEC_KEYS, WIRE_KEYS
from .wire import Wire


class Simulation:
    """All wires of one specification, and what can be asked of them while they run.

    Args:
        loop: serves the wires.
        spec: see `simulators.spec`.
        directory: where the ptys' stable names go.
    """

    def __init__(self, loop: Loop, spec: dict[str, Any], directory: Path) -> None:
        _refuse_unknown("specification has no key", spec, SPEC_KEYS)
        self.loop = loop
        self.bench = _build(OpticalBench, "bench", spec.get("bench", {}))
        self.world = World(loop, self.bench, spec.get("seed", 0))
        self.wires: dict[str, Wire] = {}
        self.instruments: dict[str, Instrument] = {}
        for wire_spec in self._with_optics(spec.get("wires", [])):
            self._add_wire(wire_spec, directory)

    def plug(self) -> None:
        """Make all ports appear."""
        for wire in self.wires.values():
            wire.plug()

    def close(self) -> None:
        """Make all ports vanish."""
        for wire in self.wires.values():
            wire.close()

    def ports(self) -> dict[str, str]:
        """Return what clients open, by the wire's name."""
        return {name: wire.port for name, wire in self.wires.items()}

    def answer(self, request: dict[str, Any]) -> Any:
        """Do what a control request asks for and return its result."""
        arguments = dict(request)
        action = arguments.pop("do", None)
        actions: dict[str, Callable[..., Any]] = {
            "truth": self._truth,
            "fault": self._fault,
            "clear": self._clear,
            "unplug": lambda wire: self._wire(wire).unplug() if self._wire(wire).plugged else None,
            "replug": lambda wire: None if self._wire(wire).plugged else self._wire(wire).plug(),
            "power": lambda instrument, on: self._instrument(instrument).power(on),
            "set": self._set,
        }
        if action not in actions:
            raise SpecError("unknown request", str(action), actions)
        return actions[action](**arguments)

    def _truth(self) -> dict[str, Any]:
        return {
            "time_s": self.loop.now(),
            "bench": self.bench.truth(),
            "instruments": {name: instrument.truth() for name, instrument in self.instruments.items()},
            "wires": {name: wire.truth() for name, wire in self.wires.items()},
        }

    def _fault(self, target: str, kind: str, count: int | None = 1, **parameters: Any) -> None:
        fault = Fault(kind, count, parameters)
        if kind == "lose":
            self._wire_of(target).faults.add(fault)
        elif kind in REPLY_FAULTS or kind in INPUT_FAULTS:
            if target in self.wires:
                self.wires[target].faults.add(fault)
            else:
                self._instrument(target).disturb(fault)
        else:
            instrument = self._instrument(target)
            if kind not in instrument.faults_known:
                known = (*instrument.faults_known, *REPLY_FAULTS, *INPUT_FAULTS)
                raise SpecError(f"{instrument.name} cannot have the fault", kind, sorted(known))
            instrument.disturb(fault)

    def _clear(self, target: str | None = None, kind: str | None = None) -> None:
        if kind is not None and kind not in FAULTS:
            raise SpecError("unknown fault", kind, FAULTS)
        places: list[Wire | Instrument]
        if target is None:
            places = [*self.wires.values(), *self.instruments.values()]
        elif target in self.wires:
            places = [self.wires[target], *self.wires[target].instruments]
        else:
            places = [self._instrument(target)]
        for place in places:
            place.faults.clear(kind)

    def _set(self, target: str, values: dict[str, Any]) -> None:
        if target == "bench":
            self.bench.set_state(**values)
        else:
            self._instrument(target).set_state(**values)

    def _wire(self, name: str) -> Wire:
        if name not in self.wires:
            raise SpecError("no wire", name, self.wires)
        return self.wires[name]

    def _wire_of(self, target: str) -> Wire:
        if target in self.wires:
            return self.wires[target]
        instrument = self._instrument(target)
        return next(wire for wire in self.wires.values() if instrument in wire.instruments)

    def _instrument(self, name: str) -> Instrument:
        if name not in self.instruments:
            raise SpecError("no instrument", name, self.instruments)
        return self.instruments[name]

    def _add_wire(self, spec: dict[str, Any], directory: Path) -> None:
        name = spec.get("name")
        if not isinstance(name, str) or not name or "/" in name:
            raise SpecError(f"a wire needs a name without slashes, not {name!r}")
        if name in self.wires:
            raise SpecError(f"two wires are called {name!r}")
        entries = spec.get("instruments", [])
        instruments = [self._add_instrument(entry, name, len(entries)) for entry in entries]
        if not instruments:
            raise SpecError("no instruments on wire", name)
        self.wires[name] = self._make_wire(name, spec, instruments, directory)

    def _make_wire(self, name: str, spec: dict[str, Any], instruments: list[Instrument], directory: Path) -> Wire:
        factory = instruments[0].line
        kind = str(spec.get("kind", factory.kind))
        if kind not in WIRE_KEYS:
            raise SpecError(f"wire {name!r} cannot be of kind", kind, WIRE_KEYS)
        _refuse_unknown(f"{kind} wire {name!r} has no key", spec, WIRE_KEYS[kind])
        if kind == "serial":
            line = LineSettings(**{key: spec.get(key, getattr(factory, key)) for key in LINE_KEYS})
            pace = spec.get("pace", True)
            return SerialWire(self.loop, self.world, name, instruments, path=directory / name, line=line, pace=pace)
        # Sockets are imported only by simulations that have one: most have ptys and shall start at once.
        if kind == "hislip":
            from .hislip_wire import HislipWire as SocketWire
        else:
            from .tcp_wire import TcpWire as SocketWire  # type: ignore[assignment]
        return SocketWire(self.loop, self.world, name, instruments, tcp_port=spec.get("tcp_port", 0))

    def _add_instrument(self, entry: dict[str, Any], wire_name: str, on_wire: int) -> Instrument:
        options = dict(entry)
        cls = instrument_class(str(options.pop("type", "")))
        default = wire_name
        if on_wire > 1:
            part = options.get("address", sum(name.startswith(f"{wire_name}.") for name in self.instruments))
            default = f"{wire_name}.{part}"
        name = options.pop("name", default)
        if name in self.instruments or name == "bench":
            raise SpecError(f"the name {name!r} is already taken; give the instrument another `name`")
        instrument: Instrument = _build(cls, name, options, self.world, name)
        self.instruments[name] = instrument
        return instrument

    def _with_optics(self, wires: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Give each rotator that names no optic the next free one, polarizers first."""
        entries = [entry for wire in wires for entry in wire.get("instruments", [])]
        taken = {entry.get("optic") for entry in entries}
        free = sorted(
            (optic for optic in self.bench.optics.values() if optic.name not in taken),
            key=lambda optic: optic.kind != "polarizer",
        )
        names = [optic.name for optic in free]

        def complete(entry: dict[str, Any]) -> dict[str, Any]:
            if "optic" not in entry and getattr(instrument_class(entry.get("type", "")), "carries_optic", False):
                return {**entry, "optic": names.pop(0) if names else None}
            return entry

        return [{**wire, "instruments": [complete(entry) for entry in wire.get("instruments", [])]} for wire in wires]


def _refuse_unknown(what: str, given: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise SpecError(what, key, known)


def _build(cls: type[Any], name: str, options: dict[str, Any], *arguments: Any) -> Any:
    try:
        return cls(*arguments, **options)
    except TypeError as error:
        raise SpecError(f"{name}: {error}") from error


def serve() -> int:
    """Run the process; returns its exit status."""
    # Ctrl-C in a terminal reaches the whole process group. Whoever started the simulators decides when they end:
    # an aborted scan still has to stop its motors.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # While the parent waits for the ports it is there; later it may already be another process.
    parent = _watch_parent()
    control = _Control(sys.stdin.fileno(), sys.stdout.fileno())
    line = control.read_line()
    if line is None:
        return 0
    directory = Path(tempfile.mkdtemp(prefix="tandem-simulators-"))
    try:
        return _serve(control, line, directory, parent)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _serve(control: _Control, line: bytes, directory: Path, parent: int | None) -> int:
    try:
        spec = json.loads(line)
        loop = Loop(spec.get("time_scale", 1.0))
        simulation = Simulation(loop, spec, directory)
        simulation.plug()
    except (SimulatorError, ValueError, OSError) as error:
        control.write({"ready": False, "error": str(error)})
        return 2
    with contextlib.closing(loop), contextlib.closing(simulation):
        control.write({"ready": True, "pid": os.getpid(), "directory": str(directory), "ports": simulation.ports()})
        control.attach(loop, simulation.answer)
        if parent is not None:
            loop.watch(parent, read=loop.stop)
        loop.run()
    return 0


class _Control:
    """Requests and answers as lines of JSON."""

    def __init__(self, fd_in: int, fd_out: int) -> None:
        self._in = fd_in
        self._out = fd_out
        self._buffer = bytearray()

    def read_line(self) -> bytes | None:
        """Wait for one line; None at the end of the input."""
        while b"\n" not in self._buffer:
            data = os.read(self._in, 65536)
            if not data:
                return None
            self._buffer += data
        return self._take_line()

    def write(self, message: dict[str, Any]) -> None:
        """Send one line."""
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self._out, data) :]

    def attach(self, loop: Loop, answer: Callable[[dict[str, Any]], Any]) -> None:
        """Answer requests from now on; the loop ends with the input."""

        def readable() -> None:
            data = os.read(self._in, 65536)
            if not data:
                loop.stop()
                return
            self._buffer.extend(data)
            while b"\n" in self._buffer:
                self._answer(self._take_line(), answer)

        loop.watch(self._in, read=readable)

    def _take_line(self) -> bytes:
        end = self._buffer.index(b"\n")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _answer(self, line: bytes, answer: Callable[[dict[str, Any]], Any]) -> None:
        number = None
        try:
            request = json.loads(line)
            number = request.pop("id", None)
            self.write({"id": number, "ok": True, "result": answer(request)})
        except (SimulatorError, TypeError, ValueError, AttributeError) as error:
            self.write({"id": number, "ok": False, "error": str(error)})


def _watch_parent() -> int | None:
    """Open a descriptor that becomes readable when the parent process ends.

    The end of standard input says the same, but not while another child of the parent has inherited the pipe.
    """
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(os.getppid())
    except OSError:
        return None
