"""Blocking driver of a PVCAM camera, which both generations drive from threads of their own."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from devices.cameras.acquisition import Acquisition
from devices.cameras.errors import CameraFailed, FrameNotTaken, ImageFileError
from devices.cameras.fields import FIELDS, FRAME_VALUES, SETTINGS, camera_source
from devices.cameras.frame_file import Frame, FrameFile
from devices.cameras.shared_camera import SharedCamera
from devices.options import PVCAMInstrumentOptions
from devices.protocols.conversation import Stamped
from devices.protocols.pvcam import Region, TriggerMode

_STOP_GRACE_S = 10.0


class PVCAMDriver:
    """A camera as scripts know it: settings as attributes, :meth:`snap` for one frame.

    It may be used from several threads; the camera serves one acquisition or change of settings at a time.

    Parameters
    ----------
    camera
        The camera, from a :class:`devices.cameras.CameraPool`.
    owner
        Who uses it, for messages and file names.
    options
        See :class:`devices.options.PVCAMInstrumentOptions`.
    """

    thread_safe = True
    fields = FIELDS

    def __init__(self, camera: SharedCamera, owner: str, options: PVCAMInstrumentOptions | None = None) -> None:
        self.camera = camera
        self.owner = owner
        self.options = options or PVCAMInstrumentOptions()
        self.folder: Path | None = None
        self.file: FrameFile | None = None
        self.acquisition: Acquisition | None = None
        self.last: Frame | None = None
        self._listeners: dict[str, list[Callable[[], None]]] = {}
        self._lock = threading.RLock()
        self._dropped = 0
        self._stop_listening = camera.add_listener(self._hear)

    @property
    def identity(self) -> str:
        """What the camera said it is."""
        return self.camera.identity

    def connect(self) -> None:
        """Open the camera, claim the session's folder, and apply the options.

        Raises
        ------
        CameraNotFound, CameraSdkMissing, CameraFailed
            When there is no such camera.
        SessionFolderInUse, ImageFileError
            When images cannot be written.
        """
        with self.camera.use(self.owner, self.options.frame_timeout, "connecting"):
            pass
        output_dir = self.options.output_dir or self.camera.output_dir
        self.folder = self.camera.folders.claim(self.owner, output_dir, self.options.session)
        for name, value in self.options.settings().items():
            self.write(name, value)

    @property
    def exposure(self) -> int:
        """Exposure in ms."""
        value: int = self.read("exposure").value
        return value

    @exposure.setter
    def exposure(self, value: int) -> None:
        self.write("exposure", value)

    @property
    def region(self) -> Region:
        """Region and binning."""
        return Region.parse(self.read("region").value)

    @region.setter
    def region(self, value: Region) -> None:
        self.write("region", value)

    @property
    def trigger_mode(self) -> TriggerMode:
        """INTERNAL: exposures begin by themselves. EDGE: each begins with an edge at the trigger input."""
        value: TriggerMode = self.read("trigger_mode").value
        return value

    @trigger_mode.setter
    def trigger_mode(self, value: TriggerMode) -> None:
        self.write("trigger_mode", value)

    @property
    def frame_limit_s(self) -> float:
        """Longest time until a single frame is there or an error says why not, waiting for the camera included."""
        exposure = 0 if self.camera.exposure_ms is None else self.camera.exposure_ms.value
        return 2 * (exposure / 1000 + self.camera.readout_s + self.options.frame_timeout)

    def source(self, name: str) -> str:
        """Return where a value comes from."""
        return camera_source(self.camera.name, name)

    def read(self, name: str) -> Stamped[Any]:
        """Return a value with its time: settings as the camera has them, values of the last frame.

        Raises
        ------
        FrameNotTaken
            For values of a frame, before there is one.
        """
        if name in FRAME_VALUES:
            frame = self.last
            if frame is None:
                raise FrameNotTaken(self.camera.name, name)
            return Stamped(getattr(frame, name), frame.time)
        if name == "frame_rate":
            return Stamped(self.acquisition.frame_rate if self.acquisition else 0.0, time.time())
        if name == "frames_written":
            return Stamped(self.file.frames if self.file else 0, time.time())
        if name == "serial_number":
            return Stamped(self.camera.serial_number, time.time())
        if name == "temperature":
            self._look_at_temperature()
        measured: Stamped[Any] | None = getattr(self.camera, SETTINGS.get(name, name))
        if measured is None:
            raise FrameNotTaken(self.camera.name, name)
        if isinstance(measured.value, Region):
            return Stamped(np.array(measured.value.astuple(), np.int64), measured.timestamp)
        return measured

    def write(self, name: str, value: Any) -> Stamped[Any]:
        """Set exposure, region or trigger mode; waits for an acquisition under way to end.

        Raises
        ------
        ValueRefused
            When the value is not allowed; the camera keeps what it had.
        """
        if name not in SETTINGS:
            raise AttributeError(f"{name} of a camera cannot be set")
        checked = self.fields[name].check(value)
        self.camera.change(SETTINGS[name], checked, self.owner, self.frame_limit_s)
        return self.read(name)

    def snap(self) -> Frame:
        """Take one frame, into the open file if there is one, and return it. Blocks for exposure and readout.

        Raises
        ------
        CameraStalled, CameraLost, CameraFailed, AcquisitionStopped, AcquireTimeout
            When no frame came.
        """
        acquisition = self.start(1)
        acquisition.finished.result()
        assert acquisition.last is not None
        return acquisition.last

    def start(self, frames: int | None) -> Acquisition:
        """Take frames in the background; None for as many as come until :meth:`stop`."""
        with self._lock:
            self._end_acquisition()
            self.last = None
            self.acquisition = Acquisition(
                self.camera,
                self.owner,
                frames,
                self.file,
                frame_timeout_s=self.options.frame_timeout,
                buffer_frames=self.options.buffer_frames,
                on_frames=self._note,
                dropped_before=self._dropped,
            )
            self.acquisition.start()
            return self.acquisition

    def stop(self) -> None:
        """End the acquisition under way soon; returns at once."""
        acquisition = self.acquisition
        if acquisition is not None:
            acquisition.stop()

    def open_file(self, path: Path | None = None) -> FrameFile:
        """Open a new file for frames of the present region, in the session's folder unless told otherwise.

        Raises
        ------
        ImageFileError
            When it cannot be made.
        """
        with self._lock:
            self.close_file()
            path = path or self.new_path()
            settings = {name: self.read(name).value for name in SETTINGS}
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self.file = FrameFile(path, self.region.shape, {"camera": self.identity, **settings})
            except OSError as error:
                raise ImageFileError(self.camera.name, path, str(error)) from error
            self._dropped = 0
        self._tell("frames_written")
        return self.file

    def new_path(self) -> Path:
        """Return a path for a new file in the session's folder."""
        assert self.folder is not None, "connect() first"
        return self.folder / f"{self.owner}_{time.strftime('%Y-%m-%d_%H%M%S')}_{secrets.token_hex(4)}.h5"

    def close_file(self) -> None:
        """End the acquisition under way and complete the file. Blocks until both are done."""
        with self._lock:
            try:
                self._end_acquisition()
            finally:
                if self.file is not None:
                    file, self.file = self.file, None
                    file.close()

    def close(self) -> None:
        """End what is going on, complete the file, and forget the camera, which stays open for others. Blocks."""
        self._stop_listening()
        self.close_file()

    def subscribe(self, name: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Have a function called when a value has changed, on the thread that changed it; returns what ends that."""
        listeners = self._listeners.setdefault(name, [])
        listeners.append(callback)
        return lambda: listeners.remove(callback)

    def _end_acquisition(self) -> None:
        if self.acquisition is not None:
            self.acquisition.stop()
            try:
                self.acquisition.finished.exception(_STOP_GRACE_S)
            except TimeoutError:
                raise CameraFailed(
                    self.camera.name,
                    "ending an acquisition",
                    f"a call of the vendor's library, or the disk, has not returned within {_STOP_GRACE_S:g} s",
                ) from None
            self._dropped = self.acquisition.dropped

    def _look_at_temperature(self) -> None:
        """Measure the temperature anew, unless the camera is busy: then it was measured when that began."""
        if self.camera.arbiter.holder is None:
            with self.camera.use(self.owner, self.options.frame_timeout, "measuring its temperature"):
                pass

    def _note(self, frame: Frame) -> None:
        self.last = frame
        for name in (*FRAME_VALUES, "frame_rate", "frames_written"):
            self._tell(name)

    def _hear(self, setting: str) -> None:
        for name, known in SETTINGS.items():
            if known == setting:
                self._tell(name)

    def _tell(self, name: str) -> None:
        for callback in tuple(self._listeners.get(name, ())):
            callback()
