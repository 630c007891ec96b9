"""Options of the instruments, as they stand in the configuration: the same for both generations."""

from __future__ import annotations

import keyword
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from devices.protocols import elliptec, esp300, maitai, newport_1830c, pvcam, scpi, scpi_blocks

_ELLIPTEC_LATE_REPLY_LIMIT_S = 0.05

FlowControl = Literal["none", "rtscts", "xonxoff", "dsrdtr"]


_NAMES_OF_DEVICES = """
    OphydAttrList SUB_ACQ_DONE add_children_as_readables add_instantiation_callback add_readables attr_name check_value
    children clear_sub collect complete component_names configuration_attrs configure connect connected connection
    connection_timeout describe describe_collect describe_configuration destroy do dotted_name driver event_types
    exclusive get get_device_tuple get_instantiated_signals hints identity kickoff kind lazy_wait_for_connection locate
    log name parent pause position prepare put query query_block read read_attrs read_configuration report resume root
    set set_defaults set_name signal_names stage stop submit subscribe subscriptions summary timeout_s trigger
    trigger_signals unstage unsubscribe unsubscribe_all wait_for_connection walk_components walk_signals
    walk_subdevice_classes walk_subdevices
"""
"""What devices of either generation have themselves: no signal can be called so."""


def _address(value: object) -> object:
    return str(value).upper() if isinstance(value, int | str) else value


def _ascending(limits: tuple[float, float]) -> tuple[float, float]:
    if not limits[0] < limits[1]:
        raise ValueError("the lowest comes first, then the highest")
    return limits


def _name_of_signal(name: str) -> str:
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise ValueError("a signal's name has letters, digits and underscores, and begins with a letter")
    if name in _NAMES_OF_DEVICES.split():
        raise ValueError("a device has something of this name itself, call the signal differently")
    return name


def _takes_a_value(command: str) -> str:
    try:
        taken = command.format("1.5") != command
    except (LookupError, ValueError):
        taken = False
    if not taken:
        raise ValueError("the value goes where {} stands, as in 'VOLT {}'")
    return command


Limits = Annotated[tuple[float, float], AfterValidator(_ascending)]
SignalName = Annotated[str, AfterValidator(_name_of_signal)]


class InstrumentOptions(BaseModel):
    """What every instrument's options can do."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def split(cls, options: dict[str, Any]) -> tuple[Self, dict[str, Any]]:
        """Return the instrument's options, and what is left for the device itself."""
        own = {key: value for key, value in options.items() if key in cls.model_fields}
        return cls(**own), {key: value for key, value in options.items() if key not in own}


class LineOptions(InstrumentOptions):
    """Options of an instrument that is, or can be, on a serial line."""

    def line_settings(self) -> dict[str, Any]:
        """Return the line settings for :class:`coexistence.SharedSerialPort`."""
        raise NotImplementedError


class SerialOptions(LineOptions):
    """Options of an instrument on a serial line."""

    baud_rate: int = Field(default=9600, gt=0)
    """Symbols per second."""
    flow_control: FlowControl = "none"
    """Who may hold the line back."""

    terminator: ClassVar[bytes] = b"\n"

    def line_settings(self) -> dict[str, Any]:
        """Return the line settings for :class:`coexistence.SharedSerialPort`."""
        return {
            "baud_rate": self.baud_rate,
            "data_bits": 8,
            "stop_bits": 1,
            "parity": "none",
            "flow_control": self.flow_control,
            "terminator": self.terminator,
        }


