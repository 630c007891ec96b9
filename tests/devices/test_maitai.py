"""The Mai Tai of both generations on a byte-level simulator, and its safety rules."""

import time

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import FailedStatus
from documents import events
from waiting import until

import devices.v2
import devices.v4
from coexistence import Connection
from devices.protocols.errors import InstrumentFault, ValueRefused
from devices.protocols.maitai import NotWarm
from simulators import SimulatorProcess
from simulators.spec import build_spec, default_instrument, default_wire


def make(generation, connection, name="laser", **options):
    cls = (devices.v2 if generation == "v2" else devices.v4).MaiTai
    device = cls(connection("laser", name), name=name, **options)
    if generation == "v2":
        device.connect()
    else:
        call_in_bluesky_event_loop(device.connect())
    return device


@pytest.fixture(scope="module")
def running_bench():
    """A laser of its own: what these tests do to it would darken the bench of the others."""
    laser = default_wire("laser", [default_instrument("MaiTai", pump_ramp_s=0.3)])
    with SimulatorProcess(build_spec([laser], time_scale=0.3)) as simulators:
        yield simulators


@pytest.fixture(params=["v2", "v4"])
def generation(request):
    return request.param


@pytest.fixture
def laser(generation, connection, engine, bench):
    bench.power("laser", False)
    bench.power("laser", True)
    bench.set("laser", warm_percent=100.0)
    return make(generation, connection)


def truth(bench):
    return bench.truth()["instruments"]["laser"]


def cause(caught):
    return caught.value.__cause__ if isinstance(caught.value, FailedStatus) else caught.value


def test_connecting_changes_nothing(bench, connection, engine, generation):
    before = truth(bench)
    make(generation, connection)
    after = truth(bench)
    for what in ("target_nm", "shutter_open", "pump_on", "watchdog_s"):
        assert after[what] == before[what]


def test_tuning_waits_for_the_actual_wavelength(bench, engine, documents, laser):
    engine(bp.scan([laser], laser.wavelength, 800, 840, 3))
    recorded = [event["data"]["laser_wavelength"] for event in events(documents)]
    assert recorded == pytest.approx([800, 820, 840], abs=1)
    assert truth(bench)["wavelength_nm"] == pytest.approx(840, abs=1)
    descriptor = next(document for name, document in documents if name == "descriptor")
    assert descriptor["data_keys"]["laser_wavelength"]["units"] == "nm"
    assert descriptor["data_keys"]["laser_wavelength"]["limits"]["control"] == {"low": 690.0, "high": 1040.0}


def test_wavelength_outside_of_this_models_range_is_refused(wire, engine, laser):
    sent = wire("laser").stats.exchanges
    with pytest.raises((ValueRefused, FailedStatus)) as caught:
        engine(bps.mv(laser.wavelength, 1100))
    assert "690 to 1040 nm" in str(cause(caught))
    assert wire("laser").stats.exchanges == sent


def test_shutter_opened_by_a_plan_stays_open(bench, engine, laser):
    engine(bps.mv(laser.shutter, True))
    assert truth(bench)["shutter_open"]
    time.sleep(0.1)
    assert truth(bench)["shutter_open"]
    engine(bps.mv(laser.shutter, False))
    assert not truth(bench)["shutter_open"]


def test_set_of_the_shutter_is_done_when_the_laser_reports_it(engine, documents, laser):
    def plan():
        yield from bps.open_run()
        for state in (True, False):
            yield from bps.mv(laser.shutter, state)
            yield from bps.trigger_and_read([laser])
        yield from bps.close_run()

    engine(plan())
    assert [event["data"]["laser_shutter"] for event in events(documents)] == [True, False]


def test_stopping_the_wavelength_only_ends_tuning(bench, engine, laser, wait_for):
    engine(bps.mv(laser.emission, True, laser.shutter, True))

    def plan():
        yield from bps.abs_set(laser.wavelength, 1040, group="tune")
        yield from until(lambda: truth(bench)["wavelength_nm"] > 805)
        yield from bps.stop(laser.wavelength)
        yield from bps.wait("tune")

    with pytest.raises(FailedStatus):
        engine(plan())
    wait_for(lambda: truth(bench)["target_nm"] != 1040)
    assert truth(bench)["wavelength_nm"] < 1035
    assert truth(bench)["shutter_open"]
    assert truth(bench)["pump_on"]
    engine(bps.mv(laser.shutter, False, laser.emission, False))


def test_emission_is_refused_until_the_laser_is_warm(bench, engine, laser):
    bench.set("laser", warm_percent=43.0)
    with pytest.raises((NotWarm, FailedStatus)) as caught:
        engine(bps.mv(laser.emission, True))
    assert isinstance(cause(caught), NotWarm)
    assert "43 % warm" in str(cause(caught))
    assert not truth(bench)["pump_on"]


def test_warm_up_starts_once(bench, engine, laser, generation):
    bench.set("laser", warm_percent=0.0)
    for _ in range(2):
        if generation == "v2":
            laser.warm_up().wait(5)
        else:
            engine(bps.trigger(laser.warm_up, wait=True))
    assert 0 < truth(bench)["warm_percent"] < 50
    assert truth(bench)["errors"] == []


def test_emission_gives_power(bench, engine, documents, laser):
    engine(bps.mv(laser.emission, True))

    def plan():
        yield from bps.open_run()
        yield from bps.sleep(0.4)
        yield from bps.trigger_and_read([laser])
        yield from bps.close_run()

    engine(plan())
    event = events(documents)[0]["data"]
    assert event["laser_power"] == pytest.approx(3.0, rel=0.05)
    assert event["laser_emission"] is True
    assert event["laser_modelocked"] is True
    assert event["laser_warmed_up"] == 100.0
    assert event["laser_shutter"] is False
    engine(bps.mv(laser.emission, False))


def test_error_queue_is_reported(bench, engine, laser):
    bench.fault("laser", "busy")
    with pytest.raises((InstrumentFault, FailedStatus)) as caught:
        engine(bps.mv(laser.shutter, True))
    assert isinstance(cause(caught), InstrumentFault)
    assert "Execution error" in str(cause(caught))
    assert truth(bench)["errors"] == []


def test_watchdog_is_set_only_when_asked_for(bench, connection, engine, generation):
    make(generation, connection, watchdog=30)
    assert truth(bench)["watchdog_s"] == 30
    make(generation, connection, name="again", watchdog=0)
    assert truth(bench)["watchdog_s"] == 0


async def test_v4_mock_mode_needs_no_wire():
    def no_wire():
        raise AssertionError("the wire was opened")

    device = devices.v4.MaiTai(Connection(no_wire, "laser"), name="laser")
    await device.connect(mock=True)
    await device.shutter.set(True)
    await device.wavelength.set(800)
    reading = await device.read()
    assert reading["laser_shutter"]["value"] is True
    assert reading["laser_wavelength"]["value"] == 800
