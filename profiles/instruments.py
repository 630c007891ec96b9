"""From a configuration to connected devices: wires are opened once, both generations connect in parallel."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coexistence import Channel, Connection, SharedResources
from coexistence.config import Generation, InstrumentConfig
from coexistence.errors import CoexistenceError, ConfigError
from devices import registry

if TYPE_CHECKING:
    from devices.cameras import CameraLibrary, CameraPool

logger = logging.getLogger("profiles.instruments")

CONNECT_GRACE_S = 0.5
"""What a device gets beyond its own time limit to report how it failed."""


@dataclass
class Instrument:
    """One configured instrument and what became of it."""

    generation: Generation
    config: InstrumentConfig
    device: Any = None
    error: InstrumentFailed | None = None
    connect_time_s: float = 0.0

    @property
    def connected(self) -> bool:
        """Whether the device can be used."""
        return self.device is not None and self.error is None


class InstrumentFailed(CoexistenceError):
    """An instrument did not connect; the message names it, its wire, the reason and what to do."""

    def __init__(self, instrument: Instrument, reason: str) -> None:
        config = instrument.config
        self.instrument_id = config.id
        self.generation = instrument.generation
        self.wire = config.wire
        self.reason = reason
        where = f" on {config.wire}" if config.wire else ""
        super().__init__(f"{config.id} ({instrument.generation} {config.type}{where}): {reason}")


class InstrumentsFailed(CoexistenceError):
    """Some instruments did not connect; `failures` has one error each."""

    def __init__(self, failures: list[InstrumentFailed]) -> None:
        self.failures = tuple(failures)
        super().__init__("\n".join(str(failure) for failure in failures))


class Hardware:
    """What instruments are on: the wires both generations share, and cameras, which no wire leads to.

    Parameters
    ----------
    resources
        Serial ports and VISA sessions.
    image_folder
        Where cameras put their images, unless a generation's `storage` or a camera's `output_dir` says otherwise.
    simulated_cameras
        Gives the cameras that stand in for those of the vendor's library; None for real ones.
    """

    def __init__(
        self,
        resources: SharedResources,
        image_folder: Path,
        simulated_cameras: Callable[[], CameraLibrary] | None = None,
    ) -> None:
        self.resources = resources
        self._image_folder = image_folder
        self._simulated_cameras = simulated_cameras
        self._cameras: CameraPool | None = None

    @property
    def cameras(self) -> CameraPool:
        """The cameras by name; what they need is imported when the first one is asked for."""
        if self._cameras is None:
            from devices.cameras import CameraPool, PvcamLibrary

            library = self._simulated_cameras() if self._simulated_cameras else PvcamLibrary()
            self._cameras = CameraPool(library, self._image_folder)
        return self._cameras

    def close(self) -> None:
        """Close cameras and wires."""
        if self._cameras is not None:
            self._cameras.close()
        self.resources.close()


def connection_of(instrument: InstrumentConfig, resources: SharedResources) -> Connection:
    """Return what the driver of an instrument talks through; its wire is opened when the instrument connects.

    Raises
    ------
    ConfigError
        The instrument is on nothing that carries bytes.
    """
    port = instrument.serial_port or instrument.serial_device
    if port is not None:
        open_wire: Callable[[], Channel] = partial(resources.serial.get, port, **line_settings(instrument))
    elif instrument.resource is not None:
        open_wire = partial(_open_resource, resources, instrument)
    else:
        raise ConfigError(
            f"{instrument.id!r} is on {instrument.wire}, which is neither a serial port nor a VISA resource"
        )
    return Connection(open_wire, instrument.id, timeout=instrument.timeout, description=instrument.wire or "")


def line_settings(instrument: InstrumentConfig) -> dict[str, Any]:
    """Return how the driver sets a serial line, by the names of :class:`coexistence.SharedSerialPort`."""
    if registry.instrument_type(instrument.type).medium == "serial":
        return registry.line_settings(instrument.type, instrument.options)
    return instrument.line_settings


def _open_resource(resources: SharedResources, instrument: InstrumentConfig) -> Channel:
    assert instrument.resource is not None
    session = resources.visa.session(instrument.resource, owner=instrument.id, timeout=instrument.timeout)
    return session.raw.wire


def build(instrument: Instrument, hardware: Hardware, storage: Path | None = None) -> Any:
    """Make the device object of an instrument; nothing is sent on a wire.

    Raises
    ------
    Exception
        Whatever the class raises for its options.
    """
    config = instrument.config
    device_class = registry.device_class(config.type, instrument.generation)
    if config.is_foreign:
        return device_class(*config.args, name=config.id, **config.kwargs)
    if config.camera_name is not None:
        options = {"output_dir": storage, **config.options} if storage else config.options
        return device_class(hardware.cameras.get(config.camera_name), name=config.id, **options)
    return device_class(connection_of(config, hardware.resources), name=config.id, **config.options)


def connect_all(
    instruments: list[Instrument],
    hardware: Hardware,
    loop: asyncio.AbstractEventLoop,
    storage: Mapping[Generation, Path | None],
) -> None:
    """Build and connect all instruments in parallel; each costs its own time limit at the most.

    v2 instruments connect on threads of their own, v4 instruments on the RunEngine's loop. What happened is noted
    in the instruments; nothing is raised for one that fails.

    Parameters
    ----------
    instruments
        What is configured.
    hardware
        What they are on.
    loop
        The running event loop the v4 devices are to belong to.
    storage
        Where the instruments of a generation put their files; None leaves it to the hardware.
    """
    began = time.monotonic()
    pending: list[tuple[Instrument, Future[None]]] = []
    for instrument in instruments:
        try:
            instrument.device = build(instrument, hardware, storage[instrument.generation])
        except Exception as error:
            _note_failure(instrument, error)
            continue
        connect = _connect_v2 if instrument.generation == "v2" else partial(_connect_v4, loop=loop)
        pending.append((instrument, connect(instrument)))
    try:
        for instrument, future in pending:
            limit = instrument.config.connect_timeout
            try:
                future.result(max(0.0, began + limit + CONNECT_GRACE_S - time.monotonic()))
            except Exception as error:
                # A bare TimeoutError is that of the waiting here, or of the task, and says nothing by itself.
                is_limit = isinstance(error, TimeoutError) and not str(error)
                _note_failure(instrument, ConnectTimeout(limit) if is_limit else error)
    finally:
        for _, future in pending:
            future.cancel()


class ConnectTimeout(CoexistenceError, TimeoutError):
    """A device did not connect within its time limit (s), and did not say why."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        super().__init__(f"it did not connect within {limit:g} s. Check that it is on, or raise its connect_timeout.")


