"""A session to be killed: records slow runs and tells each document it has emitted, after the journal has it.

Usage: measuring_session.py <data_dir> <events> <seconds per event> [<folder for a camera's images>]
"""

import base64
import sys
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky import RunEngine
from ophyd.sim import SynAxis, SynGauss, SynSignal

from catalog import CatalogSession
from catalog.encoding import encode

motor = SynAxis(name="motor", labels={"motors"})
det = SynGauss("det", motor, "motor", center=0, Imax=1, labels={"detectors"})
counter = iter(range(10**9))
wave = SynSignal(name="wave", func=lambda: np.arange(64.0) + next(counter))


def camera(folder):
    """Return a camera with a sensor of 40 x 30 pixels, and its pool."""
    from devices.cameras import CameraPool, GivenCameras
    from devices.v2 import PVCAMInstrument
    from simulators.camera import SimulatedCamera

    pool = CameraPool(GivenCameras(SimulatedCamera(time_scale=0.05)), folder)
    device = PVCAMInstrument(pool.get("PrimeBSI"), name="camera", region=(900, 929, 1, 850, 889, 1), exposure=1)
    device.connect()
    return device, pool


def plan(devices, events, delay):
    @bpp.stage_decorator(devices)
    @bpp.run_decorator(md={"plan_name": "slow", "purpose": "to be killed"})
    def inner():
        for position in range(events):
            yield from bps.mv(motor, position * 0.1)
            yield from bps.trigger_and_read(devices)
            yield from bps.sleep(delay)

    yield from inner()


def tell(name, document):
    print(base64.b64encode(encode(name, document)).decode(), flush=True)


if __name__ == "__main__":
    data_dir, events, delay = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    devices = [det, motor, wave]
    pool = None
    if len(sys.argv) > 4:
        image_camera, pool = camera(Path(sys.argv[4]))
        devices.append(image_camera)
    RE = RunEngine({})
    with CatalogSession(data_dir) as session:
        RE.subscribe(session.journal)
        RE.subscribe(tell)
        RE(plan(devices, events, delay))
    if pool is not None:
        pool.close()
