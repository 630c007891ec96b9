"""A pulled cable costs a second: loss, waiting, reopening, and what is run before anybody goes on."""

import asyncio
import itertools
import os
import resource
import time
from pathlib import Path

import pytest
from machine import TimeTaken
from people import Person
from proofs import ctrl_c_in, unplug_and_replug, wait_until
from ptys import PtyInstrument, TcpInstrument

from coexistence import (
    AcquireTimeout,
    CommandTimeout,
    GuardNotHeld,
    GuardRevoked,
    SharedSerialPort,
    WireClosed,
    WireDisconnected,
)
from coexistence.channel import REOPEN_INTERVAL_S


def unplug(instrument, port):
    """Unplug, and let the port notice."""
    instrument.kill()
    with pytest.raises((WireDisconnected, CommandTimeout)):
        port.query(b"Qlost?\n", owner="who notices", timeout=0.05)
    assert not port.connected


@pytest.mark.parametrize("away", [0.0, 0.7])
def test_waiting_exchanges_go_on_within_a_second_of_the_devices_return(instrument, port, away):
    # a busy machine is allowed a second more
    assert unplug_and_replug(instrument, port, away) < 2.0


def test_instrument_on_a_socket_comes_back_within_a_second():
    with TcpInstrument() as first:
        port = SharedSerialPort(first.path, timeout=5.0)
        assert port.query(b"Q1?\n", owner="meter") == b"A1"
    with port:
        with pytest.raises(WireDisconnected):
            port.query(b"Q2?\n", owner="meter", timeout=0.5)
        assert not port.connected
        with TcpInstrument(port=first.port) as _:
            with TimeTaken() as taken:
                assert port.query(b"Q3?\n", owner="meter", timeout=20.0) == b"A3"
            assert taken.own_s < 2.0  # a busy machine is allowed a second more


def test_loss_in_mid_exchange_is_told_at_once_with_reason_and_remedy(instrument, port, wait_for):
    instrument.silent = True
    asking = Person(lambda: port.query(b"Q1?\n", owner="meter", timeout=20.0))
    wait_for(lambda: instrument.received)
    started = time.perf_counter()
    instrument.kill()
    with pytest.raises(WireDisconnected) as caught:
        asking.result()
    assert time.perf_counter() - started < 10.0
    error = caught.value
    assert (error.wire, error.owner) == (instrument.path, "meter")
    assert isinstance(error, ConnectionError)
    assert "Check cable and power; it is tried again every 0.5 s." in str(error)
    assert not port.connected
    assert port.last_error is not None


def test_query_without_reply_because_of_a_loss_is_repeated_when_it_may_be(instrument, port, wait_for):
    instrument.silent = True
    asking = Person(lambda: port.query(b"Q1?\n", owner="meter", timeout=20.0, repeatable=True))
    wait_for(lambda: instrument.received)
    instrument.kill()
    wait_for(lambda: not port.connected)
    instrument.silent = False
    instrument.plug_in()
    assert asking.result() == b"A1"
    assert instrument.received.count(b"Q1?") == 2
    assert port.stats.retries == 1


def test_command_is_not_sent_again_after_a_loss(instrument, port, wait_for):
    """A move whose reply was lost may have been carried out."""
    instrument.silent = True
    asking = Person(lambda: port.query(b"QMOVE?\n", owner="stage", timeout=20.0))
    wait_for(lambda: instrument.received)
    instrument.kill()
    with pytest.raises(WireDisconnected):
        asking.result()
    instrument.silent = False
    instrument.plug_in()
    assert port.query(b"Q1?\n", owner="meter", timeout=10.0) == b"A1"
    assert instrument.received.count(b"QMOVE?") == 1


def test_those_who_wait_keep_waiting_until_their_own_time_is_over(instrument, port):
    unplug(instrument, port)
    started = time.perf_counter()
    with pytest.raises(WireDisconnected):
        port.query(b"Q1?\n", owner="meter", timeout=0.3)
    assert 0.3 <= time.perf_counter() - started < 3.0

    def in_line():
        with pytest.raises(WireDisconnected, match="is not connected"):
            port.query(b"Q2?\n", owner="second", timeout=0.2)

    async def as_task():
        with pytest.raises(WireDisconnected, match="is not connected"):
            await port.query_async(b"Q2?\n", owner="third", timeout=0.2)

    first = Person(lambda: port.query(b"Q1?\n", owner="first", timeout=60.0))
    wait_until(lambda: port.current_owner == "first")
    in_line()
    asyncio.run(as_task())
    port.close()
    with pytest.raises((WireClosed, GuardRevoked)):
        first.result()
    assert instrument.received == []


