from contextlib import suppress

import pytest
from conversation_table import flood, hold
from hypothesis import given
from hypothesis import strategies as st

from devices.protocols import esp300, esp300_errors
from devices.protocols.conversation import Answer
from devices.protocols.errors import (
    InstrumentFault,
    NotOnTarget,
    ProtocolError,
    SettingNotTaken,
    UnexpectedReply,
    ValueRefused,
    WrongInstrument,
)

NO_ERROR = (b"TE?\r", b"0")
ERROR_104 = (b"TE?\r", b"104")
ERROR_204 = (b"TE?\r", b"204")


def axis(number: int = 1, unit_code: bytes = b"2", **options) -> esp300.Esp300Axis:
    found = esp300.Esp300Protocol(axes=(number,), **options).axes[number]
    prefix = str(number).encode()
    hold(
        found.identify(),
        (prefix + b"SN?\r", unit_code),
        (prefix + b"SL?\r", b"0"),
        (prefix + b"SR?\r", b"50"),
        (prefix + b"ID?\r", b"UTM50PP.1, SN B0117"),
    )
    return found


class Wire:
    """What the two users of one controller have in common."""

    name = "/dev/ttyUSB2"

    def __init__(self):
        self.commons = {}

    def common(self, make):
        if make not in self.commons:
            self.commons[make] = make(self)
        return self.commons[make]


def two_users(number: int, other: int | None = None) -> tuple[esp300.Esp300Axis, esp300.Esp300Axis]:
    """Return an axis, and the same or another as somebody else has it."""
    wire = Wire()
    users = axis(number), axis(number if other is None else other)
    for user in users:
        user.join(wire)
    return users


def warnings(caplog) -> list[str]:
    """Return code and text of the errors that nobody was told about."""
    said = [record.args for record in caplog.records if record.levelname == "WARNING"]
    return [f"{code} {text}" for _, code, text in said]


def test_version_tells_an_esp300_from_other_instruments():
    assert hold(esp300.Esp300Protocol().identify(), (b"VE?\r", b"ESP300 Version 3.04 07/27/01")).startswith("ESP300")
    with pytest.raises(WrongInstrument, match=r"'VE\?' was answered with b'0.5E-3'"):
        hold(esp300.Esp300Protocol().identify(), (b"VE?\r", b"0.5E-3"))


def test_units_and_limits_are_the_controllers():
    found = axis()
    assert found.units == "mm"
    assert found.limits == (0.0, 50.0)
    assert found.fields["velocity"].units == "mm/s"
    assert found.fields["readback"].limits == (0.0, 50.0)


def test_axis_that_counts_in_other_units_is_refused():
    wrong = esp300.Esp300Protocol(axes=(1,), units={1: "deg"}).axes[1]
    with pytest.raises(ProtocolError, match="the controller counts in mm, the configuration in deg"):
        hold(wrong.identify(), (b"1SN?\r", b"2"))


def test_unit_is_named_and_never_a_number_from_another_table():
    with pytest.raises(ValueRefused, match="units cannot be '3': allowed is one of count, step, mm"):
        esp300.Esp300Protocol(units={1: "3"})


def test_move_is_checked_against_the_error_queue():
    hold(axis().start_move(12.5), NO_ERROR, (b"1PA12.5\r", None), NO_ERROR)
    with pytest.raises(InstrumentFault, match=r"error 106 after '1PA12.5': axis 1: plus software limit") as caught:
        hold(axis().start_move(12.5), NO_ERROR, (b"1PA12.5\r", None), (b"TE?\r", b"106"), NO_ERROR)
    assert caught.value.code == 106


def test_errors_from_before_a_command_are_not_taken_for_its_own_and_not_lost(caplog):
    hold(axis().start_move(1.0), (b"TE?\r", b"104"), (b"TE?\r", b"6"), NO_ERROR, (b"1PA1\r", None), NO_ERROR)
    assert warnings(caplog) == ["104 axis 1: plus hardware limit", "6 no such command"]


def test_error_of_an_axis_that_moves_outlives_a_command_to_another_one(caplog):
    axes = esp300.Esp300Protocol(axes=(1, 2)).axes
    hold(axes[2].start_home(), NO_ERROR, (b"2OR1\r", None), NO_ERROR)
    hold(axes[1].fields["enabled"].put(True), ERROR_204, NO_ERROR, (b"1MO\r", None), NO_ERROR, (b"1MO?\r", b"1"))
    with pytest.raises(InstrumentFault, match="error 204 after '2OR': axis 2: plus hardware limit"):
        hold(axes[2].end_motion(None), NO_ERROR)
    hold(axes[2].end_motion(None), NO_ERROR)
    assert not warnings(caplog)


