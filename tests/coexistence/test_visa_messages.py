"""VISA sessions over message media: VXI-11, HiSLIP and simulated resources; TCP without ``poll``."""

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest
from people import Person
from ptys import NEVER_S, PATIENCE_S, TcpInstrument, echo, unanswered
from vxi11_instrument import Vxi11Instrument

from coexistence import (
    Channel,
    CommandTimeout,
    GuardRevoked,
    VisaSessionManager,
    WireClosed,
    WireDisconnected,
    make_block,
)
from coexistence.visa_library import VisaLibrary
from coexistence.visa_resource import VisaResource
from coexistence.visa_socket_transport import PortableSocketTransport
from coexistence.visa_transport import UninterruptedTransport
from coexistence.wire import Wire
from simulators import SimulatorProcess


def wait_for(condition, timeout: float = 5.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.002)


@pytest.fixture
def visa() -> Iterator[VisaSessionManager]:
    with VisaSessionManager("@py") as visa:
        yield visa


# VXI-11


@pytest.fixture
def link() -> Iterator[Vxi11Instrument]:
    with Vxi11Instrument(echo) as link:
        yield link


def test_vxi11_messages_end_by_themselves(visa, link):
    handle = visa.session(link.resource, owner="v2")
    assert handle.query("Qvolts?") == "Avolts"
    link.answer = lambda _command: b"1"
    assert handle.query("Qone byte without terminator?") == "1"
    link.answer = lambda _command: b"two\nlines\n"
    assert handle.query("Qlines?") == "two\nlines"
    link.answer = lambda _command: b"x" * 50_000 + b"\n"
    assert handle.query("Qlong?") == "x" * 50_000
    link.answer = lambda _command: make_block(b"\n" * 30_000)
    assert handle.query_block("CURVE?") == b"\n" * 30_000
    link.answer = echo
    assert handle.query("Qnext?") == "Anext"


def test_the_rest_of_a_message_is_not_the_next_reply(visa, link):
    handle = visa.session(link.resource, owner="v2")
    link.answer = lambda _command: b"x" * 60_000 + b"\n"
    with handle.acquire() as guard:
        guard.write("Qlong?")
        assert guard.raw.read(10) == b"x" * 10
    link.answer = echo
    assert handle.query("Qnext?") == "Anext"


def test_vxi11_is_cleared_after_a_timeout_on_the_same_link(visa, link):
    handle = visa.session(link.resource, owner="v2")
    link.delay = 60.0
    assert "nothing came" in str(unanswered(handle.query, "Qslow?"))
    link.delay = 0.0
    assert handle.query("Qnext?") == "Anext"
    assert link.clears == 1
    assert link.links == 1
    handle.clear()
    assert link.clears == 2


def test_a_wait_on_vxi11_is_made_in_slices_that_lose_nothing(visa, link):
    handle = visa.session(link.resource, owner="v2")
    link.delay = 0.3
    started = time.perf_counter()
    assert handle.query("Qslow?", timeout=30.0) == "Aslow"
    assert time.perf_counter() - started < 10.0
    assert set(link.read_sizes[:-1]) == {1}
    link.delay = 60.0
    stuck = Person(lambda: handle.query("Qstuck?", timeout=30.0))
    count = len(link.read_sizes)
    wait_for(lambda: len(link.read_sizes) > count)
    started = time.perf_counter()
    handle.channel.revoke()
    with pytest.raises(GuardRevoked):
        stuck.result()
    assert time.perf_counter() - started < 8.0


def test_vxi11_comes_back_by_itself(visa):
    with Vxi11Instrument(echo) as link:
        handle = visa.session(link.resource, owner="v2", timeout=20.0)
        port = link.port
        assert handle.query("Qbefore?") == "Abefore"
    waiting = Person(handle.query, "Qduring?")
    wait_for(lambda: not handle.connected)
    with Vxi11Instrument(echo, port=port):
        back = time.perf_counter()
        assert waiting.result() == "Aduring"
        assert time.perf_counter() - back < 5.0
        visa.close()


# HiSLIP


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    instruments = [{"type": "ScpiInstrument"}]
    wires = [
        {"name": "socket", "kind": "tcp", "instruments": instruments},
        {"name": "hislip", "kind": "hislip", "instruments": instruments},
    ]
    with SimulatorProcess({"seed": 7, "time_scale": 1.0, "bench": {}, "wires": wires}) as simulator:
        yield simulator


def simulated(simulator: SimulatorProcess, wire: str) -> str:
    host, _, port = simulator.ports[wire].rpartition(":")
    return f"TCPIP0::{host}::{port}::SOCKET" if wire == "socket" else f"TCPIP0::{host}::hislip0,{port}::INSTR"


@pytest.mark.parametrize("wire", ["socket", "hislip"])
def test_a_meter_answers_over(visa, simulator, wire):
    handle = visa.session(simulated(simulator, wire), owner="v2", timeout=20.0)
    assert len(handle.identity().split(",")) == 4
    handle.write("*CLS")
    assert handle.query("*OPC?") == "1"
    assert handle.query("SYST:ERR?").startswith("+0") or handle.query("SYST:ERR?").startswith("0")
    assert abs(float(handle.query("MEAS:VOLT:DC?"))) < 1e38


