"""Newport ESP300: replies byte for byte, error queue, waiting, limits, homing, and a stranger's driver as judge."""

import warnings

import pytest

from simulators import default_instrument, default_wire


@pytest.fixture
def controller(connect):
    return connect("ESP300")


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        (b"VE?\r", b"ESP300 Version 3.04 07/27/01\r\n"),
        (b"*IDN?\r\n", b"ESP300 Version 3.04 07/27/01\r\n"),
        (b"1ID?\r", b"UTM50PP.1, SN B0117\r\n"),
        (b"1TP\r", b"0.0000\r\n"),
        (b"1TP?\r", b"0.0000\r\n"),
        (b"1DP?\r", b"0.0000\r\n"),
        (b"1DV?\r", b"0.0000\r\n"),
        (b"1MD?\r", b"1\r\n"),
        (b"1MO?\r", b"1\r\n"),
        (b"1MF;1MO?\r", b"0\r\n"),
        (b"1MF;1MO;1MO?\r", b"1\r\n"),
        (b"1VA?\r", b"4\r\n"),
        (b"1VA 2.5 ; 1VA?\r", b"2.5\r\n"),
        (b"1AC8;1AC?\r", b"8\r\n"),
        (b"1AG8;1AG?\r", b"8\r\n"),
        (b"1AU?;1VU?\r", b"80\r\n20\r\n"),
        (b"1SL?;1SR?\r", b"0\r\n50\r\n"),
        (b"1SL-1;1SL?\r", b"-1\r\n"),
        (b"1SN?;3SN?\r", b"2\r\n7\r\n"),
        (b"1SN3;1SN?\r", b"3\r\n"),
        (b"1DH5.5;1TP\r", b"5.5000\r\n"),
        (b"TE?\r", b"0\r\n"),
        (b"TB?\r", b"0, 0, NO ERROR DETECTED\r\n"),
        (b"1PH\r", b"0H, 0H\r\n"),
        (b"*ESR?\r", b""),
        (b"*OPC?\r", b""),
        (b"1PA+3.0e-1\r", b""),
        (b"\r\n\r\n;;\r", b""),
    ],
)
def test_speaks_as_the_manual_says(controller, sent: bytes, reply: bytes) -> None:
    assert controller.say(sent) == reply


@pytest.mark.parametrize(
    ("sent", "code", "text"),
    [
        (b"XX\r", 6, b"COMMAND DOES NOT EXIST"),
        (b"*ESR?\r", 6, b"COMMAND DOES NOT EXIST"),
        (b"PA1\r", 37, b"AXIS NUMBER MISSING"),
        (b"4TP\r", 9, b"AXIS NUMBER OUT OF RANGE"),
        (b"0TP\r", 9, b"AXIS NUMBER OUT OF RANGE"),
        (b"1PA\r", 38, b"COMMAND PARAMETER MISSING"),
        (b"1PAx\r", 101, b"PARAMETER OUT OF RANGE"),
        (b"1PAnan\r", 101, b"PARAMETER OUT OF RANGE"),
        (b"1PA51\r", 106, b"POSITIVE SOFTWARE LIMIT DETECTED"),
        (b"2PA-1\r", 207, b"NEGATIVE SOFTWARE LIMIT DETECTED"),
        (b"1VA21\r", 110, b"MAXIMUM VELOCITY EXCEEDED"),
        (b"3AC161\r", 311, b"MAXIMUM ACCELERATION EXCEEDED"),
        (b"1MF;1PA1\r", 113, b"MOTOR NOT ENABLED"),
        (b"1OR1;1PA1\r", 130, b"COMMAND NOT ALLOWED DURING HOMING"),
        (b"1PA5;1DH0\r", 27, b"COMMAND NOT ALLOWED"),
        (b"1SN12\r", 101, b"PARAMETER OUT OF RANGE"),
        (b"1SL60\r", 101, b"PARAMETER OUT OF RANGE"),
        (b"1OR9\r", 101, b"PARAMETER OUT OF RANGE"),
    ],
)
def test_errors_are_only_found_in_the_queue(controller, sent: bytes, code: int, text: bytes) -> None:
    assert controller.say(sent) == b""
    reply = controller.say(b"TB?\r")
    assert reply.startswith(b"%d, " % code)
    assert reply.endswith(b", " + text + b"\r\n")
    assert controller.say(b"TE?\r") == b"0\r\n"


