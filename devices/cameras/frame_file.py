"""Frames of one camera in an HDF5 file that can be read while it is written.

The layout is that of EPICS area detectors, which readers know: images in ``/entry/data/data``, one chunk for each.
Beside them stands what was measured of each frame, in ``/entry/frames``.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import numpy.typing as npt

IMAGE_DATASET = "/entry/data/data"
FRAMES_GROUP = "/entry/frames"
MIMETYPE = "application/x-hdf5"
PIXEL = np.dtype("<u2")

_COLUMNS: dict[str, npt.DTypeLike] = {
    "mean": "<f8",
    "max": "<i8",
    "sum": "<i8",
    "frame_number": "<i8",
    "dropped_frames": "<i8",
    "time": "<f8",
}
_ROWS_PER_CHUNK = 1024
_PAGE = 4096


@dataclass(frozen=True)
class Frame:
    """One frame and what was measured of it.

    Parameters
    ----------
    pixels
        Rows by columns, unsigned 16 bit.
    frame_number
        Number of the frame since the camera was first opened; a gap means lost frames.
    dropped_frames
        Frames lost so far in this file.
    time
        When the frame had arrived, in s since 1970.
    mean, max, sum
        Of all pixels, in counts.
    """

    pixels: npt.NDArray[np.uint16]
    frame_number: int
    dropped_frames: int
    time: float
    mean: float
    max: int
    sum: int


def dataset_of(value: str) -> str:
    """Return where a value of the frames stands in the file."""
    return IMAGE_DATASET if value == "image" else f"{FRAMES_GROUP}/{value}"


class FrameFile:
    """A new file for frames of one shape; frames become visible to readers with :meth:`flush`.

    Parameters
    ----------
    path
        Of the file, which must not exist.
    shape
        Rows and columns of a frame.
    attributes
        What to say of the camera and its settings.

    Raises
    ------
    OSError
        When the file cannot be made.
    """

    def __init__(self, path: Path, shape: tuple[int, int], attributes: dict[str, Any] | None = None) -> None:
        self.path = path
        self.shape = shape
        self.frames = 0
        """Frames that readers can see."""
        self._lock = threading.RLock()
        self._written = 0
        self._rows: list[tuple[float, ...]] = []
        self._file = h5py.File(
            path, "x", libver=("v110", "v110"), alignment_threshold=2 * _PAGE, alignment_interval=_PAGE
        )
        try:
            self._images = self._make_images()
            group = self._file.create_group(FRAMES_GROUP)
            self._columns = [
                group.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(_ROWS_PER_CHUNK,))
                for name, dtype in _COLUMNS.items()
            ]
            self._file.attrs.update(attributes or {})
            self._file.swmr_mode = True
            self._pixels: BinaryIO = path.open("r+b", buffering=0)
        except BaseException:
            self._file.close()
            raise

    @property
    def closed(self) -> bool:
        """Whether the file is complete."""
        return not self._file

    def write(self, frame: Frame) -> None:
        """Append a frame.

        The pixels are written to the place HDF5 gives them without going through it: its calls keep the
        interpreter, and with it the event loop, for as long as a slow disk takes.
        """
        with self._lock:
            index = self._written
            images = self._images.id
            images.set_extent((index + 1, *self.shape))
            pixels = memoryview(np.ascontiguousarray(frame.pixels, PIXEL).data).cast("B")
            self._pixels.seek(images.get_chunk_info_by_coord((index, 0, 0)).byte_offset)
            while pixels:
                pixels = pixels[self._pixels.write(pixels) :]
            self._rows.append(tuple(getattr(frame, name) for name in _COLUMNS))
            self._written += 1

    def flush(self) -> int:
        """Let readers see all frames written so far; return their number."""
        with self._lock:
            if self._rows:
                for column, values in zip(self._columns, zip(*self._rows, strict=True), strict=True):
                    column.resize((self._written,))
                    column[self.frames :] = values
                    column.flush()
                self._images.flush()
                self._rows.clear()
                self.frames = self._written
            return self.frames

    def close(self) -> None:
        """Complete the file; does nothing when that is done."""
        with self._lock:
            if self._file:
                try:
                    self.flush()
                finally:
                    self._pixels.close()
                    self._file.close()

    def _make_images(self) -> h5py.Dataset:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((1, *self.shape))
        # Each chunk has its place as soon as the dataset is extended, and nothing is written there before the frame.
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        group = self._file.create_group(os.path.dirname(IMAGE_DATASET))
        space = h5py.h5s.create_simple((0, *self.shape), (h5py.h5s.UNLIMITED, *self.shape))
        name = os.path.basename(IMAGE_DATASET).encode()
        return h5py.Dataset(h5py.h5d.create(group.id, name, h5py.h5t.py_create(PIXEL), space, creation))
