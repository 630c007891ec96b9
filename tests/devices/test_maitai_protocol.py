from contextlib import suppress

import pytest
from conversation_table import flood, hold
from hypothesis import given
from hypothesis import strategies as st

from devices.protocols.errors import (
    InstrumentFault,
    NotReady,
    ProtocolError,
    UnexpectedReply,
    ValueRefused,
    WrongInstrument,
)
from devices.protocols.maitai import MaiTaiProtocol, NotWarm

LASER = MaiTaiProtocol()
NO_ERROR = (b"SYSTem:ERR?\n", b'0,"No error"')
IDENTITY = b"Spectra Physics,MaiTai,3227/51019/40901,0245-2.00.23/CP/1.30"


def wavelength():
    tuned = MaiTaiProtocol().wavelength
    hold(tuned.identify(), (b"WAVelength:MIN?\n", b"690nm"), (b"WAVelength:MAX?\n", b"1040nm"))
    return tuned


def test_identity_is_checked_and_nothing_is_set():
    assert hold(LASER.identify(), (b"*IDN?\n", IDENTITY)) == IDENTITY.decode()
    with pytest.raises(WrongInstrument, match="KEITHLEY"):
        hold(LASER.identify(), (b"*IDN?\n", b"KEITHLEY INSTRUMENTS INC.,MODEL 2000"))
    hold(LASER.restore())


@pytest.mark.parametrize(
    ("name", "command", "reply", "value"),
    [
        ("power", b"READ:POWer?\n", b"3.000W", 3.0),
        ("pump_power", b"READ:PLASer:POWer?\n", b"13.43W", 13.43),
        ("warmed_up", b"READ:PCTWarmedup?\n", b"100%", 100.0),
        ("warmed_up", b"READ:PCTWarmedup?\n", b"100.00%", 100.0),
        ("humidity", b"READ:HUM?\n", b"7.26%", 7.26),
        ("shutter", b"SHUTter?\n", b"1", True),
        ("emission", b"*STB?\n", b"1", True),
        ("modelocked", b"*STB?\n", b"1", False),
        ("modelocked", b"*STB?\n", b"3", True),
        ("identity", b"*IDN?\n", IDENTITY, IDENTITY.decode()),
    ],
)
def test_value_is_taken_out_of_its_reply(name, command, reply, value):
    assert hold(LASER.fields[name].get(), (command, reply)).value == value


@pytest.mark.parametrize("reply", [b"3.000", b"3.000%", b"nanW", b"W", b"3.0 3.0W"])
def test_value_without_its_unit_is_refused(reply):
    with pytest.raises(UnexpectedReply, match="which is not a number in W"):
        hold(LASER.fields["power"].get(), (b"READ:POWer?\n", reply))


def test_shutter_command_has_a_blank_and_is_reported_late():
    field = LASER.fields["shutter"]
    hold(field.put(True), NO_ERROR, (b"SHUTter 1\n", None), NO_ERROR, (b"SHUTter?\n", b"0"))
    with pytest.raises(NotReady, match="the shutter was set to True and is still reported as False"):
        hold(field.settle(True), (b"SHUTter?\n", b"0"))
    assert hold(field.settle(True), (b"SHUTter?\n", b"1")).value is True


def test_emission_is_not_switched_on_before_the_laser_is_warm():
    field = LASER.fields["emission"]
    with pytest.raises(NotWarm, match="43 % warm") as caught:
        hold(field.put(True), (b"READ:PCTWarmedup?\n", b"43%"))
    assert caught.value.percent == 43
    warm = (b"READ:PCTWarmedup?\n", b"100%")
    hold(field.put(True), warm, NO_ERROR, (b"ON\n", None), NO_ERROR, (b"*STB?\n", b"0"))
    hold(field.put(False), NO_ERROR, (b"OFF\n", None), NO_ERROR, (b"*STB?\n", b"0"))


def test_warm_up_is_started_only_from_cold():
    hold(LASER.warm_up(), (b"READ:PCTWarmedup?\n", b"0%"), NO_ERROR, (b"ON\n", None), NO_ERROR)
    hold(LASER.warm_up(), (b"READ:PCTWarmedup?\n", b"12.5%"))


def test_errors_of_a_command_are_told_together_and_older_ones_dropped():
    with pytest.raises(InstrumentFault, match="error -222 after 'SHUTter 1': Data out of range; Settings conflict"):
        hold(
            LASER.command("SHUTter 1"),
            (b"SYSTem:ERR?\n", b'-310,"System error"'),
            NO_ERROR,
            (b"SHUTter 1\n", None),
            (b"SYSTem:ERR?\n", b'-222,"Data out of range"'),
            (b"SYSTem:ERR?\n", b'-221,"Settings conflict"'),
            NO_ERROR,
        )


def test_watchdog_is_set_only_when_asked_for():
    hold(MaiTaiProtocol(watchdog_s=30).restore(), NO_ERROR, (b"TIMer:WATChdog 30\n", None), NO_ERROR)


def test_tuning_ends_when_the_actual_wavelength_is_the_commanded_one():
    tuned = wavelength()
    hold(tuned.start_move(820), NO_ERROR, (b"WAVelength 820\n", None), NO_ERROR)
    assert hold(tuned.ask_motion(), (b"READ:WAVelength?\n", b"805nm")).moving
    assert not hold(tuned.ask_motion(), (b"READ:WAVelength?\n", b"820nm")).moving
    hold(tuned.end_motion(820), NO_ERROR, (b"WAVelength?\n", b"820nm"))


def test_stop_keeps_the_wavelength_where_it_is():
    tuned = wavelength()
    hold(tuned.start_move(820), NO_ERROR, (b"WAVelength 820\n", None), NO_ERROR)
    hold(tuned.stop(), (b"READ:WAVelength?\n", b"805nm"), NO_ERROR, (b"WAVelength 805\n", None), NO_ERROR)


def test_range_is_that_of_the_model():
    with pytest.raises(ValueRefused, match="setpoint cannot be 689: allowed is 690 to 1040 nm"):
        wavelength().check_target(689)


@given(st.integers(690, 1040))
def test_wavelength_survives_the_round_trip(value):
    tuned = wavelength()
    hold(tuned.start_move(value), NO_ERROR, (b"WAVelength %d\n" % value, None), NO_ERROR)
    assert hold(tuned.fields["setpoint"].get(), (b"WAVelength?\n", b"%dnm" % value)).value == value


@given(st.sampled_from([*LASER.fields]), st.binary(max_size=40))
def test_garbage_never_becomes_a_value(name, garbage):
    field = LASER.fields[name]
    with suppress(ProtocolError):
        found = flood(field.get(), garbage)
        assert type(found.value) is field.datatype


@given(st.binary(max_size=40))
def test_garbage_is_no_empty_error_queue(garbage):
    with suppress(ProtocolError):
        flood(LASER.check_errors(b"ON\n"), garbage)
        assert garbage.strip()[:1] in (b"0", b"+", b"-")
