"""PVCAM camera as a v4 device: frames in HDF5 files, with stream resources."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bluesky.protocols import Reading
from event_model import DataKey
from ophyd_async.core import (
    Array1D,
    AsyncStatus,
    Callback,
    DetectorAcquireLogic,
    DetectorDataLogic,
    DetectorTriggerLogic,
    Device,
    DeviceConnector,
    DeviceMock,
    NotConnectedError,
    PathInfo,
    PathProvider,
    Signal,
    SignalBackend,
    SignalDatatypeT,
    SignalDict,
    SignalR,
    SignalRW,
    StandardDetector,
    StreamResourceDataProvider,
    StreamResourceInfo,
    TriggerInfo,
    WatcherUpdate,
    set_mock_precision,
    set_mock_units,
    set_mock_value,
)

from coexistence import CoexistenceError
from devices.cameras.driver import PVCAMDriver
from devices.cameras.errors import CameraError, CameraFailed
from devices.cameras.fields import FRAME_VALUES, camera_data_key, image_data_key
from devices.cameras.frame_file import MIMETYPE, PIXEL, dataset_of
from devices.cameras.shared_camera import DEFAULT_EXPOSURE_MS, SharedCamera
from devices.options import PVCAMInstrumentOptions
from devices.protocols.field import Field
from devices.protocols.pvcam import Region
from devices.v4.wire_backend import name_who_timed_out

MOCK_SENSOR_SIZE = (2048, 2048)
_DAY_S = 86_400.0
_GRACE_S = 5.0
_DTYPES = {"mean": "<f8", "max": "<i8", "sum": "<i8", "frame_number": "<i8", "dropped_frames": "<i8"}


class CameraSignalBackend(SignalBackend[SignalDatatypeT]):
    """A value of the camera, or of its last frame, as the backend of a signal."""

    def __init__(self, datatype: type[SignalDatatypeT], driver: PVCAMDriver, name: str) -> None:
        super().__init__(datatype)
        self._driver = driver
        self._name = name
        self._unsubscribe: Callable[[], None] | None = None

    @property
    def field(self) -> Field[Any]:
        """What the value means."""
        return self._driver.fields[self._name]

    def source(self, name: str, read: bool) -> str:  # noqa: ARG002
        """Return the camera, and what is asked of it."""
        return self._driver.source(self._name)

    async def connect(self, timeout: float) -> None:
        """Nothing to do: the device's connector has opened the camera."""

    async def put(self, value: SignalDatatypeT | None) -> None:
        """Set the value, as soon as the camera is free. Cancelled, it is set all the same.

        Raises
        ------
        ValueRefused
            When the camera cannot have this value.
        """
        with name_who_timed_out():
            await asyncio.to_thread(self._driver.write, self._name, value)

    async def get_datakey(self, source: str) -> DataKey:
        """Return what the field is, without asking the camera."""
        return camera_data_key(self.field, source)

    async def get_reading(self) -> Reading[SignalDatatypeT]:
        """Return the value; FrameNotTaken for values of a frame when there is none."""
        if self._name == "temperature":
            with name_who_timed_out():
                measured = await asyncio.to_thread(self._driver.read, self._name)
        else:
            measured = self._driver.read(self._name)
        return Reading(value=measured.value, timestamp=measured.timestamp, alarm_severity=0)

    async def get_value(self) -> SignalDatatypeT:
        """Return the value."""
        return (await self.get_reading())["value"]

    async def get_setpoint(self) -> SignalDatatypeT:
        """Return the value: the camera has what was set."""
        return await self.get_value()

    def set_callback(self, callback: Callback[Reading[SignalDatatypeT]] | None) -> None:
        """Begin or end to tell about changes."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if callback is None:
            return
        loop = asyncio.get_running_loop()

        def tell() -> None:
            # Without a frame there is no value, and an asked-for temperature is no change.
            with contextlib.suppress(CameraError):
                measured = self._driver.read(self._name)
                callback(Reading(value=measured.value, timestamp=measured.timestamp, alarm_severity=0))

        def tell_on_loop() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(tell)

        self._unsubscribe = self._driver.subscribe(self._name, tell_on_loop)
        tell()


class CameraConnector(DeviceConnector):
    """Connects a camera's device: opens the camera, or gives its signals plausible values in mock mode."""

    def __init__(self, driver: PVCAMDriver) -> None:
        self.driver = driver
        self.mocked = False

    @property
    def identity(self) -> str:
        """What the camera said it is."""
        return self.driver.identity

    async def connect_mock(self, device: Device, mock: DeviceMock[Any]) -> None:
        """Give signals the values of an idle camera; none is opened."""
        self.mocked = True
        await super().connect_mock(device, mock)
        for name, signal in device.children():
            field = self.driver.fields.get(name)
            if isinstance(signal, Signal) and field is not None:
                if field.units is not None:
                    set_mock_units(signal, field.units)
                if field.precision is not None:
                    set_mock_precision(signal, field.precision)
        assert isinstance(device, PVCAMInstrument)
        options = self.driver.options
        region = Region.whole(MOCK_SENSOR_SIZE) if options.region is None else Region.parse(options.region)
        set_mock_value(device.region, np.array(region.astuple(), np.int64))
        set_mock_value(device.exposure, options.exposure or DEFAULT_EXPOSURE_MS)
        set_mock_value(device.trigger_mode, options.trigger_mode or "INTERNAL")

    async def connect_real(self, device: Device, timeout: float, force_reconnect: bool) -> None:
        """Open the camera, claim the session's folder and apply the options, within the timeout.

        Raises
        ------
        NotConnectedError
            Naming device, camera and remedy.
        """
        self.mocked = False
        where = f"{device.name or self.driver.owner} on camera {self.driver.camera.name!r}"
        try:
            async with asyncio.timeout(timeout):
                await asyncio.to_thread(self.driver.connect)
        except TimeoutError as error:
            reason = str(error) or f"not connected within {timeout:g} s. Check that nobody keeps the camera busy."
            raise NotConnectedError(f"{where}: {reason}") from error
        except (CoexistenceError, ValueError) as error:
            raise NotConnectedError(f"{where}: {error}") from error
        await super().connect_real(device, timeout, force_reconnect)


