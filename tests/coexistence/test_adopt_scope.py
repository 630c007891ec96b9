"""``with adopt(...)`` redirects the chosen ports, and nothing else."""

import threading

import pytest
import serial
from ptys import PtyInstrument
from serial import Serial as EarlyImport

from coexistence import Adoption, ConfigError, LeaseRules, SerialPortPool, SharedSerial, adopt


@pytest.fixture
def pool(no_descriptor_left_behind):
    pool = SerialPortPool()
    yield pool
    pool.close()


class OwnSerial(serial.Serial):
    """A driver's own subclass."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.opened_by = "driver"

    def ask(self, command: bytes) -> bytes:
        self.write(command)
        return self.read_until()

    def write(self, data):
        return super().write(data + b"\n")


def opened_later(path):
    port = serial.Serial(timeout=20.0)
    port.port = path
    port.open()
    return port


def opened_by_url_later(path):
    port = serial.serial_for_url(path, do_not_open=True, timeout=20.0)
    port.open()
    return port


@pytest.mark.parametrize(
    "opened",
    [
        lambda path: serial.Serial(path, timeout=20.0),
        lambda path: EarlyImport(path, 9600, timeout=20.0),
        lambda path: serial.serial_for_url(path, timeout=20.0),
        lambda path: serial.Serial(path, timeout=20.0).__enter__(),
        opened_later,
        opened_by_url_later,
        lambda path: serial.PosixPollSerial(path, timeout=20.0),
    ],
)
def test_every_way_of_opening_reaches_the_wire(pool, instrument, opened):
    port = pool.get(instrument.path)
    with adopt(pool, {instrument.path: "legacy"}):
        driver = opened(instrument.path)
        assert isinstance(driver, serial.Serial)
        driver.write(b"Q1?\n")
        assert driver.readline() == b"A1\n"
        assert port.query(b"Q2?\n", owner="other") == b"A2"
        driver.close()
    assert [entry.owner for entry in port.log] == ["legacy", "other"]


def test_a_driver_that_extends_serial_keeps_what_it_overrides(pool, instrument):
    with adopt(pool, {instrument.path: "legacy"}):
        driver = OwnSerial(instrument.path, timeout=20.0)
    assert isinstance(driver, OwnSerial)
    assert isinstance(driver, SharedSerial)
    assert type(driver).__name__ == "OwnSerial"
    assert driver.opened_by == "driver"
    assert driver.ask(b"Q1?") == b"A1\n"
    driver.close()


def test_it_is_found_by_symlink_and_by_device_alike(pool, instrument):
    for adopted, opened in ((instrument.path, instrument.device), (instrument.device, instrument.path)):
        with adopt(pool, {adopted: "legacy"}), serial.Serial(opened, timeout=20.0) as driver:
            assert isinstance(driver, SharedSerial)
            driver.write(b"Q1?\n")
            assert driver.readline() == b"A1\n"
    assert len(pool.ports) == 1


def test_other_ports_and_other_threads_are_left_alone(pool, instrument):
    with PtyInstrument() as other, adopt(pool, {instrument.path: "legacy"}):
        kinds = []

        def use_other() -> None:
            with serial.Serial(other.path, timeout=20.0) as plain:
                plain.write(b"Q1?\n")
                assert plain.readline() == b"A1\n"
                kinds.append(type(plain))

        thread = threading.Thread(target=use_other)
        thread.start()
        thread.join()
        with serial.serial_for_url("loop://", timeout=20.0) as loop:
            loop.write(b"x")
            assert loop.read(1) == b"x"
        with pytest.raises(serial.SerialException):
            serial.Serial("/dev/does-not-exist")
        assert kinds == [serial.Serial]


def test_pyserial_is_restored_on_every_way_out(pool, instrument):
    before = serial.Serial.open, serial.serial_for_url
    with pytest.raises(KeyError), adopt(pool, {instrument.path: "legacy"}):
        assert (serial.Serial.open, serial.serial_for_url) != before
        raise KeyError
    assert (serial.Serial.open, serial.serial_for_url) == before
    with serial.Serial(instrument.path, timeout=20.0) as plain:
        assert type(plain) is serial.Serial


def test_the_innermost_block_decides_and_the_outer_one_is_back_after_it(pool, instrument):
    port = pool.get(instrument.path)
    with PtyInstrument() as second:
        with adopt(pool, {instrument.path: "outer", second.path: "second"}):
            with adopt(pool, {instrument.path: "inner"}):
                with serial.Serial(instrument.path) as driver:
                    assert driver.owner == "inner"
                with serial.Serial(second.path) as driver:
                    assert driver.owner == "second"
            with serial.Serial(instrument.path) as driver:
                assert driver.owner == "outer"
        assert not port.wire.closed


def test_blocks_of_two_threads_may_overlap(pool, instrument):
    first, second = adopt(pool, {instrument.path: "first"}), adopt(pool, {"/dev/none": "second"})
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with serial.Serial(instrument.path) as plain:
        assert not isinstance(plain, SharedSerial)
    second.__exit__(None, None, None)
    assert serial.Serial.open.__module__ == "serial.serialposix"


def test_a_driver_stays_on_the_wire_after_the_block(pool, instrument):
    with adopt(pool, {instrument.path: "legacy"}):
        driver = serial.Serial(instrument.path, timeout=20.0)
    port = pool.get(instrument.path)
    for _ in range(2):
        driver.write(b"Q1?\n")
        assert driver.readline() == b"A1\n"
        driver.close()
        driver.open()
    driver.close()
    assert {entry.owner for entry in port.log} == {"legacy"}


def test_a_wire_that_is_not_open_is_opened_as_the_driver_asks(pool, instrument):
    with adopt(pool, {instrument.path: "legacy"}), serial.Serial(instrument.path, 19200, timeout=20.0) as driver:
        assert driver.baudrate == 19200
    assert [port.baud_rate for port in pool.ports] == [19200]


def test_a_driver_with_other_settings_than_the_wire_is_refused(pool, instrument):
    pool.get(instrument.path, baud_rate=19200)
    with (
        adopt(pool, {instrument.path: "legacy"}),
        pytest.raises(ConfigError, match=r"asks for baudrate 115200, and .* works with 19200"),
    ):
        serial.Serial(instrument.path, 115200)


def test_the_wire_may_be_reopened_within_the_block(pool, instrument, wait_for):
    port = pool.get(instrument.path)
    with adopt(pool, {instrument.path: "legacy"}):
        driver = serial.Serial(instrument.path, timeout=20.0)
        instrument.kill()
        with pytest.raises(serial.SerialException):
            driver.write_timeout = 0.1
            driver.write(b"Q1?\n")
        instrument.plug_in()
        wait_for(lambda: port.connected)
        driver.write_timeout = 10.0
        driver.write(b"Q1?\n")
        assert driver.readline() == b"A1\n"
        driver.close()


def test_rules_are_for_all_ports_or_for_one(pool, instrument):
    rules = LeaseRules(quiet_time=0.7)
    with PtyInstrument() as second:
        chosen = {instrument.path: "legacy", second.path: Adoption(owner="slow", rules=rules)}
        with adopt(pool, chosen, quiet_time=0.2):
            with serial.Serial(instrument.path) as driver:
                assert driver._rules.quiet_time == 0.2
            with serial.Serial(second.path) as driver:
                assert driver._rules.quiet_time == 0.7


def test_what_cannot_be_right_is_refused_at_once(pool):
    for ports, rules, message in (
        ({"": "legacy"}, {}, "non-empty string"),
        ({"/dev/x": ""}, {}, "the driver of /dev/x must be named"),
        ({"/dev/x": "legacy"}, {"quiet": 1.0}, "there is no lease rule 'quiet'"),
        ({"/dev/x": "legacy"}, {"quiet_time": -1.0}, "quiet_time must be a number of seconds above 0"),
    ):
        with pytest.raises(ConfigError, match=message), adopt(pool, ports, **rules):
            pass


def test_a_network_port_can_be_adopted(pool):
    from ptys import TcpInstrument

    with TcpInstrument() as instrument, adopt(pool, {instrument.path: "legacy"}):
        driver = serial.serial_for_url(instrument.path, timeout=20.0)
        assert isinstance(driver, SharedSerial)
        driver.write(b"Q1?\n")
        assert driver.readline() == b"A1\n"
        driver.close()
        pool.close()
