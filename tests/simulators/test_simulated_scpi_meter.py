"""SCPI meter on a socket, on HiSLIP and on a serial line: status, errors, triggers, blocks, several clients."""

import socket
import struct
import time
import warnings
from collections.abc import Callable, Iterator

import pytest
import pyvisa

from simulators import SimulatorProcess, default_instrument, default_wire

IDENTITY = b"Agilent Technologies,34401A,MY41012345,11-5-2\n"
QUIET = {"relative_noise": 0.0}


@pytest.fixture
def meter(connect):
    return connect("ScpiMeter", **QUIET)


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        (b"*IDN?\n", IDENTITY),
        (b"*idn?\r\n", IDENTITY),
        (b"*ESR?\n", b"128\n"),
        (b"*CLS;*ESR?\n", b"0\n"),
        (b"*STB?\n", b"0\n"),
        (b"*OPC?\n", b"1\n"),
        (b"*TST?\n", b"0\n"),
        (b"*ESE 60;*ESE?\n", b"60\n"),
        (b"SYST:ERR?\n", b'0,"No error"\n'),
        (b":SYSTem:ERRor:NEXT?\n", b'0,"No error"\n'),
        (b"SYST:VERS?\n", b"1991.0\n"),
        (b"FUNC?\n", b'"VOLT"\n'),
        (b'SENS:FUNC "CURR:DC";FUNC?\n', b'"CURR"\n'),
        (b"VOLT:NPLC?\n", b"+1.00000000E+01\n"),
        (b"SENSE:VOLTAGE:DC:NPLCYCLES 0.2;NPLC?\n", b"+2.00000000E-01\n"),
        (b"VOLT:NPLC? MIN\n", b"+2.00000000E-02\n"),
        (b"VOLT:RANG 0.5;RANG?;RANG:AUTO?\n", b"+1.00000000E+00;0\n"),
        (b"CONF:VOLT:DC 10;CONF?\n", b'"VOLT +1.000000E+01,+3.000000E-06"\n'),
        (b"TRIG:SOUR BUS;SOUR?\n", b"BUS\n"),
        (b"SAMP:COUN 3;COUN?\n", b"3\n"),
        (b"ZERO:AUTO OFF;ZERO:AUTO?\n", b"0\n"),
        (b"*SRE 4;NONSENSE;*STB?\n", b"68\n"),
        (b"*ESE 32;NONSENSE;*STB?\n", b"36\n"),
        (b";;\n", b""),
    ],
)
def test_speaks_as_the_standard_says(meter, sent: bytes, reply: bytes) -> None:
    assert meter.say(sent) == reply


@pytest.mark.parametrize(
    ("sent", "error", "event"),
    [
        (b"NONSENSE\n", b'-113,"Undefined header"\n', 32),
        (b"NONSENSE?\n", b'-113,"Undefined header"\n', 32),
        (b"VOLT:NPLC\n", b'-109,"Missing parameter"\n', 32),
        (b"*IDN? 5\n", b'-108,"Parameter not allowed"\n', 32),
        (b"VOLT:NPLC fast\n", b'-104,"Data type error"\n', 32),
        (b"VOLT:RANG 1e6\n", b'-222,"Data out of range"\n', 16),
        (b"VOLT:RANG nan\n", b'-222,"Data out of range"\n', 16),
        (b"TRIG:SOUR MOON\n", b'-224,"Illegal parameter value"\n', 16),
        (b"FUNC VOLT\n", b'-151,"Invalid string data"\n', 32),
        (b"FETC?\n", b'-230,"Data corrupt or stale"\n', 16),
        (b"*TRG\n", b'-211,"Trigger ignored"\n', 16),
        (b"TRIG:SOUR BUS;:READ?\n", b'-214,"Trigger deadlock"\n', 16),
        (b"INIT;INIT\n", b'-213,"Init ignored"\n', 16),
        (b"X" * 5000 + b"\n", b'-363,"Input buffer overrun"\n', 8),
    ],
)
def test_what_is_wrong_is_not_answered_but_queued(meter, sent: bytes, error: bytes, event: int) -> None:
    meter.say(b"*CLS\n")
    assert meter.say(sent) == b""
    assert meter.say(b"*ESR?\n") == b"%d\n" % event
    assert meter.say(b"SYST:ERR?\n") == error
    assert meter.say(b"SYST:ERR?\n") == b'0,"No error"\n'


