from contextlib import suppress

import pytest
from conversation_table import flood, hold
from hypothesis import given
from hypothesis import strategies as st

from devices.protocols import elliptec
from devices.protocols.errors import (
    InstrumentFault,
    NotOnTarget,
    NotReady,
    ProtocolError,
    SettingNotTaken,
    UnexpectedReply,
    ValueRefused,
    WrongInstrument,
)
from devices.protocols.numbers import to_signed_hex

IDENTITY = b"2IN0E1140051720231701016800023000"


def unit() -> elliptec.ElliptecProtocol:
    protocol = elliptec.ElliptecProtocol("2")
    hold(protocol.identify(), (b"2in", IDENTITY))
    return protocol


def test_scale_comes_from_the_identification():
    protocol = unit()
    assert protocol.identity.serial_number == "11400517"
    assert (protocol.identity.travel, protocol.identity.pulses) == (360, 143360)
    assert protocol.to_pulses(180.0) == 71680
    assert protocol.to_position(-71680) == -180.0
    assert protocol.units == "deg"


def test_scale_is_unknown_before_the_identification():
    with pytest.raises(ProtocolError, match=r"scale and travel are not known yet. Connect the device first"):
        elliptec.ElliptecProtocol("2").to_pulses(1.0)


@pytest.mark.parametrize(
    "reply", [b"2GS00", b"2IN0E1140051720231701016800000000", b"3IN0E1140051720231701016800023000", b"hello"]
)
def test_what_is_no_elliptec_module_is_refused_with_what_it_said(reply):
    with pytest.raises((WrongInstrument, AssertionError)) as caught:
        hold(elliptec.ElliptecProtocol("2").identify(), (b"2in", reply))
    if isinstance(caught.value, WrongInstrument):
        assert repr(reply) in str(caught.value)


def test_position_in_degrees():
    assert hold(unit().position(), (b"2gp", b"2PO00011800")).value == pytest.approx(180.0)
    assert hold(unit().position(), (b"2gp", b"2POFFFFFFFF")).value == pytest.approx(-360 / 143360)


def test_busy_module_is_not_ready_and_a_fault_has_its_text():
    with pytest.raises(NotReady, match="busy"):
        hold(unit().position(), (b"2gp", b"2GS09"))
    with pytest.raises(InstrumentFault, match="error 2 after '2gp': mechanical timeout") as caught:
        hold(unit().position(), (b"2gp", b"2GS02"))
    assert caught.value.code == 2


def test_replies_of_other_modules_and_buttons_are_left_to_others():
    question = next(unit().position())
    assert question.accept(b"2PO00000000")
    assert not question.accept(b"3PO00000000")
    assert not question.accept(b"2GS00")
    assert question.accept(b"2GS02")
    assert not question.accept(b"2BO00000000")
    assert not question.accept(b"2IN0E1140051720231701016800023000")
    assert question.accept(b"?%GARBAGE")


@pytest.mark.parametrize(
    ("name", "value", "exchanges"),
    [
        ("velocity", 50, [(b"2sv32", b"2GS00"), (b"2gv", b"2GV32")]),
        ("jog_step", 45.0, [(b"2sj00004600", b"2GS00"), (b"2gj", b"2GJ00004600")]),
        ("home_offset", -90.0, [(b"2soFFFF7400", b"2GS00"), (b"2go", b"2HOFFFF7400")]),
    ],
)
def test_setting_is_sent_and_read_back(name, value, exchanges):
    field = unit().fields[name]
    assert hold(field.put(field.check(value)), *exchanges).value == pytest.approx(value)


def test_setting_the_module_does_not_take():
    field = unit().fields["velocity"]
    with pytest.raises(SettingNotTaken, match=r"velocity was set to 50 .* reports 100"):
        hold(field.put(50), (b"2sv32", b"2GS00"), (b"2gv", b"2GV64"))
    with pytest.raises(InstrumentFault, match="value out of range"):
        hold(field.put(50), (b"2sv32", b"2GS04"))


def test_position_outside_of_the_limits_is_refused_with_the_limits():
    with pytest.raises(ValueRefused, match=r"400.0: allowed is -360 to 360 deg"):
        unit().check_target(400.0)
    with pytest.raises(ValueRefused, match="0 to 90 deg"):
        elliptec.ElliptecProtocol("2", limits=(0, 90)).check_target(90.1)


@pytest.mark.parametrize("address", ["", "g", "a", "12", "é"])
def test_address_is_one_hexadecimal_digit(address):
    with pytest.raises(ValueRefused, match="one of 0-9 and A-F"):
        elliptec.ElliptecProtocol(address)


def start(target: float = 90.0) -> tuple[elliptec.ElliptecProtocol, elliptec.Motion]:
    protocol = unit()
    motion = protocol.move(target)
    hold(protocol.start(motion), (b"2gs", b"2GS0C"), (b"2ma" + to_signed_hex(protocol.to_pulses(target), 8), None))
    return protocol, motion


def test_motion_ends_with_its_own_late_reply():
    _, motion = start(90.0)
    for line in (b"3PO00008C00", b"2BO00000000", b"noise", b"2GS09"):
        motion.hear(line)
        assert not motion.ended
    motion.hear(b"2PO00008C00")
    assert motion.arrived


def test_late_word_of_an_earlier_motion_is_no_arrival():
    protocol, motion = start(90.0)
    motion.hear(b"2PO00000000")
    assert motion.doubtful
    assert not motion.ended
    hold(protocol.confirm(motion), (b"2gs", b"2GS09"))
    assert not motion.ended
    motion.hear(b"2PO00008C00")
    assert motion.arrived


