"""The 1830-C of both generations on a byte-level simulator, alone and together on one wire."""

import asyncio
import time

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import FailedStatus
from documents import events
from ophyd_async.core import NotConnectedError, set_mock_value

import devices.v2
import devices.v4
from coexistence import CommandTimeout, Connection, SharedSerialPort, WireDisconnected
from devices.errors import NotAnswered
from devices.protocols.errors import OutOfScale, ValueRefused, WrongInstrument


@pytest.fixture
def power_v2(connection):
    device = devices.v2.Newport1830C(connection("meter", "power_v2"), name="power_v2")
    device.connect()
    return device


@pytest.fixture
def power_v4(connection, engine):
    return connected(engine, devices.v4.Newport1830C(connection("meter", "power_v4"), name="power_v4"))


def connected(engine, device, **options):
    call_in_bluesky_event_loop(device.connect(**options))
    return device


@pytest.fixture(params=["v2", "v4"])
def meter(request):
    return request.getfixturevalue(f"power_{request.param}")


def test_both_generations_measure_the_same_truth_on_one_wire(bench, engine, documents, power_v2, power_v4):
    engine(bp.count([power_v2, power_v4], num=10))
    measured = events(documents)
    assert len(measured) == 10
    for event in measured:
        for column in ("power_v2_power", "power_v4_power"):
            assert event["data"][column] == pytest.approx(bench_power(bench), rel=0.01)
        assert event["timestamps"]["power_v2_power"] != event["timestamps"]["power_v4_power"]
        assert abs(event["timestamps"]["power_v4_power"] - event["time"]) < 5.0


def bench_power(bench):
    return next(t["power_w"] for name, t in bench.truth()["instruments"].items() if name.startswith("meter"))


def test_loop_stays_alive_while_v2_triggers_and_v4_reads_the_same_wire(engine, keeps_loop_alive, power_v2, power_v4):
    keeps_loop_alive(lambda: engine(bp.count([power_v2, power_v4], num=25)))


def test_reading_is_measured_for_each_event(bench, engine, documents, power_v2, power_v4):
    def plan():
        yield from bps.open_run()
        for angle in (0.0, 45.0, 80.0):
            bench.set("bus.2", position_deg=angle)
            yield from bps.trigger_and_read([power_v2, power_v4])
        yield from bps.close_run()

    engine(plan())
    for column in ("power_v2_power", "power_v4_power"):
        values = [event["data"][column] for event in events(documents)]
        assert len(set(values)) == 3


@pytest.mark.parametrize("fault", ["saturation", "over_range"])
def test_saturated_reading_fails_the_plan_and_is_no_event(bench, engine, documents, meter, fault):
    bench.fault("meter", fault, count=None)
    with pytest.raises((FailedStatus, OutOfScale)) as caught:
        engine(bp.count([meter]))
    error = caught.value if isinstance(caught.value, OutOfScale) else caught.value.__cause__
    assert isinstance(error, OutOfScale)
    assert meter.name in str(error)
    assert "less sensitive range" in str(error)
    assert events(documents) == []
    bench.clear_faults()
    engine(bp.count([meter]))
    assert len(events(documents)) == 1


def test_silent_meter_fails_within_its_timeout_and_engine_stays_usable(bench, engine, documents, meter, hurry):
    hurry()
    bench.fault("meter", "silence", count=None)
    started = time.monotonic()
    with pytest.raises((FailedStatus, NotAnswered)) as caught:
        engine(bp.count([meter]))
    assert time.monotonic() - started < 10.0
    error = caught.value.__cause__
    assert isinstance(error, CommandTimeout)
    assert error.owner == meter.name
    assert bench.ports["meter"] in str(error)
    bench.clear_faults()
    hurry(5.0)
    engine(bp.count([meter]))
    assert len(events(documents)) == 1


def test_late_reply_is_not_taken_for_the_next_one(bench, engine, documents, meter, hurry):
    hurry(2.0)  # after half of this it is asked again
    bench.fault("meter", "late", count=1, delay_s=4.0)  # 1.2 s by our clock
    engine(bp.count([meter], num=3))
    for event in events(documents):
        assert event["data"][f"{meter.name}_power"] == pytest.approx(bench_power(bench), rel=0.01)


def test_one_lost_reply_is_asked_for_again(bench, engine, documents, meter, hurry):
    hurry(2.0)
    bench.fault("meter", "silence", count=1)
    engine(bp.count([meter]))
    assert len(events(documents)) == 1


