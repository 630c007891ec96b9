"""The simulated camera: regions, binning, numbers, triggers, light, and what goes wrong."""

import threading
import time

import numpy as np
import pytest

from simulators.camera import Beam, SimulatedCamera
from simulators.optics import OpticalBench

PLENTY = 100_000
"""Frames of a buffer that is never full: at 2 ms a frame it holds what comes in minutes."""


@pytest.fixture
def camera():
    made = SimulatedCamera(time_scale=0.2)
    made.open()
    made.set_roi(900, 900, 200, 100)
    yield made
    made.replug()
    made.close()


def test_whole_sensor_of_sixteen_bits() -> None:
    camera = SimulatedCamera("PMPrimeBSI", time_scale=0.1)
    assert camera.get_available_camera_names() == ["PMPrimeBSI"]
    camera.open()
    pixels = camera.get_frame(10)
    assert pixels.shape == (2048, 2048)
    assert pixels.dtype == np.uint16
    assert camera.sensor_size == (2048, 2048)
    assert np.unravel_index(np.argmax(pixels), pixels.shape) == pytest.approx((990, 1040), abs=60)
    camera.close()
    with pytest.raises(RuntimeError, match="not open"):
        camera.get_frame(10)


def test_region_has_inclusive_ends_and_binning_cuts_what_does_not_fill_a_bin(camera) -> None:
    region = camera.rois[0]
    assert (region.s1, region.s2, region.p1, region.p2) == (900, 1099, 900, 999)
    assert camera.shape() == (200, 100)
    camera.reset_rois()
    camera.binning = (4, 4)
    camera.set_roi(0, 0, 203, 99)
    region = camera.rois[0]
    assert (region.s1, region.s2, region.sbin, region.p1, region.p2, region.pbin) == (0, 199, 4, 0, 95, 4)
    assert camera.get_frame(5).shape == (24, 50)


