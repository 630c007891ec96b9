"""Fly scans against where the simulated stage really was, and every way out of them."""

import threading
import time

import bluesky.plan_stubs as bps
import numpy as np
import pytest
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import FailedStatus, RunEngineInterrupted
from optics_bench import TIME_SCALE

from devices.sweep import SweepRefused, SweepStopped
from plans import LimitExceeded, laser_safe, normalised, with_dark
from plans.checks import PlanArgumentError
from plans.dry_run import dry_run
from plans.fly import fly_scan

AXIS = "stage_axis_1"
START, STOP = 10.0, 14.0
VELOCITY = 0.4
"""In simulated units per second: ten times as fast by our clock, so that a pass takes a second."""
SLOW = 0.1
"""For what has to happen before a sweep is over, on a busy machine too."""


@pytest.fixture(autouse=True)
def ready(bench):
    """Bring the stage to a place from which the way to the run-up is short."""
    bench.RE(bps.mv(bench.stage.axis[1], 9.5))
    assert bench.value(bench.stage.axis[1].velocity) == 4
    yield
    bench.simulators.clear_faults()


def rests_with_its_velocity(bench):
    return not bench.axis_truth()["moving"] and bench.value(bench.stage.axis[1].velocity) == 4


def sweep(bench, **more):
    arguments = {"velocity": VELOCITY, **more}
    return fly_scan([bench.meter], bench.stage.axis[1], START, STOP, **arguments)


def pause(bench):
    """Ask for a pause as Ctrl-C does: from outside of the RunEngine's loop."""
    threading.Thread(target=lambda: bench.RE.request_pause(defer=False), daemon=True).start()


class Witness(threading.Thread):
    """Asks the simulators where the axis really is, over and over, with the times."""

    def __init__(self, bench):
        super().__init__()
        self.seen = []
        self._bench = bench
        self._done = threading.Event()

    def run(self):
        while not self._done.wait(0.005):
            before = time.time()
            place = self._bench.axis_truth()["position"]
            after = time.time()
            self.seen.append((before, after, place))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self._done.set()
        self.join()

    def at(self, moment):
        """Return the true place, and how well it is known: what the axis can do while it is asked."""
        middle = np.array([(before + after) / 2 for before, after, _ in self.seen])
        places = np.array([place for _, _, place in self.seen])
        half = max(after - before for before, after, _ in self.seen) / 2
        following = min(max(int(np.searchsorted(middle, moment)), 1), len(middle) - 1)
        # An axis that stops between two looks is off a straight line by a quarter of what it does in the time.
        unseen = (middle[following] - middle[following - 1]) / 4
        return float(np.interp(moment, middle, places)), half + unseen


def run_until(bench, make_plan, enough):
    """Run a plan, and up to twice again: a machine that stands still in most of a sweep leaves not enough of it."""
    for _ in range(3):
        bench.documents.clear()
        bench.RE(make_plan())
        if enough():
            break


def test_positions_are_those_of_the_stage(bench):
    with Witness(bench) as witness:
        run_until(bench, lambda: sweep(bench, passes=2), lambda: len(bench.events()) >= 6)
    events = bench.events()
    assert {event[f"{AXIS}_pass"] for event in events} == {1, 2}
    speed = VELOCITY / TIME_SCALE
    documents = [d for name, d in bench.documents if name == "event" and AXIS in d["data"]]
    assert len(documents) == len(events) >= 6
    low, high = min(START, STOP), max(START, STOP)
    for document in documents:
        place, known_s = witness.at(document["timestamps"][AXIS])
        allowed = speed * (known_s + document["data"][f"{AXIS}_time_error"] + 2e-3)
        if not low < place < high:
            # Where it brakes, also a position of the run is off the straight line between two questions.
            allowed += 0.05
        assert document["data"][AXIS] == pytest.approx(place, abs=allowed)
    assert all(low - 0.5 <= event[AXIS] <= high + 2.5 for event in events)
    assert rests_with_its_velocity(bench)


