"""SCPI instruments of both generations over a real VISA socket."""

import contextlib
import struct

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import FailedStatus
from conversation_table import flood, hold
from documents import events
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ophyd_async.core import NotConnectedError

import devices.v2
import devices.v4
from coexistence import Connection, SharedResources
from coexistence.config import InstrumentConfig
from devices import registry
from devices.errors import NotAnswered
from devices.protocols import scpi, scpi_blocks
from devices.protocols.errors import (
    InstrumentFault,
    OutOfScale,
    ProtocolError,
    SettingNotTaken,
    UnexpectedReply,
    WrongInstrument,
)
from profiles.hardware import connection_of
from simulators import SimulatorProcess, build_spec, default_instrument, default_wire

SIGNALS = {
    "voltage": {"query": "READ?", "units": "V", "precision": 6, "kind": "hinted", "repeatable": False},
    "delay": {"query": "TRIG:DEL?", "write": "TRIG:DEL {}", "units": "s", "kind": "config", "limits": (0.0, 10.0)},
    "beeper": {"query": "SYST:BEEP:STAT?", "write": "SYST:BEEP:STAT {}", "datatype": "bool", "kind": "config"},
    "terminals": {"query": "ROUT:TERM?", "datatype": "str", "kind": "config"},
}
NO_ERROR = (b"SYST:ERR?\n", b'0,"No error"')


def make(generation, visa, type_name="ScpiMeter", name="dmm", **options):
    cls = getattr(devices.v2 if generation == "v2" else devices.v4, type_name)
    device = cls(visa(name), name=name, **options)
    if generation == "v2":
        device.connect()
    else:
        call_in_bluesky_event_loop(device.connect())
    return device


@pytest.fixture(params=["v2", "v4"])
def generation(request):
    return request.param


@pytest.fixture
def dmm(generation, visa, engine, bench):
    return make(generation, visa, setup=["VOLT:NPLC 0.2"])


def truth(bench):
    return bench.truth()["instruments"]["meter2"]


def cause(caught):
    return caught.value.__cause__ if isinstance(caught.value, FailedStatus) else caught.value


def test_meter_reads_what_is_at_its_terminals(bench, engine, documents, dmm):
    engine(bp.count([dmm], num=3))
    for event in events(documents):
        assert event["data"]["dmm_reading"] == pytest.approx(truth(bench)["value"], rel=1e-2, abs=1e-3)
    descriptor = next(document for name, document in documents if name == "descriptor")
    assert descriptor["data_keys"]["dmm_reading"]["units"] == "V"
    settings = descriptor["configuration"]["dmm"]["data"]
    assert settings["dmm_nplc"] == 0.2
    assert settings["dmm_function"] == "VOLT"
    assert "34401A" in settings["dmm_identity"]


def test_overload_is_an_error_and_never_a_number(bench, engine, documents, dmm):
    bench.fault("meter2", "over_range")
    with pytest.raises((OutOfScale, FailedStatus)) as caught:
        engine(bp.count([dmm]))
    assert isinstance(cause(caught), OutOfScale)
    assert "dmm" in str(cause(caught))
    assert events(documents) == []


def test_meter_switched_to_another_function_is_an_error(engine, documents, visa, dmm):
    other = devices.v2.ScpiDriver(visa("other"), scpi.ScpiProtocol())
    other.command('FUNC "RES"')
    with pytest.raises((ProtocolError, FailedStatus)) as caught:
        engine(bp.count([dmm]))
    assert "was switched from VOLT to RES" in str(cause(caught))
    other.command('FUNC "VOLT"')
    assert events(documents) == []


def test_settings_are_checked_against_the_error_queue(bench, engine, dmm):
    engine(bps.mv(dmm.range, 10.0))
    assert truth(bench)["range"] == 10.0
    assert not truth(bench)["auto_range"]
    with pytest.raises((InstrumentFault, FailedStatus)) as caught:
        engine(bps.mv(dmm.range, 1e6))
    assert isinstance(cause(caught), InstrumentFault)
    assert "Data out of range" in str(cause(caught))
    assert truth(bench)["errors"] == []
    engine(bps.mv(dmm.auto_range, True))


def test_silent_instrument_fails_within_its_timeout(bench, engine, visa, generation):
    dmm = make(generation, visa, setup=["VOLT:NPLC 0.2"], reply_timeout=1.5)
    bench.fault("meter2", "silence", count=None)
    with pytest.raises((NotAnswered, FailedStatus)) as caught:
        engine(bp.count([dmm]))
    assert "'dmm' on TCPIP0" in str(caught.value.__cause__)
    bench.clear_faults()
    engine(bp.count([dmm]))


def test_generic_instrument_has_the_signals_of_its_options(bench, engine, documents, visa, generation):
    device = make(generation, visa, "ScpiInstrument", signals=SIGNALS, expected_identity="34401A")
    engine(bps.mv(device.delay, 0.25, device.beeper, False))
    engine(bp.count([device]))
    event = events(documents)[0]["data"]
    assert event["dmm_voltage"] == pytest.approx(truth(bench)["value"], rel=1e-2, abs=1e-3)
    descriptor = next(document for name, document in documents if name == "descriptor")
    assert descriptor["hints"]["dmm"]["fields"] == ["dmm_voltage"]
    engine(bps.mv(device.delay, 0.0))
    settings = descriptor["configuration"]["dmm"]["data"]
    assert (settings["dmm_delay"], settings["dmm_beeper"], settings["dmm_terminals"]) == (0.25, False, "FRON")