def test_motion_that_ends_elsewhere_fails_with_both_positions():
    protocol, motion = start(90.0)
    motion.hear(b"2PO00004600")
    hold(protocol.confirm(motion), (b"2gs", b"2GS00"), (b"2gp", b"2PO00004600"), (b"2gp", b"2PO00004600"))
    assert isinstance(motion.error, NotOnTarget)
    assert "the motion to 90 deg ended at 45 deg" in str(motion.error)


def test_position_on_the_way_is_reported_and_one_on_the_target_is_confirmed():
    protocol, motion = start(90.0)
    assert hold(protocol.look(motion), (b"2gp", b"2PO00004600")).value == pytest.approx(45.0)
    assert not motion.doubtful
    assert hold(protocol.look(motion), (b"2gp", b"2GS09")) is None
    assert hold(protocol.look(motion), (b"2gp", b"2PO00008C01")).value == pytest.approx(90.0, abs=0.01)
    assert motion.doubtful
    assert not motion.ended
    hold(protocol.confirm(motion), (b"2gs", b"2GS09"))
    assert not motion.ended
    hold(protocol.look(motion), (b"2gp", b"2PO00008C01"))
    hold(protocol.confirm(motion), (b"2gs", b"2GS00"), (b"2gp", b"2PO00008C01"), (b"2gp", b"2PO00008C01"))
    assert motion.arrived


def test_end_of_a_packet_whose_beginning_was_lost_is_no_answer():
    question = next(unit().position())
    assert not question.accept(b"PO00009B90")
    assert question.accept(b"hello")


def test_lost_final_reply_is_found_by_asking():
    protocol, motion = start(90.0)
    hold(protocol.confirm(motion), (b"2gs", b"2GS00"), (b"2gp", b"2PO00008C01"), (b"2gp", b"2PO00008C01"))
    assert motion.arrived


@pytest.mark.parametrize(
    ("code", "text"), [(2, "mechanical timeout"), (12, "position out of range"), (0x77, "unknown")]
)
def test_motion_fails_with_the_text_of_the_status(code, text):
    _, motion = start()
    motion.hear(b"2GS%02X" % code)
    assert isinstance(motion.error, InstrumentFault)
    assert motion.error.code == code
    assert text in str(motion.error)


def test_homing_and_stop():
    protocol = unit()
    motion = protocol.home()
    hold(protocol.start(motion), (b"2gs", b"2GS00"), (b"2ho0", None))
    motion.hear(b"2PO00000000")
    assert motion.arrived
    for motion in (protocol.home(clockwise=False), protocol.jog(), protocol.jog(forward=False)):
        hold(protocol.start(motion), (b"2gs", b"2GS00"), (motion.command, None))
    for answer in (b"2GS00", b"2PO00004600"):
        assert hold(protocol.stop(), (b"2st", answer)) is None


def test_module_that_missed_one_question_is_asked_for_its_position_again():
    protocol, motion = start()
    assert motion.tells_its_position
    motion.unanswered += 1
    assert motion.tells_its_position
    hold(protocol.look(motion), (b"2gp", b"2PO00004600"))
    motion.unanswered += 1
    assert motion.tells_its_position, "it has answered in between"
    motion.unanswered += 1
    assert not motion.tells_its_position
    assert not protocol.home().tells_its_position


def test_module_still_in_motion_is_not_started():
    protocol = unit()
    with pytest.raises(NotReady, match="the module is busy"):
        hold(protocol.start(protocol.move(10)), (b"2gs", b"2GS09"))


@given(st.floats(min_value=-360, max_value=360))
def test_target_survives_the_round_trip_within_half_a_pulse(target):
    protocol = unit()
    pulses = elliptec.parse(b"2PO" + protocol.move(target).command[3:]).pulses
    assert abs(protocol.to_position(pulses) - target) <= 0.5 * 360 / 143360 + 1e-9


@given(st.integers(-(2**31), 2**31 - 1))
def test_pulses_survive_the_round_trip(pulses):
    assert elliptec.parse(b"APO" + to_signed_hex(pulses, 8)) == elliptec.PositionReply("A", pulses)


def test_pulses_that_do_not_fit_are_refused():
    with pytest.raises(OverflowError):
        to_signed_hex(2**31, 8)


@given(st.binary(max_size=40))
def test_garbage_is_an_error_and_never_a_reply(garbage):
    with suppress(UnexpectedReply):
        reply = elliptec.parse(garbage)
        assert garbage.startswith(reply.address.encode())


@given(st.sampled_from([*unit().fields]), st.binary(max_size=40))
def test_garbage_never_becomes_a_value(name, garbage):
    field = unit().fields[name]
    with suppress(ProtocolError):
        found = flood(field.get(), garbage)
        assert garbage[:1] == b"2"
        assert type(found.value) is field.datatype


@given(st.lists(st.binary(max_size=14)))
def test_garbage_never_ends_a_motion(lines):
    _, motion = start()
    for line in lines:
        motion.hear(line)
    assert not motion.ended or any(line[:3] in (b"2PO", b"2GS") for line in lines)


def test_motor_information_is_understood():
    assert elliptec.parse(b"2I1" + b"0" * 19) == elliptec.MotorReply("2", 1)
    with pytest.raises(UnexpectedReply):
        elliptec.parse(b"2I1" + b"0" * 18)