def test_error_queue_keeps_the_order(controller) -> None:
    controller.say(b"XX\r4TP\r1PA99\r")
    assert controller.say(b"TE?;TE?;TE?;TE?\r") == b"6\r\n9\r\n106\r\n0\r\n"


def test_move_follows_a_trapezoid(controller) -> None:
    controller.say(b"1PA8\r")
    assert controller.say(b"1MD?;1DP?\r") == b"0\r\n8.0000\r\n"
    # A quarter of a second to 4 mm/s at 16 mm/s2.
    controller.wait(0.25)
    assert controller.say(b"1TP;1DV?\r") == b"0.5000\r\n4.0000\r\n"
    controller.wait(1.75)
    assert controller.say(b"1TP\r") == b"7.5000\r\n"
    controller.wait(0.24)
    assert controller.say(b"1MD?\r") == b"0\r\n"
    controller.wait(0.01)
    assert controller.say(b"1MD?;1TP\r") == b"1\r\n8.0000\r\n"


def test_relative_moves_add_up_from_the_target(controller) -> None:
    controller.say(b"1PR2;1PR2\r")
    controller.wait(5)
    assert controller.say(b"1TP;TE?\r") == b"4.0000\r\n0\r\n"


def test_new_target_while_moving_turns_around(controller) -> None:
    controller.say(b"1PA20\r")
    controller.wait(1)
    controller.say(b"1PA0\r")
    controller.wait(0.25)
    assert float(controller.say(b"1TP\r")) == pytest.approx(4.0)
    controller.wait(5)
    assert controller.say(b"1TP;TE?\r") == b"0.0000\r\n0\r\n"


def test_stop_brakes_and_abort_halts(controller) -> None:
    controller.say(b"1PA50;2PA20\r")
    controller.wait(1)
    controller.say(b"1ST\r")
    assert controller.say(b"1MD?\r") == b"0\r\n"
    controller.wait(0.25)
    assert controller.say(b"1MD?;2MD?\r") == b"1\r\n0\r\n"
    before = controller.say(b"2TP\r")
    controller.say(b"AB\r")
    assert controller.say(b"2MD?;2TP\r") == b"1\r\n" + before


def test_wait_for_stop_holds_back_all_later_commands(controller) -> None:
    assert controller.say(b"1PA4;1WS500;VE?\r") == b""
    assert controller.say(b"TE?\r") == b""
    assert controller.wait(1.25) == b""
    assert controller.wait(0.49) == b""
    assert controller.wait(0.02) == b"ESP300 Version 3.04 07/27/01\r\n0\r\n"
    assert controller.say(b"1WS;1TP\r") == b"4.0000\r\n"


def test_silent_for_seconds_after_a_hardware_limit(controller) -> None:
    controller.say(b"1SR60;1PA55\r")
    controller.wait(50.5 / 4 + 0.25)
    assert controller.say(b"1TP\r") == b""
    assert controller.wait(2.8) == b""
    assert controller.wait(0.3) == b"50.5000\r\n"
    assert controller.say(b"TE?;1PH\r") == b"104\r\n1H, 0H\r\n"
    controller.say(b"1PA50\r")
    controller.wait(5)
    assert controller.say(b"1TP;TE?\r") == b"50.0000\r\n0\r\n"


@pytest.mark.parametrize(
    ("mode", "place"),
    [(b"", 5.0), (b"0", 5.0), (b"1", 0.0), (b"2", 0.0), (b"3", 50.5), (b"4", -0.5), (b"5", 50.4), (b"6", -0.4)],
)
def test_homing_ends_at_zero(controller, mode: bytes, place: float) -> None:
    controller.say(b"1PA5;1WS\r")
    controller.wait(5)
    if mode in (b"", b"0"):
        controller.say(b"1DH\r")
    controller.say(b"1OR" + mode + b"\r")
    controller.wait(60)
    assert controller.say(b"1TP;1MD?;TE?\r") == b"0.0000\r\n1\r\n0\r\n"
    assert controller.instrument.truth()["axes"]["1"]["position"] == pytest.approx(place)


