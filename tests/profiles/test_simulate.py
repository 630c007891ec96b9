"""Simulated instruments of a configuration, as other programs meet them."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import pyvisa
import serial

from coexistence.config import DualConfig
from profiles.simulation import SimulatedBench

CONFIG = """
[simulation]
seed = 3

[[v2.instruments]]
id = "power"
type = "Newport1830C"
serial_port = "/dev/ttyUSB0"

[[v4.instruments]]
id = "hwp"
type = "Elliptec"
serial_port = "/dev/ttyUSB1"
address = "2"

[[v4.instruments]]
id = "volts"
type = "ScpiMeter"
resource = "TCPIP0::192.0.2.100::hislip0::INSTR"

[[v2.instruments]]
id = "amps"
type = "ScpiMeter"
function = "CURR"
resource = "TCPIP0::192.0.2.101::5025::SOCKET"

[[v2.instruments]]
id = "ohms"
type = "ScpiMeter"
function = "RES"
serial_port = "/dev/ttyUSB2"

[[v4.instruments]]
id = "camera"
type = "PVCAMInstrument"
camera_name = "pvcam0"
"""

pytestmark = pytest.mark.usefixtures("no_process_left_behind")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "bench.toml"
    path.write_text(CONFIG)
    return path


@contextmanager
def simulating(command: list[str]) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def ended(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    process.send_signal(number)
    output, errors = process.communicate(timeout=10)
    return process.returncode, output + errors


def test_other_programs_talk_to_the_instruments_of_a_configuration(tandem: Callable[..., list[str]], config: Path):
    with simulating(tandem("simulate", config, "--json", "--time-scale", "0.1", "--seed", "11")) as (process, found):
        instruments = {facts["id"]: facts for facts in found["instruments"]}
        assert set(instruments) == {"power", "hwp", "volts", "amps", "ohms"}
        assert found["time_scale"] == 0.1
        power, rotator = instruments["power"], instruments["hwp"]
        assert (power["type"], power["generation"], power["wire"]) == ("Newport1830C", "v2", "/dev/ttyUSB0")
        assert power["line"]["baud_rate"] == 9600
        with serial.Serial(power["port"], power["line"]["baud_rate"], timeout=2) as port:
            port.write(b"W?\n")
            assert port.readline() == b"0800\n"
        with serial.Serial(rotator["port"], 9600, timeout=2) as port:
            port.write(rotator["address"].encode() + b"in")
            assert port.readline().startswith(b"2IN")

        assert instruments["volts"]["resource"].endswith("::INSTR")
        assert "hislip0" in instruments["volts"]["resource"]
        assert instruments["amps"]["resource"].endswith("::SOCKET")
        assert instruments["ohms"]["resource"].startswith("ASRL/")
        manager = pyvisa.ResourceManager("@py")
        for name in ("volts", "amps", "ohms"):
            resource = manager.open_resource(
                instruments[name]["resource"], read_termination="\n", write_termination="\n"
            )
            assert resource.query("*IDN?").count(",") == 3
            resource.close()
        manager.close()
        children = psutil.Process(process.pid).children(recursive=True)
        assert [child.pid for child in children] == [found["pid"]]
        assert ended(process, signal.SIGINT) == (0, "")
    assert not os.path.exists(power["port"])
    assert not psutil.pid_exists(found["pid"])


def test_it_ends_in_order_when_it_is_terminated(tandem: Callable[..., list[str]], config: Path):
    with simulating(tandem("simulate", config, "--json")) as (process, found):
        assert ended(process, signal.SIGTERM) == (0, "")
    assert not any(os.path.exists(facts["port"]) for facts in found["instruments"])


def test_simulators_that_die_are_not_waited_for(tandem: Callable[..., list[str]], config: Path):
    with simulating(tandem("simulate", config, "--json")) as (process, found):
        os.kill(found["pid"], signal.SIGKILL)
        _, errors = process.communicate(timeout=10)
        assert (process.returncode, errors) == (1, "tandem: the simulators have gone\n")


def test_the_table_has_ports_that_can_be_copied(tandem: Callable[..., list[str]], config: Path):
    command = tandem("simulate", config)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = []
            while "Ctrl-C" not in (line := process.stdout.readline()):
                assert line
                lines.append(line)
            ports = [word for line in lines for word in line.split() if word.startswith("/")]
            assert len(ports) == 3
            assert all(os.path.exists(port) for port in ports)
            assert "9600 8N1" in "".join(lines)
            assert ended(process, signal.SIGTERM) == (0, "")
        finally:
            process.kill()


def test_a_configuration_that_cannot_be_simulated_is_told(tandem: Callable[..., list[str]], tmp_path: Path):
    done = subprocess.run(tandem("simulate", tmp_path / "none.toml"), capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "none.toml" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_entries_of_one_module_are_one_simulated_module_whoever_leaves_its_address_out():
    entry = {"type": "Elliptec", "serial_port": "/dev/bus"}
    config = DualConfig.from_mapping(
        {"v2": {"instruments": [{"id": "old", **entry}]}, "v4": {"instruments": [{"id": "new", "address": 0, **entry}]}}
    )
    (wire,) = SimulatedBench(config).process.spec["wires"]
    assert wire["instruments"] == [{"type": "Elliptec", "address": "0"}]
