"""Drivers that open pyvisa resources themselves, on shared sessions."""

import asyncio
import threading
import time

import pytest
import pyvisa
from people import Person
from pymeasure.instruments.hp import HP34401A
from pyvisa.constants import BufferOperation, InterfaceType
from pyvisa.errors import VisaIOError

from coexistence import ConfigError, SerialPortPool, SharedResources, VisaSessionManager, adopt
from coexistence.adoption.visa_facade import MessageBuffer
from simulators import SimulatorProcess, build_spec, default_instrument, default_wire


@pytest.fixture(scope="module")
def simulation():
    spec = build_spec(
        [
            default_wire("socket", [default_instrument("ScpiMeter")]),
            default_wire("hislip", [default_instrument("ScpiMeter")], kind="hislip"),
        ],
        time_scale=0.2,
    )
    with SimulatorProcess(spec) as simulation:
        yield simulation


@pytest.fixture
def visa():
    with VisaSessionManager() as visa:
        yield visa


@pytest.fixture
def manager():
    return pyvisa.ResourceManager("@py")


@pytest.fixture(params=["socket", "hislip"])
def resource(request, simulation):
    host, port = simulation.ports[request.param].split(":")
    if request.param == "socket":
        return f"TCPIP0::{host}::{port}::SOCKET"
    return f"TCPIP0::{host}::hislip0,{port}::INSTR"


@pytest.fixture
def meter(visa, manager, resource):
    with adopt(visa, {resource: "legacy"}, reply_time=8.0):
        meter = manager.open_resource(resource, read_termination="\n", write_termination="\n", timeout=20_000)
    yield meter
    meter.close()


def test_it_is_of_the_class_that_pyvisa_gives(meter, resource):
    expected = pyvisa.resources.TCPIPSocket if "SOCKET" in resource else pyvisa.resources.TCPIPInstrument
    assert isinstance(meter, expected)
    assert isinstance(meter, pyvisa.resources.MessageBasedResource)
    assert meter.interface_type == InterfaceType.tcpip
    assert meter.resource_name == resource
    assert meter.timeout == 20_000


def test_pyvisas_ways_to_talk_work(meter):
    assert meter.query("*IDN?").startswith("Agilent Technologies,34401A")
    assert meter.write("*CLS") == 5
    meter.write("SYST:ERR?")
    assert meter.read() == '0,"No error"'
    meter.write_raw(b"*OPC?\n")
    assert meter.read_raw() == b"1\n"
    meter.write("*OPC?")
    assert meter.read_bytes(2, break_on_termchar=True) == b"1\n"
    meter.write("*OPC?")
    assert meter.read_bytes(1) == b"1"
    assert meter.read_bytes(1) == b"\n"
    assert meter.query_ascii_values("*OPC?") == [1.0]
    with meter.read_termination_context("\n"):
        assert meter.query("*OPC?") == "1"


def test_binary_values_come_whole(meter):
    meter.write("SAMP:COUN 20")
    meter.write("VOLT:DC:NPLC 0.02")
    meter.write("FORM REAL,64")
    values = meter.query_binary_values("READ?", datatype="d", is_big_endian=True)
    assert len(values) == 20
    meter.write("*RST")


def test_a_missing_answer_is_visas_timeout(meter):
    meter.timeout = 200
    began = time.perf_counter()
    with pytest.raises(VisaIOError, match="VI_ERROR_TMO"):
        meter.read()
    assert 0.15 < time.perf_counter() - began < 5.0


def test_clear_and_flush_forget_what_was_not_read(meter):
    meter.write("*IDN?")
    meter.clear()
    assert meter.query("*OPC?") == "1"
    meter.write("*IDN?")
    assert meter.read_bytes(1) == b"A"
    meter.flush(BufferOperation.discard_read_buffer)
    meter.chunk_size = 4
    assert meter.query("*IDN?").startswith("Agilent Technologies,34401A")


def test_a_message_that_comes_while_the_buffer_is_cleared_is_dropped_or_kept_as_a_whole():
    buffer = MessageBuffer()

    def put() -> None:
        with buffer.changed:
            buffer.put(b"next", late=False)

    class Ends(list):
        def clear(self) -> None:
            self.coming = Person(put)
            self.coming.join(0.3)
            super().clear()

    buffer._ends = ends = Ends()
    buffer.clear()
    ends.coming.result()
    assert buffer.message_end(buffer.data) == len(buffer.data)


def test_the_status_byte_is_the_instruments(meter, resource):
    if "SOCKET" in resource:
        with pytest.raises(VisaIOError, match="VI_ERROR_NSUP_OPER"):
            meter.read_stb()
    else:
        assert meter.read_stb() & 0x40 == 0