class Newport1830COptions(SerialOptions):
    """Options of a Newport 1830-C."""

    terminator: ClassVar[bytes] = newport_1830c.TERMINATOR
    units: Literal[newport_1830c.Units, "unchanged"] = "W"
    """Units of the display to set when connecting, or ``unchanged``. The power's column is in W in any case."""
    wavelength: int | None = None
    """Wavelength in nm to set when connecting; None leaves it."""
    wavelength_limits: Annotated[tuple[int, int], AfterValidator(_ascending)] = (200, 1800)
    """Lowest and highest calibrated wavelength of the detector in nm."""
    swapped_db_codes: bool = False
    """The meter counts dBm as unit 2 and dB as unit 3."""
    clear_command: Literal["C", "CS"] = "C"
    """Command that clears the status byte."""

    def protocol(self) -> newport_1830c.Newport1830CProtocol:
        """Return what to say to this meter."""
        return newport_1830c.Newport1830CProtocol(
            swapped_db_codes=self.swapped_db_codes,
            clear_command=self.clear_command,
            wavelength_limits=self.wavelength_limits,
        )

    def settings(self) -> dict[str, Any]:
        """Return what to set when connecting, by name."""
        wanted = {"units": None if self.units == "unchanged" else self.units, "wavelength": self.wavelength}
        return {name: value for name, value in wanted.items() if value is not None}


class ElliptecOptions(SerialOptions):
    """Options of a Thorlabs Elliptec module."""

    terminator: ClassVar[bytes] = elliptec.TERMINATOR
    address: Annotated[str, BeforeValidator(_address)] = Field(default="0", pattern="^[0-9A-F]$")
    """Address on the bus, one hexadecimal digit."""
    limits: Limits | None = None
    """Lowest and highest position in deg (mm for linear modules); None takes what the module can do."""
    tolerance: float = Field(default=0.1, gt=0)
    """How far from its target a motion may end, in deg or mm."""
    move_timeout: float = Field(default=60.0, gt=0)
    """Longest duration of a motion in s."""
    live_position: bool = True
    """Ask for the position during a motion, to show progress."""

    def line_settings(self) -> dict[str, Any]:
        """Return the line settings for :class:`coexistence.SharedSerialPort`.

        A reply says by itself which module and which kind of question it belongs to, so a late one is taken for
        nobody else's, and one silent module need not keep the others from the wire.
        """
        return super().line_settings() | {"late_reply_limit": _ELLIPTEC_LATE_REPLY_LIMIT_S}

    def protocol(self) -> elliptec.ElliptecProtocol:
        """Return what to say to this module."""
        return elliptec.ElliptecProtocol(self.address, limits=self.limits, tolerance=self.tolerance)


class ESP300Options(SerialOptions):
    """Options of a Newport ESP300."""

    terminator: ClassVar[bytes] = esp300.REPLY_TERMINATOR
    baud_rate: int = Field(default=esp300.BAUD_RATE, gt=0)
    """Symbols per second."""
    flow_control: FlowControl = "none"
    """``rtscts`` as in the manual, or ``none``, as several installations have it."""
    axes: Annotated[tuple[Literal[1, 2, 3], ...], Field(min_length=1)] = (1, 2, 3)
    """Numbers of the axes in use."""
    units: dict[int, str] = {}
    """By axis, the units it has to be set to (``mm``, ``deg``); a controller that counts in others is refused."""
    tolerance: float | None = Field(default=None, gt=0)
    """How far from its target a motion may end, in the axis's units; None takes 5 um or 0.005 deg."""
    move_timeout: float = Field(default=120.0, gt=0)
    """Longest duration of a motion in s."""
    home_mode: int = Field(default=1, ge=0, le=6)
    """0 zero count, 1 home and index, 2 home, 3/4 plus/minus limit, 5/6 plus/minus limit and index."""
    home_timeout: float = Field(default=120.0, gt=0)
    """Longest duration of a search for the home position in s."""

    @field_validator("axes")
    @classmethod
    def _has_each_axis_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError("each axis is named once")
        return value

    @field_validator("units")
    @classmethod
    def _is_of_axes(cls, value: dict[int, str]) -> dict[int, str]:
        if unknown := sorted(set(value) - set(esp300.AXES)):
            raise ValueError(f"there is no axis {unknown[0]}, axes are 1, 2 and 3")
        return value

    def protocol(self) -> esp300.Esp300Protocol:
        """Return what to say to this controller."""
        return esp300.Esp300Protocol(
            axes=self.axes, units=self.units, tolerance=self.tolerance, home_mode=self.home_mode
        )


