"""PVCAM cameras of both generations on a simulated camera, alone and together."""

import asyncio
import subprocess
import sys
import threading
import time

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import FailedStatus
from documents import events
from ophyd_async.core import (
    DetectorTrigger,
    NotConnectedError,
    StaticFilenameProvider,
    StaticPathProvider,
    TriggerInfo,
    set_mock_value,
)

import devices.v2
import devices.v4
from coexistence import AcquireTimeout
from devices.cameras import (
    AcquisitionStopped,
    CameraFailed,
    CameraLost,
    CameraPool,
    CameraStalled,
    FrameNotTaken,
    FrameShapeChanged,
    GivenCameras,
    ImageFileError,
    Region,
    SessionFolderInUse,
)
from devices.protocols.errors import ValueRefused
from simulators.camera import SimulatedCamera

REGION = (900, 1099, 1, 900, 999, 1)
COLUMNS = ("mean", "max", "sum", "frame_number", "dropped_frames")


@pytest.fixture
def power_w():
    return [1e-3]


@pytest.fixture
def camera(power_w):
    made = SimulatedCamera(time_scale=0.2, power_w=lambda: power_w[0])
    yield made
    made.replug()


@pytest.fixture
def pool(camera, tmp_path):
    pool = CameraPool(GivenCameras(camera), tmp_path / "images")
    yield pool
    pool.close()


@pytest.fixture
def make(pool, engine):
    made = []

    def make_device(generation, name=None, **options):
        options = {"region": REGION, "session": "friday"} | options
        module = devices.v2 if generation == "v2" else devices.v4
        device = module.PVCAMInstrument(pool.get("PrimeBSI"), name=name or f"camera_{generation}", **options)
        made.append(device)
        connect(device)
        return device

    yield make_device
    for device in made:
        device.destroy()


def connect(device, **options):
    if isinstance(device, devices.v2.PVCAMInstrument):
        device.connect()
    else:
        call_in_bluesky_event_loop(device.connect(**options))


@pytest.fixture(params=["v2", "v4"])
def device(request, make):
    return make(request.param, "camera")


def wait_for_frames(device, seconds):
    """Choose how long a frame may take beyond exposure and readout."""
    device.driver.options = device.driver.options.model_copy(update={"frame_timeout": seconds})


def image_file(documents):
    for name, document in documents:
        if name == "resource":
            return f"{document['root']}/{document['resource_path']}"
        if name == "stream_resource":
            return document["uri"].removeprefix("file://localhost")
    raise AssertionError("no file was announced")


def cause(error):
    return error.__cause__ if isinstance(error, FailedStatus) else error


def test_count_takes_a_frame_for_each_event_and_measures_it(engine, documents, device, power_w):
    def plan():
        yield from bps.open_run()
        for power in (1e-3, 2e-3, 0.0):
            power_w[0] = power
            yield from bps.trigger_and_read([device])
        yield from bps.close_run()

    engine(bpp.stage_wrapper(plan(), [device]))
    measured = events(documents)
    assert [event["data"]["camera_frame_number"] for event in measured] == [1, 2, 3]
    assert [event["data"]["camera_dropped_frames"] for event in measured] == [0, 0, 0]
    means = [event["data"]["camera_mean"] for event in measured]
    assert means[1] - 100 == pytest.approx(2 * (means[0] - 100), rel=0.02)
    assert means[2] == pytest.approx(100, abs=1)
    with h5py.File(image_file(documents)) as file:
        images = file["entry/data/data"][:]
        assert images.shape == (3, 100, 200)
        assert images.dtype == np.uint16
        for image, event in zip(images, measured, strict=True):
            assert image.mean() == pytest.approx(event["data"]["camera_mean"])
            assert image.max() == event["data"]["camera_max"]
            assert image.sum() == event["data"]["camera_sum"]
        assert list(file["entry/frames/frame_number"]) == [1, 2, 3]
        assert list(file.attrs["region"]) == list(REGION)
    for event in measured:
        assert abs(event["timestamps"]["camera_mean"] - event["time"]) < 5


def test_each_staging_has_a_file_of_its_own_in_the_folder_of_the_session(engine, documents, device, tmp_path):
    engine(bp.count([device], 2))
    first = image_file(documents)
    documents.clear()
    engine(bp.count([device], 1))
    second = image_file(documents)
    folder = tmp_path / "images" / "friday"
    assert {str(path) for path in folder.glob("camera_*.h5")} == {first, second}


