"""The sections of a configuration file as models: keys, defaults, and what a single value may be."""

from __future__ import annotations

import keyword
import os
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, field_validator

Generation = Literal["v2", "v4"]
GENERATIONS: tuple[Generation, ...] = ("v2", "v4")

LINE_SETTINGS = frozenset({"baud_rate", "data_bits", "stop_bits", "parity", "flow_control", "terminator"})
"""Options of an instrument that belong to its serial line; instruments on one port must agree in them."""

WIRE_KEYS = ("serial_port", "resource", "camera_name")
"""The keys that say what an instrument is connected to; each has one of them."""

_SERIAL_RESOURCE = re.compile(r"^ASRL(?P<device>.+?)(?:::INSTR)?$", re.IGNORECASE)

LowerCase = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
LogLevel = Annotated[Literal["debug", "info", "warning", "error", "critical"], LowerCase]


class Finding(NamedTuple):
    """What somebody who knows the instrument types has to say about one instrument.

    `key` is the setting it is about, `signals.current.units` where it is inside of one; the line it stands on is added
    when the finding is reported.
    """

    key: str
    message: str
    suggestion: str


class Section(BaseModel):
    """A table of the file that takes no other keys than those it declares."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ApplicationConfig(Section):
    """The session as a whole; operator, sample and proposal go into every start document."""

    name: str = "bench"
    """Name of the bench, in banners and in start documents."""
    log_level: LogLevel = "info"
    """What goes into the log file: this level and all above it."""
    visa_backend: Literal["@py", "@ivi", "@sim"] = "@py"
    """`@py` is pyvisa-py and needs no vendor software, `@ivi` a vendor's VISA, `@sim` pyvisa-sim."""
    operator: str | None = None
    """Who measures; the login name unless given."""
    sample: str | None = None
    """What is measured."""
    proposal: str | None = None
    """Under which proposal."""
    baseline: bool | tuple[str, ...] = True
    """What is read at the beginning and end of each run: all but cameras, nothing (`false`), or these ids."""
    suspend_on_wire_loss: bool = False
    """Whether a plan waits for a lost wire, goes back to its checkpoint and goes on when the wire is back."""
    supervise: bool = False
    """Whether instruments that fail are started again, with growing pauses and a limited number of times."""
    shadow_budget: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of a run's time that instruments with `shadow_of` may make it longer."""
    cpu_limit_percent: PositiveFloat = 90.0
    """A health check warns when the process uses more of a core."""
    memory_limit_mib: PositiveFloat = 4096.0
    """A health check warns when the process uses more memory, in MiB."""


class CatalogConfig(Section):
    """The catalog of runs."""

    directory: Path | None = None
    """Where runs are kept, relative to the first file's folder; `./tandem-data` unless given."""
    keep_running: bool = False
    """Whether the catalog's server stays when the last session has left."""
    uri: str | None = None
    """Address of a tiled server run by somebody else, in place of one for this directory alone."""
    key_file: Path | None = None
    """File with the key of that server, relative to the first file's folder; else `TILED_API_KEY` has the key."""


class SimulationConfig(Section):
    """The bench that stands in for the wires when they are simulated."""

    always: bool = False
    """Whether there is nothing else: sessions have the simulated bench without being asked to simulate."""
    seed: int = 0
    """Of all noise: the same seed gives the same noise."""
    time_scale: PositiveFloat = 1.0
    """Below 1 lines and motion are faster than real ones."""
    bench: dict[str, Any] = Field(default_factory=dict)
    """The optics: `wavelength_nm`, `power_w`, angles and offsets."""