class MaiTaiOptions(SerialOptions):
    """Options of a Spectra-Physics Mai Tai."""

    terminator: ClassVar[bytes] = maitai.TERMINATOR
    flow_control: FlowControl = "xonxoff"
    """``none`` for units that run at 115200 baud."""
    tuning_timeout: float = Field(default=120.0, gt=0)
    """Longest duration of tuning in s."""
    watchdog: int | None = Field(default=None, ge=0, le=3600)
    """Seconds without a command after which the laser turns its pump off by itself; 0 never, None leaves it."""

    def protocol(self) -> maitai.MaiTaiProtocol:
        """Return what to say to this laser."""
        return maitai.MaiTaiProtocol(watchdog_s=self.watchdog)


class ScpiSignal(BaseModel):
    """One signal of a generic SCPI instrument."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    query: str
    """What asks for it, ``MEAS:VOLT:DC?`` for one."""
    write: Annotated[str, AfterValidator(_takes_a_value)] | None = None
    """What sets it, with ``{}`` for the value; None for signals that can only be read."""
    datatype: Literal["float", "int", "bool", "str"] = "float"
    """Type of the value."""
    kind: Literal["hinted", "normal", "config", "omitted"] = "normal"
    """Whether it is measured for each event, is a setting, or neither."""
    units: str | None = None
    """Units of the value."""
    precision: int | None = None
    """Digits after the decimal point worth showing."""
    limits: Limits | None = None
    """Lowest and highest value that may be set."""
    repeatable: bool = True
    """Whether it may be asked for again when its reply was lost; not for what triggers something."""

    def field(self, name: str, protocol: scpi.ScpiProtocol) -> Any:
        """Return the field of this signal."""
        types: dict[str, Any] = {"float": float, "int": int, "bool": bool, "str": str}
        return protocol.number_field(
            name,
            types[self.datatype],
            self.query,
            write=self.write,
            units=self.units,
            precision=self.precision,
            limits=self.limits,
            repeatable=self.repeatable,
        )


class ScpiWaveform(BaseModel):
    """One waveform of a generic SCPI instrument: a query whose reply is an array."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    query: str
    """What asks for it, ``CURV?`` or ``TRAC:DATA?`` for one."""
    points: int = Field(gt=0)
    """How many samples the reply has."""
    encoding: scpi_blocks.Encoding = "float32"
    """``ascii`` for decimals with commas between them, else the type of the samples in a binary block."""
    byte_order: scpi_blocks.ByteOrder = "big"
    """Of the samples in a binary block: ``big`` is FORM:BORD NORM, ``little`` is SWAP."""
    scale: float = 1.0
    """What to multiply a sample by to have it in the column's units."""
    offset: float = 0.0
    """What to add then."""
    kind: Literal["hinted", "normal", "omitted"] = "normal"
    """Whether it is measured for each event; hinted ones are plotted."""
    units: str | None = None
    """Units of the values."""
    precision: int | None = None
    """Digits after the decimal point worth showing."""
    repeatable: bool = True
    """Whether it may be asked for again when its reply was lost; not for what triggers something."""

    def field(self, name: str, protocol: scpi.ScpiProtocol) -> Any:
        """Return the field of this waveform."""
        waveform = scpi_blocks.Waveform(
            points=self.points,
            encoding=self.encoding,
            byte_order=self.byte_order,
            scale=self.scale,
            offset=self.offset,
        )
        return protocol.waveform_field(
            name, self.query, waveform, units=self.units, precision=self.precision, repeatable=self.repeatable
        )


