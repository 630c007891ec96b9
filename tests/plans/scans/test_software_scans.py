"""Plans with ophyd's and ophyd-async's simulated devices: what they record, what they refuse, and how they end."""

import contextlib
import inspect
import math
import tracemalloc
from functools import partial

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from asking import Asking
from bluesky import RunEngineInterrupted
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import Msg
from ophyd import Component, Device, Signal
from ophyd.sim import SynAxis, SynGauss, SynSignal
from ophyd_async.core import Device as AsyncDevice
from ophyd_async.core import DeviceVector, StandardReadable, soft_signal_r_and_setter
from ophyd_async.core import StandardReadableFormat as Format
from ophyd_async.sim import SimMotor

from plans import (
    ColumnMissing,
    LimitExceeded,
    NoPeak,
    PlanArgumentError,
    Result,
    ShutterClosed,
    ShutterNotClosed,
    adaptive_scan,
    grid_scan,
    interleave,
    laser_safe,
    list_scan,
    nd_scan,
    normalised,
    record_results,
    repeat,
    scan,
    time_series,
    tune,
    with_dark,
    with_results,
)
from plans.catalogue import CATALOGUE
from plans.optics import image_scan, rotational_anisotropy

WRONG = [None, True, "abc", "", math.nan, math.inf, -1, 1.5, [], [1], {"a": 1}, b"x", object(), SynAxis(name="wrong")]


def usual_arguments(axis, meter):
    """Give arguments of all plans by name, `axes` left out: its form differs."""
    usual = {"detectors": [meter], "motor": axis, "start": 0.0, "stop": 90.0, "num": 7, "start_ps": 0.0, "stop_ps": 1.0}
    usual |= dict.fromkeys(("rotator", "polariser", "laser", "stage", "actuator", "axis"), axis)
    usual |= dict.fromkeys(("analyser", "meter", "camera"), meter)
    return usual | dict.fromkeys(("zero_mm", "power", "duration_s", "min_step", "max_step", "target_delta"), 1.0)


@pytest.mark.parametrize("name", CATALOGUE)
def test_arguments_of_any_kind_are_refused_in_words(name):
    axis, meter = SynAxis(name="axis"), SynAxis(name="meter")
    usual = usual_arguments(axis, meter)
    usual["axes"] = {"nd_scan": [(axis, 0, 1)], "list_scan": [(axis, [0, 1])]}.get(name, [(axis, 0, 1, 3)])
    plan = CATALOGUE[name].function
    accepted = set(inspect.signature(plan).parameters)
    for argument in accepted - {"md"}:
        for value in WRONG:
            messages = plan(**{key: usual[key] for key in accepted & set(usual)} | {argument: value})
            with contextlib.suppress(PlanArgumentError):
                next(messages)
            messages.close()