def test_value_outside_of_the_declared_limits_is_refused(engine, visa, generation):
    device = make(generation, visa, "ScpiInstrument", signals=SIGNALS)
    with pytest.raises((ValueError, FailedStatus)) as caught:
        engine(bps.mv(device.delay, 11.0))
    assert "delay cannot be 11.0: allowed is 0 to 10 s" in str(cause(caught))


def test_another_model_is_refused_with_what_it_said(visa):
    device = devices.v2.ScpiInstrument(visa("dmm"), name="dmm", expected_identity="KEITHLEY")
    with pytest.raises(WrongInstrument, match=r"34401A.*an identity with 'KEITHLEY' in it was expected"):
        device.connect()


@pytest.mark.parametrize("said", ["HTTP/1.1 400 Bad Request", "hello, there", "a,,b,c", "1,2,3"])
def test_what_is_no_identity_is_refused_with_what_it_said(bench, engine, visa, generation, said):
    bench.fault("meter2", "garbage", count=None, data=f"{said}\n")
    with pytest.raises((WrongInstrument, NotConnectedError)) as caught:
        make(generation, visa, "ScpiInstrument")
    assert said in str(caught.value)
    assert "manufacturer, model, serial number and firmware" in str(caught.value)


def test_identity_without_four_fields_is_taken_when_it_is_expected():
    protocol = scpi.ScpiProtocol(expected_identity="oldie")
    assert hold(protocol.identify(), (b"*IDN?\n", b"OLDIE 3000")) == "OLDIE 3000"


WAVEFORM = {"query": "READ?", "points": 8, "encoding": "float64", "units": "mV", "scale": 1e3, "kind": "hinted"}
SAMPLES = ["VOLT:NPLC 0.02", "SAMP:COUN 8", "FORM REAL,64"]


def test_waveforms_of_both_generations_are_columns_of_arrays(bench, engine, documents, visa):
    options = {"waveforms": {"trace": {**WAVEFORM, "repeatable": False}}, "setup": SAMPLES}
    old = make("v2", visa, "ScpiInstrument", "old", **options)
    new = make("v4", visa, "ScpiInstrument", "new", **options)
    engine(bp.count([old, new], num=2))
    keys = next(document for name, document in documents if name == "descriptor")["data_keys"]
    for name in ("old_trace", "new_trace"):
        assert (keys[name]["dtype"], keys[name]["shape"], keys[name]["dtype_numpy"]) == ("array", [8], "<f8")
        assert keys[name]["units"] == "mV"
        for event in events(documents):
            assert event["data"][name].shape == (8,)
            assert event["data"][name] == pytest.approx(1e3 * truth(bench)["value"], rel=0.05, abs=20)
    first, second = events(documents)
    assert (first["data"]["old_trace"] != second["data"]["old_trace"]).any()
    old.driver.command("*RST")


def test_waveform_in_ascii_and_one_of_another_length(bench, engine, documents, visa, generation):
    setup = ["*RST", *SAMPLES[:2]]
    wave = {"trace": {**WAVEFORM, "encoding": "ascii"}, "longer": {**WAVEFORM, "encoding": "ascii", "kind": "omitted"}}
    wave["longer"]["points"] = 9
    device = make(generation, visa, "ScpiInstrument", waveforms=wave, setup=setup)
    engine(bp.count([device]))
    assert events(documents)[0]["data"]["dmm_trace"] == pytest.approx(1e3 * truth(bench)["value"], rel=0.05, abs=20)
    with pytest.raises((UnexpectedReply, FailedStatus)) as caught:
        engine(bp.count([device.longer]))
    assert "9 samples of ascii, not 8" in str(cause(caught))
    bench.fault("meter2", "over_range")
    with pytest.raises((OutOfScale, FailedStatus)):
        engine(bp.count([device]))
    assert len(events(documents)) == 1


@given(
    st.sampled_from(["float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32"]),
    st.sampled_from(["big", "little"]),
    st.data(),
)
def test_samples_survive_the_round_trip(encoding, byte_order, data):
    dtype = np.dtype(encoding).newbyteorder(">" if byte_order == "big" else "<")
    sent = data.draw(arrays(dtype, st.integers(1, 50)))
    block = sent.tobytes()
    reply = b"#6%06d%s" % (len(block), block)
    waveform = scpi_blocks.Waveform(points=len(sent), encoding=encoding, byte_order=byte_order)
    np.testing.assert_array_equal(waveform.parse(reply, "scope", b"CURV?\n"), sent.astype(float))


