"""The fits of the optics plans: they find what there is, and their error bars are honest."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plans.drift import analyse_drift
from plans.malus import fit_malus, malus_law
from plans.optics import (
    delay_ps,
    fit_anisotropy,
    fit_half_wave_plate,
    fit_harmonics,
    position_mm,
)
from plans.optics.power_hold import hold_statistics
from plans.peak import FWHM_OF_SIGMA, fit_peak
from plans.standard_errors import share_within, student_factor

POSITIONS = np.linspace(0, 90, 31)
TURN = np.linspace(0, 350, 36)


def gaussian(position, centre, sigma, height, background=0.0):
    return background + height * np.exp(-((np.asarray(position) - centre) ** 2) / (2 * sigma**2))


powers = st.floats(1e-9, 10.0)


@settings(max_examples=60)
@given(angle=st.floats(0, 90, exclude_max=True), amplitude=powers, offset=st.floats(0, 1))
def test_half_wave_plate_is_found_at_any_power(angle, amplitude, offset):
    truth = offset * amplitude + amplitude * np.cos(np.radians(2 * (POSITIONS - angle))) ** 2
    fit = fit_half_wave_plate(POSITIONS, truth)
    assert abs((fit.angle_deg - angle + 45) % 90 - 45) < 1e-6
    assert fit.amplitude == pytest.approx(amplitude, rel=1e-6)
    assert fit.offset == pytest.approx(offset * amplitude, abs=1e-6 * amplitude)
    assert fit.power(angle) == pytest.approx(amplitude * (1 + offset), rel=1e-6)


@settings(max_examples=60)
@given(
    offset=powers,
    waves=st.dictionaries(
        st.integers(1, 6), st.tuples(st.floats(0.01, 2), st.floats(0, 1, exclude_max=True)), min_size=1, max_size=4
    ),
)
def test_every_fold_is_found(offset, waves):
    truth = np.full_like(TURN, offset)
    for fold, (share, turn) in waves.items():
        truth += share * offset * np.cos(np.radians(fold * (TURN - turn * 360 / fold)))
    fit = fit_anisotropy(TURN, truth, tuple(waves)).fit
    assert fit.offset == pytest.approx(offset, rel=1e-6)
    for fold, (share, turn) in waves.items():
        wave = fit.harmonics[fold]
        assert wave.amplitude == pytest.approx(share * offset, rel=1e-6)
        assert 0 <= wave.angle_deg < 360 / fold
        assert np.cos(np.radians(fold * (wave.angle_deg - turn * 360 / fold))) == pytest.approx(1.0, abs=1e-9)
    assert fit.value(TURN) == pytest.approx(truth, rel=1e-6, abs=1e-9 * offset)


@settings(max_examples=15)
@given(centre=st.floats(-0.7, 0.7), sigma=st.floats(0.12, 0.4), height=st.floats(1e-9, 1.0), background=st.floats(0, 3))
def test_a_peak_is_found(centre, sigma, height, background):
    at = np.linspace(-1.5, 1.5, 41) + 12.5
    found = fit_peak(at, gaussian(at, centre + 12.5, sigma, height, background * height)).gaussian_row()
    assert found["centre"] == pytest.approx(centre + 12.5, abs=1e-3)
    assert found["sigma"] == pytest.approx(sigma, rel=1e-2)
    assert found["height"] == pytest.approx(height, rel=1e-2)


@pytest.mark.parametrize("centre", [-1.0, -0.4, 0.0, 0.8])
def test_without_a_background_the_top_is_found_from_a_part_of_the_peak(centre):
    at = np.linspace(-0.5, 0.5, 13)
    found = fit_peak(at, gaussian(at, centre, 0.9, 2e-3), background=False)
    assert found.center == pytest.approx(centre, abs=1e-3)
    assert found.gaussian_row()["sigma"] == pytest.approx(0.9, rel=1e-2)
    assert (found.background, found.background_error) == (0.0, 0.0)


def pulls(quantity, seeds=60):
    """Return by how many of its stated errors a fit is off, for each seed."""
    found = []
    for seed in range(seeds):
        noise = np.random.default_rng(seed)
        value, error, truth = quantity(lambda size, noise=noise: noise.normal(0, 0.01, size))
        found.append((value - truth) / error)
    return np.array(found)


def half_wave_plate(part):
    def quantity(noise):
        fit = fit_half_wave_plate(
            POSITIONS, 0.1 + np.cos(np.radians(2 * (POSITIONS - 33.0))) ** 2 + noise(POSITIONS.size)
        )
        return {
            "angle": (fit.angle_deg, fit.angle_error_deg, 33.0),
            "amplitude": (fit.amplitude, fit.amplitude_error, 1.0),
        }[part]

    return quantity


def anisotropy(part):
    def quantity(noise):
        truth = 1 + 0.3 * np.cos(np.radians(2 * (TURN - 40))) + 0.2 * np.cos(np.radians(4 * (TURN - 10)))
        wave = fit_anisotropy(TURN, truth + noise(TURN.size)).fit.harmonics[4]
        return {
            "angle": (wave.angle_deg, wave.angle_error_deg, 10.0),
            "amplitude": (wave.amplitude, wave.amplitude_error, 0.2),
        }[part]

    return quantity


def peak(part):
    at = np.linspace(-1.5, 1.5, 41)

    def quantity(noise):
        row = fit_peak(at, gaussian(at, 0.2, 0.33, 0.3, 1.0) + noise(at.size)).gaussian_row()
        truth = {"centre": 0.2, "sigma": 0.33, "height": 0.3}
        return row[part], row[f"{part}_error"], truth[part]

    return quantity


def malus_angle(noise):
    at = np.linspace(0, 180, 37)
    fit = fit_malus(at, malus_law(at, 60.0, 1.0, 0.01) + noise(at.size))
    return fit.angle_deg, fit.angle_error_deg, 60.0


@pytest.mark.parametrize(
    "quantity",
    [
        half_wave_plate("angle"),
        half_wave_plate("amplitude"),
        anisotropy("angle"),
        anisotropy("amplitude"),
        peak("centre"),
        peak("sigma"),
        peak("height"),
        malus_angle,
    ],
)
def test_error_bars_are_honest(quantity):
    off = pulls(quantity)
    # 60 pulls of a normal distribution: their mean is known to 0.13, their standard deviation to 0.09.
    assert abs(np.mean(off)) < 0.4
    assert 0.75 < np.std(off) < 1.3


def few_waves(rng, points):
    at = np.linspace(0, 150, points) + rng.uniform(-5, 5)
    fit = fit_malus(at, malus_law(at, 60.0, 1.0, 0.1) + rng.normal(0, 0.01, points), "polarizer")
    errors = {"angle": fit.angle_error_deg, "amplitude": fit.amplitude_error_w, "offset": fit.offset_error_w}
    off = {"angle": fit.angle_deg - 60.0, "amplitude": fit.amplitude_w - 1.0, "offset": fit.offset_w - 0.1}
    return fit.degrees_of_freedom, {name: off[name] / errors[name] for name in off}


def few_on_a_peak(rng, points):
    at = np.linspace(-1.5, 1.5, points) + rng.uniform(-0.2, 0.2)
    fit = fit_peak(at, gaussian(at, 0.0, 0.5, 0.3, 1.0) + rng.normal(0, 0.003, points))
    off = {
        "center": fit.center / fit.center_error,
        "fwhm": (fit.fwhm - 0.5 * FWHM_OF_SIGMA) / fit.fwhm_error,
        "height": (fit.height - 0.3) / fit.height_error,
        "background": (fit.background - 1.0) / fit.background_error,
    }
    return fit.degrees_of_freedom, off


def few_in_time(rng, points):
    at = np.arange(points) * 0.5
    drift, _ = analyse_drift(at + 1.7e9, 2.0 + rng.normal(0, 0.01, points))
    return points - 2, {"slope": drift.slope / drift.slope_error}


@pytest.mark.parametrize("free", [1, 2, 3, 6])
@pytest.mark.parametrize("measure", [few_waves, few_on_a_peak, few_in_time])
def test_stated_errors_hold_with_few_degrees_of_freedom(measure, free):
    rng = np.random.default_rng(20 + free)
    points = free + {few_waves: 3, few_on_a_peak: 4, few_in_time: 2}[measure]
    found = [measure(rng, points) for _ in range(100 if measure is few_on_a_peak else 400)]
    assert {degrees for degrees, _ in found} == {free}
    for name in found[0][1]:
        off = np.abs([pulls[name] for _, pulls in found])
        for errors, usual in ((1, 0.683), (3, share_within(3, free))):
            spread = math.sqrt(usual * (1 - usual) / len(found))
            assert abs(np.mean(off <= errors) - usual) < 3.5 * spread + 0.01, (name, errors)


def test_how_often_three_errors_hold():
    assert [round(share_within(3, free), 3) for free in (1, 2, 3, 10, 1000)] == [0.886, 0.942, 0.963, 0.99, 0.997]
    assert math.isnan(student_factor(0))
    assert math.isnan(share_within(3, 0))


def test_positions_that_cannot_tell_waves_apart_are_refused():
    with pytest.raises(ValueError, match="do not tell waves of the folds 2, 4 apart"):
        fit_harmonics([0, 90, 180, 270, 360, 450], [1, 2, 1, 2, 1, 2], (2, 4))
    with pytest.raises(ValueError, match="5 parameters needs as many valid readings; there are 3"):
        fit_harmonics([0, 30, 60, 90], [1, 2, 1, np.nan], (2, 4))
    with pytest.raises(ValueError, match="different whole numbers"):
        fit_harmonics(TURN, TURN, (2, 2))
    with pytest.raises(ValueError, match="two equally long rows"):
        fit_harmonics([1, 2], [1], (2,))


@given(st.floats(-50, 50), st.floats(0, 50), st.integers(1, 8))
def test_delay_and_position_are_each_others_inverse(position, zero, passes):
    assert position_mm(delay_ps(position, zero, passes), zero, passes) == pytest.approx(position, abs=1e-9)
    assert delay_ps(zero + 0.299792458, zero, 2) == pytest.approx(2.0)


def test_statistics_of_a_held_power():
    times = np.arange(0, 3600, 10.0)
    commands = 1.0 + 0.05 * times / 3600 + np.random.default_rng(3).normal(0, 1e-3, times.size)
    readings = 1.0 + np.random.default_rng(4).normal(0, 0.01, times.size)
    readings[5] = np.nan
    found = hold_statistics(times, readings, commands, 1.0, 0.02)
    assert found["points"] == times.size - 1
    assert found["mean"] == pytest.approx(1.0, abs=4 * found["mean_error"])
    assert found["deviation"] == pytest.approx(0.01, rel=0.15)
    assert found["held"] == pytest.approx(0.954, abs=0.05)
    assert found["command_drift"] == pytest.approx(0.05, abs=4 * found["command_drift_error"])
    with pytest.raises(ValueError, match="no reading is a number"):
        hold_statistics([1.0], [np.nan], [1.0], 1.0, 0.02)