def test_run_has_velocity_timing_error_and_samples(bench):
    run_until(
        bench,
        lambda: sweep(bench, passes=2, sample="stage", operator="Ada"),
        lambda: all(row["samples"] > 5 for row in bench.events("result_fly")),
    )
    rows = bench.events("result_fly")
    assert [row["pass_number"] for row in rows] == [1, 2]
    for row in rows:
        forwards = 1 if row["pass_number"] == 1 else -1
        # The simulated clock runs faster than the one that positions are timed with.
        known = max(5 * row["velocity_error"], 0.05 * VELOCITY / TIME_SCALE)
        assert row["velocity"] == pytest.approx(forwards * VELOCITY / TIME_SCALE, abs=known)
        assert row["wanted_velocity"] == forwards * VELOCITY
        # Half of what the longest question took, on a machine that may stand still in it.
        assert 0 <= row["timing_error"] <= row["largest_timing_error"] < 1.0
        assert 0 < row["sample_time_error"] < 1.0
        assert not row["interrupted"]
    samples = bench.events(f"{AXIS}_sweep")
    assert len(samples) > sum(row["samples"] for row in rows) > 10
    start = [d for name, d in bench.documents if name == "start"][-1]
    assert (start["plan_name"], start["sample"], start["operator"]) == ("fly_scan", "stage", "Ada")
    assert start["plan_args"]["axis"] == AXIS


def test_camera_and_meter_have_a_position_each(bench):
    both, axis, latency = [bench.meter, bench.camera], bench.stage.axis[1], {"camera": 0.01}
    run_until(
        bench,
        lambda: fly_scan(both, axis, 10, 13, velocity=0.25, latency_s=latency),
        lambda: len(bench.events()) >= 3,
    )
    documents = [d for name, d in bench.documents if name == "event" and AXIS in d["data"]]
    assert len(documents) >= 3
    speed = 0.25 / TIME_SCALE
    for document in documents:
        data, times = document["data"], document["timestamps"]
        apart = times["camera_mean"] - 0.01 - times["meter_power"]
        if data[AXIS] < 12.9 and data[f"{AXIS}_at_camera"] < 12.9:
            assert data[f"{AXIS}_at_camera"] - data[AXIS] == pytest.approx(speed * apart, abs=0.1)


def test_the_axis_waits_until_every_detector_has_delivered(bench, monkeypatch):
    camera, seen = bench.simulated_camera, []
    start = camera.start_seq

    def slow_at_first(*args, **kwargs):
        before = bench.axis_truth()
        if not seen:
            time.sleep(1.0)
        seen.append((before, bench.axis_truth()))
        return start(*args, **kwargs)

    monkeypatch.setattr(camera, "start_seq", slow_at_first)
    bench.RE(fly_scan([bench.meter, bench.camera], bench.stage.axis[1], 10, 13, velocity=VELOCITY))
    for truth in seen[0]:
        assert not truth["moving"]
        assert truth["position"] == pytest.approx(9.5, abs=1e-3)
    (ready,) = bench.events("ready")
    assert {"meter_power", "camera_mean"} <= set(ready)
    assert len(seen) == 1 + len(bench.events())
    indices = [d["indices"] for name, d in bench.documents if name == "stream_datum"]
    assert [(span["start"], span["stop"]) for span in indices] in ([], [(n, n + 1) for n in range(len(seen))])