@pytest.mark.parametrize("number", [10**6 + 1, 10**9, 10**18])
@pytest.mark.parametrize("name", CATALOGUE)
def test_absurd_numbers_are_refused_before_any_memory_is_taken_for_them(name, number):
    axis, meter = Limited(name="axis"), SynAxis(name="meter")
    usual = usual_arguments(axis, meter) | {"num": number, "passes": number, "stop": 1.0}
    usual |= {"duration_s": float(number), "period_s": 1.0, "min_step": 1 / number}
    lists = {"nd_scan": [(axis, 0, 1)], "list_scan": [(axis, range(number))]}
    usual["axes"] = lists.get(name, [(axis, 0, 1, 1001), (SynAxis(name="other"), 0, 1, number // 1000)])
    plan = CATALOGUE[name].function
    accepted = {argument: usual[argument] for argument in inspect.signature(plan).parameters if argument in usual}
    tracemalloc.start()
    try:
        with pytest.raises(PlanArgumentError) as caught:
            for message in plan(**accepted):
                assert message.command == "wait_for"  # only asks devices; nothing else comes before the refusal
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "at most 1000000" in str(caught.value)
    assert taken < 1e6


def test_a_plan_is_not_repeated_absurdly_often(run, motor, one):
    with pytest.raises(PlanArgumentError, match=r"times = 1000000000: must be .* at most 1000000"):
        run(repeat(partial(scan, [one], motor, 0, 1, 2), 10**9))
    with pytest.raises(PlanArgumentError, match=r"num = 1000000000: must be .* at most 1000000"):
        run(with_dark(scan([one], motor, 0, 1, 2), Signal(name="shutter", value=False), [one], num=10**9))


class Limited(SynAxis):
    """A stock axis with limits."""

    def check_value(self, value):
        if not -5 <= value <= 5:
            raise ValueError(f"{value} is outside of -5 to 5")


class Recorder:
    """Runs plans and keeps the documents of the last one."""

    def __init__(self, engine):
        self._engine = engine
        self.documents = []

    def __call__(self, plan):
        self.documents.clear()
        return self._engine(plan, lambda *document: self.documents.append(document))

    @property
    def start(self):
        return self.documents[0][1]

    @property
    def stop(self):
        return self.documents[-1][1]

    def events(self, stream="primary"):
        descriptors = {d["uid"] for name, d in self.documents if name == "descriptor" and d["name"] == stream}
        return [d["data"] for name, d in self.documents if name == "event" and d["descriptor"] in descriptors]

    def data_keys(self, stream):
        return next(d["data_keys"] for name, d in self.documents if name == "descriptor" and d["name"] == stream)


@pytest.fixture
def run(engine):
    return Recorder(engine)


@pytest.fixture
def motor():
    return Limited(name="motor")


@pytest.fixture
def peak(motor):
    shape = {"center": 0.3, "Imax": 1, "sigma": 0.5, "noise": "uniform", "noise_multiplier": 0.01}
    return SynGauss("peak", motor, "motor", **shape, random_state=np.random.RandomState(5))


@pytest.fixture
def one():
    return SynSignal(name="one", func=lambda: 2.0, kind="hinted")


@pytest.fixture
def shutter():
    return Signal(name="shutter", value=False)


def failing_after(plan, points):
    """Fail a plan from inside after that many points."""
    for message in plan:
        yield message
        if message.command == "save":
            points -= 1
            if not points:
                raise RuntimeError("something broke")


def test_a_scan_says_what_it_is_and_stores_its_fit(run, motor, peak):
    run(scan([peak], motor, -2, 2, 21, fit="gaussian", note="first light", sample="quartz", operator="Ada"))
    start = run.start
    assert (start["plan_name"], start["num_points"]) == ("scan", 21)
    assert (start["note"], start["sample"], start["operator"]) == ("first light", "quartz", "Ada")
    assert start["plan_args"]["detectors"] == ["peak"]
    assert (start["plan_args"]["motor"], start["plan_args"]["stop"]) == ("motor", 2)
    (found,) = run.events("result_peak")
    assert abs(found["center"] - 0.3) < 4 * found["center_error"]
    assert found["fwhm"] == pytest.approx(0.5 * 2.3548, abs=4 * found["fwhm_error"])
    assert (found["signal"], found["mover"], found["points"]) == ("peak", "motor", 21)


def test_ophyd_async_devices_scan_beside_stock_ophyd_ones(run, engine, one):
    class Meter(StandardReadable):
        def __init__(self):
            with self.add_children_as_readables(Format.HINTED_UNCACHED_SIGNAL):
                self.power, _ = soft_signal_r_and_setter(float, 0.25)
            super().__init__(name="meter")

    meter, stage = Meter(), SimMotor(name="stage", instant=True)
    call_in_bluesky_event_loop(meter.connect())
    call_in_bluesky_event_loop(stage.connect())
    run(scan([meter, one], stage, 0, 1, 3))
    assert [(event["stage"], event["meter-power"], event["one"]) for event in run.events()] == [
        (0, 0.25, 2.0),
        (0.5, 0.25, 2.0),
        (1, 0.25, 2.0),
    ]
    run(adaptive_scan([meter], stage, 0, 1, 0.1, 0.5, 1.0))
    assert len(run.events()) >= 3


def test_several_motors_lists_and_grids(run, motor, one):
    other = SynAxis(name="other")
    run(nd_scan([one], [(motor, 0, 2), (other, 0, 4)], 3))
    assert [(e["motor"], e["other"]) for e in run.events()] == [(0, 0), (1, 2), (2, 4)]
    run(list_scan([one], [(motor, [0, 2, 1])]))
    assert [e["motor"] for e in run.events()] == [0, 2, 1]
    run(grid_scan([one], [(motor, 0, 1, 2), (other, 0, 2, 3)]))
    assert [(e["motor"], e["other"]) for e in run.events()] == [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0)]
    run(grid_scan([one], [(motor, 0, 1, 2), (other, 0, 2, 3)], snake=False))
    assert [e["other"] for e in run.events()] == [0, 1, 2, 0, 1, 2]


def test_a_fit_that_finds_nothing_says_so(run, motor, one, caplog):
    run(scan([one], motor, 0, 1, 6, fit="gaussian"))
    assert "result_peak" not in {d["name"] for name, d in run.documents if name == "descriptor"}
    assert "has no result: one: a peak needs at least 5 valid readings that differ" in caplog.text


def test_positions_may_be_an_array(run, motor, one):
    run(list_scan([one], [(motor, np.linspace(0, 1, 3))]))
    assert [event["motor"] for event in run.events()] == [0, 0.5, 1]
    assert run.start["plan_args"]["axes"] == [["motor", [0, 0.5, 1]]]


def test_a_relative_scan_returns_and_is_checked_where_the_motor_stands(run, engine, motor, one):
    engine(bps.mv(motor, 4))
    run(scan([one], motor, -1, 1, 3, relative=True))
    assert [e["motor"] for e in run.events()] == [3, 4, 5]
    assert motor.position == 4
    with pytest.raises(PlanArgumentError, match=r"scan: stop = 1\.5: must be what motor accepts: 5\.5 is outside"):
        run(scan([one], motor, -1, 1.5, 3, relative=True))


def test_everything_that_is_wrong_is_told_at_once_and_nothing_moves(run, motor, peak, one):
    with pytest.raises(PlanArgumentError) as caught:
        run(scan([peak, peak, "one"], "stage", math.nan, 9, 0, fit="cubic"))
    assert str(caught.value).splitlines() == [
        "scan: detectors = 'one': must be a device that can be read",
        "scan: detectors = peak: must be named only once",
        "scan: motor = 'stage': must be a device that can be moved",
        "scan: motor = 'stage': must be a device that can be read",
        "scan: num = 0: must be a whole number of at least 2",
        "scan: fit = 'cubic': must be one of 'none', 'gaussian', 'lorentzian'",
        "Nothing has moved.",
    ]
    assert [(p.argument, p.value) for p in caught.value.problems][-2] == ("num", 0)
    assert run.documents == []


class Stage(Device):
    x = Component(SynAxis, name="x")
    y = Component(SynAxis, name="y")


def stage_of(generation: str, number: int) -> object:
    if generation == "v2":
        return Stage(name="stage")
    stage = AsyncDevice(name="stage")
    stage.axis = DeviceVector({each: SimMotor() for each in range(1, number + 1)})
    return stage


@pytest.mark.parametrize(
    ("generation", "number", "parts"),
    [
        ("v2", 2, "stage.x or stage.y"),
        ("v4", 1, "stage.axis[1]"),
        ("v4", 3, "stage.axis[1], stage.axis[2] or stage.axis[3]"),
        ("v4", 9, "stage.axis[1], stage.axis[2], stage.axis[3], stage.axis[4], stage.axis[5], stage.axis[6] …"),
    ],
)
async def test_parts_that_move_are_named_where_the_whole_does_not(generation, number, parts, one):
    with pytest.raises(PlanArgumentError) as caught:
        next(scan([one], stage_of(generation, number), 0, 9, 3))
    assert f"scan: motor = stage: must be a device that can be moved, such as {parts}\n" in str(caught.value)


async def test_parts_that_can_be_read_are_named_where_the_whole_cannot(motor):
    stage = stage_of("v4", 2)
    with pytest.raises(PlanArgumentError) as caught:
        next(scan([stage], motor, 0, 9, 3))
    told = "scan: detectors = stage: must be a device that can be read, such as stage.axis[1] or stage.axis[2]"
    assert str(caught.value).splitlines()[0] == told
    with pytest.raises(PlanArgumentError, match=r"detectors = {.*}: must be a device .*, such as detectors\[2\]"):
        next(scan([{2: stage.axis[2]}], motor, 0, 9, 3))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda m, d: scan([d], m, 0, 1, 2.5), "num = 2.5: must be a whole number of at least 2"),
        (lambda m, d: scan([], m, 0, 1, 3), "detectors = []: must be at least one device"),
        (lambda m, d: scan(d, m, 0, 1, 3), "detectors = peak: must be a list of devices"),
        (lambda m, d: grid_scan([d], [(m, 0, 1, 2), (m, 0, 1, 2)]), "axes = motor: must be named only once"),
        (lambda m, d: grid_scan([d], [(m, 0, 1)]), "axes = [motor, 0, 1]: must be motor, start, stop, num"),
        (
            lambda m, d: grid_scan([d], (m, 0, 1, 3)),
            "axes = [motor, 0, 1, 3]: must be a list of (motor, start,",
        ),
        (lambda m, d: list_scan([d], [(m, np.eye(2))]), "must be a list of positions"),
        (lambda m, d: list_scan([d], [(m, np.array([]))]), "axes = array([], dtype=float64): must be a list of posi"),
        (lambda m, d: repeat(partial(scan, [d], m, 0, 1, 2), 0), "repeat: times = 0: must be a whole number"),
        (lambda m, d: interleave([partial(scan, [d], m, 0, 1, 2)], 0), "interleave: times = 0: must be a whole number"),
        (lambda m, d: image_scan(d), "camera = peak: must be a camera, whose frames have their mean in peak_mean"),
        (lambda m, d: rotational_anisotropy([d], m, SynAxis(name="b"), 0, 1, folds=[2, 2]), "must be different whole"),
        (lambda m, d: nd_scan([d], [(m, 0, 7)], 3), "axes = 7: must be what motor accepts"),
        (lambda m, d: list_scan([d], [(m, [])]), "axes = []: must be a list of positions"),
        (lambda m, d: time_series([d], 3, -1), "delay = -1: must be a finite number at least 0 s"),
        (lambda m, d: adaptive_scan([d], m, 0, 1, 0.5, 0.1, 0), "max_step = 0.1: must be larger than min_step, 0.5"),
        (lambda m, d: tune([d], m, 1, 1), "stop = 1: must be another position than start"),
        (lambda m, d: tune([d], m, 0, 1, signal="nix"), "signal = 'nix': must be one of the columns peak"),
        (lambda m, d: repeat(scan([d], m, 0, 1, 2), 2), "repeat: make_plan = "),
        (lambda m, d: interleave([scan([d], m, 0, 1, 2)], 2), "interleave: make_plans = "),
        (lambda m, d: normalised(scan([d], m, 0, 1, 2), "a", "a"), "monitor = 'a': must be another column than signal"),
    ],
)
def test_wrong_arguments(run, motor, peak, make, told):
    with pytest.raises(PlanArgumentError) as caught:
        run(make(motor, peak))
    assert told in str(caught.value)
    assert run.documents == []


