"""One camera for the devices of both generations: opened once, used by one at a time, reopened when it failed."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from coexistence import Arbiter
from devices.cameras.errors import CameraError, CameraFailed, CameraLost, CameraStalled
from devices.cameras.interface import CameraLibrary, PvcamCamera
from devices.cameras.session_folder import SessionFolders
from devices.protocols.conversation import Stamped
from devices.protocols.errors import ValueRefused
from devices.protocols.pvcam import EXPOSURE_MODES, TRIGGER_MODES, Region, TriggerMode, refused

DEFAULT_EXPOSURE_MS = 10


class SharedCamera:
    """A camera by name. Its settings are those of all who use it, and survive that it is reopened.

    Parameters
    ----------
    library
        Where the camera comes from.
    name
        What the library calls it.
    folders
        The image folders of this session.
    output_dir
        Where images go unless a device says otherwise.
    """

    def __init__(
        self,
        library: CameraLibrary,
        name: str,
        *,
        folders: SessionFolders | None = None,
        output_dir: Path = Path("images"),
    ) -> None:
        self.name = name
        self.folders = folders or SessionFolders()
        self.output_dir = output_dir
        self.arbiter = Arbiter(f"camera {name!r}", check_order=False)
        self.identity = ""
        self.serial_number = ""
        self.sensor_size = (0, 0)
        self.readout_s = 0.0
        self.exposure_ms: Stamped[int] | None = None
        self.region: Stamped[Region] | None = None
        self.trigger_mode: Stamped[TriggerMode] | None = None
        self.temperature: Stamped[float] | None = None
        self._library = library
        self._camera: PvcamCamera | None = None
        self._frames_before = 0
        self._listeners: list[Callable[[str], None]] = []
        self._listening = threading.Lock()

    @contextlib.contextmanager
    def use(self, owner: str, timeout: float, doing: str) -> Iterator[PvcamCamera]:
        """Have the camera for oneself, opened and set up. Blocks: not for an event loop's thread.

        Parameters
        ----------
        owner
            Who asks, for messages.
        timeout
            How long to wait for the camera, in s.
        doing
            What for, for messages: ``taking frames``.

        Raises
        ------
        AcquireTimeout
            Naming who has the camera.
        CameraError
            When it is missing or fails. It is reopened the next time it is used.
        """
        with self.arbiter.acquire(owner, timeout):
            try:
                camera = self._opened()
                self._measure_temperature(camera)
                yield camera
            except CameraStalled:
                self._drop()
                raise
            except RuntimeError as error:
                failure = self.failure(error, doing)
                self._drop()
                raise failure from error

    def failure(self, error: Exception, doing: str) -> CameraError:
        """Return what an error of the vendor's library means: the camera is gone, or has failed."""
        reason = str(error.__cause__ or error) or type(error).__name__
        with contextlib.suppress(Exception):
            if self.name not in self._library.names():
                return CameraLost(self.name, reason)
        return CameraFailed(self.name, doing, reason)

    def change(self, setting: str, value: Any, owner: str, timeout: float) -> None:
        """Set ``exposure_ms``, ``region`` or ``trigger_mode``, and tell those who listen. Waits for a free camera.

        Raises
        ------
        ValueRefused
            When the camera cannot have this value.
        """
        with self.use(owner, timeout, f"setting {setting}") as camera:
            apply = getattr(self, f"_apply_{setting}")
            try:
                apply(camera, value)
            except ValueRefused:
                raise
            except ValueError as error:
                raise refused(setting.removesuffix("_ms"), value, f"what the camera says: {error}") from error
            setattr(self, setting, Stamped(value, time.time()))
            self.readout_s = _told(camera, "readout_time", 0) / 1e6
        self._tell(setting)

    def next_number(self, counted: int) -> int:
        """Return the number of a frame since the camera was first opened, from its number in the acquisition."""
        return self._frames_before + counted

    def end_acquisition(self, counted: int) -> None:
        """Take note of how many frames an acquisition had, lost ones included."""
        self._frames_before += counted

    def add_listener(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Have a function told the name of each setting that changes, on the thread that changed it.

        Returns what ends that; calling it twice is harmless.
        """
        with self._listening:
            self._listeners.append(callback)

        def remove() -> None:
            with self._listening, contextlib.suppress(ValueError):
                self._listeners.remove(callback)

        return remove

    def close(self) -> None:
        """Close the camera, when nobody uses it or soon after."""
        with self.arbiter.acquire("closing", 2.0):
            self._drop()

    def _tell(self, setting: str) -> None:
        with self._listening:
            listeners = tuple(self._listeners)
        for callback in listeners:
            callback(setting)

    def _opened(self) -> PvcamCamera:
        if self._camera is None:
            camera = self._library.open(self.name)
            self._camera = camera
            self.serial_number = str(camera.serial_no)
            self.identity = f"PVCAM {self.name}, sensor {camera.chip_name}, serial number {self.serial_number}"
            self.sensor_size = (int(camera.sensor_size[0]), int(camera.sensor_size[1]))
            if hasattr(camera, "metadata_enabled"):
                # Only the frame's own header counts the frames that never reached this computer.
                camera.metadata_enabled = True
            self._set_up(camera)
        return self._camera

    def _set_up(self, camera: PvcamCamera) -> None:
        """Give a camera that was just opened the settings it had, or those it begins with."""
        now = time.time()
        self.exposure_ms = self.exposure_ms or Stamped(int(camera.exp_time) or DEFAULT_EXPOSURE_MS, now)
        self.region = self.region or Stamped(Region.whole(self.sensor_size), now)
        self.trigger_mode = self.trigger_mode or Stamped(TRIGGER_MODES[0], now)
        self._apply_exposure_ms(camera, self.exposure_ms.value)
        self._apply_region(camera, self.region.value)
        self._apply_trigger_mode(camera, self.trigger_mode.value)
        self.readout_s = _told(camera, "readout_time", 0) / 1e6

    def _apply_exposure_ms(self, camera: PvcamCamera, exposure_ms: int) -> None:
        camera.exp_time = exposure_ms

    def _apply_region(self, camera: PvcamCamera, region: Region) -> None:
        binnings = camera.binnings
        region.check(self.sensor_size, binnings)
        # pyvcam adds a region to those there are, and clips it by the binning at that moment: hence this order.
        camera.reset_rois()
        camera.binning = (region.sbin, region.pbin)
        camera.set_roi(region.s1, region.p1, region.width, region.height)

    def _apply_trigger_mode(self, camera: PvcamCamera, mode: TriggerMode) -> None:
        modes = list(camera.exp_modes)
        name = next((name for name in EXPOSURE_MODES[mode] if name in modes), None)
        if name is None:
            raise refused("trigger_mode", mode, f"what this camera has: {', '.join(modes)}")
        camera.exp_mode = name

    def _measure_temperature(self, camera: PvcamCamera) -> None:
        self.temperature = Stamped(float(_told(camera, "temp", math.nan)), time.time())

    def _drop(self) -> None:
        camera, self._camera = self._camera, None
        if camera is not None:
            with contextlib.suppress(Exception):
                self._library.close(camera)


def _told(camera: PvcamCamera, name: str, otherwise: float) -> float:
    """Return what a camera tells; pyvcam raises AttributeError for what a model does not have."""
    value: float = getattr(camera, name, otherwise)
    return value


class CameraPool:
    """The cameras of one session: one :class:`SharedCamera` for each name, whoever asks.

    Parameters
    ----------
    library
        Where cameras come from: :class:`devices.cameras.PvcamLibrary`, or :class:`devices.cameras.GivenCameras` for
        simulated ones.
    output_dir
        Where images go unless a device says otherwise.
    """

    def __init__(self, library: CameraLibrary, output_dir: Path = Path("images")) -> None:
        self.library = library
        self.output_dir = output_dir
        self.folders = SessionFolders()
        self._cameras: dict[str, SharedCamera] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> SharedCamera:
        """Return the camera of that name; nothing is opened yet."""
        with self._lock:
            if name not in self._cameras:
                self._cameras[name] = SharedCamera(self.library, name, folders=self.folders, output_dir=self.output_dir)
            return self._cameras[name]

    def close(self) -> None:
        """Close all cameras and let go of the session's folders."""
        with self._lock:
            cameras = list(self._cameras.values())
        for camera in cameras:
            with contextlib.suppress(TimeoutError):
                camera.close()
        self.folders.release()
