"""Mai Tai: replies byte for byte, warm-up, tuning that lags, the stale shutter, the watchdog."""

import pytest

from simulators import default_instrument, default_wire


@pytest.fixture
def laser(connect):
    return connect("MaiTai")


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        (b"*IDN?\r", b"Spectra Physics,MaiTai,3227/51019/40901,0245-2.00.23/CP/1.30\n"),
        (b"WAVelength?\n", b"800nm\n"),
        (b"wav?\r\n", b"800nm\n"),
        (b"WAVELENGTH:MIN?\n", b"690nm\n"),
        (b"WAV:MAX?\n", b"1040nm\n"),
        (b"READ:WAVelength?\n", b"800nm\n"),
        (b"READ:POWer?\n", b"0.000W\n"),
        (b"SHUTter?\n", b"0\n"),
        (b"READ:PCTWarmedup?\n", b"100.00%\n"),
        (b"READ:PLASer:POWer?\n", b"0.00W\n"),
        (b"PLASer:POWer?\n", b"13.43W\n"),
        (b"*STB?\n", b"0\n"),
        (b"PLASer:ERRCode?\n", b"0\n"),
        (b"SYSTem:ERR?\n", b'0,"No error"\n'),
        (b"TIMer:WATChdog 5\nTIMer:WATChdog?\n", b"5\n"),
        (b"CONTrol:MLENable 0\nCONT:MLEN?\n", b"0\n"),
        (b"SAVe\n", b""),
        (b"WAVelength 820\n", b""),
    ],
)
def test_speaks_as_the_manual_says(laser, sent: bytes, reply: bytes) -> None:
    assert laser.say(sent) == reply


def test_humidity_has_its_unit(laser) -> None:
    reply = laser.say(b"READ:HUM?\n")
    assert reply.endswith(b"%\n")
    assert float(reply[:-2]) == pytest.approx(7.26, abs=0.1)


def test_tuning_lags_behind_the_command(laser) -> None:
    assert laser.say(b"WAV 820\nWAV?\nREAD:WAV?\n") == b"820nm\n800nm\n"
    laser.wait(0.5)
    assert laser.say(b"READ:WAV?\n") == b"810nm\n"
    laser.wait(0.5)
    assert laser.say(b"READ:WAV?\n") == b"820nm\n"


@pytest.mark.parametrize(
    ("sent", "number", "bit"),
    [
        (b"SHUTTER:1\n", b"-113", 1),
        (b"NONSENSE\n", b"-113", 1),
        (b"WAV\n", b"-109", 1),
        (b"WAV red\n", b"-100", 1),
        (b"WAV 689\n", b"-222", 2),
        (b"WAV 1041\n", b"-222", 2),
        (b"SHUT 2\n", b"-222", 2),
    ],
)
def test_wrong_commands_do_nothing_but_leave_an_error(laser, sent: bytes, number: bytes, bit: int) -> None:
    assert laser.say(sent) == b""
    assert laser.say(b"PLAS:ERRC?\n") == b"%d\n" % (128 | bit)
    assert laser.say(b"SYST:ERR?\n").startswith(number + b',"')
    assert laser.say(b"SYST:ERR?\nPLAS:ERRC?\n") == b'0,"No error"\n0\n'
    truth = laser.instrument.truth()
    assert (truth["target_nm"], truth["shutter_open"], truth["pump_on"]) == (800.0, False, False)


def test_shutter_moves_at_once_but_its_report_is_stale(laser) -> None:
    laser.say(b"SHUT 1\n")
    laser.wait(0.1)
    assert laser.say(b"SHUT?\n") == b"0\n"
    assert laser.instrument.truth()["shutter_open"]
    laser.wait(1.0)
    assert laser.say(b"SHUT?\n") == b"1\n"


def test_light_reaches_the_bench_only_with_pump_and_shutter(laser, bench) -> None:
    assert bench.power() == 0.0
    laser.say(b"ON\n")
    laser.wait(5)
    assert laser.say(b"*STB?\n") == b"3\n"
    assert float(laser.say(b"READ:POW?\n")[:-2]) == pytest.approx(3.0, rel=0.01)
    assert laser.say(b"PLAS:ERRC?\n") == b"64\n"
    assert bench.power() == 0.0
    laser.say(b"SHUT 1\n")
    laser.wait(1)
    assert bench.source() == (pytest.approx(1e-3), 800.0)
    laser.say(b"OFF\n")
    assert bench.power() == 0.0
    laser.wait(2)
    assert laser.say(b"SHUT?\n*STB?\n") == b"1\n0\n"


def test_warm_up_takes_two_minutes_and_on_is_refused_meanwhile(connect) -> None:
    laser = connect("MaiTai", warm_percent=0.0)
    assert laser.say(b"READ:PCTW?\n") == b"0.00%\n"
    laser.say(b"ON\n")
    laser.wait(60)
    assert laser.say(b"READ:PCTW?\nSYST:ERR?\n") == b'50.00%\n0,"No error"\n'
    assert laser.say(b"ON\nSYST:ERR?\n") == b'-221,"Settings conflict"\n'
    laser.wait(60)
    assert laser.say(b"READ:PCTW?\n*STB?\n") == b"100.00%\n0\n"
    laser.say(b"ON\n")
    laser.wait(3)
    assert laser.say(b"*STB?\n") == b"3\n"


def test_watchdog_turns_the_pump_off_and_leaves_the_shutter(connect) -> None:
    laser = connect("MaiTai", emission=True, shutter_open=True)
    laser.say(b"TIM:WATC 3\n")
    for _ in range(3):
        laser.wait(2.9)
        assert laser.say(b"*STB?\n") == b"3\n"
    laser.wait(2)
    laser.say(b"NONSENSE\n")
    laser.wait(1.1)
    truth = laser.instrument.truth()
    assert (truth["pump_on"], truth["shutter_open"]) == (False, True)
    laser.say(b"ON\nTIM:WATC 0\n")
    laser.wait(100)
    assert laser.instrument.truth()["pump_on"]


def test_faults_of_the_laser(simulate, open_port) -> None:
    simulators = simulate(default_wire("laser", [default_instrument("MaiTai")]))
    port = open_port(simulators.ports["laser"])

    def ask(command: bytes) -> bytes:
        port.write(command + b"\n")
        return port.readline()

    simulators.fault("laser", "busy")
    assert ask(b"WAV 900\nSYST:ERR?") == b'-200,"Execution error"\n'
    assert ask(b"WAV?") == b"800nm\n"
    simulators.fault("laser", "error", code=-310)
    assert ask(b"WAV 900\nPLAS:ERRC?") == b"160\n"
    assert ask(b"SYST:ERR?") == b'-310,"System error"\n'
