"""One real port, one wire: line settings as the hardware sees them, exclusive opening, names and pools."""

import os
import socket
import subprocess
import sys
import termios
import threading
import time
import tty

import pytest
from hypothesis import given
from hypothesis import strategies as st
from people import Person
from ptys import PtyInstrument, TcpInstrument

from coexistence import (
    ConfigError,
    LineSettings,
    SerialPortPool,
    SharedSerialPort,
    WireClosed,
    WireDisconnected,
    WireInUse,
)
from coexistence.line_settings import FLOW_CONTROLS, PARITIES
from coexistence.serial_transport import check_path

IFLAG, OFLAG, CFLAG, LFLAG, ISPEED, OSPEED, CC = range(7)
CMSPAR = 0o10000000000


def opened(instrument, **settings):
    with SharedSerialPort(instrument.path, **settings):
        return instrument.line


def test_line_is_raw(instrument):
    line = opened(instrument)
    assert not line[LFLAG] & (termios.ICANON | termios.ECHO | termios.ISIG)
    assert not line[OFLAG] & termios.OPOST
    assert not line[IFLAG] & (termios.ICRNL | termios.INLCR | termios.IGNCR)


@pytest.mark.parametrize("baud_rate", [300, 9600, 19200, 115200, 921600])
def test_baud_rate_reaches_the_line(instrument, baud_rate):
    line = opened(instrument, baud_rate=baud_rate)
    assert line[ISPEED] == line[OSPEED] == getattr(termios, f"B{baud_rate}")


@pytest.mark.parametrize("data_bits", [5, 6, 7, 8])
def test_data_bits_reach_the_line(instrument, data_bits):
    # the kernel keeps a pty at eight bits; what pyserial asks for is seen on the settings it makes
    assert LineSettings(data_bits=data_bits).for_pyserial()["bytesize"] == data_bits
    assert opened(instrument, data_bits=data_bits)[CFLAG] & termios.CSIZE == termios.CS8


@pytest.mark.parametrize(("stop_bits", "two"), [(1, False), (1.5, True), (2, True)])
def test_stop_bits_reach_the_line(instrument, stop_bits, two):
    assert bool(opened(instrument, stop_bits=stop_bits)[CFLAG] & termios.CSTOPB) == two


@pytest.mark.parametrize("parity", PARITIES)
def test_parity_reaches_the_line(instrument, parity):
    """The kernel clears PARENB on ptys, the kind of parity stays visible."""
    flags = opened(instrument, parity=parity)[CFLAG]
    assert bool(flags & termios.PARODD) == (parity in ("odd", "mark"))
    assert bool(flags & CMSPAR) == (parity in ("mark", "space"))


@pytest.mark.parametrize("flow_control", FLOW_CONTROLS)
def test_flow_control_reaches_the_line(instrument, flow_control):
    line = opened(instrument, flow_control=flow_control)
    assert bool(line[CFLAG] & termios.CRTSCTS) == (flow_control == "rtscts")
    assert bool(line[IFLAG] & termios.IXON) == (flow_control == "xonxoff")


def test_bits_per_byte_count_start_parity_and_stop_bits():
    assert LineSettings().bits_per_byte == 10
    assert LineSettings(parity="even", stop_bits=2, data_bits=7).bits_per_byte == 11
    assert str(LineSettings(parity="even", flow_control="xonxoff")) == "9600 8E1 xonxoff"


def test_all_wrong_settings_are_told_together(instrument):
    with pytest.raises(ConfigError) as caught:
        SharedSerialPort(
            "",
            baud_rate=0,
            data_bits=9,
            stop_bits=3,
            parity="evn",
            flow_control="hardware",
            terminator="\n",
            timeout=-1,
            late_reply_limit=float("nan"),
        )
    text = str(caught.value)
    assert len(caught.value.problems) == 9
    for part in (
        "baud_rate must be a whole number between 50 and 4000000, not 0",
        "data_bits must be 5, 6, 7 or 8, not 9",
        "stop_bits must be 1, 1.5 or 2, not 3",
        "parity must be one of none, even, odd, mark, space, not 'evn' / did you mean 'even'?",
        "flow_control must be one of none, rtscts, xonxoff, dsrdtr, not 'hardware'",
        "terminator must be bytes, not '\\n' / write it as bytes: b'\\n'",
        "timeout must be a number of seconds above 0 and at most 86400, not -1 / nothing waits for ever",
        "late_reply_limit must be a number of seconds above 0",
        "a serial port must be named by a non-empty string, not '' / for example '/dev/ttyUSB0'",
    ):
        assert part in text


ANYTHING = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=4))


