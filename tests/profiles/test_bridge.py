"""The measurement bridge: everything in order, nobody waits for anybody, and what is missed is told exactly."""

import asyncio
import itertools
import threading
import time

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.plans import count
from hypothesis import given, settings
from hypothesis import strategies as st
from ophyd import Component, Device, Signal
from ophyd_async.core import StandardReadable, StandardReadableFormat, soft_signal_rw

from profiles.bridge import (
    BridgeClosed,
    DocumentSource,
    FrameReference,
    MeasurementBridge,
    Missed,
    UnifiedMeasurement,
    watch_device,
)
from profiles.bridge.documents import forward


def measurement(instrument, timestamp, value=0.0, **more):
    return UnifiedMeasurement(instrument, "power", value, timestamp, "W", **more)


@pytest.fixture
def bridge():
    bridge = MeasurementBridge(window_s=0.05)
    yield bridge
    bridge.close()


def collect(subscription, number, timeout=10.0):
    """The next items until there are so many measurements, and how many were missed."""
    found, missed = [], 0
    deadline = time.monotonic() + timeout
    while len(found) < number:
        item = subscription.get(timeout=max(0.01, deadline - time.monotonic()))
        if isinstance(item, Missed):
            missed += item.count
        else:
            found.append(item)
    return found, missed


