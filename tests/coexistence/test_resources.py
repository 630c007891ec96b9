"""Several wires at once, who has them, and what is plugged in."""

import asyncio
import threading

import pytest
from proofs import ctrl_c_in
from ptys import PtyInstrument, TcpInstrument

from coexistence import (
    AcquireTimeout,
    ConfigError,
    DeviceCache,
    LockOrderViolation,
    Rank,
    SharedResources,
    SharedSerialPort,
    WireClosed,
)
from coexistence.config import DualConfig


@pytest.fixture
def resources(no_descriptor_left_behind):
    shared = SharedResources()
    yield shared
    shared.close()


@pytest.fixture
def meter(tmp_path, resources):
    with PtyInstrument(link=tmp_path / "a-meter") as instrument:
        yield resources.serial.get(instrument.path)
        resources.serial.close()


@pytest.fixture
def stage(tmp_path, resources):
    with PtyInstrument(link=tmp_path / "b-stage") as instrument:
        yield resources.serial.get(instrument.path)
        resources.serial.close()


def ordered(*channels):
    return sorted(channels, key=lambda channel: channel.wire.arbiter.order)


def test_guards_come_in_the_order_asked_for_whatever_the_order_of_acquisition(resources, meter, stage):
    for channels in ([meter, stage], [stage, meter]):
        with resources.acquire_all(channels, owner="alignment") as guards:
            assert [guard.query(b"Q1?\n") for guard in guards] == [b"A1", b"A1"]
            assert {channel.current_owner for channel in channels} == {"alignment"}
        assert meter.current_owner is None
        assert stage.current_owner is None


async def test_tasks_take_several_wires_too(resources, meter, stage):
    async with resources.acquire_all([stage, meter], owner="alignment") as (stage_guard, meter_guard):
        assert await stage_guard.query_async(b"Qs?\n") == b"As"
        assert await meter_guard.query_async(b"Qm?\n") == b"Am"
    assert stage.is_available
    assert meter.is_available


def test_all_or_none_are_held_when_one_is_not_free_in_time(resources, meter, stage):
    first, last = ordered(meter, stage)
    taken, leave = threading.Event(), threading.Event()

    def hold():
        with last.acquire("somebody"):
            taken.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(5)
    with pytest.raises(AcquireTimeout) as caught, resources.acquire_all([meter, stage], owner="me", timeout=0.1):
        pass
    assert caught.value.held_by == "somebody"
    assert first.is_available
    leave.set()
    holder.join()


async def test_cancellation_in_line_releases_what_was_acquired(resources, meter, stage):
    first, last = ordered(meter, stage)
    async with last.acquire_async("somebody"):

        async def ask():
            async with resources.acquire_all([meter, stage], owner="me", timeout=5):
                pass

        task = asyncio.create_task(ask())
        while first.current_owner != "me":
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert first.is_available


def test_taking_single_wires_against_the_order_is_refused(resources, meter, stage):
    first, last = ordered(meter, stage)
    with last.acquire("me"), pytest.raises(LockOrderViolation) as caught:
        first.query(b"Q1?\n", owner="me")
    assert caught.value.held == (last.wire.name,)
    assert "SharedResources.acquire_all" in str(caught.value)


def test_serial_wires_come_before_visa(resources, meter):
    with TcpInstrument() as instrument:
        host, port = instrument.path.removeprefix("socket://").split(":")
        session = resources.visa.session(f"TCPIP0::{host}::{port}::SOCKET", owner="meter")
        assert [wire.name for wire in resources.wires] == [meter.wire.name, session.channel.wire.name]
        with resources.acquire_all([session.channel, meter], owner="both") as (visa_guard, serial_guard):
            assert visa_guard.query(b"Q1?\n") == serial_guard.query(b"Q1?\n") == b"A1"
        resources.visa.close()


def test_who_holds_and_who_waits_is_told(resources, meter, wait_for):
    asked = threading.Thread(target=lambda: meter.query(b"Q1?\n", owner="patient", timeout=30.0, rank=Rank.BACKGROUND))
    with meter.acquire("holder"):
        asked.start()
        wait_for(lambda: resources.held()[0].waiting)
        (use,) = resources.held()
        assert (use.wire, use.connected, use.holder) == (meter.wire.name, True, "holder")
        assert use.held_for > 0
        (waiting,) = use.waiting
        assert (waiting.owner, waiting.rank) == ("patient", Rank.BACKGROUND)
        assert waiting.waited >= 0
    asked.join()
    assert resources.held()[0].holder is None


def test_nothing_is_opened_again_once_all_is_closed(resources, tmp_path):
    with PtyInstrument(link=tmp_path / "late") as instrument:
        resources.serial.get(instrument.path)
        resources.close()
        with pytest.raises(WireClosed, match="late has been closed"):
            resources.serial.get(instrument.path)  # a call that hung while everything was closed
        with pytest.raises(WireClosed, match="VISA has been closed"):
            resources.visa.session("TCPIP0::127.0.0.1::5025::SOCKET", owner="late")


def test_no_wires_at_all_are_refused_with_the_reason(resources):
    with pytest.raises(ConfigError, match="no wires: name at least one"):
        resources.acquire_all([], owner="me")


def test_the_configuration_chooses_the_visa():
    config = DualConfig.model_validate({"application": {"visa_backend": "@sim"}})
    with_sim = SharedResources(config)
    assert with_sim._visa_backend == "@sim"
    with_sim.close()


def test_enumerations_are_remembered_for_a_while():
    asked = []

    def listing():
        asked.append(1)
        return [f"GPIB0::{len(asked)}::INSTR"]

    cache = DeviceCache(listing)
    assert cache.visa_age == float("inf")
    assert cache.visa_resources() == ["GPIB0::1::INSTR"]
    assert cache.visa_resources() == ["GPIB0::1::INSTR"]
    assert cache.visa_age < 30
    assert cache.visa_resources(max_age=0.0) == ["GPIB0::2::INSTR"]
    assert isinstance(cache.serial_ports(), list)
    assert cache.serial_age < 5


@pytest.mark.parametrize("struck", ["shutdown", "_end"], ids=["while sessions close", "while ports close"])
def test_closing_that_ctrl_c_broke_into_can_be_done_again(struck):
    with PtyInstrument() as first, PtyInstrument() as second, TcpInstrument() as third:
        resources = SharedResources()
        resources.serial.get(first.path)
        resources.serial.get(second.path)
        session = resources.visa.session(f"TCPIP0::127.0.0.1::{third.port}::SOCKET", owner="meter")
        assert session.query("Q1?") == "A1"
        with ctrl_c_in(struck):
            resources.close()
        resources.close()
        for instrument in (first, second, third):
            with SharedSerialPort(instrument.path) as again:
                assert again.query(b"Q2?\n", owner="meter") == b"A2"
