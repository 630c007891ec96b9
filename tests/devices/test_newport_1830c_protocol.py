import math
from contextlib import suppress

import pytest
from conversation_table import flood, hold
from hypothesis import given
from hypothesis import strategies as st

from devices.protocols import newport_1830c as newport
from devices.protocols.conversation import Answer
from devices.protocols.errors import (
    NotReady,
    OutOfScale,
    ProtocolError,
    SettingNotTaken,
    UnexpectedReply,
    ValueRefused,
    WrongInstrument,
)

METER = newport.Newport1830CProtocol()
SETTINGS = [field for field in METER.fields.values() if field.put is not None]


def power(*exchanges: tuple[bytes, bytes | None]) -> newport.Stamped[float]:
    return hold(METER.power(), *exchanges)


def test_power_carries_the_time_of_its_own_reply():
    value, timestamp = power((b"U?\n", b"1"), (b"D?\n", b"+.75E-9"), (b"Q?\n", b"128"))
    assert value == 0.75e-9
    assert timestamp == 2.0


@pytest.mark.parametrize(
    ("text", "watts"), [(b"5E-9", 5e-9), (b"+.11E-9", 0.11e-9), (b"-1.2E-12", -1.2e-12), (b"0.5", 0.5)]
)
def test_power_is_read_in_every_form_the_manual_shows(text, watts):
    assert power((b"U?\n", b"1"), (b"D?\n", text), (b"Q?\n", b"0")).value == pytest.approx(watts)


def test_dbm_display_does_not_change_what_power_means():
    assert power((b"U?\n", b"3"), (b"D?\n", b"-30.0"), (b"Q?\n", b"0")).value == pytest.approx(1e-6)


@pytest.mark.parametrize(("code", "shown"), [(b"2", "dB"), (b"4", "REL")])
def test_relative_display_is_an_error_that_names_the_remedy(code, shown):
    with pytest.raises(ProtocolError, match=f"the display shows {shown}.*Set its units to 'W' or 'dBm'"):
        power((b"U?\n", code), (b"D?\n", b"1.0"), (b"Q?\n", b"0"))


def test_swapped_codes_of_some_units_are_an_option():
    meter = newport.Newport1830CProtocol(swapped_db_codes=True)
    assert hold(meter.power(), (b"U?\n", b"2"), (b"D?\n", b"0"), (b"Q?\n", b"0")).value == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("status", "words"),
    [(4, "detector saturated"), (8, "over range"), (12 + 128, "detector saturated and over range")],
)
def test_saturation_and_over_range_are_never_a_number(status, words):
    byte = str(status).encode()
    reading = ((b"U?\n", b"1"), (b"D?\n", b"1.999E-3"), (b"Q?\n", byte))
    with pytest.raises(OutOfScale, match=f"{words}.*less sensitive range") as caught:
        power(*reading, (b"C\n", None), *reading)
    assert caught.value.status == status
    assert caught.value.condition == words


def test_over_range_left_from_an_earlier_reading_is_cleared_once():
    first = ((b"U?\n", b"1"), (b"D?\n", b"1E-3"), (b"Q?\n", b"8"))
    second = ((b"U?\n", b"1"), (b"D?\n", b"2E-3"), (b"Q?\n", b"128"))
    assert power(*first, (b"C\n", None), *second) == (2e-3, 5.0)


def test_reading_taken_while_ranging_is_taken_again():
    busy = ((b"U?\n", b"1"), (b"D?\n", b"1E-3"), (b"Q?\n", b"32"))
    done = ((b"U?\n", b"1"), (b"D?\n", b"2E-3"), (b"Q?\n", b"0"))
    assert power(*busy, *busy, *done).value == 2e-3
    with pytest.raises(NotReady, match="busy or changing its range"):
        power(*busy * 6)


def test_identify_switches_the_echo_off_before_it_asks():
    described = hold(
        METER.identify(),
        (b"E0\n", None),
        (b"G1\n", None),
        (b"Q?\n", b"128"),
        (b"U?\n", b"1"),
        (b"W?\n", b"0800"),
        (b"R?\n", b"0"),
    )
    assert described == "Newport 1830-C"


def test_echoed_command_is_no_answer():
    question = next(METER.power())
    assert not question.accept(b"U?")
    assert not question.accept(b"E0")
    assert question.accept(b"1")
    assert question.accept(b"HELLO WORLD")


