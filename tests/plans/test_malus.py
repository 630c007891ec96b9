"""The rotation of a polarizer: what the plan records, and what the fit finds."""

import math

import numpy as np
import pytest
from bluesky import RunEngine
from hypothesis import given, settings
from hypothesis import strategies as st

from plans import fit_malus, malus, malus_law


class Rotator:
    """The least a plan may ask of a motor."""

    name = "rotator"
    parent = None
    position = 0.0

    def set(self, value: float):
        from ophyd.status import Status

        self.position = float(value)
        status = Status(self)
        status.set_finished()
        return status

    def read(self):
        return {"rotator": {"value": self.position, "timestamp": 0.0}}

    def describe(self):
        return {"rotator": {"source": "test", "dtype": "number", "shape": []}}


class Meter:
    """Reads the law's power at the rotator's position."""

    parent = None

    def __init__(self, name: str, rotator: Rotator):
        self.name = name
        self._rotator = rotator

    def read(self):
        return {self.name: {"value": float(malus_law(self._rotator.position, 30.0, 1e-3, 2e-6)), "timestamp": 0.0}}

    def describe(self):
        return {self.name: {"source": "test", "dtype": "number", "shape": []}}


def test_each_event_has_the_position_and_every_detector():
    documents = []
    run_engine = RunEngine(call_returns_result=True)
    rotator = Rotator()
    result = run_engine(
        malus([Meter("a", rotator), Meter("b", rotator)], rotator, num=5, md={"sample": "none"}),
        lambda *document: documents.append(document),
    )
    start = documents[0][1]
    assert (start["plan_name"], start["sample"], start["num_points"]) == ("malus", "none", 5)
    assert start["detectors"] == ["a", "b"]
    assert result.plan_result == start["uid"]
    events = [document["data"] for name, document in documents if name == "event"]
    assert [event["rotator"] for event in events] == [0, 45, 90, 135, 180]
    assert all(event["a"] == event["b"] == malus_law(event["rotator"], 30.0, 1e-3, 2e-6) for event in events)


@settings(max_examples=15)
@given(
    angle=st.floats(0, 180, exclude_max=True),
    amplitude=st.floats(1e-9, 1.0),
    offset=st.floats(0, 1e-3),
)
def test_the_fit_finds_the_law_at_any_power(angle: float, amplitude: float, offset: float):
    positions = np.linspace(0, 180, 37)
    offset *= amplitude
    fit = fit_malus(positions, malus_law(positions, angle, amplitude, offset))
    difference = (fit.angle_deg - angle + 90) % 180 - 90
    assert abs(difference) < 1e-3
    assert fit.amplitude_w == pytest.approx(amplitude, rel=1e-4)
    assert fit.offset_w == pytest.approx(offset, abs=1e-4 * amplitude)
    assert fit.r_squared == pytest.approx(1.0)


def test_the_fit_tells_its_error_and_its_contrast():
    positions = np.linspace(0, 180, 37)
    noise = np.random.default_rng(1).normal(0, 1e-5, positions.size)
    fit = fit_malus(positions, malus_law(positions, 12.7, 1e-3, 1e-5) + noise)
    assert fit.angle_deg == pytest.approx(12.7, abs=4 * fit.angle_error_deg)
    assert 0 < fit.angle_error_deg < 0.5
    assert fit.contrast == pytest.approx(101, rel=0.5)
    assert fit.power(12.7) == pytest.approx(1.01e-3, rel=0.02)


@pytest.mark.parametrize("period", [180.0, 90.0])
def test_a_half_wave_plate_is_told_from_a_polarizer(period: float):
    positions = np.linspace(0, 180, 19)
    noise = np.random.default_rng(2).normal(0, 1e-5, positions.size)
    power = malus_law(positions, 33.0, 1e-3, 1e-5, period) + noise
    fit = fit_malus(positions, power)
    assert fit.period_deg == period
    assert fit.angle_deg == pytest.approx(33.0, abs=4 * fit.angle_error_deg)
    assert fit.power(positions) == pytest.approx(power, abs=5e-5)
    wrong = fit_malus(positions, power, "polarizer" if period == 90.0 else "half_wave_plate")
    assert wrong.period_deg != period
    assert wrong.r_squared < 0.2


def test_positions_that_cannot_tell_are_taken_for_a_polarizers():
    positions = np.array([0.0, 60.0, 120.0, 180.0])
    noise = np.random.default_rng(3).normal(0, 1e-6, positions.size)
    assert fit_malus(positions, malus_law(positions, 33.0, 1e-3, 0) + noise).period_deg == 180.0


def test_readings_that_are_no_numbers_take_no_part():
    positions = np.linspace(0, 180, 37)
    power = malus_law(positions, 60, 1e-3, 0)
    power[::3] = math.nan
    fit = fit_malus(positions, power)
    assert fit.points == 24
    assert fit.angle_deg == pytest.approx(60, abs=1e-6)


def test_too_few_readings_are_refused():
    with pytest.raises(ValueError, match=r"at least 4 valid readings for its 3 parameters; there are 2"):
        fit_malus([0, 45, 90, 135], [1, math.nan, math.nan, 2])
    with pytest.raises(ValueError, match="two equally long rows"):
        fit_malus([0, 45], [1])
    with pytest.raises(ValueError, match=r"all readings are 0\.001: something keeps the signal from changing"):
        fit_malus([0, 45, 90, 135, 180], [1e-3] * 5)
    with pytest.raises(ValueError, match="measure over a larger range"):
        fit_malus([5.0] * 5, [1, 2, 3, 4, 5])


def test_errors_of_all_quantities_are_those_of_repeated_measurements():
    positions = np.linspace(0, 90, 19)  # half of a period, where the quantities depend on each other
    random = np.random.default_rng(5)
    fits = [
        fit_malus(positions, malus_law(positions, 20.0, 1e-3, 1e-5) + random.normal(0, 1e-5, 19), "polarizer")
        for _ in range(200)
    ]
    for off in (
        [(fit.angle_deg - 20.0) / fit.angle_error_deg for fit in fits],
        [(fit.amplitude_w - 1e-3) / fit.amplitude_error_w for fit in fits],
        [(fit.offset_w - 1e-5) / fit.offset_error_w for fit in fits],
    ):
        assert 0.85 < np.sqrt(np.mean(np.square(off))) < 1.25  # 1 for honest errors, 1.07 with 16 degrees of freedom


def test_a_meter_without_light_costs_the_other_nothing():
    class Dark(Meter):
        def read(self):
            return {self.name: {"value": 0.0, "timestamp": 0.0}}

    documents = []
    rotator = Rotator()
    meters = [Dark("a", rotator), Meter("b", rotator)]
    for meter in meters:
        meter.hints = {"fields": [meter.name]}
    RunEngine()(malus(meters, rotator, num=9), lambda *document: documents.append(document))
    streams = {document["uid"]: document["name"] for name, document in documents if name == "descriptor"}
    events = [document for name, document in documents if name == "event"]
    (found,) = [event["data"] for event in events if streams[event["descriptor"]] == "result_malus"]
    assert (found["signal"], found["angle"]) == ("b", pytest.approx(30.0))