def test_error_is_its_whose_motion_it_ended_whoever_finds_it(caplog):
    old, new = two_users(1)
    hold(old.start_move(1.0), NO_ERROR, (b"1PA1\r", None), NO_ERROR)
    with pytest.raises(InstrumentFault) as caught:
        hold(
            new.fields["velocity"].put(99.0),
            NO_ERROR,
            (b"1VA99\r", None),
            (b"TE?\r", b"110"),
            (b"TE?\r", b"104"),
            NO_ERROR,
        )
    assert str(caught.value).endswith("error 110 after '1VA99': axis 1: above maximum velocity.")
    with pytest.raises(InstrumentFault, match="error 104 after '1PA1': axis 1: plus hardware limit"):
        hold(old.end_motion(1.0), NO_ERROR)
    assert not warnings(caplog)


def test_motion_that_replaces_anothers_has_the_errors_from_then_on():
    old, new = two_users(1)
    hold(old.start_move(1.0), NO_ERROR, (b"1PA1\r", None), NO_ERROR)
    hold(new.start_move(2.0), (b"TE?\r", b"103"), NO_ERROR, (b"1PA2\r", None), NO_ERROR)
    with pytest.raises(InstrumentFault, match="following error"):
        hold(old.end_motion(1.0), (b"TE?\r", b"104"), NO_ERROR)
    with pytest.raises(InstrumentFault, match="plus hardware limit"):
        hold(new.end_motion(2.0), NO_ERROR)


def test_motion_goes_on_for_who_began_it_where_another_one_was_refused():
    old, new = two_users(1)
    hold(old.start_move(1.0), NO_ERROR, (b"1PA1\r", None), NO_ERROR)
    with pytest.raises(InstrumentFault, match="plus software limit"):
        hold(new.start_move(2.0), NO_ERROR, (b"1PA2\r", None), (b"TE?\r", b"106"), NO_ERROR)
    hold(new.fields["enabled"].put(True), ERROR_104, NO_ERROR, (b"1MO\r", None), NO_ERROR, (b"1MO?\r", b"1"))
    with pytest.raises(InstrumentFault, match="plus hardware limit"):
        hold(old.end_motion(1.0), NO_ERROR)


def test_emergency_stop_is_told_to_all_whose_motion_it_ended(caplog):
    old, new = two_users(1, 2)
    hold(old.start_move(1.0), NO_ERROR, (b"1PA1\r", None), NO_ERROR)
    hold(new.start_move(2.0), NO_ERROR, (b"2PA2\r", None), NO_ERROR)
    with pytest.raises(InstrumentFault, match="error 4 after '1PA1': emergency stop"):
        hold(old.end_motion(1.0), (b"TE?\r", b"4"), NO_ERROR)
    with pytest.raises(InstrumentFault, match="error 4 after '2PA2': emergency stop"):
        hold(new.end_motion(2.0), NO_ERROR)
    assert not warnings(caplog)


@pytest.mark.parametrize("stop", ["axis", "all"])
def test_errors_of_a_motion_that_was_stopped_are_not_lost(caplog, stop):
    old, new = two_users(1)
    hold(old.start_move(1.0), NO_ERROR, (b"1PA1\r", None), NO_ERROR)
    hold(new.fields["enabled"].put(True), ERROR_104, NO_ERROR, (b"1MO\r", None), NO_ERROR, (b"1MO?\r", b"1"))
    if stop == "axis":
        hold(new.stop(), (b"1ST\r", None))
    else:
        controller = esp300.Esp300Protocol()
        controller.errors = new._controller.errors
        hold(controller.abort(), (b"AB\r", None))
    assert warnings(caplog) == ["104 axis 1: plus hardware limit"]
    hold(new.end_motion(1.0), ERROR_104, NO_ERROR, (b"1TP\r", b"1"))
    assert warnings(caplog) == ["104 axis 1: plus hardware limit"] * 2


def test_errors_that_were_taken_out_before_the_line_broke_are_not_lost(caplog):
    setting = axis().fields["velocity"].put(99.0)
    for reply in (None, b"0", None, b"110"):
        setting.send(None if reply is None else Answer(reply, 0.0))
    setting.close()
    assert warnings(caplog) == ["110 axis 1: above maximum velocity"]


def test_motion_state_is_asked_and_understood_the_right_way_round():
    moving, position = hold(axis().ask_motion(), (b"1MD?\r", b"0"), (b"1TP\r", b"3.5000"))
    assert moving
    assert position == (3.5, 2.0)
    assert not hold(axis().ask_motion(), (b"1MD?\r", b"1"), (b"1TP\r", b"3.5000")).moving


def test_motion_that_ends_elsewhere_fails():
    hold(axis().end_motion(3.5), NO_ERROR, (b"1TP\r", b"3.5001"))
    with pytest.raises(NotOnTarget, match=r"the motion to 3.5 mm ended at 1.2 mm"):
        hold(axis().end_motion(3.5), NO_ERROR, (b"1TP\r", b"1.2000"))


