"""Elliptec modules of both generations on a byte-level simulator, several on one wire."""

import asyncio
import contextlib
import time

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import FailedStatus, RunEngineInterrupted
from documents import events
from machine import TimeTaken
from ophyd.utils.errors import LimitError
from ophyd_async.core import NotConnectedError
from waiting import until

import devices.v2
import devices.v4
from coexistence import Connection
from devices.errors import MoveStopped, MoveTimedOut
from devices.protocols.errors import InstrumentFault, ValueRefused


@pytest.fixture
def rotator(connection, engine, bench):
    """Make a connected rotator of a generation at an address."""
    for address in "23A":
        bench.set(f"bus.{address}", position_deg=0.0)

    def make(generation, address="2", name="rotator", **options):
        if generation == "v2":
            device = devices.v2.Elliptec(connection("bus", name), name=name, address=address, **options)
            device.connect()
        else:
            device = devices.v4.Elliptec(connection("bus", name), name=name, address=address, **options)
            call_in_bluesky_event_loop(device.connect())
        return device

    return make


@pytest.fixture(params=["v2", "v4"])
def generation(request):
    return request.param


@pytest.fixture
def slow(bench, wire, wait_for):
    """Make modules slow, so that there is time to interfere."""
    slowed = []

    def slow_down(address="2", percent=2):
        wire("bus").query(b"%ssv%02X" % (address.encode(), percent), owner="test", timeout=5.0)
        slowed.append(address)

    yield slow_down
    bench.clear_faults()
    for address in slowed:
        wait_for(lambda address=address: not truth(bench, address)["moving"], timeout=20)
        wire("bus").query(b"%ssv64" % address.encode(), owner="test", timeout=5.0)


@pytest.fixture
def patient_looks(monkeypatch):
    """Wait for answers on the way, and ask for nothing else meanwhile, longer than a machine stands still."""
    for module in (devices.v2.elliptec, devices.v4.elliptec):
        monkeypatch.setattr(module, "_LOOK_TIMEOUT_S", 1.0)
        monkeypatch.setattr(module, "_CONFIRM_PERIOD_S", 60.0)


def truth(bench, address="2"):
    return bench.truth()["instruments"][f"bus.{address}"]


def cause(caught):
    return caught.value.__cause__ if isinstance(caught.value, FailedStatus) else caught.value


def test_move_ends_on_the_target(bench, engine, rotator, generation):
    device = rotator(generation)
    for target in (30.0, -45.5, 120.0):
        engine(bps.mv(device, target))
        assert truth(bench)["position_deg"] == pytest.approx(target, abs=0.1)
        assert not truth(bench)["moving"]


def test_scan_records_measured_positions(bench, engine, documents, rotator, generation):
    device = rotator(generation)
    engine(bp.scan([], device, 0, 40, 5))
    recorded = [event["data"]["rotator"] for event in events(documents)]
    assert recorded == pytest.approx([0, 10, 20, 30, 40], abs=0.1)
    descriptor = next(document for name, document in documents if name == "descriptor")
    assert descriptor["hints"]["rotator"]["fields"] == ["rotator"]
    assert descriptor["configuration"]["rotator"]["data"]["rotator_serial_number"] == "11400517"


def test_wire_is_free_for_other_modules_during_a_motion(bench, engine, rotator, slow, generation, wire):
    slow("2")
    device = rotator(generation)

    def plan():
        yield from bps.abs_set(device, 180, group="move")
        yield from until_moving(bench)
        for _ in range(3):
            reply = yield from ask(wire)
            assert reply.startswith(b"3PO")
            assert truth(bench)["moving"]
        stop(device, success=True)
        yield from bps.wait("move")

    def ask(wire):
        replies = []

        async def query():
            replies.append(
                await wire("bus").query_async(
                    b"3gp", owner="other", timeout=5.0, accept=lambda line: line.startswith(b"3PO")
                )
            )

        yield from bps.wait_for([query])
        return replies[0]

    engine(plan())


def test_three_rotators_move_at_once(bench, engine, rotator, slow):
    for address in "23A":
        slow(address, 3)
    moving = [rotator("v4", "2", "a"), rotator("v4", "3", "b"), rotator("v2", "A", "c")]

    def plan():
        for device, target in zip(moving, (90, 80, 70), strict=True):
            yield from bps.abs_set(device, target, group="moves")
        yield from until(lambda: all(truth(bench, address)["moving"] for address in "23A"))
        yield from bps.wait("moves")

    engine(plan())
    for address, target in (("2", 90), ("3", 80), ("A", 70)):
        assert truth(bench, address)["position_deg"] == pytest.approx(target, abs=0.1)


