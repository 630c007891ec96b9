"""The plans of an optics bench against what the simulated bench really does, with both generations."""

import bluesky.plan_stubs as bps
import numpy as np
import pytest
from optics_bench import bench_power

from plans import malus
from plans.checks import PlanArgumentError
from plans.optics import (
    PowerOutOfReach,
    calibrate_half_wave_plate,
    delay_scan,
    fit_anisotropy,
    fit_half_wave_plate,
    image_scan,
    power_hold,
    rotational_anisotropy,
    wavelength_scan,
)

ROTATOR_STEP_DEG = 0.01
FINE = np.arange(0.0, 360.0, 1.0)


def agrees(found, truth, error, floor=0.0):
    """Tell whether a value is within four of its stated errors; the floor is for what the error does not know of."""
    return abs(found - truth) <= 4 * error + floor


def source_w(bench):
    return bench.truth["bench"]["source_power_w"]


def test_malus_stores_its_fit(bench, row):
    bench.RE(bps.mv(bench.hwp, 8.3))
    bench.RE(malus([bench.meter], bench.polarizer, 0, 175, 15))
    truth, found = bench.truth["bench"], row(bench, "malus")
    assert found["signal"] == "meter_power"
    assert agrees(found["angle"], truth["angle_deg"], found["angle_error"], ROTATOR_STEP_DEG)
    assert found["amplitude"] == pytest.approx(truth["amplitude_w"], rel=0.01)


def test_malus_finds_out_that_the_rotator_carries_a_plate(bench, row):
    bench.RE(bps.mv(bench.polarizer, 12.7))
    bench.RE(malus([bench.meter], bench.hwp, 0, 170, 15))
    found = row(bench, "malus")
    truth = fit_half_wave_plate(FINE, [bench_power(angle, 12.7, source_w(bench)) for angle in FINE])
    assert found["period"] == 90
    assert agrees(found["angle"], truth.angle_deg, found["angle_error"], ROTATOR_STEP_DEG)
    assert found["amplitude"] == pytest.approx(truth.amplitude, rel=0.01)
    assert found["r_squared"] > 0.999


def test_half_wave_plate(bench, row):
    bench.RE(bps.mv(bench.polarizer, 12.7))
    bench.RE(calibrate_half_wave_plate([bench.meter], bench.hwp, 0, 90, 16, sample="plate"))
    found = row(bench, "half_wave_plate")
    truth = fit_half_wave_plate(FINE, [bench_power(angle, 12.7, source_w(bench)) for angle in FINE])
    assert truth.r_squared == pytest.approx(1.0)
    assert agrees(found["angle"], truth.angle_deg, found["angle_error"], ROTATOR_STEP_DEG)
    assert agrees(found["amplitude"], truth.amplitude, found["amplitude_error"], 1e-3 * truth.amplitude)
    assert agrees(found["offset"], truth.offset, found["offset_error"], 1e-3 * truth.amplitude)


@pytest.mark.parametrize("geometry", ["parallel", "crossed"])
def test_rotational_anisotropy(bench, row, geometry):
    plan = rotational_anisotropy(
        [bench.meter], bench.hwp, bench.polarizer, 0, 168, 15, geometry=geometry, half_wave_plate=True,
        polariser_zero=8.3, analyser_zero=12.7,
    )  # fmt: skip
    bench.RE(plan)
    found = row(bench, "anisotropy")
    crossing = 90.0 if geometry == "crossed" else 0.0
    truth = fit_anisotropy(
        FINE, [bench_power(8.3 + angle / 2, 12.7 + angle + crossing, source_w(bench)) for angle in FINE]
    ).fit
    assert truth.r_squared == pytest.approx(1.0)
    assert agrees(found["offset"], truth.offset, found["offset_error"], 1e-3 * truth.offset)
    for fold, wave in truth.harmonics.items():
        assert agrees(found[f"amplitude_{fold}"], wave.amplitude, found[f"amplitude_{fold}_error"], 1e-3 * truth.offset)
        if wave.amplitude > 0.04 * truth.offset:
            assert agrees(found[f"angle_{fold}"], wave.angle_deg, found[f"angle_{fold}_error"], 0.05)
    assert truth.harmonics[2 if geometry == "parallel" else 4].amplitude > 0.3 * truth.offset


