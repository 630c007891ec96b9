"""`tandem config new` as a real process on a terminal, with simulated instruments to find."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from profiles.configuration import load_configuration
from profiles.identification import Identified, identify
from profiles.simulation import SimulatedBench

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_process_left_behind")]

BENCH = """
[simulation]
time_scale = 0.1
[[v2.instruments]]
id = "power"
type = "Newport1830C"
serial_port = "/dev/ttyS90"
[[v2.instruments]]
id = "stages"
type = "ESP300"
serial_port = "/dev/ttyS91"
[[v2.instruments]]
id = "laser"
type = "MaiTai"
serial_port = "/dev/ttyS92"
[[v2.instruments]]
id = "hwp"
type = "Elliptec"
serial_port = "/dev/ttyS93"
address = "2"
[[v2.instruments]]
id = "polarizer"
type = "Elliptec"
serial_port = "/dev/ttyS93"
address = "3"
[[v2.instruments]]
id = "volts"
type = "ScpiMeter"
serial_port = "/dev/ttyS94"
baud_rate = 19200
[[v2.instruments]]
id = "amps"
type = "ScpiMeter"
resource = "TCPIP0::192.0.2.1::5025::SOCKET"
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedBench]:
    path = tmp_path_factory.mktemp("bench") / "bench.toml"
    path.write_text(BENCH)
    with SimulatedBench(load_configuration(path)) as bench:
        yield bench


@pytest.fixture(scope="module")
def wires(bench: SimulatedBench) -> dict[str, str]:
    """Return by id what each simulated instrument is on."""
    return {i.id: bench.replace_wire(i).wire for _, i in bench._config.instruments()}


class Dialog:
    """Answers questions as they are asked."""

    def __init__(self, *arguments: object, **environment: str) -> None:
        command = ["-c", "from profiles.cli import main; main()", "config", "new", *map(str, arguments)]
        self.process = pexpect.spawn(
            sys.executable,
            command,
            env={**os.environ, "TERM": "dumb", **environment},
            encoding="utf-8",
            timeout=30,
            dimensions=(50, 250),
            echo=False,
        )

    def answer(self, question: str, text: str) -> str:
        """Wait for a question, answer it, and return what was said before it."""
        self.process.expect_exact(question)
        said = self.process.before.replace("\r\n", "\n")
        self.process.expect(": ")
        self.process.sendline(text)
        return said

    def end(self) -> str:
        self.process.expect(pexpect.EOF)
        self.process.close()
        return self.process.before.replace("\r\n", "\n")


