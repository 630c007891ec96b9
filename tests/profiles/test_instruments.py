"""Instruments as the runtime of a session starts, keeps and leaves them, on the simulator of a laser."""

import asyncio
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from coexistence import SharedResources
from coexistence.config import InstrumentConfig
from profiles.hardware import Hardware, build
from profiles.instruments import InstrumentFailed, V2Instrument, V4Instrument
from simulators import SimulatorProcess
from simulators.spec import build_spec, default_instrument, default_wire


@pytest.fixture(scope="module")
def bench() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(build_spec([default_wire("laser", [default_instrument("MaiTai")])], time_scale=0.1)) as bench:
        yield bench


@pytest.fixture
def hardware(tmp_path: Path) -> Iterator[Hardware]:
    hardware = Hardware(SharedResources(), tmp_path)
    yield hardware
    hardware.close()


class Laser:
    """The laser in one of the generations, with the steps of its life as blocking calls."""

    def __init__(self, generation: str, bench: SimulatorProcess, hardware: Hardware, loop, **options: object) -> None:
        config = InstrumentConfig(id="laser", type="MaiTai", serial_port=bench.ports["laser"], **options)
        self.instrument = (V2Instrument if generation == "v2" else V4Instrument)(
            config, partial(build, hardware=hardware)
        )
        self._loop = loop

    def __getattr__(self, step: str):
        def take(*arguments: object) -> object:
            result = getattr(self.instrument, step)(*arguments)
            return self._loop.run_until_complete(result) if asyncio.iscoroutine(result) else result

        return take

    def open_shutter(self) -> None:
        async def opened() -> None:
            status = self.instrument.device.shutter.set(True)
            await (asyncio.to_thread(status.wait, 10) if hasattr(status, "wait") else status)

        self._loop.run_until_complete(opened())


@pytest.fixture(params=["v2", "v4"])
def laser(request, bench: SimulatorProcess, hardware: Hardware) -> Iterator:
    loop = asyncio.new_event_loop()
    yield partial(Laser, request.param, bench, hardware, loop)
    loop.close()


def truth(bench: SimulatorProcess) -> dict:
    return bench.truth()["instruments"]["laser"]


def test_a_shutter_that_was_opened_here_is_closed_when_the_laser_is_left(bench, laser):
    ours = laser()
    ours.start(False)
    ours.open_shutter()
    ours.stop()
    assert truth(bench)["shutter_open"]  # a restart is no leaving
    ours.close()
    assert not truth(bench)["shutter_open"]


def test_a_shutter_that_was_opened_here_is_closed_although_the_laser_was_replaced_by_a_restart(bench, laser):
    ours = laser()
    ours.start(False)
    ours.open_shutter()
    for _ in range(2):
        before = ours.instrument.device
        ours.start(True)
        assert ours.instrument.device is not before
    assert truth(bench)["shutter_open"]
    ours.close()
    assert not truth(bench)["shutter_open"]


def test_a_shutter_that_was_opened_here_is_closed_although_no_restart_has_brought_the_laser_back(bench, laser):
    ours = laser()
    ours.start(False)
    ours.open_shutter()

    def fail(*_: object) -> None:
        raise RuntimeError("it cannot be made")

    ours.instrument._build = fail
    for _ in range(2):
        with pytest.raises(InstrumentFailed, match="it cannot be made"):
            ours.start(True)
    ours.close()
    assert not truth(bench)["shutter_open"]


def test_a_shutter_that_a_call_opens_which_a_restart_has_left_behind_is_closed(bench, laser):
    ours = laser()
    ours.start(False)
    left_behind = ours.instrument._speaker()
    ours.start(True)
    left_behind.dialogue.put(left_behind.protocol.fields["shutter"], True)
    assert truth(bench)["shutter_open"]
    ours.close()
    assert not truth(bench)["shutter_open"]


def test_a_start_that_hung_does_not_take_back_the_place_of_the_device_that_a_restart_has_made(bench, hardware):
    ours = Laser("v2", bench, hardware, asyncio.new_event_loop(), watchdog=1)
    building, go_on, build_it = threading.Event(), threading.Event(), ours.instrument._build

    def hang(*arguments: object) -> object:
        ours.instrument._build = build_it
        building.set()
        go_on.wait()
        return build_it(*arguments)

    ours.instrument._build = hang
    failures = []

    def start() -> None:
        try:
            ours.start(False)
        except InstrumentFailed as failure:
            failures.append(failure)

    hung = threading.Thread(target=start)
    hung.start()
    assert building.wait(5.0)
    ours.start(True)
    device = ours.instrument.device
    go_on.set()
    hung.join(10.0)
    assert ours.instrument.device is device
    assert "a later start has taken the place of this one" in str(failures[0])
    ours.stop()
    ours.close()


def test_a_shutter_that_others_have_opened_is_left_open(bench, laser, hardware: Hardware):
    with hardware.resources.serial.get(bench.ports["laser"], flow_control="xonxoff").acquire("somebody") as guard:
        guard.write(b"SHUTter 1\n")
        assert guard.query(b"*STB?\n") == b"0"
    ours = laser()
    ours.start(False)
    ours.stop()
    ours.close()
    assert truth(bench)["shutter_open"]


def test_a_shutter_that_cannot_be_closed_is_told(bench, laser, caplog):
    ours = laser()
    ours.start(False)
    ours.open_shutter()
    bench.fault("laser", "busy")
    ours.close()
    (record,) = (record for record in caplog.records if record.levelname == "CRITICAL")
    assert record.getMessage() == (
        f"laser is not left as it should be: laser (Spectra-Physics Mai Tai on {bench.ports['laser']}): error -200 "
        "after 'SHUTter 0': Execution error. Look after it by hand."
    )


def test_a_laser_with_a_watchdog_is_talked_to_until_it_is_stopped(laser, hardware: Hardware, wait_for):
    ours = laser(watchdog=1)
    ours.start(False)

    def asked() -> int:
        (wire,) = hardware.resources.wires
        return wire.statistics.owners["laser"].exchanges

    before = asked()
    wait_for(lambda: asked() >= before + 2)
    ours.stop()
    wait_for(lambda: not any(thread.name == "keep laser alive" for thread in threading.enumerate()))
    ours.close()