@given(
    baud_rate=st.one_of(st.sampled_from([9600, 115200]), ANYTHING),
    data_bits=st.one_of(st.sampled_from([7, 8]), ANYTHING),
    stop_bits=st.one_of(st.sampled_from([1, 1.5, 2]), ANYTHING),
    parity=st.one_of(st.sampled_from(list(PARITIES)), ANYTHING),
    flow_control=st.one_of(st.sampled_from(FLOW_CONTROLS), ANYTHING),
)
def test_line_settings_are_usable_or_refused_with_reasons(baud_rate, data_bits, stop_bits, parity, flow_control):
    arguments = {
        "baud_rate": baud_rate,
        "data_bits": data_bits,
        "stop_bits": stop_bits,
        "parity": parity,
        "flow_control": flow_control,
    }
    try:
        settings = LineSettings(**arguments)
    except ConfigError as error:
        problems = error.problems
        settings = None
    if settings is None:
        assert problems
        assert all(problem.message for problem in problems)
    else:
        assert 7 <= settings.bits_per_byte <= 12
        assert set(settings.for_pyserial()) == {
            "baudrate",
            "bytesize",
            "stopbits",
            "parity",
            "xonxoff",
            "rtscts",
            "dsrdtr",
        }
        assert str(baud_rate) in str(settings)


@given(path=st.one_of(ANYTHING, st.from_regex(r"(socket|rfc2217|usb|loop|http):(//)?[\w\[\].:/]*", fullmatch=True)))
def test_paths_are_usable_or_refused_with_reasons(path):
    problems = check_path(path)
    assert all(problem.message and problem.suggestion for problem in problems)
    if not isinstance(path, str) or not path.strip():
        assert problems


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("usb:403:6001", "is no USB identity / write usb:VENDOR:PRODUCT"),
        ("socket://", "lacks a host or a port number from 1 to 65535 / write socket://host:port"),
        ("socket://host", "lacks a host or a port number"),
        ("socket://host:0", "lacks a host or a port number"),
        ("socket://host:70000", "lacks a host or a port number"),
        ("socket://[::1:5000", "is no URL"),
        ("rfc2217://host", "write rfc2217://host:port"),
        ("http://host:80", "unknown kind of port 'http' / use a path, socket://host:port or rfc2217://host:port"),
    ],
)
def test_names_that_cannot_be_ports_are_refused(path, says):
    with pytest.raises(ConfigError) as caught:
        SharedSerialPort(path)
    assert says in str(caught.value)


@pytest.mark.parametrize("path", ["/dev/ttyUSB0", "COM3", "usb:0403:6001", "usb:0403:6001:A1", "socket://[::1]:5000"])
def test_names_that_can_be_ports_are_accepted(path):
    assert check_path(path) == []


def test_absent_port_is_told_with_those_present():
    with pytest.raises(WireDisconnected) as caught:
        SharedSerialPort("/dev/no_such_port")
    assert "/dev/no_such_port is not connected: there is no such port." in str(caught.value)


def test_file_that_is_no_port_is_told(tmp_path):
    (tmp_path / "file").write_text("no port")
    with pytest.raises(WireDisconnected):
        SharedSerialPort(str(tmp_path / "file"))


def test_port_that_this_process_has_open_is_in_use(instrument, port):
    with pytest.raises(WireInUse) as caught:
        SharedSerialPort(instrument.device)
    assert caught.value.used_by == f"this process ({os.getpid()})"
    assert "take the wire from the same SerialPortPool" in str(caught.value)
    assert port.query(b"Q1?\n", owner="meter") == b"A1"