@pytest.mark.parametrize("wire", ["socket", "hislip"])
async def test_late_replies_of_a_meter_are_kept_from_the_next_question_over(visa, simulator, wire):
    handle = visa.session(simulated(simulator, wire), owner="v4", timeout=20.0)
    for _ in range(3):
        simulator.fault(wire, "late", delay_s=0.25)
        with contextlib.suppress(CommandTimeout):  # a busy machine may find the reply when it looks at the clock
            assert (await handle.query_async("*IDN?", timeout=0.1)).count(",") == 3
        assert await handle.query_async("*OPC?") == "1"
    assert handle.connected


def test_hislip_waits_are_broken_off(visa, simulator):
    handle = visa.session(simulated(simulator, "hislip"), owner="stuck", timeout=30.0)
    simulator.fault("hislip", "silence", count=None)
    before = handle.channel.stats.exchanges
    stuck = Person(handle.query, "*IDN?")
    wait_for(lambda: handle.channel._out)  # what it asks is being sent
    time.sleep(0.1)
    started = time.perf_counter()
    handle.channel.revoke()
    with pytest.raises(GuardRevoked):
        stuck.result()
    assert time.perf_counter() - started < 8.0
    simulator.clear_faults("hislip")
    assert handle.clone(timeout=20.0).query("*OPC?") == "1"
    assert handle.channel.stats.exchanges > before


# Simulated resources


def test_simulated_resources_work_like_real_ones():
    with VisaSessionManager("@sim") as visa:
        handle = visa.session("GPIB0::8::INSTR", owner="v2")
        assert handle.query("?IDN") == "LSG Serial #1234"
        assert handle.query("!FREQ 10.00") == "OK"
        assert handle.query("?FREQ") == "10.00"
        with pytest.raises(CommandTimeout):
            handle.query("*RST", timeout=0.1)
        assert handle.query("?IDN") == "LSG Serial #1234"


def test_devices_of_one_gpib_board_take_turns_on_its_wire():
    with VisaSessionManager("@sim") as visa:
        first = visa.session("GPIB0::8::INSTR", owner="first")
        second = visa.session("gpib::9", owner="second")
        assert first.channel is not second.channel
        assert first.channel.wire is second.channel.wire
        assert first.channel.wire.arbiter.order == (1, "GPIB0")
        with first.acquire():
            assert second.queue_depth == 0
            with pytest.raises(Exception, match="held by 'first'"):
                Person(lambda: second.query("?IDN", timeout=0.05)).result()
        assert len(visa.wires) == 1


def test_usb_is_read_in_one_piece_and_times_out_by_itself():
    library = VisaLibrary.shared("@sim")
    resource = VisaResource.parse("USB::0x1111::0x2222::0x1234::INSTR")
    channel = Channel(
        Wire("usb", order=(1, "usb")), UninterruptedTransport(library, resource), terminator=b"\n", timeout=1.0
    )
    with contextlib.closing(channel):
        assert channel.query(b"?IDN\n", owner="v2") == b"LSG Serial #1234"
        started = time.perf_counter()
        with pytest.raises(CommandTimeout):
            channel.query(b"*RST\n", owner="v2", timeout=0.1)
        assert time.perf_counter() - started < 1.5  # VISA's own limit is 2 s
        assert channel.query(b"?IDN\n", owner="v2", timeout=10.0) == b"LSG Serial #1234"
    library.release()


# TCP where there is no poll


@pytest.fixture
def portable() -> Iterator[tuple[TcpInstrument, Channel]]:
    with TcpInstrument() as meter:
        transport = PortableSocketTransport(VisaResource.parse(f"TCPIP::127.0.0.1::{meter.port}::SOCKET"))
        channel = Channel(Wire("wire", order=(1, "wire")), transport, terminator=b"\n", timeout=PATIENCE_S)
        with contextlib.closing(channel):
            yield meter, channel


def test_the_portable_socket_exchanges_times_out_and_resets(portable):
    meter, channel = portable
    assert channel.query(b"Qx?\n", owner="v2") == b"Ax"
    meter.delay = NEVER_S
    unanswered(channel.query, b"Qslow?\n", owner="v2")
    meter.delay = 0.0
    assert channel.query(b"Qy?\n", owner="v2") == b"Ay"


def test_the_portable_socket_notices_interruption_and_loss(portable):
    meter, channel = portable
    meter.silent = True
    stuck = Person(lambda: channel.query(b"Qx?\n", owner="v2", timeout=30.0))
    wait_for(lambda: meter.received)
    started = time.perf_counter()
    channel.revoke()
    with pytest.raises(GuardRevoked):
        stuck.result()
    assert time.perf_counter() - started < 8.0
    meter.silent = False
    assert channel.query(b"Qy?\n", owner="v2") == b"Ay"
    meter.stop()
    with pytest.raises(WireDisconnected):
        channel.query(b"Qz?\n", owner="v2", timeout=0.2)
    meter.__class__.__init__(meter, port=meter.port)
    assert channel.query(b"Qback?\n", owner="v2", timeout=20.0) == b"Aback"
    stuck = threading.Thread(target=channel.close)
    stuck.start()
    stuck.join(10.0)
    with pytest.raises(WireClosed):
        channel.query(b"Qclosed?\n", owner="v2")