@pytest.mark.parametrize("binning", [3, 5, 7])
def test_binning_that_does_not_divide_the_sensor_leaves_room_for_a_region(camera, binning) -> None:
    camera.binnings.append((binning, binning))
    camera.reset_rois()
    camera.binning = binning
    assert camera.shape() == (2048 // binning, 2048 // binning)
    camera.set_roi(10, 20, 8 * binning + 2, 4 * binning + 1)
    region = camera.rois[0]
    assert (region.s2, region.p2) == (10 + 8 * binning - 1, 20 + 4 * binning - 1)
    assert camera.get_frame(5).shape == (4, 8)


def test_wrong_settings_are_refused(camera) -> None:
    with pytest.raises(ValueError, match="overlaps existing"):
        camera.set_roi(950, 950, 10, 10)
    with pytest.raises(ValueError, match="only supports 1 rois"):
        camera.set_roi(0, 0, 10, 10)
    camera.reset_rois()
    with pytest.raises(ValueError, match="beyond limits"):
        camera.set_roi(2000, 0, 100, 10)
    with pytest.raises(ValueError, match=">= 1"):
        camera.set_roi(0, 0, 0, 10)
    with pytest.raises(ValueError, match="only supports"):
        camera.binning = 3
    with pytest.raises(ValueError, match="between 0 and 10000"):
        camera.exp_time = 10_001
    with pytest.raises(ValueError, match="Invalid key 'Bulb'"):
        camera.exp_mode = "Bulb"


def test_brightness_is_proportional_to_power_exposure_and_bin(camera) -> None:
    power_w = [0.5e-3]
    camera = SimulatedCamera(power_w=lambda: power_w[0], beam=Beam(offset_counts=0.0), time_scale=0.1)
    camera.open()
    camera.set_roi(840, 790, 400, 400)
    base = float(camera.get_frame(10).mean())
    power_w[0] = 1e-3
    assert camera.get_frame(10).mean() == pytest.approx(2 * base, rel=0.01)
    assert camera.get_frame(5).mean() == pytest.approx(base, rel=0.01)
    camera.binning = 2
    assert camera.get_frame(5).mean() == pytest.approx(4 * base, rel=0.01)
    power_w[0] = 1.0
    assert camera.get_frame(10).max() == 65535


def test_light_changes_between_the_frames_of_one_acquisition() -> None:
    bench = OpticalBench()
    camera = SimulatedCamera(power_w=bench.power, time_scale=0.1)
    camera.open()
    camera.set_roi(1000, 950, 64, 64)
    camera.start_live(10)
    bright = camera.poll_frame(1000, oldestFrame=False)[0]["pixel_data"].mean()
    bench.set_state(power_w=0.0)
    dark = camera.poll_frame(1000, oldestFrame=False)[0]["pixel_data"].mean()
    camera.finish()
    assert bright > 1000
    assert dark == pytest.approx(100, abs=2)


def test_frames_are_numbered_and_timed(camera) -> None:
    camera.start_live(10, buffer_frame_count=PLENTY)
    frames = [camera.poll_frame(1000) for _ in range(20)]
    assert [number for _, _, number in frames] == list(range(1, 21))
    headers = [frame["meta_data"]["frame_header"] for frame, _, _ in frames]
    assert [header["frameNr"] for header in headers] == list(range(1, 21))
    # Exposures of 10 ms at a fifth of the time.
    steps = np.diff([header["timestampBOF"] for header in headers]) / 1e9
    assert steps == pytest.approx(0.002, rel=1e-3)
    assert headers[0]["exposureTime"] == 10_000_000
    assert frames[0][1] == pytest.approx(500)
    camera.finish()
    camera.start_live(10)
    assert camera.poll_frame(1000)[2] > 20
    camera.finish()
    camera.start_live(10, buffer_frame_count=PLENTY, reset_frame_counter=True)
    assert camera.poll_frame(1000)[2] == 1


def test_slow_reader_loses_the_oldest_frames(camera) -> None:
    camera.start_live(10, buffer_frame_count=4)
    first = camera.poll_frame(1000)[2]
    time.sleep(0.1)
    late = camera.poll_frame(1000)[2]
    assert late > first + 4
    assert camera.poll_frame(1000)[2] > late


def test_sequence_keeps_all_its_frames_and_ends(camera) -> None:
    camera.start_seq(10, num_frames=6)
    time.sleep(0.05)
    assert [camera.poll_frame(100)[2] for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(RuntimeError, match="timeout"):
        camera.poll_frame(30)


def test_edges_make_frames_unless_they_come_too_early(camera) -> None:
    camera.exp_mode = "Edge Trigger"
    assert not camera.pulse()
    camera.start_live(10_000)
    with pytest.raises(RuntimeError, match="timeout"):
        camera.poll_frame(20)
    assert camera.pulse()
    assert not camera.pulse()
    camera.finish()
    camera.start_live(100, reset_frame_counter=True)
    assert camera.pulse()
    assert camera.poll_frame(1000)[2] == 1
    assert camera.pulse()
    assert camera.poll_frame(1000)[2] == 2
    with pytest.raises(RuntimeError, match="software trigger"):
        camera.sw_trigger()


def test_software_trigger(camera) -> None:
    camera.exp_mode = "Software Trigger Edge"
    camera.start_live(10)
    waiting: list[int] = []
    thread = threading.Thread(target=lambda: waiting.append(camera.poll_frame(5000)[2]))
    thread.start()
    camera.sw_trigger()
    thread.join(5)
    assert waiting == [1]


def test_finish_ends_a_wait(camera) -> None:
    camera.exp_mode = "Edge Trigger"
    camera.start_live(10)
    errors: list[str] = []

    def wait() -> None:
        try:
            camera.poll_frame()
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    camera.finish()
    thread.join(5)
    assert not thread.is_alive()
    assert "no acquisition" in errors[0]
    with pytest.raises(RuntimeError, match="no acquisition"):
        camera.poll_frame(10)


def test_frames_may_be_shared_or_copied(camera) -> None:
    camera.start_live(10)
    shared = camera.poll_frame(1000, copyData=False)[0]["pixel_data"]
    copied = camera.poll_frame(1000)[0]["pixel_data"]
    assert not shared.flags.writeable
    assert copied.flags.writeable


def test_lost_frames_stall_and_unplug(camera) -> None:
    camera.start_live(10, buffer_frame_count=PLENTY)
    camera.lose_frames(3)
    assert camera.poll_frame(1000)[2] == 4
    camera.stall()
    with pytest.raises(RuntimeError, match="timeout"):
        camera.poll_frame(30)
    camera.stall(False)
    assert camera.poll_frame(1000)[2] == 5
    camera.unplug()
    with pytest.raises(RuntimeError, match="does not respond"):
        camera.poll_frame(1000)
    assert camera.get_available_camera_names() == []
    with pytest.raises(RuntimeError, match="Failed to open"):
        camera.open()
    camera.replug()
    camera.open()
    assert camera.get_frame(1, 1000).shape == (2048, 2048)
