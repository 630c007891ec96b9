"""What the samples of a sweep say: positions between them, velocity, timing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.sweep import PositionSample, Trajectory
from plans.fly_fit import fit_sweep


@settings(max_examples=40)
@given(velocity=st.floats(0.01, 20), backwards=st.booleans(), jitter=st.floats(1e-5, 1e-3), seed=st.integers(0, 10_000))
def test_the_fit_of_a_sweep_finds_its_velocity(velocity, backwards, jitter, seed):
    rng = np.random.default_rng(seed)
    times = 1.7e9 + np.sort(rng.uniform(0, 5, 80))
    sign = -1 if backwards else 1
    true = 3.0 + sign * velocity * (times - 1.7e9)
    positions = true + sign * velocity * rng.normal(0, jitter, times.size)
    fit = fit_sweep(times, positions, positions[0] - sign, positions[-1] + sign, 0.004)
    assert fit.velocity == pytest.approx(sign * velocity, abs=6 * fit.velocity_error + 1e-6 * velocity)
    assert fit.timing_error_s == pytest.approx(jitter, rel=0.5, abs=1e-6)
    assert fit.samples == 80
    assert fit.sample_time_error_s == 0.004


def test_a_sample_that_came_late_on_a_busy_machine_hardly_tilts_the_fit():
    times = np.linspace(0, 0.4, 21)
    positions = 10 * times
    times[-2] -= 0.06  # half of an exchange that took long: the axis was there later
    errors = np.full(21, 0.002)
    errors[-2] = 0.06
    fit = fit_sweep(times, positions, 0, 4, errors)
    assert fit.velocity == pytest.approx(10, rel=2e-3)
    assert abs(fit_sweep(times, positions, 0, 4, 0.002).velocity - 10) > 0.2
    assert fit.sample_time_error_s == 0.06


def test_too_few_samples_leave_the_velocity_open():
    fit = fit_sweep([1, 2], [1, 2], 0, 3)
    assert np.isnan(fit.velocity)
    assert fit.samples == 2
    with pytest.raises(ValueError, match="two equally long rows"):
        fit_sweep([1, 2], [1], 0, 3)


def test_positions_between_samples_are_interpolated_and_later_ones_not_yet_known():
    trajectory = Trajectory()
    assert trajectory.at(1.0) is None
    for moment, place in ((1.0, 10.0), (2.0, 14.0), (1.5, 99.0)):
        trajectory.add(PositionSample(moment, place, 0.01))
    assert trajectory.at(1.25).position == 11.0
    assert trajectory.at(0.5).position == 10.0
    assert trajectory.at(2.5) is None
    trajectory.ended = True
    assert trajectory.at(2.5).position == 14.0
