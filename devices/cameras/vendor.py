"""Cameras through the vendor's wrapper pyvcam, which is imported only when a camera is asked for.

PVCAM lists the cameras when it is initialised. It is therefore initialised for the first camera and given up after
the last, so that a camera that was plugged in again is found without a new session.
"""

from __future__ import annotations

import importlib
import threading
from typing import Any

from devices.cameras.errors import CameraNotFound, CameraSdkMissing
from devices.cameras.interface import PvcamCamera


class PvcamLibrary:
    """The PVCAM cameras of this computer; see https://github.com/Photometrics/PyVCAM for the wrapper."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0

    def names(self) -> list[str]:
        """List the cameras that are present.

        Raises
        ------
        CameraSdkMissing
            Saying what to install.
        """
        with self._lock:
            library, camera_class = self._enter("PVCAM")
            try:
                return list(camera_class.get_available_camera_names())
            finally:
                self._leave(library)

    def open(self, name: str) -> PvcamCamera:
        """Return the camera of that name, opened."""
        with self._lock:
            library, camera_class = self._enter(name)
            try:
                present = camera_class.get_available_camera_names()
                if name not in present:
                    raise CameraNotFound(name, tuple(present))
                camera: PvcamCamera = camera_class.select_camera(name)
                camera.open()
            except BaseException:
                self._leave(library)
                raise
            return camera

    def close(self, camera: PvcamCamera) -> None:
        """Close a camera; one that has failed as well."""
        with self._lock:
            try:
                camera.close()
            finally:
                self._leave(importlib.import_module("pyvcam.pvc"))

    def _enter(self, asked_for: str) -> tuple[Any, Any]:
        try:
            library = importlib.import_module("pyvcam.pvc")
            camera_class = importlib.import_module("pyvcam.camera").Camera
        except ModuleNotFoundError as error:
            raise CameraSdkMissing(asked_for, "pyvcam", str(error)) from error
        except ImportError as error:
            raise CameraSdkMissing(asked_for, "the PVCAM library", str(error)) from error
        if self._users == 0:
            library.init_pvcam()
        self._users += 1
        return library, camera_class

    def _leave(self, library: Any) -> None:
        self._users -= 1
        if self._users == 0:
            library.uninit_pvcam()