def test_step_scan_moves_and_takes_frames(engine, documents, device):
    from ophyd.sim import SynAxis

    engine(bp.scan([device], SynAxis(name="motor"), 0, 1, 4))
    assert len(events(documents)) == 4
    with h5py.File(image_file(documents)) as file:
        assert len(file["entry/data/data"]) == 4


def test_both_generations_share_one_camera_in_one_run_and_see_the_same_truth(engine, documents, make):
    both = [make("v2"), make("v4")]
    engine(bp.count(both, 5))
    for event in events(documents):
        assert event["data"]["camera_v2_mean"] == pytest.approx(event["data"]["camera_v4_mean"], rel=0.02)
        numbers = {event["data"]["camera_v2_frame_number"], event["data"]["camera_v4_frame_number"]}
        assert len(numbers) == 2
        assert event["data"]["camera_v2_dropped_frames"] == event["data"]["camera_v4_dropped_frames"] == 0


def test_setting_by_the_other_generation_shows_in_the_next_run(engine, documents, make):
    old, new = make("v2"), make("v4")
    engine(bps.mv(new.exposure, 25))
    engine(bps.mv(old.region, (0, 399, 4, 0, 199, 4)))
    engine(bp.count([old, new]))
    descriptor = next(document for name, document in documents if name == "descriptor")
    for name in ("camera_v2", "camera_v4"):
        settings = descriptor["configuration"][name]["data"]
        assert settings[f"{name}_exposure"] == 25
        assert list(settings[f"{name}_region"]) == [0, 399, 4, 0, 199, 4]
        assert descriptor["data_keys"][f"{name}_image"]["shape"] == [1, 50, 100]


def test_both_generations_have_the_same_face(engine, documents, make):
    faces = []
    for generation in ("v2", "v4"):
        device = make(generation, "camera")
        documents.clear()
        engine(bp.count([device]))
        descriptor = next(document for name, document in documents if name == "descriptor")
        configuration = descriptor["configuration"]["camera"]
        keys = {name: dict(key) for name, key in descriptor["data_keys"].items()}
        assert keys["camera_image"].pop("external") == {"v2": "FILESTORE:", "v4": "STREAM:"}[generation]
        values = {name: type(value) for name, value in events(documents)[0]["data"].items()}
        values.pop("camera_image", None)
        faces.append(
            {
                "keys": keys,
                "hints": descriptor["hints"]["camera"],
                "values": values,
                "configuration": configuration["data_keys"],
                "settings": {name: (type(value), str(value)) for name, value in configuration["data"].items()},
            }
        )
        device.destroy()
    assert faces[0] == faces[1]
    assert faces[0]["hints"] == {"fields": ["camera_mean"]}
    assert set(faces[0]["values"]) == {f"camera_{column}" for column in COLUMNS}
    image = faces[0]["keys"]["camera_image"]
    assert (image["shape"], image["dtype"], image["dtype_numpy"]) == ([1, 100, 200], "array", "<u2")
    assert image["source"] == "camera:PrimeBSI#image"
    assert faces[0]["keys"]["camera_mean"]["units"] == "counts"
    assert faces[0]["configuration"]["camera_exposure"]["units"] == "ms"


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("exposure", -1, "0 to"),
        ("exposure", 20_000, "exposure times between 0 and 10000"),
        ("exposure", 2.5, "a finite value of type int"),
        ("region", (0, 2048, 1, 0, 9, 1), "s2 up to 2047 and p2 up to 2047"),
        ("region", (0, 8, 3, 0, 8, 3), "a binning of 1x1, 2x2, 4x4"),
        ("region", (0, 8, 2, 0, 9, 2), "s2 = 7 or 9, where the last bin is full"),
        ("region", (0, 8), "six whole numbers"),
        ("trigger_mode", "BULB", "one of 'INTERNAL', 'EDGE'"),
    ],
)
def test_wrong_setting_is_refused_with_what_is_allowed_and_changes_nothing(engine, device, setting, value, allowed):
    signal = getattr(device, setting)
    before = device.driver.read(setting).value
    with pytest.raises((ValueRefused, FailedStatus)) as caught:
        engine(bps.mv(signal, value))
    error = cause(caught.value)
    assert isinstance(error, ValueRefused)
    assert f"{setting} cannot be {value!r}" in str(error)
    assert allowed in str(error)
    np.testing.assert_array_equal(device.driver.read(setting).value, before)