class SessionPathProvider(PathProvider):
    """Puts each file into the folder of the session, under a name of its own."""

    def __init__(self, driver: PVCAMDriver) -> None:
        self._driver = driver

    def __call__(self, datakey_name: str | None = None) -> PathInfo:  # noqa: ARG002
        """Return folder and name for a new file."""
        path = self._driver.new_path()
        return PathInfo(directory_path=path.parent, filename=path.stem)


class _FrameStreams(StreamResourceDataProvider):
    """The images of one file, and in acquisitions of many frames what was measured of each beside them."""

    def __init__(self, camera: PVCAMInstrument, uri: str, shape: tuple[int, int], values: Sequence[str]) -> None:
        self._camera = camera
        self._shape = shape
        self._values = values
        images = StreamResourceInfo(
            data_key=f"{camera.name}_image",
            shape=shape,
            chunk_shape=(1,),
            dtype_numpy=PIXEL.str,
            parameters={"dataset": dataset_of("image")},
        )
        columns = [
            StreamResourceInfo(
                data_key=f"{camera.name}_{value}",
                shape=(),
                chunk_shape=(1024,),
                dtype_numpy=_DTYPES[value],
                parameters={"dataset": dataset_of(value)},
            )
            for value in values
        ]
        super().__init__(uri, [images, *columns], MIMETYPE, camera.frames_written)

    async def make_datakeys(self, collections_per_event: int) -> dict[str, DataKey]:
        """Return the data keys of what is in the file."""
        driver = self._camera.driver
        keys = {
            f"{self._camera.name}_image": image_data_key(
                driver.camera.name, self._shape, collections_per_event, "STREAM:"
            )
        }
        for value in self._values:
            key = camera_data_key(driver.fields[value], driver.source(value))
            key["external"] = "STREAM:"
            if collections_per_event > 1:
                key["dtype"], key["shape"] = "array", [collections_per_event]
            keys[f"{self._camera.name}_{value}"] = key
        return keys


class _DataLogic(DetectorDataLogic):
    """Opens a file for each staging, and says what is in it."""

    datakey_suffix = "_image"

    def __init__(self, camera: PVCAMInstrument, path_provider: PathProvider) -> None:
        self._camera = camera
        self._path_provider = path_provider

    async def prepare_unbounded(self, datakey_name: str) -> StreamResourceDataProvider:
        camera = self._camera
        if camera.mocked:
            info = PathInfo(directory_path=Path("/mock"), filename=datakey_name)
            set_mock_value(camera.frames_written, 0)
            shape = Region.parse(await camera.region.get_value()).shape
        else:
            info = self._path_provider(datakey_name)
            path = Path(info.directory_path) / f"{info.filename}.h5"
            shape = (await asyncio.to_thread(camera.driver.open_file, path)).shape
        values = () if camera.takes_one_frame else FRAME_VALUES
        return _FrameStreams(camera, f"{info.directory_uri}{info.filename}.h5", shape, values)

    def get_hinted_fields(self, datakey_name: str) -> Sequence[str]:
        return [f"{datakey_name.removesuffix(self.datakey_suffix)}_mean"]

    async def stop(self) -> None:
        await asyncio.to_thread(self._camera.driver.close_file)


