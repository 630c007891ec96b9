"""Scans and wrappers against what the simulated bench really does, with both generations, also when interrupted."""

import random
import re
from functools import partial

import numpy as np
import pytest
from asking import Asking
from bluesky import RunEngineInterrupted
from bluesky.utils import FailedStatus

from devices.errors import NotAnswered
from devices.protocols.errors import ProtocolError
from plans import (
    LimitExceeded,
    PlanArgumentError,
    adaptive_scan,
    laser_safe,
    list_scan,
    normalised,
    scan,
    time_series,
    tune,
    with_dark,
)

OVERLAP_MM = 12.5
OVERLAP_FWHM_MM = 0.05 * 2 * np.sqrt(2 * np.log(2))


def act_after(lab, points, act):
    """Do something when the run has that many points."""
    primary = set()
    left = points

    def count(name, document):
        nonlocal left
        if name == "descriptor" and document["name"] == "primary":
            primary.add(document["uid"])
        elif name == "event" and document["descriptor"] in primary:
            left -= 1
            if left == 0:
                act()

    return lab.RE.subscribe(count)


@pytest.fixture
def assert_safe_and_stored(wait_for):
    return partial(_assert_safe_and_stored, wait_for)


def _assert_safe_and_stored(wait_for, lab, devices, status, at_least):
    """Everything stands, the shutter is closed, and every event is what the bench really was."""
    assert not lab.shutter_is_open
    assert lab.stop["exit_status"] == status
    events = lab.events()
    assert len(events) >= at_least
    assert lab.stop["num_events"]["primary"] == len(events)
    wait_for(lambda: not devices.polarizer.moving)
    place = lab.truth["optics"]["polarizer"]
    assert lab.truth["optics"]["polarizer"] == place
    for event in events:
        expected = lab.power_at(event[devices.polarizer.name])
        assert event[f"{devices.meter.name}_power"] == pytest.approx(expected, rel=0.05, abs=2e-6)


def test_tune_goes_to_the_overlap_and_stores_it(lab, devices):
    stage = devices.stages.axis[1]
    lab.RE(list_scan([devices.meter], [(devices.polarizer, [lab.truth["angle_deg"]])]))
    lab.RE(tune([devices.meter], stage, 12.35, 12.65, 9, passes=1))
    found = lab.result("peak")
    assert abs(found["center"] - OVERLAP_MM) < 4 * found["center_error"] + 1e-3
    assert abs(found["fwhm"] - OVERLAP_FWHM_MM) < 4 * found["fwhm_error"] + 1e-3
    assert found["height"] / found["background"] == pytest.approx(0.3, rel=0.1)
    assert lab.truth["delay_fs"] == pytest.approx(0, abs=20)


def test_an_adaptive_scan_puts_its_points_where_the_signal_changes(lab, devices):
    lab.RE(adaptive_scan([devices.meter], devices.polarizer, 40, 115, 4, 20, lab.truth["amplitude_w"] / 5))
    positions = np.array([event[devices.polarizer.name] for event in lab.events()])
    slope, minimum = np.diff(positions[positions < 85]), np.diff(positions[positions > 90])
    assert len(positions) > 5
    assert np.mean(slope) < np.mean(minimum)


def test_a_time_series_tells_mean_and_slope(lab, devices):
    for _ in range(5):
        lab.RE(time_series([devices.meter], 6))
        found = lab.result("drift")
        truth = lab.truth["power_w"]
        assert found["mean"] == pytest.approx(truth, rel=0.02)
        # A busy machine reads late, and pairs with a late reading do not count; sometimes none is left.
        rows = lab.events("result_allan")
        assert all(1 <= row["pairs"] <= 5 for row in rows)
        assert 0 <= found["gaps"] <= 5
        if rows and rows[0]["averaging_time"] == pytest.approx(found["interval"], rel=0.25):
            break
    else:
        pytest.fail(f"pairs of neighbours are {rows[:1]} apart, readings {found['interval']}")
    assert abs(found["slope"]) < 8 * found["slope_error"] + 0.01 * truth


