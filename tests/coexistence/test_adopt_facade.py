"""A driver finds on a shared port everything that pyserial gives it."""

import asyncio
import gc
import io
import threading
import time

import pytest
import serial
from people import Person
from ptys import PtyInstrument, instrument_and_port

from coexistence import AcquireTimeout, ConfigError, LeaseRules, SharedSerial, SharedSerialPort
from coexistence.adoption.guards import ListeningGuard
from coexistence.adoption.lost_property import LostProperty
from coexistence.hold import LONGEST_TIMEOUT_S


@pytest.fixture
def facade(port):
    with SharedSerial(port, owner="legacy", timeout=20.0) as facade:
        yield facade


def test_it_is_a_serial_port_to_isinstance(facade):
    assert isinstance(facade, serial.Serial)
    assert isinstance(facade, io.RawIOBase)
    assert facade.is_open
    assert facade.isOpen()
    assert facade.readable()
    assert facade.writable()


def test_a_driver_may_keep_attributes_of_its_own_on_it(facade):
    facade.my_lock = "mine"
    assert facade.my_lock == "mine"


@pytest.mark.parametrize(
    "read",
    [
        lambda port: port.readline(),
        lambda port: port.read_until(),
        lambda port: port.read_until(expected=b"\n", size=100),
        lambda port: port.read(size=4),
        lambda port: b"".join(port.read(1) for _ in range(4)),
        lambda port: port.readlines(1)[0],
        lambda port: next(iter(port)),
        lambda port: next(port.iread_until()),
        lambda port: io.BufferedReader(port).peek(4),
    ],
)
def test_every_way_of_reading_a_reply(port, read):
    # Some ask for more than there is: the pause after it ends those.
    facade = SharedSerial(port, owner="legacy", timeout=20.0, inter_byte_timeout=0.05)
    assert facade.write(b"Q12?\n") == 5
    assert read(facade) == b"A12\n"
    facade.close()


def test_readinto_fills_a_buffer(facade):
    facade.write(b"Q12?\n")
    buffer = bytearray(4)
    assert facade.readinto(buffer) == 4
    assert bytes(buffer) == b"A12\n"


def test_read_all_returns_what_is_there(facade, wait_for):
    facade.write(b"Q1?\n")
    wait_for(lambda: facade.in_waiting == 3)
    assert facade.read_all() == b"A1\n"
    assert facade.in_waiting == 0
    assert facade.read_all() == b""


def test_text_wrappers_work_on_it(port):
    facade = SharedSerial(port, owner="legacy", timeout=20.0, inter_byte_timeout=0.05)
    text = io.TextIOWrapper(io.BufferedRWPair(facade, facade, 1), newline="\n", line_buffering=True)
    text.write("Q77?\n")
    assert text.readline() == "A77\n"
    facade.close()


def test_it_writes_what_pyserial_writes(facade, instrument, wait_for):
    facade.write(bytearray(b"one\n"))
    facade.write(memoryview(b"two\n"))
    facade.write([0x33, 0x0A])
    assert facade.write(b"") == 0
    wait_for(lambda: instrument.received == [b"one", b"two", b"3"])
    with pytest.raises(TypeError):
        facade.write("text")


@pytest.mark.parametrize("timeout", [0, 0.05, 0.2])
def test_a_read_returns_what_came_when_its_time_is_over(facade, instrument, timeout, wait_for):
    facade.timeout = timeout
    began = time.perf_counter()
    assert facade.read(10) == b""
    assert timeout <= time.perf_counter() - began < timeout + 5.0
    instrument.answer = lambda _: b"half"
    facade.write(b"x\n")
    wait_for(lambda: facade.in_waiting == 4)
    facade.timeout = 0.2
    assert facade.read(10) == b"half"


def test_a_read_without_time_limit_waits_until_there_is_something(facade, instrument):
    facade.timeout = None
    came = []
    reader = threading.Thread(target=lambda: came.append(facade.read(5)))
    reader.start()
    time.sleep(0.05)
    assert not came
    instrument.say(b"hello")
    reader.join(20.0)
    assert came == [b"hello"]