def test_error_queue_overflows_with_its_own_error(meter) -> None:
    for _ in range(25):
        meter.say(b"NONSENSE\n")
    errors = []
    while (reply := meter.say(b"SYST:ERR?\n")) != b'0,"No error"\n':
        errors.append(reply)
    assert errors == [b'-113,"Undefined header"\n'] * 19 + [b'-350,"Queue overflow"\n']


def test_measuring_takes_its_power_line_cycles(meter) -> None:
    assert meter.say(b"VOLT:NPLC 10;:READ?\n") == b""
    assert meter.wait(0.39) == b""
    assert meter.wait(0.02) == b"+9.58426661E-01\n"
    assert meter.say(b"FETC?\n") == b"+9.58426661E-01\n"


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        (b"MEAS:VOLT:DC?\n", b"+9.58426661E-01\n"),
        (b"MEAS:VOLT? 10,0.001\n", b"+9.58426661E-01\n"),
        (b"MEAS:VOLT:DC? 0.1\n", b"+9.90000000E+37\n"),
        (b"MEAS:CURR?\n", b"+4.79213331E-04\n"),
        (b"MEAS:RES?\n", b"+1.00000000E+03\n"),
        (b"MEAS:VOLT:AC?\n", b"+0.00000000E+00\n"),
        (b"SAMP:COUN 2;:READ?\n", b"+9.58426661E-01,+9.58426661E-01\n"),
        (b"TRIG:COUN 2;:READ?\n", b"+9.58426661E-01,+9.58426661E-01\n"),
        (b"INIT;*OPC?\n", b"1\n"),
        (b"INIT;*WAI;FETC?\n", b"+9.58426661E-01\n"),
        (b"TRIG:SOUR EXT;:READ?\n", b"+9.58426661E-01\n"),
        (b"TRIG:SOUR BUS;:INIT;*TRG;:FETC?\n", b"+9.58426661E-01\n"),
        (b"*CLS;INIT;*OPC;FETC?;*ESR?\n", b"+9.58426661E-01;1\n"),
    ],
)
def test_measurements(meter, sent: bytes, reply: bytes) -> None:
    meter.say(sent)
    assert meter.received() + meter.wait(2.0) == reply


@pytest.mark.parametrize(("order", "prefix"), [("NORM", ">"), ("SWAP", "<")])
def test_block_data(meter, order: str, prefix: str) -> None:
    meter.say(b"FORM REAL,64;:FORM:BORD %s;:SAMP:COUN 5;:READ?\n" % order.encode())
    block = meter.wait(5.0)
    assert block[:5] == b"#3040"
    assert block[-1:] == b"\n"
    assert struct.unpack(f"{prefix}5d", block[5:-1]) == pytest.approx([0.958426661] * 5)


def test_reset_restores_the_settings_and_keeps_the_errors(meter) -> None:
    meter.say(b"NONSENSE;VOLT:NPLC 0.02;:TRIG:SOUR BUS;:SAMP:COUN 9\n*RST\n")
    assert meter.say(b"VOLT:NPLC?;:TRIG:SOUR?;:SAMP:COUN?\n") == b"+1.00000000E+01;IMM;1\n"
    assert meter.say(b"SYST:ERR?\n") == b'-113,"Undefined header"\n'


# Through real connections.


@pytest.fixture
def dial() -> Iterator[Callable[[str], socket.socket]]:
    opened: list[socket.socket] = []

    def connect_to(port: str) -> socket.socket:
        host, number = port.rsplit(":", 1)
        opened.append(socket.create_connection((host, int(number)), timeout=5.0))
        return opened[-1]

    yield connect_to
    for connection in opened:
        connection.close()