def test_stalled_camera_is_a_timeout_that_names_it_and_the_next_run_works(engine, documents, device, camera):
    camera.stall()
    wait_for_frames(device, 0.5)
    began = time.monotonic()
    with pytest.raises((CameraStalled, FailedStatus)) as caught:
        engine(bp.count([device]))
    error = cause(caught.value)
    assert isinstance(error, CameraStalled)
    assert isinstance(error, TimeoutError)
    assert "Camera 'PrimeBSI' gave no frame within" in str(error)
    assert time.monotonic() - began < 8
    assert events(documents) == []
    camera.stall(False)
    wait_for_frames(device, 10.0)
    documents.clear()
    engine(bp.count([device]))
    assert len(events(documents)) == 1


def test_unplugged_camera_fails_the_plan_and_works_again_after_replugging(engine, documents, device, camera):
    engine(bps.mv(device.exposure, 1000))
    unplug = threading.Timer(0.02, camera.unplug)
    unplug.start()
    with pytest.raises((CameraLost, FailedStatus)) as caught:
        engine(bp.count([device], 20))
    unplug.join()
    error = cause(caught.value)
    assert isinstance(error, CameraLost)
    assert "Camera 'PrimeBSI' is gone" in str(error)
    assert "Plug it in" in str(error)
    camera.replug()
    documents.clear()
    engine(bp.count([device], 2))
    with h5py.File(image_file(documents)) as file:
        assert file["entry/data/data"].shape == (2, 100, 200)
    assert device.driver.exposure == 1000


def test_loop_goes_on_while_frames_are_taken_and_written(engine, keeps_loop_alive, make):
    whole = {"region": (0, 2047, 1, 0, 2047, 1)}
    both = [make("v2", **whole), make("v4", **whole)]
    engine(bp.count(both))  # renders the simulated frames, and imports
    keeps_loop_alive(lambda: engine(bp.count(both, 5)))


def test_region_changed_during_a_run_is_an_error(engine, device):
    def plan():
        yield from bps.open_run()
        yield from bps.trigger_and_read([device])
        yield from bps.mv(device.region, (0, 99, 1, 0, 99, 1))
        yield from bps.trigger_and_read([device])

    with pytest.raises((FrameShapeChanged, FailedStatus)) as caught:
        engine(bpp.stage_wrapper(plan(), [device]))
    assert isinstance(cause(caught.value), FrameShapeChanged)


def test_aborted_plan_ends_the_acquisition_and_closes_the_file(engine, documents, device, wait_for):
    engine(bps.mv(device.trigger_mode, "EDGE"))
    wait_for_frames(device, 30.0)

    def interrupt():
        wait_for(lambda: device.driver.acquisition is not None)
        engine.abort("enough")

    aborting = threading.Thread(target=interrupt)
    aborting.start()
    began = time.monotonic()
    with pytest.raises(Exception):  # noqa: B017 - interrupted or failed, whichever comes first
        engine(bp.count([device]))
    aborting.join()
    assert time.monotonic() - began < 20
    wait_for(lambda: device.driver.file is None)
    assert isinstance(device.driver.acquisition.finished.exception(10), AcquisitionStopped)
    assert device.driver.camera.arbiter.holder is None


def test_edge_trigger_waits_for_an_edge_and_its_absence_is_told(engine, documents, device, camera, wait_for):
    engine(bps.mv(device.trigger_mode, "EDGE"))
    pulsing = threading.Thread(target=lambda: wait_for(camera.pulse))
    pulsing.start()
    engine(bp.count([device]))
    pulsing.join()
    assert len(events(documents)) == 1
    wait_for_frames(device, 0.5)
    with pytest.raises((CameraStalled, FailedStatus)) as caught:
        engine(bp.count([device]))
    assert "in trigger mode EDGE" in str(cause(caught.value))
    assert "Check the source of the trigger" in str(cause(caught.value))