def test_a_pause_between_bytes_can_end_a_read(facade, instrument):
    facade.inter_byte_timeout = 0.05
    facade.timeout = 30.0
    instrument.answer = lambda _: b"short"
    facade.write(b"x\n")
    began = time.perf_counter()
    assert facade.read(100) == b"short"
    assert time.perf_counter() - began < 10.0


def test_cancel_read_ends_the_read_that_waits_and_no_later_one(facade, wait_for):
    facade.timeout = 60.0
    reader = Person(facade.read, 5)
    wait_for(lambda: facade._buffer.waiting)
    facade.cancel_read()
    assert reader.result() == b""
    facade.cancel_read()
    facade.write(b"Q1?\n")
    assert facade.read_until() == b"A1\n"


def test_cancel_write_ends_the_wait_for_the_wire(facade, port, wait_for):
    facade.write_timeout = 60.0
    with port.acquire("other"):
        writer = Person(facade.write, b"Q1?\n")
        wait_for(lambda: len(port.wire.arbiter) == 1)
        facade.cancel_write()
        assert writer.result() == 0


def test_a_write_that_may_not_wait_is_sent_although_another_thread_of_the_driver_reads(port, wait_for):
    with SharedSerial(port, owner="legacy", timeout=30.0, write_timeout=0) as facade:
        reader = Person(facade.read_until)
        wait_for(lambda: port.current_owner == "legacy")
        assert facade.write(b"Q1?\n") == 4
        assert reader.result() == b"A1\n"


def test_a_write_that_may_not_wait_is_sent_although_its_own_lease_is_slow_to_make_room(port, monkeypatch):
    monkeypatch.setattr("coexistence.adoption.guards.GIVE_WAY_S", 20.0, raising=False)
    busy, go_on = threading.Event(), threading.Event()

    def keep_the_exchange() -> None:
        with port.wire.exchange_lock:
            busy.set()
            go_on.wait(10.0)

    keeping = Person(keep_the_exchange)
    assert busy.wait(5.0)
    with SharedSerial(port, owner="legacy", timeout=20.0, write_timeout=0) as facade:
        ending = threading.Timer(0.2, go_on.set)
        ending.start()
        assert facade.write(b"Q1?\n") == 4
        assert facade.read_until() == b"A1\n"
        ending.join()
    keeping.result()


def test_who_only_listens_is_in_nobodys_way(port, wait_for, monkeypatch):
    monkeypatch.setattr("coexistence.arbiter.GIVE_WAY_S", 10.0)  # a busy machine takes its time

    async def acquire() -> None:
        async with port.acquire_async("task", timeout=0):
            assert port.current_owner == "task"

    with SharedSerial(port, owner="legacy", timeout=30.0) as facade:
        reader = Person(facade.read_until)
        wait_for(lambda: port.current_owner == "legacy")
        with port.acquire("thread", timeout=0):
            assert port.current_owner == "thread"
        wait_for(lambda: port.current_owner == "legacy")
        asyncio.run(acquire())
        wait_for(lambda: port.current_owner == "legacy")
        with pytest.raises(AcquireTimeout), ListeningGuard(port, "listens, too", 0.0):
            pass
        facade.cancel_read()
        assert reader.result() == b""


def test_a_lease_may_last_as_long_as_anything_may(port):
    rules = LeaseRules(longest=LONGEST_TIMEOUT_S)
    with SharedSerial(port, owner="legacy", timeout=20.0, rules=rules) as facade:
        facade.write(b"Q1?\n")
        assert facade.read_until() == b"A1\n"


def test_reset_input_buffer_drops_what_was_not_read(facade, wait_for):
    facade.write(b"Q1?\n")
    wait_for(lambda: facade.in_waiting == 3)
    facade.reset_input_buffer()
    assert facade.in_waiting == 0
    facade.write(b"Q2?\n")
    assert facade.read_until() == b"A2\n"
    facade.flushInput()
    facade.reset_output_buffer()
    facade.flush()
    assert facade.out_waiting == 0


def test_settings_left_alone_follow_the_wire(instrument):
    with SharedSerialPort(instrument.path, baud_rate=19200, parity="even", data_bits=7) as port:
        facade = SharedSerial(port, owner="legacy")
        assert (facade.baudrate, facade.parity, facade.bytesize) == (19200, "E", 7)
        facade.baudrate = 19200
        facade.apply_settings(facade.get_settings())
        facade.close()