def read_line(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        piece = connection.recv(65536)
        if not piece:
            break
        data += piece
    return data


@pytest.fixture
def visa() -> Iterator[Callable[..., pyvisa.resources.MessageBasedResource]]:
    manager = pyvisa.ResourceManager("@py")
    opened = []

    def open_resource(name: str, **settings) -> pyvisa.resources.MessageBasedResource:
        line_end = {"read_termination": "\n", "write_termination": "\n"}
        resource = manager.open_resource(name, **line_end, timeout=10_000, **settings)
        assert isinstance(resource, pyvisa.resources.MessageBasedResource)
        opened.append(resource)
        return resource

    yield open_resource
    for resource in opened:
        resource.close()


SOCKET = default_wire("scpi", [default_instrument("ScpiMeter", **QUIET)])
HISLIP = default_wire("hislip", [default_instrument("ScpiMeter", **QUIET)], kind="hislip")


def hislip_name(simulators: SimulatorProcess) -> str:
    host, port = simulators.ports["hislip"].split(":")
    return f"TCPIP::{host}::hislip0,{port}::INSTR"


def test_each_client_gets_its_own_answers_from_one_instrument(simulate, dial) -> None:
    port = simulate(SOCKET).ports["scpi"]
    one, two = dial(port), dial(port)
    one.sendall(b"VOLT:NPLC 1;:SAMP:COUN 2;COUN?\n")
    # What two clients say at once is heard in any order.
    assert read_line(one) == b"2\n"
    one.sendall(b":REA")
    one.sendall(b"D?\n")
    two.sendall(b"*IDN?;:SAMP:COUN?\n")
    assert read_line(one).count(b",") == 1
    assert read_line(two) == IDENTITY.strip() + b";2\n"


def test_departed_client_takes_its_question_along(simulate, dial) -> None:
    port = simulate(SOCKET).ports["scpi"]
    one, two = dial(port), dial(port)
    one.sendall(b"VOLT:NPLC 100;:SAMP:COUN 100;:READ?\n")
    # The question must have arrived before its client goes.
    time.sleep(0.1)
    one.close()
    began = time.monotonic()
    two.sendall(b"*IDN?\n")
    assert read_line(two) == IDENTITY
    assert time.monotonic() - began < 5.0


def test_unplugged_network_hangs_up_and_comes_back_on_the_same_port(simulate, dial) -> None:
    simulators = simulate(SOCKET)
    port = simulators.ports["scpi"]
    client = dial(port)
    client.sendall(b"*IDN?\n")
    assert read_line(client) == IDENTITY
    simulators.unplug("scpi")
    assert read_line(client) == b""
    with pytest.raises(ConnectionRefusedError):
        dial(port)
    simulators.replug("scpi")
    assert simulators.ports["scpi"] == port
    client = dial(port)
    client.sendall(b"*IDN?\n")
    assert read_line(client) == IDENTITY
    assert simulators.truth()["wires"]["scpi"]["clients"] == 1


def test_faults_of_the_meter(simulate, dial) -> None:
    simulators = simulate(SOCKET, time_scale=0.1)
    client = dial(simulators.ports["scpi"])

    def ask(command: bytes) -> bytes:
        client.sendall(command + b"\n")
        return read_line(client)

    simulators.fault("scpi", "over_range")
    assert ask(b"READ?") == b"+9.90000000E+37\n"
    assert ask(b"READ?") == b"+9.58426661E-01\n"
    simulators.fault("scpi", "busy")
    assert ask(b"INIT;:SYST:ERR?") == b'-213,"Init ignored"\n'
    simulators.fault("scpi", "error", code=-310)
    assert ask(b"SYST:ERR?") == b'-310,"Device-specific error"\n'
    simulators.fault("scpi", "garbage", data="\x80\x81\n")
    assert ask(b"*IDN?") == b"\x80\x81\n"


def test_pyvisa_over_a_socket(simulate, visa) -> None:
    host, port = simulate(SOCKET, time_scale=0.1).ports["scpi"].split(":")
    meter = visa(f"TCPIP0::{host}::{port}::SOCKET")
    assert meter.query("*IDN?") == IDENTITY.decode().strip()
    assert float(meter.query("MEAS:VOLT:DC?")) == pytest.approx(0.958426661)
    meter.write("FORM REAL,64;:SAMP:COUN 3")
    assert meter.query_binary_values("READ?", "d", is_big_endian=True) == pytest.approx([0.958426661] * 3)


def test_pyvisa_over_a_serial_line(simulate, visa) -> None:
    wire = default_wire("scpi", [default_instrument("ScpiInstrument", **QUIET)], kind="serial")
    meter = visa(f"ASRL{simulate(wire, time_scale=0.2).ports['scpi']}::INSTR", baud_rate=9600)
    assert meter.query("*IDN?") == IDENTITY.decode().strip()
    assert float(meter.query("READ?")) == pytest.approx(0.958426661)


def test_pyvisa_over_hislip(simulate, visa) -> None:
    simulators = simulate(HISLIP, time_scale=0.1)
    meter = visa(hislip_name(simulators))
    assert meter.query("*IDN?") == IDENTITY.decode().strip()
    assert float(meter.query("READ?")) == pytest.approx(0.958426661)
    meter.write("FORM REAL,64;:SAMP:COUN 400")
    assert len(meter.query_binary_values("VOLT:NPLC 0.02;:READ?", "d", is_big_endian=True)) == 400
    assert meter.read_stb() == 0
    meter.write("NONSENSE")
    assert meter.read_stb() == 4
    assert meter.query("SYST:ERR?") == '-113,"Undefined header"'
    assert simulators.truth()["wires"]["hislip"]["sessions"] == 1


def test_message_available_shows_in_the_status_byte(simulate, visa, wait_until) -> None:
    meter = visa(hislip_name(simulate(HISLIP)))
    meter.write("*IDN?")
    wait_until(lambda: meter.read_stb() == 16)
    assert meter.read() == IDENTITY.decode().strip()
    assert meter.read_stb() == 0


def test_late_answer_is_never_taken_for_the_next_one(simulate, visa) -> None:
    simulators = simulate(HISLIP)
    meter = visa(hislip_name(simulators))
    simulators.fault("hislip", "late", delay_s=1.0)
    meter.timeout = 100
    with pytest.raises(pyvisa.VisaIOError, match="VI_ERROR_TMO"):
        meter.query("*IDN?")
    meter.timeout = 5000
    assert meter.query("SAMP:COUN?") == "1"


def test_device_clear_ends_a_measurement(simulate, visa) -> None:
    simulators = simulate(HISLIP)
    meter = visa(hislip_name(simulators))
    meter.write("VOLT:NPLC 100;:SAMP:COUN 100;:READ?")
    assert meter.read_stb() == 0
    assert simulators.truth()["instruments"]["hislip"]["measuring"]
    meter.clear()
    assert not simulators.truth()["instruments"]["hislip"]["measuring"]
    assert meter.query("*IDN?") == IDENTITY.decode().strip()


class HislipClient:
    """Just enough of the client's side to see what pyvisa-py never asks for."""

    def __init__(self, dial: Callable[[str], socket.socket], port: str) -> None:
        self.synchronous = dial(port)
        post(self.synchronous, 0, 0, 0x0100 << 16 | 0x7878, b"hislip0")
        kind, _, answer, _ = take(self.synchronous)
        assert kind == 1
        self.asynchronous = dial(port)
        post(self.asynchronous, 17, 0, answer & 0xFFFF)
        assert take(self.asynchronous)[0] == 18


def post(connection: socket.socket, kind: int, control: int = 0, parameter: int = 0, payload: bytes = b"") -> None:
    connection.sendall(struct.pack("!2sBBIQ", b"HS", kind, control, parameter, len(payload)) + payload)


def take(connection: socket.socket) -> tuple[int, int, int, bytes]:
    def exactly(number: int) -> bytes:
        data = b""
        while len(data) < number:
            piece = connection.recv(number - len(data))
            assert piece, "hung up"
            data += piece
        return data

    prologue, kind, control, parameter, length = struct.unpack("!2sBBIQ", exactly(16))
    assert prologue == b"HS"
    return kind, control, parameter, exactly(length)


def test_exclusive_lock_holds_up_the_others(simulate, dial) -> None:
    port = simulate(HISLIP).ports["hislip"]
    one, two = HislipClient(dial, port), HislipClient(dial, port)
    post(one.asynchronous, 4, 1, 1000)
    assert take(one.asynchronous)[:2] == (5, 1)
    post(two.asynchronous, 4, 1, 50)
    assert take(two.asynchronous)[:2] == (5, 0)
    post(two.synchronous, 7, 0, 2, b"SAMP:COUN?\n")
    post(one.synchronous, 7, 0, 2, b"SAMP:COUN 7\n")
    post(one.synchronous, 7, 0, 4, b"SAMP:COUN?")
    assert take(one.synchronous) == (7, 0, 4, b"7\n")
    post(one.asynchronous, 4, 0)
    assert take(one.asynchronous)[:2] == (5, 1)
    assert take(two.synchronous) == (7, 0, 2, b"7\n")
    post(two.asynchronous, 24)
    assert take(two.asynchronous)[:3] == (25, 0, 0)


def test_lock_goes_to_the_next_when_its_holder_departs(simulate, dial) -> None:
    port = simulate(HISLIP).ports["hislip"]
    one, two = HislipClient(dial, port), HislipClient(dial, port)
    post(one.asynchronous, 4, 1, 1000)
    assert take(one.asynchronous)[:2] == (5, 1)
    post(two.asynchronous, 4, 1, 5000)
    one.synchronous.close()
    assert take(two.asynchronous)[:2] == (5, 1)


def test_long_answers_are_cut_to_the_clients_size(simulate, dial) -> None:
    client = HislipClient(dial, simulate(HISLIP).ports["hislip"])
    post(client.asynchronous, 15, payload=(1024).to_bytes(8, "big"))
    assert take(client.asynchronous)[::3] == (16, (1 << 20).to_bytes(8, "big"))
    post(client.synchronous, 6, 0, 2, b"VOLT:NPLC 0.02;:SAMP:COUN 200")
    post(client.synchronous, 7, 0, 4, b";:READ?")
    pieces = [take(client.synchronous)]
    while pieces[-1][0] == 6:
        pieces.append(take(client.synchronous))
    assert len(pieces) > 1
    assert all(len(piece[3]) <= 1008 and piece[2] == 4 for piece in pieces)
    assert b"".join(piece[3] for piece in pieces).count(b",") == 199


def test_trigger_message_and_errors_of_the_protocol(simulate, dial) -> None:
    port = simulate(HISLIP, time_scale=0.1).ports["hislip"]
    client = HislipClient(dial, port)
    post(client.synchronous, 7, 0, 2, b"TRIG:SOUR BUS;:INIT")
    post(client.synchronous, 12, 0, 4)
    post(client.synchronous, 7, 0, 6, b"FETC?")
    assert take(client.synchronous) == (7, 0, 6, b"+9.58426661E-01\n")
    post(client.synchronous, 99)
    assert take(client.synchronous)[:2] == (3, 1)
    post(client.asynchronous, 99)
    assert take(client.asynchronous)[:2] == (3, 1)
    wrong = dial(port)
    wrong.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert take(wrong)[:2] == (2, 1)
    early = dial(port)
    post(early, 7, 0, 2, b"*IDN?")
    assert take(early)[:2] == (2, 3)


def test_pymeasure_drives_it_unchanged(simulate) -> None:
    from pymeasure.instruments.hp import HP34401A

    simulators = simulate(HISLIP, time_scale=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        meter = HP34401A(hislip_name(simulators), visa_library="@py")
    try:
        meter.function_ = "DCV"
        meter.nplc = 0.02
        meter.range_ = 10
        meter.sample_count = 3
        assert meter.reading == pytest.approx([0.958426661] * 3)
        assert (meter.function_, meter.nplc, meter.range_, meter.autorange) == ("DCV", 0.02, 10.0, False)
        assert meter.stored_readings_count == 3
        assert meter.trigger_source == "IMM"
        meter.autozero_enabled = False
        assert meter.autozero_enabled is False
        assert meter.terminals_used == "FRONT"
        assert simulators.truth()["instruments"]["hislip"]["errors"] == []
    finally:
        meter.adapter.close()
