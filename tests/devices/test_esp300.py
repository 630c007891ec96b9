"""The ESP300 of both generations on a byte-level simulator."""

import asyncio
import contextlib
import itertools

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
from devices.errors import MoveStopped, MoveTimedOut
from devices.protocols.errors import InstrumentFault, ValueRefused


def make(generation, connection, name="stage", **options):
    cls = (devices.v2 if generation == "v2" else devices.v4).ESP300
    device = cls(connection("stage", name), name=name, **options)
    if generation == "v2":
        device.connect()
    else:
        call_in_bluesky_event_loop(device.connect())
    return device


@pytest.fixture(params=["v2", "v4"])
def generation(request):
    return request.param


@pytest.fixture
def stage(generation, connection, engine, bench):
    bench.set("stage", limit_silence_s=0.4)
    device = make(generation, connection)
    yield device
    bench.clear_faults()
    for axis in device.axis.values():
        engine(bps.mv(axis, 0))


def truth(bench, axis):
    return bench.truth()["instruments"]["stage"]["axes"][str(axis)]


def cause(caught):
    return caught.value.__cause__ if isinstance(caught.value, FailedStatus) else caught.value


def test_scan_of_an_axis(bench, engine, documents, stage):
    engine(bp.scan([], stage.axis[1], 0, 1, 3))
    assert [event["data"]["stage_axis_1"] for event in events(documents)] == pytest.approx([0, 0.5, 1], abs=0.005)
    descriptor = next(document for name, document in documents if name == "descriptor")
    assert descriptor["data_keys"]["stage_axis_1"]["units"] == "mm"
    assert descriptor["data_keys"]["stage_axis_1"]["limits"]["control"] == {"low": 0.0, "high": 50.0}
    assert truth(bench, 1)["counter"] == pytest.approx(1, abs=0.005)


def test_axes_move_at_the_same_time(bench, engine, stage):
    def plan():
        for number, far in ((1, 20), (2, 20), (3, 100)):
            yield from bps.abs_set(stage.axis[number], far, group="far")
        yield from until(lambda: all(truth(bench, number)["moving"] for number in (1, 2, 3)))
        for axis in stage.axis.values():
            yield from bps.stop(axis)
        with contextlib.suppress(FailedStatus):
            yield from bps.wait("far")

    velocities = [axis.velocity for axis in stage.axis.values()]
    engine(bps.mv(*itertools.chain(*zip(velocities, (1, 1, 5), strict=True))))
    engine(plan())
    engine(bps.mv(*itertools.chain(*zip(velocities, (4, 4, 20), strict=True))))
    engine(bps.mv(stage.axis[1], 2, stage.axis[2], 2, stage.axis[3], 10))
    assert [truth(bench, n)["counter"] for n in (1, 2, 3)] == pytest.approx([2, 2, 10], abs=0.005)


def test_relative_move_begins_where_the_other_generation_has_left_the_axis(
    bench, engine, connection, generation, stage
):
    other = make({"v2": "v4", "v4": "v2"}[generation], connection, name="other")
    engine(bps.mv(stage.axis[1], 0.5))
    engine(bps.mv(other.axis[1], 1.5))
    engine(bps.mvr(stage.axis[1], 0.25))
    assert truth(bench, 1)["counter"] == pytest.approx(1.75, abs=0.005)


def test_software_limit_is_refused_before_anything_is_sent(wire, engine, stage):
    sent = wire("stage").stats.exchanges
    with pytest.raises((ValueRefused, FailedStatus)) as caught:
        engine(bps.mv(stage.axis[1], 51))
    assert str(cause(caught)).startswith("stage")
    assert "0 to 50 mm" in str(cause(caught))
    assert wire("stage").stats.exchanges == sent


def test_hardware_limit_and_the_silence_after_it_are_survived(bench, engine, stage):
    bench.set("stage", limit_silence_s=2.5)
    bench.fault("stage", "limit")
    with pytest.raises(FailedStatus) as caught:
        engine(bps.mv(stage.axis[2], 1))
    assert isinstance(cause(caught), InstrumentFault)
    assert "axis 2: plus hardware limit" in str(cause(caught))
    assert "stage" in str(cause(caught))
    engine(bps.mv(stage.axis[2], 0.2))
    assert truth(bench, 2)["counter"] == pytest.approx(0.2, abs=0.005)