def test_what_cannot_be_shared_says_so(meter):
    with pytest.raises(VisaIOError, match="VI_ERROR_NSUP_OPER"):
        meter.wait_on_event(pyvisa.constants.EventType.service_request, 10)
    with pytest.raises(VisaIOError, match="VI_ERROR_NSUP_ATTR"):
        meter.get_visa_attribute(pyvisa.constants.ResourceAttribute.trigger_id)


def test_locks_and_holds_keep_others_out(meter, visa, resource):
    session = visa.session(resource, owner="other")
    answers = []
    for hold in (meter.lock_context, meter.hold):
        with hold():
            other = threading.Thread(target=lambda: answers.append(session.query("*OPC?", timeout=20.0)))
            other.start()
            for _ in range(3):
                assert meter.query("*IDN?").startswith("Agilent")
            assert not answers
        other.join()
        assert answers.pop() == "1"
    with pytest.raises(VisaIOError, match="VI_ERROR_SESN_NLOCKED"):
        meter.unlock()


def test_the_wire_held_by_others_is_a_timeout_that_names_them(meter, visa, resource):
    session = visa.session(resource, owner="scan")
    meter.timeout = 100
    failures = []

    def ask() -> None:
        try:
            meter.query("*IDN?")
        except VisaIOError as error:
            failures.append(error)

    with session.acquire():
        driver = threading.Thread(target=ask)
        driver.start()
        driver.join()
    assert failures[0].error_code == pyvisa.constants.StatusCode.error_timeout
    assert "held by 'scan'" in str(failures[0])


async def test_a_driver_and_tasks_share_a_session_without_crossed_answers(meter, visa, resource):
    session = visa.session(resource, owner="task", timeout=20.0)
    wrong = []

    def drive() -> None:
        for _ in range(100):
            answer = meter.query("*IDN?")
            if not answer.startswith("Agilent"):
                wrong.append(answer)

    driver = asyncio.create_task(asyncio.to_thread(drive))
    number = 0
    while not driver.done() or number < 20:
        assert await session.query_async("*OPC?") == "1"
        number += 1
    await driver
    assert not wrong
    assert session.channel.stats.timeouts == 0


def test_other_resources_are_opened_as_always_and_pyvisa_is_restored(visa, manager, resource, simulation):
    original = pyvisa.ResourceManager.open_resource
    host, port = simulation.ports["socket"].split(":")
    other = "TCPIP0::127.0.0.1::1::SOCKET"
    with adopt(visa, {other: "legacy"}):
        plain = manager.open_resource(f"TCPIP0::{host}::{port}::SOCKET", read_termination="\n", write_termination="\n")
        assert not hasattr(plain, "hold")
        assert plain.query("*OPC?") == "1"
        plain.close()
    assert pyvisa.ResourceManager.open_resource is original


def test_a_wrong_keyword_is_refused_as_pyvisa_does(visa, manager, resource):
    with adopt(visa, {resource: "legacy"}), pytest.raises(ValueError, match="'colour' is not a valid attribute"):
        manager.open_resource(resource, colour="red")


def test_sources_that_cannot_serve_a_name_are_refused(visa, resource):
    pool = SerialPortPool()
    with (
        pytest.raises(ConfigError, match="VISA resources come from a VisaSessionManager"),
        adopt(pool, {resource: "x"}),
    ):
        pass
    with pytest.raises(ConfigError, match="serial ports come from a SerialPortPool"), adopt(visa, {"/dev/x": "x"}):
        pass


def test_pymeasure_drives_a_meter_on_a_shared_session(resource):
    resources = SharedResources()
    with adopt(resources, {resource: "pymeasure"}):
        driver = HP34401A(resource, visa_library="@py", read_termination="\n", write_termination="\n", timeout=5000)
    session = resources.visa.session(resource, owner="other")
    assert driver.id.startswith("Agilent")
    driver.function_ = "DCV"
    assert abs(driver.reading) < 10.0
    assert session.query("*OPC?") == "1"
    driver.adapter.close()
    resources.visa.close()
    resources.serial.close()


def test_a_serial_resource_is_the_pools_port(port, instrument):
    from coexistence import VisaSessionManager

    pool = SerialPortPool()
    with VisaSessionManager(pool=pool) as visa:
        port.close()
        manager = pyvisa.ResourceManager("@py")
        name = f"ASRL{instrument.path}::INSTR"
        with adopt(visa, {name: "legacy"}):
            meter = manager.open_resource(name, read_termination="\n", write_termination="\n", baud_rate=9600)
        assert meter.query("Q1?") == "A1"
        assert meter.baud_rate == 9600
        with pytest.raises(VisaIOError):
            meter.baud_rate = 19200
        assert meter.bytes_in_buffer == 0
        assert pool.get(instrument.path).query(b"Q2?\n", owner="other") == b"A2"
        meter.close()
        pool.close()