def test_tune_goes_to_the_peak_or_back(run, motor, peak):
    run(tune([peak], motor, -2, 2, 15))
    (found,) = run.events("result_peak")
    assert motor.position == pytest.approx(found["center"])
    assert motor.position == pytest.approx(0.3, abs=0.02)
    assert len(run.events()) == 30
    before = motor.position
    flat = SynSignal(name="flat", func=lambda: 1.0, kind="hinted")
    with pytest.raises(NoPeak, match=r"flat shows no peak between -2 and 2 of motor: .* motor is back where it was"):
        run(tune([flat], motor, -2, 2, 15))
    assert motor.position == before
    assert run.stop["exit_status"] == "fail"


def test_a_dip_is_found_when_it_is_asked_for(run, motor):
    dip = SynGauss("dip", motor, "motor", center=-0.4, Imax=-1, sigma=0.5)
    run(tune([dip], motor, -2, 2, 15, dip=True))
    assert motor.position == pytest.approx(-0.4, abs=0.01)
    with pytest.raises(NoPeak):
        run(tune([dip], motor, -2, 2, 15))


def test_a_slope_is_no_peak_and_a_top_wider_than_the_range_is_one(run, motor):
    random = np.random.default_rng(2)
    slope = SynSignal(name="slope", func=lambda: motor.position + 0.05 * random.normal(), kind="hinted")
    run(bps.mv(motor, 1.0))
    with pytest.raises(NoPeak, match="has its center at the edge of the range, at 2"):
        run(tune([slope], motor, -2, 2, 15, passes=1))
    assert motor.position == 1.0
    top = SynSignal(
        name="top", func=lambda: math.cos(motor.position / 8 - 0.05) + 1e-4 * random.normal(), kind="hinted"
    )
    run(tune([top], motor, -2, 2, 15, passes=1))
    assert motor.position == pytest.approx(0.4, abs=0.1)