def test_wavelength_scan_takes_the_meter_along(bench, row):
    bench.RE(bps.mv(bench.hwp, 8.3, bench.polarizer, 12.7))
    bench.RE(wavelength_scan([bench.meter], bench.laser, 740, 860, 7))
    events, found = bench.events(), row(bench, "wavelength")
    assert [event["meter_wavelength"] for event in events] == [event["laser_wavelength"] for event in events]
    assert bench.truth["instruments"]["meter"]["wavelength_nm"] == 860
    # The gain of the simulated laser: a Gaussian around 800 nm with a standard deviation of 140 nm.
    assert agrees(found["centre"], 800, found["centre_error"], 0.5)
    assert agrees(found["sigma"], 140, found["sigma_error"], 0.5)


def test_delay_scan(bench, row):
    bench.RE(bps.mv(bench.hwp, 8.3, bench.polarizer, 12.7, bench.laser.wavelength, 800, bench.meter.wavelength, 800))
    bench.RE(delay_scan([bench.meter], bench.stage.axis[1], -1.5, 1.5, 21, zero_mm=12.4))
    events, found = bench.events(), row(bench, "delay")
    light = 0.299792458
    for event in events:
        assert event["stage_axis_1_delay"] == pytest.approx(2 * (event["stage_axis_1"] - 12.4) / light)
    assert agrees(found["centre_mm"], 12.5, found["centre_mm_error"], 2e-4)
    assert agrees(found["centre"], 2 * 0.1 / light, found["centre_error"], 2e-3)
    assert agrees(found["sigma"], 2 * 0.05 / light, found["sigma_error"], 2e-3)
    assert agrees(found["height"] / found["background"], 0.3, found["height_error"] / found["background"], 1e-3)


def test_image_scan_puts_settings_back_and_takes_dark_frames(bench, row):
    bench.RE(bps.mv(bench.hwp, 8.3, bench.polarizer, 12.7))
    region = (1000, 1063, 2, 960, 1023, 2)
    bench.RE(
        image_scan(
            bench.camera, bench.polarizer, 12.7, 102.7, 4, region=region, exposure_ms=3, shutter=bench.laser,
            dark_frames=2,
        )
    )  # fmt: skip
    found = row(bench, "image")
    assert (found["frames"], found["dark_frames"]) == (4, 2)
    assert found["dark"] == pytest.approx(100, abs=2)
    means = np.array([event["camera_mean"] for event in bench.events()]) - found["dark"]
    truth = np.array([bench_power(8.3, angle, source_w(bench)) for angle in (12.7, 42.7, 72.7, 102.7)])
    assert means / means[0] == pytest.approx(truth / truth[0], abs=0.02)
    assert bench.value(bench.camera.exposure) == 5
    assert list(bench.value(bench.camera.region)) == [900, 1155, 1, 860, 1115, 1]
    assert bench.truth["instruments"]["laser"]["shutter_open"]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda b: delay_scan([b.meter], b.stage.axis[1], 0, 900, 5, zero_mm=1), "stop_ps"),
        (lambda b: calibrate_half_wave_plate([b.meter], b.hwp, 0, 10), "at least 45 deg"),
        (lambda b: wavelength_scan([b.meter], b.laser, 600, 800, 5), "start = 600"),
        (lambda b: wavelength_scan([b.meter], b.laser, 800, 802, 5), "whole nm"),
        (lambda b: rotational_anisotropy([b.meter], b.hwp, b.hwp, num=3), "named only once"),
        (lambda b: image_scan(b.camera, num=2, dark_frames=1), "shutter"),
        (lambda b: image_scan(b.meter, num=2, region=(0, 9, 1, 0, 9, 1)), "a camera with a setting 'region'"),
    ],
)
def test_arguments_are_refused_before_anything_moves(bench, make, problem):
    with pytest.raises(PlanArgumentError, match=problem) as caught:
        bench.RE(make(bench))
    assert "Nothing has moved." in str(caught.value)
    assert not bench.documents


_ = PowerOutOfReach, power_hold