class ScpiOptions(LineOptions):
    """Options every SCPI instrument has; those of the line are for instruments on a serial one."""

    expected_identity: str = ""
    """A part of what ``*IDN?`` has to answer; empty takes any instrument that answers as IEEE 488.2 has it."""
    setup: tuple[str, ...] = ()
    """Commands to send when connecting and after each reconnect."""
    reply_timeout: float = Field(default=2.0, gt=0)
    """How long a reply may take in s."""
    baud_rate: int = Field(default=9600, gt=0)
    """Symbols per second."""
    data_bits: Literal[5, 6, 7, 8] = 8
    """Bits of a character."""
    stop_bits: float = Field(default=1, ge=1, le=2)
    """Bits after a character: 1, 1.5 or 2."""
    parity: Literal["none", "even", "odd", "mark", "space"] = "none"
    """Parity of a character."""
    flow_control: FlowControl = "none"
    """Who may hold the line back."""
    terminator: Literal["\n", "\r", "\r\n"] = "\n"
    """What ends commands and replies."""

    def line_settings(self) -> dict[str, Any]:
        """Return the line settings for :class:`coexistence.SharedSerialPort`."""
        names = ("baud_rate", "data_bits", "stop_bits", "parity", "flow_control")
        return {**{name: getattr(self, name) for name in names}, "terminator": self.terminator.encode()}

    def _for_protocol(self) -> dict[str, Any]:
        return {
            "expected_identity": self.expected_identity,
            "setup": self.setup,
            "reply_timeout_s": self.reply_timeout,
            "terminator": self.terminator.encode(),
        }


class ScpiInstrumentOptions(ScpiOptions):
    """Options of a generic SCPI instrument."""

    signals: dict[SignalName, ScpiSignal] = {}
    """Its signals by name."""
    waveforms: dict[SignalName, ScpiWaveform] = {}
    """Its waveforms by name; each is a column of arrays."""

    @model_validator(mode="after")
    def _has_each_name_once(self) -> Self:
        if twice := sorted({"identity", *self.signals} & set(self.waveforms)):
            raise ValueError(f"waveform {twice[0]!r} has the name of a signal, call it differently")
        return self

    @property
    def parts(self) -> dict[str, ScpiSignal | ScpiWaveform]:
        """Signals and waveforms by name."""
        return {**self.signals, **self.waveforms}

    def protocol(self) -> scpi.ScpiProtocol:
        """Return what to say to this instrument."""
        protocol = scpi.ScpiProtocol(**self._for_protocol())
        protocol.declare(*(part.field(name, protocol) for name, part in self.parts.items()))
        return protocol


class ScpiMeterOptions(ScpiOptions):
    """Options of a SCPI multimeter."""

    function: scpi.MeterFunction = "VOLT"
    """What it measures, and with it the units of the reading."""
    reply_timeout: float = Field(default=10.0, gt=0)
    """How long a reading may take in s, at 100 power line cycles 4 s for one."""

    def protocol(self) -> scpi.ScpiMeterProtocol:
        """Return what to say to this meter."""
        return scpi.ScpiMeterProtocol(self.function, **self._for_protocol())


class PVCAMInstrumentOptions(InstrumentOptions):
    """Options of a PVCAM camera."""

    exposure: int | None = Field(default=None, ge=0)
    """Exposure in ms to set when connecting; None leaves it, 10 ms for a camera nobody has set."""
    region: tuple[int, int, int, int, int, int] | None = None
    """s1, s2, sbin, p1, p2, pbin to set when connecting, ends inclusive; None leaves it, the whole sensor at first."""
    trigger_mode: pvcam.TriggerMode | None = None
    """INTERNAL or EDGE, to set when connecting; None leaves it, INTERNAL at first."""
    frame_timeout: float = Field(default=10.0, gt=0)
    """How long a frame may take beyond exposure and readout in s: for the camera, or for the edge that triggers it."""
    buffer_frames: int = Field(default=16, ge=2)
    """Frames in the camera's circular buffer."""
    output_dir: Path | None = None
    """Folder above those of the sessions; None takes the bench's own."""
    session: str | None = Field(default=None, pattern=r"^[\w][\w .+-]*$")
    """Name of the session's folder, for this session alone; None takes the time at which the session began."""

    @field_validator("region")
    @classmethod
    def _is_a_region(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return value if value is None else pvcam.Region.parse(value).astuple()

    def settings(self) -> dict[str, Any]:
        """Return what to set when connecting, by name."""
        wanted = {"exposure": self.exposure, "region": self.region, "trigger_mode": self.trigger_mode}
        return {name: value for name, value in wanted.items() if value is not None}
