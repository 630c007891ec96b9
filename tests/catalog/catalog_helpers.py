"""Helpers of the catalog's tests: waiting with a deadline, and sessions in processes of their own."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from event_model import compose_run

from catalog import CatalogSession, original_documents
from catalog.directory import CatalogState, DataDirectory
from catalog.encoding import decode, encode
from catalog.verify import compare_run

ABSENT = object()
"""Stands for a value that the event does not have at all."""

NUMBER = {"dtype": "number", "shape": [], "source": "test"}


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 90.0) -> Any:
    """Return the first true value of a condition."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.02)
    return value


def state_of(session: CatalogSession) -> CatalogState:
    state = CatalogState.read(session.directory)
    assert state is not None
    return state


def assert_all_there(
    session: CatalogSession, uid: str, emitted: list[tuple[str, dict[str, Any]]], timeout: float = 60.0
) -> None:
    """Check that the journal begins with everything emitted, and the catalog holds the journal exactly once."""
    session.wait_delivered(uid, timeout=timeout)
    recorded = original_documents(session.directory.root, uid)
    # A killed session may have recorded one document that it did not get to tell.
    assert [encode(*each) for each in recorded[: len(emitted)]] == [encode(*each) for each in emitted]
    catalog = session.catalog(wait=timeout)
    assert list(catalog).count(uid) == 1
    assert compare_run(session.directory.root, catalog[uid]) == []


def assert_images_there(session: CatalogSession, uid: str) -> int:
    """Check that every image of a run is read back, and is the one its event measured; return how many there are."""
    primary = session.catalog()[uid]["primary"]
    measured = primary.read(["camera_mean"])["camera_mean"].values
    images = primary["camera_image"].read()
    assert len(images) == len(measured)
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), measured)
    return len(images)


def documents(keys: dict[str, tuple[dict[str, Any], list[Any]]], rows: int, stream: str = "primary"):
    """Return the documents of a run whose columns have these data keys and values."""
    run, descriptor, now = str(uuid.uuid4()), str(uuid.uuid4()), time.time()
    data_keys = {key: dict(data_key) for key, (data_key, _) in keys.items()}
    start = {"uid": run, "time": now, "plan_name": "count"}
    yield "start", start
    names = {"run_start": run, "name": stream, "object_keys": {"device": [*keys]}, "hints": {}, "configuration": {}}
    yield "descriptor", {"uid": descriptor, "time": now, "data_keys": data_keys, **names}
    for row in range(rows):
        data = {key: each[row] for key, (_, each) in keys.items() if each[row] is not ABSENT}
        event = {"uid": str(uuid.uuid4()), "descriptor": descriptor, "time": now, "seq_num": row + 1, "filled": {}}
        yield "event", {**event, "data": data, "timestamps": dict.fromkeys(data, now)}
    yield "stop", {"uid": str(uuid.uuid4()), "run_start": run, "time": now, "exit_status": "success", "reason": ""}


def deliver(served, run) -> Any:
    """Journal a run, wait for it, and return what the catalog has of it."""
    for name, document in run:
        if name == "start":
            uid = document["uid"]
        served.journal(name, document)
    served.wait_delivered(uid, timeout=90.0)
    return served.catalog()[uid]


class FilmedRun:
    """A run whose column `frames` lies in a file of its own, journalled step by step.

    `frames` is an array of what each event has, `chunk` the shape of one frame in the file: the same unless given.
    """

    def __init__(
        self, served, file: Path, frames: np.ndarray, *, chunk=None, dataset: str | None = None, **keys: Any
    ) -> None:
        self._served = served
        self._run = compose_run()
        self.uid = self._run.start_doc["uid"]
        shape = list(frames.shape[1:])
        key = {"source": "camera", "dtype": "array", "dtype_numpy": frames.dtype.str, "shape": shape}
        columns = {"frames": {**key, "external": "STREAM:"}, **keys}
        self._stream = self._run.compose_descriptor(name="primary", data_keys=columns)
        parameters = {"chunk_shape": (1, *(chunk or shape))}
        self._file = self._run.compose_stream_resource(
            mimetype="application/x-hdf5" if dataset else "application/x-zarr",
            uri=f"file://localhost{file}",
            data_key="frames",
            parameters={"dataset": dataset, **parameters} if dataset else parameters,
        )
        served.journal("start", self._run.start_doc)
        served.journal("descriptor", self._stream.descriptor_doc)
        served.journal("stream_resource", self._file.stream_resource_doc)

    def announce(self, begin: int, end: int) -> None:
        """Tell that the file has the frames of these events."""
        numbers = {"start": begin + 1, "stop": end + 1}
        datum = self._file.compose_stream_datum(indices={"start": begin, "stop": end}, seq_nums=numbers)
        self._served.journal("stream_datum", {**datum, "descriptor": self._stream.descriptor_doc["uid"]})

    def measure(self, **data: Any) -> None:
        """Emit an event with the other columns."""
        event = self._stream.compose_event(data=data, timestamps=dict.fromkeys(data, 0.0))
        self._served.journal("event", event)

    def end(self) -> None:
        """End the run and wait until it is in the catalog."""
        self._served.journal("stop", self._run.compose_stop())
        self._served.wait_delivered(self.uid, timeout=60.0)


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Yield a folder on a disk of its own that can be filled; skip the test where none can be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs Linux and its administrator")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_disk(folder: Path) -> Path:
    """Fill a disk to the last byte; return the file to remove to make room."""
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for size in (2**16, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass
    return ballast


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class MeasuringSession:
    """A session in a process of its own that records one slow run."""

    def __init__(self, data_dir: Path, events: int = 10_000, delay_s: float = 0.02, images: Path | None = None) -> None:
        self.directory = DataDirectory.at(data_dir)
        self.emitted: list[tuple[str, dict[str, Any]]] = []
        self.process = subprocess.Popen(
            [
                sys.executable,
                Path(__file__).with_name("measuring_session.py"),
                *(data_dir, str(events), str(delay_s)),
                *([images] if images is not None else []),
            ],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith(b"\n"):
                self.emitted.append(decode(base64.b64decode(line)))

    @property
    def uid(self) -> str:
        return str(wait_until(lambda: self.emitted, "the run to start")[0][1]["uid"])

    def wait_events(self, count: int) -> None:
        wait_until(lambda: sum(name == "event" for name, _ in list(self.emitted)) >= count, f"{count} events")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.finish()

    def finish(self, timeout: float = 90.0) -> None:
        self.process.wait(timeout)
        self._reader.join(timeout)