def test_stopped_homing_is_an_error_and_no_home(controller) -> None:
    controller.say(b"1PA20\r")
    controller.wait(10)
    controller.say(b"1OR1\r")
    controller.wait(1)
    assert controller.say(b"1ST;TE?\r") == b"120\r\n"
    controller.wait(1)
    assert float(controller.say(b"1TP\r")) > 10


def test_absent_axis(connect) -> None:
    controller = connect("ESP300", axes={"3": None, "2": {"stage": "UTM100", "units": 3}})
    assert controller.say(b"3TP\rTE?\r") == b"9\r\n"
    assert controller.say(b"2ID?;2SN?\r") == b"UTM100, SN B0245\r\n3\r\n"


def test_stage_delays_the_pump(controller, bench) -> None:
    apart = bench.power()
    controller.say(b"1PA12.5\r")
    controller.wait(10)
    assert bench.power() == pytest.approx(1.3 * apart)
    assert bench.truth()["delay_fs"] == pytest.approx(0.0)
    controller.say(b"1PA12.6\r")
    controller.wait(10)
    assert bench.truth()["delay_fs"] == pytest.approx(2 * 0.1 / 2.99792458e-4)


def test_power_cycle_forgets_the_counter_but_not_the_place(controller) -> None:
    controller.say(b"1PA5\r")
    controller.wait(5)
    controller.instrument.power(False)
    controller.instrument.power(True)
    assert controller.say(b"1TP\r") == b"0.0000\r\n"
    assert controller.instrument.truth()["axes"]["1"]["position"] == pytest.approx(5.0)


def test_faults_of_the_controller(simulate, open_port) -> None:
    simulators = simulate(default_wire("esp", [default_instrument("ESP300", limit_silence_s=0.3)]), time_scale=0.1)
    port = open_port(simulators.ports["esp"], 19200)

    def ask(command: bytes) -> bytes:
        port.write(command + b"\r")
        return port.readline()

    simulators.fault("esp", "error", code=302)
    assert ask(b"TB?").endswith(b"AMPLIFIER FAULT DETECTED\r\n")
    simulators.fault("esp", "busy")
    assert ask(b"1PA1;TE?") == b"27\r\n"
    simulators.fault("esp", "limit")
    assert ask(b"1PA4;1WS;TE?") == b"104\r\n"
    assert ask(b"1TP") == b"2.0000\r\n"


def test_pymeasure_drives_it_unchanged(simulate) -> None:
    from pymeasure.instruments.newport import ESP300

    simulators = simulate(default_wire("esp", [default_instrument("ESP300")]), time_scale=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        stages = ESP300(
            f"ASRL{simulators.ports['esp']}::INSTR",
            visa_library="@py",
            baud_rate=19200,
            write_termination="\r",
            read_termination="\r\n",
        )
    try:
        stages.clear_errors()
        assert stages.x.units == "millimeter"
        assert stages.phi.units == "degree"
        stages.x.enable()
        stages.x.position = 5.0
        stages.x.wait_for_stop()
        assert stages.x.position == pytest.approx(5.0, abs=1e-4)
        assert stages.errors == []
        stages.phi.position = 999
        assert [str(error) for error in stages.errors] == [
            "Newport ESP300 axis 3 reported the error: POSITIVE SOFTWARE LIMIT DETECTED"
        ]
        stages.x.define_position(1.5)
        assert stages.x.position == 1.5
        stages.x.zero()
        assert stages.x.position == 0.0
        stages.x.right_limit = 20
        assert (stages.x.left_limit, stages.x.right_limit) == (0.0, 20.0)
        stages.x.home()
        stages.x.wait_for_stop()
        assert stages.x.motion_done
        assert simulators.truth()["instruments"]["esp"]["axes"]["1"]["position"] == pytest.approx(0.0)
        stages.x.disable()
        stages.x.position = 3
        assert str(stages.errors[0]).endswith("MOTOR NOT ENABLED")
    finally:
        stages.adapter.close()