def test_port_that_another_process_has_open_is_in_use_and_the_process_is_named(instrument):
    program = (
        "import sys, coexistence\n"
        f"port = coexistence.SharedSerialPort({instrument.path!r})\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
        "port.close()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline().strip() == "open"
        with pytest.raises(WireInUse) as caught:
            SharedSerialPort(instrument.path)
        assert str(other.pid) in caught.value.used_by
        assert "python" in caught.value.used_by
        other.stdin.close()
        assert other.wait(10) == 0
    with SharedSerialPort(instrument.path) as port:
        assert port.query(b"Q1?\n", owner="meter") == b"A1"


def test_closed_port_can_be_opened_by_others(instrument):
    for _ in range(3):
        with SharedSerialPort(instrument.path) as port:
            assert port.query(b"Q1?\n", owner="meter") == b"A1"
    descriptor = os.open(instrument.device, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(descriptor)
    os.close(descriptor)


def test_pool_hands_out_one_wire_for_all_names_of_a_port(instrument, tmp_path):
    alias = tmp_path / "alias"
    alias.symlink_to(instrument.path)
    pool = SerialPortPool()
    port = pool.get(instrument.path, baud_rate=19200)
    try:
        assert pool.get(instrument.path) is port
        assert pool.get(str(alias)) is port
        assert pool.get(instrument.device) is port
        assert pool.get(instrument.device, baud_rate=19200, parity="none") is port
        assert pool.ports == [port]
    finally:
        pool.close()
    assert pool.ports == []
    assert not port.connected


def test_pool_refuses_conflicting_settings_and_names_both(instrument):
    pool = SerialPortPool()
    port = pool.get(instrument.path, baud_rate=19200)
    try:
        with pytest.raises(ConfigError) as caught:
            pool.get(instrument.device, baud_rate=9600, terminator=b"\r")
        text = str(caught.value)
        assert f"{instrument.path} is open with baud_rate 19200, and 9600 was asked for" in text
        assert "terminator b'\\n', and b'\\r' was asked for" in text
        assert "instruments on one port need the same line settings" in text
        assert port.connected
    finally:
        pool.close()


def test_pool_opens_a_closed_port_anew(instrument):
    pool = SerialPortPool()
    first = pool.get(instrument.path)
    first.close()
    second = pool.get(instrument.path)
    try:
        assert second is not first
        assert second.query(b"Q1?\n", owner="meter") == b"A1"
    finally:
        pool.close()


def test_pool_keeps_to_one_wire_while_the_device_is_away(instrument, wait_for):
    pool = SerialPortPool()
    port = pool.get(instrument.path)
    try:
        instrument.kill()
        with pytest.raises(WireDisconnected):
            port.query(b"Q1?\n", owner="meter", timeout=0.1)
        assert pool.get(instrument.path) is port
        instrument.plug_in()
        assert pool.get(instrument.device) is port  # back under another name, not yet reopened
        assert port.query(b"Q1?\n", owner="meter", timeout=10.0) == b"A1"
        assert pool.get(instrument.device) is port
    finally:
        pool.close()


def test_port_that_takes_long_to_open_holds_up_neither_others_nor_the_closing(instrument, monkeypatch):
    connecting, go_on = threading.Event(), threading.Event()
    connect = socket.create_connection

    def connect_slowly(*arguments, **options):
        connecting.set()
        assert go_on.wait(30.0)
        return connect(*arguments, **options)

    monkeypatch.setattr(socket, "create_connection", connect_slowly)
    pool = SerialPortPool()
    with TcpInstrument() as server:
        slow = Person(pool.get, server.path)
        assert connecting.wait(10.0)
        Person(pool.get, instrument.path).result()
        assert len(pool.ports) == 1
        pool.close()
        assert slow.is_alive()
        go_on.set()
        with pytest.raises(WireClosed):
            slow.result()
    assert pool.ports == []


def test_pool_called_by_many_at_once_opens_once(instrument):
    pool = SerialPortPool()
    start = threading.Barrier(8)
    got = []

    def get():
        start.wait()
        got.append(pool.get(instrument.path))

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    try:
        assert len(got) == 8
        assert len(set(map(id, got))) == 1
    finally:
        pool.close()


def test_what_arrived_before_opening_is_nobodys_answer():
    with PtyInstrument() as instrument:
        instrument.say(b"power-up banner\n")
        with SharedSerialPort(instrument.path) as port:
            assert port.query(b"Q1?\n", owner="meter") == b"A1"


def test_properties_tell_state_and_settings(instrument):
    with SharedSerialPort(instrument.path, baud_rate=19200) as port:
        assert (port.path, port.baud_rate, port.connected) == (instrument.path, 19200, True)
        assert port.is_available
        assert port.current_owner is None
        assert port.last_error is None
        assert repr(port) == f"<SharedSerialPort {instrument.path} connected>"
        with port.acquire("meter"):
            assert not port.is_available
            assert port.current_owner == "meter"
        port.close()
        assert repr(port) == f"<SharedSerialPort {instrument.path} closed>"
        assert not port.is_available


def test_wires_sort_by_device_whatever_they_are_called(tmp_path):
    with PtyInstrument() as one, PtyInstrument() as two:
        (tmp_path / "zz").symlink_to(one.device)
        (tmp_path / "aa").symlink_to(two.device)
        first, second = sorted((one.device, two.device))
        names = {one.device: str(tmp_path / "zz"), two.device: str(tmp_path / "aa")}
        with SharedSerialPort(names[first]) as low, SharedSerialPort(names[second]) as high:
            assert low.wire.arbiter.order < high.wire.arbiter.order


def test_opening_takes_no_longer_than_it_must(instrument):
    started = time.perf_counter()
    with SharedSerialPort(instrument.path):
        pass
    assert time.perf_counter() - started < 5.0