def test_how_far_from_its_target_a_motion_may_end_depends_on_the_units():
    in_micrometres = axis(unit_code=b"3")
    hold(in_micrometres.end_motion(3.5), NO_ERROR, (b"1TP\r", b"3.4"))
    with pytest.raises(NotOnTarget):
        hold(in_micrometres.end_motion(35), NO_ERROR, (b"1TP\r", b"25"))
    with pytest.raises(NotOnTarget):
        hold(axis(unit_code=b"3", tolerance=0.05).end_motion(3.5), NO_ERROR, (b"1TP\r", b"3.4"))
    assert set(esp300.TOLERANCES) == set(esp300.UNITS.values())


def test_home_stop_and_abort():
    hold(axis().start_home(), NO_ERROR, (b"1OR1\r", None), NO_ERROR)
    hold(axis().start_home(4), NO_ERROR, (b"1OR4\r", None), NO_ERROR)
    hold(axis().stop(), (b"1ST\r", None))
    hold(esp300.Esp300Protocol().abort(), (b"AB\r", None))
    with pytest.raises(ValueRefused, match="home mode cannot be 7: allowed is 0 to 6"):
        hold(axis().start_home(7))


@pytest.mark.parametrize("target", [-0.001, 50.001, float("nan"), "far"])
def test_target_outside_of_the_limits_is_refused(target):
    with pytest.raises(ValueRefused, match="allowed is"):
        axis().check_target(target)


def test_settings_are_sent_checked_and_read_back():
    field = axis().fields["velocity"]
    found = hold(field.put(8.0), NO_ERROR, (b"1VA8\r", None), NO_ERROR, (b"1VA?\r", b"8"))
    assert found.value == 8.0
    with pytest.raises(InstrumentFault, match="above maximum velocity"):
        hold(field.put(80.0), NO_ERROR, (b"1VA80\r", None), (b"TE?\r", b"110"), NO_ERROR)
    with pytest.raises(SettingNotTaken, match=r"velocity was set to 8.0 with '1VA8', but the instrument reports 4.0"):
        hold(field.put(8.0), NO_ERROR, (b"1VA8\r", None), NO_ERROR, (b"1VA?\r", b"4"))


def test_new_software_limit_holds_at_once():
    found = axis()
    hold(found.fields["high_limit"].put(20.0), NO_ERROR, (b"1SR20\r", None), NO_ERROR, (b"1SR?\r", b"20"))
    with pytest.raises(ValueRefused, match="0 to 20 mm"):
        found.check_target(21)


def test_motor_is_switched_on_and_off():
    field = axis().fields["enabled"]
    assert hold(field.put(True), NO_ERROR, (b"1MO\r", None), NO_ERROR, (b"1MO?\r", b"1")).value is True
    assert hold(field.put(False), NO_ERROR, (b"1MF\r", None), NO_ERROR, (b"1MO?\r", b"0")).value is False
    with pytest.raises(SettingNotTaken):
        hold(field.put(True), NO_ERROR, (b"1MO\r", None), NO_ERROR, (b"1MO?\r", b"0"))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (7, "parameter out of range"),
        (104, "axis 1: plus hardware limit"),
        (313, "axis 3: motor not enabled"),
        (55, "unknown error"),
        (277, "axis 2: unknown error"),
    ],
)
def test_error_codes_have_a_text(code, text):
    assert esp300_errors.error_text(code) == text


def test_axis_that_does_not_exist_is_refused():
    with pytest.raises(ValueRefused, match="axis cannot be 4: allowed is 1, 2 or 3"):
        esp300.Esp300Protocol(axes=(4,))


@given(st.floats(min_value=0, max_value=50))
def test_target_survives_the_round_trip(target):
    sent = []
    conversation = axis().start_move(target)
    step = next(conversation)
    step = conversation.send(Answer(b"0", 0.0)) if step.command == b"TE?\r" else step
    sent.append(step.command)
    assert sent[0].startswith(b"1PA")
    assert float(sent[0][3:]) == pytest.approx(target, abs=1e-6)


@given(st.sampled_from([*axis().fields]), st.binary(max_size=40))
def test_garbage_never_becomes_a_value(name, garbage):
    field = axis().fields[name]
    with suppress(ProtocolError):
        found = flood(field.get(), garbage)
        assert type(found.value) is field.datatype
        if field.datatype is not str:
            assert garbage.strip()


@given(st.binary(max_size=40))
def test_garbage_is_no_motion_state_and_no_clean_error_queue(garbage):
    conversation = axis().ask_motion()
    next(conversation)
    if garbage.strip() not in (b"0", b"1", b"+0", b"+1", b"-0", b"00", b"01"):
        with suppress(StopIteration), pytest.raises((UnexpectedReply, StopIteration)):
            conversation.send(Answer(garbage, 0.0))