def test_who_waits_ahead_is_not_blamed_for_a_disconnected_wire(instrument, port):
    unplug(instrument, port)
    with port.acquire("holder"):

        def ask():
            port.transact(lambda guard: None, owner="second", timeout=0.05)

        with pytest.raises(WireDisconnected) as caught:
            Person(ask).result()
    assert isinstance(caught.value.__cause__, AcquireTimeout) or caught.value.__context__ is not None


async def test_on_a_loops_thread_a_disconnected_wire_fails_at_once(instrument, port):
    unplug_now = asyncio.to_thread(unplug, instrument, port)
    await unplug_now
    started = time.perf_counter()
    with pytest.raises(WireDisconnected):
        port.query(b"Q1?\n", owner="meter", timeout=30.0)
    assert time.perf_counter() - started < 10.0


def test_listeners_hear_of_loss_and_return(instrument, port):
    events = []
    remove = port.add_listener(events.append)
    unplug(instrument, port)
    assert [event.connected for event in events] == [False]
    assert events[0].error is port.last_error or events[0].error is not None
    instrument.plug_in()
    wait_until(lambda: port.connected)
    wait_until(lambda: len(events) == 2)
    assert events[1].connected
    assert events[0].wire == events[1].wire == instrument.path
    assert events[0].timestamp <= events[1].timestamp <= time.time()
    assert port.stats.reconnects == 1
    remove()
    unplug(instrument, port)
    assert len(events) == 2


def test_search_for_the_device_that_ctrl_c_kept_from_beginning_is_begun_by_who_comes_next(instrument, port):
    instrument.kill()
    with ctrl_c_in("_search"):
        port.query(b"Q1?\n", owner="meter")
    assert not port.connected
    instrument.plug_in()
    assert port.query(b"Q2?\n", owner="meter", timeout=10.0) == b"A2"


def test_port_that_was_half_opened_when_descriptors_ran_out_is_opened_again(instrument, port, wait_for):
    unplug(instrument, port)
    instrument.plug_in()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = set(map(int, os.listdir("/dev/fd")))
    free = (number for number in itertools.count() if number not in used)
    pyserial_needs = 5  # the port and two pipes
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, pyserial_needs, None)), hard))
        wait_for(lambda: "Too many open files" in str(port.last_error))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert port.query(b"Q1?\n", owner="meter", timeout=10.0) == b"A1"


def test_failing_listener_does_not_keep_the_wire_from_coming_back(instrument, port, caplog):
    port.add_listener(lambda event: 1 / 0)
    unplug(instrument, port)
    instrument.plug_in()
    assert port.query(b"Q1?\n", owner="meter", timeout=10.0) == b"A1"
    assert "a connection listener" in caplog.text


def test_steps_run_after_a_reconnect_before_anybodys_exchange(instrument, port):
    port.add_reconnect_step("echo off", lambda guard: guard.write(b"E0\n"))
    port.add_reconnect_step("identity", lambda guard: guard.query(b"Qid?\n"))
    gone = port.add_reconnect_step("removed", lambda guard: guard.write(b"NO\n"))
    gone()
    assert port.query(b"Q0?\n", owner="meter") == b"A0"
    unplug(instrument, port)
    instrument.received.clear()
    instrument.plug_in()
    people = [
        Person(lambda number=number: port.query(b"Q%d?\n" % number, owner=f"{number}", timeout=10.0))
        for number in range(1, 4)
    ]
    for person in people:
        person.result()
    assert instrument.received[:2] == [b"E0", b"Qid?"]
    assert sorted(instrument.received[2:]) == [b"Q1?", b"Q2?", b"Q3?"]


def test_step_that_fails_with_an_error_of_its_own_tells_others_that_the_wire_is_not_ready(instrument, port):
    faults = [ValueError("error 6: no such command")]

    def prepare(_: object) -> None:
        if faults:
            raise faults.pop()

    port.add_reconnect_step("laser", prepare)
    unplug(instrument, port)
    instrument.plug_in()
    with pytest.raises(WireDisconnected, match="the step 'laser' that prepares it failed") as caught:
        port.query(b"Q1?\n", owner="meter", timeout=5.0)
    assert isinstance(caught.value.__cause__, ValueError)
    assert port.query(b"Q2?\n", owner="meter", timeout=10.0) == b"A2"