def test_threads_and_tasks_publish_and_every_subscriber_has_all_in_order_but_the_stuck_one():
    # A busy machine may keep a thread for long between the measurement and telling it.
    bridge = MeasurementBridge(window_s=1.0)
    each, producers = 1500, 16
    # Whoever takes nothing before everything is published needs room for all of it.
    fast, also_fast = bridge.subscribe(capacity=each * producers), bridge.subscribe(capacity=50_000)
    stuck = bridge.subscribe(capacity=100)
    start = threading.Barrier(producers // 2 + 1)

    def publish(name):
        for number in range(each):
            bridge.publish(measurement(name, time.time(), number))
            if number % 20 == 0:
                time.sleep(0.001)

    async def publish_async(name):
        for number in range(each):
            bridge.publish(measurement(name, time.time(), number))
            if number % 20 == 0:
                await asyncio.sleep(0.001)

    def thread(name):
        start.wait()
        publish(name)

    async def tasks():
        await asyncio.gather(*(publish_async(f"task{number}") for number in range(producers // 2)))

    threads = [threading.Thread(target=thread, args=(f"thread{number}",)) for number in range(producers // 2)]
    for each_thread in threads:
        each_thread.start()
    start.wait()
    asyncio.run(tasks())
    for each_thread in threads:
        each_thread.join()
    for subscription in (fast, also_fast):
        found, missed = collect(subscription, each * producers)
        assert missed == 0
        stamps = [item.timestamp for item in found]
        assert stamps == sorted(stamps)
        for name in {item.instrument for item in found}:
            assert [item.value for item in found if item.instrument == name] == list(range(each))
    assert stuck.waiting == 100
    first = stuck.get(timeout=1)
    assert first == Missed(each * producers - 100)
    assert len(stuck.take_all()) == 100
    bridge.close()
    statistics = bridge.statistics
    assert (statistics.published, statistics.released, statistics.late) == (each * producers, each * producers, 0)
    assert statistics.waiting == 0


def test_a_select_that_fails_ends_its_own_subscription_only(bridge, caplog):
    def fail(_):
        raise KeyError("nobody")

    broken, sound = bridge.subscribe(select=fail), bridge.subscribe()
    bridge.publish(measurement("power", time.time()))
    assert len(collect(sound, 1)[0]) == 1
    with pytest.raises(BridgeClosed):
        broken.get(timeout=5)
    assert "its select has failed" in caplog.text
    bridge.publish(measurement("power", time.time(), 1.0))
    assert collect(sound, 1)[0][0].value == 1.0


def test_only_what_was_selected_is_missed_and_a_clock_that_was_set_back_loses_nothing(bridge, monkeypatch):
    powers = bridge.subscribe(select=lambda item: item.instrument == "power")
    now = time.time()
    bridge.publish(measurement("power", now))
    collect(powers, 1)
    for instrument in ("power", "stage", "stage"):
        bridge.publish(measurement(instrument, now - 5, instrument))
    assert powers.get(timeout=5) == Missed(1)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3600)
    bridge.publish(measurement("power", time.time(), 2.0))
    assert powers.get(timeout=5).value == 2.0


@settings(max_examples=40)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=30, unique=True))
def test_any_order_of_arrival_within_the_window_becomes_the_order_of_time(milliseconds):
    # All are within the window, however long this takes; closing releases them.
    bridge = MeasurementBridge(window_s=60.0)
    subscription = bridge.subscribe()
    now = time.time() - 0.05
    for offset in milliseconds:
        bridge.publish(measurement("power", now + offset / 1000, offset))
    bridge.close()
    assert [item.value for item in subscription] == sorted(milliseconds)


def test_what_comes_too_late_for_the_order_is_told_as_missed(bridge):
    subscription = bridge.subscribe()
    now = time.time()
    bridge.publish(measurement("power", now, "first"))
    assert subscription.get(timeout=5).value == "first"
    bridge.publish(measurement("power", now - 10, "late"))
    assert subscription.get(timeout=5) == Missed(1)
    assert (bridge.statistics.late, subscription.missed) == (1, 1)


def test_who_listens_later_is_told_what_has_not_changed_since(bridge):
    still = measurement("valve", time.time() - 3600)
    for value in (1.0, 2.0):
        with bridge.subscribe() as subscription:
            bridge.publish(still)
            bridge.publish(measurement("power", time.time(), value))
            found, missed = collect(subscription, 2)
        assert [(item.instrument, item.value) for item in found] == [("valve", 0.0), ("power", value)]
        assert missed == 0


def test_a_clock_that_is_ahead_holds_up_nobody(bridge):
    subscription = bridge.subscribe()
    bridge.publish(measurement("ahead", time.time() + 3600))
    bridge.publish(measurement("power", time.time()))
    assert {item.instrument for item in collect(subscription, 2)[0]} == {"ahead", "power"}


def test_more_than_can_be_sorted_is_told_as_missed(monkeypatch):
    bridge = MeasurementBridge(capacity=10)
    subscription = bridge.subscribe()
    nothing_taken_in = threading.Event()
    monkeypatch.setattr(bridge, "_take_in", nothing_taken_in.set)
    assert nothing_taken_in.wait(10.0)  # the bridge's thread is past the old method
    for _ in range(25):
        bridge.publish(measurement("power", time.time()))
    monkeypatch.undo()
    found, missed = [], 0
    while len(found) + missed < 25:
        item = subscription.get(timeout=5)
        missed, found = (missed + item.count, found) if isinstance(item, Missed) else (missed, [*found, item])
    # All ten have the same column; those of one instant are one reading.
    assert missed == 15
    bridge.close()


def test_a_task_is_woken_and_can_give_up(bridge):
    async def take():
        subscription = bridge.subscribe()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(subscription.get_async(), 0.05)
        bridge.publish(measurement("power", time.time(), 7))
        item = await asyncio.wait_for(subscription.get_async(), 5)
        bridge.publish(measurement("power", time.time(), 8))
        threading.Timer(0.2, bridge.close).start()
        return [item.value, *[each.value async for each in subscription]]

    assert asyncio.run(take()) == [7, 8]


def test_the_end_gives_what_waits_and_then_says_so():
    bridge = MeasurementBridge()
    with bridge.subscribe() as subscription:
        bridge.publish(measurement("power", time.time()))
        bridge.close()
        assert [item.instrument for item in subscription] == ["power"]
        with pytest.raises(BridgeClosed) as error:
            subscription.get()
        assert str(error.value) == "the measurement bridge is closed: no more measurements will come"
    with pytest.raises(BridgeClosed):
        bridge.subscribe().get()
    bridge.close()


def test_nobody_listening_keeps_nothing_and_a_timeout_says_so(bridge):
    for _ in range(1000):
        bridge.publish(measurement("power", time.time()))
    assert bridge.statistics.waiting == 0
    with bridge.subscribe() as subscription, pytest.raises(TimeoutError, match=r"no measurement came within 0.02 s"):
        subscription.get(timeout=0.02)
    assert not bridge.is_used


def test_a_subscriber_may_select(bridge):
    subscription = bridge.subscribe(select=lambda each: each.instrument == "b")
    for name in "abab":
        bridge.publish(measurement(name, time.time()))
    assert [item.instrument for item in collect(subscription, 2)[0]] == ["b", "b"]
    with pytest.raises(ValueError, match="a subscription holds at least one measurement, not 0"):
        bridge.subscribe(capacity=0)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1.0, "scalar"),
        ("AUTO", "scalar"),
        (True, "scalar"),
        ([1.0, 2.0], "array"),
        (np.zeros(5), "array"),
        (np.zeros((4, 4)), "image"),
        (FrameReference("file:///x.h5", 0, 1), "image"),
    ],
)
def test_scalars_arrays_and_images_are_told_apart(value, kind):
    assert measurement("camera", 0.0, value).kind == kind
    assert UnifiedMeasurement("hwp", "", 1.0, 0.0).column == "hwp"
    assert measurement("power", 0.0).column == "power_power"


class Legacy(Device):
    """A device of ophyd whose reading is measured by `trigger`."""

    power = Component(Signal, value=0.0)
    setting = Component(Signal, value=1, kind="config")

    def trigger(self):
        self.power.put(self.power.get() + 1.0)
        return super().trigger()


class Modern(StandardReadable):
    def __init__(self, name):
        with self.add_children_as_readables(StandardReadableFormat.HINTED_SIGNAL):
            self.power = soft_signal_rw(float, 2.5, units="W")
        with self.add_children_as_readables(StandardReadableFormat.CONFIG_SIGNAL):
            self.setting = soft_signal_rw(int, 1)
        super().__init__(name=name)
        self.set_name(name, child_name_separator="_")