@pytest.mark.parametrize("order", ["inside", "outside"])
def test_dark_readings_are_dark_whatever_is_around_what(lab, devices, order, assert_safe_and_stored):
    def safe(plan):
        return laser_safe(plan, devices.laser, power=devices.meter, max_power=1.0)

    def dark(plan):
        return with_dark(plan, devices.laser, [devices.meter], num=1)

    plan = scan([devices.meter], devices.polarizer, 0, 20, 2)
    lab.RE(safe(dark(plan)) if order == "inside" else dark(safe(plan)))
    (reading,) = lab.events("dark")
    assert abs(reading[f"{devices.meter.name}_power"]) < 1e-8
    assert_safe_and_stored(lab, devices, "success", 2)


def test_too_much_light_closes_the_shutter(lab, devices):
    plan = scan([devices.meter], devices.polarizer, 100, 40, 4)
    with pytest.raises(LimitExceeded, match=r"_power is .*, allowed is any to .*\. The shutter was closed"):
        lab.RE(laser_safe(plan, devices.laser, power=devices.meter, max_power=lab.power_at(70)))
    assert not lab.shutter_is_open
    assert lab.stop["exit_status"] == "fail"
    assert 1 <= len(lab.events()) < 4


def test_what_the_devices_would_refuse_is_refused_before_anything_moves(lab, devices):
    place = lab.truth["optics"]["polarizer"]
    with pytest.raises(PlanArgumentError) as caught:
        lab.RE(scan([devices.meter], devices.polarizer, 10, 5000, 5, signal="nothing", fit="gaussian"))
    meter, polarizer = devices.meter.name, devices.polarizer.name
    assert str(caught.value).splitlines() == [
        f"scan: stop = 5000: must be -360 to 360 deg for {polarizer}",
        f"scan: signal = 'nothing': must be one of the columns {meter}_power",
        "Nothing has moved.",
    ]
    assert lab.truth["optics"]["polarizer"] == place
    assert lab.documents == []


@pytest.mark.parametrize("how", ["abort", "halt", "stop", "pause and resume", "pause and abort", "pause and halt"])
def test_an_interrupted_scan_leaves_the_bench_safe_and_all_that_was_measured(lab, devices, how, assert_safe_and_stored):
    point = random.Random(f"{how} {devices.meter.name}").randint(1, 3)
    acts = {"abort": lab.RE.abort, "halt": lab.RE.halt, "stop": lab.RE.stop}
    asking = Asking()
    token = act_after(lab, point, lambda: asking.ask(acts.get(how, lab.RE.request_pause)))
    column = f"{devices.meter.name}_power"
    plan = asking.awaited(scan([devices.meter], devices.polarizer, 20, 60, 5))
    plan = normalised(plan, column, devices.polarizer.name)
    plan = laser_safe(with_dark(plan, devices.laser, [devices.meter], num=1), devices.laser)
    try:
        with pytest.raises(RunEngineInterrupted):
            lab.RE(plan)
        asking.join()
        if how.startswith("pause"):
            assert lab.RE.state == "paused"
            assert not lab.shutter_is_open
            getattr(lab.RE, how.removeprefix("pause and "))()
    finally:
        lab.RE.unsubscribe(token)
    whole = how == "pause and resume"
    assert_safe_and_stored(lab, devices, "success" if whole or how == "stop" else "abort", 5 if whole else point)
    events, ratios = lab.events(), lab.events("normalised")
    assert len(events) - len(ratios) in (0, 1)
    dark = lab.events("dark")[0][column]
    for event, ratio in zip(events, ratios, strict=False):
        expected = (event[column] - dark) / event[devices.polarizer.name]
        assert ratio[f"{column}_normalised"] == pytest.approx(expected)


@pytest.mark.parametrize("wire", ["meter", "bus"])
def test_a_device_that_fails_in_the_middle_leaves_the_bench_safe(
    lab, devices, wire, assert_safe_and_stored, monkeypatch
):
    point = random.Random(f"{wire} {devices.meter.name}").randint(1, 3)

    def fail():
        lab.simulators.fault(wire, "drop", count=None)
        for connection in lab.connections:
            monkeypatch.setattr(connection, "timeout", 1.0)

    token = act_after(lab, point, fail)
    try:
        with pytest.raises((FailedStatus, NotAnswered, ProtocolError)) as caught:
            lab.RE(laser_safe(scan([devices.meter], devices.polarizer, 0, 60, 5), devices.laser))
    finally:
        lab.RE.unsubscribe(token)
        lab.simulators.clear_faults()
    assert re.search("no complete reply|was answered with b''", f"{caught.value!r} {caught.value.__cause__!r}")
    assert_safe_and_stored(lab, devices, "fail", point)