def _connect_v2(instrument: Instrument) -> Future[None]:
    """Connect on a thread of its own: a driver that hangs cannot be cancelled, only left behind."""
    future: Future[None] = Future()
    device, limit = instrument.device, instrument.config.connect_timeout
    began = time.monotonic()

    def connect() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            if callable(getattr(device, "connect", None)):
                device.connect()
            else:
                device.wait_for_connection(timeout=limit)
        except Exception as error:
            future.set_exception(error)
        else:
            instrument.connect_time_s = time.monotonic() - began
            future.set_result(None)

    threading.Thread(target=connect, name=f"connect {instrument.config.id}", daemon=True).start()
    return future


def _connect_v4(instrument: Instrument, loop: asyncio.AbstractEventLoop) -> Future[None]:
    limit = instrument.config.connect_timeout

    async def connect() -> None:
        began = time.monotonic()
        async with asyncio.timeout(limit + CONNECT_GRACE_S / 2):
            await instrument.device.connect(timeout=limit)
        instrument.connect_time_s = time.monotonic() - began

    return asyncio.run_coroutine_threadsafe(connect(), loop)


def _note_failure(instrument: Instrument, error: BaseException) -> None:
    reasons = dict.fromkeys(str(cause).strip() or type(cause).__name__ for cause in _root_causes(error))
    instrument.error = InstrumentFailed(instrument, "; ".join(reasons))
    instrument.error.__cause__ = error
    logger.info("%s", instrument.error, exc_info=error)


def _root_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield what went wrong below ophyd-async's NotConnectedError, which nests one error for each signal."""
    if not isinstance(error, _not_connected_error()):
        yield error
    elif error.sub_errors:
        for nested in error.sub_errors.values():
            yield from _root_causes(nested)
    else:
        yield error.__cause__ or error


def _not_connected_error() -> Any:
    core = sys.modules.get("ophyd_async.core")  # a session without v4 does not import it
    return core.NotConnectedError if core is not None else ()


def facts_of(instrument: Instrument) -> dict[str, Any]:
    """Return what a start document says about an instrument that took part."""
    config, device = instrument.config, instrument.device
    device_class = type(device)
    facts: dict[str, Any] = {
        "generation": instrument.generation,
        "type": config.type,
        "driver": f"{device_class.__module__}.{device_class.__qualname__}",
        "driver_version": _version_of(device_class.__module__),
        "wire": config.wire,
    }
    if identity := _identity_of(device):
        facts["identity"] = identity
    return {key: value for key, value in facts.items() if value is not None}


def _identity_of(device: Any) -> str:
    """Return what the instrument said it is: v2 drivers know it, and the connectors of v4 devices."""
    for holder in (getattr(device, "driver", None), getattr(device, "_connector", None)):
        if isinstance(identity := getattr(holder, "identity", None), str):
            return identity
    return ""


def _version_of(module: str) -> str | None:
    package = module.partition(".")[0]
    # Packages that are installed for development are in no list of installed files.
    names = ["ophyd-tandem"] if package == "devices" else packages_distributions().get(package, [package])
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return None
