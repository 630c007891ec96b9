"""The first day with real instruments; simulators of another process stand for the instruments."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coexistence.config import DualConfig
from coexistence.wire_statistics import LogEntry
from devices.protocols.conversation import Ask, Say
from profiles import validate as validate_module
from profiles.acceptance import ChangesTheInstrument, only_questions
from profiles.reply_comparison import Line, compare_exchanges, compare_units, shape_of
from profiles.validate import Validated, validate
from simulators import SimulatorProcess, build_spec, default_instrument, default_wire

pytestmark = pytest.mark.usefixtures("no_process_left_behind")


def wire(name: str, *instruments: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return default_wire(name, instruments, **settings)


def bench(*instruments: dict[str, Any], time_scale: float = 1.0) -> DualConfig:
    return DualConfig.from_mapping(
        {"simulation": {"time_scale": time_scale}, "v2": {"instruments": list(instruments)}, "v4": {"enabled": False}}
    )


def by_id(found: list[Validated]) -> dict[str, Validated]:
    return {instrument.ids[0]: instrument for instrument in found}


ALL_KINDS = (
    wire("meter", default_instrument("Newport1830C", echo=True)),
    wire("stages", default_instrument("ESP300")),
    wire("laser", default_instrument("MaiTai")),
    wire("bus", default_instrument("ELL14", address="2"), default_instrument("ELL14", address="3")),
    wire("volts", default_instrument("ScpiMeter")),
)


def configured(ports: dict[str, str], *, time_scale: float = 1.0) -> DualConfig:
    host, _, number = ports["volts"].rpartition(":")
    return bench(
        {"id": "power", "type": "Newport1830C", "serial_port": ports["meter"], "wavelength": 633},
        {"id": "stages", "type": "ESP300", "serial_port": ports["stages"]},
        {"id": "laser", "type": "MaiTai", "serial_port": ports["laser"], "watchdog": 60},
        {"id": "hwp", "type": "Elliptec", "serial_port": ports["bus"], "address": "2"},
        {"id": "polarizer", "type": "Elliptec", "serial_port": ports["bus"], "address": "3"},
        {
            "id": "volts",
            "type": "ScpiMeter",
            "function": "VOLT",
            "setup": ["*RST"],
            "resource": f"TCPIP0::{host}::{number}::SOCKET",
        },
        time_scale=time_scale,
    )


def lasting(truth: dict[str, Any]) -> dict[str, Any]:
    """Return what of the true state does not change by itself, nor by being asked."""
    passing = {"commands", "readings", "value", "range"}  # meters choose their range themselves
    return {
        name: {key: value for key, value in state.items() if key not in passing}
        for name, state in truth["instruments"].items()
    }


def test_all_instruments_are_asked_and_none_is_changed():
    with SimulatorProcess(build_spec(ALL_KINDS)) as real:
        before = real.truth()
        found = by_id(validate(configured(real.ports), readings=2))
        assert lasting(real.truth()) == lasting(before)
    for name, instrument in found.items():
        assert instrument.passed, (name, instrument.problems)
        # Of time, a machine that is busy with other things may take more once.
        assert [difference for difference in instrument.differences if difference.about != "time"] == [], name
        assert instrument.timing is not None
        assert (instrument.timing.count, instrument.timing.failed) == (2, 0)
        assert 0 < instrument.timing.wire_median_s <= instrument.timing.median_s
        assert instrument.exchanges
    assert found["power"].left_out == [b"E0\n", b"G1\n"]
    answers = {answer.name: answer for answer in found["stages"].answers}
    assert (answers["axis_1_readback"].value, answers["axis_1_readback"].units) == (0.0, "mm")
    assert answers["errors_after"].value == []
    assert "MaiTai" in found["laser"].answers[0].value
    assert found["hwp"].answers[0].value.startswith("ELL14")


def test_a_silent_instrument_and_one_of_another_model_leave_the_others_alone(
    tandem: Callable[..., list[str]], tmp_path: Path
):
    wires = (
        wire("meter", default_instrument("Newport1830C")),
        wire("laser", default_instrument("ScpiMeter"), kind="serial"),
        wire("bus", default_instrument("ELL14", address="2")),
    )
    with SimulatorProcess(build_spec(wires)) as real:
        real.fault("meter", "silence", count=None)
        config, report_file = tmp_path / "bench.toml", tmp_path / "report.json"
        config.write_text(f"""
            [[v2.instruments]]
            id = "power"
            type = "Newport1830C"
            serial_port = "{real.ports["meter"]}"
            timeout = 0.2
            [[v2.instruments]]
            id = "laser"
            type = "MaiTai"
            serial_port = "{real.ports["laser"]}"
            [[v2.instruments]]
            id = "missing"
            type = "ESP300"
            serial_port = "/dev/no-such-port"
            [[v4.instruments]]
            id = "hwp"
            type = "Elliptec"
            address = "2"
            serial_port = "{real.ports["bus"]}"
            """)
        command = tandem("validate", config, "--readings", "2", "--json", "--output", report_file)
        done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert f"Every exchange is in {report_file}" in done.stderr.splitlines()
    printed = json.loads(done.stdout)
    results = {instrument["ids"][0]: instrument for instrument in printed["instruments"]}
    assert {name: result["passed"] for name, result in results.items()} == {
        "power": False,
        "laser": False,
        "missing": False,
        "hwp": True,
    }
    assert "no complete reply" in results["power"]["problems"][0]
    assert "Agilent" in results["laser"]["problems"][0]
    assert "the identity of a Mai Tai" in results["laser"]["problems"][0]
    assert "there is no such port" in results["missing"]["problems"][0]
    saved = json.loads(report_file.read_text())
    assert saved["ok"] is False
    (asked,) = next(i for i in saved["instruments"] if i["ids"] == ["power"])["answers"]
    assert {exchange["outcome"] for exchange in asked["exchanges"]} == {"timeout"}
    exchange = next(i for i in saved["instruments"] if i["ids"] == ["hwp"])["answers"][0]["exchanges"][0]
    assert exchange["sent"] == "2in"
    assert exchange["received"].startswith("2IN")
    assert 0 < exchange["duration"] < 1


def test_entries_that_are_one_instrument_are_asked_once(
    typed: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    entry = '[[{}.instruments]]\nid = "{}"\ntype = "{}"\nserial_port = "/dev/{}"\n'
    (tmp_path / "bench.toml").write_text(
        entry.format("v2", "power_v2", "Newport1830C", "ttyUSB0")
        + entry.format("v4", "power_v4", "Newport1830C", "ttyUSB0")
        + "".join(
            entry.format("v4", name, "Elliptec", "ttyUSB1") + f'address = "{address}"\n'
            for name, address in (("hwp", "2"), ("polarizer", "3"))
        )
    )
    monkeypatch.chdir(tmp_path)
    done = typed("validate", "bench.toml", "--simulate", "--readings", "1", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [instrument["ids"] for instrument in report["instruments"]] == [
        ["power_v2", "power_v4"],
        ["hwp"],
        ["polarizer"],
    ]
    assert report["simulated"]
    assert (tmp_path / report["report"]).is_file()


def test_an_instrument_that_is_slower_than_its_simulator_is_told():
    slow = wire("meter", default_instrument("Newport1830C", latency_s=0.15))
    with SimulatorProcess(build_spec([slow])) as real:
        meter = {"id": "power", "type": "Newport1830C", "serial_port": real.ports["meter"], "timeout": 5.0}
        (found,) = validate(bench(meter), readings=1)
    assert found.passed
    # A busy machine may make an exchange of the simulator as slow.
    assert len({"W?", "D?", "U?"} & {difference.command for difference in found.differences}) >= 2
    assert {difference.about for difference in found.differences} == {"time"}


def test_a_line_that_is_faster_than_configured_is_told():
    with SimulatorProcess(build_spec([wire("meter", default_instrument("Newport1830C"))], time_scale=0.1)) as real:
        (found,) = validate(
            bench({"id": "power", "type": "Newport1830C", "serial_port": real.ports["meter"]}), readings=1
        )
    told = [str(difference) for difference in found.differences]
    assert any("its bytes take at 9600 baud" in text for text in told), told


def test_readings_that_fail_are_counted(monkeypatch: pytest.MonkeyPatch):
    with SimulatorProcess(build_spec([wire("meter", default_instrument("Newport1830C"))])) as real:
        config = bench(
            {"id": "power", "type": "Newport1830C", "serial_port": real.ports["meter"], "timeout": 1.0},
        )
        answered = validate_module._answered

        def silent_after_the_first_reading(question: Any, hold: Any) -> Any:
            answer = answered(question, hold)
            if question.purpose == "reading":
                real.fault("meter", "silence", count=None)
            elif question.purpose == "setting":
                real.clear_faults()
            return answer

        monkeypatch.setattr(validate_module, "_answered", silent_after_the_first_reading)
        (found,) = validate(config, readings=2)
    assert found.timing is not None
    assert (found.timing.count, found.timing.failed, found.timing.median_s) == (2, 2, None)
    assert "power: 2 of 2 readings failed" in found.problems
    json.dumps(found.as_json(), allow_nan=False, default=str)


def test_what_is_no_question_is_not_sent():
    scpi = default_instrument("ScpiMeter")
    with SimulatorProcess(build_spec([wire("volts", scpi)])) as real:
        host, _, number = real.ports["volts"].rpartition(":")
        signals = {
            "measured": {"query": "MEAS:RES?"},
            "speed": {"query": "VOLT:NPLC?", "units": "power line cycles"},
            "unknown": {"query": "NO:SUCH:THING?"},
        }
        trace = {"query": "SYST:VERS?", "points": 1, "encoding": "ascii"}
        config = bench(
            {
                "id": "meter",
                "type": "ScpiInstrument",
                "resource": f"TCPIP0::{host}::{number}::SOCKET",
                "reply_timeout": 1.5,
                "signals": signals,
                "waveforms": {"trace": trace},
            }
        )
        (found,) = validate(config, readings=1)
    answers = {answer.name: answer for answer in found.answers}
    assert answers["measured"].outcome == "not asked"
    assert "does more than ask" in answers["measured"].error
    assert answers["speed"].outcome == "ok"
    assert answers["unknown"].outcome == "failed"
    assert isinstance(answers["trace"].value, list)
    json.dumps(found.as_json(), allow_nan=False, default=str)
    assert "asking left errors in the instrument: -113" in answers["errors_after"].error
    assert not found.passed
    assert not any(b"MEAS" in entry.sent for entry in found.exchanges)


def iter_ask(command: bytes):
    yield Ask(command)


def test_commands_without_reply_are_left_out_of_a_conversation():
    def conversation():
        yield Say(b"SHUT 1\n")
        answer = yield Ask(b"SHUT?\n")
        yield Ask(b"SHUT 0;SHUT?\n")
        return answer

    line = only_questions("ScpiMeter", iter_ask(b"READ?\r\n"), [])
    assert next(line) == Ask(b"READ?\r\n")
    left_out: list[bytes] = []
    asking = only_questions("MaiTai", conversation(), left_out)
    assert next(asking) == Ask(b"SHUT?\n")
    assert left_out == [b"SHUT 1\n"]
    with pytest.raises(ChangesTheInstrument, match="was not sent"):
        asking.send(None)


@pytest.mark.parametrize(
    ("reply", "shape"),
    [
        (b"0800", "<integer>"),
        (b" -12.5 ", "<decimal>"),
        (b"+1.234E-07", "<exponent>"),
        (b"820nm", "<integer>nm"),
        (b"0.00%", "<decimal>%"),
        (b'0,"No error"', '<integer>,"text"'),
        (b"Spectra Physics,MaiTai,1,2", "text,text,text,text"),
        (b"2PO0000ABCD", "PO<8 hexadecimal digits>"),
        (b"", ""),
        (b"\xff\x00", "text"),
    ],
)
def test_a_reply_has_a_form_whatever_its_value(reply: bytes, shape: str):
    assert shape_of(reply) == shape


def test_replies_of_another_form_and_other_units_are_told():
    def said(received: bytes, duration: float = 0.01) -> list[LogEntry]:
        return [LogEntry(0.0, "power", b"D?\n", received, 0.0, duration, "ok")]

    assert compare_exchanges(said(b"1.2E-3"), said(b"9.9E-9"), Line(9600)) == []
    (difference,) = compare_exchanges(said(b"0.0012"), said(b"9.9E-9"), None)
    assert str(difference) == "D?: reply: <decimal>; simulator: <exponent>"
    (difference,) = compare_units({"x": "mm", "y": "deg"}, {"x": "um", "y": "deg"})
    assert str(difference) == "x: units: mm; simulator: um"
    (difference,) = compare_exchanges(said(b"1.2E-3", 0.2), said(b"9.9E-9"), Line(9600))
    assert str(difference) == "D?: time: 200.0 ms; simulator: 10.0 ms"