def test_devices_of_both_generations_are_watched_outside_of_runs(bridge):
    run_engine = RunEngine()
    legacy, modern = Legacy(name="power_v2"), Modern("power_v4")
    asyncio.run_coroutine_threadsafe(modern.connect(), run_engine.loop).result(5)
    subscription = bridge.subscribe()
    # In this order: the value of this one is as old as its signal, and would be too late after a new measurement.
    ends = [
        watch_device(bridge, modern, run_engine.loop, generation="v4"),
        watch_device(bridge, legacy, run_engine.loop, generation="v2", period_s=0.02),
    ]
    found, _ = collect(subscription, 4)
    by_instrument = {item.instrument: item for item in found}
    assert (by_instrument["power_v2"].generation, by_instrument["power_v2"].signal) == ("v2", "power")
    assert by_instrument["power_v4"].value == 2.5
    assert by_instrument["power_v4"].units == "W"
    assert {item.signal for item in found} == {"power"}
    for end in ends:
        end()
    subscription.close()
    again = bridge.subscribe()

    async def change():
        await modern.power.set(3.0)

    asyncio.run_coroutine_threadsafe(change(), run_engine.loop).result(5)
    legacy.power.put(99.0)
    with pytest.raises(TimeoutError):
        again.get(timeout=0.2)


def test_runs_tell_run_and_stream_and_nothing_twice():
    # Time enough, on a busy machine too, for a measurement to be in its document before it is told.
    bridge = MeasurementBridge(window_s=30.0)
    run_engine = RunEngine(call_returns_result=True)
    legacy, modern = Legacy(name="power_v2"), Modern("power_v4")
    asyncio.run_coroutine_threadsafe(modern.connect(), run_engine.loop).result(5)
    end = watch_device(bridge, legacy, run_engine.loop, generation="v2")
    run_engine.subscribe(DocumentSource(bridge))
    subscription = bridge.subscribe()
    instruments = {"power_v2": {"generation": "v2"}, "power_v4": {"generation": "v4"}}
    uid = run_engine(count([legacy, modern], 3, md={"instruments": instruments})).run_start_uids[0]
    bridge.close()
    end()
    found = [item for item in subscription if isinstance(item, UnifiedMeasurement)]
    of_v2 = [item for item in found if item.instrument == "power_v2"]
    assert [item.value for item in of_v2] == [1.0, 2.0, 3.0]
    assert {(item.generation, item.run, item.stream) for item in of_v2} == {("v2", uid, "primary")}
    assert {item.generation for item in found if item.instrument == "power_v4"} == {"v4"}


def test_no_measurement_of_an_event_is_late_for_another_one_of_it(bridge):
    class Hesitating(dict):
        def items(self):
            for item in super().items():
                yield item
                time.sleep(0.2)  # more than the window

    subscription = bridge.subscribe()
    source = DocumentSource(bridge)
    data_keys = {name: {"dtype": "number", "shape": [], "source": "x"} for name in ("fast", "slow")}
    source("start", {"uid": "run", "time": 0.0})
    source("descriptor", {"uid": "d", "run_start": "run", "name": "primary", "time": 0.0, "data_keys": data_keys})
    now = time.time()
    stamps = {"fast": now, "slow": now - 1.0}
    source("event", {"uid": "e", "descriptor": "d", "data": Hesitating(fast=1.0, slow=2.0), "timestamps": stamps})
    found, missed = collect(subscription, 2)
    assert [item.value for item in found] == [2.0, 1.0]
    assert missed == 0


def test_a_taker_of_documents_is_given_none_before_it_is_connected(bridge):
    taken = []
    end = forward(bridge, lambda name, document: taken.append(name), after_s=3600.0)
    bridge.publish(measurement("power", time.time()))
    assert taken == []
    end()
    assert (taken[0], taken[-1]) == ("start", "stop")


def test_images_in_files_are_told_by_where_they_are(bridge):
    subscription = bridge.subscribe()
    source = DocumentSource(bridge)
    source("start", {"uid": "run", "time": 0.0})
    source(
        "descriptor",
        {
            "uid": "d",
            "run_start": "run",
            "name": "primary",
            "time": 5.0,
            "data_keys": {"camera": {"external": "STREAM:", "dtype": "array", "shape": [1, 4, 4], "source": "x"}},
            "object_keys": {"camera": ["camera"]},
        },
    )
    source("stream_resource", {"uid": "r", "run_start": "run", "data_key": "camera", "uri": "file://localhost/a.h5"})
    for number in range(2):
        indices = {"start": number, "stop": number + 1}
        source("stream_datum", {"uid": f"x{number}", "stream_resource": "r", "descriptor": "d", "indices": indices})
    source("stop", {"uid": "s", "run_start": "run"})
    found, _ = collect(subscription, 2)
    assert [item.value for item in found] == [
        FrameReference("file://localhost/a.h5", 0, 1),
        FrameReference("file://localhost/a.h5", 1, 2),
    ]
    assert next(iter(itertools.islice(found, 1))).kind == "image"