def test_refused_motion_fails_with_axis_and_text(engine, stage):
    engine(bps.mv(stage.axis[3].enabled, False))
    with pytest.raises(FailedStatus) as caught:
        engine(bps.mv(stage.axis[3], 1))
    assert "axis 3: motor not enabled" in str(cause(caught))
    engine(bps.mv(stage.axis[3].enabled, True))


def test_stop_in_a_motion(bench, engine, stage, wait_for):
    axis = stage.axis[1]

    def plan():
        yield from bps.abs_set(axis, 50, group="move")
        yield from until(lambda: truth(bench, 1)["counter"] > 0.2)
        yield from bps.stop(axis)
        yield from bps.wait("move")

    with pytest.raises(FailedStatus) as caught:
        engine(plan())
    assert isinstance(cause(caught), MoveStopped)
    wait_for(lambda: not truth(bench, 1)["moving"])
    assert truth(bench, 1)["counter"] < 45


def test_homing(bench, engine, stage, generation):
    axis = stage.axis[1]
    engine(bps.mv(axis, 1))
    if generation == "v2":
        axis.home().wait(10)
        assert axis.position == pytest.approx(0, abs=0.005)
    else:

        async def home():
            await axis.home()

        engine(bps.wait_for([home]))
    assert truth(bench, 1)["counter"] == pytest.approx(0, abs=0.005)


def test_homing_that_takes_too_long_is_stopped_and_told(bench, engine, stage, generation, connection, wait_for):
    engine(bps.mv(stage.axis[1], 8))
    engine(bps.mv(stage.axis[1].velocity, 0.5))
    hasty = make(generation, connection, "hasty", axes=[1], home_timeout=0.2).axis[1]

    async def home():
        await hasty.home()

    with pytest.raises(MoveTimedOut, match=r"hasty.*axis.1: homing did not end within 0\.2 s and was stopped"):
        hasty.home().wait(10) if generation == "v2" else call_in_bluesky_event_loop(home())
    wait_for(lambda: not truth(bench, 1)["moving"])
    assert truth(bench, 1)["counter"] > 0.5
    engine(bps.mv(stage.axis[1].velocity, 4.0))


def test_settings_go_to_the_controller(bench, engine, documents, stage):
    engine(bps.mv(stage.axis[1].velocity, 6.0))
    with pytest.raises(FailedStatus) as caught:
        engine(bps.mv(stage.axis[1].velocity, 600.0))
    assert "above maximum velocity" in str(cause(caught))
    engine(bp.count([stage]))
    descriptor = next(document for name, document in documents if name == "descriptor")
    assert descriptor["configuration"]["stage"]["data"]["stage_axis_1_velocity"] == 6.0
    engine(bps.mv(stage.axis[1].velocity, 4.0))


def test_loop_stays_alive_while_both_generations_move(engine, connection, keeps_loop_alive):
    old, new = make("v2", connection, "old"), make("v4", connection, "new")

    def plan():
        yield from bps.mv(old.axis[1], 1, new.axis[2], 1)
        yield from bp.count([old, new], num=3)
        yield from bps.mv(old.axis[1], 0, new.axis[2], 0)

    keeps_loop_alive(lambda: engine(plan()))


@pytest.fixture
def both(generation, connection, bench, engine):
    """A controller in both generations, of which one has the error and the other finds it."""
    mine = make(generation, connection, "mine")
    other = make({"v2": "v4", "v4": "v2"}[generation], connection, "other")
    yield mine, other
    bench.clear_faults()
    engine(bps.mv(mine.axis[1], 0, mine.axis[2].velocity, 4.0))


