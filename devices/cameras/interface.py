"""What is asked of a camera: the face of pyvcam's ``Camera``, and somewhere to get cameras from by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from devices.cameras.errors import CameraNotFound


class PvcamCamera(Protocol):
    """The part of pyvcam's ``Camera`` (2.3) that is used; any object that has it is a camera.

    Methods raise RuntimeError when the camera fails and ValueError for values it does not take.
    """

    chip_name: str
    serial_no: str
    sensor_size: tuple[int, int]
    """Columns and rows."""
    exp_time: int
    """Exposure in ms."""

    @property
    def binnings(self) -> list[tuple[int, int]] | None:
        """Serial and parallel binnings; None for any."""

    @property
    def exp_modes(self) -> Mapping[str, int]:
        """Trigger modes by the vendor's names."""

    @property
    def temp(self) -> float:
        """Temperature of the sensor in degrees Celsius."""

    @property
    def readout_time(self) -> int:
        """Readout time of a frame in microseconds."""

    exp_mode: Any
    """Trigger mode, set by name."""
    binning: Any
    """Serial and parallel binning."""

    def open(self) -> None:
        """Open the camera."""

    def close(self) -> None:
        """Close the camera."""

    def reset_rois(self) -> None:
        """Go back to the whole sensor."""

    def set_roi(self, s1: int, p1: int, w: int, h: int) -> None:
        """Choose a region by its first pixels and its size, all unbinned."""

    def start_live(
        self, *, exp_time: int | None = None, buffer_frame_count: int = 16, reset_frame_counter: bool = False
    ) -> None:
        """Start to fill a circular buffer."""

    def start_seq(self, exp_time: int | None = None, num_frames: int = 1, reset_frame_counter: bool = False) -> None:
        """Start a number of frames."""

    def poll_frame(
        self,
        timeout_ms: int = -1,
        oldestFrame: bool = True,  # noqa: N803
        copyData: bool = True,  # noqa: N803
    ) -> tuple[dict[str, Any], float, int]:
        """Wait for a frame; return it, frames per second, and its number."""

    def finish(self) -> None:
        """End the acquisition."""


class CameraLibrary(Protocol):
    """Where cameras come from."""

    def names(self) -> list[str]:
        """List the cameras that are present."""

    def open(self, name: str) -> PvcamCamera:
        """Return the camera of that name, opened.

        Raises
        ------
        CameraNotFound
            Naming those that are present.
        CameraSdkMissing
            Saying what to install.
        RuntimeError
            What the vendor's library says.
        """

    def close(self, camera: PvcamCamera) -> None:
        """Close a camera; one that has failed as well."""


class GivenCameras:
    """Camera objects that exist already, simulated ones for example, by name.

    Parameters
    ----------
    cameras
        Objects with the face of pyvcam's ``Camera``. Which are present they tell themselves, with
        ``get_available_camera_names()``.
    """

    def __init__(self, *cameras: Any) -> None:
        self._cameras = cameras

    def names(self) -> list[str]:
        """List the cameras that are present."""
        return [name for camera in self._cameras for name in camera.get_available_camera_names()]

    def open(self, name: str) -> PvcamCamera:
        """Return the camera of that name, opened."""
        for camera in self._cameras:
            if name in camera.get_available_camera_names():
                camera.open()
                found: PvcamCamera = camera
                return found
        raise CameraNotFound(name, tuple(self.names()))

    def close(self, camera: PvcamCamera) -> None:
        """Close a camera."""
        camera.close()
