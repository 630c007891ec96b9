"""PVCAM camera as a v2 device: frames in its own HDF5 files, with resource and datum documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from event_model import DataKey, compose_resource
from ophyd import Component, Kind
from ophyd.status import DeviceStatus

from devices.cameras.driver import PVCAMDriver
from devices.cameras.errors import FrameNotTaken
from devices.cameras.fields import camera_data_key, image_data_key
from devices.cameras.frame_file import FrameFile
from devices.cameras.shared_camera import SharedCamera
from devices.options import PVCAMInstrumentOptions
from devices.protocols.conversation import Stamped
from devices.protocols.field import Field
from devices.v2.legacy import LegacyDevice, MeasuredSignal

SPEC = "AD_HDF5"
"""What readers of the resource documents know the files' layout by."""

_GRACE_S = 5.0


class CameraSignal(MeasuredSignal):
    """A value of the camera or of its last frame, as it was measured last."""

    @property
    def field(self) -> Field[Any]:
        """What the value means."""
        field: Field[Any] = self.parent.driver.fields[self._getter]
        return field

    @property
    def source(self) -> str:
        """The camera, and what is asked of it."""
        source: str = self.parent.driver.source(self._getter)
        return source

    def describe(self) -> dict[str, DataKey]:
        """Return the data key."""
        return {self.name: camera_data_key(self.field, self.source)}


class ImageSignal(MeasuredSignal):
    """The images: an event has the id of the datum that says where in the file its image is."""

    @property
    def field(self) -> None:
        """Images are no field of the camera."""
        return

    def measure(self) -> Stamped[Any]:
        """Return the datum's id."""
        datum: Stamped[Any] = self.parent.last_datum
        return datum

    def describe(self) -> dict[str, DataKey]:
        """Return the data key; images are in a file."""
        driver = self.parent.driver
        return {self.name: image_data_key(driver.camera.name, driver.region.shape, 1, "FILESTORE:")}


def _signal(name: str, kind: str = "normal", cls: type[MeasuredSignal] = CameraSignal) -> Component:
    return Component(cls, kind=kind, getter=name, setter=None, units=None, precision=None)


class PVCAMInstrument(LegacyDevice):
    """PVCAM camera as a v2 device: each trigger takes one frame into an HDF5 file, one file for each staging.

    Parameters
    ----------
    camera
        The camera, from a :class:`devices.cameras.CameraPool`.
    name
        Name of the device; columns are ``<name>_image``, ``<name>_mean`` (in counts) and so on.
    options
        See :class:`devices.options.PVCAMInstrumentOptions`.
    """

    image = _signal("image", cls=ImageSignal)
    mean = _signal("mean", "hinted")
    max = _signal("max")
    sum = _signal("sum")
    frame_number = _signal("frame_number")
    dropped_frames = _signal("dropped_frames")
    exposure = _signal("exposure", "config")
    region = _signal("region", "config")
    trigger_mode = _signal("trigger_mode", "config")
    temperature = _signal("temperature", "config")
    serial_number = _signal("serial_number", "config")
    frame_rate = _signal("frame_rate", "omitted")
    frames_written = _signal("frames_written", "omitted")

    def __init__(self, camera: SharedCamera, *, name: str, **options: Any) -> None:
        own, rest = PVCAMInstrumentOptions.split(options)
        self._documents: list[tuple[str, dict[str, Any]]] = []
        self._compose_datum: Callable[..., Any] | None = None
        self._file: FrameFile | None = None
        self._datum: Stamped[str] | None = None
        super().__init__(PVCAMDriver(camera, name, own), name=name, **rest)

    @property
    def last_datum(self) -> Stamped[str]:
        """Id of the last image's datum; FrameNotTaken when there is none."""
        if self._datum is None:
            raise FrameNotTaken(self.driver.camera.name, "image")
        return self._datum

    def connect(self) -> None:
        """Open the camera, claim the session's folder, apply the options, and read the settings. Blocks.

        Raises
        ------
        CameraNotFound, CameraSdkMissing, CameraFailed, CameraLost
            When there is no such camera.
        SessionFolderInUse, ImageFileError
            When images cannot be written.
        """
        self.driver.connect()
        self._measure(Kind.config)

    def do(
        self,
        work: Callable[[], None],
        what: str,
        *,
        timeout: float | None = None,
        settle_time: float | None = None,
    ) -> DeviceStatus:
        """Have work done on the driver's thread; may take as long as waiting for the camera and one frame."""
        limit = self.driver.frame_limit_s + _GRACE_S if timeout is None else timeout
        return super().do(work, what, timeout=limit, settle_time=settle_time)

    def trigger(self) -> DeviceStatus:
        """Take a frame into the file; done when readers of the file can see it.

        The status fails with CameraStalled, CameraLost, CameraFailed, AcquireTimeout, ImageFileError, or
        AcquisitionStopped when the device was stopped or unstaged meanwhile.
        """
        return self.do(self._measure_event, f"taking a frame with {self.name}")

    def stage(self) -> DeviceStatus:
        """Measure the settings; the next trigger begins a new file."""

        def begin() -> None:
            self._end_file()
            self._measure_settings()

        return self.do(begin, f"staging {self.name}")

    def unstage(self) -> DeviceStatus:
        """End what is going on and complete the file."""
        self.driver.stop()
        return self.do(self._end_file, f"closing the file of {self.name}")

    def stop(self, *, success: bool = False) -> None:  # noqa: ARG002
        """End what is going on and complete the file; returns at once."""
        self.unstage()

    def destroy(self) -> None:
        """Complete the file and forget the device. Blocks."""
        self.driver.close()
        super().destroy()

    def collect_asset_docs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the resource and datum documents that have not been collected yet."""
        while self._documents:
            yield self._documents.pop(0)

    def _measure_event(self) -> None:
        if not self._settings_known:
            self._measure_settings()
        self._datum = None
        try:
            if self._file is None:
                self._begin_file()
            frame = self.driver.snap()
            self._datum = Stamped(self._announce(self._file.frames - 1), frame.time)  # type: ignore[union-attr]
        except Exception:
            for signal in self._measured_signals():
                if signal.kind & Kind.normal:
                    signal.forget()
            raise
        self._measure(Kind.normal)

    def _begin_file(self) -> None:
        self._file = self.driver.open_file()
        root = self.driver.folder.parent
        resource = compose_resource(
            spec=SPEC,
            root=str(root),
            resource_path=self._file.path.relative_to(root).as_posix(),
            resource_kwargs={"frame_per_point": 1, "chunk_shape": (1,)},
        )
        self._compose_datum = resource.compose_datum
        self._documents.append(("resource", dict(resource.resource_doc)))

    def _announce(self, index: int) -> str:
        assert self._compose_datum is not None
        datum = self._compose_datum(datum_kwargs={"point_number": index})
        self._documents.append(("datum", dict(datum)))
        datum_id: str = datum["datum_id"]
        return datum_id

    def _end_file(self) -> None:
        self._file = None
        self._documents.clear()  # those of a run that failed belong to no other
        self.driver.close_file()