class _TriggerLogic(DetectorTriggerLogic):
    """Sets exposure and trigger mode for what is to come."""

    def __init__(self, camera: PVCAMInstrument) -> None:
        self._camera = camera
        self._mode_before: str | None = None

    def get_deadtime(self, config_values: SignalDict) -> float:  # noqa: ARG002
        return self._camera.driver.camera.readout_s

    async def prepare_internal(self, num: int, livetime: float, deadtime: float) -> None:
        if deadtime and num > 1:
            raise ValueError(
                f"{self._camera.name}: the camera cannot wait {deadtime:g} s between frames. Give a deadtime of 0, "
                "and a livetime as long as a frame is to take; or trigger it externally."
            )
        await self._expose(livetime)

    async def prepare_edge(self, num: int, livetime: float) -> None:  # noqa: ARG002
        await self._expose(livetime)
        if self._mode_before is None:
            self._mode_before = await self._camera.trigger_mode.get_value()
        await self._camera.trigger_mode.set("EDGE")

    async def restore(self) -> None:
        """Go back to the trigger mode from before an externally triggered acquisition."""
        if self._mode_before is not None:
            mode, self._mode_before = self._mode_before, None
            await self._camera.trigger_mode.set(mode)

    async def _expose(self, livetime: float) -> None:
        if livetime == 0:
            return
        exposure = round(livetime * 1000)
        if exposure < 1 or abs(exposure - livetime * 1000) > 1e-6 * exposure:
            raise ValueError(
                f"{self._camera.name}: an exposure of {livetime * 1000:g} ms is not possible: allowed are whole "
                "milliseconds from 1 on."
            )
        await self._camera.exposure.set(exposure)


class _AcquireLogic(DetectorAcquireLogic):
    """Starts and ends acquisitions."""

    def __init__(self, camera: PVCAMInstrument, trigger_logic: _TriggerLogic) -> None:
        self._camera = camera
        self._trigger_logic = trigger_logic

    async def start_acquiring(self) -> None:
        camera = self._camera
        frames = await camera.frames_to_take()
        if camera.mocked:
            set_mock_value(camera.frames_written, await camera.frames_written.get_value() + (frames or 0))
            return
        acquisition = camera.driver.acquisition
        if acquisition is None or acquisition.finished.done():
            starting = asyncio.ensure_future(asyncio.to_thread(camera.driver.start, frames))
            try:
                await asyncio.shield(starting)
            except asyncio.CancelledError:
                starting.add_done_callback(lambda _: camera.driver.stop())
                raise

    async def wait_for_idle(self) -> None:
        acquisition = self._camera.driver.acquisition
        if acquisition is None:
            return
        if await self._camera.frames_to_take() is None:
            acquisition.stop()
        await asyncio.shield(asyncio.wrap_future(acquisition.finished))

    async def ensure_stopped(self) -> None:
        acquisition = self._camera.driver.acquisition
        if acquisition is not None:
            acquisition.stop()
            # Its error was that of a trigger, or is that of having been stopped.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(asyncio.wrap_future(acquisition.finished), self._camera.driver.frame_limit_s)
        await self._trigger_logic.restore()