def test_repeated_and_interleaved_runs_know_each_other(run, motor, one):
    other = SynAxis(name="other")
    run(
        interleave([partial(scan, [one], motor, 0, 1, 2), partial(scan, [one], other, 0, 1, 2)], 2, order="alternating")
    )
    starts = [document for name, document in run.documents if name == "start"]
    assert [start["plan_args"]["motor"] for start in starts] == ["motor", "other", "other", "motor"]
    assert [(start["series"]["number"], start["series"]["of"]) for start in starts] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert len({start["series"]["uid"] for start in starts}) == 1


def test_results_are_a_stream_with_units(run, motor, one):
    rows = [{"signal": "a", "center": 1.5, "center_error": None, "points": 3}]
    run(with_results(bp.scan([one], motor, 0, 1, 2), lambda _: Result("thing", rows, {"center": "mm"})))
    (row,) = run.events("result_thing")
    assert math.isnan(row["center_error"])
    assert row["signal"] == "a"
    keys = run.data_keys("result_thing")
    assert (keys["center"]["units"], keys["center_error"]["units"], keys["points"]["dtype"]) == ("mm", "mm", "integer")


def test_an_aborted_run_is_analysed_too_and_a_failing_analysis_harms_nothing(run, motor, one):
    analysed = with_results(failing_after(bp.scan([one], motor, 0, 1, 5), 3), lambda e: Result("n", [{"n": e.count()}]))
    with pytest.raises(RuntimeError, match="something broke"):
        run(analysed)
    assert run.stop["exit_status"] == "fail"
    run(with_results(bp.scan([one], motor, 0, 1, 2), lambda _: 1 / 0))
    assert run.stop["exit_status"] == "success"


