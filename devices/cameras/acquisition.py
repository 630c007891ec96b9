"""Taking frames: one thread reads them from the camera, another one measures and writes them."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

from devices.cameras.errors import (
    AcquisitionStopped,
    CameraStalled,
    FrameShapeChanged,
    ImageFileError,
)
from devices.cameras.frame_file import Frame, FrameFile
from devices.cameras.interface import PvcamCamera
from devices.cameras.shared_camera import SharedCamera

POLL_S = 0.1
"""How long to wait for a frame at a time: a stop is noticed within this time, without another thread calling the
vendor's library."""

_FLUSH_PERIOD_S = 0.2
_FRAMES_IN_HAND = 4
_BLOCK_BYTES = 512 * 1024
_ROWS_THAT_FIT_32_BITS = 65536


class Acquisition:
    """Frames of one camera, taken in the background from :meth:`start` on.

    Frames that the disk does not take in time wait in the camera's circular buffer, and are lost when it is full:
    memory stays as it is, and lost frames are counted.

    Parameters
    ----------
    camera
        The camera; it is this acquisition's alone as long as frames are taken.
    owner
        Who takes them, for messages.
    frames
        How many; None for as many as come until :meth:`stop`.
    file
        Where they go; None keeps only the last one.
    frame_timeout_s
        How long a frame may take beyond exposure and readout, and how long to wait for the camera beyond that.
    buffer_frames
        Size of the circular buffer.
    on_frames
        Called with the last frame whenever frames are there to be read, on a thread of the acquisition.
    """

    def __init__(
        self,
        camera: SharedCamera,
        owner: str,
        frames: int | None,
        file: FrameFile | None,
        *,
        frame_timeout_s: float,
        buffer_frames: int,
        on_frames: Callable[[Frame], None],
        dropped_before: int = 0,
    ) -> None:
        self.finished: Future[None] = Future()
        """Done when all frames are in the file, the camera is idle and the threads have ended; holds the error."""
        self.finished.set_running_or_notify_cancel()
        self.taken = 0
        self.dropped = dropped_before
        self.frame_rate = 0.0
        self.last: Frame | None = None
        self._camera = camera
        self._owner = owner
        self._wanted = frames
        self._file = file
        self._frame_timeout_s = frame_timeout_s
        self._buffer_frames = buffer_frames
        self._on_frames = on_frames
        self._stopping = threading.Event()
        self._first_frame_at = 0.0
        self._frames: queue.Queue[Frame | None] = queue.Queue(_FRAMES_IN_HAND)
        self._write_error: Exception | None = None
        self._reader = threading.Thread(target=self._run, name=f"{owner} camera", daemon=True)
        self._writer = threading.Thread(target=self._write, name=f"{owner} images", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._writer.start()
        self._reader.start()

    def stop(self) -> None:
        """End it soon; returns at once. ``finished`` then fails with AcquisitionStopped, unless all frames were there.

        An acquisition without a number of frames ends without an error.
        """
        self._stopping.set()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._take()
        except BaseException as caught:
            error = caught
        self._frames.put(None)
        self._writer.join()
        error = self._write_error or error
        if error is None:
            self.finished.set_result(None)
        else:
            self.finished.set_exception(error)

    def _take(self) -> None:
        camera = self._camera
        exposure_s = 0.0 if camera.exposure_ms is None else camera.exposure_ms.value / 1000
        patience_s = exposure_s + camera.readout_s + self._frame_timeout_s
        with camera.use(self._owner, patience_s, "taking frames") as face:
            assert camera.exposure_ms is not None
            patience_s = camera.exposure_ms.value / 1000 + camera.readout_s + self._frame_timeout_s
            if self._wanted == 1:
                face.start_seq(num_frames=1, reset_frame_counter=True)
            else:
                face.start_live(buffer_frame_count=self._buffer_frames, reset_frame_counter=True)
            counted = 0
            began = time.monotonic()
            try:
                while not self._complete():
                    frame = self._next(face, began, patience_s)
                    if frame is not None:
                        counted = self._hand_over(*frame, counted)
                        began = time.monotonic()
            finally:
                camera.end_acquisition(counted)
                with contextlib.suppress(RuntimeError):
                    face.finish()

    def _complete(self) -> bool:
        if self._write_error is not None:
            return True
        if self._wanted is not None and self.taken >= self._wanted:
            return True
        if self._stopping.is_set():
            if self._wanted is None:
                return True
            raise AcquisitionStopped(self._camera.name, self.taken)
        return False

    def _next(self, face: PvcamCamera, began: float, patience_s: float) -> tuple[dict[str, Any], int] | None:
        """Return the next frame and its number in the acquisition, counted from 1; None when there is none yet."""
        asked = time.monotonic()
        try:
            frame, _, number = face.poll_frame(timeout_ms=round(POLL_S * 1000), copyData=False)
        except RuntimeError as error:
            now = time.monotonic()
            # pyvcam has one error for a frame that has not come and for a camera that has gone: only the first takes
            # all the time it was given.
            if now - asked < POLL_S / 2:
                raise
            if now - began >= patience_s:
                assert self._camera.trigger_mode is not None
                mode = self._camera.trigger_mode.value
                raise CameraStalled(self._camera.name, now - began, mode, self.taken) from error
            return None
        header = frame.get("meta_data", {}).get("frame_header", {})
        return frame, int(header.get("frameNr", number))

    def _hand_over(self, frame: dict[str, Any], number: int, counted: int) -> int:
        now = time.time()
        pixels: npt.NDArray[np.uint16] = frame["pixel_data"]
        if self._file is not None and pixels.shape != self._file.shape:
            raise FrameShapeChanged(self._camera.name, self._file.shape, pixels.shape)
        self.dropped += max(0, number - counted - 1)
        copied, total, largest = _copy_and_measure(pixels)
        measured = Frame(
            copied,
            frame_number=self._camera.next_number(number),
            dropped_frames=self.dropped,
            time=now,
            mean=total / pixels.size,
            max=largest,
            sum=total,
        )
        self._note_rate(now)
        self._frames.put(measured)
        self.taken += 1
        return number

    def _note_rate(self, now: float) -> None:
        if self.taken == 0:
            self._first_frame_at = now
        elif now > self._first_frame_at:
            self.frame_rate = self.taken / (now - self._first_frame_at)

    def _write(self) -> None:
        """Write what comes; readers and listeners hear of it now and then, and when the last frame is written."""
        pending: Frame | None = None
        told = time.monotonic()
        while True:
            due_s = told + _FLUSH_PERIOD_S - time.monotonic()
            if pending is not None and due_s <= 0:
                self._tell(pending)
                pending, told = None, time.monotonic()
            try:
                frame = self._frames.get(timeout=None if pending is None else due_s)
            except queue.Empty:
                continue
            if frame is None:
                break
            if self._write_error is None:
                self._attempt(self._append, frame)
                pending = frame
        if pending is not None:
            self._tell(pending)

    def _append(self, frame: Frame) -> None:
        if self._file is not None:
            self._file.write(frame)

    def _tell(self, frame: Frame) -> None:
        if self._write_error is None:
            self._attempt(self._make_visible, frame)

    def _make_visible(self, frame: Frame) -> None:
        if self._file is not None:
            self._file.flush()
        self.last = frame
        self._on_frames(frame)

    def _attempt(self, step: Callable[[Frame], None], frame: Frame) -> None:
        try:
            step(frame)
        except Exception as error:
            self._write_error = error
            if isinstance(error, OSError | RuntimeError) and self._file is not None:
                self._write_error = ImageFileError(self._camera.name, self._file.path, str(error))
                self._write_error.__cause__ = error


def _copy_and_measure(pixels: npt.NDArray[np.uint16]) -> tuple[npt.NDArray[np.uint16], int, int]:
    """Copy a frame out of the camera's buffer; return it with the sum and the largest of its pixels.

    In blocks, so that what was just copied is measured while it is in the processor's cache.
    """
    copied = np.empty(pixels.shape, np.uint16)
    rows = max(1, min(_BLOCK_BYTES // copied.strides[0], _ROWS_THAT_FIT_32_BITS))
    total = largest = 0
    for first in range(0, len(pixels), rows):
        block = copied[first : first + rows]
        np.copyto(block, pixels[first : first + rows])
        total += int(np.add.reduce(block, axis=0, dtype=np.uint32).sum(dtype=np.uint64))
        largest = max(largest, int(block.max()))
    return copied, total, largest