def test_stop_with_success_ends_the_move_where_it_is(bench, engine, rotator, slow, generation):
    slow()
    device = rotator(generation)

    def plan():
        status = yield from bps.abs_set(device, 90, group="move")
        yield from until_moving(bench)
        with TimeTaken() as taken:
            stop(device, success=True)
        assert taken.own_s < 1.0
        yield from until(lambda: status.done)

    engine(plan())
    deadline = time.monotonic() + 3
    while truth(bench)["moving"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert truth(bench)["position_deg"] < 80


def until_moving(bench):
    yield from until(lambda: truth(bench)["moving"] and truth(bench)["position_deg"] > 1)


def test_stop_before_anything_was_sent_keeps_the_device_where_it_is(bench, engine, rotator, slow, generation, wait_for):
    slow()
    device = rotator(generation)

    def plan():
        status = yield from bps.abs_set(device, 90)
        stop(device, success=True)
        yield from until(lambda: status.done)

    engine(plan())
    wait_for(lambda: not truth(bench)["moving"])
    # The stop may have come a moment after the motion, and instrument or test may stand still in it.
    assert truth(bench)["position_deg"] < 45


def test_stop_without_success_fails_the_status(bench, engine, rotator, slow, generation, wait_for):
    slow()
    device = rotator(generation)

    def plan():
        yield from bps.abs_set(device, 90, group="move")
        yield from until_moving(bench)
        stop(device, success=False)
        yield from bps.wait("move")

    with pytest.raises(FailedStatus) as caught:
        engine(plan())
    assert isinstance(cause(caught), MoveStopped)
    assert "rotator: the motion to 90 was ended: it was stopped" in str(cause(caught))
    wait_for(lambda: not truth(bench)["moving"])


def stop(device, success):
    if isinstance(device, devices.v2.Elliptec):
        device.stop(success=success)
    else:
        asyncio.run_coroutine_threadsafe(device.stop(success=success), asyncio.get_running_loop())


def test_second_set_stops_the_first(bench, engine, rotator, slow, generation):
    slow()
    device = rotator(generation)

    def plan():
        first = yield from bps.abs_set(device, 180)
        yield from until_moving(bench)
        yield from bps.mv(device, 0)
        yield from until(lambda: first.done)
        return first.exception()

    with pytest.raises(FailedStatus) as caught:
        engine(plan())
    assert isinstance(cause(caught), MoveStopped)
    assert "a new target 0 was set" in str(cause(caught))


def test_abort_stops_the_motion(bench, engine, rotator, slow, generation, wait_for):
    slow()
    device = rotator(generation)

    def plan():
        yield from bps.abs_set(device, 180, group="move")
        yield from until_moving(bench)
        yield from bps.pause()
        yield from bps.wait("move")

    with pytest.raises(RunEngineInterrupted):
        engine(plan())
    started = time.monotonic()
    engine.abort()
    assert time.monotonic() - started < 4
    wait_for(lambda: not truth(bench)["moving"])
    assert truth(bench)["position_deg"] < 100
    engine(bps.mv(device, 0))


async def test_cancelled_set_stops_the_motion(bench, connection, slow, wait_for):
    bench.set("bus.2", position_deg=0.0)
    slow()
    device = devices.v4.Elliptec(connection("bus", "rotator"), name="rotator", address="2")
    await device.connect()
    status = device.set(90)
    await asyncio.to_thread(wait_for, lambda: truth(bench)["moving"])
    assert device.moving
    status.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await status
    await asyncio.to_thread(wait_for, lambda: not device.moving)
    await asyncio.to_thread(wait_for, lambda: not truth(bench)["moving"])
    assert truth(bench)["position_deg"] < 60


async def test_v4_motion_reports_progress_and_locates(bench, connection, slow, patient_looks):
    bench.set("bus.2", position_deg=0.0)
    slow()
    device = devices.v4.Elliptec(connection("bus", "rotator"), name="rotator", address="2")
    await device.connect()
    updates = []
    status = device.set(40.0)
    status.watch(lambda **update: updates.append(update))
    await status
    currents = [update["current"] for update in updates]
    assert len(currents) >= 3
    assert currents == sorted(currents)
    assert updates[-1]["target"] == 40.0
    assert updates[-1]["unit"] == "deg"
    location = await device.locate()
    assert location["setpoint"] == 40.0
    assert location["readback"] == pytest.approx(40.0, abs=0.1)


async def test_v4_knows_when_it_is_not_where_it_was_sent_any_more(bench, connection):
    device = devices.v4.Elliptec(connection("bus", "rotator"), name="rotator", address="2")
    await device.connect()
    await device.set(40.0)
    bench.set("bus.2", position_deg=10.0)  # by hand
    location = await device.locate()
    assert location["setpoint"] == pytest.approx(10.0, abs=0.01), "a relative move begins there"
    await device.set(20.0)
    await device.home()
    assert (await device.locate())["setpoint"] == pytest.approx(0.0, abs=0.1)


def test_v2_motion_reports_progress_and_position(bench, rotator, slow, patient_looks):
    slow()
    device = rotator("v2")
    updates = []
    status = device.set(40.0)
    status.watch(lambda **update: updates.append(update["current"]))
    status.wait(10)
    assert len(updates) >= 2
    assert device.position == pytest.approx(40.0, abs=0.1)
    assert (device.egu, device.precision, device.limits) == ("deg", 3, (-360.0, 360.0))
    assert device.position == device.read()["rotator"]["value"]


def test_progress_goes_on_after_a_question_without_an_answer(bench, engine, rotator, slow, generation, patient_looks):
    slow()
    device = rotator(generation)
    seen = []

    def plan():
        status = yield from bps.abs_set(device, 180, group="move")
        status.watch(lambda **update: seen.append(update.get("current", 0.0)))
        yield from until_moving(bench)
        bench.fault("bus", "silence", count=2)  # it is asked twice
        known = len(seen)
        yield from until(lambda: len(seen) >= known + 3 and max(seen) > 1)
        assert truth(bench)["moving"], "it is no position of the end"
        stop(device, success=True)
        yield from bps.wait("move")

    engine(plan())


def test_limits_are_checked_before_anything_is_sent(wire, engine, rotator, generation):
    device = rotator(generation, limits=(0, 180))
    sent = wire("bus").stats.exchanges
    with pytest.raises((ValueRefused, FailedStatus)) as caught:
        engine(bps.mv(device, 180.5))
    assert str(cause(caught)).startswith(device.name)
    assert "180.5" in str(cause(caught))
    assert "0 to 180 deg" in str(cause(caught))
    assert wire("bus").stats.exchanges == sent
    if generation == "v2":
        assert isinstance(cause(caught), LimitError)


def test_module_that_meets_a_limit_fails_the_plan_with_its_text(bench, engine, rotator, generation):
    device = rotator(generation)
    bench.fault("bus.2", "limit")
    with pytest.raises(FailedStatus) as caught:
        engine(bps.mv(device, 90))
    assert isinstance(cause(caught), InstrumentFault)
    assert "position out of range" in str(cause(caught))
    engine(bps.mv(device, 10))


def test_lost_final_reply_is_noticed(bench, engine, rotator, slow, generation, hurry):
    slow()
    device = rotator(generation, live_position=False)
    hurry(2.0)

    def plan():
        yield from bps.abs_set(device, 30, group="move")
        yield from until_moving(bench)
        bench.fault("bus", "silence", count=1)
        yield from bps.wait("move")

    engine(plan())
    assert truth(bench)["position_deg"] == pytest.approx(30, abs=0.1)


def test_button_messages_are_ignored(bench, engine, rotator, generation):
    device = rotator(generation)
    bench.fault("bus.3", "button")
    engine(bps.mv(device, 25))
    assert truth(bench)["position_deg"] == pytest.approx(25, abs=0.1)


def test_motion_that_takes_too_long_is_stopped(bench, engine, rotator, slow, generation, wait_for):
    slow("2", 2)
    device = rotator(generation, move_timeout=0.5)
    with pytest.raises(FailedStatus) as caught:
        engine(bps.mv(device, 180))
    if generation == "v4":
        assert isinstance(cause(caught), MoveTimedOut)
        assert "did not end within 0.5 s and was stopped" in str(cause(caught))
    wait_for(lambda: not truth(bench)["moving"])


def test_home_and_jog(bench, engine, rotator, generation):
    device = rotator(generation)
    engine(bps.mv(device, 50))
    finish(device.home) if generation == "v2" else engine(call(device.home))
    assert truth(bench)["position_deg"] == pytest.approx(0, abs=0.1)
    finish(device.jog) if generation == "v2" else engine(call(device.jog))
    assert truth(bench)["position_deg"] == pytest.approx(5, abs=0.1)


def finish(method):
    method().wait(10)


def call(method):
    async def awaited():
        await method()

    yield from bps.wait_for([awaited])


def test_settings_are_read_and_written(bench, engine, documents, rotator, generation):
    device = rotator(generation)
    engine(bps.mv(device.velocity, 60))
    assert truth(bench)["velocity_percent"] == 60
    engine(bps.mv(device.velocity, 100))
    engine(bps.mv(device.jog_step, 10.0))
    assert truth(bench)["jog_pulses"] == pytest.approx(10 * 143360 / 360, abs=1)
    engine(bps.mv(device.jog_step, 5.0))


def test_address_nobody_answers_at_is_an_error_with_port_and_device(engine, bench, connection, hurry):
    device = devices.v4.Elliptec(connection("bus", "rotator"), name="rotator", address="7")
    hurry()
    with pytest.raises(NotConnectedError, match=r"rotator on .*bus: no complete reply to b'7in'"):
        call_in_bluesky_event_loop(device.connect(timeout=30))


async def test_mock_mode_moves_at_once_without_any_wire():
    def no_wire():
        raise AssertionError("the wire was opened")

    device = devices.v4.Elliptec(Connection(no_wire, "rotator"), name="rotator", address="2")
    await device.connect(mock=True)
    await device.set(45.0)
    assert (await device.read())["rotator"]["value"] == 45.0
    assert await device.locate() == {"setpoint": 45.0, "readback": 45.0}
    with pytest.raises(ValueRefused):
        await device.set(1000.0)


def test_blocking_driver_moves_and_returns(bench, connection):
    bench.set("bus.A", position_deg=0.0)
    from devices.options import ElliptecOptions

    driver = devices.v2.ElliptecDriver(connection("bus", "script"), ElliptecOptions(address="A"))
    driver.connect()
    assert driver.identity == "ELL14 serial number 11400525 firmware 17"
    driver.move_to(33.0)
    assert driver.readback == pytest.approx(33.0, abs=0.1)
    driver.home()
    assert driver.readback == pytest.approx(0.0, abs=0.1)


def a_scan_of_both(old, new):
    """Move and read a v2 and a v4 rotator of one bus together, and stop the v2 one in the middle of a move."""

    def plan():
        yield from bp.scan([old, new], old, 0, 20, new, 0, 20, 4)
        yield from bps.abs_set(old, 90, group="stopped")
        yield from bps.sleep(0.05)
        yield from bps.stop(old)
        with contextlib.suppress(FailedStatus):
            yield from bps.wait("stopped")

    return plan()


def test_loop_stays_alive_while_both_generations_move_and_stop_on_one_wire(engine, rotator, keeps_loop_alive):
    old, new = rotator("v2", "2", "old"), rotator("v4", "3", "new")
    keeps_loop_alive(lambda: engine(a_scan_of_both(old, new)))


def test_loop_stays_alive_when_a_module_falls_silent(bench, engine, rotator, keeps_loop_alive, hurry):
    old, new = rotator("v2", "2", "old"), rotator("v4", "3", "new")
    hurry()

    def fail():
        bench.fault("bus.2", "silence")
        with contextlib.suppress(FailedStatus):
            engine(bp.count([old, new], 2))
        bench.clear_faults()

    keeps_loop_alive(fail)


def test_loop_stays_alive_when_the_wire_is_unplugged(bench, engine, rotator, wire, keeps_loop_alive, wait_for, hurry):
    old, new = rotator("v2", "2", "old"), rotator("v4", "3", "new")
    hurry()

    def fail():
        bench.unplug("bus")
        with contextlib.suppress(FailedStatus):
            engine(bp.count([old, new], 2))
        bench.replug("bus")
        wait_for(lambda: wire("bus").connected)

    keeps_loop_alive(fail)
    hurry(5.0)
    engine(bp.count([old, new], 2))
