"""Fits of peaks and statistics of drifts against what the numbers were made from."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plans import allan_deviation, analyse_drift, fit_peak


@settings(max_examples=20)
@given(
    center=st.floats(-1, 1),
    width=st.floats(0.5, 1.5),
    height=st.floats(0.1, 10),
    background=st.floats(-100, 100),
    scale=st.sampled_from([1e-9, 1.0, 1e6]),
    offset=st.sampled_from([0.0, 1e4]),
    model=st.sampled_from(["gaussian", "lorentzian"]),
)
def test_the_fit_finds_the_peak_at_any_scale(center, width, height, background, scale, offset, model):
    x = np.linspace(-4, 4, 41) * scale + offset * scale
    reach = (x - (center + offset) * scale) / (width * scale)
    shape = np.exp(-4 * math.log(2) * reach**2) if model == "gaussian" else 1 / (1 + 4 * reach**2)
    found = fit_peak(x, background + height * shape, model)
    assert found.center - offset * scale == pytest.approx(center * scale, abs=2e-3 * scale)
    assert found.fwhm == pytest.approx(width * scale, rel=1e-2)
    assert found.height == pytest.approx(height, rel=1e-2)
    assert found.background == pytest.approx(background, abs=1e-2 * height)


def test_stated_errors_cover_the_truth():
    rng = np.random.default_rng(3)
    x = np.linspace(12.35, 12.65, 25)
    pulls = []
    for _ in range(40):
        found = fit_peak(x, 1 + 0.3 * np.exp(-(((x - 12.5) / 0.05) ** 2) / 2) + rng.normal(0, 0.01, x.size))
        pulls.append((found.center - 12.5) / found.center_error)
    assert 0.7 < np.std(pulls) < 1.4
    assert abs(np.mean(pulls)) < 0.6


def test_what_is_no_peak_is_refused():
    with pytest.raises(ValueError, match="at least 5 valid readings that differ, at different positions; there are 4"):
        fit_peak([0, 1, 2, 3, 4], [0, 1, math.nan, 1, 0])
    with pytest.raises(ValueError, match="two equally long rows"):
        fit_peak([0, 1], [0, 1, 2])


def test_white_noise_averages_down_and_a_ramp_does_not():
    rng = np.random.default_rng(5)
    noise = allan_deviation(rng.normal(0, 1, 4000), 0.5)
    assert noise.averaging_time_s[:3] == pytest.approx([0.5, 1.0, 2.0])
    assert noise.pairs[:3].tolist() == [3999, 3997, 3993]
    expected = 1 / np.sqrt(noise.averaging_time_s / 0.5)
    assert np.all(np.abs(noise.deviation - expected)[:8] < 4 * noise.error[:8])
    ramp = allan_deviation(0.1 * np.arange(100), 1.0)
    assert ramp.deviation == pytest.approx(0.1 * ramp.averaging_time_s / math.sqrt(2))


def gappy_times(rng):
    """Give times of readings each half second: jitter, one in ten missing, some late, and a pause of ten minutes."""
    times = np.arange(6000) * 0.5 + rng.uniform(0, 0.02, 6000)
    times[rng.choice(6000, 60, replace=False)] += 0.3
    times[3000:] += 600
    return np.delete(times, rng.choice(np.arange(1, 6000), 600, replace=False)) + 1.7e9


def test_gaps_neither_raise_nor_lower_the_deviation_of_white_noise():
    rng = np.random.default_rng(17)
    times = gappy_times(rng)
    drift, allan = analyse_drift(times, 5 + rng.normal(0, 1, times.size))
    lengths = 2 ** np.arange(allan.deviation.size)
    assert lengths[-1] >= 512
    assert np.all(np.abs(allan.deviation - 1 / np.sqrt(lengths)) < 4 * allan.error)
    assert np.all(allan.pairs < times.size - 2 * lengths + 1)
    assert drift.interval == pytest.approx(0.5, rel=0.05)
    assert 500 < drift.gaps < 800


def test_a_pause_is_no_jump_of_a_drifting_signal():
    times = gappy_times(np.random.default_rng(18))
    _, allan = analyse_drift(times, 0.1 * (times - times[0]))
    assert allan.deviation.size >= 10
    assert allan.deviation == pytest.approx(0.1 * allan.averaging_time_s / math.sqrt(2), rel=0.03)
    assert allan.averaging_time_s == pytest.approx(0.5 * 2 ** np.arange(allan.deviation.size), rel=0.2)


def test_averaging_times_that_the_gaps_leave_no_pair_of_are_left_out():
    times = np.concatenate([np.arange(4) + 100.0 * burst for burst in range(10)])
    drift, allan = analyse_drift(times, np.arange(40) % 7)
    assert allan.averaging_time_s == pytest.approx([1.0, 2.0])
    assert allan.pairs.tolist() == [30, 10]
    assert drift.gaps == 9


def test_what_was_only_read_again_is_no_new_reading():
    times = np.repeat(np.arange(6.0), 2)
    drift, allan = analyse_drift(times, np.repeat([1.0, 2.0, 1.0, 3.0, 1.0, 2.0], 2))
    assert (drift.points, drift.gaps, drift.interval) == (6, 0, 1.0)
    assert allan.pairs.tolist() == [5, 3]
    with pytest.raises(ValueError, match="at least 3 valid readings; there are 1"):
        analyse_drift([3.0] * 5, [1.0] * 5)
    drift, allan = analyse_drift([3.0] * 5, [1, 2, 1, 2, 1])
    assert math.isnan(drift.best_averaging_time)
    assert allan.pairs.size == 0


def test_slope_and_spread_with_their_errors():
    rng = np.random.default_rng(7)
    times = np.arange(400) * 0.25
    drift, _ = analyse_drift(times + 1.7e9, 5 + 0.02 * times + rng.normal(0, 0.1, times.size))
    assert abs(drift.slope - 0.02) < 4 * drift.slope_error
    assert drift.slope_error == pytest.approx(0.1 / math.sqrt(np.sum((times - times.mean()) ** 2)), rel=0.2)
    assert (drift.interval, drift.points) == (pytest.approx(0.25), 400)
    with pytest.raises(ValueError, match="at least 3 valid readings; there are 2"):
        analyse_drift([0, 1, 2], [1, math.nan, 2])