def test_a_bench_is_asked_together_answer_by_answer(wires: dict[str, str], tmp_path: Path):
    path = tmp_path / "new.toml"
    path.write_text("# precious\n")
    dialog = Dialog(path)
    try:
        dialog.answer("exists. Replace it? [y/N]", "y")
        dialog.answer("Name of the bench [bench]", "upstairs")
        dialog.answer("in the network too? That sends a broadcast [y/N]", "n")
        wire = "Number, or a port, VISA resource or camera that is not listed; empty when done"
        # What cannot be right is refused at once, with the reason.
        dialog.answer(wire, "/dev/no-such-port")
        assert "Error: there is no /dev/no-such-port" in dialog.answer(wire, "99")
        assert "Error: there is no number 99" in dialog.answer(wire, "TCPIP0:nonsense::INSTR")
        refused = dialog.answer(wire, wires["power"])
        assert "Error: Malformed VISA resource 'TCPIP0:nonsense::INSTR' of instrument 'new': " in refused
        kind = "empty to ask the instrument"
        dialog.answer(kind, "Newport")
        assert "Error: 'Newport' is none of: Newport1830C, Elliptec, ESP300, MaiTai, " in dialog.answer(kind, "")
        said = dialog.answer("Its name [power]", "1st")
        assert "Newport1830C: Newport 1830-C" in said
        refused = dialog.answer("Its name [power]", "catalog")
        assert "Error: a name has letters, digits and underscores, does not begin with a digit" in refused
        refused = dialog.answer("Its name [power]", "meter")
        assert "Error: catalog is the name of something else at the prompt; so are: session, RE, " in refused
        dialog.answer("Driver: v2, v4 or both [v4]", "both")
        # An instrument whose type is known is asked as that type alone; several modules on a bus are several.
        dialog.answer(wire, wires["hwp"])
        dialog.answer(kind, "elliptec")
        assert "Elliptec at address 2: ELL14 serial number " in dialog.answer("Its name [rotator]", "hwp")
        dialog.answer("Driver: v2, v4 or both [v4]", "")
        assert "Elliptec at address 3: ELL14 serial number " in dialog.answer("Its name [rotator]", "meter")
        refused = dialog.answer("Its name [rotator]", "")
        assert "Error: meter is taken; taken are: meter_v2, meter_v4, hwp" in refused
        dialog.answer("Driver: v2, v4 or both [v4]", "v2")
        # One that does not share the line is left out.
        dialog.answer(wire, wires["power"])
        dialog.answer(kind, "ESP300")
        said = dialog.answer("Its name [stages]", "")
        assert f"Nothing on {wires['power']} said who it is." in said
        dialog.answer("Driver: v2, v4 or both [v4]", "")
        said = dialog.answer(wire, wires["amps"])
        assert "It is left out: Instruments 'meter_v2' and 'stages' are on one port" in said
        dialog.answer(kind, "")
        assert "ScpiMeter: Agilent Technologies,34401A," in dialog.answer("Its name [meter2]", "amps")
        dialog.answer("Driver: v2, v4 or both [v4]", "")
        dialog.answer(wire, "pvcam0")
        dialog.answer("Its name [camera]", "")
        dialog.answer("Driver: v2, v4 or both [v4]", "")
        assert path.read_text() == "# precious\n"
        dialog.answer(wire, "")
        assert f"{path} has 6 instruments, and nothing is wrong with it." in dialog.end()
    finally:
        dialog.process.close(force=True)
    assert dialog.process.exitstatus == 0
    config = load_configuration(path)
    assert config.application.name == "upstairs"
    assert config.hardware_problems() == []
    assert [(generation, i.id, i.type, i.wire, i.options) for generation, i in config.instruments()] == [
        ("v2", "meter_v2", "Newport1830C", wires["power"], {}),
        ("v2", "rotator", "Elliptec", wires["hwp"], {"address": "3"}),
        ("v4", "meter_v4", "Newport1830C", wires["power"], {}),
        ("v4", "hwp", "Elliptec", wires["hwp"], {"address": "2"}),
        ("v4", "amps", "ScpiMeter", wires["amps"], {}),
        ("v4", "camera", "PVCAMInstrument", "pvcam0", {}),
    ]
    assert list(tmp_path.iterdir()) == [path]


def test_stopping_leaves_nothing_half_written(tmp_path: Path):
    path = tmp_path / "new.toml"
    dialog = Dialog(path)
    try:
        dialog.answer("Name of the bench", "")
        dialog.process.expect("broadcast")
        dialog.process.sendintr()
        assert "Stopped; nothing was written." in dialog.end()
        assert dialog.process.exitstatus == 130
        assert list(tmp_path.iterdir()) == []
        path.write_text("# precious\n")
        dialog = Dialog(path)
        dialog.answer("exists. Replace it? [y/N]", "n")
        assert f"{path} stays as it is. Name another file: tandem config new FILE" in dialog.end()
        assert dialog.process.exitstatus == 1
        assert path.read_text() == "# precious\n"
    finally:
        dialog.process.close(force=True)


