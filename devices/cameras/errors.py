"""What can go wrong with a camera and its files."""

from __future__ import annotations

from pathlib import Path

from coexistence import CoexistenceError


class CameraError(CoexistenceError):
    """Base of what can go wrong with a camera; ``camera`` is its name."""

    def __init__(self, camera: str, message: str) -> None:
        self.camera = camera
        super().__init__(message)


class CameraSdkMissing(CameraError):
    """The vendor's software that the camera needs is not installed; ``missing`` says which part."""

    def __init__(self, camera: str, missing: str, reason: str) -> None:
        self.missing = missing
        self.reason = reason
        remedy = (
            "Install the wrapper with 'pip install pyvcam'."
            if missing == "pyvcam"
            else "Install the PVCAM SDK and the camera's driver from Teledyne Photometrics, and log in anew."
        )
        super().__init__(camera, f"{camera}: {missing} is missing ({reason}). {remedy}")


class CameraNotFound(CameraError):
    """No camera of this name is there; ``present`` are those that are."""

    def __init__(self, camera: str, present: tuple[str, ...]) -> None:
        self.present = present
        there = f"Present: {', '.join(present)}" if present else "No camera is present"
        super().__init__(
            camera,
            f"There is no camera {camera!r}. {there}. Check its cable and power, that no other program has it open, "
            "and its camera_name.",
        )


class CameraFailed(CameraError):
    """The camera, or the vendor's library, reports an error of its own; ``reason`` is its text."""

    def __init__(self, camera: str, doing: str, reason: str) -> None:
        self.doing = doing
        self.reason = reason
        super().__init__(
            camera,
            f"Camera {camera!r} failed {doing}: {reason}. It is opened anew the next time it is used; if that fails, "
            "switch it off and on.",
        )


class CameraLost(CameraError):
    """The camera was unplugged or switched off while it was in use."""

    def __init__(self, camera: str, reason: str) -> None:
        self.reason = reason
        super().__init__(
            camera,
            f"Camera {camera!r} is gone: {reason}. Plug it in and switch it on; it works again as soon as it is back.",
        )


class CameraStalled(CameraError, TimeoutError):
    """A frame did not come in time."""

    def __init__(self, camera: str, waited_s: float, trigger_mode: str, frames: int) -> None:
        self.waited_s = waited_s
        self.trigger_mode = trigger_mode
        self.frames = frames
        remedy = (
            "Check the source of the trigger, or allow more time with frame_timeout."
            if trigger_mode == "EDGE"
            else "Check the camera's cable and power, or allow more time with frame_timeout."
        )
        super().__init__(
            camera,
            f"Camera {camera!r} gave no frame within {waited_s:.3g} s in trigger mode {trigger_mode}, after {frames} "
            f"frames. {remedy}",
        )


class AcquisitionStopped(CameraError):
    """An acquisition was stopped before all of its frames had come."""

    def __init__(self, camera: str, frames: int) -> None:
        self.frames = frames
        super().__init__(camera, f"The acquisition of camera {camera!r} was stopped after {frames} frames.")


class FrameShapeChanged(CameraError):
    """A frame has another shape than the file it belongs to: the region was changed during the run."""

    def __init__(self, camera: str, expected: tuple[int, int], found: tuple[int, ...]) -> None:
        self.expected = expected
        self.found = found
        super().__init__(
            camera,
            f"Camera {camera!r} gave a frame of {found} pixels for a file of {expected}: its region was changed after "
            "the file had been opened. Change regions between runs.",
        )


class FrameNotTaken(CameraError):
    """A value of a frame was asked for before any frame had been taken."""

    def __init__(self, camera: str, value: str) -> None:
        self.value = value
        super().__init__(camera, f"Camera {camera!r} has taken no frame yet, so there is no {value}. Trigger it first.")


class SessionFolderInUse(CameraError):
    """Another session writes into the folder; ``holder`` says which."""

    def __init__(self, camera: str, folder: Path, holder: str) -> None:
        self.folder = folder
        self.holder = holder
        super().__init__(
            camera,
            f"{camera}: the session folder {folder} is in use by {holder}. Close that session, or give this one a "
            "name of its own with the option 'session'.",
        )


class ImageFileError(CameraError):
    """Images could not be written; ``path`` is the file or folder."""

    def __init__(self, camera: str, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(
            camera, f"{camera}: images cannot be written to {path}: {reason}. Check that there is room and permission."
        )
