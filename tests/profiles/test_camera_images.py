"""Images of both generations come back from the catalog's server, frame by frame."""

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.run_engine import call_in_bluesky_event_loop

import devices.v2
import devices.v4
from catalog import CatalogSession
from devices.cameras import CameraPool, GivenCameras
from simulators.camera import SimulatedCamera

SHAPE = (300, 200)
REGION = (900, 1099, 1, 850, 1149, 1)


@pytest.fixture(scope="module")
def served(data_dir):
    session = CatalogSession(data_dir)
    session.catalog(wait=60.0)
    yield session
    session.close(wait_delivered=30.0)


@pytest.mark.server
def test_images_of_both_generations_are_read_back_lazily(served, tmp_path):
    engine = RunEngine({}, context_managers=[])
    pool = CameraPool(GivenCameras(SimulatedCamera(time_scale=0.1)), tmp_path)
    old = devices.v2.PVCAMInstrument(pool.get("PrimeBSI"), name="old", region=REGION)
    new = devices.v4.PVCAMInstrument(pool.get("PrimeBSI"), name="new", region=REGION)
    old.connect()
    call_in_bluesky_event_loop(new.connect())
    engine.subscribe(served.journal)
    (uid,) = engine(bp.count([old, new], 3))
    served.wait_delivered(uid, timeout=60.0)
    run = served.catalog()[uid]
    table = run["primary"].read(["old_mean", "new_mean"])
    for name in ("old", "new"):
        images = run["primary"][f"{name}_image"]
        assert images.shape == (3, 1, *SHAPE)
        assert images.dtype == np.uint16
        assert images.chunks[0] == (1, 1, 1)
        second = images[1, 0]
        assert second.shape == SHAPE
        assert second.mean() == pytest.approx(float(table[f"{name}_mean"][1]))
        np.testing.assert_allclose(images[:].mean(axis=(1, 2, 3)), table[f"{name}_mean"])
        assert run["primary"].metadata["configuration"][name]["data"][f"{name}_exposure"] == 10
    for device in (old, new):
        device.destroy()
    pool.close()
