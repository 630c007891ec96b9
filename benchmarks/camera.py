"""Speed of camera frames into HDF5 beside bare sequential writing, in one run.

    python -m benchmarks.camera [--quick] [--output FILE] [--directory DIR]

Frames of 2048 x 2048 pixels of 16 bit come from the simulated camera's pool, faster than any disk takes them, are
copied out of its buffer, measured, and written to a file that can be read meanwhile. The bare rate is that of writing
the same frames one after the other to a plain file. Both include the time until the system says that everything is on
the disk. Memory is that of the process after the first fifth of a long acquisition and at its end. At last the camera
runs at its real speed: no frame may be lost.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import psutil

from benchmarks.harness import emit, interleave, ratio, summary
from devices.cameras import CameraPool, GivenCameras, PVCAMDriver
from devices.options import PVCAMInstrumentOptions
from simulators.camera import SimulatedCamera

FRAME_BYTES = 2048 * 2048 * 2


class Bench:
    """A camera and a folder to write to."""

    def __init__(self, directory: Path, camera: SimulatedCamera) -> None:
        self.directory = directory
        self.pool = CameraPool(GivenCameras(camera), directory)
        self.driver = PVCAMDriver(
            self.pool.get(camera.name), "camera", PVCAMInstrumentOptions(exposure=1, buffer_frames=16)
        )
        self.driver.connect()
        self.frames = [self.driver.snap().pixels for _ in range(4)]

    def take(self, number: int) -> float:
        """Take frames into a file; return the seconds until all of it is on the disk."""
        started = perf_counter()
        file = self.driver.open_file()
        self.driver.start(number).finished.result()
        self.driver.close_file()
        _sync(file.path)
        return _elapsed_and_removed(started, file.path)

    def write_bare(self, number: int) -> float:
        """Write the same frames to a plain file; return the seconds until all of it is on the disk."""
        path = self.directory / "bare.bin"
        started = perf_counter()
        with path.open("wb", buffering=0) as file:
            for index in range(number):
                file.write(self.frames[index % len(self.frames)].data)
        _sync(path)
        return _elapsed_and_removed(started, path)

    def memory_growth(self, number: int) -> dict[str, float]:
        """Take many frames; return the process's memory early and late, in MB."""
        process = psutil.Process()
        file = self.driver.open_file()
        acquisition = self.driver.start(number)
        early = 0
        while not acquisition.finished.done():
            if not early and acquisition.taken > number // 5:
                early = process.memory_info().rss
            os.sched_yield()
        late = process.memory_info().rss
        self.driver.close_file()
        file.path.unlink()
        return {"early": round(early / 1e6, 1), "late": round(late / 1e6, 1), "growth": round((late - early) / 1e6, 1)}

    def close(self) -> None:
        """Close the camera."""
        self.pool.close()


def at_real_speed(directory: Path, number: int) -> dict[str, Any]:
    """Take frames as fast as the real camera gives them; return what was lost and what it cost."""
    bench = Bench(directory, SimulatedCamera(pool_frames=4))
    file = bench.driver.open_file()
    started, used = perf_counter(), process_time()
    acquisition = bench.driver.start(number)
    acquisition.finished.result()
    elapsed, used = perf_counter() - started, process_time() - used
    bench.driver.close_file()
    file.path.unlink()
    bench.close()
    return {
        "frames": number,
        "dropped": acquisition.dropped,
        "frames_per_s": round(acquisition.frame_rate, 1),
        "megabytes_per_s": round(number * FRAME_BYTES / elapsed / 1e6),
        "processors_used": round(used / elapsed, 2),
    }


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _elapsed_and_removed(started: float, path: Path) -> float:
    elapsed = perf_counter() - started
    path.unlink()
    return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds: to see that it runs")
    parser.add_argument("--output", help="also write the JSON to this file")
    parser.add_argument("--directory", help="where to write; the system's folder for temporary files unless given")
    options = parser.parse_args()
    rounds, number, many = (4, 40, 100) if options.quick else (10, 150, 1000)
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        directory = Path(folder)
        bench = Bench(directory, SimulatedCamera(pool_frames=4, time_scale=1e-3))
        results = interleave(rounds, {"camera": partial(bench.take, number), "bare": partial(bench.write_bare, number)})
        rates = {name: [number * FRAME_BYTES / seconds / 1e6 for seconds in each] for name, each in results.items()}
        memory = bench.memory_growth(many)
        bench.close()
        emit(
            {
                "frames_each_round": number,
                "megabytes_per_s": {name: summary(each, unit=1.0) for name, each in rates.items()},
                "camera_over_bare": ratio(rates["camera"], rates["bare"]),
                "camera_over_bare_at_best": round(max(rates["camera"]) / max(rates["bare"]), 3),
                "memory_megabytes": {"frames": many, **memory},
                "at_real_speed": at_real_speed(directory, many // 4),
            },
            options.output,
        )


if __name__ == "__main__":
    main()
