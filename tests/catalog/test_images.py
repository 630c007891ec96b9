"""Images in files and in events: read piece by piece, with names for their axes, and exported as they are."""

from __future__ import annotations

import warnings

import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.plans import count
from catalog_helpers import FilmedRun
from ophyd.sim import SynSignal

from catalog import export_nexus, export_run, open_catalog
from catalog.rewriting import PatientTransport
from devices.cameras import CameraPool, GivenCameras
from devices.v2 import PVCAMInstrument
from simulators.camera import SimulatedCamera

pytestmark = pytest.mark.server

SIDE = 30
FRAMES = 1000


@pytest.fixture
def requests(monkeypatch):
    """The paths of arrays that are asked for from now on, and how many bytes came."""
    seen = []
    hand_on = PatientTransport.handle_request

    def handle(self, request):
        response = hand_on(self, request)
        if "/array/" in request.url.path:
            seen.append(int(response.headers["content-length"]))
        return response

    monkeypatch.setattr(PatientTransport, "handle_request", handle)
    return seen


@pytest.fixture(scope="module")
def measured(served, tmp_path_factory):
    """A run of a camera with a square sensor and of a detector whose events hold square images."""
    pool = CameraPool(GivenCameras(SimulatedCamera(time_scale=0.01)), tmp_path_factory.mktemp("images"))
    region = (900, 899 + SIDE, 1, 850, 849 + SIDE, 1)
    camera = PVCAMInstrument(pool.get("PrimeBSI"), name="camera", region=region, exposure=1)
    camera.connect()
    inline = SynSignal(name="inline", func=lambda: np.arange(SIDE * SIDE, dtype="u2").reshape(SIDE, SIDE))
    engine = RunEngine({})
    engine.subscribe(served.journal)
    (uid,) = engine(count([camera, inline], 5))
    pool.close()
    served.wait_delivered(uid, timeout=60.0)
    return uid


@pytest.fixture(scope="module")
def stacked(served, tmp_path_factory):
    """A run with a stack of a thousand frames in one file; its uid and the frames."""
    frames = np.arange(FRAMES * 20 * 20, dtype="u4").reshape(FRAMES, 20, 20)
    path = tmp_path_factory.mktemp("stack") / "frames.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("entry/data", data=frames, chunks=(1, 20, 20))
    run = FilmedRun(served, path, frames, dataset="entry/data")
    run.announce(0, FRAMES)
    run.end()
    return run.uid, frames


def test_rows_and_columns_of_square_images_have_names_of_their_own(served, measured):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # as which xarray tells of one name for two axes
        data = served.catalog()[measured]["primary"].read()
        assert data["inline"].isel(time=0).shape == (SIDE, SIDE)
    for name in ("inline", "camera_image"):
        assert data[name].dims[0] == "time"
        assert len(set(data[name].dims)) == data[name].ndim
    np.testing.assert_array_equal(data["inline"][4], np.arange(SIDE * SIDE).reshape(SIDE, SIDE))


def test_opening_a_large_stack_reads_none_of_it(served, stacked, requests):
    uid, frames = stacked
    stack = served.catalog()[uid]["primary"]["frames"]
    assert stack.shape == frames.shape
    lazy = open_catalog(served.directory.root, lazy=True)[uid]["primary"].read()["frames"]
    assert lazy.shape == frames.shape
    brightest = lazy.max(("time",))
    assert requests == []
    np.testing.assert_array_equal(stack[17], frames[17])
    assert sum(requests) <= 2 * frames[17].nbytes
    np.testing.assert_array_equal(lazy[900:903].values, frames[900:903])
    assert brightest.dims == lazy.dims[1:]


def test_images_in_files_are_exported_a_few_at_a_time(served, measured, stacked, requests, tmp_path, monkeypatch):
    export_run(served.directory.root, measured, tmp_path / "run.h5")
    images = served.catalog()[measured]["primary"]["camera_image"].read()
    with h5py.File(tmp_path / "run.h5") as file:
        data = file["entry/primary"]
        np.testing.assert_array_equal(data["camera_image"], images)
        assert data["camera_image"].attrs["interpretation"] == "image"
        np.testing.assert_allclose(data["camera_image"][:].mean(axis=(1, 2, 3)), data["camera_mean"])
        assert data["inline"].shape == (5, SIDE, SIDE)
    uid, frames = stacked
    at_a_time = 100 * frames[0].nbytes
    monkeypatch.setattr(export_nexus, "FRAMES_AT_A_TIME_BYTES", at_a_time)
    requests.clear()
    export_run(served.directory.root, uid, tmp_path / "stack.h5")
    with h5py.File(tmp_path / "stack.h5") as file:
        np.testing.assert_array_equal(file["entry/primary/frames"], frames)
    assert len(requests) == 10
    assert max(requests) <= at_a_time