def test_a_detector_that_cannot_begin_leaves_the_axis_where_it_is(bench, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("PL_ERR_NO_FRAMES")

    monkeypatch.setattr(bench.simulated_camera, "start_seq", refuse)
    before = bench.axis_truth()["position"]
    with pytest.raises(FailedStatus):
        bench.RE(fly_scan([bench.meter, bench.camera], bench.stage.axis[1], 10, 13, velocity=SLOW))
    assert bench.axis_truth()["position"] == before
    assert bench.stop_document()["exit_status"] == "fail"


def test_pause_stops_the_axis_and_resume_sweeps_the_rest(bench):
    paused = []

    def pause_once(name, document):
        if name == "event" and AXIS in document["data"] and not paused:
            paused.append(document["data"][AXIS])
            pause(bench)

    token = bench.RE.subscribe(pause_once)
    with pytest.raises(RunEngineInterrupted):
        bench.RE(sweep(bench, velocity=2 * SLOW))
    swept_to = bench.events()[-1][AXIS]
    wait_until(lambda: not bench.axis_truth()["moving"])
    stood = bench.axis_truth()["counter"]
    assert stood < STOP
    wait_until(lambda: rests_with_its_velocity(bench))
    bench.RE.resume()
    bench.RE.unsubscribe(token)
    events, rows = bench.events(), bench.events("result_fly")
    assert [bool(row["interrupted"]) for row in rows] == [True, False]
    places = [event[AXIS] for event in events]
    assert places == sorted(places)
    assert rows[1]["start"] == pytest.approx(swept_to)
    assert places[-1] > STOP - 2
    assert bench.stop_document()["exit_status"] == "success"
    assert rests_with_its_velocity(bench)


@pytest.mark.parametrize("way", ["abort", "stop", "halt"])
def test_every_way_out_stops_the_axis_and_gives_its_velocity_back(bench, way):
    def pause_at_once(name, document):
        if name == "event" and AXIS in document["data"]:
            pause(bench)

    token = bench.RE.subscribe(pause_at_once)
    with pytest.raises(RunEngineInterrupted):
        bench.RE(sweep(bench, velocity=SLOW))
    bench.RE.unsubscribe(token)
    getattr(bench.RE, way)()
    wait_until(lambda: rests_with_its_velocity(bench))
    assert bench.axis_truth()["counter"] < STOP
    assert bench.stop_document()["exit_status"] == {"abort": "abort", "stop": "success", "halt": "abort"}[way]
    assert bench.events()
    if way != "halt":
        assert bench.events(f"{AXIS}_sweep")
        assert bench.events("result_fly")


def test_abort_in_mid_sweep(bench):
    def abort(name, document):
        if name == "event" and AXIS in document["data"]:
            threading.Thread(target=bench.RE.abort, daemon=True).start()

    token = bench.RE.subscribe(abort)
    with pytest.raises(RunEngineInterrupted):
        bench.RE(sweep(bench, velocity=SLOW))
    bench.RE.unsubscribe(token)
    wait_until(lambda: bench.RE.state == "idle")
    wait_until(lambda: rests_with_its_velocity(bench))
    assert bench.axis_truth()["counter"] < STOP
    assert bench.stop_document()["exit_status"] == "abort"
    assert bench.events(f"{AXIS}_sweep")
    assert [bool(row["interrupted"]) for row in bench.events("result_fly")] == [True]


def test_limit_switch_in_mid_sweep_fails_the_run_and_keeps_what_was_measured(bench):
    def hit_limit(message):
        # The way to the run-up was before; the fault happens to the next motion.
        if message.command == "kickoff":
            bench.simulators.fault("stage", "limit")

    bench.RE.msg_hook = hit_limit
    with pytest.raises(FailedStatus) as caught:
        bench.RE(sweep(bench))
    bench.RE.msg_hook = None
    assert "hardware limit" in str(caught.value.__cause__)
    assert bench.stop_document()["exit_status"] == "fail"
    assert bench.events(f"{AXIS}_sweep")
    wait_until(lambda: rests_with_its_velocity(bench))


def test_a_detector_that_fails_stops_the_axis(bench):
    def break_meter(name, document):
        if name == "event" and AXIS in document["data"]:
            bench.simulators.fault("meter", "saturation", count=None)

    token = bench.RE.subscribe(break_meter)
    with pytest.raises(Exception) as caught:
        bench.RE(sweep(bench, velocity=SLOW))
    bench.RE.unsubscribe(token)
    assert "saturated" in f"{caught.value} {caught.value.__cause__}"
    wait_until(lambda: rests_with_its_velocity(bench))
    assert bench.axis_truth()["counter"] < STOP
    assert bench.stop_document()["exit_status"] == "fail"
    assert bench.events()


def test_somebody_who_stops_the_axis_ends_the_run(bench):
    axis = bench.stage.axis[1]

    def stop(name, document):
        if name == "event" and AXIS in document["data"]:
            stopping = axis.stop()
            if stopping is not None:
                bench.RE.loop.create_task(stopping)

    token = bench.RE.subscribe(stop)
    with pytest.raises(FailedStatus) as caught:
        bench.RE(sweep(bench, velocity=SLOW))
    bench.RE.unsubscribe(token)
    assert isinstance(caught.value.__cause__, SweepStopped)
    assert "it was stopped" in str(caught.value.__cause__)
    wait_until(lambda: rests_with_its_velocity(bench))


def test_limits_are_respected_before_anything_moves(bench):
    axis, before = bench.stage.axis[1], bench.axis_truth()["counter"]
    with pytest.raises(FailedStatus) as caught:
        bench.RE(fly_scan([bench.meter], axis, 0.0, 5.0, velocity=4))
    refused = caught.value.__cause__
    assert isinstance(refused, SweepRefused)
    assert "run-up and overshoot included" in str(refused)
    assert "Stay between 0.9 and 49.1 mm" in str(refused)
    with pytest.raises(FailedStatus) as caught:
        bench.RE(fly_scan([bench.meter], axis, 5.0, 15.0, velocity=30))
    assert "30 mm/s are wanted, 20 are possible. Allow at least 0.5 s." in str(caught.value.__cause__)
    assert bench.axis_truth()["counter"] == before


def test_wrappers_go_around_a_sweep(bench):
    axis, laser = bench.stage.axis[1], bench.laser
    plan = with_dark(normalised(sweep(bench), "meter_power", AXIS), laser, [bench.meter], num=1)
    try:
        bench.RE(laser_safe(plan, laser, power=bench.meter, max_power=1.0, positions=[(axis, 8, 17)]))
        assert not bench.truth["instruments"]["laser"]["shutter_open"]
        (dark,), events, ratios = bench.events("dark"), bench.events(), bench.events("normalised")
        assert len(events) == len(ratios) >= 3
        expected = (events[0]["meter_power"] - dark["meter_power"]) / events[0][AXIS]
        assert ratios[0]["meter_power_normalised"] == pytest.approx(expected)
        assert rests_with_its_velocity(bench)
        with pytest.raises(PlanArgumentError, match=f"8 to 12 for {AXIS} before the beam is let through"):
            bench.RE(laser_safe(sweep(bench), laser, positions=[(axis, 8, 12)]))
        bench.RE(bps.mv(axis, 9.5))
        before = bench.axis_truth()["counter"]
        with pytest.raises(LimitExceeded, match=f"{AXIS} is 14, allowed is 8 to 12"):
            bench.RE(laser_safe(sweep(bench), laser, positions=[(axis, 8, 12)]))
        assert bench.axis_truth()["counter"] == before
        assert not bench.truth["instruments"]["laser"]["shutter_open"]
    finally:
        bench.RE(bps.mv(laser.shutter, True))


def ask(question):
    async def asked():
        return await question()

    return call_in_bluesky_event_loop(asked())


def test_a_dry_run_foresees_the_sweeps_and_the_frames(bench):
    before = bench.axis_truth()["counter"]
    plan = fly_scan([bench.meter, bench.camera], bench.stage.axis[1], START, STOP, velocity=0.5, passes=2)
    found = dry_run(plan, ask)
    travel = found.travels[AXIS]
    assert (found.sweeps, travel.low, travel.high) == (2, START, STOP)
    assert travel.distance == pytest.approx(0.5 + 2 * (STOP - START))
    assert 16 <= found.duration_s < 25
    assert found.points["ready"] == 1
    assert 20 <= found.points["primary"] <= 200
    places = [point[AXIS] for point in found.path]
    assert max(places) == STOP
    assert places[-1] == START
    assert found.bytes > (found.points["primary"] + 1) * 256 * 256 * 2 if bench.generation == "v4" else found.bytes
    assert bench.axis_truth()["counter"] == before
    assert not bench.documents or bench.documents[-1][0] == "stop"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"velocity": 1, "duration": 1}, "velocity = 1: must be left out when there is a duration, which is 1"),
        ({}, "velocity = None: must be given, or else duration"),
        ({"velocity": -1}, "above 0"),
        ({"velocity": 1, "passes": 0}, "passes"),
        ({"velocity": 1, "latency_s": {"nobody": 1}}, "latency_s"),
        ({"velocity": 1, "stop": 99}, "stop = 99"),
        ({"velocity": 1, "stop": 10}, "another position"),
    ],
)
def test_arguments_are_refused(bench, arguments, problem):
    given = {"stop": 14, **arguments}
    with pytest.raises(PlanArgumentError, match=problem):
        bench.RE(fly_scan([bench.meter], bench.stage.axis[1], 10, **given))
    with pytest.raises(PlanArgumentError, match="can be swept"):
        bench.RE(fly_scan([bench.meter], bench.hwp, 10, 20, velocity=1))


def wait_until(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