def test_settings_of_the_run_are_in_the_descriptor(engine, documents, power_v2, power_v4):
    engine(bps.mv(power_v2.wavelength, 633))
    engine(bp.count([power_v2, power_v4]))
    descriptor = next(document for name, document in documents if name == "descriptor")
    for name in ("power_v2", "power_v4"):
        settings = descriptor["configuration"][name]["data"]
        assert settings[f"{name}_wavelength"] == 633
        assert settings[f"{name}_units"] == "W"
    engine(bps.mv(power_v4.wavelength, 800))


def test_change_by_the_other_generation_shows_in_the_next_run(engine, documents, power_v2, power_v4):
    engine(bps.mv(power_v4.range, 7))
    engine(bp.count([power_v2]))
    descriptor = next(document for name, document in documents if name == "descriptor")
    assert descriptor["configuration"]["power_v2"]["data"]["power_v2_range"] == 7
    engine(bps.mv(power_v2.range, 0))


def test_display_in_dbm_does_not_change_the_column(bench, engine, documents, power_v2, power_v4):
    engine(bps.mv(power_v4.units, "dBm"))
    engine(bp.count([power_v2, power_v4]))
    engine(bps.mv(power_v4.units, "W"))
    event = events(documents)[0]
    for name in ("power_v2_power", "power_v4_power"):
        assert event["data"][name] == pytest.approx(bench_power(bench), rel=0.02)
    descriptor = next(document for name, document in documents if name == "descriptor")
    assert descriptor["data_keys"]["power_v2_power"]["units"] == "W"


def test_value_that_is_not_allowed_is_refused_before_anything_is_sent(bench, wire, engine, meter):
    sent = wire("meter").stats.exchanges
    with pytest.raises((ValueRefused, FailedStatus)) as caught:
        engine(bps.mv(meter.wavelength, 3000))
    error = caught.value if isinstance(caught.value, ValueRefused) else caught.value.__cause__
    assert f"{meter.name} (Newport 1830-C on {bench.ports['meter']}): wavelength cannot be " in str(error)
    assert "3000: allowed is 200 to 1800 nm. Nothing was sent." in str(error)
    assert wire("meter").stats.exchanges == sent


def test_echo_is_switched_off_at_connect_and_after_a_power_cut(bench, engine, documents, meter):
    bench.fault("meter", "echo", count=3)
    engine(bp.count([meter]))
    assert len(events(documents)) == 1


def test_meter_is_set_up_again_after_replugging(bench, engine, documents, meter, wait_for, wire):
    bench.unplug("meter")
    wait_for(lambda: _fails(lambda: wire("meter").query(b"U?\n", owner="test", timeout=0.3)))
    bench.replug("meter")
    wait_for(lambda: wire("meter").connected)
    bench.fault("meter", "late", delay_s=4.0)  # 1.2 s by our clock: as long as its connection, the setting up waits
    engine(bp.count([meter]))
    assert len(events(documents)) == 1
    assert [entry.sent for entry in wire("meter").log if entry.sent == b"E0\n"]


def _fails(call):
    try:
        call()
    except Exception:
        return True
    return False


def test_store_reference_and_zero(bench, engine, power_v2, power_v4):
    engine(bps.trigger(power_v4.store_reference, wait=True))
    power_v2.store_reference().wait(5)
    engine(bps.mv(power_v4.zero, True))
    engine(bp.count([power_v2]))
    assert abs(power_v2.power.get()) < 0.05 * bench_power(bench)
    engine(bps.mv(power_v2.zero, False))


def test_v2_blocking_driver_is_usable_by_itself(bench, connection):
    driver = devices.v2.Newport1830CDriver(connection("meter", "script"))
    driver.connect()
    assert driver.identity == "Newport 1830-C"
    assert driver.power == pytest.approx(bench_power(bench), rel=0.01)
    driver.wavelength = 780
    assert driver.wavelength == 780
    driver.wavelength = 800
    with pytest.raises(AttributeError, match="power of Newport 1830-C cannot be set"):
        driver.power = 1.0


async def test_v4_connects_in_mock_mode_without_any_wire():
    def no_wire():
        raise AssertionError("the wire was opened")

    device = devices.v4.Newport1830C(Connection(no_wire, "power", description="/dev/none"), name="power")
    await device.connect(mock=True)
    set_mock_value(device.power, 1e-3)
    assert (await device.read())["power_power"]["value"] == 1e-3
    key = (await device.describe())["power_power"]
    assert (key["units"], key["precision"]) == ("W", 12)
    assert key["source"] == "mock+wire:/dev/none#D?"
    assert (await device.read_configuration())["power_units"]["value"] == "W"
    await device.units.set("dBm")
    assert (await device.read_configuration())["power_units"]["value"] == "dBm"