def said_of_errors(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_error_is_told_to_the_generation_whose_motion_it_is_about_and_to_no_other(bench, engine, both, caplog):
    mine, other = both

    def plan():
        yield from bps.abs_set(mine.axis[1], 20, group="motion")
        yield from until(lambda: truth(bench, 1)["moving"])
        bench.fault("stage", "error", code=103)
        yield from bps.mv(other.axis[2].velocity, 6.0)  # which finds the error
        yield from bps.wait("motion")

    with pytest.raises(FailedStatus) as caught:
        engine(plan())
    assert isinstance(cause(caught), InstrumentFault)
    assert str(cause(caught)).startswith("mine (")
    assert "error 103 after '1PA20': axis 1: following error" in str(cause(caught))
    assert bench.truth()["instruments"]["stage"]["errors"] == []
    engine(bps.mv(mine.axis[1], 0.5))  # it was told once
    assert not said_of_errors(caplog)


def test_each_generation_gets_its_own_error_where_both_have_one(bench, engine, both, caplog, wait_for):
    mine, other = both
    engine(bps.mv(other.axis[3].enabled, False))

    motions = []

    def plan():
        motions.append((yield from bps.abs_set(mine.axis[1], 40, group="motion")))
        yield from until(lambda: truth(bench, 1)["moving"])
        bench.fault("stage", "error", code=103)
        yield from bps.mv(other.axis[3], 1)

    with pytest.raises(FailedStatus) as caught:
        engine(plan())
    assert str(cause(caught)).startswith("other (")
    assert "axis 3: motor not enabled" in str(cause(caught))
    assert "103" not in str(cause(caught))
    engine(bps.mv(other.axis[3].enabled, True))
    # Either the engine had stopped the motion whose error it was, so that it is told to whoever reads the log, or not.
    wait_for(lambda: motions[0].done)
    told = [*said_of_errors(caplog), str(motions[0].exception())]
    assert len([said for said in told if "following error" in said]) == 1


def test_error_that_is_nobodys_is_logged_with_axis_wire_and_text(bench, engine, both, caplog, wire):
    mine, other = both
    bench.fault("stage", "error", code=203)
    engine(bps.mv(mine.axis[1], 0.1, other.axis[3], 0.1))
    said = [said for said in said_of_errors(caplog) if "203" in said]
    assert len(said) == 1
    assert f"on {wire('stage').name} had error 203 in its queue, axis 2: following error" in said[0]


async def test_error_of_a_setting_that_was_cancelled_is_logged(bench, connection, caplog, wait_for):
    stage = devices.v4.ESP300(connection("stage", "stage"), name="stage")
    await stage.connect()
    bench.fault("stage", "late", delay_s=4.0)

    def heard():
        return bench.truth()["wires"]["stage"]["commands"]

    before = heard()
    setting = asyncio.ensure_future(stage.axis[1].velocity.set(600.0))
    await asyncio.to_thread(wait_for, lambda: heard() > before)
    setting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await setting
    await asyncio.to_thread(wait_for, lambda: said_of_errors(caplog))
    assert "stage (" in said_of_errors(caplog)[0]
    assert "axis 1: above maximum velocity" in said_of_errors(caplog)[0]


def test_only_the_axes_of_the_options_exist(bench, generation, connection, engine):
    device = make(generation, connection, axes=[1, 3])
    assert list(device.axis) == [1, 3]


async def test_v4_mock_mode_needs_no_wire():
    def no_wire():
        raise AssertionError("the wire was opened")

    device = devices.v4.ESP300(Connection(no_wire, "stage"), name="stage")
    await device.connect(mock=True)
    with pytest.raises(ValueRefused):
        await device.axis[1].set(float("inf"))
    await device.axis[1].set(5.0)
    assert (await device.read())["stage_axis_1"]["value"] == 5.0
    assert set(await device.describe()) == {"stage_axis_1", "stage_axis_2", "stage_axis_3"}


def test_blocking_driver_homes_and_moves(bench, connection):
    driver = devices.v2.ESP300Driver(connection("stage", "script"))
    driver.connect()
    for axis in driver.axes.values():
        axis.connect()
    driver.axes[2].move_to(0.5)
    assert driver.axes[2].readback == pytest.approx(0.5, abs=0.005)
    driver.axes[2].home()
    driver.abort()
    assert driver.version.startswith("ESP300")