def test_settings_that_contradict_the_wire_are_refused_with_both_values(port):
    with pytest.raises(ConfigError, match=r"'legacy' asks for baudrate 19200, and .* works with 9600") as refused:
        SharedSerial(port, 19200, owner="legacy")
    assert isinstance(refused.value, ValueError)
    facade = SharedSerial(port, owner="legacy")
    with pytest.raises(ConfigError, match=r"'legacy' sets parity to 'E', and .* works with 'N'"):
        facade.parity = "E"
    assert facade.parity == "N"
    with pytest.raises(ValueError, match="Not a valid timeout"):
        facade.timeout = -1
    facade.close()


def test_closing_leaves_the_wire_to_others_and_opening_joins_it_again(facade, port):
    facade.close()
    facade.close()
    assert not facade.is_open
    for use in (lambda: facade.write(b"x"), facade.read, lambda: facade.in_waiting, facade.reset_input_buffer):
        with pytest.raises(serial.PortNotOpenError):
            use()
    assert port.query(b"Q1?\n", owner="other") == b"A1"
    facade.port = port.path
    facade.open()
    with pytest.raises(serial.SerialException, match="already open"):
        facade.open()
    facade.write(b"Q2?\n")
    assert facade.read_until() == b"A2\n"


def test_a_forgotten_port_object_leaves_nothing_behind(port):
    facade = SharedSerial(port, owner="legacy", timeout=20.0)
    facade.write(b"Q2?\n")
    assert facade.readline() == b"A2\n"
    del facade
    gc.collect()


def test_a_forgotten_port_object_may_be_collected_while_strays_are_sorted(port, wait_for):
    def collect() -> None:
        facade = SharedSerial(port, owner="legacy", timeout=0.05)
        facade.write(b"no reply\n")
        assert facade.read() == b""
        wait_for(lambda: facade._lease._turn is None)
        with port.common(LostProperty)._lock:
            facade.__del__()

    Person(collect).result()


def test_a_port_that_is_not_shared_cannot_be_opened(tmp_path):
    facade = SharedSerial(owner="legacy")
    facade.port = str(tmp_path / "none")
    with pytest.raises(serial.SerialException, match="no port of this name is open for sharing"):
        facade.open()


def test_modem_lines_are_those_of_the_hardware(facade):
    for use in (lambda: facade.cts, lambda: facade.dsr, lambda: facade.ri, lambda: facade.cd):
        with pytest.raises(OSError) as refused:  # a pty has none
            use()
        assert refused.value.errno == 25
    with pytest.raises(OSError):
        facade.rts = False
    facade.send_break(0.0)
    facade.write(b"Q1?\n")
    assert facade.readline() == b"A1\n"
    with pytest.raises(io.UnsupportedOperation, match="exported port"):
        facade.fileno()


def test_pulling_the_cable_is_a_serial_exception_and_the_object_works_again_after(facade, instrument, port, wait_for):
    instrument.silent = True
    facade.timeout = 60.0
    facade.write_timeout = 10.0
    failure = []

    def read() -> None:
        try:
            facade.write(b"Q1?\n")
            facade.readline()
        except serial.SerialException as error:
            failure.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    wait_for(lambda: instrument.received)
    began = time.perf_counter()
    instrument.kill()
    reader.join(20.0)
    assert time.perf_counter() - began < 10.0
    assert "not connected" in str(failure[0])
    with pytest.raises(serial.SerialException):
        facade.read()
    instrument.silent = False
    instrument.plug_in()
    facade.write(b"Q2?\n")
    assert facade.readline() == b"A2\n"


def test_a_write_to_a_missing_instrument_fails_after_its_time(facade, instrument, port, wait_for):
    instrument.kill()
    with pytest.raises(serial.SerialException):
        facade.write_timeout = 0.1
        facade.write(b"Q1?\n")
    began = time.perf_counter()
    with pytest.raises(serial.SerialException):
        facade.write(b"Q1?\n")
    assert time.perf_counter() - began < 5.0


def test_a_closed_wire_is_a_serial_exception(facade, port):
    port.close()
    with pytest.raises(serial.SerialException, match="has been closed"):
        facade.write(b"Q1?\n")
    with pytest.raises(serial.SerialException, match="has been closed"):
        facade.read()