def test_another_instrument_is_refused_with_what_it_said():
    with pytest.raises(WrongInstrument, match=r"'Q\?' was answered with b'ESP300 Version 3.04'.*status byte") as caught:
        hold(METER.identify(), (b"E0\n", None), (b"G1\n", None), (b"Q?\n", b"ESP300 Version 3.04"))
    assert caught.value.reply == b"ESP300 Version 3.04"


@pytest.mark.parametrize(
    ("name", "value", "sent", "query", "reply"),
    [
        ("wavelength", 780, b"W0780\n", b"W?\n", b"0780"),
        ("units", "dBm", b"U3\n", b"U?\n", b"3"),
        ("range", 8, b"R8\n", b"R?\n", b"8"),
        ("filter", 16, b"F1\n", b"F?\n", b"1"),
        ("filter", 1, b"F3\n", b"F?\n", b"3"),
        ("attenuator", True, b"A1\n", b"A?\n", b"1"),
        ("zero", False, b"Z0\n", b"Z?\n", b"0"),
        ("beeper", False, b"B0\n", b"B?\n", b"0"),
    ],
)
def test_setting_is_sent_and_read_back(name, value, sent, query, reply):
    field = METER.fields[name]
    found = hold(field.put(field.check(value)), (sent, None), (query, reply))
    assert found.value == value
    assert type(found.value) is field.datatype


def test_setting_the_meter_does_not_take_is_an_error_with_both_values():
    with pytest.raises(SettingNotTaken, match=r"wavelength was set to 780 with 'W0780', but .* 800") as caught:
        hold(METER.fields["wavelength"].put(780), (b"W0780\n", None), (b"W?\n", b"0800"))
    assert (caught.value.wanted, caught.value.found) == (780, 800)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("wavelength", 100, "200 to 1800 nm"),
        ("wavelength", 780.5, "type int"),
        ("wavelength", math.nan, "type int"),
        ("range", 9, "0 to 8"),
        ("units", "mW", "'W', 'dB', 'dBm', 'REL'"),
        ("filter", 2, "16, 4, 1"),
        ("attenuator", "in", "type bool"),
    ],
)
def test_wrong_value_is_refused_with_what_is_allowed(name, value, allowed):
    with pytest.raises(ValueRefused, match=allowed):
        METER.fields[name].check(value)


@given(st.sampled_from(SETTINGS), st.data())
def test_every_allowed_value_survives_the_round_trip(field, data):
    if field.choices:
        value = data.draw(st.sampled_from(field.choices))
    else:
        value = data.draw(st.integers(*map(int, field.limits)))
    conversation = field.put(field.check(value))
    command = next(conversation).command
    next(conversation)
    with pytest.raises(StopIteration) as stop:
        conversation.send(Answer(command.strip()[1:], 1.0))
    assert stop.value.value.value == value


@given(st.sampled_from([*METER.fields]), st.binary(max_size=40))
def test_garbage_is_an_error_and_never_a_value(name, garbage):
    field = METER.fields[name]
    with suppress(ProtocolError):
        found = flood(field.get(), garbage)
        assert garbage.strip().isdigit()
        assert type(found.value) is field.datatype


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-999, max_value=999))
def test_power_survives_the_round_trip(value):
    text = f"{value:.5E}".encode()
    assert power((b"U?\n", b"1"), (b"D?\n", text), (b"Q?\n", b"0")).value == float(text)


@pytest.mark.parametrize(
    "text", [b"nan", b"inf", b"1E999", b"1_000", b"0x10", b"", b"5E-9 5E-9", b"\xef\xbc\x91", b"1E9"]
)
def test_what_is_no_reading_of_this_meter_is_refused(text):
    with pytest.raises(UnexpectedReply, match="was answered with"):
        power((b"U?\n", b"1"), (b"D?\n", text), (b"Q?\n", b"0"))


def test_error_names_device_and_wire_once_they_are_known():
    error = UnexpectedReply("a reading", instrument="Newport 1830-C", command=b"D?\n", reply=b"?!")
    located = error.located("power_v4", "/dev/ttyUSB0")
    assert str(located).startswith("power_v4 (Newport 1830-C on /dev/ttyUSB0): 'D?' was answered with b'?!'")
    assert isinstance(located, UnexpectedReply)
    assert (located.device, located.wire, located.command) == ("power_v4", "/dev/ttyUSB0", b"D?\n")