class PVCAMInstrument(StandardDetector):
    """PVCAM camera as a v4 device: frames go to an HDF5 file for each staging, one for each trigger or many in flight.

    Without ``prepare`` a trigger takes one frame with the exposure and in the trigger mode that are set. Prepared with
    more than one frame, what was measured of each frame is in the stream with the images instead of in the events.

    Parameters
    ----------
    camera
        The camera, from a :class:`devices.cameras.CameraPool`.
    name
        Name of the device; columns are ``<name>_image``, ``<name>_mean`` (in counts) and so on.
    path_provider
        Says where each file goes; None for the session's folder.
    options
        See :class:`devices.options.PVCAMInstrumentOptions`.
    """

    def __init__(
        self, camera: SharedCamera, *, name: str = "", path_provider: PathProvider | None = None, **options: Any
    ) -> None:
        self.driver = driver = PVCAMDriver(camera, name, PVCAMInstrumentOptions(**options))
        self._connector_to_camera = CameraConnector(driver)
        self._trigger_info = TriggerInfo()
        self.exposure = SignalRW(CameraSignalBackend(int, driver, "exposure"))
        self.region = SignalRW(CameraSignalBackend(Array1D[np.int64], driver, "region"))
        self.trigger_mode = SignalRW(CameraSignalBackend(str, driver, "trigger_mode"))
        self.temperature = SignalR(CameraSignalBackend(float, driver, "temperature"))
        self.serial_number = SignalR(CameraSignalBackend(str, driver, "serial_number"))
        self.mean = SignalR(CameraSignalBackend(float, driver, "mean"))
        self.max = SignalR(CameraSignalBackend(int, driver, "max"))
        self.sum = SignalR(CameraSignalBackend(int, driver, "sum"))
        self.frame_number = SignalR(CameraSignalBackend(int, driver, "frame_number"))
        self.dropped_frames = SignalR(CameraSignalBackend(int, driver, "dropped_frames"))
        self.frame_rate = SignalR(CameraSignalBackend(float, driver, "frame_rate"))
        self.frames_written = SignalR(CameraSignalBackend(int, driver, "frames_written"))
        trigger_logic = _TriggerLogic(self)
        self.add_detector_logics(
            trigger_logic,
            _AcquireLogic(self, trigger_logic),
            _DataLogic(self, path_provider or SessionPathProvider(driver)),
        )
        self.add_config_signals(self.exposure, self.region, self.trigger_mode, self.temperature, self.serial_number)
        super().__init__(connector=self._connector_to_camera)
        self.set_name(name, child_name_separator="_")

    @property
    def mocked(self) -> bool:
        """Whether the device was connected without a camera."""
        return self._connector_to_camera.mocked

    @property
    def takes_one_frame(self) -> bool:
        """Whether each event is one frame, so that what is measured of it is in the event."""
        return self._trigger_info.number_of_collections == 1

    async def frames_to_take(self) -> int | None:
        """Return how many frames the acquisition that is prepared has; None for no end."""
        if self._trigger_info.number_of_events == 0:
            return None
        return await self.events_to_kickoff.get_value() * self._trigger_info.collections_per_event

    def prepare(self, value: TriggerInfo) -> AsyncStatus:
        """Set up for frames as described; with an external trigger the camera waits for it from now on."""
        one_frame_before = self.takes_one_frame
        self._trigger_info = value
        if self.takes_one_frame != one_frame_before:
            self._prepare_ctx = None  # what is measured of a frame moves from the events to the file, or back
        return super().prepare(value)

    async def describe(self) -> dict[str, DataKey]:
        """Return the data keys of images and, where each event is one frame, of what is measured of it.

        Not prepared yet, it says what single frames of the present region will be.
        """
        if self._prepare_ctx is not None:
            keys = await super().describe()
        else:
            shape = Region.parse(await self.region.get_value()).shape
            keys = {f"{self.name}_image": image_data_key(self.driver.camera.name, shape, 1, "STREAM:")}
        if self.takes_one_frame:
            for signal in self._frame_signals():
                keys.update(await signal.describe())
        return keys

    async def read(self) -> dict[str, Reading[Any]]:
        """Return what was measured of the last frame, where each event is one frame."""
        readings = await super().read()
        if self.takes_one_frame:
            for signal in self._frame_signals():
                readings.update(await signal.read(cached=False))
        return readings

    async def stop(self, success: bool = True) -> None:  # noqa: ARG002
        """End what is going on and complete the file. Cancelled, both happen all the same."""
        self.driver.stop()
        if not self.mocked:
            await asyncio.to_thread(self.driver.close_file)

    def destroy(self) -> None:
        """Complete the file and forget the camera. Blocks: not for an event loop's thread."""
        self.driver.close()

    def _frame_signals(self) -> list[SignalR[Any]]:
        return [getattr(self, value) for value in FRAME_VALUES]

    async def _wait_for_index(  # type: ignore[override]
        self, **arguments: Any
    ) -> AsyncIterator[WatcherUpdate[int]]:
        """Wait for frames as the base class does, and fail as soon as the acquisition does.

        The base class knows one time limit, from the end of the last frame, and names no camera.
        """
        acquisition = None if self.mocked else self.driver.acquisition
        if acquisition is None:
            async for update in super()._wait_for_index(**arguments):
                yield update
            return
        patient = arguments["trigger_info"].model_copy(update={"exposure_timeout": _DAY_S})
        updates = super()._wait_for_index(**{**arguments, "trigger_info": patient})
        ended = asyncio.wrap_future(acquisition.finished)
        step: asyncio.Future[WatcherUpdate[int]] | None = None
        try:
            while True:
                step = asyncio.ensure_future(anext(updates))
                waited_for: set[asyncio.Future[Any]] = {step} if ended.done() else {step, ended}
                limit = self.driver.frame_limit_s + _GRACE_S
                done, _ = await asyncio.wait(waited_for, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    ended.result()
                elif not done:
                    reason = f"a call of the vendor's library, or the disk, has not returned within {limit:.3g} s"
                    raise CameraFailed(self.driver.camera.name, "taking frames", reason)
                yield await step
        except StopAsyncIteration:
            return
        except BaseException:
            acquisition.stop()
            raise
        finally:
            if step is not None:
                step.cancel()
                await asyncio.gather(step, return_exceptions=True)
            ended.cancel()
