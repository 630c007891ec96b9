"""Cameras: what the devices of both generations need of one, the vendor's library, regions, and image files."""

from devices.cameras.acquisition import Acquisition
from devices.cameras.driver import PVCAMDriver
from devices.cameras.errors import (
    AcquisitionStopped,
    CameraError,
    CameraFailed,
    CameraLost,
    CameraNotFound,
    CameraSdkMissing,
    CameraStalled,
    FrameNotTaken,
    FrameShapeChanged,
    ImageFileError,
    SessionFolderInUse,
)
from devices.cameras.frame_file import Frame, FrameFile
from devices.cameras.interface import CameraLibrary, GivenCameras, PvcamCamera
from devices.cameras.session_folder import SessionFolders
from devices.cameras.shared_camera import CameraPool, SharedCamera
from devices.cameras.vendor import PvcamLibrary
from devices.protocols.pvcam import Region, TriggerMode

__all__ = [
    "Acquisition",
    "AcquisitionStopped",
    "CameraError",
    "CameraFailed",
    "CameraLibrary",
    "CameraLost",
    "CameraNotFound",
    "CameraPool",
    "CameraSdkMissing",
    "CameraStalled",
    "Frame",
    "FrameFile",
    "FrameNotTaken",
    "FrameShapeChanged",
    "GivenCameras",
    "ImageFileError",
    "PVCAMDriver",
    "PvcamCamera",
    "PvcamLibrary",
    "Region",
    "SessionFolderInUse",
    "SessionFolders",
    "SharedCamera",
    "TriggerMode",
]
