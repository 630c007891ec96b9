"""What instruments are on: wires that both generations share, and cameras; and how a device is made on them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coexistence import Channel, Connection, Rank, SharedResources, WireUse
from coexistence.config import Generation, InstrumentConfig
from coexistence.errors import ConfigError
from devices import registry

if TYPE_CHECKING:
    from devices.cameras import CameraLibrary, CameraPool


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
        self._lock = threading.Lock()

    @property
    def cameras(self) -> CameraPool:
        """The cameras by name; what they need is imported when the first one is asked for."""
        with self._lock:
            if self._cameras is None:
                from devices.cameras import CameraPool, PvcamLibrary

                library = self._simulated_cameras() if self._simulated_cameras else PvcamLibrary()
                self._cameras = CameraPool(library, self._image_folder)
            return self._cameras

    def held(self) -> list[WireUse]:
        """Return who holds each wire and who waits for it."""
        return self.resources.held()

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
    port = instrument.serial_path  # a symlink stays one: after replugging it leads to the adapter's new device
    if port is not None:
        open_wire: Callable[[], Channel] = partial(resources.serial.get, port, **line_settings(instrument))
    elif instrument.resource is not None:
        open_wire = partial(_open_resource, resources, instrument)
    else:
        raise ConfigError(
            f"{instrument.id!r} is on {instrument.wire}, which is neither a serial port nor a VISA resource"
        )
    # What a shadow reads is needed by nobody yet: it waits for everybody else on its wire.
    rank = Rank.BACKGROUND if instrument.shadow_of is not None else Rank.NORMAL
    return Connection(
        open_wire, instrument.id, timeout=instrument.timeout, description=instrument.wire or "", rank=rank
    )


def line_settings(instrument: InstrumentConfig) -> dict[str, Any]:
    """Return how the driver sets a serial line, by the names of :class:`coexistence.SharedSerialPort`."""
    if registry.instrument_type(instrument.type).medium != "camera":
        return registry.line_settings(instrument.type, instrument.options)
    return instrument.line_settings


def _open_resource(resources: SharedResources, instrument: InstrumentConfig) -> Channel:
    assert instrument.resource is not None
    session = resources.visa.session(instrument.resource, owner=instrument.id, timeout=instrument.timeout)
    return session.raw.wire


def build(config: InstrumentConfig, generation: Generation, hardware: Hardware, storage: Path | None = None) -> Any:
    """Make the device object of an instrument; nothing is sent on a wire.

    Parameters
    ----------
    config, generation
        What is to be made.
    hardware
        What it is on.
    storage
        Where it puts its files; None leaves it to the hardware.

    Raises
    ------
    Exception
        Whatever the class raises for its options.
    """
    device_class = registry.device_class(config.type, generation)
    if config.is_foreign:
        return device_class(*config.args, name=config.id, **config.kwargs)
    if config.camera_name is not None:
        options = {"output_dir": storage, **config.options} if storage else config.options
        return device_class(hardware.cameras.get(config.camera_name), name=config.id, **options)
    return device_class(connection_of(config, hardware.resources), name=config.id, **config.options)
