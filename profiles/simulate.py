"""`tandem simulate`: the simulated instruments of a configuration, for any program to talk to."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from coexistence.config import DualConfig
from profiles.configuration import load_configuration
from profiles.console import say, say_table
from profiles.hardware import line_settings
from profiles.simulation import SimulatedBench

_LOOK_S = 0.2
_PARITY = {"none": "N", "even": "E", "odd": "O", "mark": "M", "space": "S"}


def run_simulate(config: str, *, time_scale: float | None, seed: int | None, json_output: bool) -> int:
    """Start the simulators of a configuration, print where they are, and serve until stopped; return the exit code.

    Ctrl-C and SIGTERM end it in order: the ports vanish, no process is left.

    Parameters
    ----------
    config
        A TOML file, or the name of a profile.
    time_scale
        Below 1 lines and motion are faster than real ones; None takes what the configuration says.
    seed
        Of all noise; None takes what the configuration says.
    json_output
        Print one JSON object, in a line of its own, instead of the table.

    Raises
    ------
    ConfigError
        With all problems of the configuration, or with the instruments that cannot be simulated.
    """
    chosen = with_simulation(load_configuration(config), time_scale=time_scale, seed=seed)
    # What is printed is meant to be used at once, so a signal that comes early has to end everything as well.
    with _stop_signals() as stop, SimulatedBench(chosen) as bench:
        found = list(simulated_instruments(chosen, bench))
        if json_output:
            facts = {"pid": bench.process.pid, "time_scale": chosen.simulation.time_scale, "instruments": found}
            print(json.dumps(facts), flush=True)
        else:
            _print_table(found)
        while not stop.wait(_LOOK_S):
            if not bench.process.alive:
                say(Console(stderr=True), "tandem: the simulators have gone")
                return 1
    return 0


def with_simulation(config: DualConfig, **changes: Any) -> DualConfig:
    """Return the configuration with other keys of its `[simulation]`; those that are None stay as they are."""
    wanted = {key: value for key, value in changes.items() if value is not None}
    return config.model_copy(update={"simulation": config.simulation.model_copy(update=wanted)})


def simulated_instruments(config: DualConfig, bench: SimulatedBench) -> Iterator[dict[str, Any]]:
    """Tell for each instrument that is on a wire where its simulator is.

    `port` is what to open without VISA: the path of a pseudo-terminal, or `host:port`; `resource` is the same for
    VISA. `address` and `line` are there for instruments that have them.
    """
    for generation, instrument in config.instruments():
        port = bench.port_of(instrument)
        if port is None:
            continue
        facts: dict[str, Any] = {
            "id": instrument.id,
            "generation": generation,
            "type": instrument.type,
            "wire": instrument.wire,
            "port": port,
            "resource": bench.resource_of(instrument),
        }
        if (address := instrument.options.get("address")) is not None:
            facts["address"] = str(address)
        if not port.rpartition(":")[0]:
            settings = line_settings(instrument)
            facts["line"] = {**settings, "terminator": settings.get("terminator", b"\n").decode("latin-1")}
        yield facts


def _print_table(instruments: list[dict[str, Any]]) -> None:
    console = Console()
    table = Table("instrument", "type and line", "port, and as a VISA resource", show_lines=True)
    for facts in instruments:
        name = facts["id"] + (f"\naddress {facts['address']}" if "address" in facts else "")
        line = f"\n{_line(facts['line'])}" if "line" in facts else ""
        table.add_row(name, facts["type"] + line, f"{facts['port']}\n{facts['resource']}")
    say_table(console, table)
    say(console, "Other programs can use them now. Ctrl-C ends it.")
    console.file.flush()


def _line(line: dict[str, Any]) -> str:
    parity = _PARITY[line.get("parity", "none")]
    text = f"{line.get('baud_rate', 9600)} {line.get('data_bits', 8)}{parity}{line.get('stop_bits', 1)}"
    flow = line.get("flow_control", "none")
    return text if flow == "none" else f"{text} {flow}"


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into an event, so that neither cuts anything short."""
    stop = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