@given(st.sampled_from(["ascii", "float32", "int16"]), st.binary(max_size=40))
def test_garbage_never_becomes_a_waveform(encoding, garbage):
    field = scpi.ScpiProtocol().waveform_field(
        "trace",
        "CURV?",
        scpi_blocks.Waveform(points=2, encoding=encoding),
        units=None,
        precision=None,
        repeatable=True,
    )
    try:
        found = flood(field.get(), garbage)
    except ProtocolError:
        return
    assert found.value.shape == (2,)
    assert found.value.dtype == float


def test_waveform_may_not_have_the_name_of_a_signal():
    with pytest.raises(registry.OptionProblem, match="'voltage' has the name of a signal"):
        registry.check_options("ScpiInstrument", {"signals": SIGNALS, "waveforms": {"voltage": WAVEFORM}})


@pytest.fixture(scope="module")
def serial_meter():
    meter = default_wire("meter", [default_instrument("ScpiMeter")])
    line = {**meter, "kind": "serial", "baud_rate": 19200}
    with SimulatorProcess(build_spec([line], time_scale=0.3)) as simulators:
        yield simulators.ports["meter"]


@pytest.mark.parametrize("addressed", ["serial_port", "ASRL"])
def test_instrument_on_a_serial_line(engine, documents, generation, serial_meter, addressed):
    options = {"baud_rate": 19200, "setup": ["VOLT:NPLC 0.02"]}
    instrument = InstrumentConfig(
        id="dmm",
        type="ScpiMeter",
        **({"serial_port": serial_meter} if addressed == "serial_port" else {"resource": f"ASRL{serial_meter}::INSTR"}),
        **options,
    )
    with contextlib.closing(SharedResources()) as resources:
        connection = connection_of(instrument, resources)
        device = make(generation, lambda owner: connection, **instrument.options)
        engine(bp.count([device], num=2))
        assert connection.wire.baud_rate == 19200
    assert [event["data"]["dmm_reading"] for event in events(documents)] == pytest.approx([0, 0], abs=20)


def test_block_data_is_read_whole(bench, engine, visa):
    driver = devices.v2.ScpiDriver(visa("script"), scpi.ScpiProtocol(setup=["*RST"]))
    driver.connect()
    for command in ("VOLT:NPLC 0.02", "SAMP:COUN 40", "FORM REAL,64", "INIT"):
        driver.command(command)
    driver.wait_complete()
    data = driver.query_block("FETC?")
    values = struct.unpack(">40d", data)
    assert max(values) == pytest.approx(truth(bench)["value"], rel=0.05, abs=0.02)
    assert "34401A" in driver.query("*IDN?")
    driver.command("*RST")


async def test_v4_mock_mode_needs_no_wire():
    def no_wire():
        raise AssertionError("the wire was opened")

    device = devices.v4.ScpiInstrument(
        Connection(no_wire, "dmm"), name="dmm", signals=SIGNALS, waveforms={"trace": WAVEFORM}
    )
    await device.connect(mock=True)
    await device.delay.set(0.5)
    assert (await device.read_configuration())["dmm_delay"]["value"] == 0.5
    reading = await device.read()
    assert set(reading) == {"dmm_voltage", "dmm_trace"}
    assert reading["dmm_trace"]["value"].shape == (8,)
    assert (await device.describe())["dmm_trace"]["shape"] == [8]


def test_setting_the_instrument_does_not_take():
    protocol = scpi.ScpiProtocol()
    field = protocol.number_field("delay", float, "TRIG:DEL?", write="TRIG:DEL {}")
    hold(field.put(0.25), NO_ERROR, (b"TRIG:DEL 0.25\n", None), NO_ERROR, (b"TRIG:DEL?\n", b"+2.50000000E-01"))
    with pytest.raises(SettingNotTaken, match=r"delay was set to 0.25 with 'TRIG:DEL 0.25'"):
        hold(field.put(0.25), NO_ERROR, (b"TRIG:DEL 0.25\n", None), NO_ERROR, (b"TRIG:DEL?\n", b"0"))


@given(st.binary(max_size=2000), st.integers(0, 40))
def test_block_survives_the_round_trip_in_any_pieces(data, cut):
    length = str(len(data)).encode()
    reply = b"#%d%s%s\n" % (len(length), length, data)
    assert scpi_blocks.block_end(reply) == len(reply)
    assert scpi_blocks.block_end(reply[:cut]) == (len(reply) if cut >= len(reply) else 0)
    assert scpi_blocks.parse_block(reply, "scope") == scpi_blocks.parse_block(reply[:-1], "scope") == data


@given(st.binary(max_size=60))
def test_garbage_is_no_block(garbage):
    assert 0 <= scpi_blocks.block_end(garbage) <= len(garbage)
    try:
        data = scpi_blocks.parse_block(garbage, "scope")
    except UnexpectedReply:
        return
    assert garbage.startswith(b"#")
    assert data in garbage


@given(st.sampled_from(["reading", "range", "auto_range", "nplc"]), st.binary(max_size=40))
def test_garbage_never_becomes_a_value(name, garbage):
    field = scpi.ScpiMeterProtocol().fields[name]
    try:
        found = flood(field.get(), garbage)
    except ProtocolError:
        return
    assert type(found.value) is field.datatype