def test_a_directory_is_refused_before_anything_is_asked(tmp_path: Path):
    dialog = Dialog(tmp_path)
    try:
        said = " ".join(dialog.end().split())
        assert f"{tmp_path} is a directory. Name a file: tandem config new {tmp_path}/bench.toml" in said
        assert dialog.process.exitstatus == 1
    finally:
        dialog.process.close(force=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stages", Identified("ESP300", "ESP300 Version 3.04 07/27/01")),
        ("laser", Identified("MaiTai", "Spectra Physics,MaiTai,3227/51019/40901,0245-2.00.23/CP/1.30")),
        ("volts", Identified("ScpiMeter", "Agilent Technologies,34401A,MY41012345,11-5-2", {"baud_rate": 19200})),
    ],
)
def test_an_instrument_is_found_out_by_identity_questions_alone(
    bench: SimulatedBench, wires: dict[str, str], name: str, expected: Identified
):
    before = bench.process.truth()["instruments"]
    assert identify("serial_port", wires[name]) == [expected]
    after = bench.process.truth()["instruments"]
    assert _states(after) == _states(before)


def test_an_instrument_that_is_busy_is_asked_once_more(bench: SimulatedBench, wires: dict[str, str]):
    told: list[str] = []
    line = Path(wires["stages"]).name

    def late_when_asked_once_more(said: str) -> None:
        told.append(said)
        if "once more" in said:
            bench.process.clear_faults()
            bench.process.fault(line, "late", count=None, delay_s=4.0)  # 0.4 s by our clock

    bench.process.fault(line, "silence", count=None)
    try:
        found = identify("serial_port", wires["stages"], "ESP300", tell=late_when_asked_once_more)
    finally:
        bench.process.clear_faults()
    assert [each.type for each in found] == ["ESP300"]
    assert told == ["asking as ESP300 ...", "asking once more as ESP300 ..."]


def test_an_instrument_that_was_silent_in_the_first_round_is_found_in_the_second(
    bench: SimulatedBench, wires: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("profiles.identification.BUS_ANSWER_S", 0.02)  # no module is there to answer
    told: list[str] = []
    line = Path(wires["power"]).name

    def silent_at_first(said: str) -> None:
        told.append(said)
        if "once more" in said:
            bench.process.clear_faults()

    bench.process.fault(line, "silence", count=None)
    try:
        (found,) = identify("serial_port", wires["power"], tell=silent_at_first)
    finally:
        bench.process.clear_faults()
    assert found.type == "Newport1830C"
    assert told[-1] == "asking once more as Newport1830C ..."


def test_an_instrument_that_was_too_slow_for_its_own_type_is_not_taken_for_any_scpi_instrument(
    bench: SimulatedBench, wires: dict[str, str]
):
    line = Path(wires["laser"]).name

    def silent_as_a_laser(said: str) -> None:
        bench.process.clear_faults()
        if "MaiTai" in said:
            bench.process.fault(line, "silence", count=None)

    try:
        (found,) = identify("serial_port", wires["laser"], tell=silent_as_a_laser)
    finally:
        bench.process.clear_faults()
    assert (found.type, found.options) == ("MaiTai", {})
    assert "MaiTai" in found.identity


def test_a_module_of_a_bus_that_answers_too_late_is_asked_once_more(bench: SimulatedBench, wires: dict[str, str]):
    told: list[str] = []
    bus = Path(wires["hwp"]).name
    bench.process.fault(f"{bus}.3", "silence", count=2)  # throughout the first round, in which each is asked twice
    try:
        found = identify("serial_port", wires["hwp"], "Elliptec", tell=told.append)
    finally:
        bench.process.clear_faults()
    assert [each.options for each in found] == [{"address": "2"}, {"address": "3"}]
    # On a busy machine nobody may answer in the first round.
    assert told[0] == "asking as Elliptec ..."
    assert told[-1] == "asking once more at the other addresses ..."


def _states(instruments: dict[str, dict]) -> dict[str, dict]:
    """Return what can be set; what was said, and errors about questions that were no one's, are left out."""
    return {
        name: {key: value for key, value in state.items() if "error" not in key and "command" not in key}
        for name, state in instruments.items()
    }