async def test_v4_source_names_wire_and_command(bench, connection):
    device = devices.v4.Newport1830C(connection("meter", "power"), name="power")
    await device.connect()
    assert device.power.source == f"wire:{bench.ports['meter']}#D?"
    assert device.power.name == "power_power"


async def test_v4_polls_only_while_somebody_subscribes(wire, connection):
    device = devices.v4.Newport1830C(connection("meter", "power"), name="power")
    await device.connect()
    got = asyncio.Event()
    readings = []

    def note(reading):
        readings.append(reading["power_power"])
        if len(readings) == 2:
            got.set()

    device.power.subscribe_reading(note)
    await asyncio.wait_for(got.wait(), 5)
    device.power.clear_sub(note)
    await asyncio.sleep(0)
    exchanges = wire("meter").stats.exchanges
    await asyncio.sleep(0.5)
    assert wire("meter").stats.exchanges - exchanges <= 3
    assert all(reading["alarm_severity"] == 0 for reading in readings)


async def test_v4_failed_poll_shows_as_invalid_and_never_as_the_old_value(bench, connection, hurry):
    device = devices.v4.Newport1830C(connection("meter", "power"), name="power")
    await device.connect()
    hurry()
    invalid = asyncio.Event()

    def note(reading):
        value = reading["power_power"]
        if value["alarm_severity"] == 3 and value["value"] != value["value"]:
            invalid.set()

    device.power.subscribe_reading(note)
    bench.fault("meter", "silence", count=None)
    await asyncio.wait_for(invalid.wait(), 20)
    device.power.clear_sub(note)


def test_missing_port_is_named_with_device_and_remedy(engine):
    def opening():
        return SharedSerialPort("/dev/ttyNOPE")

    device = devices.v4.Newport1830C(Connection(opening, "power", description="/dev/ttyNOPE"), name="power")
    with pytest.raises(NotConnectedError, match=r"power on /dev/ttyNOPE: .*/dev/ttyNOPE"):
        connected(engine, device, timeout=20)
    old = devices.v2.Newport1830C(Connection(opening, "power", description="/dev/ttyNOPE"), name="power")
    with pytest.raises(WireDisconnected, match="/dev/ttyNOPE"):
        old.connect()


def test_silent_port_is_an_error_within_the_timeout(bench, engine, connection, hurry):
    bench.fault("meter", "silence", count=None)
    device = devices.v4.Newport1830C(connection("meter", "power_v4"), name="power_v4")
    hurry()
    started = time.monotonic()
    with pytest.raises(
        NotConnectedError, match=r"power_v4 on .*meter: .*nothing came.*Check that the instrument is on"
    ):
        connected(engine, device, timeout=20)
    assert time.monotonic() - started < 10
    old = devices.v2.Newport1830C(connection("meter", "power_v2"), name="power_v2")
    hurry()
    # The wire waits for a late answer to the first one, on a busy machine for the second one's whole time.
    with pytest.raises(CommandTimeout, match=r"'power_v2' on .*(nothing came|a late reply to .* may still come)"):
        old.connect()


def test_another_instrument_on_the_port_is_refused_with_what_it_said(bench, engine, connection):
    bench.fault("meter", "garbage", count=None, data="hello there\n")
    device = devices.v4.Newport1830C(connection("meter", "power_v4"), name="power_v4")
    with pytest.raises(NotConnectedError, match="hello there"):
        connected(engine, device, timeout=20)
    old = devices.v2.Newport1830C(connection("meter", "power_v2"), name="power_v2")
    with pytest.raises(WrongInstrument, match="hello there"):
        old.connect()


def test_reply_left_over_from_another_program_does_not_confuse_the_identification(bench, connection):
    bench.fault("meter", "garbage", count=1, data="+.75E-9\n")
    device = devices.v2.Newport1830C(connection("meter", "power_v2"), name="power_v2")
    device.connect()
    assert device.driver.identity == "Newport 1830-C"


def test_v2_reading_before_any_measurement_is_an_error(connection):
    device = devices.v2.Newport1830C(connection("meter", "power_v2"), name="power_v2")
    with pytest.raises(devices.v2.NotMeasured, match="power_v2_power has no measured value"):
        device.read()


def test_v2_failed_measurement_leaves_no_old_value_behind(bench, power_v2):
    power_v2.trigger().wait(5)
    assert power_v2.read()
    bench.fault("meter", "over_range", count=None)
    with pytest.raises(OutOfScale):
        power_v2.trigger().wait(5)
    with pytest.raises(devices.v2.NotMeasured):
        power_v2.read()