def test_failed_step_fails_the_exchange_and_is_tried_again(instrument, port):
    def prepare(guard):
        assert guard.query(b"Qready?\n", timeout=0.2 if instrument.silent else 5.0) == b"Aready"

    port.add_reconnect_step("wait for ready", prepare)
    unplug(instrument, port)
    instrument.silent = True
    instrument.plug_in()
    wait_until(lambda: port.connected)
    with pytest.raises(WireDisconnected) as caught:
        port.query(b"Q1?\n", owner="meter", timeout=10.0)
    assert "it is back, but the step 'wait for ready' that prepares it failed" in str(caught.value)
    instrument.settle()
    assert b"Q1?" not in instrument.received
    instrument.silent = False
    assert port.query(b"Q2?\n", owner="meter", timeout=10.0) == b"A2"
    assert instrument.received[-2:] == [b"Qready?", b"Q2?"]


def test_guard_goes_on_after_a_short_loss(instrument, port):
    with port.acquire("meter", timeout=1.0) as guard:
        assert guard.query(b"Q1?\n") == b"A1"
        instrument.kill()
        with pytest.raises((WireDisconnected, CommandTimeout)):
            guard.query(b"Q2?\n", timeout=0.1)
        instrument.plug_in()
        assert guard.query(b"Q3?\n", timeout=10.0) == b"A3"
    with pytest.raises(GuardNotHeld):
        guard.query(b"Q4?\n")


def test_waiting_for_the_device_ends_when_the_wire_is_closed(instrument, port):
    unplug(instrument, port)
    waiting = Person(lambda: port.query(b"Q1?\n", owner="meter", timeout=30.0))
    wait_until(lambda: port.current_owner == "meter")
    port.close()
    with pytest.raises(WireClosed):
        waiting.result()


def test_closing_while_the_device_is_away_leaves_nothing_behind(instrument, port):
    unplug(instrument, port)
    time.sleep(REOPEN_INTERVAL_S * 0.9)  # just before the first attempt to reopen
    port.close()
    instrument.plug_in()
    assert not port.connected


def test_loss_while_idle_is_noticed_by_the_next_exchange_which_goes_on_after_it(instrument, port):
    assert port.query(b"Q1?\n", owner="meter") == b"A1"
    instrument.kill()
    instrument.plug_in()
    assert port.query(b"Q2?\n", owner="meter", timeout=10.0) == b"A2"
    assert port.stats.reconnects == 1


def test_device_that_comes_back_under_another_name_is_found_by_its_usb_identity(monkeypatch, tmp_path):
    import serial.tools.list_ports

    class Adapter:
        vid, pid, serial_number = 0x0403, 0x6001, "FT1ABC23"

        def __init__(self, device):
            self.device = device

    with PtyInstrument() as instrument:
        plugged_in = [Adapter(instrument.device)]
        monkeypatch.setattr(serial.tools.list_ports, "comports", lambda: plugged_in)
        with SharedSerialPort("usb:0403:6001:FT1ABC23") as port:
            assert port.query(b"Q1?\n", owner="meter") == b"A1"
            plugged_in.clear()
            unplug(instrument, port)
            instrument.plug_in()
            keeper = Path(instrument.device)
            assert keeper.exists()
            plugged_in.append(Adapter(instrument.device))
            assert port.query(b"Q2?\n", owner="meter", timeout=10.0) == b"A2"


def test_usb_identity_that_is_absent_or_ambiguous_says_so(monkeypatch):
    import serial.tools.list_ports

    class Adapter:
        vid, pid = 0x0403, 0x6001

        def __init__(self, device, serial_number):
            self.device = device
            self.serial_number = serial_number

    monkeypatch.setattr(serial.tools.list_ports, "comports", list)
    with pytest.raises(WireDisconnected, match="no such USB adapter is plugged in"):
        SharedSerialPort("usb:0403:6001")
    both = [Adapter("/dev/ttyUSB0", "A"), Adapter("/dev/ttyUSB1", "B")]
    monkeypatch.setattr(serial.tools.list_ports, "comports", lambda: both)
    with pytest.raises(WireDisconnected, match="several adapters match") as caught:
        SharedSerialPort("usb:0403:6001")
    assert "/dev/ttyUSB1 (serial B)" in str(caught.value)
    assert "Add the serial number to the name." in str(caught.value)