def test_rows_of_a_result_have_the_same_keys():
    with pytest.raises(ValueError, match="all rows of a result have the same keys"):
        list(record_results("peak", [{"a": 1.0}, {"b": 1.0}]))
    with pytest.raises(ValueError, match="a kind of result is a name such as 'peak', not 'a b'"):
        list(record_results("a b", [{"a": 1.0}]))


def test_ratios_belong_to_their_points_also_after_a_pause(run, engine, motor):
    signal = SynSignal(name="signal", func=lambda: 3.0 + motor.position)
    monitor = SynSignal(name="monitor", func=lambda: 2.0)
    asking = Asking()

    def pause_once(message):
        if message.command == "save" and len(run.events()) == 2:
            engine.msg_hook = None
            asking.ask(engine.request_pause)

    engine.msg_hook = pause_once
    with pytest.raises(RunEngineInterrupted):
        run(normalised(asking.awaited(bp.scan([signal, monitor], motor, 0, 4, 41)), "signal", "monitor"))
    engine.resume()
    events = [document for name, document in run.documents if name == "event"]
    last = {event["seq_num"]: event["data"] for event in events if {"monitor", "motor"} <= set(event["data"])}
    ratios = {event["seq_num"]: event["data"] for event in events if "signal_normalised" in event["data"]}
    assert len(last) == len(ratios) == 41
    for number, event in last.items():
        assert ratios[number]["signal_normalised"] == pytest.approx(event["signal"] / event["monitor"])
        assert ratios[number]["motor"] == event["motor"]
    (row,) = run.events("result_normalised")
    assert row["mean"] == pytest.approx(np.mean([r["signal_normalised"] for r in ratios.values()]))


def test_a_ratio_of_what_is_not_measured_is_refused(run, motor, one):
    with pytest.raises(ColumnMissing, match="the plan measures no column 'two'; it measures: one, motor"):
        run(normalised(scan([one], motor, 0, 1, 2), "one", "two"))


WAYS_OUT = ["end", "failure", "abort", "stop", "halt", "pause, then halt", "pause, then abort"]