def test_full_disk_is_an_error_that_names_the_file(engine, documents, device, monkeypatch):
    def no_space(self, frame):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("devices.cameras.frame_file.FrameFile.write", no_space)
    with pytest.raises((ImageFileError, FailedStatus)) as caught:
        engine(bp.count([device]))
    error = cause(caught.value)
    assert isinstance(error, ImageFileError)
    assert "friday/camera_" in str(error)
    assert "No space left on device" in str(error)


def test_camera_kept_busy_by_another_owner_is_told_with_its_name(engine, documents, make, pool):
    device = make("v4", frame_timeout=0.2)
    held, release = threading.Event(), threading.Event()

    def hold():
        with pool.get("PrimeBSI").arbiter.acquire("alignment", 1.0):
            held.set()
            release.wait(20)

    holding = threading.Thread(target=hold)
    holding.start()
    assert held.wait(10)
    with pytest.raises((AcquireTimeout, FailedStatus), match="alignment") as caught:
        engine(bp.count([device]))
    release.set()
    holding.join()
    assert isinstance(cause(caught.value), AcquireTimeout)
    assert "'camera_v4' did not get camera 'PrimeBSI'" in str(cause(caught.value))


def test_second_session_is_refused_with_the_holder_named(make, tmp_path, device):
    folder = tmp_path / "images"
    script = f"""
from pathlib import Path
from devices.cameras import *
try:
    SessionFolders().claim("camera", Path({str(folder)!r}), "friday")
except SessionFolderInUse as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert f"camera: the session folder {folder / 'friday'} is in use by " in told
    assert "process " in told
    other = CameraPool(GivenCameras(), folder)
    with pytest.raises(SessionFolderInUse, match="option 'session'"):
        other.folders.claim("camera", folder, "friday")
    other.folders.claim("camera", folder, "saturday")
    other.close()


def test_folder_is_free_again_when_the_session_has_ended(tmp_path, camera):
    for _ in range(2):
        pool = CameraPool(GivenCameras(camera), tmp_path)
        pool.folders.claim("camera", tmp_path, "friday")
        pool.close()


def test_unknown_camera_is_told_with_those_that_are_present(pool, engine):
    old = devices.v2.PVCAMInstrument(pool.get("PMPrimeBSI"), name="camera")
    with pytest.raises(Exception, match=r"There is no camera 'PMPrimeBSI'. Present: PrimeBSI"):
        old.connect()
    new = devices.v4.PVCAMInstrument(pool.get("PMPrimeBSI"), name="camera")
    with pytest.raises(NotConnectedError, match=r"camera on camera 'PMPrimeBSI': .* Present: PrimeBSI"):
        connect(new)


def test_v2_reading_before_any_frame_is_an_error(make):
    device = make("v2")
    with pytest.raises(devices.v2.NotMeasured):
        device.read()
    with pytest.raises(FrameNotTaken, match="has taken no frame yet"):
        device.driver.read("mean")


def test_driver_works_in_a_script(make, tmp_path):
    driver = make("v2").driver
    driver.exposure = 5
    driver.region = Region(0, 63, 2, 0, 31, 2)
    frame = driver.snap()
    assert frame.pixels.shape == (16, 32)
    assert frame.mean == pytest.approx(frame.pixels.mean())
    file = driver.open_file(tmp_path / "mine.h5")
    acquisition = driver.start(200)
    acquisition.finished.result(20)
    assert file.frames == 200
    driver.close_file()
    with h5py.File(file.path) as written:
        times = written["entry/frames/time"][:]
    assert acquisition.frame_rate == pytest.approx(199 / (times[-1] - times[0]), rel=1e-3)
    # A machine that stands still makes it slower.
    assert acquisition.frame_rate < 1.3 / (0.2 * 5e-3)


def test_lost_frames_are_counted_and_the_numbers_have_a_gap(make, camera, wait_for):
    driver = make("v2").driver
    driver.trigger_mode = "EDGE"
    file = driver.open_file()
    acquisition = driver.start(3)
    wait_for(camera.pulse)
    wait_for(lambda: acquisition.taken == 1)
    camera.lose_frames(3)
    for _ in range(5):
        wait_for(camera.pulse)
    acquisition.finished.result(20)
    driver.close_file()
    with h5py.File(file.path) as written:
        assert list(written["entry/frames/frame_number"]) == [1, 5, 6]
        assert list(written["entry/frames/dropped_frames"]) == [0, 3, 3]
    assert driver.read("dropped_frames").value == 3


def fly(device, info, name="primary"):
    yield from bps.open_run()
    yield from bps.prepare(device, info, wait=True)
    yield from bps.declare_stream(device, name=name, collect=True)
    yield from bps.kickoff(device, wait=True)
    yield from bps.complete(device, wait=False, group="flying")
    yield from bps.collect_while_completing([device], [device], flush_period=0.1, stream_name=name)
    yield from bps.close_run()


def test_v4_flies_through_many_frames(engine, documents, make):
    # Room for what a machine that stands still for a moment does not take in time.
    device = make("v4", "camera", buffer_frames=10_000)
    info = TriggerInfo(number_of_events=40, livetime=0.005)
    engine(bpp.stage_wrapper(fly(device, info), [device]))
    descriptor = next(document for name, document in documents if name == "descriptor")
    assert set(descriptor["data_keys"]) == {f"camera_{column}" for column in ("image", *COLUMNS)}
    assert descriptor["configuration"]["camera"]["data"]["camera_exposure"] == 5
    stops = {}
    for name, document in documents:
        if name == "stream_datum":
            stops[document["stream_resource"]] = document["indices"]["stop"]
    assert len(stops) == 6
    assert set(stops.values()) == {40}
    with h5py.File(image_file(documents)) as file:
        assert file["entry/data/data"].shape == (40, 100, 200)
        assert list(file["entry/frames/frame_number"]) == list(range(1, 41))
        assert file["entry/frames/dropped_frames"][-1] == 0


def test_v4_flies_on_external_edges_and_returns_to_its_mode(engine, documents, make, camera):
    device = make("v4", "camera")
    flying, done = threading.Event(), threading.Event()

    def pulse():
        assert flying.wait(10)
        while not done.wait(0.01):
            camera.pulse()

    # What comes before the kickoff would be counted, too.
    engine.msg_hook = lambda message: flying.set() if message.command == "complete" else None
    pulsing = threading.Thread(target=pulse)
    pulsing.start()
    info = TriggerInfo(number_of_events=5, trigger=DetectorTrigger.EXTERNAL_EDGE, deadtime=0.001)
    try:
        engine(bpp.stage_wrapper(fly(device, info), [device]))
    finally:
        flying.set()
        done.set()
        pulsing.join()
    with h5py.File(image_file(documents)) as file:
        assert len(file["entry/data/data"]) == 5
        assert file.attrs["trigger_mode"] == "EDGE"
    assert device.driver.trigger_mode == "INTERNAL"


def test_v4_refuses_what_the_camera_cannot_time(engine, make):
    device = make("v4", "camera")
    for info, told in (
        (TriggerInfo(livetime=0.0105), "10.5 ms is not possible: allowed are whole milliseconds"),
        (TriggerInfo(deadtime=1.0, number_of_events=2), "cannot wait 1 s between frames"),
    ):
        with pytest.raises((ValueError, FailedStatus)) as caught:
            engine(bps.prepare(device, info, wait=True))
        assert told in str(cause(caught.value))


def test_v4_file_can_be_read_while_it_is_written(engine, make, wait_for):
    device = make("v4", "camera")
    driver = device.driver
    file = driver.open_file()
    acquisition = driver.start(None)
    for _ in range(2):
        seen = file.frames
        wait_for(lambda seen=seen: file.frames > seen + 10)
        last = file.frames - 1
        with h5py.File(file.path, swmr=True) as reading:
            assert reading["entry/data/data"][last].mean() == pytest.approx(reading["entry/frames/mean"][last])
    acquisition.stop()
    acquisition.finished.result(10)
    driver.close_file()


def test_v4_uses_the_path_provider_it_is_given(engine, documents, make, tmp_path):
    provider = StaticPathProvider(StaticFilenameProvider("mine"), tmp_path / "elsewhere")
    engine(bp.count([make("v4", "camera", path_provider=provider)]))
    assert image_file(documents) == str(tmp_path / "elsewhere" / "mine.h5")


async def test_v4_mock_mode_needs_no_camera_and_writes_no_file(tmp_path):
    pool = CameraPool(GivenCameras(), tmp_path)
    device = devices.v4.PVCAMInstrument(pool.get("none"), name="camera", region=REGION)
    await device.connect(mock=True)
    await device.stage()
    await device.trigger()
    set_mock_value(device.mean, 123.0)
    assert (await device.read())["camera_mean"]["value"] == 123.0
    described = await device.describe()
    assert described["camera_image"]["shape"] == [1, 100, 200]
    assert described["camera_mean"]["units"] == "counts"
    documents = [name async for name, _ in device.collect_asset_docs()]
    assert documents == ["stream_resource", "stream_datum"]
    await device.exposure.set(50)
    assert (await device.read_configuration())["camera_exposure"]["value"] == 50
    await device.unstage()
    assert list(tmp_path.iterdir()) == []


async def test_v4_cancelled_trigger_ends_the_acquisition(camera, tmp_path, no_task_left_behind, wait_for):
    pool = CameraPool(GivenCameras(camera), tmp_path)
    device = devices.v4.PVCAMInstrument(pool.get("PrimeBSI"), name="camera", region=REGION, trigger_mode="EDGE")
    await device.connect()
    await device.stage()
    status = device.trigger()
    await asyncio.to_thread(wait_for, lambda: device.driver.acquisition)
    status.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await status
    finished = device.driver.acquisition.finished
    assert isinstance(await asyncio.to_thread(finished.exception, 10), AcquisitionStopped)
    await device.unstage()
    pool.close()


async def test_v4_tells_subscribers_of_frames_and_settings(camera, tmp_path):
    pool = CameraPool(GivenCameras(camera), tmp_path)
    device = devices.v4.PVCAMInstrument(pool.get("PrimeBSI"), name="camera", region=REGION)
    await device.connect()
    seen = asyncio.Queue()
    device.frame_number.subscribe_reading(lambda reading: seen.put_nowait(reading["camera_frame_number"]["value"]))
    exposures = asyncio.Queue()
    device.exposure.subscribe_reading(lambda reading: exposures.put_nowait(reading["camera_exposure"]["value"]))
    await asyncio.to_thread(device.driver.snap)
    assert await asyncio.wait_for(seen.get(), 10) == 1
    assert await asyncio.wait_for(exposures.get(), 10) == 10
    await asyncio.to_thread(device.driver.write, "exposure", 7)
    assert await asyncio.wait_for(exposures.get(), 10) == 7
    pool.close()


def test_v4_takes_several_frames_for_an_event(engine, documents, make):
    device = make("v4", "camera")

    def plan():
        yield from bps.open_run()
        yield from bps.prepare(device, TriggerInfo(collections_per_event=3), wait=True)
        for _ in range(2):
            yield from bps.trigger_and_read([device])
        yield from bps.close_run()

    engine(bpp.stage_wrapper(plan(), [device]))
    keys = next(document for name, document in documents if name == "descriptor")["data_keys"]
    assert keys["camera_image"]["shape"] == [3, 100, 200]
    assert keys["camera_mean"]["shape"] == [3]
    with h5py.File(image_file(documents)) as file:
        assert len(file["entry/data/data"]) == 6


def test_v4_flies_until_it_is_told_to_complete(engine, documents, make, wait_for):
    device = make("v4", "camera")

    @bpp.run_decorator()
    def plan():
        yield from bps.prepare(device, TriggerInfo(number_of_events=0), wait=True)
        yield from bps.kickoff(device, wait=True)
        while device.driver.file.frames < 20:
            yield from bps.sleep(0.05)
        yield from bps.complete(device, wait=True)

    engine(bpp.stage_wrapper(plan(), [device]))
    assert device.driver.acquisition.finished.exception() is None
    assert device.driver.acquisition.taken >= 20


def test_v4_call_that_never_returns_is_told_and_does_not_keep_the_plan(engine, make, camera, monkeypatch):
    device = make("v4", "camera", frame_timeout=0.1)
    monkeypatch.setattr("devices.v4.pvcam._GRACE_S", 0.1)
    monkeypatch.setattr("devices.cameras.driver._STOP_GRACE_S", 0.1)
    returns = threading.Event()
    monkeypatch.setattr(camera, "poll_frame", lambda **_: returns.wait(10))
    with pytest.raises((CameraFailed, FailedStatus)) as caught:
        engine(bps.trigger(device, wait=True))
    assert "the vendor's library, or the disk, has not returned" in str(cause(caught.value))
    returns.set()
    with pytest.raises(TypeError):
        device.driver.acquisition.finished.result(10)