class Migrated(BaseModel):
    """A change of generation; it goes into the start documents of the instrument's runs."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    from_: Generation = Field(alias="from")
    """The generation before."""
    on: datetime
    """When, with the offset from UTC."""
    evidence: Literal["equivalent", "different", "insufficient", "none"] = "none"
    """What the shadow report said then."""


class InstrumentConfig(BaseModel):
    """One instrument: who it is, the wire it is on, and the options of its type.

    What has no field here is an option of the type, see :attr:`options`.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    id: str
    """Its name: variable at the prompt and first part of its columns; no other instrument may have it."""
    type: str
    """A type of the project, or `package.module:Class` for a class from elsewhere."""
    enabled: bool = True
    """False leaves it out of sessions; it is still checked."""
    serial_port: str | None = None
    """A device (`/dev/ttyUSB0`), `usb:VENDOR:PRODUCT[:SERIAL]`, `socket://host:port` or `rfc2217://host:port`."""
    resource: str | None = None
    """A VISA resource, `TCPIP0::192.0.2.10::INSTR` for one."""
    camera_name: str | None = None
    """The camera's name in its vendor's library."""
    shadow_of: str | None = None
    """Id of the instrument of the other generation whose readings this one is compared with."""
    migrated: Migrated | None = None
    """When the instrument changed generation last; written by `tandem config cutover` and `rollback`."""
    removal_date: date | None = None
    """When the instrument's driver of this generation is to be gone; told by `tandem config status`."""
    timeout: PositiveFloat = 1.0
    """How long one exchange may take in s, waiting in line included."""
    connect_timeout: PositiveFloat = 10.0
    """How long connecting may take in s."""
    args: tuple[Any, ...] = ()
    """Positional arguments of a class from elsewhere."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of a class from elsewhere."""
    simulation: dict[str, Any] = Field(default_factory=dict)
    """Options of the simulated instrument that takes its place when wires are simulated."""

    @field_validator("id")
    @classmethod
    def _id_is_a_name(cls, value: str) -> str:
        # The id is a variable at the prompt and the first part of column names.
        if not value.isidentifier() or keyword.iskeyword(value):
            raise ValueError("must be a name of letters, digits and underscores that does not begin with a digit")
        return value

    @property
    def options(self) -> dict[str, Any]:
        """The settings that belong to the type of the instrument, those of its serial line among them."""
        return dict(self.model_extra or {})

    @property
    def line_settings(self) -> dict[str, Any]:
        """The options that state how the serial line is set."""
        return {key: value for key, value in self.options.items() if key in LINE_SETTINGS}

    @property
    def is_foreign(self) -> bool:
        """Whether the type is a class from elsewhere, given as `package.module:Class`."""
        return ":" in self.type

    @property
    def wire(self) -> str | None:
        """What the instrument is connected to, as the file says it; None for a class that needs no wire."""
        return self.serial_port or self.resource or self.camera_name

    @property
    def serial_path(self) -> str | None:
        """The serial port as the file says it, also when it is given as an `ASRL` resource."""
        if self.serial_port is None and self.resource and (match := _SERIAL_RESOURCE.match(self.resource)):
            return match["device"]
        return self.serial_port

    @property
    def serial_device(self) -> str | None:
        """The serial port, symlinks resolved, also when it is given as an `ASRL` resource."""
        path = self.serial_path
        return os.path.realpath(path) if path is not None and path.startswith("/") else path


class GenerationConfig(Section):
    """One generation of drivers and its instruments."""

    enabled: bool = True
    """False leaves all its instruments out of sessions."""
    storage: Path | None = None
    """Where its cameras put images, relative to the first file's folder; `images` in the data directory unless given.
    The generations' directories lie apart."""
    shutdown_timeout: PositiveFloat | None = None
    """What its instruments get to stop, in s: 10 for v2, whose drivers cannot be cancelled, 5 for v4 unless given."""
    instruments: tuple[InstrumentConfig, ...] = ()
    """The instruments, a table `[[v2.instruments]]` or `[[v4.instruments]]` each."""

    @property
    def active_instruments(self) -> tuple[InstrumentConfig, ...]:
        """The instruments that are to be started: none of a disabled generation."""
        return tuple(i for i in self.instruments if i.enabled) if self.enabled else ()


InstrumentCheck = Callable[[Generation, InstrumentConfig], Iterable[Finding]]
LineSettingsOf = Callable[[InstrumentConfig], Mapping[str, Any]]