def test_waiting_too_long_for_the_wire_is_a_write_timeout_that_names_the_holder(facade, port):
    facade.write_timeout = 0.1

    def hold() -> None:
        with port.acquire("scan"):
            held.set()
            done.wait(30.0)

    held, done = threading.Event(), threading.Event()
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(20.0)
    with pytest.raises(serial.SerialTimeoutException, match="held by 'scan'"):
        facade.write(b"Q1?\n")
    facade.write_timeout = 0
    assert facade.write(b"Q1?\n") == 0
    done.set()
    holder.join()
    assert facade.write(b"Q1?\n") == 4


def test_rules_that_cannot_be_right_are_refused():
    with pytest.raises(ConfigError, match="quiet_time must be a number of seconds above 0"):
        LeaseRules(quiet_time=0)
    with pytest.raises(ConfigError, match="terminator must be bytes"):
        LeaseRules(terminator="\n")
    with pytest.raises(ConfigError, match="accept must be a function"):
        LeaseRules(accept=b"2")


def test_it_works_on_a_socket(loop_gap):
    from ptys import TcpInstrument

    with TcpInstrument() as instrument, SharedSerialPort(instrument.path) as port:
        facade = SharedSerial(port, owner="legacy", timeout=20.0)
        facade.write(b"Q5?\n")
        assert facade.readline() == b"A5\n"
        with pytest.raises(io.UnsupportedOperation, match="not a serial port"):
            _ = facade.cts
        facade.close()


def test_urls_name_open_ports(port, instrument):
    for name in (port.path, instrument.device, "meter"):
        facade = serial.serial_for_url(f"shared://{name}?owner=legacy&quiet_time=0.3", timeout=20.0)
        assert isinstance(facade, serial.Serial)
        assert facade.owner == "legacy"
        facade.write(b"Q5?\n")
        assert facade.readline() == b"A5\n"
        facade.close()
    assert {entry.owner for entry in port.log} == {"legacy"}


def test_a_url_can_be_opened_later(port):
    facade = serial.serial_for_url(f"shared://{port.path}", do_not_open=True)
    assert not facade.is_open
    facade.open()
    facade.write(b"Q5?\n")
    assert facade.read(3) == b"A5\n"
    facade.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("shared://", "names no port"),
        ("shared:///dev/x?speed=3", "'speed' is not understood"),
        ("shared:///dev/x?quiet_time=long", "quiet_time must be a number of seconds"),
        ("shared:///dev/x?quiet_time=-1", "quiet_time must be a number of seconds above 0"),
    ],
)
def test_urls_that_cannot_be_right_are_refused(url, message):
    with pytest.raises(ConfigError, match=message):
        serial.serial_for_url(url)


def test_a_url_of_a_port_that_is_not_open_says_what_is(port):
    with pytest.raises(serial.SerialException, match=f"open are: {port.path}"):
        serial.serial_for_url("shared:///dev/nowhere")


def test_pyvisa_reaches_urls_through_pyvisa_py(port):
    pyvisa = pytest.importorskip("pyvisa")
    manager = pyvisa.ResourceManager("@py")
    resource = manager.open_resource(
        f"ASRLshared://{port.path}?owner=legacy::INSTR", read_termination="\n", write_termination="\n"
    )
    assert resource.query("Q7?") == "A7"
    resource.close()


def test_many_exchanges_cost_little_more_than_the_thread_hand_off(tmp_path):
    with PtyInstrument() as instrument, SharedSerialPort(instrument.path) as port:
        facade = SharedSerial(port, owner="legacy", timeout=20.0)
        for number in range(500):
            facade.write(b"Q%d?\n" % number)
            assert facade.read_until() == b"A%d\n" % number
        facade.close()
        assert port.stats.owners["legacy"].exchanges == 500
        assert port.stats.owners["legacy"].hold.p95 < 0.05


def test_a_wire_without_terminators_serves_binary_replies():
    def answer(command: bytes) -> bytes:
        return bytes([len(command)]) * 5

    with instrument_and_port(answer, port={"terminator": b""}) as (_, port):
        facade = SharedSerial(port, owner="legacy", timeout=20.0)
        facade.write(b"abc\n")
        assert facade.read(5) == b"\x03" * 5
        facade.close()