@pytest.mark.parametrize("way", WAYS_OUT)
@pytest.mark.parametrize("dark", ["none", "inside", "outside"])
def test_the_shutter_is_closed_on_every_way_out(run, engine, motor, one, shutter, way, dark):
    plan = scan([one], motor, 0, 1, 3)
    if way == "failure":
        plan = failing_after(plan, 2)
    elif way != "end":
        asking = Asking()

        def act(message):
            if message.command == "save" and len(run.events()) == 1:
                engine.msg_hook = None
                asking.ask(engine.request_pause if way.startswith("pause") else getattr(engine, way))

        engine.msg_hook = act
        plan = asking.awaited(bp.count([one], 200, delay=0.01))
    if dark == "inside":
        plan = with_dark(plan, shutter, [one], num=2)
    plan = laser_safe(plan, shutter)
    if dark == "outside":
        plan = with_dark(plan, shutter, [one], num=2)
    if way == "end":
        run(plan)
    elif way == "failure":
        with pytest.raises(RuntimeError, match="something broke"):
            run(plan)
    else:
        with pytest.raises(RunEngineInterrupted):
            run(plan)
        if way.startswith("pause"):
            assert shutter.get() is False
            getattr(engine, way.split()[-1])()
    assert shutter.get() is False
    expected = {"end": "success", "stop": "success", "failure": "fail"}.get(way, "abort")
    assert run.stop["exit_status"] == expected
    assert len(run.events("dark")) == (0 if dark == "none" else 2)


def test_after_a_pause_the_light_is_back(run, engine, one, shutter):
    lit = SynSignal(name="lit", func=shutter.get)

    asking = Asking()

    def act(message):
        if message.command == "save" and len(run.events()) == 2:
            engine.msg_hook = None
            asking.ask(engine.request_pause)

    engine.msg_hook = act
    with pytest.raises(RunEngineInterrupted):
        run(laser_safe(with_dark(asking.awaited(bp.count([lit], 30, delay=0.01)), shutter, [lit]), shutter))
    assert shutter.get() is False
    assert engine.resume().exit_status == "success"
    assert all(event["lit"] for event in run.events())
    assert not any(event["lit"] for event in run.events("dark"))
    assert shutter.get() is False


def test_a_target_beyond_the_limits_is_refused_before_the_move_and_the_shutter_closed(run, engine, one, shutter):
    stage = SynAxis(name="stage")
    with pytest.raises(LimitExceeded) as caught:
        run(laser_safe(scan([one], stage, 0, 1, 2), shutter, positions=[(stage, -1, 0.5)]))
    assert (caught.value.column, caught.value.value, caught.value.high) == ("stage", 1, 0.5)
    assert "stage is 1, allowed is -1 to 0.5. The shutter was closed." in str(caught.value)
    assert shutter.get() is False
    assert stage.position == 0


def test_a_meter_that_the_plan_does_not_read_is_watched_too(run, motor, one, shutter):
    power = SynSignal(name="power", func=lambda: 0.4 + motor.position, kind="hinted")
    with pytest.raises(LimitExceeded, match=r"power is 1\.4, allowed is any to 1"):
        run(laser_safe(scan([one], motor, 0, 4, 5), shutter, power=power, max_power=1.0))
    assert shutter.get() is False
    assert len(run.events()) == 1


def test_no_plan_measures_on_in_the_dark_after_a_failure(run, motor, one, shutter):
    def stubborn():
        yield Msg("open_run")
        try:
            yield Msg("no such command")
        except Exception:
            yield from bps.trigger_and_read([one])
        yield Msg("close_run")

    with pytest.raises(ShutterClosed, match="shutter was closed because of"):
        run(laser_safe(stubborn(), shutter))
    assert shutter.get() is False


def test_a_shutter_that_does_not_close_is_told_loudly(run, motor, one):
    class Stuck(Signal):
        def set(self, value, **kwargs):
            if not value:
                raise OSError("no such wire")
            return super().set(value, **kwargs)

    stuck = Stuck(name="stuck", value=False)
    with pytest.raises(
        ShutterNotClosed, match=r"stuck WAS NOT CLOSED within 0\.2 s: no such wire\. Take the beam to be"
    ):
        run(laser_safe(scan([one], motor, 0, 1, 2), stuck, timeout=0.2))


def test_a_shutter_in_neither_state_and_wrong_limits_are_refused(run, motor, one):
    odd = Signal(name="odd", value=3)
    with pytest.raises(PlanArgumentError) as caught:
        run(laser_safe(scan([one], motor, 0, 1, 2), odd, min_power=1.0, positions=[(motor, 2, 1)]))
    assert str(caught.value).splitlines() == [
        "laser_safe: power = None: must be the meter that min_power and max_power are about",
        "laser_safe: positions = [2, 1]: must be the lower position first",
        "laser_safe: shutter = 3: must be True (open) or False (closed) on odd",
        "Nothing has moved.",
    ]
    assert odd.get() == 3
